//! Three machines on one link, each with the network that knarr makes there and with a namespace that stands for a
//! pod; a client on the link that is no node.

use crate::support::feed::Feed;
use crate::support::https::runtime;
use crate::support::sandbox::Sandbox;
use crate::support::spots::{self, Heard, Spot};
use base::Supervisor;
use client::Caches;
use net::Cidr;
use overlay::{Backend, Config};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;
use tokio::runtime::Runtime;

/// How long the kernel may take to have what the API has.
pub(super) const SOON: Duration = Duration::from_secs(10);

pub(super) const CLUSTER: [&str; 2] = ["10.42.0.0/16", "fd42::/56"];
pub(super) const SERVICES: [&str; 2] = ["10.43.0.0/16", "fd43::/112"];

/// A machine.
pub(super) struct Machine {
    pub(super) number: u8,
    pub(super) spot: Spot,
    pub(super) pod: Spot,
    running: Option<(Runtime, Supervisor)>,
}

pub(super) struct Rig {
    pub(super) feed: Feed,
    pub(super) machines: BTreeMap<&'static str, Machine>,
    pub(super) client: Spot,
    pub(super) sandbox: Sandbox,
    /// What fits into a packet of a pod's.
    pub(super) pod_mtu: u32,
}

pub(super) fn blocks(texts: &[&str]) -> Vec<Cidr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// The blocks of a machine's pods.
pub(super) fn pods_of(number: u8) -> [String; 2] {
    [format!("10.42.{number}.0/24"), format!("fd42:0:0:{number:x}::/64")]
}

/// Its addresses on the link.
pub(super) fn addresses_of(number: u8) -> [String; 2] {
    [format!("192.0.2.{number}"), format!("2001:db8::{number:x}")]
}

/// A machine's Node.
pub(super) fn node(name: &str, number: u8, addresses: &[&str]) -> Value {
    let addresses: Vec<Value> =
        addresses.iter().map(|address| json!({"type": "InternalIP", "address": address})).collect();
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
        "spec": {"podCIDRs": pods_of(number)}, "status": {"addresses": addresses}})
}

/// How machines are told to reach one another.
pub(super) fn config(name: &str, backend: Backend) -> Config {
    Config {
        node_name: name.to_owned(),
        node_ips: Vec::new(),
        cluster_cidrs: blocks(&CLUSTER),
        backend,
        direct_routing: false,
        external_addresses: false,
        vxlan_port: 8_472,
        wireguard_port: 51_820,
        key_file: "/nonexistent".into(),
    }
}

impl Rig {
    /// The machines, on which nothing of knarr's runs yet.
    pub(super) fn new(pod_mtu: u32) -> Self {
        let sandbox = Sandbox::new();
        sandbox.sh("ip link add wire type bridge; ip link set wire up; sysctl -qw net.ipv6.conf.all.disable_ipv6=0").ok();
        let feed = Feed::default();
        let mut machines = BTreeMap::new();
        for (name, number) in [("a", 1), ("b", 2), ("c", 3)] {
            machines.insert(name, machine(&sandbox, (name, number), pod_mtu));
            feed.put(node(name, number, &addresses_of(number).each_ref().map(String::as_str)));
        }
        join(&sandbox, "client", 9);
        let client = spots::at(&sandbox, "client", &addresses_of(9).each_ref().map(String::as_str));
        Self { feed, machines, client, sandbox, pod_mtu }
    }

    /// All machines running with one backend.
    pub(super) fn running(backend: Backend) -> Self {
        let own: Vec<IpAddr> = vec!["192.0.2.1".parse().unwrap()];
        let overhead = Config { node_ips: own, ..config("a", backend) }.overhead_bytes();
        let mut rig = Self::new(1_500 - overhead);
        for name in ["a", "b", "c"] {
            let key_file = rig.key_file(name);
            rig.start(Config { key_file, ..config(name, backend) });
        }
        rig
    }

    /// Where a machine keeps its key.
    pub(super) fn key_file(&self, name: &str) -> PathBuf {
        self.sandbox.folder.join(format!("{name}/wireguard.key"))
    }

    pub(super) fn machine(&self, name: &str) -> &Machine {
        &self.machines[name]
    }

    /// A pod's spot.
    pub(super) fn pod(&self, name: &str) -> &Spot {
        &self.machines[name].pod
    }

    /// Starts what knarr runs on a machine, and waits until it is as it should be.
    pub(super) fn start(&mut self, config: Config) {
        let name = config.node_name.clone();
        let machine = self.machines.get_mut(&*name).unwrap();
        let runtime = runtime(Some(self.sandbox.namespace(&name)));
        let (supervisor, client) = (Supervisor::new(), self.feed.client());
        let own = supervisor.clone();
        let (number, mtu) = (machine.number, self.pod_mtu);
        let started = runtime.spawn(async move {
            let pods = pods_of(number);
            let node = net::Node {
                pod_cidrs: blocks(&pods.each_ref().map(String::as_str)),
                cluster_cidrs: blocks(&CLUSTER),
                service_cidrs: blocks(&SERVICES),
                mtu,
                outer: None,
            };
            net::setup(&node).await.unwrap();
            let proxy = proxy::Config {
                node_name: config.node_name.clone(),
                node_ips: addresses_of(number).map(|text| text.parse().unwrap()).into(),
                cluster_cidrs: blocks(&CLUSTER),
                service_cidrs: blocks(&SERVICES),
                answered_here: Vec::new(),
                settings: proxy::Settings::read(&[]).unwrap(),
            };
            let caches = Caches::new(client.clone(), own.clone());
            let (proxy, overlay) =
                (proxy::start(proxy, &caches, &own), overlay::start(config, client, &caches, &own));
            let both = async { tokio::join!(proxy.ready(), overlay.ready()) };
            tokio::time::timeout(SOON, both).await.unwrap();
        });
        runtime.block_on(started).unwrap();
        machine.running = Some((runtime, supervisor));
    }

