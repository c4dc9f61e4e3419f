//! Keeps a ServiceCIDR while services have addresses of it that no other one has (KEP-1880).

use crate::common::{Key, Room, now, unless_gone};
use api::meta::Condition;
use api::networking::{IPAddress, ServiceCIDR};
use api::{Meta, Object};
use base::clock;
use client::{Cache, Client, Error, Next, Patch, Queue};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::time::Duration;

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
/// How long a deletion is known before the last address could have been given from it.
const GRACE: Duration = Duration::from_secs(10);

#[derive(Clone)]
struct Ranges {
    client: Client,
    cidrs: Cache<ServiceCIDR>,
    addresses: Cache<IPAddress>,
}

pub(crate) fn start(room: &Room) {
    let controller =
        Ranges { client: room.client.clone(), cidrs: room.caches.of(), addresses: room.caches.of() };
    let queue = Queue::new("service cidr");
    let (changed, cidrs) = (queue.clone(), controller.cidrs.clone());
    controller.cidrs.on_change(move |change| {
        changed.add(Key::of(&**change.object()));
        // One that comes or goes may hold others up, or set them free.
        let going = cidrs
            .snapshot()
            .iter()
            .filter(|cidr| cidr.is_deleting())
            .map(|cidr| Key::of(&**cidr))
            .collect::<Vec<_>>();
        going.into_iter().for_each(|key| changed.add(key));
    });
    let (freed, cidrs) = (queue.clone(), controller.cidrs.clone());
    controller.addresses.on_change(move |change| {
        if change.new.is_none() {
            for cidr in cidrs.snapshot().iter().filter(|cidr| cidr.is_deleting()) {
                freed.add(Key::of(&**cidr));
            }
        }
    });
    room.work("service cidr controller", &queue, 1, move |key| controller.clone().sync(key));
}

/// A block of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    network: IpAddr,
    bits: u8,
}

impl Block {
    fn parse(text: &str) -> Option<Self> {
        let (network, bits) = text.split_once('/')?;
        Some(Self { network: network.parse().ok()?, bits: bits.parse().ok()? })
    }

    pub(crate) fn contains(self, address: IpAddr) -> bool {
        let (own, other, width) = match (self.network, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (u128::from(u32::from(own)), u128::from(u32::from(other)), 32)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => (u128::from(own), u128::from(other), 128),
            _ => return false,
        };
        let shift = width - u32::from(self.bits).min(width);
        own.checked_shr(shift).unwrap_or(0) == other.checked_shr(shift).unwrap_or(0)
    }

    fn covers(self, other: Self) -> bool {
        self.bits <= other.bits && self.contains(other.network)
    }
}

pub(crate) fn blocks(cidr: &ServiceCIDR) -> Vec<Block> {
    let texts = cidr.spec.as_ref().and_then(|spec| spec.cidrs.as_deref()).unwrap_or_default();
    texts.iter().filter_map(|text| Block::parse(text)).collect()
}

/// Whether services would be left with addresses of no block, were this one gone.
fn is_needed(own: &[Block], others: &[Block], addresses: impl Iterator<Item = IpAddr>) -> bool {
    if own.iter().all(|block| others.iter().any(|other| other.covers(*block))) {
        return false;
    }
    let mut addresses = addresses;
    addresses.any(|address| {
        own.iter().any(|block| block.contains(address)) && !others.iter().any(|block| block.contains(address))
    })
}

impl Ranges {
    async fn sync(self, key: Key) -> Result<Next, Error> {
        self.addresses.synced().await;
        let Some(cidr) = self.cidrs.get("", &key.name) else { return Ok(Next::Done) };
        let finalizers = cidr.meta().finalizers.as_deref().unwrap_or_default();
        let held = finalizers.iter().any(|finalizer| finalizer == FINALIZER);
        if !cidr.is_deleting() {
            if !held {
                self.patch(&key.name, json!({"metadata": {"finalizers": [FINALIZER]}})).await?;
            }
            return self.tell(&cidr, "True", "", "Kubernetes Service CIDR is ready").await;
        }
        let all = self.cidrs.snapshot();
        let others: Vec<Block> =
            all.iter().filter(|other| other.uid() != cidr.uid()).flat_map(|other| blocks(other)).collect();
        let addresses = self.addresses.snapshot();
        let parsed = addresses.iter().filter_map(|address| address.name().parse().ok());
        if is_needed(&blocks(&cidr), &others, parsed) {
            let why = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
            return self.tell(&cidr, "False", "Terminating", why).await;
        }
        let deleted = cidr.meta().deleted().map_or_else(clock::now, |time| time.0);
        let since = clock::between(deleted, clock::now());
        if since < GRACE {
            return Ok(Next::After(GRACE - since));
        }
        if held {
            let drop = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": [FINALIZER]}});
            self.patch(&key.name, drop).await?;
        }
        Ok(Next::Done)
    }

    async fn patch(&self, name: &str, patch: Value) -> Result<(), Error> {
        let patched = self.client.patch::<ServiceCIDR>("", name, &Patch::Strategic(patch)).await;
        unless_gone(patched.map(drop))
    }

    async fn tell(
        &self,
        cidr: &ServiceCIDR,
        status: &str,
        reason: &str,
        message: &str,
    ) -> Result<Next, Error> {
        let told = cidr.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let same = |one: &Condition| {
            one.type_ == "Ready" && one.status == status && one.reason == reason && one.message == message
        };
        if told.iter().any(same) {
            return Ok(Next::Done);
        }
        let condition = json!({"type": "Ready", "status": status, "reason": reason, "message": message, "lastTransitionTime": now()});
        let patch = Patch::Strategic(json!({"status": {"conditions": [condition]}}));
        let patched = self.client.patch_status::<ServiceCIDR>("", cidr.name(), &patch).await;
        unless_gone(patched.map(drop)).map(|()| Next::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_needed_while_it_alone_has_an_address() {
        let block = |text: &str| Block::parse(text).unwrap();
        let needed = |own: &str, others: &[&str], addresses: &[&str]| {
            let others: Vec<Block> = others.iter().map(|text| block(text)).collect();
            is_needed(&[block(own)], &others, addresses.iter().map(|text| text.parse().unwrap()))
        };
        assert!(needed("10.44.0.0/24", &["10.43.0.0/16"], &["10.44.0.7"]));
        assert!(!needed("10.44.0.0/24", &["10.43.0.0/16"], &["10.43.0.7"]));
        assert!(!needed("10.44.0.0/24", &["10.44.0.0/16"], &["10.44.0.7"]));
        assert!(!needed("10.44.0.0/24", &["10.44.0.0/25"], &["10.44.0.7"]));
        assert!(needed("10.44.0.0/24", &["10.44.0.0/25"], &["10.44.0.200"]));
    }
}
