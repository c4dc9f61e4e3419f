//! Looks whether every service has its IPAddress and every IPAddress its service, and repairs what it can.

use crate::common::{Key, Room, if_there, seconds_between, unless_gone, watch_self};
use crate::service_cidr::blocks;
use api::core::Service;
use api::networking::{IPAddress, ParentReference, ServiceCIDR};
use api::{Meta, Object};
use base::clock;
use client::{Cache, Client, Error, Next, Queue, Recorder, path_of};
use http::Method;
use serde_json::json;
use std::net::IpAddr;
use std::time::Duration;

const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const MANAGER: &str = "ipallocator.k8s.io";
/// A write takes no longer, so that what has no service by then never gets one.
const GRACE_S: i64 = 60;

#[derive(Clone)]
struct Addresses {
    client: Client,
    recorder: Recorder,
    services: Cache<Service>,
    addresses: Cache<IPAddress>,
    cidrs: Cache<ServiceCIDR>,
}

pub(crate) fn start(room: &Room) {
    let controller = Addresses {
        client: room.client.clone(),
        recorder: room.recorder("ipallocator-repair-controller"),
        services: room.caches.of(),
        addresses: room.caches.of(),
        cidrs: room.caches.of(),
    };
    let (services, addresses) = (Queue::new("addresses of services"), Queue::new("services of addresses"));
    watch_self(&controller.services, &services);
    watch_self(&controller.addresses, &addresses);
    let gone = services.clone();
    controller.addresses.on_change(move |change| {
        if change.new.is_none() {
            gone.add(key_of(parent(change.object())));
        }
    });
    let released = addresses.clone();
    controller.services.on_change(move |change| {
        if let Some(old) = &change.old {
            cluster_ips(old).iter().for_each(|ip| released.add(Key::new("", ip)));
        }
    });
    let own = controller.clone();
    room.work("addresses of services", &services, 1, move |key| own.clone().service(key));
    room.work("services of addresses", &addresses, 1, move |key| controller.clone().address(key));
}

fn cluster_ips(service: &Service) -> Vec<String> {
    let ips = service.spec.as_ref().and_then(|spec| spec.cluster_ips.clone()).unwrap_or_default();
    ips.into_iter().filter(|ip| !ip.is_empty() && ip != "None").collect()
}

fn parent(address: &IPAddress) -> &ParentReference {
    &address.spec.parent_ref
}

fn key_of(parent: &ParentReference) -> Key {
    Key::new(parent.namespace.as_deref().unwrap_or_default(), &parent.name)
}

fn is_of_service(parent: &ParentReference) -> bool {
    parent.group.as_deref().unwrap_or_default().is_empty() && parent.resource == "services"
}

fn owner_of(address: &IPAddress) -> Option<Key> {
    Some(parent(address)).filter(|parent| is_of_service(parent)).map(key_of)
}

fn age_s(object: &impl Object) -> i64 {
    object.meta().created().map_or(GRACE_S, |made| seconds_between(made.0, clock::now()))
}

impl Addresses {
    async fn service(self, key: Key) -> Result<Next, Error> {
        self.addresses.synced().await;
        self.cidrs.synced().await;
        let Some(service) = self.services.get(&key.namespace, &key.name) else { return Ok(Next::Done) };
        if service.is_deleting() {
            return Ok(Next::Done);
        }
        for ip in cluster_ips(&service) {
            self.check(&service, &key, &ip).await?;
        }
        Ok(Next::Done)
    }

