//! Devices for a pod that asks for resources (KEP-5004): the claim that stands for those of its resources which
//! classes of devices provide and its node does not.

use super::allocator::Matches;
use super::provided::Provided;
use super::requests::{Asked, Request};
use crate::nodes::Facts;
use crate::resources::{Resource, Resources};
use api::Object;
use api::core::ContainerExtendedResourceRequest as Mapping;
use api::devices::STANDS_FOR;
use api::meta::{ObjectMeta, OwnerReference};
use api::resource::{
    DeviceClaim, DeviceClass, DeviceRequest, ExactDeviceRequest, ResourceClaim, ResourceClaimSpec,
};
use api::slim::{Container, Pod};
use base::random;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;

/// The name of such a claim before it is made; no object can have it.
const UNMADE: &str = "<extended-resources>";

/// The UID of the pod for whose resources a claim stands.
pub(super) fn owner(claim: &ResourceClaim) -> Option<&str> {
    let stands = claim.annotations().get(STANDS_FOR).is_some_and(|value| value == "true");
    Some(claim.controller().filter(|_| stands)?.uid)
}

/// The resources of a pod that classes provide.
pub(crate) struct Extended {
    pod: Arc<Pod>,
    wanted: Vec<(Resource, Arc<DeviceClass>)>,
    /// By the resources that a node does not have itself.
    variants: RefCell<HashMap<Vec<usize>, Rc<Variant>>>,
}

/// What is asked for on nodes that lack the same resources.
pub(super) struct Variant {
    pub(super) asked: Asked,
    /// Which containers use which requests.
    pub(super) mappings: Vec<Mapping>,
    pub(super) matches: Matches,
}

impl Extended {
    /// Nothing where no class provides what the pod asks for.
    pub(crate) fn of(pod: &Arc<Pod>, requests: &Resources, provided: &Provided) -> Option<Self> {
        let class = |(resource, _)| Some((provided.class(&resource)?.clone(), resource));
        let mut wanted: Vec<_> =
            requests.iter().filter_map(class).map(|(class, resource)| (resource, class)).collect();
        wanted.sort_by(|(a, _), (b, _)| a.name().cmp(b.name()));
        let (pod, variants) = (pod.clone(), RefCell::default());
        Some(Self { pod, wanted, variants }).filter(|own| !own.wanted.is_empty())
    }

    /// What devices have to stand for on a node; nothing where it has all resources itself.
    pub(super) fn on(&self, node: &Facts) -> Option<Rc<Variant>> {
        let resources = self.wanted.iter().enumerate();
        let lacking = resources.filter(|(_, (resource, _))| node.allocatable.get(resource) == 0);
        let lacking: Vec<usize> = lacking.map(|(ix, _)| ix).collect();
        if lacking.is_empty() {
            return None;
        }
        let mut variants = self.variants.borrow_mut();
        Some(variants.entry(lacking).or_insert_with_key(|lacking| Rc::new(self.variant(lacking))).clone())
    }

    fn variant(&self, lacking: &[usize]) -> Variant {
        let (mut requests, mut mappings) = (BTreeMap::new(), Vec::new());
        for (resource, class) in lacking.iter().map(|ix| &self.wanted[*ix]) {
            let (own, used) = wanted(&self.pod, resource.name());
            requests.extend(own.into_iter().map(|(name, count)| (name, (class, count))));
            mappings.extend(used);
        }
        let plain = |(name, (class, count)): (&String, &(&Arc<DeviceClass>, i64))| {
            vec![Request::plain(name, class, usize::try_from(*count).unwrap_or(usize::MAX))]
        };
        let asked = Asked {
            requests: requests.iter().map(plain).collect(),
            claim: Arc::new(unmade(
                &self.pod,
                requests.into_iter().map(|(name, (class, count))| request(name, class, count)).collect(),
            )),
        };
        Variant { asked, mappings, matches: Matches::default() }
    }
}

fn request(name: String, class: &DeviceClass, count: i64) -> DeviceRequest {
    let exactly = ExactDeviceRequest {
        device_class_name: class.name().to_owned(),
        allocation_mode: Some("ExactCount".to_owned()),
        count: Some(count),
        ..ExactDeviceRequest::default()
    };
    DeviceRequest { name, exactly: Some(exactly), first_available: None }
}

