//! Which devices there are and who has which. Pure.

use crate::affinity::{Nodes, Pieces, Ways};
use crate::protocols::v1beta1::ContainerAllocateResponse;
use crate::{amount, checksum};
use api::core::Container;
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

impl Device {
    /// Its nodes, as far as there may be such.
    fn places(&self) -> Vec<u32> {
        self.nodes.iter().filter_map(|node| u32::try_from(*node).ok()).collect()
    }
}

impl Resource {
    pub(super) fn healthy(&self) -> BTreeSet<String> {
        self.devices.iter().filter(|(_, device)| device.is_healthy).map(|(id, _)| id.clone()).collect()
    }

    /// The healthy ones with their nodes.
    pub(super) fn placed(&self) -> BTreeMap<String, Vec<i64>> {
        let healthy = self.devices.iter().filter(|(_, device)| device.is_healthy);
        healthy.map(|(id, device)| (id.clone(), device.nodes.clone())).collect()
    }

    fn places(&self, id: &str) -> Vec<u32> {
        self.devices.get(id).map(Device::places).unwrap_or_default()
    }

    /// What may be given, by where it is.
    fn sorted(&self, reused: BTreeSet<String>, free: BTreeSet<String>, near: Option<Nodes>) -> Choice {
        let cares = self.devices.values().any(|device| !device.nodes.is_empty());
        let mut choice = Choice { reused, ..Choice::default() };
        let Some(near) = near.filter(|_| cares) else { return Choice { nowhere: free, ..choice } };
        for id in free {
            let places = self.places(&id);
            let list = match (places.is_empty(), near.has_any_of(&places)) {
                (true, _) => &mut choice.nowhere,
                (_, true) => &mut choice.near,
                _ => &mut choice.elsewhere,
            };
            list.insert(id);
        }
        choice
    }

    /// The sets of nodes that have so many devices, of those that have devices at all.
    fn ways(&self, count: usize, nodes: Nodes, free: &BTreeSet<String>, reuse: &BTreeSet<String>) -> Ways {
        let own: BTreeSet<u32> = self.devices.values().flat_map(Device::places).collect();
        let own: Vec<u32> = nodes.iter().filter(|node| own.contains(node)).collect();
        let nodes = if own.is_empty() { nodes.iter().collect() } else { own };
        let near = |id: &String| self.places(id).into_iter().collect::<Nodes>();
        let pieces = Pieces {
            all: self.devices.keys().map(near).collect(),
            free: free.iter().map(near).collect(),
            // Those that are near no node are no matter here.
            reuse: reuse.iter().map(near).filter(|near| near.len() > 0).collect(),
        };
        pieces.ways(&nodes, count, |_, _| false)
    }
}

/// Devices that a container was given, and what the plugin said of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Given {
    pub(super) pod: String,
    pub(super) container: String,
    pub(super) resource: String,
    /// With the NUMA nodes that each is near.
    pub(super) devices: BTreeMap<String, Vec<i64>>,
    pub(super) answer: ContainerAllocateResponse,
}

impl Given {
    pub(super) fn ids(&self) -> BTreeSet<String> {
        self.devices.keys().cloned().collect()
    }
}

/// What a container may be given: devices of containers before it that have ended by then, and those that are free,
/// by where they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) reused: BTreeSet<String>,
    pub(super) near: BTreeSet<String>,
    pub(super) elsewhere: BTreeSet<String>,
    /// Near no node in particular, or it does not matter where.
    pub(super) nowhere: BTreeSet<String>,
}

/// Everything that is known.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct State {
    pub(super) resources: BTreeMap<String, Resource>,
    pub(super) given: Vec<Given>,
    /// Pods that have ended: others may have their devices.
    gone: BTreeSet<String>,
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
    /// 0 where it was written without one.
    #[serde(default)]
    checksum: u64,
}

impl Data {
    fn sum(&self) -> u64 {
        let entries = self.pod_device_entries.iter().flatten().map(Entry::in_go);
        let entries = self.pod_device_entries.as_ref().map(|_| checksum::list(entries));
        let registered = self.registered_devices.as_ref().map(|all| {
            checksum::map(all.iter().map(|(name, ids)| (name, checksum::list(ids.iter().cloned()))))
        });
        let nil = || "<nil>".to_owned();
        checksum::of(&format!(
            "(checkpoint.checkpointData){{PodDeviceEntries:([]checkpoint.PodDevicesEntry){} \
             RegisteredDevices:(map[string][]string){}}}",
            entries.unwrap_or_else(nil),
            registered.unwrap_or_else(nil)
        ))
    }
}

