//! Places on a network: namespaces that stand for pods, for pods of another node and for the world
//! outside, with servers that say who asked them.

use super::feed::Feed;
use super::https::runtime;
use super::sandbox::Sandbox;
use base::Supervisor;
use client::Caches;
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;

/// How long an answer may take that is to come. A first packet that was dropped is sent again after a second.
const LIMIT: Duration = Duration::from_millis(700);

/// The blocks of the node that the sandbox is, and of its cluster.
pub(crate) const PODS: [&str; 2] = ["10.42.0.0/24", "fd42::/64"];
pub(crate) const CLUSTER: [&str; 2] = ["10.42.0.0/16", "fd42::/56"];
pub(crate) const SERVICES: [&str; 2] = ["10.43.0.0/16", "fd43::/112"];
/// The node's own addresses on its one link.
pub(crate) const NODE: [&str; 2] = ["10.99.0.2", "fd99::2"];

/// One place.
#[derive(Clone)]
pub(crate) struct Spot {
    pub(crate) name: String,
    pub(crate) addresses: Vec<IpAddr>,
    namespace: Arc<File>,
}

/// The sandbox itself, which is a node.
pub(crate) fn node(sandbox: &Sandbox) -> Spot {
    let namespace = Arc::new(File::open(sandbox.network()).unwrap());
    Spot { name: "node".to_owned(), addresses: NODE.map(|text| text.parse().unwrap()).into(), namespace }
}

/// How long the proxy may take to have its first state in the kernel.
const READY: Duration = Duration::from_secs(20);

/// Starts the node's network and its proxy within the sandbox, and what else `more` starts.
pub(crate) fn start<T: Send + 'static>(
    sandbox: &Sandbox,
    feed: &Feed,
    settings: proxy::Settings,
    more: impl FnOnce(&Caches, &Supervisor) -> T + Send + 'static,
) -> (Runtime, Supervisor, T) {
    let runtime = runtime(Some(sandbox.network()));
    let supervisor = Supervisor::new();
    let blocks = |texts: [&str; 2]| texts.map(|text| text.parse().unwrap()).to_vec();
    let node = net::Node {
        pod_cidrs: blocks(PODS),
        cluster_cidrs: blocks(CLUSTER),
        service_cidrs: blocks(SERVICES),
        mtu: 1_500,
        outer: None,
    };
    let config = proxy::Config {
        node_name: "here".to_owned(),
        node_ips: NODE.map(|text| text.parse().unwrap()).into(),
        cluster_cidrs: blocks(CLUSTER),
        service_cidrs: blocks(SERVICES),
        answered_here: Vec::new(),
        settings,
    };
    let (client, own) = (feed.client(), supervisor.clone());
    let started = runtime.spawn(async move {
        net::setup(&node).await.unwrap();
        let caches = Caches::new(client, own.clone());
        let handle = proxy::start(config, &caches, &own);
        let more = more(&caches, &own);
        tokio::time::timeout(READY, handle.ready()).await.unwrap();
        more
    });
    let more = runtime.block_on(started).unwrap();
    (runtime, supervisor, more)
}

/// What lies behind the node's link, with addresses of its own and of pods on another node.
pub(crate) fn outside(sandbox: &Sandbox) -> Spot {
    sandbox
        .sh("set -e; ip netns add outside; ip link set outside netns outside
            sysctl -qw net.ipv6.conf.all.forwarding=1
            ip addr add fd99::2/64 dev eth0 nodad
            run='ip -n outside'
            $run link set lo up; $run addr add 10.99.0.1/24 dev outside; $run addr add fd99::1/64 dev outside nodad
            $run link set outside up; ip link set eth0 up
            $run addr add 10.42.1.5/32 dev lo; $run addr add fd42:0:0:1::5/128 dev lo nodad
            $run route add 10.42.0.0/24 via 10.99.0.2; $run route add 10.43.0.0/16 via 10.99.0.2
            $run route add 198.51.100.0/24 via 10.99.0.2
            $run route add fd42::/64 via fd99::2; $run route add fd43::/112 via fd99::2
            $run route add 2001:db8:7::/64 via fd99::2
            ip route replace 10.42.1.0/24 via 10.99.0.1; ip route replace fd42:0:0:1::/64 via fd99::1
            ip route replace default via fd99::1")
        .ok();
    at(sandbox, "outside", &["10.99.0.1", "fd99::1"])
}

/// A pod of this node, attached as the network attaches them: routed, without a bridge.
pub(crate) fn pod(sandbox: &Sandbox, name: &str, number: u8) -> Spot {
    let script = format!(
        "set -e; ip netns add {name}
        ip link add knarr{name} type veth peer name eth0 netns {name}
        ip link set knarr{name} up; ip addr add fe80::1/64 dev knarr{name} nodad
        ip route add 10.42.0.{number}/32 dev knarr{name} src 10.42.0.1
        ip route add fd42::{number:x}/128 dev knarr{name}
        sysctl -qw net.ipv4.conf.knarr{name}.route_localnet=1
        run='ip -n {name}'
        $run link set lo up; $run link set eth0 up
        $run addr add 10.42.0.{number}/32 dev eth0; $run addr add fd42::{number:x}/128 dev eth0 nodad
        $run route add 10.42.0.1 dev eth0; $run route add default via 10.42.0.1
        $run route add default via fe80::1 dev eth0"
    );
    sandbox.sh(&script).ok();
    at(sandbox, name, &[&format!("10.42.0.{number}"), &format!("fd42::{number:x}")])
}

/// A namespace that somebody else made, such as a pod's.
pub(crate) fn inside(name: &str, namespace: &std::path::Path, addresses: &[&str]) -> Spot {
    let namespace = Arc::new(File::open(namespace).unwrap());
    let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
    Spot { name: name.to_owned(), addresses, namespace }
}

/// A namespace that was made within the sandbox.
pub(crate) fn at(sandbox: &Sandbox, name: &str, addresses: &[&str]) -> Spot {
    inside(name, &sandbox.namespace(name), addresses)
}

/// What became of a question.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Heard {
    /// Who answered, and whom that one saw asking.
    Answer(String, IpAddr),
    /// Somebody said that nobody is there.
    Refused,
    /// No answer came.
    Nothing,
}

