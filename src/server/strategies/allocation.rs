//! Cluster addresses and node ports of services, without collisions.

use super::{items, items_mut, text};
use crate::registry::{Records, random};
use api::kinds::Kind;
use api::status::Refusal;
use api::validate::{Error, Path};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

/// A range of addresses by its first address and prefix length.
#[derive(Clone, Copy, Debug)]
pub struct AddressPool {
    /// The network's address.
    pub network: Ipv4Addr,
    /// The prefix length.
    pub bits: u8,
}

impl AddressPool {
    fn size(self) -> u32 {
        u32::MAX.checked_shr(u32::from(self.bits)).unwrap_or(0)
    }

    fn contains(self, address: Ipv4Addr) -> bool {
        let offset = u32::from(address).wrapping_sub(u32::from(self.network));
        offset >= 1 && offset < self.size()
    }

    fn at(self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network) + offset)
    }
}

/// The first addresses are for services that ask for one by number, such as cluster DNS (KEP-3070).
const STATIC_ADDRESSES: u32 = 256;

#[derive(Default)]
struct Taken {
    addresses: HashSet<Ipv4Addr>,
    ports: HashSet<u16>,
}

impl Taken {
    fn give_back(&mut self, addresses: &[Ipv4Addr], ports: &[u16]) {
        for address in addresses {
            self.addresses.remove(address);
        }
        for port in ports {
            self.ports.remove(port);
        }
    }
}

/// Knows what is taken.
pub(crate) struct Allocator {
    taken: Arc<Mutex<Taken>>,
    addresses: AddressPool,
    ports: RangeInclusive<u16>,
}

/// What was taken for one write; given back when dropped without [`Allocation::keep`].
#[derive(Default)]
pub(crate) struct Allocation {
    taken: Option<Arc<Mutex<Taken>>>,
    addresses: Vec<Ipv4Addr>,
    ports: Vec<u16>,
    /// What the object no longer has once the write took place.
    freed_ports: Vec<u16>,
}

impl Allocation {
    /// Nothing was taken or given up.
    pub(crate) fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.ports.is_empty() && self.freed_ports.is_empty()
    }

    /// The write took place.
    pub(crate) fn keep(mut self) {
        if let Some(taken) = &self.taken {
            let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
            taken.ports.retain(|port| !self.freed_ports.contains(port));
        }
        self.taken = None;
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        let Some(taken) = &self.taken else { return };
        let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.give_back(&self.addresses, &self.ports);
    }
}

fn addresses_of(spec: &Value) -> Vec<Ipv4Addr> {
    let stated = items(spec, "clusterIPs").iter().filter_map(Value::as_str).chain([text(spec, "clusterIP")]);
    let mut addresses: Vec<Ipv4Addr> = stated.filter_map(|text| text.parse().ok()).collect();
    addresses.dedup();
    addresses
}

fn ports_of(spec: &Value) -> Vec<u16> {
    let ports = items(spec, "ports").iter().filter_map(|port| u16::try_from(port["nodePort"].as_i64()?).ok());
    let health = spec["healthCheckNodePort"].as_i64().and_then(|port| u16::try_from(port).ok());
    let mut ports: Vec<u16> = ports.chain(health).filter(|port| *port != 0).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

impl Allocator {
    pub(crate) fn new(records: &Records, addresses: AddressPool, ports: RangeInclusive<u16>) -> Self {
        let mut taken = Taken::default();
        for record in records.snapshot().range("services/", None) {
            let service: Value = serde_json::from_slice(&record.value).unwrap_or_default();
            taken.addresses.extend(addresses_of(&service["spec"]));
            taken.ports.extend(ports_of(&service["spec"]));
        }
        Self { taken: Arc::new(Mutex::new(taken)), addresses, ports }
    }

    pub(crate) fn release(&self, service: &Value) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.give_back(&addresses_of(&service["spec"]), &ports_of(&service["spec"]));
    }

    pub(crate) fn allocate(
        &self,
        kind: &Kind,
        service: &mut Value,
        old: Option<&Value>,
    ) -> Result<Allocation, Refusal> {
        let name = text(&service["metadata"], "name").to_owned();
        let before = old.map_or(&Value::Null, |old| &old["spec"]);
        let Some(spec) = service.get_mut("spec").filter(|spec| spec.is_object()) else {
            return Ok(Allocation::default());
        };
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let mut draft = Draft {
            pools: self,
            taken: &mut taken,
            before,
            addresses: Vec::new(),
            ports: Vec::new(),
            errors: Vec::new(),
        };
        draft.address(spec);
        let freed_ports = draft.node_ports(spec);
        let Draft { addresses, ports, errors, .. } = draft;
        // Given back when dropped, which takes the lock: let go of it first.
        drop(taken);
        let mut allocation = Allocation::default();
        allocation.taken = Some(self.taken.clone());
        allocation.addresses = addresses;
        allocation.ports = ports;
        allocation.freed_ports = freed_ports;
        if errors.is_empty() { Ok(allocation) } else { Err(Refusal::invalid(kind, &name, &errors)) }
    }

    /// A free address, from a random place on so that a deleted service's is not soon used again.
    fn free_address(&self, taken: &Taken) -> Option<Ipv4Addr> {
        let size = self.addresses.size();
        let low = STATIC_ADDRESSES.min(size / 16).max(1);
        let span = size.saturating_sub(low).max(1);
        let start = u32::from_le_bytes(random()) % span;
        let upper = (0..span).map(|step| low + (start + step) % span);
        let all = upper.chain(1..low).map(|offset| self.addresses.at(offset));
        all.into_iter()
            .find(|address| self.addresses.contains(*address) && !taken.addresses.contains(address))
    }

    fn free_port(&self, taken: &Taken) -> Option<u16> {
        let span = u32::from(self.ports.end() - self.ports.start()) + 1;
        let start = u32::from_le_bytes(random()) % span;
        let first = u32::from(*self.ports.start());
        let mut ports = (0..span).filter_map(|step| u16::try_from(first + (start + step) % span).ok());
        ports.find(|port| !taken.ports.contains(port))
    }
}

