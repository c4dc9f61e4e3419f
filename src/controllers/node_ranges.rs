//! Divides the cluster's pod ranges among nodes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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

/// The cluster's ranges.
pub(crate) struct Ranges(Vec<Range>);

impl Ranges {
    /// Ranges that do not parse are left out: the configuration has been checked before.
    pub(crate) fn new(cidrs: &[String]) -> Self {
        Self(cidrs.iter().filter_map(|cidr| Range::parse(cidr)).collect())
    }

    /// The first free part of each range, or nothing if one is exhausted.
    pub(crate) fn free<'a>(&self, used: impl Iterator<Item = &'a str>) -> Option<Vec<String>> {
        let used: std::collections::HashSet<&str> = used.collect();
        let free = |range: &Range| {
            (0..range.size).map(|at| range.part(at)).find(|part| !used.contains(part.as_str()))
        };
        let parts: Vec<_> = self.0.iter().map_while(free).collect();
        (parts.len() == self.0.len() && !parts.is_empty()).then_some(parts)
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
        assert_eq!(
            ranges.free(["10.42.0.0/24", "10.42.2.0/24"].into_iter()).unwrap(),
            ["10.42.1.0/24", "fd00:42::/64"]
        );
        let small = Ranges::new(&["10.42.0.0/24".to_owned()]);
        assert_eq!(small.free([].into_iter()).unwrap(), ["10.42.0.0/24"]);
        assert_eq!(small.free(["10.42.0.0/24"].into_iter()), None);
    }
}
