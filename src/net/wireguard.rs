//! WireGuard's part of a link: its key, its port and its peers, over generic netlink.
//!
//! What is written stands in the kernel's `linux/wireguard.h`. Keys are secrets: they are shown nowhere.

use crate::netfilter::{
    self, ACKNOWLEDGE, Answer, DUMP, Message, REQUEST, Refused, attribute, attributes, half, talk_to,
};
use crate::{Cidr, Error};
use nix::sys::socket::SockProtocol;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// The length of all keys.
pub const KEY_BYTES: usize = 32;

/// A machine's own key, of Curve25519.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKey([u8; KEY_BYTES]);

impl PrivateKey {
    /// The key that these bytes are, as RFC 7748 has them: some of their bits are always the same.
    pub fn new(mut bytes: [u8; KEY_BYTES]) -> Self {
        bytes[0] &= 0xf8;
        bytes[31] = bytes[31] & 0x7f | 0x40;
        Self(bytes)
    }

    /// What has to be kept, and kept secret.
    pub fn secret(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(…)")
    }
}

/// A key that others know a machine by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublicKey(pub [u8; KEY_BYTES]);

/// As hexadecimal digits, of which eight are enough to tell keys apart.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// This machine's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wireguard {
    /// The port that it listens on.
    pub port: u16,
    /// Its key.
    pub key: PrivateKey,
    /// The other ends.
    pub peers: BTreeMap<PublicKey, Peer>,
}

/// Another end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Where it is reached; none where it has to begin.
    pub endpoint: Option<SocketAddr>,
    /// After so many seconds of silence something is sent, so that what translates addresses between remembers.
    pub keepalive_s: Option<u16>,
    /// The addresses that it may send from, and that are sent to it.
    pub blocks: BTreeSet<Cidr>,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.endpoint.iter().try_for_each(|endpoint| write!(f, "endpoint {endpoint} "))?;
        self.keepalive_s.iter().try_for_each(|seconds| write!(f, "persistent-keepalive {seconds} "))?;
        let blocks: Vec<String> = self.blocks.iter().map(Cidr::to_string).collect();
        write!(f, "allowed-ips {}", blocks.join(","))
    }
}

/// The controller of generic netlink, its question for a family's number, and the attributes of that.
const CONTROLLER: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

const GET_DEVICE: u8 = 0;
const SET_DEVICE: u8 = 1;
const VERSION: u8 = 1;

/// Attributes of a device.
mod device {
    pub(super) const NAME: u16 = 2;
    pub(super) const PRIVATE_KEY: u16 = 3;
    pub(super) const PUBLIC_KEY: u16 = 4;
    pub(super) const LISTEN_PORT: u16 = 6;
    pub(super) const PEERS: u16 = 8;
}

/// Attributes and flags of a peer.
mod peer {
    pub(super) const PUBLIC_KEY: u16 = 1;
    pub(super) const FLAGS: u16 = 3;
    pub(super) const ENDPOINT: u16 = 4;
    pub(super) const KEEPALIVE: u16 = 5;
    pub(super) const BLOCKS: u16 = 9;
    pub(super) const REMOVE: u32 = 1;
    pub(super) const REPLACE_BLOCKS: u32 = 2;
}

/// Attributes of a block.
mod block {
    pub(super) const FAMILY: u16 = 1;
    pub(super) const ADDRESS: u16 = 2;
    pub(super) const PREFIX: u16 = 3;
}

/// The families' numbers.
const INET: u16 = 2;
const INET6: u16 = 10;

/// So many peers go into one message: an attribute's length has 16 bits.
const PEERS_A_MESSAGE: usize = 64;

/// Taken back before it has passed.
const GREETING_S: u16 = 60;

/// What is done about one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Set(PublicKey, Peer),
    Remove(PublicKey),
}

/// What the kernel has of a link.
#[derive(Debug, Default, PartialEq, Eq)]
struct Device {
    private: Option<PrivateKey>,
    public: Option<PublicKey>,
    port: u16,
    peers: BTreeMap<PublicKey, Peer>,
}

fn family_request() -> Vec<u8> {
    let mut message = Message::default();
    let head = [GET_FAMILY, VERSION, 0, 0];
    message.message((CONTROLLER, REQUEST | ACKNOWLEDGE), 1, head, |m| m.text(FAMILY_NAME, "wireguard"));
    message.0
}

fn device_request(family: u16, link: &str) -> Vec<u8> {
    let mut message = Message::default();
    let head = [GET_DEVICE, VERSION, 0, 0];
    message.message((family, REQUEST | DUMP), 1, head, |m| m.text(device::NAME, link));
    message.0
}

