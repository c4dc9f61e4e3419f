//! Since when endpoints should be what they are written to be
//! (`endpoints.kubernetes.io/last-change-trigger-time`), so that it can be measured how late they are.

use crate::common::{Key, created};
use crate::pods;
use api::Object;
use api::core::Service;
use api::slim::Pod;
use jiff::Timestamp;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

const ANNOTATION: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// What was known of a Service when it was looked at.
struct Seen {
    service: Timestamp,
    /// When pods turned ready or unready, by the hash of their names.
    pods: HashMap<u64, Timestamp>,
}

/// What triggered the last look at each Service.
#[derive(Clone, Default)]
pub(crate) struct TriggerTimes {
    seen: Arc<Mutex<HashMap<Key, Seen>>>,
    hasher: RandomState,
}

impl TriggerTimes {
    /// The earliest of the changes since the last look, none if there was none; of a new Service its creation.
    pub(crate) fn take(&self, service: &Service, pods: &[Arc<Pod>]) -> Option<Timestamp> {
        let turned = pods.iter().filter_map(|pod| {
            let ready = pods::condition(pod, "Ready")?;
            Some((self.hasher.hash_one(pod.name()), ready.last_transition_time.as_ref()?.0))
        });
        let now = Seen { service: created(service.meta()), pods: turned.collect() };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(before) = seen.get(&Key::of(service)) else {
            let created = now.service;
            seen.insert(Key::of(service), now);
            return Some(created);
        };
        let newer =
            |(name, time): &(&u64, &Timestamp)| before.pods.get(*name).is_none_or(|before| before < *time);
        let pods = now.pods.iter().filter(newer).map(|(_, time)| *time);
        let trigger = pods.chain((now.service > before.service).then_some(now.service)).min();
        seen.insert(Key::of(service), now);
        trigger
    }

    /// The Service is no more.
    pub(crate) fn forget(&self, key: &Key) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

/// Says in an object's annotations what triggered its change.
pub(crate) fn note(annotations: &mut Option<BTreeMap<String, String>>, trigger: Option<Timestamp>) {
    match trigger {
        Some(time) => {
            drop(annotations.get_or_insert_default().insert(ANNOTATION.to_owned(), time.to_string()))
        }
        None => drop(annotations.as_mut().and_then(|annotations| annotations.remove(ANNOTATION))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn service(created: i64) -> Service {
        let metadata =
            json!({"name": "web", "namespace": "ns", "creationTimestamp": at(created).to_string()});
        serde_json::from_value(json!({"metadata": metadata})).unwrap()
    }

    fn pod(name: &str, turned: i64) -> Arc<Pod> {
        let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": at(turned).to_string()});
        let pod = json!({"metadata": {"name": name, "namespace": "ns"}, "status": {"conditions": [ready]}});
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn the_earliest_change_since_the_last_look_triggered() {
        let times = TriggerTimes::default();
        let took = |created: i64, pods: &[(&str, i64)]| {
            let pods: Vec<_> = pods.iter().map(|(name, turned)| pod(name, *turned)).collect();
            times.take(&service(created), &pods).map(Timestamp::as_second)
        };
        assert_eq!(took(100, &[("a", 50)]), Some(100));
        assert_eq!(took(100, &[("a", 50)]), None);
        assert_eq!(took(100, &[("a", 120), ("b", 110)]), Some(110));
        assert_eq!(took(100, &[("b", 110)]), None);
        assert_eq!(took(130, &[("a", 120), ("b", 110)]), Some(120));
        times.forget(&Key::new("ns", "web"));
        assert_eq!(took(130, &[]), Some(130));
    }
}
