//! Writes what [`load_balancer`](crate::load_balancer) decides into the Services' status.

use crate::common::{Key, Room, unless_gone};
use crate::load_balancer::{self, Decision, World};
use crate::load_balancer_range::{self, AddressRange};
use api::balancing::{ANNOUNCED_BY, announced, told};
use api::core::{Node, Service};
use api::slim::EndpointSlice;
use api::{Object, slim};
use client::{Cache, Client, Error, Next, Patch, Queue, Recorder};
use serde_json::json;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Clone)]
struct Balancer {
    client: Client,
    recorder: Recorder,
    services: Cache<Service>,
    nodes: Cache<Node>,
    slices: Cache<EndpointSlice>,
    pods: Cache<slim::Pod>,
    settings: Arc<LoadBalancers>,
    /// What was last complained of each Service, so that it is told once.
    complaints: Arc<Mutex<BTreeMap<Key, String>>>,
}

/// All Services are decided upon together, since they may want the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Everything;

/// What Services of type LoadBalancer get.
#[derive(Clone, Debug, Default)]
pub struct LoadBalancers {
    /// TCP ports of nodes that they may not have, since knarr itself listens there.
    pub reserved: Vec<u16>,
    /// Where they get addresses of their own, which one node at a time answers for; those of nodes without it.
    pub ranges: Vec<AddressRange>,
}

/// What of a pod decides.
fn host_ports(pod: &Option<Arc<slim::Pod>>) -> Option<impl PartialEq + use<>> {
    let pod = pod.as_ref()?;
    let ports: Vec<_> = load_balancer::host_ports(pod).cloned().collect();
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    (!ports.is_empty()).then_some((ports, node))
}

pub(crate) fn start(room: &Room, settings: &LoadBalancers) {
    let balancer = Balancer {
        client: room.client.clone(),
        recorder: room.recorder("service-lb-controller"),
        services: room.caches.of(),
        nodes: room.caches.of(),
        slices: room.caches.of(),
        pods: room.caches.of(),
        settings: Arc::new(settings.clone()),
        complaints: Arc::default(),
    };
    let queue = Queue::new("load balancers");
    let changed = queue.clone();
    balancer.services.on_change(move |change| {
        if [&change.old, &change.new].into_iter().flatten().any(|service| concerns(service)) {
            changed.add(Everything);
        }
    });
    let changed = queue.clone();
    balancer.nodes.on_change(move |change| {
        let facts = |node: &Option<Arc<Node>>| node.as_ref().map(|node| load_balancer::facts(node));
        if facts(&change.old) != facts(&change.new) {
            changed.add(Everything);
        }
    });
    let changed = queue.clone();
    balancer.pods.on_change(move |change| {
        if host_ports(&change.old) != host_ports(&change.new) {
            changed.add(Everything);
        }
    });
    let (changed, own) = (queue.clone(), balancer.clone());
    balancer.slices.on_change(move |change| {
        let concerns = |slice: &Arc<EndpointSlice>| {
            let service = own.services.get(slice.namespace(), load_balancer::service_of(slice)?)?;
            (load_balancer::is_ours(&service) && load_balancer::is_local(&service)).then_some(())
        };
        if [&change.old, &change.new].into_iter().flatten().any(|slice| concerns(slice).is_some()) {
            changed.add(Everything);
        }
    });
    room.work("load balancer controller", &queue, 1, move |_| balancer.clone().sync());
}

impl Balancer {
    async fn sync(self) -> Result<Next, Error> {
        tokio::join!(self.services.synced(), self.nodes.synced(), self.slices.synced(), self.pods.synced());
        let (services, nodes, slices) =
            (self.services.snapshot(), self.nodes.snapshot(), self.slices.snapshot());
        let pods = self.pods.snapshot();
        let concerned: Vec<&Arc<Service>> = services.iter().filter(|service| concerns(service)).collect();
        let local = concerned.iter().filter(|service| load_balancer::is_local(service));
        let slices = local.flat_map(|service| slices.in_namespace(service.namespace()).map(Arc::as_ref));
        let slices: Vec<&EndpointSlice> = slices.collect();
        let world = World {
            services: concerned,
            nodes: nodes.iter().map(Arc::as_ref).collect(),
            slices,
            pods: pods
                .iter()
                .map(Arc::as_ref)
                .filter(|pod| load_balancer::host_ports(pod).next().is_some())
                .collect(),
            reserved: &self.settings.reserved,
            ranges: &self.settings.ranges,
        };
        let decisions = load_balancer::plan(&world);
        self.forget(&decisions);
        for (service, decision) in decisions {
            self.carry_out(&service, &decision).await?;
        }
        Ok(Next::Done)
    }