    async fn check(&self, service: &Service, key: &Key, ip: &str) -> Result<(), Error> {
        let Ok(address) = ip.parse::<IpAddr>() else {
            let why = format!("Cluster IP {ip} is not a valid IP; please recreate Service");
            self.recorder.warning(service, "ClusterIPNotValid", why);
            return Ok(());
        };
        let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        if !self.is_in_range(address) {
            let why = format!(
                "Cluster IP [{family}]: {ip} is not within any configured Service CIDR; please recreate service"
            );
            self.recorder.warning(service, "ClusterIPOutOfRange", why);
            return Ok(());
        }
        let is_kept = |address: &IPAddress| owner_of(address).as_ref() == Some(key);
        if self.addresses.get("", ip).is_some_and(|address| is_kept(&address)) {
            return Ok(());
        }
        // One cache may be behind the other: before anything is said or done, the server is asked.
        if !self.still_has(service, key, ip).await? {
            return Ok(());
        }
        let Some(there) = if_there(self.client.get::<IPAddress>("", ip).await)? else {
            let why = format!("Cluster IP [{family}]: {ip} is not allocated; repairing");
            self.recorder.warning(service, "ClusterIPNotAllocated", why);
            return self.make(key, ip, family).await;
        };
        if is_kept(&there) {
            return Ok(());
        }
        let other = owner_of(&there).and_then(|owner| self.services.get(&owner.namespace, &owner.name));
        if other.is_some_and(|other| cluster_ips(&other).iter().any(|own| own == ip)) {
            let why = format!(
                "Cluster IP [{family}]:{ip} was assigned to multiple services; please recreate service"
            );
            self.recorder.warning(service, "ClusterIPAlreadyAllocated", why);
            return Ok(());
        }
        let why = format!(
            "the ClusterIP [{family}]: {ip} for Service {}/{} has a wrong reference; repairing",
            key.namespace, key.name
        );
        self.recorder.warning(service, "ClusterIPNotAllocated", why);
        self.remove(ip).await?;
        self.make(key, ip, family).await
    }

    /// Whether a service is there as it was seen, with an address.
    async fn still_has(&self, service: &Service, key: &Key, ip: &str) -> Result<bool, Error> {
        let now = if_there(self.client.get::<Service>(&key.namespace, &key.name).await)?;
        Ok(now.is_some_and(|now| {
            let is_same = now.uid() == service.uid() && !now.is_deleting();
            is_same && cluster_ips(&now).iter().any(|own| own == ip)
        }))
    }

    /// Before the first range is there, nothing is outside of it.
    fn is_in_range(&self, address: IpAddr) -> bool {
        let cidrs = self.cidrs.snapshot();
        cidrs.is_empty() || cidrs.iter().flat_map(|cidr| blocks(cidr)).any(|block| block.contains(address))
    }

    async fn make(&self, key: &Key, ip: &str, family: &str) -> Result<(), Error> {
        let body = json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
            "metadata": {"name": ip, "labels": {"ipaddress.kubernetes.io/ip-family": family, MANAGED_BY: MANAGER}},
            "spec": {"parentRef": {"resource": "services", "namespace": key.namespace, "name": key.name}}});
        let made = self.client.send(Method::POST, &path_of::<IPAddress>(""), Some(&body)).await;
        match made {
            Err(error) if error.is_already_exists() => Ok(()),
            other => other.map(drop),
        }
    }

    async fn remove(&self, ip: &str) -> Result<(), Error> {
        let path = format!("{}/{ip}", path_of::<IPAddress>(""));
        unless_gone(self.client.send(Method::DELETE, &path, None).await.map(drop))
    }

    async fn address(self, key: Key) -> Result<Next, Error> {
        self.services.synced().await;
        let Some(address) = self.addresses.get("", &key.name) else { return Ok(Next::Done) };
        let managed = address.labels().get(MANAGED_BY).is_some_and(|by| by == MANAGER);
        if !managed {
            return Ok(Next::Done);
        }
        let parent = parent(&address);
        let (ip, of) = (&key.name, key_of(parent));
        let (reason, why) = if !is_of_service(parent) {
            let why = format!(
                "IPAddress {ip} appears to have been modified, not referencing a Service {}: cleaning up",
                of.name
            );
            ("IPAddressNotAllocated", why)
        } else {
            let service = self.services.get(&of.namespace, &of.name);
            if service.as_ref().is_some_and(|service| cluster_ips(service).contains(ip)) {
                return Ok(Next::Done);
            }
            let left = GRACE_S - age_s(&*address);
            if left > 0 {
                return Ok(Next::After(Duration::from_secs(left.unsigned_abs())));
            }
            let place = format!("IPAddress: {ip} for Service {}/{}", of.namespace, of.name);
            match service {
                None => ("IPAddressNotAllocated", format!("{place} appears to have leaked: cleaning up")),
                Some(_) => ("IPAddressWrongReference", format!("{place} has a wrong reference; cleaning up")),
            }
        };
        self.recorder.warning(&*address, reason, why);
        self.remove(ip).await?;
        Ok(Next::Done)
    }
}
