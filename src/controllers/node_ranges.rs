//! Divides the cluster's pod ranges among nodes.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What one node gets (kube-controller-manager's `--node-cidr-mask-size-ipv4` and `-ipv6`).
const NODE_BITS_V4: u8 = 24;
const NODE_BITS_V6: u8 = 64;

struct Range {
    base: u128,
    /// How many nodes it serves.
    size: u128,
    /// Addresses a node gets.
    step: u128,
    v4: bool,
}

/// The cluster's ranges, and which parts of them nodes have.
pub(crate) struct Ranges {
    ranges: Vec<Range>,
    used: Mutex<HashSet<String>>,
}

impl Ranges {
    /// Ranges that do not parse are left out: the configuration has been checked before.
    pub(crate) fn new(cidrs: &[String]) -> Self {
        let ranges = cidrs.iter().filter_map(|cidr| Range::parse(cidr)).collect();
        Self { ranges, used: Mutex::default() }
    }

    fn used(&self) -> MutexGuard<'_, HashSet<String>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node has these parts.
    pub(crate) fn note(&self, parts: &[String]) {
        self.used().extend(parts.iter().cloned());
    }

    /// A node that had these parts is gone, or did not get them.
    pub(crate) fn release(&self, parts: &[String]) {
        let mut used = self.used();
        parts.iter().for_each(|part| drop(used.take(part)));
    }

    /// Takes the first free part of each range, or nothing if one is exhausted.
    pub(crate) fn take(&self) -> Option<Vec<String>> {
        let mut used = self.used();
        let free = |range: &Range| (0..range.size).map(|at| range.part(at)).find(|part| !used.contains(part));
        let parts: Vec<_> = self.ranges.iter().map_while(free).collect();
        if parts.len() < self.ranges.len() || parts.is_empty() {
            return None;
        }
        used.extend(parts.iter().cloned());
        Some(parts)
    }
}

impl Range {
    fn parse(cidr: &str) -> Option<Self> {
        let (address, bits) = cidr.split_once('/')?;
        let bits: u8 = bits.parse().ok()?;
        let (base, v4, node_bits, width) = match address.parse().ok()? {
            IpAddr::V4(v4) => (u128::from(u32::from(v4)), true, NODE_BITS_V4.max(bits), 32),
            IpAddr::V6(v6) => (u128::from(v6), false, NODE_BITS_V6.max(bits), 128),
        };
        Some(Self { base, v4, size: 1 << (node_bits - bits).min(16), step: 1 << (width - node_bits) })
    }

    fn part(&self, at: u128) -> String {
        let address = self.base + at * self.step;
        if self.v4 {
            let bits = 32 - self.step.trailing_zeros();
            format!("{}/{bits}", Ipv4Addr::from(u32::try_from(address).unwrap_or(u32::MAX)))
        } else {
            format!("{}/{}", Ipv6Addr::from(address), 128 - self.step.trailing_zeros())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_get_parts_nobody_has() {
        let ranges = Ranges::new(&["10.42.0.0/16".to_owned(), "fd00:42::/56".to_owned()]);
        ranges.note(&["10.42.0.0/24".to_owned(), "10.42.2.0/24".to_owned()]);
        assert_eq!(ranges.take().unwrap(), ["10.42.1.0/24", "fd00:42::/64"]);
        assert_eq!(ranges.take().unwrap(), ["10.42.3.0/24", "fd00:42:0:1::/64"]);
        let small = Ranges::new(&["10.42.0.0/24".to_owned()]);
        let taken = small.take().unwrap();
        assert_eq!((taken[0].as_str(), small.take()), ("10.42.0.0/24", None));
        small.release(&taken);
        assert_eq!(small.take(), Some(taken));
    }
}
