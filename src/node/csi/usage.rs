//! What volumes hold, as their drivers say it (GET_VOLUME_STATS), and whether they are well (VOLUME_CONDITION).

use super::call::call;
use super::lock;
use crate::pods::{Pods, spec};
use crate::protocols::csi::v1::{self as csi, node_service_capability::rpc::Type, volume_usage::Unit};
use crate::stats::Space;
use crate::turns::Key;
use crate::{Context, Error};
use api::Object;
use api::core::Pod;
use base::clock::{self, Instant};
use base::{Phase, Shutdown};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long who asks for numbers waits for drivers; an answer that comes later counts the next time.
const PATIENCE: Duration = Duration::from_secs(5);
/// The gate of what drivers say of a volume's condition.
const HEALTH: &str = "CSIVolumeHealth";

/// What a driver published, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Published {
    pub(crate) key: Key,
    pub(crate) path: PathBuf,
}

/// What a driver says of a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) space: Space,
    /// Whether it is abnormal; none where the driver does not say.
    pub(crate) abnormal: Option<bool>,
    message: String,
}

/// A volume of a pod, by the pod's uid and its own name.
type Name = (String, String);

#[derive(Default)]
struct Known {
    asked: Option<Instant>,
    told: Option<Told>,
}

/// What drivers said lately.
#[derive(Default)]
pub(crate) struct Usages(Mutex<HashMap<Name, Known>>);

impl Usages {
    /// Notes that a volume is asked about, unless it was within this time.
    fn begin(&self, name: &Name, period: Duration) -> bool {
        let mut all = lock(&self.0);
        let known = all.entry(name.clone()).or_default();
        let is_due = known.asked.is_none_or(|asked| asked.elapsed() >= period);
        if is_due {
            known.asked = Some(clock::instant());
        }
        is_due
    }

    fn note(&self, name: &Name, told: Option<Told>) {
        if let Some(known) = lock(&self.0).get_mut(name) {
            known.told = told;
        }
    }

    /// What was last said of a pod's volume.
    pub(crate) fn told(&self, uid: &str, volume: &str) -> Option<Told> {
        lock(&self.0).get(&(uid.to_owned(), volume.to_owned()))?.told.clone()
    }

    /// Forgets a pod that is gone.
    pub(crate) fn forget(&self, uid: &str) {
        lock(&self.0).retain(|(pod, _), _| pod != uid);
    }
}

fn is_health_told(context: &Context) -> bool {
    context.config.kubelet().feature_gates.get(HEALTH) == Some(&true)
}

/// What an answer means. It has to speak of usage, unless the driver tells of the condition.
fn told(answer: csi::NodeGetVolumeStatsResponse, with_condition: bool) -> Result<Told, Error> {
    if answer.usage.is_empty() && !with_condition {
        return Err(Error::Volume("failed to get usage from response. usage is nil".to_owned()));
    }
    let mut told = Told::default();
    let number = |number: i64| u64::try_from(number).unwrap_or(0);
    for usage in answer.usage {
        let (total, free, used) = (number(usage.total), number(usage.available), number(usage.used));
        match usage.unit() {
            Unit::Bytes => (told.space.capacity, told.space.available, told.space.used) = (total, free, used),
            Unit::Inodes => {
                (told.space.inodes, told.space.inodes_free, told.space.inodes_used) = (total, free, used);
            }
            Unit::Unknown => {}
        }
    }
    if with_condition {
        let condition = answer.volume_condition.unwrap_or_default();
        (told.abnormal, told.message) = (Some(condition.abnormal), condition.message);
    }
    Ok(told)
}

/// Asks a driver about a volume; none where it does not answer such questions.
async fn ask(context: &Context, of: &Published) -> Result<Option<Told>, Error> {
    let driver = context.csi.driver(&of.key.0)?;
    let capabilities = driver.capabilities().await?;
    if !capabilities.has(Type::GetVolumeStats) {
        return Ok(None);
    }
    let request = csi::NodeGetVolumeStatsRequest {
        volume_id: of.key.1.clone(),
        volume_path: of.path.display().to_string(),
        staging_target_path: String::new(),
    };
    let answer = call(driver.client().node_get_volume_stats(request)).await?;
    told(answer, is_health_told(context) && capabilities.has(Type::VolumeCondition)).map(Some)
}

