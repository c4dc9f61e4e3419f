//! Keeps releases as HelmCharts say.
//!
//! A HelmChart is looked at when it, its HelmChartConfig or a Secret with its values changes. Whether there is anything
//! to do is decided by the hash of all inputs, which the release's record has as a label: a restart does nothing, and
//! fetches nothing.

use crate::chart::Chart;
use crate::inputs::{self, Inputs, Policy};
use crate::install::Wanted;
use crate::release::Release;
use crate::status::{Outcome, status};
use crate::types::{HelmChart, HelmChartConfig};
use crate::{Config, Error, fetch};
use api::Object;
use api::core::Secret;
use base::Backoff;
use client::{Cache, Caches, Change, Client, Next, Patch, Queue, Recorder};
use serde_json::json;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// k3s' name, so that a HelmChart of either is let go of by the other.
const FINALIZER: &str = "wrangler.cattle.io/on-helm-chart-remove";
/// A HelmChart with this annotation is left alone.
const UNMANAGED: &str = "helmcharts.helm.cattle.io/unmanaged";
/// How soon what failed is tried again, and how late at the most.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// Namespace and name of a HelmChart.
pub(crate) type Key = (String, String);

#[derive(Clone)]
pub(crate) struct Controller(Arc<Inner>);

struct Inner {
    client: Client,
    caches: Caches,
    config: Config,
    recorder: Recorder,
    charts: Cache<HelmChart>,
    configs: Cache<HelmChartConfig>,
    queue: Queue<Key>,
    pauses: Mutex<HashMap<Key, Backoff>>,
    /// Whether Secrets are listened to, which is so once a HelmChart has values in one.
    hears_secrets: AtomicBool,
}

/// What is to be done for a HelmChart, by its release's records and the hash of what is wanted now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Nothing,
    /// Install, or upgrade what there is.
    Install,
    /// Take what failed away first.
    Reinstall,
    /// It failed, and whoever made it wants to look at it first.
    Abort,
}

pub(crate) fn plan(history: &[Release], hash: &str, policy: Policy) -> Step {
    let Some(last) = history.last() else { return Step::Install };
    match (last.info.status.as_str(), policy) {
        ("deployed", _) if last.hash == hash => Step::Nothing,
        ("failed", Policy::Abort) if last.hash == hash => Step::Abort,
        ("failed", Policy::Reinstall) => Step::Reinstall,
        // It was broken off in the middle of taking it away.
        ("uninstalling", _) => Step::Reinstall,
        _ => Step::Install,
    }
}

fn key<T: Object>(object: &T) -> Key {
    (object.namespace().to_owned(), object.name().to_owned())
}

/// What is written by the controller itself is no reason to look again.
fn is_news(change: &Change<HelmChart>) -> bool {
    let of = |chart: &Option<Arc<HelmChart>>| {
        let metadata = chart.as_ref().map(|chart| chart.metadata.clone())?;
        Some((metadata.generation, metadata.deletion_timestamp.is_some(), metadata.annotations, metadata.uid))
    };
    of(&change.old) != of(&change.new)
}

impl Controller {
    pub(crate) fn new(client: Client, caches: Caches, config: Config, recorder: Recorder) -> Self {
        let (charts, configs) = (caches.of(), caches.of());
        let controller = Self(Arc::new(Inner {
            client,
            caches,
            config,
            recorder,
            charts,
            configs,
            queue: Queue::new("helm charts"),
            pauses: Mutex::default(),
            hears_secrets: AtomicBool::new(false),
        }));
        let queue = controller.0.queue.clone();
        controller.0.charts.on_change(move |change| {
            if is_news(change) {
                queue.add(key(&**change.object()));
            }
        });
        let queue = controller.0.queue.clone();
        controller.0.configs.on_change(move |change| queue.add(key(&**change.object())));
        controller
    }

    pub(crate) fn queue(&self) -> &Queue<Key> {
        &self.0.queue
    }

    pub(crate) async fn synced(&self) {
        tokio::join!(self.0.charts.synced(), self.0.configs.synced());
    }