/// The claim before it is made; its UID is that of nothing else.
fn unmade(pod: &Pod, requests: Vec<DeviceRequest>) -> ResourceClaim {
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: pod.name().to_owned(),
        uid: pod.uid().to_owned(),
        controller: Some(true),
        block_owner_deletion: None,
    };
    let metadata = ObjectMeta {
        namespace: Some(pod.namespace().to_owned()),
        name: Some(UNMADE.to_owned()),
        uid: Some(random::uuid()),
        annotations: Some([(STANDS_FOR.to_owned(), "true".to_owned())].into()),
        owner_references: Some(vec![owner]),
        ..ObjectMeta::default()
    };
    let devices = DeviceClaim { requests: Some(requests), ..DeviceClaim::default() };
    ResourceClaim { metadata, spec: ResourceClaimSpec { devices: Some(devices) }, status: None }
}

/// The claim as it is made.
pub(super) fn to_make(claim: &ResourceClaim, pod: &Pod) -> ResourceClaim {
    let generate_name = Some(format!("{}-extended-resources-", pod.name()));
    let metadata = ObjectMeta { name: None, uid: None, generate_name, ..claim.metadata.clone() };
    ResourceClaim { metadata, ..claim.clone() }
}

/// How much of a resource a container asks for.
fn amount(container: &Container, resource: &str) -> Option<i64> {
    let amount = api::quantity::parse(container.resources.requests.get(resource)?).ok()?;
    Some(amount.to_units()).filter(|amount| *amount > 0)
}

/// What a pod asks for of one resource: requests with their counts, and who uses them. What runs beside others
/// has its own; init containers take what will be of containers after them, and share one request for the most
/// that any of them needs beyond that.
fn wanted(pod: &Pod, resource: &str) -> (Vec<(String, i64)>, Vec<Mapping>) {
    let spec = pod.spec.iter();
    let init = spec.clone().flat_map(|spec| spec.init_containers.iter().flatten().map(|it| (it, true)));
    let all: Vec<_> =
        init.chain(spec.flat_map(|spec| spec.containers.iter().map(|it| (it, false)))).collect();
    let is_short = |(container, init): &(&Container, bool)| {
        *init && container.restart_policy.as_deref() != Some("Always")
    };
    let asking = || all.iter().enumerate().filter_map(|(at, it)| Some((at, it, amount(it.0, resource)?)));
    let mut own: Vec<Option<(String, i64)>> = vec![None; all.len()];
    let mut mappings = Vec::new();
    for (at, (container, _), count) in asking().filter(|(_, it, _)| !is_short(it)) {
        let name = request_name(at, container, resource);
        mappings.push(mapping(container, resource, &name));
        own[at] = Some((name, count));
    }
    let mut beyond: Option<(String, i64)> = None;
    let mut sharing = Vec::new();
    for (at, (container, _), count) in asking().filter(|(_, it, _)| is_short(it)) {
        let mut missing = count;
        for (name, more) in own[at..].iter().flatten() {
            mappings.push(mapping(container, resource, name));
            missing -= more;
            if missing <= 0 {
                break;
            }
        }
        if missing > 0 {
            sharing.push(mappings.len());
            let name = request_name(at, container, resource);
            mappings.push(mapping(container, resource, &name));
            beyond = beyond.filter(|(_, most)| *most >= missing).or(Some((name, missing)));
        }
    }
    if let Some((name, _)) = &beyond {
        sharing.into_iter().for_each(|at| mappings[at].request_name.clone_from(name));
    }
    (beyond.into_iter().chain(own.into_iter().flatten()).collect(), mappings)
}

/// Named after the places of the container and of the resource among all that it asks for.
fn request_name(at: usize, container: &Container, resource: &str) -> String {
    let place = container.resources.requests.iter().position(|(name, _)| name == resource);
    format!("container-{at}-request-{}", place.unwrap_or_default())
}

fn mapping(container: &Container, resource: &str, request: &str) -> Mapping {
    Mapping {
        container_name: container.name.to_string(),
        resource_name: resource.to_owned(),
        request_name: request.to_owned(),
    }
}
