//! Names as they stand in messages, in lower case: compared, looked up and written as bytes.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The longest name, with the lengths of its labels and the root's zero (RFC 1035).
const LONGEST: usize = 255;
const LONGEST_LABEL: usize = 63;

/// A name in lower case. It lies in place: names are made for every query.
#[derive(Clone, Copy)]
pub(crate) struct Name {
    length: u8,
    bytes: [u8; LONGEST],
}

impl Name {
    /// `.`
    pub(crate) const ROOT: Self = Self { length: 1, bytes: [0; LONGEST] };

    /// From text, with or without a dot at its end. None for what is no name.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() {
            return Some(Self::ROOT);
        }
        Self::of_labels(text.split('.').map(str::as_bytes), &Self::ROOT)
    }

    /// From labels, and the name that they stand below.
    pub(crate) fn of_labels<'a>(labels: impl Iterator<Item = &'a [u8]>, below: &Self) -> Option<Self> {
        let mut name = Self { length: 0, bytes: [0; LONGEST] };
        for label in labels {
            if label.is_empty() || label.len() > LONGEST_LABEL {
                return None;
            }
            name.push(&[u8::try_from(label.len()).ok()?])?;
            name.push(label)?;
        }
        name.push(below.as_bytes())?;
        Some(name)
    }

    /// Labels as they stand in a message, and the name that they stand below.
    pub(crate) fn of_wire(labels: &[u8], below: &Self) -> Option<Self> {
        let mut name = Self { length: 0, bytes: [0; LONGEST] };
        name.push(labels)?;
        name.push(below.as_bytes())?;
        Some(name)
    }

    /// The uncompressed name at the beginning of `bytes`, with its length there.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let mut end = 0;
        loop {
            match *bytes.get(end)? {
                0 => break,
                length if usize::from(length) <= LONGEST_LABEL => end += 1 + usize::from(length),
                _ => return None,
            }
        }
        let mut name = Self { length: 0, bytes: [0; LONGEST] };
        name.push(&bytes[..=end])?;
        Some(name)
    }

    fn push(&mut self, more: &[u8]) -> Option<()> {
        let (start, end) = (self.len(), self.len() + more.len());
        let place = self.bytes.get_mut(start..end)?;
        place.copy_from_slice(more);
        place.make_ascii_lowercase();
        self.length = u8::try_from(end).ok()?;
        Some(())
    }

    /// With the root's zero.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len()]
    }

    pub(crate) fn len(&self) -> usize {
        usize::from(self.length)
    }

    pub(crate) fn is_root(&self) -> bool {
        self.length == 1
    }

    /// Where labels begin, with the root.
    pub(crate) fn starts(&self) -> impl Iterator<Item = usize> {
        let mut next = Some(0);
        std::iter::from_fn(move || {
            let at = next?;
            let length = usize::from(self.bytes[at]);
            next = (length > 0).then_some(at + 1 + length);
            Some(at)
        })
    }

    pub(crate) fn labels(&self) -> impl Iterator<Item = &[u8]> {
        self.starts().map(|at| &self.bytes[at + 1..][..usize::from(self.bytes[at])]).filter(|l| !l.is_empty())
    }

    /// Where `ancestor` begins in this name, which is it or lies below it.
    pub(crate) fn find(&self, ancestor: &Self) -> Option<usize> {
        let at = self.len().checked_sub(ancestor.len())?;
        (self.bytes[at..self.len()] == *ancestor.as_bytes() && self.starts().any(|start| start == at))
            .then_some(at)
    }

    /// Whether this is `ancestor` or lies below it.
    pub(crate) fn is_in(&self, ancestor: &Self) -> bool {
        self.find(ancestor).is_some()
    }

    /// The reverse name of an address.
    #[cfg(test)]
    pub(crate) fn of_address(address: IpAddr) -> Option<Self> {
        let text = match address {
            IpAddr::V4(v4) => {
                let [a, b, c, d] = v4.octets();
                format!("{d}.{c}.{b}.{a}.in-addr.arpa")
            }
            IpAddr::V6(v6) => {
                let nibbles = v6.octets().into_iter().rev().flat_map(|octet| [octet & 15, octet >> 4]);
                nibbles.map(|nibble| format!("{nibble:x}.")).collect::<String>() + "ip6.arpa"
            }
        };
        Self::parse(&text)
    }

    /// The address whose reverse name this is.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        if self.bytes[..self.len()].ends_with(b"\x07in-addr\x04arpa\0") {
            return self.v4().map(IpAddr::V4);
        }
        if self.bytes[..self.len()].ends_with(b"\x03ip6\x04arpa\0") {
            return self.v6().map(IpAddr::V6);
        }
        None
    }

    fn v4(&self) -> Option<Ipv4Addr> {
        let mut octets = [0; 4];
        let mut labels = self.labels();
        for octet in octets.iter_mut().rev() {
            let label = labels.next()?;
            let plain = label == b"0" || !label.starts_with(b"0");
            *octet = std::str::from_utf8(label).ok().filter(|_| plain)?.parse().ok()?;
        }
        (labels.count() == 2).then(|| octets.into())
    }

    fn v6(&self) -> Option<Ipv6Addr> {
        let mut bits = 0_u128;
        let mut labels = self.labels();
        for place in 0..32_u32 {
            let [digit] = *labels.next()? else { return None };
            bits |= u128::from(char::from(digit).to_digit(16)?) << (4 * place);
        }
        (labels.count() == 2).then(|| bits.into())
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Name {}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            return f.write_str(".");
        }
        for label in self.labels() {
            write!(f, "{}.", label.escape_ascii())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    #[test]
    fn names_are_read_in_lower_case() {
        assert_eq!(name("Web.Default").to_string(), "web.default.");
        assert_eq!(name(".").as_bytes(), b"\0");
        assert_eq!(Name::read(b"\x03WEB\x00\x00\x01"), Some(name("web")));
        for broken in [&b"\x03we"[..], b"\x40", b"\xc0\x0c", b""] {
            assert_eq!(Name::read(broken), None);
        }
        for broken in ["a..b", &"x".repeat(64), &"abcdefg.".repeat(32)] {
            assert!(Name::parse(broken).is_none(), "{broken}");
        }
        assert_eq!(Name::parse(&"abcdefg.".repeat(31)).map(|name| name.len()), Some(249));
    }

    #[test]
    fn a_name_lies_in_another_by_whole_labels() {
        assert!(name("a.cluster.local").is_in(&name("cluster.local")) && name("x").is_in(&Name::ROOT));
        assert!(!name("mycluster.local").is_in(&name("cluster.local")));
        // The bytes of one long label look like the end of the other name.
        let odd = Name::of_labels([&b"a\x05local"[..]].into_iter(), &Name::ROOT).unwrap();
        assert!(!odd.is_in(&name("local")));
    }

    #[test]
    fn reverse_names_and_addresses_are_one() {
        for text in ["10.42.0.7", "fd00::1:ab"] {
            let address = text.parse().unwrap();
            assert_eq!(Name::of_address(address).unwrap().address(), Some(address));
        }
        for text in ["0.42.10.in-addr.arpa", "1.2.3.4.5.in-addr.arpa", "01.0.42.10.in-addr.arpa", "ip6.arpa"]
        {
            assert_eq!(name(text).address(), None, "{text}");
        }
    }
}
