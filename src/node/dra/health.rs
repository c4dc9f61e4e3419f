//! How claimed devices are (KEP-4680), as their drivers tell it for as long as they do. Start reading at [`follow`].

use super::call::Driver;
use super::claims::{self, Claims, Device};
use super::{Dra, lock};
use crate::pods::{Pods, spec};
use crate::protocols::v1alpha1 as protocol;
use crate::{Context, Error};
use api::Object;
use api::core::{Pod, PodStatus, ResourceClaim as Asked, ResourceHealth, ResourceStatus};
use base::clock::{self, Instant};
use base::{Phase, Shutdown};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tonic::Code;

/// How long a word counts whose driver does not say for how long.
const LIFE: Duration = Duration::from_secs(30);
/// Between attempts to follow a driver.
const RETRY: Duration = Duration::from_secs(5);
/// What a message may have, as the API has it; a longer one ends with dots.
const MESSAGE_CHARS: usize = 1024;
const UNKNOWN: &str = "Unknown";

/// What was last said of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Word {
    health: &'static str,
    message: String,
    life: Duration,
    until: Instant,
}

/// A device of a driver: its pool and its name.
type Name = (String, String);

/// What drivers have said of their devices.
#[derive(Debug, Default)]
pub(super) struct Health(BTreeMap<String, BTreeMap<Name, Word>>);

impl Word {
    fn of(told: protocol::DeviceHealth, now: Instant) -> Self {
        let health = match told.health() {
            protocol::HealthStatus::Healthy => "Healthy",
            protocol::HealthStatus::Unhealthy => "Unhealthy",
            protocol::HealthStatus::Unknown => UNKNOWN,
        };
        let life_s = u64::try_from(told.health_check_timeout_seconds).ok().filter(|life_s| *life_s > 0);
        // What nobody lives to see need not be told apart from it.
        let life = life_s.map_or(LIFE, |life_s| Duration::from_secs(life_s.min(u32::MAX.into())));
        Self { health, message: shortened(told.message), life, until: now + life }
    }

    fn says_the_same(&self, other: &Self) -> bool {
        (self.health, &self.message, self.life) == (other.health, &other.message, other.life)
    }
}

fn shortened(message: String) -> String {
    if message.chars().count() <= MESSAGE_CHARS {
        return message;
    }
    message.chars().take(MESSAGE_CHARS - 3).chain("...".chars()).collect()
}

impl Health {
    /// Takes over what a driver says; gives the devices of which it says something new.
    fn told(&mut self, driver: &str, all: Vec<protocol::DeviceHealth>, now: Instant) -> BTreeSet<Name> {
        let known = self.0.entry(driver.to_owned()).or_default();
        let mut new = BTreeSet::new();
        for mut told in all {
            let name = told.device.take().map(|device| (device.pool_name, device.device_name));
            let (name, word) = (name.unwrap_or_default(), Word::of(told, now));
            if known.get(&name).is_none_or(|before| !before.says_the_same(&word)) {
                new.insert(name.clone());
            }
            known.insert(name, word);
        }
        new
    }

    /// Forgets words that count no more; gives their devices.
    fn expire(&mut self, driver: &str, now: Instant) -> BTreeSet<Name> {
        let known = self.0.entry(driver.to_owned()).or_default();
        known.extract_if(.., |_, word| word.until <= now).map(|(name, _)| name).collect()
    }

    /// When the next word of a driver counts no more.
    fn next_expiry(&self, driver: &str) -> Option<Instant> {
        self.0.get(driver)?.values().map(|word| word.until).min()
    }

    /// Forgets a driver; gives its devices.
    fn forget(&mut self, driver: &str) -> BTreeSet<Name> {
        self.0.remove(driver).unwrap_or_default().into_keys().collect()
    }

    fn of(&self, driver: &str, device: &Device, now: Instant) -> ResourceHealth {
        let words = self.0.get(driver);
        let word = words.and_then(|words| words.get(&(device.pool.clone(), device.name.clone())));
        let word = word.filter(|word| word.until > now);
        let named = || format!("{driver}/{}/{}", device.pool, device.name);
        ResourceHealth {
            resource_id: device.cdi.first().cloned().unwrap_or_else(named),
            health: Some(word.map_or(UNKNOWN, |word| word.health).to_owned()),
            message: word.map(|word| word.message.clone()).filter(|message| !message.is_empty()),
        }
    }
}

