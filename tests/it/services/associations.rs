//! SCTP. Kernels may have no sockets of it (`CONFIG_IP_SCTP`) and track its connections all the same: client and
//! endpoint say its first two words by raw packets, which are translated there and back.

use super::rig::Rig;
use crate::support::process::wait_for;
use crate::support::spots::Spot;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, recvfrom, sendto, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use serde_json::json;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const CLIENT: u16 = 4_242;
const FRONT: u16 = 90;
const ENDPOINT: u16 = 9_090;
const SOON: Duration = Duration::from_secs(20);

/// Which chunk begins a packet, between which ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Packet {
    from: u16,
    to: u16,
    chunk: u8,
}

/// The checksum that SCTP has (RFC 9260, appendix A).
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 })
    };
    !bytes.iter().fold(u32::MAX, step)
}

impl Packet {
    /// An answer names the tag that the first packet gave.
    fn bytes(self) -> Vec<u8> {
        const TAG: u32 = 0x1122_3344;
        let tag = if self.chunk == INIT { 0 } else { TAG };
        let ports = [self.from.to_be_bytes(), self.to.to_be_bytes()].concat();
        let chunk =
            [&[self.chunk, 0, 0, 20][..], &TAG.to_be_bytes(), &[0, 0, 255, 255, 0, 1, 0, 1], &[0, 0, 0, 7]]
                .concat();
        let with = |sum: u32| [&ports[..], &tag.to_be_bytes(), &sum.to_le_bytes(), &chunk].concat();
        with(crc32c(&with(0)))
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let half = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        Some(Self { from: half(0)?, to: half(2)?, chunk: *bytes.get(12)? })
    }
}

fn raw(spot: &Spot, v4: bool) -> OwnedFd {
    let family = if v4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let open = move || {
        let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Sctp).unwrap();
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(1)).unwrap();
        socket
    };
    spot.within(open).join().unwrap()
}

fn send(socket: &OwnedFd, packet: Packet, to: IpAddr) {
    let to = SockaddrStorage::from(SocketAddr::new(to, 0));
    sendto(socket.as_raw_fd(), &packet.bytes(), &to, MsgFlags::empty()).unwrap();
}

/// The next packet and who sent it; nothing if there is none for a second.
fn receive(socket: &OwnedFd) -> Option<(Packet, IpAddr)> {
    let mut buffer = [0; 512];
    let (length, from) = recvfrom::<SockaddrStorage>(socket.as_raw_fd(), &mut buffer).ok()?;
    let from = from?;
    let v4 = from.as_sockaddr_in().map(|from| IpAddr::from(from.ip()));
    let from = v4.or_else(|| from.as_sockaddr_in6().map(|from| IpAddr::from(from.ip())))?;
    // Of IPv4 the network's own header is there too.
    let header = if from.is_ipv4() { usize::from(buffer[0] & 15) * 4 } else { 0 };
    Some((Packet::read(&buffer[header..length])?, from))
}

/// Answers until the test ends.
fn answer(spot: &Spot, v4: bool) {
    let socket = raw(spot, v4);
    std::thread::spawn(move || {
        loop {
            if let Some((packet, from)) = receive(&socket)
                && (packet.to, packet.chunk) == (ENDPOINT, INIT)
            {
                send(&socket, Packet { from: ENDPOINT, to: packet.from, chunk: INIT_ACK }, from);
            }
        }
    });
}

pub(super) fn begin(rig: &Rig) {
    let ports = json!([{"name": "sctp", "port": FRONT, "nodePort": 30_090, "protocol": "SCTP"}]);
    rig.service("associations", 90, json!({"type": "NodePort", "ports": ports}));
    for (index, family) in ["IPv4", "IPv6"].iter().enumerate() {
        rig.feed.put(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
            "metadata": {"namespace": "default", "name": format!("associations-{family}"),
                "labels": {"kubernetes.io/service-name": "associations"}},
            "ports": [{"name": "sctp", "port": ENDPOINT, "protocol": "SCTP"}],
            "endpoints": [{"addresses": [rig.one.addresses[index]], "nodeName": "here", "conditions": {"ready": true}}]}));
        answer(&rig.one, index == 0);
    }
    let fronts = [("10.43.0.90", FRONT), ("fd43::5a", FRONT), ("10.99.0.2", 30_090), ("fd99::2", 30_090)];
    for (place, port) in fronts {
        let to: IpAddr = place.parse().unwrap();
        for client in [&rig.outside, &rig.two] {
            let socket = raw(client, to.is_ipv4());
            let wanted = (Packet { from: port, to: CLIENT, chunk: INIT_ACK }, to);
            wait_for(&format!("an answer of {place} over SCTP to {}", client.name), SOON, || {
                send(&socket, Packet { from: CLIENT, to: port, chunk: INIT }, to);
                (receive(&socket)? == wanted).then_some(())
            });
        }
    }
}