/// One service's allocation while it is made.
struct Draft<'a> {
    pools: &'a Allocator,
    taken: &'a mut Taken,
    /// The spec before; null at creation.
    before: &'a Value,
    addresses: Vec<Ipv4Addr>,
    ports: Vec<u16>,
    errors: Vec<Error>,
}

impl Draft<'_> {
    fn address(&mut self, spec: &mut Value) {
        if text(spec, "type") == "ExternalName" {
            return;
        }
        let stated = match text(spec, "clusterIP") {
            "" => items(spec, "clusterIPs").first().and_then(Value::as_str).unwrap_or_default(),
            stated => stated,
        }
        .to_owned();
        let kept = stated == "None" || (!stated.is_empty() && text(self.before, "clusterIP") == stated);
        let address = if kept { Ok(stated.clone()) } else { self.take_address(&stated) };
        match address {
            Ok(address) => {
                spec["clusterIPs"] = json!([address]);
                spec["clusterIP"] = json!(address);
            }
            Err(detail) => {
                let path = Path::new("spec").child("clusterIPs");
                self.errors.push(Error::invalid(&path, json!([stated]), detail));
            }
        }
    }

    fn take_address(&mut self, stated: &str) -> Result<String, String> {
        let address = if stated.is_empty() {
            self.pools.free_address(self.taken).ok_or("failed to allocate a serviceIP: range is full")?
        } else {
            let address = stated
                .parse()
                .map_err(|_| "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")?;
            if !self.pools.addresses.contains(address) {
                return Err(format!(
                    "failed to allocate IP {stated}: the provided network does not match the current range"
                ));
            }
            if self.taken.addresses.contains(&address) {
                return Err(format!("failed to allocate IP {stated}: provided IP is already allocated"));
            }
            address
        };
        self.taken.addresses.insert(address);
        self.addresses.push(address);
        Ok(address.to_string())
    }

    /// Gives ports of the node to those ports that need one; returns those that the service gave up.
    fn node_ports(&mut self, spec: &mut Value) -> Vec<u16> {
        let had = ports_of(self.before);
        let wants = match text(spec, "type") {
            "NodePort" => true,
            "LoadBalancer" => spec["allocateLoadBalancerNodePorts"] != false,
            _ => false,
        };
        let mut own = HashSet::new();
        for (index, port) in items_mut(spec, "ports").enumerate() {
            let stated = port["nodePort"].as_i64().and_then(|port| u16::try_from(port).ok()).unwrap_or(0);
            if stated == 0 && !wants {
                port.as_object_mut().and_then(|port| port.remove("nodePort"));
                continue;
            }
            let taken = if had.contains(&stated) || own.contains(&stated) {
                Ok(stated)
            } else {
                self.take_port(stated)
            };
            match taken {
                Ok(number) => {
                    port["nodePort"] = json!(number);
                    own.insert(number);
                }
                Err(detail) => {
                    let path = Path::new("spec").child("ports").index(index).child("nodePort");
                    self.errors.push(Error::invalid(&path, stated, detail));
                }
            }
        }
        had.into_iter().filter(|port| !own.contains(port)).collect()
    }

    fn take_port(&mut self, stated: u16) -> Result<u16, String> {
        let range = &self.pools.ports;
        let number = match stated {
            0 => self.pools.free_port(self.taken).ok_or("failed to allocate a nodePort: range is full")?,
            stated if !range.contains(&stated) => {
                return Err(format!(
                    "provided port is not in the valid range. The range of valid ports is {}-{}",
                    range.start(),
                    range.end()
                ));
            }
            stated => stated,
        };
        if !self.taken.ports.insert(number) {
            return Err("provided port is already allocated".to_owned());
        }
        self.ports.push(number);
        Ok(number)
    }
}