/// How the devices are that a container has of one of its claims.
fn of_claim(claims: &Claims, health: &Health, pod: &Pod, asked: &Asked) -> Option<ResourceStatus> {
    let mut of_pod = spec::spec(pod).resource_claims.iter().flatten();
    let claim = of_pod.find(|claim| claim.name == asked.name)?;
    let (name, _) = claims::claim_name(pod, claim).ok()??;
    let claim = claims.0.get(&(pod.namespace().to_owned(), name))?;
    let request = asked.request.as_deref().unwrap_or_default();
    let base = request.split('/').next().unwrap_or_default();
    let (now, mut seen) = (clock::instant(), BTreeSet::new());
    let own = claim.devices.iter().flat_map(|(driver, all)| all.iter().map(move |device| (driver, device)));
    let own = own.filter(|(_, device)| device.is_for(base));
    let all = own.map(|(driver, device)| health.of(driver, device, now));
    let all: Vec<ResourceHealth> = all.filter(|one| seen.insert(one.resource_id.clone())).collect();
    let name = if request.is_empty() {
        format!("claim:{}", asked.name)
    } else {
        format!("claim:{}/{request}", asked.name)
    };
    (!all.is_empty()).then_some(ResourceStatus { name, resources: Some(all) })
}

/// Says in a pod's status how the devices are that its containers claim.
pub(crate) fn add_health(context: &Context, pod: &Pod, status: &mut PodStatus) {
    let (claims, health) = (lock(&context.dra.claims), lock(&context.dra.health));
    for told in status.container_statuses.iter_mut().flatten() {
        let containers = &spec::spec(pod).containers;
        let container = containers.iter().find(|container| container.name == told.name);
        let asked = container.and_then(|container| container.resources.as_ref()?.claims.as_ref());
        let all = asked.into_iter().flatten().filter_map(|asked| of_claim(&claims, &health, pod, asked));
        let all: Vec<ResourceStatus> = all.collect();
        if !all.is_empty() {
            told.allocated_resources_status.get_or_insert_default().extend(all);
        }
    }
}

/// Has those pods told that have one of a driver's devices.
fn tell(context: &Context, driver: &str, devices: &BTreeSet<Name>) {
    let has = |device: &Device| devices.contains(&(device.pool.clone(), device.name.clone()));
    let claims = lock(&context.dra.claims);
    let using =
        claims.0.values().filter(|claim| claim.devices.get(driver).is_some_and(|all| all.iter().any(has)));
    let pods: BTreeSet<String> = using.flat_map(|claim| claim.pods.iter().cloned()).collect();
    drop(claims);
    if !pods.is_empty() {
        context.dra.touched.send_modify(|touched| touched.extend(pods));
    }
}

/// Forgets what a driver has said, and gives its devices, unless a newer one of its name speaks for them.
fn forget(dra: &Dra, driver: &Arc<Driver>) -> BTreeSet<Name> {
    // Until that is done a newer one is not heard.
    let mut health = lock(&dra.health);
    let is_newest = dra.driver(&driver.name).map_or(true, |newest| Arc::ptr_eq(&newest, driver));
    if is_newest { health.forget(&driver.name) } else { BTreeSet::new() }
}

/// Follows what a driver says of its devices for as long as it is registered, unless it says nothing of them.
pub(super) fn follow(context: &Arc<Context>, driver: &Arc<Driver>) {
    let (of, driver) = (context.clone(), driver.clone());
    context.supervisor.detached("health of claimed devices", Phase::Work, async move {
        while !driver.has_ended() {
            let ended = tokio::select! {
                ended = listen(&of, &driver) => ended,
                () = driver.gone() => Ok(()),
            };
            tell(&of, &driver.name, &forget(&of.dra, &driver));
            match ended {
                Err(status) if status.code() == Code::Unimplemented => return,
                Err(error) => {
                    tracing::debug!(driver = driver.name, %error, "does not tell how its devices are");
                }
                Ok(()) => {}
            }
            tokio::select! {
                () = clock::sleep(RETRY) => {}
                () = driver.gone() => {}
            }
        }
    });
}

async fn listen(context: &Context, driver: &Driver) -> Result<(), tonic::Status> {
    let mut told = driver.watch().await?;
    loop {
        let expiry = lock(&context.dra.health).next_expiry(&driver.name);
        let changed = tokio::select! {
            list = told.message() => match list? {
                Some(list) => lock(&context.dra.health).told(&driver.name, list.devices, clock::instant()),
                None => return Ok(()),
            },
            () = clock::until(expiry) => lock(&context.dra.health).expire(&driver.name, clock::instant()),
        };
        tell(context, &driver.name, &changed);
    }
}

/// Has pods with claimed devices say how those are, whenever that changes.
pub(crate) async fn run_health(context: Arc<Context>, pods: Pods, shutdown: Shutdown) -> Result<(), Error> {
    let mut changes = context.dra.touched.subscribe();
    loop {
        tokio::select! {
            _ = changes.changed() => {}
            () = shutdown.requested() => return Ok(()),
        }
        let mut touched = BTreeSet::new();
        context.dra.touched.send_if_modified(|all| {
            touched = std::mem::take(all);
            false
        });
        pods.wake(&touched.into_iter().collect());
    }
}

