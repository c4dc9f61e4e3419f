//! Address blocks.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An address block such as `10.42.0.0/24`; the bits after the prefix are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The address of the same family with these bits.
#[expect(clippy::cast_possible_truncation, reason = "an IPv4 block computes within 32 bits")]
fn with_bits(family: IpAddr, value: u128) -> IpAddr {
    match family {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from_bits(value as u32)),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(value)),
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

impl Cidr {
    /// The block of one address.
    pub fn single(address: IpAddr) -> Self {
        Self { address, prefix: width(address) }
    }

    /// The block around `address`; none if the prefix is longer than the address.
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        let width = width(address);
        let host_bits = u32::from(width.checked_sub(prefix)?);
        let network = bits(address).checked_shr(host_bits).unwrap_or(0).checked_shl(host_bits).unwrap_or(0);
        Some(Self { address: with_bits(address, network), prefix })
    }

    /// The first address, which names the block.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The last address of the block.
    pub fn last(&self) -> IpAddr {
        let host_bits = u32::from(width(self.address) - self.prefix);
        let ones = 1_u128.checked_shl(host_bits).map_or(u128::MAX, |size| size - 1);
        with_bits(self.address, bits(self.address) | ones)
    }

    /// How many leading bits are fixed.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether these are IPv4 addresses.
    pub fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }

    /// Whether `address` lies in the block.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.is_ipv4() && Self::new(address, self.prefix) == Some(*self)
    }

    /// Whether these are addresses that are routed within one site alone (RFC 4193).
    pub fn is_unique_local(&self) -> bool {
        matches!(self.address, IpAddr::V6(v6) if v6.is_unique_local())
    }

    /// Whether an address lies in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    /// How many addresses the block has.
    pub fn size(&self) -> u128 {
        1_u128.checked_shl(u32::from(width(self.address) - self.prefix)).unwrap_or(u128::MAX)
    }

    /// The address at an offset; none outside the block.
    pub fn nth(&self, offset: u128) -> Option<IpAddr> {
        (offset < self.size()).then(|| with_bits(self.address, bits(self.address) + offset))
    }

    /// Where `address` lies in the block.
    pub fn offset_of(&self, address: IpAddr) -> Option<u128> {
        self.contains(address).then(|| bits(address) - bits(self.address))
    }

    /// The node's own address in its block of pod addresses: the first after the block's name.
    pub fn gateway(&self) -> IpAddr {
        self.nth(1).unwrap_or(self.address)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let error = || format!("{text:?} is not an address block such as 10.42.0.0/16");
        let (address, prefix) = text.split_once('/').ok_or_else(error)?;
        let address: IpAddr = address.parse().map_err(|_| error())?;
        Self::new(address, prefix.parse().map_err(|_| error())?).ok_or_else(error)
    }
}

impl serde::Serialize for Cidr {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Cidr {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_parse_contain_and_count() {
        let block: Cidr = "10.42.3.9/24".parse().unwrap();
        assert_eq!(block.to_string(), "10.42.3.0/24");
        assert_eq!((block.size(), block.gateway().to_string()), (256, "10.42.3.1".to_owned()));
        assert!(
            block.contains("10.42.3.255".parse().unwrap()) && !block.contains("10.42.4.0".parse().unwrap())
        );
        assert_eq!(block.last().to_string(), "10.42.3.255");
        assert_eq!(
            "::/0".parse::<Cidr>().unwrap().last().to_string(),
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
        );
        assert_eq!(block.offset_of("10.42.3.7".parse().unwrap()), Some(7));
        assert_eq!("0.0.0.0/0".parse::<Cidr>().unwrap().to_string(), "0.0.0.0/0");
        assert_eq!("fd00::1:2/112".parse::<Cidr>().unwrap().gateway().to_string(), "fd00::1:1");
        let overlap = |one: &str, other: &str| {
            let [one, other] = [one, other].map(|text| text.parse::<Cidr>().unwrap());
            assert_eq!(one.overlaps(&other), other.overlaps(&one));
            one.overlaps(&other)
        };
        assert!(overlap("10.42.0.0/16", "10.42.7.0/24") && overlap("::/0", "fd00::/8"));
        assert!(!overlap("10.42.0.0/16", "10.43.0.0/16") && !overlap("0.0.0.0/0", "::/0"));
        assert!("10.0.0.0/33".parse::<Cidr>().is_err() && "10.0.0.0".parse::<Cidr>().is_err());
    }
}
