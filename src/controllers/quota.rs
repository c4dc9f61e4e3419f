//! Counts again what is used of ResourceQuotas.
//!
//! The API server charges every write as it is made. What is left to do here is what no write tells: a
//! quota that is new, one whose status is not its limits', what a crash cut off between an object and its
//! charge, and pods that stop to count because their time is over.

use crate::common::{Key, Room, unless_gone};
use crate::kinds::CustomKinds;
use api::core::ResourceQuota;
use api::demand::{self, Amounts};
use api::kinds::{KINDS, Kind};
use api::quota::{self, Around, Provided, Quota, ends_to_count};
use api::resource::{DeviceClass, ResourceClaim};
use api::slim::Pod;
use api::{Meta, Object, Whole};
use base::clock;
use client::{Cache, Client, Error, Next, Queue};
use http::Method;
use jiff::Timestamp;
use serde_json::Value;
use std::time::Duration;

/// After the moment at which a pod stops to count.
const MARGIN: Duration = Duration::from_secs(1);

#[derive(Clone)]
struct Quotas {
    client: Client,
    quotas: Cache<ResourceQuota>,
    classes: Cache<DeviceClass>,
    customs: CustomKinds,
}

pub(crate) fn start(room: &Room) {
    let customs = CustomKinds::new(room);
    let (client, classes) = (room.client.clone(), room.caches.of());
    let controller = Quotas { client, quotas: room.caches.of(), classes, customs };
    let queue = Queue::new("quota");
    let changed = queue.clone();
    controller.quotas.on_change(move |change| {
        let Some(quota) = &change.new else { return };
        if change.old.is_none() || is_stale(quota) {
            changed.add(Key::of(&**quota));
        }
    });
    let (provided, quotas) = (queue.clone(), controller.quotas.clone());
    controller.classes.on_change(move |_| {
        let quotas = quotas.snapshot();
        let concerned = quotas.iter().filter(|quota| limits_devices(quota));
        concerned.for_each(|quota| provided.add(Key::of(&**quota)));
    });
    let (ending, quotas) = (queue.clone(), controller.quotas.clone());
    room.caches.of::<Pod>().on_change(move |change| {
        let Some(pod) = change.new.as_ref().filter(|pod| pod.is_deleting()) else { return };
        // The grace begins where the deletion's time ends, and is asked of the whole pod when it is due.
        let deleted = pod.meta().deleted().map_or_else(clock::now, |time| time.0);
        for quota in quotas.snapshot().in_namespace(pod.namespace()) {
            ending.add_after(Key::of(&**quota), until(deleted));
        }
    });
    room.work("quota controller", &queue, 2, move |key| controller.clone().sync(key));
}

fn until(time: Timestamp) -> Duration {
    clock::between(clock::now(), time) + MARGIN
}

/// Whether it limits what devices can stand for.
fn limits_devices(quota: &ResourceQuota) -> bool {
    let hard = quota.spec.iter().flat_map(|spec| spec.hard.iter().flatten());
    hard.into_iter().any(|(name, _)| quota::extended(name).is_some())
}

/// Whether the status is that of other limits.
fn is_stale(quota: &ResourceQuota) -> bool {
    let wanted = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref());
    let status = quota.status.as_ref();
    let told = status.and_then(|status| status.hard.as_ref());
    let used = status.and_then(|status| status.used.as_ref());
    wanted != told || (wanted.is_some_and(|hard| !hard.is_empty()) && used.is_none())
}

impl Quotas {
    async fn sync(self, key: Key) -> Result<Next, Error> {
        let Some(object) = self.quotas.get(&key.namespace, &key.name) else { return Ok(Next::Done) };
        let object = object.to_value().map_err(|error| Error::Decode(error.to_string()))?;
        self.classes.synced().await;
        let classes = self.classes.snapshot();
        let provided =
            classes.iter().map(|class| (class.name().to_owned(), class.spec.extended_resource_name.clone()));
        let quota = Quota::of(&object, || Provided::of(provided));
        let (used, next) = self.count(&quota, &key.namespace).await?;
        let same = |field: &str, amounts: &Amounts| demand::amounts(&object["status"][field]) == *amounts;
        if !same("hard", &quota.hard) || !same("used", &used) {
            let mut object = object.clone();
            object["status"]["hard"] = demand::to_value(&quota.hard);
            object["status"]["used"] = demand::to_value(&used);
            let path = format!("{}/{}/status", client::path_of::<ResourceQuota>(&key.namespace), key.name);
            unless_gone(self.client.send(Method::PUT, &path, Some(&object)).await.map(drop))?;
        }
        Ok(next.map_or(Next::Done, |end| Next::After(until(end))))
    }

