//! Cluster addresses and node ports of services, without collisions.
//!
//! An address is taken while an IPAddress of its name is stored, which is made before its service and
//! removed after it; a port is taken while a service has it. What writes on their way have taken is
//! remembered beside. Whether what is refused as taken really is somebody's is looked up at times.

mod addresses;
mod families;
mod pools;

pub use pools::AddressPool;

use super::{items, items_mut, text};
use crate::registry::{Index, Records, read};
use api::kinds::Kind;
use api::status::Refusal;
use api::validate::{Error, Path};
use base::clock;
use families::Family;
use pools::{Bands, Pools};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use store::WriteError;

/// How often it is looked up at the most which ports services have (the interval of Kubernetes' repair).
const RECOUNT_INTERVAL: Duration = Duration::from_secs(180);

/// What services have, or are about to.
#[derive(Default)]
struct Taken {
    /// Of writes on their way.
    addresses: HashSet<IpAddr>,
    coming_ports: HashSet<u16>,
    /// Each with the uid of the service that has it.
    ports: HashMap<u16, Box<str>>,
    recounted: Option<clock::Instant>,
}

impl Taken {
    fn arrived(&mut self, addresses: &[IpAddr], ports: &[u16]) {
        self.addresses.retain(|address| !addresses.contains(address));
        self.coming_ports.retain(|port| !ports.contains(port));
    }

    /// Gives back what is a service's, and not what has become another's.
    fn free(&mut self, ports: &[u16], owner: &str) {
        self.ports.retain(|port, own| !(ports.contains(port) && **own == *owner));
    }

    fn has(&self, port: u16) -> bool {
        self.coming_ports.contains(&port) || self.ports.contains_key(&port)
    }

    /// Reads again who has which port, unless that was done lately.
    fn recount(&mut self, records: &Records) {
        let now = clock::instant();
        if records.is_shared() || self.recounted.is_none_or(|last| now - last >= RECOUNT_INTERVAL) {
            self.recounted = Some(now);
            // Of writes that are not on their way any more, the store knows.
            self.ports = ports_of_services(records);
        }
    }
}

fn ports_of_services(records: &Records) -> HashMap<u16, Box<str>> {
    let mut ports = HashMap::new();
    for record in records.snapshot().range("services/", None) {
        if matches!(record.index.field("spec.type"), "NodePort" | "LoadBalancer") {
            let service = read(record);
            ports.extend(ports_of(&service["spec"]).into_iter().map(|port| (port, record.index.uid.clone())));
        }
    }
    ports
}

/// Knows what is taken.
pub(crate) struct Allocator {
    taken: Arc<Mutex<Taken>>,
    records: Records,
    /// Where addresses come from before the first ServiceCIDR is there; their families, in this order, are
    /// those that services can have.
    addresses: Vec<AddressPool>,
    ports: RangeInclusive<u16>,
}

/// What was taken for one write; given back when dropped without [`Allocation::keep`].
#[derive(Default)]
pub(crate) struct Allocation {
    taken: Option<Arc<Mutex<Taken>>>,
    /// The service's uid.
    owner: Box<str>,
    /// Of these the write makes IPAddresses.
    addresses: Vec<IpAddr>,
    ports: Vec<u16>,
    /// What the object no longer has once the write took place.
    freed_addresses: Vec<IpAddr>,
    freed_ports: Vec<u16>,
}

impl Allocation {
    /// Nothing was taken or given up.
    pub(crate) fn is_empty(&self) -> bool {
        self.addresses.is_empty()
            && self.ports.is_empty()
            && self.freed_addresses.is_empty()
            && self.freed_ports.is_empty()
    }

    /// Makes the addresses the service's, all or none of them; [`WriteError::Overtaken`] if one is another's by now.
    pub(crate) async fn claim(
        &self,
        records: &Records,
        namespace: &str,
        service: &str,
    ) -> Result<(), WriteError<Index>> {
        for (index, address) in self.addresses.iter().enumerate() {
            if let Err(error) = addresses::claim(records, *address, namespace, service).await {
                addresses::release_all(records, &self.addresses[..index]).await;
                return Err(match error {
                    WriteError::Conflict(_) => WriteError::Overtaken,
                    other => other,
                });
            }
        }
        Ok(())
    }

