//! Looks whether the ports that services have on nodes are theirs alone and of the range, and tells whoever
//! can do something about it. That nothing is held which nobody has, the API server sees to itself.

use crate::common::{Key, Room, watch_self};
use api::core::Service;
use client::{Cache, Error, Next, Queue, Recorder};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Clone)]
struct Ports {
    recorder: Recorder,
    services: Cache<Service>,
    range: RangeInclusive<u16>,
    /// Who was seen first with a port.
    owners: Arc<Mutex<BTreeMap<i32, Key>>>,
}

pub(crate) fn start(room: &Room, range: RangeInclusive<u16>) {
    let recorder = room.recorder("portallocator-repair-controller");
    let controller = Ports { recorder, services: room.caches.of(), range, owners: Arc::default() };
    let queue = Queue::new("ports of services");
    watch_self(&controller.services, &queue);
    room.work("ports of services", &queue, 1, move |key| controller.clone().service(key));
}

fn node_ports(service: &Service) -> BTreeSet<i32> {
    let Some(spec) = &service.spec else { return BTreeSet::new() };
    let ports = spec.ports.iter().flatten().filter_map(|port| port.node_port);
    ports.chain(spec.health_check_node_port).filter(|port| *port != 0).collect()
}

impl Ports {
    async fn service(self, key: Key) -> Result<Next, Error> {
        let Some(service) = self.services.get(&key.namespace, &key.name) else { return Ok(Next::Done) };
        for port in node_ports(&service) {
            if !u16::try_from(port).is_ok_and(|port| self.range.contains(&port)) {
                let (first, last) = (self.range.start(), self.range.end());
                let why = format!(
                    "Port {port} is not within the port range {first}-{last}; please recreate service"
                );
                self.recorder.warning(&*service, "PortOutOfRange", why);
            } else if !self.owns(&key, port) {
                let why = format!("Port {port} was assigned to multiple services; please recreate service");
                self.recorder.warning(&*service, "PortAlreadyAllocated", why);
            }
        }
        Ok(Next::Done)
    }

    /// Whether a port is this service's: who had it before may have given it up.
    fn owns(&self, key: &Key, port: i32) -> bool {
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        let owner = owners.entry(port).or_insert_with(|| key.clone());
        let holder = self.services.get(&owner.namespace, &owner.name);
        if !holder.is_some_and(|holder| node_ports(&holder).contains(&port)) {
            owner.clone_from(key);
        }
        owner == key
    }
}