/// The messages that set a device and its peers; each is acknowledged.
fn set_requests(family: u16, link: &str, own: Option<&Wireguard>, steps: &[Step]) -> Vec<Vec<u8>> {
    let head = [SET_DEVICE, VERSION, 0, 0];
    let own = own.map(|own| {
        let mut message = Message::default();
        message.message((family, REQUEST | ACKNOWLEDGE), 1, head, |m| {
            m.text(device::NAME, link);
            m.attribute(device::PRIVATE_KEY, own.key.secret());
            m.attribute(device::LISTEN_PORT, &own.port.to_ne_bytes());
        });
        message.0
    });
    let steps = steps.chunks(PEERS_A_MESSAGE).map(|some| {
        let mut message = Message::default();
        message.message((family, REQUEST | ACKNOWLEDGE), 1, head, |m| {
            m.text(device::NAME, link);
            m.nest(device::PEERS, |list| some.iter().for_each(|step| write_step(list, step)));
        });
        message.0
    });
    own.into_iter().chain(steps).collect()
}

fn write_step(list: &mut Message, step: &Step) {
    list.nest(0, |m| match step {
        Step::Remove(key) => {
            m.attribute(peer::PUBLIC_KEY, &key.0);
            m.attribute(peer::FLAGS, &peer::REMOVE.to_ne_bytes());
        }
        Step::Set(key, own) => {
            m.attribute(peer::PUBLIC_KEY, &key.0);
            m.attribute(peer::FLAGS, &peer::REPLACE_BLOCKS.to_ne_bytes());
            if let Some(endpoint) = own.endpoint {
                m.attribute(peer::ENDPOINT, &socket_address(endpoint));
            }
            m.attribute(peer::KEEPALIVE, &own.keepalive_s.unwrap_or(0).to_ne_bytes());
            m.nest(peer::BLOCKS, |list| own.blocks.iter().for_each(|block| write_block(list, block)));
        }
    });
}

fn write_block(list: &mut Message, own: &Cidr) {
    list.nest(0, |m| {
        let (family, bytes) = match own.address() {
            IpAddr::V4(v4) => (INET, v4.octets().to_vec()),
            IpAddr::V6(v6) => (INET6, v6.octets().to_vec()),
        };
        m.attribute(block::FAMILY, &family.to_ne_bytes());
        m.attribute(block::ADDRESS, &bytes);
        m.attribute(block::PREFIX, &[own.prefix()]);
    });
}

/// `struct sockaddr_in` or `sockaddr_in6`.
fn socket_address(address: SocketAddr) -> Vec<u8> {
    let port = address.port().to_be_bytes();
    match address {
        SocketAddr::V4(v4) => [&INET.to_ne_bytes()[..], &port, &v4.ip().octets(), &[0; 8]].concat(),
        SocketAddr::V6(v6) => {
            let scope = v6.scope_id().to_ne_bytes();
            [&INET6.to_ne_bytes()[..], &port, &[0; 4], &v6.ip().octets(), &scope].concat()
        }
    }
}

fn read_socket_address(bytes: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
    let (from, length) = if half(bytes, 0)? == INET { (4, 4) } else { (8, 16) };
    Some(SocketAddr::new(crate::mesh::address(bytes.get(from..from + length)?)?, port))
}

fn read_key(bytes: &[u8]) -> Option<[u8; KEY_BYTES]> {
    bytes.try_into().ok()
}

fn read_block(bytes: &[u8]) -> Option<Cidr> {
    let address = crate::mesh::address(attribute(bytes, block::ADDRESS)?)?;
    Cidr::new(address, *attribute(bytes, block::PREFIX)?.first()?)
}

impl Device {
    /// Takes in one message of a dump; a peer with many blocks goes on in the next.
    fn read(&mut self, body: &[u8]) {
        for (kind, bytes) in attributes(body) {
            match kind {
                device::PRIVATE_KEY => self.private = read_key(bytes).map(PrivateKey),
                device::PUBLIC_KEY => self.public = read_key(bytes).map(PublicKey),
                device::LISTEN_PORT => self.port = half(bytes, 0).unwrap_or(0),
                device::PEERS => attributes(bytes).for_each(|(_, bytes)| self.read_peer(bytes)),
                _ => {}
            }
        }
    }