    /// Whether the write gives ports to its service.
    pub(crate) fn takes_ports(&self) -> bool {
        !self.ports.is_empty()
    }

    /// Whether no other service has the ports, by all that is written by now.
    pub(crate) fn is_free(&self, records: &Records) -> bool {
        if self.ports.is_empty() {
            return true;
        }
        let all = ports_of_services(records);
        self.ports.iter().all(|port| all.get(port).is_none_or(|owner| *owner == self.owner))
    }

    /// The write did not take place.
    pub(crate) async fn abandon(&self, records: &Records) {
        addresses::release_all(records, &self.addresses).await;
    }

    /// The write took place.
    pub(crate) async fn keep(mut self, records: &Records) {
        addresses::release_all(records, &self.freed_addresses).await;
        let Some(taken) = self.taken.take() else { return };
        let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.arrived(&self.addresses, &self.ports);
        taken.ports.extend(self.ports.iter().map(|port| (*port, self.owner.clone())));
        taken.free(&self.freed_ports, &self.owner);
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        let Some(taken) = &self.taken else { return };
        let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.arrived(&self.addresses, &self.ports);
    }
}

fn addresses_of(spec: &Value) -> Vec<IpAddr> {
    let stated = items(spec, "clusterIPs").iter().filter_map(Value::as_str).chain([text(spec, "clusterIP")]);
    let mut addresses: Vec<IpAddr> = stated.filter_map(|text| text.parse().ok()).collect();
    addresses.sort_unstable();
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
    pub(crate) fn new(records: &Records, addresses: Vec<AddressPool>, ports: RangeInclusive<u16>) -> Self {
        let taken = Taken { ports: ports_of_services(records), ..Taken::default() };
        Self { taken: Arc::new(Mutex::new(taken)), records: records.clone(), addresses, ports }
    }

    fn families(&self) -> Vec<Family> {
        self.addresses.iter().map(|pool| pool.family()).collect()
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes IPAddresses and services fit each other again, as a crash may have come between them.
    pub(crate) async fn repair(&self) {
        addresses::repair(&self.records).await;
    }

    /// Gives back what a service had, as it is gone.
    pub(crate) async fn release(&self, service: &Value) {
        let spec = &service["spec"];
        self.taken().free(&ports_of(spec), text(&service["metadata"], "uid"));
        addresses::release_all(&self.records, &addresses_of(spec)).await;
    }

    pub(crate) fn allocate(
        &self,
        kind: &Kind,
        service: &mut Value,
        old: Option<&Value>,
    ) -> Result<Allocation, Refusal> {
        let name = text(&service["metadata"], "name").to_owned();
        let owner = text(&service["metadata"], "uid").into();
        let before = old.map_or(&Value::Null, |old| &old["spec"]);
        let Some(spec) = service.get_mut("spec").filter(|spec| spec.is_object()) else {
            return Ok(Allocation::default());
        };
        let wrong = families::settle(spec, before, &self.families());
        if !wrong.is_empty() {
            return Err(Refusal::invalid(kind, &name, &wrong));
        }
        let pools = Pools::read(&self.records, &self.addresses);
        let mut taken = self.taken();
        let mut draft = Draft {
            records: &self.records,
            pools: &pools,
            range: &self.ports,
            taken: &mut taken,
            before,
            addresses: Vec::new(),
            ports: Vec::new(),
            errors: Vec::new(),
            refusal: None,
        };
        draft.addresses(spec);
        draft.node_ports(spec);
        draft.health_port(spec);
        let Draft { addresses, ports, errors, refusal, .. } = draft;
        // Given back when dropped, which takes the lock: let go of it first.
        drop(taken);
        let (has, had) = (addresses_of(spec), addresses_of(before));
        let (has_ports, had_ports) = (ports_of(spec), ports_of(before));
        let mut allocation = Allocation::default();
        allocation.taken = Some(self.taken.clone());
        allocation.owner = owner;
        allocation.addresses = addresses;
        allocation.ports = ports;
        allocation.freed_addresses = had.into_iter().filter(|address| !has.contains(address)).collect();
        allocation.freed_ports = had_ports.into_iter().filter(|port| !has_ports.contains(port)).collect();
        if let Some(refusal) = refusal {
            return Err(refusal);
        }
        if errors.is_empty() { Ok(allocation) } else { Err(Refusal::invalid(kind, &name, &errors)) }
    }
}

/// One service's allocation while it is made.
struct Draft<'a> {
    records: &'a Records,
    pools: &'a Pools,
    range: &'a RangeInclusive<u16>,
    taken: &'a mut Taken,
    /// The spec before; null at creation.
    before: &'a Value,
    addresses: Vec<IpAddr>,
    ports: Vec<u16>,
    errors: Vec<Error>,
    refusal: Option<Refusal>,
}