    /// Stops it as knarr is stopped: what is in the kernel stays.
    pub(super) fn stop(&mut self, name: &str) {
        let (runtime, supervisor) = self.machines.get_mut(name).unwrap().running.take().unwrap();
        runtime.block_on(supervisor.drain());
    }

    /// Stops it, and takes away what is in the kernel.
    pub(super) fn tear_down(&mut self, name: &str) {
        self.stop(name);
        let runtime = runtime(Some(self.sandbox.namespace(name)));
        runtime.block_on(runtime.spawn(net::teardown())).unwrap().unwrap();
    }

    /// Runs a script on a machine.
    #[track_caller]
    pub(super) fn on(&self, name: &str, script: &str) -> String {
        self.sandbox.run(&["ip", "netns", "exec", name, "sh", "-c", script]).ok()
    }
}

/// A namespace with a link to the others.
fn join(sandbox: &Sandbox, name: &str, number: u8) {
    let [v4, v6] = addresses_of(number);
    let script = format!(
        "set -e; ip netns add {name}; run='ip -n {name}'
        ip link add port-{name} type veth peer name eth0 netns {name}
        ip link set port-{name} master wire up
        $run link set lo up; $run link set eth0 up
        $run addr add {v4}/24 dev eth0; $run addr add {v6}/64 dev eth0 nodad
        $run route add default via 192.0.2.254"
    );
    sandbox.sh(&script).ok();
}

fn machine(sandbox: &Sandbox, (name, number): (&str, u8), mtu: u32) -> Machine {
    join(sandbox, name, number);
    // The pod is attached as the network attaches pods, but by hand, before there is a network.
    let (pod, v4, v6) =
        (format!("pod-{name}"), format!("10.42.{number}.5"), format!("fd42:0:0:{number:x}::5"));
    let script = format!(
        "set -e; ip netns add {pod}
        ip -n {name} link add knarrpod mtu {mtu} type veth peer name eth0 netns {pod} mtu {mtu}
        run='ip -n {name}'
        $run link set knarrpod up; $run addr add fe80::1/64 dev knarrpod nodad
        $run route add {v4}/32 dev knarrpod proto 107; $run route add {v6}/128 dev knarrpod proto 107
        run='ip -n {pod}'
        $run link set lo up; $run link set eth0 up
        $run addr add {v4}/32 dev eth0; $run addr add {v6}/128 dev eth0 nodad
        $run route add 10.42.{number}.1 dev eth0; $run route add default via 10.42.{number}.1
        $run route add default via fe80::1 dev eth0"
    );
    sandbox.sh(&script).ok();
    let spot = spots::at(sandbox, name, &addresses_of(number).each_ref().map(String::as_str));
    let pod = spots::at(sandbox, &pod, &[&v4, &v6]);
    pod.serve(&[8_080], &[5_353]);
    Machine { number, spot, pod, running: None }
}

/// The address and port of a server, of each family.
pub(super) fn at(addresses: &[IpAddr], port: u16) -> Vec<String> {
    addresses.iter().map(|address| std::net::SocketAddr::new(*address, port).to_string()).collect()
}

/// Waits until a question is answered by whom it should be.
#[track_caller]
pub(super) fn hears(what: &str, wanted: &Heard, ask: impl Fn() -> Heard) {
    let deadline = base::clock::instant() + SOON;
    loop {
        let heard = ask();
        if heard == *wanted {
            return;
        }
        assert!(base::clock::instant() < deadline, "{what}: {heard:?}, not {wanted:?}");
    }
}

/// One pod reaches another with its own address, over both families and protocols; so does its machine.
#[track_caller]
pub(super) fn reaches(rig: &Rig, from: &str, to: &str) {
    let (source, target) = (rig.pod(from), rig.pod(to));
    for (index, own) in source.addresses.iter().enumerate() {
        let wanted = Heard::Answer(target.name.clone(), *own);
        let address = &target.addresses[index..=index];
        hears("TCP", &wanted, || source.ask(&at(address, 8_080)[0]));
        hears("UDP", &wanted, || source.ask_udp(&at(address, 5_353)[0]));
        let machine = &rig.machine(from).spot;
        let gateway =
            blocks(&pods_of(rig.machine(from).number).each_ref().map(String::as_str))[index].gateway();
        let wanted = Heard::Answer(target.name.clone(), gateway);
        hears("TCP of the machine", &wanted, || machine.ask(&at(address, 8_080)[0]));
    }
}