    pub(crate) async fn sync(self, of: Key) -> Result<Next, Error> {
        let Some(chart) = self.0.charts.get(&of.0, &of.1) else {
            self.pauses().remove(&of);
            return Ok(Next::Done);
        };
        if chart.annotations().contains_key(UNMANAGED) {
            return Ok(Next::Done);
        }
        let done = match chart.is_deleting() {
            true => self.remove(&chart).await,
            false => self.bring(&chart).await,
        };
        match done {
            Ok(()) => {
                self.pauses().remove(&of);
                Ok(Next::Done)
            }
            Err(error) => {
                let mut pauses = self.pauses();
                let pause =
                    pauses.entry(of).or_insert_with(|| Backoff::new(FIRST_PAUSE, LONGEST_PAUSE)).next_delay();
                tracing::warn!(chart = chart.name(), namespace = chart.namespace(), %error, ?pause, "a chart is not installed");
                Ok(Next::After(pause))
            }
        }
    }

    fn pauses(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Backoff>> {
        self.0.pauses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears of Secrets from when the first HelmChart has values in one.
    fn hear_secrets(&self, chart: &HelmChart, config: Option<&HelmChartConfig>) {
        let wants = !chart.spec.values_secrets.is_empty()
            || config.is_some_and(|one| !one.spec.values_secrets.is_empty());
        if !wants || self.0.hears_secrets.swap(true, Ordering::SeqCst) {
            return;
        }
        let (charts, configs, queue) = (self.0.charts.clone(), self.0.configs.clone(), self.0.queue.clone());
        self.0.caches.of::<Secret>().on_change(move |change| {
            let secret = change.object();
            let (charts, configs) = (charts.snapshot(), configs.snapshot());
            let names =
                |refers: &[crate::types::ValuesSecret]| refers.iter().any(|one| one.name == secret.name());
            for chart in charts.in_namespace(secret.namespace()) {
                let config = configs.get(chart.namespace(), chart.name());
                if names(&chart.spec.values_secrets)
                    || config.is_some_and(|config| names(&config.spec.values_secrets))
                {
                    queue.add(key(&**chart));
                }
            }
        });
    }

    async fn bring(&self, chart: &HelmChart) -> Result<(), Error> {
        self.hold(chart).await?;
        let config = self.0.configs.get(chart.namespace(), chart.name());
        self.hear_secrets(chart, config.as_deref());
        let brought = self.release(chart, config.as_deref()).await;
        let outcome = match &brought {
            Ok(outcome) => outcome.clone(),
            Err(error) => Outcome::Failed(error.to_string()),
        };
        self.tell(chart, &outcome).await?;
        brought.map(drop)
    }

    /// Sees to it that the release goes before the HelmChart does.
    async fn hold(&self, chart: &HelmChart) -> Result<(), Error> {
        let held = chart.metadata.finalizers.clone().unwrap_or_default();
        if held.iter().any(|finalizer| finalizer == FINALIZER) {
            return Ok(());
        }
        self.finalizers(chart, held.into_iter().chain([FINALIZER.to_owned()]).collect()).await
    }

    async fn finalizers(&self, chart: &HelmChart, wanted: Vec<String>) -> Result<(), Error> {
        let metadata = json!({"uid": chart.uid(), "resourceVersion": chart.metadata.resource_version, "finalizers": wanted});
        let patch = Patch::Merge(json!({"metadata": metadata}));
        let patched = self.0.client.patch::<HelmChart>(chart.namespace(), chart.name(), &patch).await;
        let patched = patched.map_err(Error::api("changing the HelmChart's finalizers"))?;
        self.0.charts.reached(patched.revision()).await;
        Ok(())
    }

    fn wanted<'w>(&'w self, chart: &'w HelmChart, timeout: Duration) -> Wanted<'w> {
        let target = &chart.spec.target_namespace;
        Wanted {
            client: &self.0.client,
            name: chart.name(),
            namespace: if target.is_empty() { chart.namespace() } else { target },
            creates_namespace: chart.spec.create_namespace,
            takes_ownership: chart.spec.take_ownership,
            timeout,
        }
    }

    async fn release(&self, chart: &HelmChart, config: Option<&HelmChartConfig>) -> Result<Outcome, Error> {
        let inputs = inputs::gather(&self.0.client, chart, config).await?;
        let wanted = self.wanted(chart, inputs.timeout);
        let history = wanted.records().history(chart.name()).await?;
        let step = plan(&history, &inputs.hash, inputs.policy);
        match (step, history.last()) {
            (Step::Nothing, Some(last)) => return Ok(Outcome::of(last)),
            (Step::Abort, Some(last)) => return Ok(Outcome::Aborted(last.info.description.clone())),
            (Step::Reinstall, _) => {
                // What cannot be fetched or read is no reason to take anything away.
                let ready = self.fetch(chart).await?;
                wanted.uninstall(true).await?;
                return self.install(chart, &wanted, (ready, inputs)).await;
            }
            _ => {}
        }
        let ready = self.fetch(chart).await?;
        self.install(chart, &wanted, (ready, inputs)).await
    }

    async fn fetch(&self, chart: &HelmChart) -> Result<Chart, Error> {
        let web = inputs::web(&self.0.client, chart).await?;
        let archive = fetch::fetch(&chart.spec, &web, &self.0.config.files).await?;
        Ok(Chart::unpack(&archive)?)
    }

    async fn install(
        &self,
        chart: &HelmChart,
        wanted: &Wanted<'_>,
        (ready, Inputs { values, hash, .. }): (Chart, Inputs),
    ) -> Result<Outcome, Error> {
        let release = wanted.install(ready, values, &hash).await?;
        let (reason, what) =
            if release.version == 1 { ("Installed", "installed") } else { ("Upgraded", "upgraded") };
        let outcome = Outcome::of(&release);
        self.0.recorder.normal(
            chart,
            reason,
            format!("Release {:?} {what}: {}", chart.name(), outcome.shown()),
        );
        Ok(outcome)
    }

    /// Writes what came of it, if that is news.
    async fn tell(&self, chart: &HelmChart, outcome: &Outcome) -> Result<(), Error> {
        let status = status(chart, outcome);
        if status == chart.status {
            return Ok(());
        }
        if let Outcome::Failed(why) | Outcome::Aborted(why) = outcome {
            self.0.recorder.warning(chart, "Failed", why.clone());
        }
        let patch = Patch::Merge(json!({"metadata": {"uid": chart.uid()}, "status": status}));
        let patched = self.0.client.patch_status::<HelmChart>(chart.namespace(), chart.name(), &patch).await;
        match patched {
            // It is gone, and nobody reads of it any more.
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            other => {
                let patched = other.map_err(Error::api("writing the HelmChart's status"))?;
                self.0.charts.reached(patched.revision()).await;
                Ok(())
            }
        }
    }

    async fn remove(&self, chart: &HelmChart) -> Result<(), Error> {
        let held = chart.metadata.finalizers.clone().unwrap_or_default();
        if !held.iter().any(|finalizer| finalizer == FINALIZER) {
            return Ok(());
        }
        let limit = crate::functions::go_duration(&chart.spec.timeout);
        let limit =
            limit.and_then(|limit| Duration::try_from(limit).ok()).unwrap_or(Duration::from_secs(300));
        let removed = self.wanted(chart, limit).uninstall(false).await;
        if let Err(error) = &removed {
            self.tell(chart, &Outcome::Failed(format!("the release is not removed: {error}"))).await?;
        }
        removed?;
        self.finalizers(chart, held.into_iter().filter(|finalizer| finalizer != FINALIZER).collect()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::Info;

    fn release(status: &str, hash: &str) -> Release {
        let info = Info { status: status.to_owned(), ..Info::default() };
        Release { info, hash: hash.to_owned(), version: 1, ..Release::default() }
    }

    #[test]
    fn what_is_done_follows_from_the_last_record() {
        let cases = [
            (vec![], Policy::Reinstall, Step::Install),
            (vec![("deployed", "a")], Policy::Reinstall, Step::Nothing),
            (vec![("deployed", "b")], Policy::Reinstall, Step::Install),
            (vec![("failed", "a")], Policy::Reinstall, Step::Reinstall),
            (vec![("failed", "a")], Policy::Abort, Step::Abort),
            (vec![("failed", "b")], Policy::Abort, Step::Install),
            (vec![("deployed", "a"), ("failed", "b")], Policy::Retry, Step::Install),
            (vec![("pending-upgrade", "a")], Policy::Reinstall, Step::Install),
            (vec![("uninstalling", "a")], Policy::Abort, Step::Reinstall),
        ];
        for (history, policy, wanted) in cases {
            let records: Vec<Release> = history.iter().map(|(status, hash)| release(status, hash)).collect();
            assert_eq!(plan(&records, "a", policy), wanted, "{history:?} {policy:?}");
        }
    }
}