    /// What is used, and when that will change by itself.
    async fn count(&self, quota: &Quota, namespace: &str) -> Result<(Amounts, Option<Timestamp>), Error> {
        let customs = self.customs.all();
        let counted = || counted().chain(customs.iter().copied().filter(|kind| kind.namespaced));
        let mut used = quota.nothing_used(counted());
        let around = if quota.limits_devices() {
            let pods = self.client.read(&client::path_of::<Pod>(namespace)).await?;
            Listed { pods, claims: self.client.read(&client::path_of::<ResourceClaim>(namespace)).await? }
        } else {
            Listed::default()
        };
        let mut next = None;
        for kind in counted().filter(|kind| !quota.resources(kind).is_empty()) {
            let objects = self.list(kind, namespace).await?;
            let end = tally(&mut used, quota, (kind, &objects), clock::now(), &around);
            next = [next, end].into_iter().flatten().min();
        }
        Ok((used, next))
    }

    async fn list(&self, kind: &Kind, namespace: &str) -> Result<Vec<Value>, Error> {
        let list: Value = self.client.read(&kind.path(namespace)).await?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }
}

/// Adds what the objects of a kind use; gives when that will change by itself.
fn tally(
    used: &mut Amounts,
    quota: &Quota,
    (kind, objects): (&Kind, &[Value]),
    now: Timestamp,
    around: &dyn Around,
) -> Option<Timestamp> {
    let ends = objects.iter().filter_map(|object| {
        demand::add(used, &quota.used_by(kind, object, now, around));
        ends_to_count(object).filter(|end| kind.kind == "Pod" && *end >= now)
    });
    ends.min()
}

/// The pods and claims of devices of a namespace.
#[derive(Default)]
struct Listed {
    pods: Value,
    claims: Value,
}

impl Around for Listed {
    fn pod(&self, name: &str) -> Option<Value> {
        let mut pods = self.pods["items"].as_array()?.iter();
        pods.find(|pod| pod["metadata"]["name"] == name).cloned()
    }

    fn claims(&self) -> Vec<Value> {
        self.claims["items"].as_array().cloned().unwrap_or_default()
    }
}

/// The kinds whose objects can count, each once.
fn counted() -> impl Iterator<Item = &'static Kind> {
    KINDS.iter().filter(|kind| kind.namespaced && kind.stored() && kind.stored_as().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{golden, worlds};
    use api::kinds::by_kind;

    /// `hard JSON`, `scopes JSON` or `scopeSelector JSON` of a quota, and objects such as `v1 Pod JSON`.
    fn counted(input: &str) -> String {
        let (mut spec, mut used, mut next) = (serde_json::json!({}), None, None);
        for line in input.lines().filter(|line| !line.starts_with('#')) {
            let words: Vec<_> = line.splitn(3, ' ').collect();
            let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
            match words[..] {
                [field @ ("hard" | "scopes" | "scopeSelector"), ..] => {
                    spec[field] = json(line.split_once(' ').unwrap().1);
                }
                [version, kind, object] => {
                    let quota = Quota::of(&serde_json::json!({"spec": spec}), Provided::default);
                    let kind = by_kind(version, kind).unwrap();
                    let used = used.get_or_insert_with(|| quota.nothing_used(super::counted()));
                    let end = tally(used, &quota, (kind, &[json(object)]), worlds::at(0), &());
                    next = [next, end].into_iter().flatten().min();
                }
                _ => panic!("{line}"),
            }
        }
        let next = next.map_or(String::new(), |end| format!("until {end}\n"));
        format!("{}\n{next}", demand::to_value(&used.unwrap()))
    }

    #[test]
    fn quotas_count_as_told() {
        golden::check("quotas.txt", counted);
    }

    #[test]
    fn a_status_of_other_limits_is_stale() {
        let stale = |quota: Value| is_stale(&serde_json::from_value(quota).unwrap());
        let spec = serde_json::json!({"hard": {"pods": "1"}});
        let status = serde_json::json!({"hard": {"pods": "1"}, "used": {"pods": "0"}});
        assert!(stale(serde_json::json!({"spec": spec})));
        assert!(!stale(serde_json::json!({"spec": spec, "status": status})));
        assert!(stale(serde_json::json!({"spec": {"hard": {"pods": "2"}}, "status": status})));
    }
}