impl Heard {
    /// Who answered, if somebody did.
    pub(crate) fn by(&self) -> &str {
        match self {
            Self::Answer(name, _) => name,
            Self::Refused => "refused",
            Self::Nothing => "nothing",
        }
    }

    fn read(text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(text);
        let (name, address) = text.trim().split_once(' ').unwrap();
        Self::Answer(name.to_owned(), address.parse().unwrap())
    }

    fn failed(kind: ErrorKind) -> Self {
        match kind {
            // What the node itself sends and a rule refuses fails at once.
            ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset | ErrorKind::PermissionDenied => {
                Self::Refused
            }
            _ => Self::Nothing,
        }
    }
}

impl Spot {
    /// The same place under another name and with others of its addresses.
    pub(crate) fn other(&self, name: &str, addresses: &[&str]) -> Self {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        Self { name: name.to_owned(), addresses, ..self.clone() }
    }

    /// Works in the place on a thread of its own.
    pub(crate) fn within<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> std::thread::JoinHandle<T> {
        let namespace = self.namespace.clone();
        std::thread::spawn(move || {
            setns(&*namespace, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        })
    }

    /// Answers on ports of TCP and of UDP until the test ends.
    pub(crate) fn serve(&self, tcp: &[u16], udp: &[u16]) {
        for port in tcp.iter().copied() {
            let name = self.name.clone();
            let bound = self.within(move || TcpListener::bind(("::", port)).unwrap()).join().unwrap();
            std::thread::spawn(move || {
                for stream in bound.incoming() {
                    let mut stream = stream.unwrap();
                    let peer = stream.peer_addr().unwrap().ip().to_canonical();
                    // Who has left meanwhile needs no answer.
                    drop(stream.write_all(format!("{name} {peer}\n").as_bytes()));
                }
            });
        }
        // An answer has to come from the address that was asked.
        let places = udp.iter().flat_map(|port| self.addresses.iter().map(|address| (*address, *port)));
        for place in places {
            let name = self.name.clone();
            let bound = self.within(move || UdpSocket::bind(place).unwrap()).join().unwrap();
            std::thread::spawn(move || {
                let mut buffer = [0; 64];
                while let Ok((_, peer)) = bound.recv_from(&mut buffer) {
                    let answer = format!("{name} {}\n", peer.ip().to_canonical());
                    drop(bound.send_to(answer.as_bytes(), peer));
                }
            });
        }
    }

    /// Asks by TCP.
    pub(crate) fn ask(&self, to: &str) -> Heard {
        let to: SocketAddr = to.parse().unwrap();
        self.within(move || match TcpStream::connect_timeout(&to, LIMIT) {
            Ok(mut stream) => {
                stream.set_read_timeout(Some(LIMIT)).unwrap();
                let mut text = Vec::new();
                match stream.read_to_end(&mut text) {
                    Ok(_) if !text.is_empty() => Heard::read(&text),
                    Ok(_) => Heard::Nothing,
                    Err(error) => Heard::failed(error.kind()),
                }
            }
            Err(error) => Heard::failed(error.kind()),
        })
        .join()
        .unwrap()
    }

    /// A socket of UDP that goes on with one flow.
    pub(crate) fn flow(&self, to: &str) -> UdpSocket {
        let to: SocketAddr = to.parse().unwrap();
        self.within(move || {
            let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
            let socket = UdpSocket::bind((any, 0)).unwrap();
            socket.connect(to).unwrap();
            socket.set_read_timeout(Some(LIMIT)).unwrap();
            socket
        })
        .join()
        .unwrap()
    }

    /// Asks by UDP.
    pub(crate) fn ask_udp(&self, to: &str) -> Heard {
        ask_on(&self.flow(to))
    }
}

/// Asks on a flow of UDP.
pub(crate) fn ask_on(socket: &UdpSocket) -> Heard {
    let mut buffer = [0; 64];
    match socket.send(b"?").and_then(|_| socket.recv(&mut buffer)) {
        Ok(length) => Heard::read(&buffer[..length]),
        Err(error) => Heard::failed(error.kind()),
    }
}