impl Draft<'_> {
    /// Gives the service an address of each of its families.
    fn addresses(&mut self, spec: &mut Value) {
        if text(spec, "type") == "ExternalName" {
            return;
        }
        let mut stated: Vec<String> =
            items(spec, "clusterIPs").iter().map(|ip| ip.as_str().unwrap_or_default().to_owned()).collect();
        let families: Vec<Family> = items(spec, "ipFamilies").iter().filter_map(Family::read).collect();
        stated.resize(families.len().max(stated.len()), String::new());
        let first = text(spec, "clusterIP");
        if let Some(stated) = stated.first_mut().filter(|_| !first.is_empty()) {
            first.clone_into(stated);
        }
        if stated.first().is_some_and(|first| first == "None") {
            spec["clusterIPs"] = json!(["None"]);
            spec["clusterIP"] = json!("None");
            return;
        }
        let kept = items(self.before, "clusterIPs").to_vec();
        for (stated, family) in stated.iter_mut().zip(families) {
            if !stated.is_empty() && kept.iter().any(|had| *had == **stated) {
                continue;
            }
            match self.take_address(stated, family) {
                Ok(address) => *stated = address,
                Err(detail) => {
                    let path = Path::new("spec").child("clusterIPs");
                    self.errors.push(Error::invalid(&path, json!([stated]), detail));
                    return;
                }
            }
        }
        spec["clusterIP"] = json!(stated.first());
        spec["clusterIPs"] = json!(stated);
    }

    fn take_address(&mut self, stated: &str, family: Family) -> Result<String, String> {
        let address = if stated.is_empty() {
            let free = self.pools.free(family, |address| self.taken.addresses.contains(&address));
            free.ok_or("failed to allocate a serviceIP: range is full")?
        } else {
            let address = stated
                .parse()
                .map_err(|_| "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")?;
            if !self.pools.contain(address) {
                return Err(format!(
                    "failed to allocate IP {stated}: the provided network does not match the current range"
                ));
            }
            if self.taken.addresses.contains(&address) || self.pools.is_taken(address) {
                return Err(format!("failed to allocate IP {stated}: provided IP is already allocated"));
            }
            address
        };
        self.taken.addresses.insert(address);
        self.addresses.push(address);
        Ok(address.to_string())
    }

    /// Gives ports of the node to those ports that need one.
    fn node_ports(&mut self, spec: &mut Value) {
        let had = ports_of(self.before);
        let wants = match text(spec, "type") {
            "NodePort" => true,
            "LoadBalancer" => spec["allocateLoadBalancerNodePorts"] != false,
            _ => false,
        };
        // The same number may serve several protocols of one service.
        let mut own = HashSet::new();
        for (index, port) in items_mut(spec, "ports").enumerate() {
            let stated = port["nodePort"].as_i64().and_then(|port| u16::try_from(port).ok()).unwrap_or(0);
            if stated == 0 && !wants {
                port.as_object_mut().and_then(|port| port.remove("nodePort"));
                continue;
            }
            let kept = had.contains(&stated) || own.contains(&stated);
            let taken = if kept { Ok(stated) } else { self.take_port(stated) };
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
    }

    /// The port at which a load balancer asks a node whether it has an endpoint.
    fn health_port(&mut self, spec: &mut Value) {
        let needed = text(spec, "type") == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local";
        let stated =
            spec["healthCheckNodePort"].as_i64().and_then(|port| u16::try_from(port).ok()).unwrap_or(0);
        if !needed || (stated != 0 && ports_of(self.before).contains(&stated)) {
            return;
        }
        match self.take_port(stated) {
            Ok(number) => spec["healthCheckNodePort"] = json!(number),
            // Kubernetes takes this for an error of its own.
            Err(why) if stated == 0 => {
                self.refused(format!("failed to allocate a HealthCheck NodePort 0: {why}"));
            }
            Err(why) => {
                self.refused(format!("failed to allocate requested HealthCheck NodePort {stated}: {why}"));
            }
        }
    }

    fn refused(&mut self, why: String) {
        self.refusal = Some(Refusal::internal(why));
    }

    fn take_port(&mut self, stated: u16) -> Result<u16, String> {
        let range = self.range;
        if self.records.is_shared() {
            self.taken.recount(self.records);
        }
        let number = match stated {
            0 => self.free_port().ok_or("failed to allocate a nodePort: range is full")?,
            stated if !range.contains(&stated) => {
                return Err(format!(
                    "provided port is not in the valid range. The range of valid ports is {}-{}",
                    range.start(),
                    range.end()
                ));
            }
            stated => stated,
        };
        if self.taken.has(number) {
            self.taken.recount(self.records);
        }
        if self.taken.has(number) {
            return Err("provided port is already allocated".to_owned());
        }
        self.taken.coming_ports.insert(number);
        self.ports.push(number);
        Ok(number)
    }

    fn free_port(&mut self) -> Option<u16> {
        let any = |taken: &Taken| {
            let offsets = Bands::of_ports(self.range).offsets();
            let mut ports = offsets
                .filter_map(|offset| Some(self.range.start().saturating_add(u16::try_from(offset).ok()?)));
            ports.find(|port| !taken.has(*port))
        };
        any(self.taken).or_else(|| {
            self.taken.recount(self.records);
            any(self.taken)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::kinds::by_kind;
    use base::Supervisor;

    /// A port that nobody has is found to be free when somebody wants it, though not at every refusal.
    #[tokio::test(start_paused = true)]
    async fn leaked_ports_are_found_when_they_are_wanted() {
        let folder = std::env::temp_dir().join(format!("knarr-ports-{}", std::process::id()));
        let supervisor = Supervisor::new();
        let records = Records::open(store::Config::new(folder.join("state.db")), &supervisor).await.unwrap();
        let pool = AddressPool { network: "10.43.0.0".parse().unwrap(), bits: 16 };
        let allocator = Allocator::new(&records, vec![pool], 30000..=30001);
        let leak = |port| allocator.taken().ports.insert(port, "gone".into());
        let wanted = |port: u16| {
            let ports = json!([{"port": 80, "nodePort": port}]);
            let mut service =
                json!({"metadata": {"name": "a", "uid": "a"}, "spec": {"type": "NodePort", "ports": ports}});
            let allocated = allocator.allocate(by_kind("v1", "Service").unwrap(), &mut service, None);
            allocated.map_err(|refusal| refusal.message)
        };
        leak(30000);
        let kept = wanted(30000).unwrap();
        let refused = wanted(30000).err().unwrap();
        assert!(refused.contains("provided port is already allocated"), "on its way: {refused}");
        kept.keep(&records).await;
        allocator.taken().free(&[30000], "another");
        assert!(wanted(30000).is_err(), "it is not another's to give back");
        allocator.taken().free(&[30000], "a");
        leak(30000);
        leak(30001);
        assert!(wanted(0).err().unwrap().contains("range is full"), "it was looked up just now");
        clock::sleep(RECOUNT_INTERVAL).await;
        assert!(wanted(0).is_ok());
        std::fs::remove_dir_all(folder).unwrap();
    }
}
