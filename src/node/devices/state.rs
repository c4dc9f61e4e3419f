//! Which devices there are and who has which. Pure.

use crate::protocols::v1beta1::ContainerAllocateResponse;
use base::clock::Instant;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long a resource is told of after its plugin has gone: as long as Kubernetes does.
const GRACE: Duration = Duration::from_secs(5 * 60);
/// The key of devices that are near no memory in particular.
const ANYWHERE: i64 = -1;

/// A device of a plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) is_healthy: bool,
    /// NUMA nodes that it is near.
    pub(super) nodes: Vec<i64>,
}

/// A resource with its devices.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Resource {
    pub(super) devices: BTreeMap<String, Device>,
    /// Since when there is no plugin for it.
    pub(super) gone: Option<Instant>,
}

/// Devices that a container was given, and what the plugin said of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Given {
    pub(super) pod: String,
    pub(super) container: String,
    pub(super) resource: String,
    pub(super) ids: BTreeSet<String>,
    pub(super) answer: ContainerAllocateResponse,
}

/// What a container may be given: those of containers before it that have ended by then, and those that are free.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) reused: BTreeSet<String>,
    pub(super) free: BTreeSet<String>,
}

/// Everything that is known.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct State {
    pub(super) resources: BTreeMap<String, Resource>,
    pub(super) given: Vec<Given>,
}

