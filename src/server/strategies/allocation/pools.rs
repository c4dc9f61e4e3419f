//! Where addresses and ports come from: blocks, and their two bands (KEP-3070, KEP-3668).

use super::super::{items, text};
use crate::registry::{Index, Records, read};
use base::random;
use serde_json::Value;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use store::Snapshot;

/// A range of addresses by its first address and prefix length.
#[derive(Clone, Copy, Debug)]
pub struct AddressPool {
    /// The network's address.
    pub network: Ipv4Addr,
    /// The prefix length.
    pub bits: u8,
}

impl AddressPool {
    /// How many services it has room for: neither the first nor the last address is one's.
    fn size(self) -> u32 {
        u32::MAX.checked_shr(u32::from(self.bits)).unwrap_or(0).saturating_sub(1)
    }

    fn contains(self, address: Ipv4Addr) -> bool {
        let offset = u32::from(address).wrapping_sub(u32::from(self.network));
        offset >= 1 && offset <= self.size()
    }

    fn parse(text: &str) -> Option<Self> {
        let (network, bits) = text.split_once('/')?;
        Some(Self { network: network.parse().ok()?, bits: bits.parse().ok().filter(|bits| *bits <= 32)? })
    }
}

/// A range in two bands: the lower one is for those who ask by number, and used by others last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bands {
    lower: u32,
    size: u32,
}

impl Bands {
    fn new(size: u32, step: u32, most: u32) -> Self {
        const LEAST: u32 = 16;
        let lower = if size <= LEAST { 0 } else { (size / step).clamp(LEAST, most) };
        Self { lower, size }
    }

    fn of_addresses(pool: AddressPool) -> Self {
        Self::new(pool.size(), 16, 256)
    }

    pub(super) fn of_ports(range: &RangeInclusive<u16>) -> Self {
        Self::new(u32::from(range.end() - range.start()) + 1, 32, 128)
    }

    /// All offsets, from a random one on in the upper band and then in the lower, so that what a service
    /// gave up is not soon used again.
    pub(super) fn offsets(self) -> impl Iterator<Item = u32> {
        let turned = |first: u32, size: u32| {
            let start = u32::from_le_bytes(random::bytes()) % size.max(1);
            (0..size).map(move |step| first + (start + step) % size)
        };
        turned(self.lower, self.size - self.lower).chain(turned(0, self.lower))
    }
}

/// The blocks that services get addresses from now.
pub(super) struct Pools {
    snapshot: Snapshot<Index>,
    blocks: Vec<AddressPool>,
}

impl Pools {
    /// Reads the ServiceCIDRs that are not going; before there is any, it is the configured block.
    pub(super) fn read(records: &Records, configured: AddressPool) -> Self {
        let snapshot = records.snapshot();
        let mut blocks = Vec::new();
        let mut any = false;
        for record in snapshot.range("servicecidrs.networking.k8s.io/", None) {
            let cidr = read(record);
            any = true;
            if text(&cidr["metadata"], "deletionTimestamp").is_empty() {
                let texts = items(&cidr["spec"], "cidrs").iter().filter_map(Value::as_str);
                blocks.extend(texts.filter_map(AddressPool::parse));
            }
        }
        if !any {
            blocks.push(configured);
        }
        Self { snapshot, blocks }
    }

    pub(super) fn contain(&self, address: Ipv4Addr) -> bool {
        self.blocks.iter().any(|block| block.contains(address))
    }

    /// Whether an IPAddress says that somebody has it.
    pub(super) fn is_taken(&self, address: Ipv4Addr) -> bool {
        self.snapshot.get(&super::addresses::key(address)).is_some()
    }

    /// An address that nobody has and that is not on its way to somebody.
    pub(super) fn free(&self, on_its_way: impl Fn(Ipv4Addr) -> bool) -> Option<Ipv4Addr> {
        let all = self.blocks.iter().flat_map(|block| {
            let first = u32::from(block.network).saturating_add(1);
            Bands::of_addresses(*block)
                .offsets()
                .map(move |offset| Ipv4Addr::from(first.saturating_add(offset)))
        });
        let mut free = all.filter(|address| !on_its_way(*address) && !self.is_taken(*address));
        free.next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lower_band_is_used_last() {
        let pool = AddressPool::parse("10.43.0.0/24").unwrap();
        assert_eq!(Bands::of_addresses(pool), Bands { lower: 16, size: 254 });
        let offsets: Vec<u32> = Bands::of_addresses(pool).offsets().collect();
        assert!(offsets[..238].iter().all(|offset| *offset >= 16));
        let mut all = offsets.clone();
        all.sort_unstable();
        assert_eq!(all, (0..254).collect::<Vec<_>>());
        assert_eq!(Bands::of_ports(&(30000..=32767)), Bands { lower: 86, size: 2768 });
        assert_eq!(Bands::of_ports(&(30000..=30009)).lower, 0);
        assert_eq!(Bands::of_addresses(AddressPool::parse("10.43.0.0/16").unwrap()).lower, 256);
    }

    #[test]
    fn neither_the_first_nor_the_last_address_is_given() {
        let pool = AddressPool::parse("10.0.0.0/30").unwrap();
        let inside = |last: u8| pool.contains(Ipv4Addr::new(10, 0, 0, last));
        assert_eq!(
            [inside(0), inside(1), inside(2), inside(3), inside(4)],
            [false, true, true, false, false]
        );
    }
}