    async fn carry_out(&self, service: &Arc<Service>, decision: &Decision) -> Result<(), Error> {
        self.complain(service, decision);
        let same = told(service) == decision.addresses
            && load_balancer::tells(service) != decision.addresses.is_empty();
        if same && announced(service) == decision.announced {
            return Ok(());
        }
        let ingress: Vec<_> =
            decision.addresses.iter().map(|address| json!({"ip": address, "ipMode": "VIP"})).collect();
        let ingress = if ingress.is_empty() { json!(null) } else { json!(ingress) };
        let announced = load_balancer_range::annotation(&decision.announced);
        let patch = json!({"metadata": {"uid": service.uid(), "annotations": {ANNOUNCED_BY: announced}},
            "status": {"loadBalancer": {"ingress": ingress}}});
        let (namespace, name) = (service.namespace(), service.name());
        let patched = self.client.patch_status::<Service>(namespace, name, &Patch::Merge(patch)).await;
        if let Ok(new) = &patched {
            self.services.reached(new.revision()).await;
            self.tell(service, decision);
        }
        // One that was replaced meanwhile has an event of its own.
        unless_gone(patched.map(drop).or_else(|error| if error.is_conflict() { Ok(()) } else { Err(error) }))
    }

    fn tell(&self, service: &Arc<Service>, decision: &Decision) {
        let before = told(service);
        if before != decision.addresses {
            let (before, after) = (listed(&before), listed(&decision.addresses));
            let message = format!("LoadBalancer addresses changed: {before} -> {after}");
            self.recorder.normal(&**service, "UpdatedLoadBalancer", message);
        }
        let before = announced(service);
        for (address, node) in &decision.announced {
            if before.get(address) != Some(node) {
                let message = format!("Node {node} answers for {address} from now on");
                self.recorder.normal(&**service, "NodeAssigned", message);
            }
        }
    }

    fn complain(&self, service: &Arc<Service>, decision: &Decision) {
        let Some((reason, message)) = complaint(decision) else { return };
        let mut complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        if complaints.insert(Key::of(&**service), message.clone()).as_ref() != Some(&message) {
            self.recorder.warning(&**service, reason, message);
        }
    }

    /// Complaints about Services that have none any more.
    fn forget(&self, decisions: &[(Arc<Service>, Decision)]) {
        let blamed = decisions.iter().filter(|(_, decision)| complaint(decision).is_some());
        let blamed: Vec<Key> = blamed.map(|(service, _)| Key::of(&**service)).collect();
        let mut complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        complaints.retain(|key, _| blamed.contains(key));
    }
}

/// What is wrong with a decision, as an event's reason and message.
fn complaint(decision: &Decision) -> Option<(&'static str, String)> {
    if !decision.conflicts.is_empty() {
        let conflicts = decision.conflicts.iter();
        let each = conflicts.map(|(port, owner)| format!("{}/{} of {owner}", port.number, port.protocol));
        let each = each.collect::<Vec<_>>().join(", ");
        return Some(("PortConflict", format!("Addresses are not given where ports are taken: {each}")));
    }
    if let Some(why) = &decision.refused {
        return Some(("AddressNotAvailable", why.clone()));
    }
    if decision.ranged && decision.announced.len() < decision.addresses.len() {
        return Some((
            "NotAnnounced",
            "No node that is ready and selected can answer for its address".to_owned(),
        ));
    }
    (decision.balanced && decision.addresses.is_empty())
        .then(|| ("NoAddress", "No node that is ready and selected has an address to give".to_owned()))
}

/// Services that get addresses, or have what they were given.
fn concerns(service: &Service) -> bool {
    load_balancer::is_ours(service)
        || load_balancer::tells(service)
        || service.annotations().contains_key(ANNOUNCED_BY)
}

fn listed(addresses: &[IpAddr]) -> String {
    if addresses.is_empty() {
        return "none".to_owned();
    }
    addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",")
}
