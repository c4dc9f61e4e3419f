//! IP addresses and networks.

use super::{Opaque, Row, opaque, text};
use crate::value::{Fault, Outcome, Value, fail, no_overload};
use api::validate::network_of;
use std::fmt;
use std::net::IpAddr;

pub(super) const ROWS: &[Row] = &[
    ("ip", "string_to_ip", "(string) -> IP", Some(|of| ip_of(text(of, 0)?).map(ip_value))),
    ("isIP", "is_ip", "(string) -> bool", Some(|of| Ok(Value::Bool(ip_of(text(of, 0)?).is_ok())))),
    ("ip.isCanonical", "ip_is_canonical", "(string) -> bool", Some(is_canonical)),
    (
        "family",
        "ip_family",
        "IP.() -> int",
        Some(|of| Ok(Value::Int(if ip(of, 0)?.is_ipv4() { 4 } else { 6 }))),
    ),
    ("isUnspecified", "ip_is_unspecified", "IP.() -> bool", Some(|of| is(of, |ip| ip.is_unspecified()))),
    ("isLoopback", "ip_is_loopback", "IP.() -> bool", Some(|of| is(of, |ip| ip.is_loopback()))),
    (
        "isLinkLocalMulticast",
        "ip_is_link_local_multicast",
        "IP.() -> bool",
        Some(|of| is(of, is_link_local_multicast)),
    ),
    ("isLinkLocalUnicast", "ip_is_link_local_unicast", "IP.() -> bool", Some(|of| is(of, is_link_local))),
    ("isGlobalUnicast", "ip_is_global_unicast", "IP.() -> bool", Some(|of| is(of, is_global_unicast))),
    ("cidr", "string_to_cidr", "(string) -> CIDR", Some(|of| cidr_of(text(of, 0)?).map(cidr_value))),
    ("isCIDR", "is_cidr", "(string) -> bool", Some(|of| Ok(Value::Bool(cidr_of(text(of, 0)?).is_ok())))),
    ("containsIP", "cidr_contains_ip_string", "CIDR.(string) -> bool", Some(contains_ip)),
    ("containsIP", "cidr_contains_ip_ip", "CIDR.(IP) -> bool", Some(contains_ip)),
    ("containsCIDR", "cidr_contains_cidr_string", "CIDR.(string) -> bool", Some(contains_cidr)),
    ("containsCIDR", "cidr_contains_cidr", "CIDR.(CIDR) -> bool", Some(contains_cidr)),
    ("ip", "cidr_ip", "CIDR.() -> IP", Some(|of| Ok(ip_value(cidr(of, 0)?.address)))),
    (
        "prefixLength",
        "cidr_prefix_length",
        "CIDR.() -> int",
        Some(|of| Ok(Value::Int(i64::from(cidr(of, 0)?.length)))),
    ),
    ("masked", "cidr_masked", "CIDR.() -> CIDR", Some(|of| Ok(cidr_value(cidr(of, 0)?.masked())))),
];

/// A network: an address and how many bits of it count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    pub(super) address: IpAddr,
    pub(super) length: u8,
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl Cidr {
    fn masked(self) -> Self {
        Self { address: network_of(self.address, self.length), ..self }
    }

    fn contains(self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && Self { address, ..self }.masked() == self.masked()
    }
}

fn ip_value<'a>(address: IpAddr) -> Value<'a> {
    Value::opaque(Opaque::Ip(address))
}

fn cidr_value<'a>(cidr: Cidr) -> Value<'a> {
    Value::opaque(Opaque::Cidr(cidr))
}

fn ip(of: &[Value<'_>], at: usize) -> Result<IpAddr, Fault> {
    match opaque(of, at)? {
        Opaque::Ip(address) => Ok(*address),
        _ => no_overload(),
    }
}

fn cidr(of: &[Value<'_>], at: usize) -> Result<Cidr, Fault> {
    match opaque(of, at)? {
        Opaque::Cidr(cidr) => Ok(*cidr),
        _ => no_overload(),
    }
}

fn ip_of(text: &str) -> Result<IpAddr, Fault> {
    if text.contains('%') {
        return fail(format!("IP address {text:?} with zone value is not allowed"));
    }
    match text.parse() {
        Ok(IpAddr::V6(address)) if address.to_ipv4_mapped().is_some() => {
            fail(format!("IPv4-mapped IPv6 address {text:?} is not allowed"))
        }
        Ok(address) => Ok(address),
        Err(_) => fail(format!(
            "IP Address {text:?} parse error during conversion from string: ParseAddr({text:?}): unable to parse IP"
        )),
    }
}

fn cidr_of(text: &str) -> Result<Cidr, Fault> {
    let parsed = text.split_once('/').and_then(|(address, length)| {
        let address: IpAddr = address.parse().ok()?;
        let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
        let canonical = digits && (length.len() == 1 || !length.starts_with('0'));
        let length: u8 = canonical.then(|| length.parse().ok())??;
        (length <= if address.is_ipv4() { 32 } else { 128 }).then_some(Cidr { address, length })
    });
    const CONTEXT: &str = "network address parse error during conversion from string: ";
    match parsed {
        Some(Cidr { address: IpAddr::V6(address), .. }) if address.to_ipv4_mapped().is_some() => {
            fail(format!("{CONTEXT}IPv4-mapped IPv6 address {text:?} is not allowed"))
        }
        Some(cidr) => Ok(cidr),
        None => {
            let reason = if text.contains('/') { "bad prefix" } else { "no '/'" };
            fail(format!("{CONTEXT}{CONTEXT}netip.ParsePrefix({text:?}): {reason}"))
        }
    }
}

fn is_canonical<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    let written = text(of, 0)?;
    Ok(Value::Bool(ip_of(written)?.to_string() == written))
}

fn is<'a>(of: &[Value<'a>], test: fn(IpAddr) -> bool) -> Outcome<'a> {
    Ok(Value::Bool(test(ip(of, 0)?)))
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

fn is_link_local_multicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => ip.octets()[..3] == [224, 0, 0],
        IpAddr::V6(ip) => ip.segments()[0] & 0xff0f == 0xff02,
    }
}

fn is_global_unicast(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(ip) if ip.is_broadcast());
    let other = address.is_unspecified() || address.is_loopback() || address.is_multicast();
    !broadcast && !other && !is_link_local(address)
}

fn contains_ip<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    let address = match of[1].as_str() {
        Some(text) => ip_of(text)?,
        None => ip(of, 1)?,
    };
    Ok(Value::Bool(cidr(of, 0)?.contains(address)))
}

fn contains_cidr<'a>(of: &[Value<'a>]) -> Outcome<'a> {
    let outer = cidr(of, 0)?;
    let inner = match of[1].as_str() {
        Some(text) => cidr_of(text)?,
        None => cidr(of, 1)?,
    };
    Ok(Value::Bool(outer.length <= inner.length && outer.contains(inner.address)))
}
