//! Proxies before this one that are believed: what they say of their clients, by `X-Forwarded-*` and by the PROXY
//! protocol. Everybody else says nothing that counts.

use http::HeaderMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The longest line of the PROXY protocol's first version, as its specification says.
const LINE_BYTES: usize = 107;
/// The longest header of its second version; what follows the addresses is passed over.
const HEADER_BYTES: usize = 4_096;
/// How the second version begins.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Entries of `X-Forwarded-For` that are looked at.
const HOPS: usize = 64;

/// Whom to believe.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trust {
    blocks: Vec<(IpAddr, u8)>,
    /// Whether they begin each connection with the PROXY protocol.
    pub(crate) proxy_protocol: bool,
}

impl Trust {
    /// Blocks such as `10.0.0.0/8`, or addresses.
    pub(crate) fn new(blocks: &[String], proxy_protocol: bool) -> Result<Self, String> {
        let blocks = blocks.iter().map(|text| {
            block(text).ok_or_else(|| format!("{text:?} is no block of addresses such as 10.0.0.0/8"))
        });
        let blocks = blocks.collect::<Result<Vec<_>, _>>()?;
        if proxy_protocol && blocks.is_empty() {
            return Err("the PROXY protocol is for trusted proxies, and there are none".to_owned());
        }
        Ok(Self { blocks, proxy_protocol })
    }

    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        self.blocks.iter().any(|(base, length)| first_bits(*base, *length) == first_bits(address, *length))
    }

    /// Whose request it is that a trusted proxy passed on: the last one in the chain whom nobody trusts.
    pub(crate) fn client(&self, headers: &HeaderMap, peer: IpAddr) -> IpAddr {
        let values = headers.get_all("x-forwarded-for").iter().rev();
        let texts = values.filter_map(|value| value.to_str().ok()).flat_map(|text| text.rsplit(','));
        let mut client = peer;
        for text in texts.take(HOPS) {
            let Ok(address) = text.trim().parse::<IpAddr>() else { break };
            client = address.to_canonical();
            if !self.contains(client) {
                break;
            }
        }
        client
    }
}

fn block(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) =
        text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let length = length.map_or(Some(most), |length| length.parse().ok())?;
    (length <= most).then_some((address, length))
}

/// The family and so many bits of an address.
fn first_bits(address: IpAddr, length: u8) -> (bool, u128) {
    let (bits, all) = match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()), 32_u8),
        IpAddr::V6(address) => (address.to_bits(), 128),
    };
    (address.is_ipv4(), bits.checked_shr(u32::from(all.saturating_sub(length))).unwrap_or_default())
}

/// Reads the header that a trusted proxy begins with, and no byte more. Gives its client, or None where it speaks for
/// itself.
pub(crate) async fn proxied<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Option<IpAddr>> {
    let mut start = [0; 8];
    stream.read_exact(&mut start).await?;
    if start == SIGNATURE[..8] { binary(stream).await } else { line(stream, &start).await }
}

fn wrong() -> io::Error {
    io::Error::other("a trusted proxy began without the PROXY protocol")
}

async fn line<S: AsyncRead + Unpin>(stream: &mut S, start: &[u8]) -> io::Result<Option<IpAddr>> {
    let mut line = start.to_vec();
    while !line.ends_with(b"\r\n") {
        if line.len() >= LINE_BYTES {
            return Err(wrong());
        }
        line.push(stream.read_u8().await?);
    }
    let text = std::str::from_utf8(&line).map_err(|_| wrong())?;
    let words: Vec<&str> = text.trim_end().split(' ').collect();
    match words.as_slice() {
        ["PROXY", "UNKNOWN", ..] => Ok(None),
        ["PROXY", "TCP4" | "TCP6", client, _, _, _] => client.parse().map(Some).map_err(|_| wrong()),
        _ => Err(wrong()),
    }
}