    fn read_peer(&mut self, bytes: &[u8]) {
        let Some(key) = attribute(bytes, peer::PUBLIC_KEY).and_then(read_key) else { return };
        let own = self.peers.entry(PublicKey(key)).or_default();
        for (kind, bytes) in attributes(bytes) {
            match kind {
                peer::ENDPOINT => own.endpoint = read_socket_address(bytes),
                peer::KEEPALIVE => own.keepalive_s = half(bytes, 0).filter(|seconds| *seconds > 0),
                peer::BLOCKS => {
                    own.blocks.extend(attributes(bytes).filter_map(|(_, bytes)| read_block(bytes)))
                }
                _ => {}
            }
        }
    }
}

/// What has to be done about peers. Where one is reached is its own affair once it was told: it may have moved, and
/// its packets tell where to.
fn steps(wanted: &Wireguard, found: &Device, before: Option<&Wireguard>) -> Vec<Step> {
    let gone = found.peers.keys().filter(|key| !wanted.peers.contains_key(key)).map(|key| Step::Remove(*key));
    let set = wanted.peers.iter().flat_map(|(key, peer)| {
        let told = before.and_then(|before| before.peers.get(key)).map(|before| before.endpoint);
        let Some(held) = found.peers.get(key) else { return introduce(*key, peer, before.is_some()) };
        let moved = told != Some(peer.endpoint) && held.endpoint != peer.endpoint;
        let differs = held.blocks != peer.blocks || held.keepalive_s != peer.keepalive_s;
        let endpoint = peer.endpoint.filter(|_| moved);
        let step = (moved || differs).then(|| Step::Set(*key, Peer { endpoint, ..peer.clone() }));
        step.into_iter().collect()
    });
    // A block is one peer's: who lets go of it goes first.
    gone.chain(set).collect()
}

/// A new peer. Who got a new key may be trying in vain to reach those who do not know it yet, and waits for five
/// seconds then: it is greeted at once, which the kernel does where something is to be sent now and then.
fn introduce(key: PublicKey, peer: &Peer, greet: bool) -> Vec<Step> {
    let greeting = greet.then(|| Step::Set(key, Peer { keepalive_s: Some(GREETING_S), ..peer.clone() }));
    greeting.into_iter().chain([Step::Set(key, peer.clone())]).collect()
}

fn ask(bytes: &[u8], hear: impl FnMut(Answer<'_>)) -> Result<(), Refused> {
    talk_to(SockProtocol::NetlinkGeneric, bytes, 1, hear)
}

/// Behind netlink's header stands that of generic netlink.
const HEADER: usize = 4;

fn family() -> Result<u16, Error> {
    let mut found = None;
    let asked = ask(&family_request(), |(_, _, body)| {
        let id = body.get(HEADER..).and_then(|body| attribute(body, FAMILY_ID));
        found = found.or(id.and_then(|id| half(id, 0)));
    });
    let missing = || Error::Module { what: "WireGuard".to_owned(), module: "wireguard" };
    asked.map_err(|_| missing())?;
    found.ok_or_else(missing)
}

fn device(family: u16, link: &str) -> Result<Device, Error> {
    let mut found = Device::default();
    let asked = ask(&device_request(family, link), |(_, _, body)| {
        found.read(body.get(HEADER..).unwrap_or_default());
    });
    asked.map_err(|refused| refused.about(&format!("looking at {link}")))?;
    Ok(found)
}

/// Sets a link's end and peers to what is wanted; gives how much had to be changed.
pub(crate) async fn set(
    link: &'static str,
    wanted: Wireguard,
    before: Option<Wireguard>,
) -> Result<usize, Error> {
    netfilter::run("setting WireGuard", move || {
        let family = family()?;
        let found = device(family, link)?;
        let same = found.private.as_ref() == Some(&wanted.key) && found.port == wanted.port;
        let steps = steps(&wanted, &found, before.as_ref());
        for request in set_requests(family, link, (!same).then_some(&wanted), &steps) {
            let set = ask(&request, |_| {});
            set.map_err(|refused| refused.about(&format!("setting {link}")))?;
        }
        Ok(usize::from(!same) + steps.len())
    })
    .await
}

/// Fails where the kernel has no WireGuard.
pub(crate) async fn available() -> Result<(), Error> {
    netfilter::run("looking for WireGuard", || family().map(drop)).await
}

/// The key that others know a link's end by, which the kernel knows from its own.
pub async fn public_key(link: &'static str) -> Result<Option<PublicKey>, Error> {
    netfilter::run("asking for WireGuard's key", move || Ok(device(family()?, link)?.public)).await
}

#[cfg(test)]
#[path = "wireguard_tests.rs"]
mod tests;