impl Entry {
    /// As Go prints it.
    fn in_go(&self) -> String {
        let devices = self.device_ids.iter().map(|(node, ids)| (node, checksum::list(ids.iter().cloned())));
        let answer = STANDARD.decode(&self.alloc_resp).unwrap_or_default();
        format!(
            "{{PodUID:(string){} ContainerName:(string){} ResourceName:(string){} \
             DeviceIDs:(checkpoint.DevicesPerNUMA){} AllocResp:([]uint8){}}}",
            self.pod_uid,
            self.container_name,
            self.resource_name,
            checksum::map(devices),
            checksum::list(answer.iter().map(u8::to_string))
        )
    }
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
        (reusable, near): (&BTreeSet<String>, Option<Nodes>),
    ) -> Result<Option<Choice>, String> {
        let had = self.held(of, resource).map(Given::ids);
        if let Some(had) = had.as_ref().filter(|had| had.len() != needed) {
            let (pod, container) = of;
            return Err(format!(
                "pod {pod:?} container {container:?} changed request for resource {resource:?} from {} to {needed}",
                had.len()
            ));
        }
        let Some(known) = self.resources.get(resource) else {
            return Err(format!("cannot allocate unregistered device {resource}"));
        };
        let healthy = known.healthy();
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
        let free = self.free(resource);
        let more = needed - reused.len();
        if free.len() < more {
            return Err(format!(
                "requested number of devices unavailable for {resource}. Requested: {more}, Available: {}",
                free.len()
            ));
        }
        Ok(Some(known.sorted(reused, free, near)))
    }

    /// The devices of a resource that are healthy and nobody's.
    fn free(&self, resource: &str) -> BTreeSet<String> {
        let own = self.given.iter().filter(|given| given.resource == resource);
        let taken: BTreeSet<&String> = own.flat_map(|given| given.devices.keys()).collect();
        let healthy = self.resources.get(resource).map(Resource::healthy).unwrap_or_default();
        healthy.into_iter().filter(|id| !taken.contains(id)).collect()
    }

    /// Notes what a container was given.
    pub(super) fn give(
        &mut self,
        (pod, container): (&str, &str),
        resource: &str,
        ids: &BTreeSet<String>,
        answer: ContainerAllocateResponse,
    ) {
        let nodes = |id: &String| self.resources.get(resource)?.devices.get(id).map(|it| it.nodes.clone());
        let devices = ids.iter().map(|id| (id.clone(), nodes(id).unwrap_or_default())).collect();
        let (pod, container) = (pod.to_owned(), container.to_owned());
        self.given.push(Given { pod, container, resource: resource.to_owned(), devices, answer });
    }

    /// Which of the resources a container asks for, and how many.
    pub(super) fn wants(&self, container: &Container) -> Vec<(String, usize)> {
        let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
        let known = limits.into_iter().flatten().filter(|(name, _)| self.resources.contains_key(*name));
        let number = |quantity| usize::try_from(amount::whole(quantity)).unwrap_or(0);
        known
            .map(|(name, quantity)| (name.clone(), number(quantity)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    /// Where so many devices could come from; none where the resource does not care. `had` are those that were given
    /// already, and `reuse` those that have to be used again.
    pub(super) fn ways(
        &self,
        (resource, count): (&str, usize),
        nodes: Nodes,
        (had, reuse): (Option<BTreeSet<String>>, &BTreeSet<String>),
    ) -> Option<Ways> {
        let known = self.resources.get(resource)?;
        if known.devices.values().all(|device| device.nodes.is_empty()) {
            return None;
        }
        let none = BTreeSet::new();
        let free = self.free(resource);
        Some(match had {
            Some(had) if had.len() != count => Ways::new(),
            Some(had) => known.ways(count, nodes, &had, &none),
            None if free.union(reuse).count() < count => Ways::new(),
            None => known.ways(count, nodes, &free, reuse),
        })
    }

    /// Lets others have what a pod had.
    pub(super) fn let_go(&mut self, pod: &str) {
        if self.given.iter().any(|given| given.pod == pod) {
            self.gone.insert(pod.to_owned());
        }
    }

    /// Forgets what pods had that have ended.
    pub(super) fn forget_gone(&mut self) {
        let gone = std::mem::take(&mut self.gone);
        self.given.retain(|given| !gone.contains(&given.pod));
    }

    /// Forgets what a pod had.
    pub(super) fn release(&mut self, pod: &str) {
        self.given.retain(|given| given.pod != pod);
    }

    /// As it is kept over restarts.
    pub(super) fn encode(&self) -> String {
        let entry = |given: &Given| {
            let mut device_ids: BTreeMap<i64, Vec<String>> = BTreeMap::new();
            for (id, nodes) in &given.devices {
                let nodes = if nodes.is_empty() { &[ANYWHERE][..] } else { nodes };
                nodes.iter().for_each(|node| device_ids.entry(*node).or_default().push(id.clone()));
            }
            Entry {
                pod_uid: given.pod.clone(),
                container_name: given.container.clone(),
                resource_name: given.resource.clone(),
                device_ids,
                alloc_resp: STANDARD.encode(given.answer.encode_to_vec()),
            }
        };
        let data = Data {
            pod_device_entries: Some(self.given.iter().map(entry).collect()),
            registered_devices: Some(
                self.resources
                    .iter()
                    .map(|(name, it)| (name.clone(), it.healthy().into_iter().collect()))
                    .collect(),
            ),
        };
        let checksum = data.sum();
        serde_json::to_string(&File { data, checksum }).unwrap_or_default()
    }

    /// What was kept; resources have no devices until their plugins are back.
    pub(super) fn decode(text: &str, now: Instant) -> Option<Self> {
        let file: File = serde_json::from_str(text).ok()?;
        checksum::check(file.checksum, || file.data.sum()).ok()?;
        let given = |entry: Entry| {
            let answer = STANDARD.decode(entry.alloc_resp).ok()?;
            Some(Given {
                pod: entry.pod_uid,
                container: entry.container_name,
                resource: entry.resource_name,
                devices: devices(entry.device_ids),
                answer: ContainerAllocateResponse::decode(answer.as_slice()).ok()?,
            })
        };
        let given = file.data.pod_device_entries.into_iter().flatten().filter_map(given).collect();
        let names = file.data.registered_devices.unwrap_or_default().into_keys();
        let resource = |name| (name, Resource { devices: BTreeMap::new(), gone: Some(now) });
        Some(Self { resources: names.map(resource).collect(), given, gone: BTreeSet::new() })
    }
}

/// Devices with their nodes, of lists of devices by node.
fn devices(by_node: BTreeMap<i64, Vec<String>>) -> BTreeMap<String, Vec<i64>> {
    let mut all: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for (node, ids) in by_node {
        for id in ids {
            let nodes = all.entry(id).or_default();
            nodes.extend(Some(node).filter(|node| *node != ANYWHERE));
        }
    }
    all
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
        let answer = ContainerAllocateResponse {
            envs: [("A".to_owned(), "1".to_owned())].into(),
            ..ContainerAllocateResponse::default()
        };
        state.give((pod, container), "a.io/d", &ids(all), answer);
    }

    #[test]
    fn what_is_taken_or_sick_is_not_given() {
        let mut state = state(&["1", "2", "3"], &["4"]);
        assert_eq!(state.amounts()["a.io/d"], (4, 3));
        give(&mut state, ("p", "c"), &["1"]);
        let choose = |of, needed| state.choose(of, ("a.io/d", needed), (&BTreeSet::new(), None));
        assert_eq!(choose(("q", "c"), 2).unwrap().unwrap().nowhere, ids(&["2", "3"]));
        let why = choose(("q", "c"), 3).unwrap_err();
        assert_eq!(why, "requested number of devices unavailable for a.io/d. Requested: 3, Available: 2");
        assert_eq!(choose(("p", "c"), 1), Ok(None), "it has it already");
        assert!(choose(("p", "c"), 2).unwrap_err().contains("changed request"));
        let other = state.choose(("q", "c"), ("b.io/d", 1), (&BTreeSet::new(), None));
        assert_eq!(other.unwrap_err(), "cannot allocate unregistered device b.io/d");
    }

    #[test]
    fn devices_of_what_has_ended_are_used_again() {
        let mut state = state(&["1", "2"], &[]);
        give(&mut state, ("p", "init"), &["1"]);
        let choice = state.choose(("p", "c"), ("a.io/d", 2), (&ids(&["1"]), None)).unwrap().unwrap();
        assert_eq!(choice, Choice { reused: ids(&["1"]), nowhere: ids(&["2"]), ..Choice::default() });
    }

    #[test]
    fn devices_are_given_near_to_where_they_are_wanted() {
        let mut state = State::default();
        let device =
            |id: &str, nodes: &[i64]| (id.to_owned(), Device { is_healthy: true, nodes: nodes.to_vec() });
        let all =
            [device("a", &[0]), device("b", &[0, 1]), device("c", &[1]), device("d", &[]), device("e", &[9])];
        state.told("a.io/d", all.into());
        let of = |nodes: &[u32]| nodes.iter().copied().collect::<Nodes>();
        let none = BTreeSet::new();
        let ways = |state: &State, count: usize, reuse: &[&str]| {
            let ways = state.ways(("a.io/d", count), of(&[0, 1, 2]), (None, &ids(reuse))).unwrap();
            let shown = ways.iter().map(|hint| (hint.nodes.unwrap().iter().collect(), hint.preferred));
            shown.collect::<Vec<(Vec<u32>, bool)>>()
        };
        // Node 2 has none, and 9 is not there.
        assert_eq!(ways(&state, 2, &[]), [(vec![0], true), (vec![1], true), (vec![0, 1], false)]);
        assert_eq!(ways(&state, 3, &[]), [(vec![0, 1], true)]);
        assert_eq!(ways(&state, 4, &[]), []);
        let near = state.choose(("p", "c"), ("a.io/d", 2), (&none, Some(of(&[1])))).unwrap().unwrap();
        let expected = Choice {
            near: ids(&["b", "c"]),
            elsewhere: ids(&["a", "e"]),
            nowhere: ids(&["d"]),
            ..Choice::default()
        };
        assert_eq!(near, expected);
        give(&mut state, ("p", "init"), &["c"]);
        assert_eq!(ways(&state, 2, &["c"]), [(vec![1], true), (vec![0, 1], false)]);
        assert_eq!(ways(&state, 2, &[]), [(vec![0], true), (vec![0, 1], false)]);
        let text = state.encode();
        assert!(text.contains("\"DeviceIDs\":{\"1\":[\"c\"]}"), "{text}");
        state.let_go("p");
        state.forget_gone();
        assert_eq!(ways(&state, 2, &[]).len(), 3);
        state.told("b.io/d", [device("x", &[])].into());
        assert_eq!(state.ways(("b.io/d", 1), of(&[0]), (None, &none)), None);
    }

    #[test]
    fn a_plugin_that_is_gone_leaves_its_resource_for_a_while() {
        let (mut state, now) = (state(&["1"], &[]), clock::instant());
        state.lost("a.io/d", now);
        assert_eq!(state.amounts()["a.io/d"], (1, 0));
        let why = state.choose(("p", "c"), ("a.io/d", 1), (&BTreeSet::new(), None)).unwrap_err();
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
        assert_eq!(State::decode(&text.replace("\"p\"", "\"q\""), now), None, "its checksum is another");
    }

    #[test]
    fn files_of_kubernetes_are_understood_and_checked() {
        let now = clock::instant();
        let file = r#"{"Data":{"PodDeviceEntries":[{"PodUID":"bf52b2cd-b611-4e79-86b1-280b283185c3","ContainerName":"check","ResourceName":"nvidia.com/gpu","DeviceIDs":{"-1":["tegra"]},"AllocResp":"Ch8KFk5WSURJQV9WSVNJQkxFX0RFVklDRVMSBXRlZ3Jh"}],"RegisteredDevices":{"nvidia.com/gpu":["tegra"]}},"Checksum":3660592824}"#;
        let state = State::decode(file, now).unwrap();
        assert_eq!(state.given[0].ids(), ids(&["tegra"]));
        assert_eq!(State::decode(&file.replace("check", "other"), now), None);
        let none = r#"{"Data":{"PodDeviceEntries":null,"RegisteredDevices":{"nvidia.com/gpu":["GPU-0650a168-e770-3ea8-8ac3-8a1d419763e0"]}},"Checksum":3952659280}"#;
        assert!(State::decode(none, now).is_some());
    }
}