#[cfg(test)]
mod tests {
    use super::super::claims::Claim;
    use super::super::tests::{add, plugin};
    use super::*;
    use protocol::{DeviceHealth, DeviceIdentifier, HealthStatus};
    use serde_json::{Value, json};

    fn told(name: &str, health: HealthStatus, message: &str, life_s: i64) -> DeviceHealth {
        let device = DeviceIdentifier { pool_name: "pool".to_owned(), device_name: name.to_owned() };
        DeviceHealth {
            device: Some(device),
            health: health.into(),
            last_updated_time: 0,
            health_check_timeout_seconds: life_s,
            message: message.to_owned(),
        }
    }

    fn device(name: &str, cdi: &[&str]) -> Device {
        let cdi = cdi.iter().map(|id| (*id).to_owned()).collect();
        Device {
            pool: "pool".to_owned(),
            name: name.to_owned(),
            requests: vec!["r".to_owned()],
            cdi,
            share: None,
        }
    }

    #[test]
    fn a_word_counts_for_a_while() {
        let (mut health, now) = (Health::default(), clock::instant());
        let names =
            |all: BTreeSet<Name>| -> Vec<String> { all.into_iter().map(|(_, device)| device).collect() };
        let all =
            vec![told("a", HealthStatus::Healthy, "", -1), told("b", HealthStatus::Unhealthy, "hot", 90)];
        assert_eq!(names(health.told("d", all.clone(), now)), ["a", "b"]);
        assert_eq!(names(health.told("d", all, now)), [""; 0]);
        let of = |health: &Health, name: &str, at| {
            let found = health.of("d", &device(name, &[]), at);
            (found.resource_id, found.health.unwrap(), found.message)
        };
        let hot = ("d/pool/b".to_owned(), "Unhealthy".to_owned(), Some("hot".to_owned()));
        assert_eq!(of(&health, "b", now), hot);
        let later = now + LIFE;
        assert_eq!(health.next_expiry("d"), Some(later));
        assert_eq!(of(&health, "a", later), ("d/pool/a".to_owned(), UNKNOWN.to_owned(), None));
        assert_eq!(names(health.expire("d", later)), ["a"]);
        assert_eq!(names(health.forget("d")), ["b"]);
        assert_eq!(shortened("x".repeat(2000)).len(), MESSAGE_CHARS);
    }

    #[tokio::test]
    async fn an_old_driver_leaves_what_its_successor_said() {
        let dra = Dra::default();
        let [old, new] = ["/old", "/new"].map(|endpoint| add(&dra, &plugin(endpoint)));
        let all = vec![told("a", HealthStatus::Healthy, "", -1)];
        lock(&dra.health).told("d", all, clock::instant());
        assert_eq!(forget(&dra, &old), BTreeSet::new());
        assert!(!dra.remove(&plugin("/old")) && dra.remove(&plugin("/new")));
        assert_eq!(forget(&dra, &new), BTreeSet::from([("pool".to_owned(), "a".to_owned())]));
    }

    #[test]
    fn containers_tell_of_what_they_claim() {
        let devices = BTreeMap::from([("d".to_owned(), vec![device("a", &["v/c=a"]), device("b", &[])])]);
        let claim = Claim { uid: "u".to_owned(), devices, prepared: true, ..Claim::default() };
        let claims = Claims(BTreeMap::from([(("n".to_owned(), "c".to_owned()), claim)]));
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"},
            "spec": {"containers": [], "resourceClaims": [{"name": "gpu", "resourceClaimName": "c"}]}}))
        .unwrap();
        let mut health = Health::default();
        health.told("d", vec![told("a", HealthStatus::Healthy, "", 0)], clock::instant());
        let of = |asked: Value| {
            let asked = serde_json::from_value(asked).unwrap();
            of_claim(&claims, &health, &pod, &asked).map(|status| json!(status))
        };
        let resources = json!([{"resourceID": "v/c=a", "health": "Healthy"}, {"resourceID": "d/pool/b", "health": "Unknown"}]);
        assert_eq!(of(json!({"name": "gpu"})), Some(json!({"name": "claim:gpu", "resources": resources})));
        let part = json!({"name": "gpu", "request": "r/sub"});
        assert_eq!(of(part).unwrap()["name"], "claim:gpu/r/sub");
        assert_eq!(of(json!({"name": "gpu", "request": "other"})), None);
        assert_eq!(of(json!({"name": "none"})), None);
    }
}