/// An entry of the checkpoint, in the fields of Kubernetes' `kubelet_internal_checkpoint`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    #[serde(rename = "PodUID")]
    pod_uid: String,
    container_name: String,
    resource_name: String,
    #[serde(rename = "DeviceIDs")]
    device_ids: BTreeMap<i64, Vec<String>>,
    alloc_resp: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Data {
    pod_device_entries: Option<Vec<Entry>>,
    registered_devices: Option<BTreeMap<String, Vec<String>>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct File {
    data: Data,
}

impl State {
    /// Takes over what a plugin says it has.
    pub(super) fn told(&mut self, resource: &str, devices: BTreeMap<String, Device>) {
        self.resources.insert(resource.to_owned(), Resource { devices, gone: None });
    }

    /// Without its plugin no device is healthy; the resource itself stays for a while.
    pub(super) fn lost(&mut self, resource: &str, now: Instant) {
        if let Some(known) = self.resources.get_mut(resource) {
            known.devices.values_mut().for_each(|device| device.is_healthy = false);
            known.gone = Some(now);
        }
    }

    /// Forgets resources that have been without a plugin for long.
    pub(super) fn expire(&mut self, now: Instant) {
        let stays = |it: &Resource| it.gone.is_none_or(|gone| now.saturating_duration_since(gone) < GRACE);
        self.resources.retain(|_, resource| stays(resource));
    }

    /// How many devices each resource has, and how many of them are healthy.
    pub(super) fn amounts(&self) -> BTreeMap<String, (usize, usize)> {
        let count = |resource: &Resource| {
            let healthy = resource.devices.values().filter(|device| device.is_healthy).count();
            (resource.devices.len(), healthy)
        };
        self.resources.iter().map(|(name, resource)| (name.clone(), count(resource))).collect()
    }

    /// What one container has of a resource.
    pub(super) fn held(&self, (pod, container): (&str, &str), resource: &str) -> Option<&Given> {
        let is_it = |given: &&Given| {
            (given.pod.as_str(), given.container.as_str(), given.resource.as_str())
                == (pod, container, resource)
        };
        self.given.iter().find(is_it)
    }

    /// From what a container may be given so many; why not otherwise. None where it has them already.
    pub(super) fn choose(
        &self,
        of: (&str, &str),
        (resource, needed): (&str, usize),
        reusable: &BTreeSet<String>,
    ) -> Result<Option<Choice>, String> {
        let had = self.held(of, resource).map(|given| &given.ids);
        if let Some(had) = had.filter(|had| had.len() != needed) {
            let (pod, container) = of;
            return Err(format!(
                "pod {pod:?} container {container:?} changed request for resource {resource:?} from {} to {needed}",
                had.len()
            ));
        }
        let Some(known) = self.resources.get(resource) else {
            return Err(format!("cannot allocate unregistered device {resource}"));
        };
        let healthy: BTreeSet<String> =
            known.devices.iter().filter(|(_, device)| device.is_healthy).map(|(id, _)| id.clone()).collect();
        if healthy.is_empty() {
            return Err(format!("no healthy devices present; cannot allocate unhealthy devices {resource}"));
        }
        if let Some(had) = had {
            return if had.is_subset(&healthy) {
                Ok(None)
            } else {
                Err(format!(
                    "previously allocated devices are no longer healthy; cannot allocate unhealthy devices {resource}"
                ))
            };
        }
        let reused: BTreeSet<String> = reusable.iter().take(needed).cloned().collect();
        let taken: BTreeSet<&String> = self
            .given
            .iter()
            .filter(|given| given.resource == resource)
            .flat_map(|given| &given.ids)
            .collect();
        let free: BTreeSet<String> = healthy.into_iter().filter(|id| !taken.contains(id)).collect();
        let more = needed - reused.len();
        if free.len() < more {
            return Err(format!(
                "requested number of devices unavailable for {resource}. Requested: {more}, Available: {}",
                free.len()
            ));
        }
        Ok(Some(Choice { reused, free }))
    }

    /// As it is kept over restarts.
    pub(super) fn encode(&self) -> String {
        let entry = |given: &Given| {
            let mut device_ids: BTreeMap<i64, Vec<String>> = BTreeMap::new();
            for id in &given.ids {
                let device = self.resources.get(&given.resource).and_then(|it| it.devices.get(id));
                let nodes = device.map(|device| device.nodes.clone()).filter(|nodes| !nodes.is_empty());
                for node in nodes.unwrap_or_else(|| vec![ANYWHERE]) {
                    device_ids.entry(node).or_default().push(id.clone());
                }
            }
            Entry {
                pod_uid: given.pod.clone(),
                container_name: given.container.clone(),
                resource_name: given.resource.clone(),
                device_ids,
                alloc_resp: STANDARD.encode(given.answer.encode_to_vec()),
            }
        };
        let healthy = |resource: &Resource| {
            let all = resource.devices.iter().filter(|(_, device)| device.is_healthy);
            all.map(|(id, _)| id.clone()).collect()
        };
        let data = Data {
            pod_device_entries: Some(self.given.iter().map(entry).collect()),
            registered_devices: Some(
                self.resources.iter().map(|(name, it)| (name.clone(), healthy(it))).collect(),
            ),
        };
        serde_json::to_string(&File { data }).unwrap_or_default()
    }

    /// What was kept; resources have no devices until their plugins are back.
    pub(super) fn decode(text: &str, now: Instant) -> Option<Self> {
        let file: File = serde_json::from_str(text).ok()?;
        let given = |entry: Entry| {
            let answer = STANDARD.decode(entry.alloc_resp).ok()?;
            Some(Given {
                pod: entry.pod_uid,
                container: entry.container_name,
                resource: entry.resource_name,
                ids: entry.device_ids.into_values().flatten().collect(),
                answer: ContainerAllocateResponse::decode(answer.as_slice()).ok()?,
            })
        };
        let given = file.data.pod_device_entries.into_iter().flatten().filter_map(given).collect();
        let names = file.data.registered_devices.unwrap_or_default().into_keys();
        let resource = |name| (name, Resource { devices: BTreeMap::new(), gone: Some(now) });
        Some(Self { resources: names.map(resource).collect(), given })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::clock;

    fn ids(all: &[&str]) -> BTreeSet<String> {
        all.iter().map(|id| (*id).to_owned()).collect()
    }

    fn state(healthy: &[&str], sick: &[&str]) -> State {
        let device = |id: &&str, is_healthy| ((*id).to_owned(), Device { is_healthy, nodes: Vec::new() });
        let all = healthy.iter().map(|id| device(id, true)).chain(sick.iter().map(|id| device(id, false)));
        let mut state = State::default();
        state.told("a.io/d", all.collect());
        state
    }

    fn give(state: &mut State, (pod, container): (&str, &str), all: &[&str]) {
        let (pod, container) = (pod.to_owned(), container.to_owned());
        let answer = ContainerAllocateResponse {
            envs: [("A".to_owned(), "1".to_owned())].into(),
            ..ContainerAllocateResponse::default()
        };
        state.given.push(Given { pod, container, resource: "a.io/d".to_owned(), ids: ids(all), answer });
    }

    #[test]
    fn what_is_taken_or_sick_is_not_given() {
        let mut state = state(&["1", "2", "3"], &["4"]);
        assert_eq!(state.amounts()["a.io/d"], (4, 3));
        give(&mut state, ("p", "c"), &["1"]);
        let choose = |of, needed| state.choose(of, ("a.io/d", needed), &BTreeSet::new());
        assert_eq!(choose(("q", "c"), 2).unwrap().unwrap().free, ids(&["2", "3"]));
        let why = choose(("q", "c"), 3).unwrap_err();
        assert_eq!(why, "requested number of devices unavailable for a.io/d. Requested: 3, Available: 2");
        assert_eq!(choose(("p", "c"), 1), Ok(None), "it has it already");
        assert!(choose(("p", "c"), 2).unwrap_err().contains("changed request"));
        let other = state.choose(("q", "c"), ("b.io/d", 1), &BTreeSet::new());
        assert_eq!(other.unwrap_err(), "cannot allocate unregistered device b.io/d");
    }

    #[test]
    fn devices_of_what_has_ended_are_used_again() {
        let mut state = state(&["1", "2"], &[]);
        give(&mut state, ("p", "init"), &["1"]);
        let choice = state.choose(("p", "c"), ("a.io/d", 2), &ids(&["1"])).unwrap().unwrap();
        assert_eq!(choice, Choice { reused: ids(&["1"]), free: ids(&["2"]) });
    }

    #[test]
    fn a_plugin_that_is_gone_leaves_its_resource_for_a_while() {
        let (mut state, now) = (state(&["1"], &[]), clock::instant());
        state.lost("a.io/d", now);
        assert_eq!(state.amounts()["a.io/d"], (1, 0));
        let why = state.choose(("p", "c"), ("a.io/d", 1), &BTreeSet::new()).unwrap_err();
        assert_eq!(why, "no healthy devices present; cannot allocate unhealthy devices a.io/d");
        state.expire(now + GRACE - Duration::from_secs(1));
        assert_eq!(state.amounts().len(), 1);
        state.expire(now + GRACE);
        assert_eq!(state.amounts().len(), 0);
    }

    #[test]
    fn what_was_given_outlives_a_restart() {
        let (mut state, now) = (state(&["1", "2"], &[]), clock::instant());
        give(&mut state, ("p", "c"), &["2"]);
        let text = state.encode();
        assert!(text.contains("\"DeviceIDs\":{\"-1\":[\"2\"]}"), "{text}");
        let back = State::decode(&text, now).unwrap();
        assert_eq!(back.given, state.given);
        assert_eq!(back.amounts()["a.io/d"], (0, 0));
        assert_eq!(State::decode("{", now), None);
    }
}