/// Asks the drivers of these pods' volumes what they hold, where that was not asked lately, and waits a little.
pub(crate) async fn ask_drivers(context: &Arc<Context>, pods: &[Arc<Pod>]) {
    let period = context.config.kubelet().volume_stats_agg_period.get();
    let (sender, mut done) = tokio::sync::mpsc::channel::<()>(1);
    for pod in pods {
        for (volume, published) in context.stats.published(pod.uid()) {
            let name = (pod.uid().to_owned(), volume);
            if !context.csi.usages.begin(&name, period) {
                continue;
            }
            let (of, pod, sender) = (context.clone(), pod.clone(), sender.clone());
            context.supervisor.detached("use of a volume", Phase::Work, async move {
                let told = ask(&of, &published).await.unwrap_or_else(|error| {
                    tracing::debug!(pod = spec::described(&pod), volume = name.1, %error, "its driver does not say what it holds");
                    None
                });
                if let Some(Told { abnormal: Some(true), message, .. }) = &told {
                    let message = format!("Volume {}: {message}", name.1);
                    of.recorder.warning(&*pod, "VolumeConditionAbnormal", message);
                }
                of.csi.usages.note(&name, told);
                drop(sender);
            });
        }
    }
    drop(sender);
    // It ends when nobody is left who could send.
    if tokio::time::timeout(PATIENCE, done.recv()).await.is_err() {
        tracing::debug!("some drivers take long to say what their volumes hold");
    }
}

/// Asks also while nobody wants numbers, where pods are to be told of volumes that are not well.
pub(crate) async fn run_volume_health(
    context: Arc<Context>,
    pods: Pods,
    shutdown: Shutdown,
) -> Result<(), Error> {
    if !is_health_told(&context) {
        shutdown.requested().await;
        return Ok(());
    }
    loop {
        tokio::select! {
            () = clock::sleep(context.config.kubelet().volume_stats_agg_period.get()) => {}
            () = shutdown.requested() => return Ok(()),
        }
        ask_drivers(&context, &pods.list()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_speak_of_usage_or_of_the_condition() {
        let usage = |unit: Unit, total, available, used| csi::VolumeUsage {
            unit: unit.into(),
            total,
            available,
            used,
        };
        let answer = csi::NodeGetVolumeStatsResponse {
            usage: vec![usage(Unit::Bytes, 100, 60, 40), usage(Unit::Inodes, 10, -1, 3)],
            volume_condition: Some(csi::VolumeCondition { abnormal: true, message: "lost".to_owned() }),
        };
        let known = told(answer.clone(), false).unwrap();
        assert_eq!((known.space.capacity, known.space.available, known.space.used), (100, 60, 40));
        assert_eq!((known.space.inodes, known.space.inodes_free, known.abnormal), (10, 0, None));
        assert_eq!(told(answer, true).unwrap().abnormal, Some(true));
        let silent = csi::NodeGetVolumeStatsResponse::default();
        let none = told(silent.clone(), false).unwrap_err().to_string();
        assert_eq!(none, "failed to get usage from response. usage is nil");
        assert_eq!(told(silent, true).unwrap().abnormal, Some(false));
    }

    #[test]
    fn a_volume_is_asked_about_once_in_a_while() {
        let (usages, name) = (Usages::default(), ("u".to_owned(), "v".to_owned()));
        let period = Duration::from_secs(60);
        assert!(usages.begin(&name, period) && !usages.begin(&name, period));
        usages.note(&name, Some(Told::default()));
        assert_eq!(usages.told("u", "v"), Some(Told::default()));
        usages.forget("u");
        // An answer that comes late is not kept.
        usages.note(&name, Some(Told::default()));
        assert_eq!(usages.told("u", "v"), None);
    }
}
