//! Where addresses and ports come from: blocks, and their two bands (KEP-3070, KEP-3668).

use super::super::{items, text};
use super::families::Family;
use crate::registry::{Index, Records, read};
use base::random;
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use store::Snapshot;

/// A range of addresses by its first address and prefix length.
#[derive(Clone, Copy, Debug)]
pub struct AddressPool {
    /// The network's address.
    pub network: IpAddr,
    /// The prefix length.
    pub bits: u8,
}

/// An address as a number, to count from.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

impl AddressPool {
    /// Which family its addresses are of.
    pub(super) fn family(self) -> Family {
        Family::of(self.network)
    }

    /// How many services it has room for: the first address is none's, and of IPv4 the last one.
    fn size(self) -> u128 {
        let (width, kept) = if self.network.is_ipv4() { (32, 2) } else { (128, 1) };
        let all = 1_u128.checked_shl(u32::from(width - self.bits.min(width))).unwrap_or(u128::MAX);
        all.saturating_sub(kept)
    }

    fn contains(self, address: IpAddr) -> bool {
        let offset = number(address).wrapping_sub(number(self.network));
        address.is_ipv4() == self.network.is_ipv4() && offset >= 1 && offset <= self.size()
    }

    /// The address of the n-th service.
    fn nth(self, offset: u32) -> IpAddr {
        match self.network {
            IpAddr::V4(v4) => {
                Ipv4Addr::from_bits(v4.to_bits().saturating_add(1).saturating_add(offset)).into()
            }
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits().saturating_add(1 + u128::from(offset))).into(),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let (network, bits) = text.split_once('/')?;
        let network: IpAddr = network.parse().ok()?;
        let width = if network.is_ipv4() { 32 } else { 128 };
        Some(Self { network, bits: bits.parse().ok().filter(|bits| *bits <= width)? })
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
        // Of a larger block the first four billion.
        Self::new(u32::try_from(pool.size()).unwrap_or(u32::MAX), 16, 256)
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
    /// Reads the ServiceCIDRs that are not going; before there is any, they are those configured.
    pub(super) fn read(records: &Records, configured: &[AddressPool]) -> Self {
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
            blocks.extend(configured);
        }
        Self { snapshot, blocks }
    }

    pub(super) fn contain(&self, address: IpAddr) -> bool {
        self.blocks.iter().any(|block| block.contains(address))
    }

    /// Whether an IPAddress says that somebody has it.
    pub(super) fn is_taken(&self, address: IpAddr) -> bool {
        self.snapshot.get(&super::addresses::key(address)).is_some()
    }

    /// An address of a family that nobody has and that is not on its way to somebody.
    pub(super) fn free(&self, family: Family, on_its_way: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
        let blocks = self.blocks.iter().filter(|block| block.family() == family);
        let all =
            blocks.flat_map(|block| Bands::of_addresses(*block).offsets().map(|offset| block.nth(offset)));
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
        let inside = |last: u8| pool.contains(Ipv4Addr::new(10, 0, 0, last).into());
        assert_eq!(
            [inside(0), inside(1), inside(2), inside(3), inside(4)],
            [false, true, true, false, false]
        );
    }
    #[test]
    fn blocks_of_either_family_are_counted() {
        let pool = AddressPool::parse("fd00:43::/112").unwrap();
        assert_eq!((pool.size(), pool.nth(0).to_string()), (65_535, "fd00:43::1".to_owned()));
        let inside = |text: &str| pool.contains(text.parse().unwrap());
        assert_eq!(
            [inside("fd00:43::"), inside("fd00:43::ffff"), inside("fd00:43::1:0"), inside("10.43.0.1")],
            [false, true, false, false]
        );
        assert_eq!(AddressPool::parse("::/0").unwrap().size(), u128::MAX - 1);
        assert!(AddressPool::parse("10.0.0.0/33").is_none());
        assert_eq!(Bands::of_addresses(AddressPool::parse("fd00::/64").unwrap()).size, u32::MAX);
    }
}