async fn binary<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Option<IpAddr>> {
    let mut rest = [0; 8];
    stream.read_exact(&mut rest).await?;
    let [end @ .., command, family, high, low] = rest;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if end != SIGNATURE[8..] || command >> 4 != 2 || length > HEADER_BYTES {
        return Err(wrong());
    }
    let mut addresses = vec![0; length];
    stream.read_exact(&mut addresses).await?;
    let first = |bytes: usize| addresses.get(..bytes).ok_or_else(wrong);
    match (command & 15, family >> 4) {
        // What the proxy itself asks, to see whether there is somebody.
        (0, _) => Ok(None),
        (1, 1) => Ok(Some(<[u8; 4]>::try_from(first(4)?).map(Ipv4Addr::from).map_err(|_| wrong())?.into())),
        (1, 2) => Ok(Some(<[u8; 16]>::try_from(first(16)?).map(Ipv6Addr::from).map_err(|_| wrong())?.into())),
        (1, _) => Ok(None),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trust(blocks: &[&str]) -> Trust {
        Trust::new(&blocks.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>(), false).unwrap()
    }

    #[test]
    fn blocks_are_of_both_families() {
        let trust = trust(&["10.0.0.0/8", "192.0.2.1", "fd00::/16", "::1"]);
        for (address, wanted) in [
            ("10.255.0.1", true),
            ("11.0.0.1", false),
            ("192.0.2.1", true),
            ("192.0.2.2", false),
            ("fd00:1::1", true),
            ("fd01::1", false),
            ("::1", true),
            ("::a00:1", false),
        ] {
            assert_eq!(trust.contains(address.parse().unwrap()), wanted, "{address}");
        }
        assert!(self::trust(&["0.0.0.0/0"]).contains("8.8.8.8".parse().unwrap()));
        for wrong in ["10.0.0.0/33", "10.0.0", "x/8", "::/129"] {
            assert!(Trust::new(&[wrong.to_owned()], false).is_err(), "{wrong}");
        }
        assert!(Trust::new(&[], true).is_err());
    }

    #[test]
    fn the_last_whom_nobody_trusts_is_the_client() {
        let trust = trust(&["10.0.0.0/8"]);
        let of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("x-forwarded-for", value.parse().unwrap());
            }
            trust.client(&headers, "10.0.0.1".parse().unwrap()).to_string()
        };
        assert_eq!(of(&[]), "10.0.0.1");
        assert_eq!(of(&["192.0.2.7"]), "192.0.2.7");
        assert_eq!(of(&["6.6.6.6, 192.0.2.7,10.0.0.2"]), "192.0.2.7");
        assert_eq!(of(&["6.6.6.6", "192.0.2.7, 10.0.0.2"]), "192.0.2.7");
        assert_eq!(of(&["10.0.0.3, 10.0.0.2"]), "10.0.0.3");
        assert_eq!(of(&["192.0.2.7, nonsense, 10.0.0.2"]), "10.0.0.2");
    }

    #[tokio::test]
    async fn headers_of_both_versions_are_read_to_their_ends() {
        let read = async |bytes: &[u8]| {
            let mut left = bytes;
            let client = proxied(&mut left).await.map_err(drop)?;
            Ok::<_, ()>((client.map(|client| client.to_string()), left.len()))
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(read(b"PROXY TCP4 192.0.2.7 10.0.0.1 1 80\r\nGET").await, Ok((some("192.0.2.7"), 3)));
        assert_eq!(read(b"PROXY TCP6 fd00::7 fd00::1 1 80\r\n").await, Ok((some("fd00::7"), 0)));
        assert_eq!(read(b"PROXY UNKNOWN\r\nx").await, Ok((None, 1)));
        let v2 = |command: u8, family: u8, addresses: &[u8]| {
            let length = u16::try_from(addresses.len()).unwrap().to_be_bytes();
            [&SIGNATURE[..], &[0x20 | command, family], &length, addresses, b"rest"].concat()
        };
        let four = [192, 0, 2, 7, 10, 0, 0, 1, 0, 1, 0, 80, 3, 0, 0];
        assert_eq!(read(&v2(1, 0x11, &four)).await, Ok((some("192.0.2.7"), 4)));
        let six = [[0xfd; 16], [0xfe; 16]].concat();
        let six = [&six[..], &[0, 1, 0, 80]].concat();
        assert_eq!(read(&v2(1, 0x21, &six)).await, Ok((some("fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd"), 4)));
        assert_eq!(read(&v2(0, 0, &[])).await, Ok((None, 4)));
        for wrong in [
            &b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"[..],
            b"PROXY TCP4 x y 1 2\r\n",
            b"PROXY",
            &[b'P'; 200],
            &v2(1, 0x11, &[1, 2]),
            &v2(7, 0x11, &four),
        ] {
            assert!(read(wrong).await.is_err(), "{wrong:?}");
        }
    }
}
