//! A node with nine pods, the proxy and its policies, and what reaches whom.

use crate::support::feed::Feed;
use crate::support::process::{run, wait_for};
use crate::support::sandbox::Sandbox;
use crate::support::spots::{self, Heard, Spot};
use base::Supervisor;
use proxy::Policies;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::runtime::Runtime;

const SOON: Duration = Duration::from_secs(20);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pod {
    pub(super) namespace: String,
    pub(super) name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Port {
    Tcp(u16),
    Udp(u16),
}

const PORTS: [Port; 3] = [Port::Tcp(80), Port::Tcp(81), Port::Udp(80)];

pub(super) struct Rig {
    feed: Feed,
    pub(super) node: Spot,
    pub(super) outside: Spot,
    pods: Vec<(Pod, Spot)>,
    running: RefCell<(Runtime, Supervisor, Policies)>,
    sandbox: Sandbox,
}

impl Rig {
    pub(super) fn new() -> Self {
        let sandbox = Sandbox::new();
        let feed = Feed::default();
        feed.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "here"}}));
        let outside = spots::outside(&sandbox);
        outside.serve(&[80], &[]);
        let running = RefCell::new(start(&sandbox, &feed, Vec::new()));
        let mut pods = Vec::new();
        for (at, namespace) in ["x", "y", "z"].into_iter().enumerate() {
            for (number, name) in ["a", "b", "c"].into_iter().enumerate() {
                let spot =
                    spots::pod(&sandbox, &format!("{namespace}-{name}"), number_of(at * 16 + number + 1));
                spot.serve(&[80, 81], &[80]);
                pods.push((Pod { namespace: namespace.to_owned(), name: name.to_owned() }, spot));
            }
        }
        let node = spots::node(&sandbox);
        let rig = Self { feed, node, outside, pods, running, sandbox };
        rig.echo("x", "b");
        ["x", "y", "z"].iter().for_each(|namespace| rig.label_namespace(namespace, &[]));
        rig.pods.iter().for_each(|(pod, _)| rig.label(&pod.namespace, &pod.name, &[]));
        rig
    }

    pub(super) fn pod(&self, namespace: &str, name: &str) -> &Spot {
        let found = self.pods.iter().find(|(pod, _)| pod.namespace == namespace && pod.name == name);
        &found.unwrap().1
    }

    /// A pod that is attached, and of which nothing but its name is known.
    pub(super) fn attach(&self, namespace: &str, name: &str, number: u8) -> Spot {
        let spot = spots::pod(&self.sandbox, &format!("{namespace}-{name}"), number);
        spot.serve(&[80], &[]);
        self.feed.put(object(namespace, name, &[], &[]));
        spot
    }

    /// As a kubelet does before it starts a container.
    pub(super) fn admit(&self, namespace: &str, name: &str, spot: &Spot) {
        let pod: api::core::Pod = serde_json::from_value(object(namespace, name, &[], &[])).unwrap();
        let running = self.running.borrow();
        running.0.block_on(running.2.admit(&pod, &spot.addresses)).unwrap();
    }

    fn echo(&self, namespace: &str, name: &str) {
        let listening = || std::net::TcpListener::bind(("::", 7)).unwrap();
        let listener = self.pod(namespace, name).within(listening).join().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut buffer = [0; 1];
                while stream.read_exact(&mut buffer).and_then(|()| stream.write_all(&buffer)).is_ok() {}
            }
        });
    }

    pub(super) fn policy(&self, namespace: &str, name: &str, spec: Value) {
        let mut policy = named(namespace, name);
        policy["spec"] = spec;
        self.feed.put(policy);
    }

    /// Defines the kinds of administrators' policies, as their definitions say once they are established.
    pub(super) fn define(&self) {
        for (plural, version) in [
            ("adminnetworkpolicies", "v1alpha1"),
            ("baselineadminnetworkpolicies", "v1alpha1"),
            ("clusternetworkpolicies", "v1alpha2"),
        ] {
            self.feed.put(
                json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
                "metadata": {"name": format!("{plural}.policy.networking.k8s.io")},
                "spec": {"group": "policy.networking.k8s.io", "scope": "Cluster", "names": {"plural": plural},
                    "versions": [{"name": version, "served": true, "storage": true}]},
                "status": {"conditions": [{"type": "Established", "status": "True"}]}}),
            );
        }
    }

    /// Puts a policy of an administrator's, by its kind and name.
    pub(super) fn administer(&self, (kind, name): (&str, &str), spec: Value) {
        let mut policy = administered(kind, name);
        policy["spec"] = spec;
        self.feed.put(policy);
    }

    pub(super) fn dismiss(&self, (kind, name): (&str, &str)) {
        self.feed.delete(&administered(kind, name));
    }

    /// Says what the node is labelled and where it is.
    pub(super) fn label_node(&self, labels: &[(&str, &str)], addresses: &[&str]) {
        let labels: BTreeMap<&str, &str> = labels.iter().copied().collect();
        let addresses: Vec<Value> =
            addresses.iter().map(|address| json!({"type": "InternalIP", "address": address})).collect();
        self.feed
            .put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "here", "labels": labels},
            "status": {"addresses": addresses}}));
    }

    pub(super) fn remove(&self, namespace: &str, name: &str) {
        self.feed.delete(&named(namespace, name));
    }

    /// Gives a pod labels beside that of its name.
    pub(super) fn label(&self, namespace: &str, name: &str, labels: &[(&str, &str)]) {
        let addresses: Vec<String> =
            self.pod(namespace, name).addresses.iter().map(ToString::to_string).collect();
        self.feed.put(object(namespace, name, labels, &addresses));
    }

    pub(super) fn label_namespace(&self, name: &str, labels: &[(&str, &str)]) {
        let labels: BTreeMap<&str, &str> = labels.iter().copied().chain([("ns", name)]).collect();
        self.feed.put(
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}),
        );
    }

    /// A service at `10.43.0.NUMBER` and `fd43::NUMBER` with one endpoint in each family.
    pub(super) fn service(&self, name: &str, number: u8, endpoints: &[&str]) {
        let addresses = [format!("10.43.0.{number}"), format!("fd43::{number:x}")];
        self.feed.put(
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "default", "name": name},
            "spec": {"clusterIP": addresses[0], "clusterIPs": addresses, "ports": [{"port": 80}]}}),
        );
        for (endpoint, family) in endpoints.iter().zip(["IPv4", "IPv6"]) {
            let labels = json!({"kubernetes.io/service-name": name});
            self.feed.put(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {"namespace": "default", "name": format!("{name}-{family}"), "labels": labels},
                "addressType": family, "ports": [{"port": 80}],
                "endpoints": [{"addresses": [endpoint], "nodeName": "here", "conditions": {"ready": true}}]}));
        }
    }

    /// Asks everybody from everywhere, until what is heard is what is allowed.
    #[track_caller]
    pub(super) fn table(&self, what: &str, allowed: impl Fn(&Pod, &Pod, Port) -> bool) {
        let deadline = base::clock::instant() + SOON;
        loop {
            let wrong: Vec<String> = self
                .heard()
                .into_iter()
                .filter_map(|(from, to, port, address, heard)| {
                    let right = match (&heard, allowed(&from, &to, port)) {
                        (Heard::Answer(name, _), true) => *name == format!("{}-{}", to.namespace, to.name),
                        (Heard::Nothing, false) => true,
                        _ => false,
                    };
                    (!right)
                        .then(|| format!("{}-{} at {address} {port:?}: {heard:?}", from.namespace, from.name))
                })
                .collect();
            if wrong.is_empty() {
                return;
            }
            assert!(base::clock::instant() < deadline, "{what}: {} are wrong: {wrong:#?}", wrong.len());
        }
    }

    fn heard(&self) -> Vec<(Pod, Pod, Port, String, Heard)> {
        let asking = self.pods.iter().flat_map(|(from, own)| {
            let (from, own) = (from.clone(), own.clone());
            self.pods.iter().flat_map(move |(to, spot)| {
                let (from, own, to, spot) = (from.clone(), own.clone(), to.clone(), spot.clone());
                PORTS.into_iter().map(move |port| {
                    let (from, own, to, spot) = (from.clone(), own.clone(), to.clone(), spot.clone());
                    std::thread::spawn(move || {
                        let (Port::Tcp(number) | Port::Udp(number)) = port;
                        let at = |address| std::net::SocketAddr::new(address, number).to_string();
                        let ask = |address: &String| match port {
                            Port::Tcp(_) => own.ask(address),
                            Port::Udp(_) => own.ask_udp(address),
                        };
                        let places: Vec<String> = spot.addresses.iter().map(|address| at(*address)).collect();
                        places
                            .into_iter()
                            .map(|place| (from.clone(), to.clone(), port, place.clone(), ask(&place)))
                            .collect::<Vec<_>>()
                    })
                })
            })
        });
        let asking: Vec<_> = asking.collect();
        asking.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    }

    #[track_caller]
    pub(super) fn answers(&self, what: &str, name: &str, ask: impl Fn() -> Heard) {
        wait_for(&format!("{name} for {what}"), SOON, || (ask().by() == name).then_some(()));
    }

    pub(super) fn stop(&self) {
        let running = self.running.borrow();
        running.0.block_on(running.1.drain());
    }

    pub(super) fn start(&self) {
        self.start_with(&[]);
    }

    /// Starts with pods that a kubelet finds in its runtime.
    pub(super) fn start_with(&self, there: &[(&str, &str, &Spot)]) {
        let found = |(namespace, name, spot): &(&str, &str, &Spot)| {
            (serde_json::from_value(object(namespace, name, &[], &[])).unwrap(), spot.addresses.clone())
        };
        let there = there.iter().map(found).collect();
        self.running.replace(start(&self.sandbox, &self.feed, there));
    }

    /// Whether two pods reach one another, all the while until it is told to end.
    pub(super) fn never_heard(&self, from: &Spot, at: &str) -> impl FnOnce() + use<> {
        let (from, at, end) = (from.clone(), at.to_owned(), Arc::<AtomicBool>::default());
        let told = end.clone();
        let asking = std::thread::spawn(move || {
            let mut asked = 0;
            while !told.load(Ordering::Relaxed) {
                assert_eq!(from.ask(&at), Heard::Nothing, "after {asked} times of nothing");
                asked += 1;
            }
            asked
        });
        move || {
            end.store(true, Ordering::Relaxed);
            assert!(asking.join().unwrap() > 0);
        }
    }

    pub(super) fn nft(&self, words: &[&str]) -> String {
        run(self.sandbox.command(Duration::from_secs(5), &[&["nft"], words].concat()), "").ok()
    }
}

fn number_of(offset: usize) -> u8 {
    u8::try_from(offset + 1).unwrap()
}

fn named(namespace: &str, name: &str) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"namespace": namespace, "name": name}})
}

fn administered(kind: &str, name: &str) -> Value {
    let version = if kind == "ClusterNetworkPolicy" { "v1alpha2" } else { "v1alpha1" };
    json!({"apiVersion": format!("policy.networking.k8s.io/{version}"), "kind": kind, "metadata": {"name": name}})
}

fn object(namespace: &str, name: &str, labels: &[(&str, &str)], addresses: &[String]) -> Value {
    let labels: BTreeMap<&str, &str> = labels.iter().copied().chain([("pod", name)]).collect();
    let web = if name == "c" { 81 } else { 80 };
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "uid": format!("{namespace}-{name}"), "labels": labels},
        "spec": {"nodeName": "here", "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": web}]}]},
        "status": {"phase": "Running", "podIPs": addresses.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>()}})
}

/// A byte there and back.
pub(super) fn echoed(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(b"!").unwrap();
    stream.read_exact(&mut [0; 1]).unwrap();
}

fn start(
    sandbox: &Sandbox,
    feed: &Feed,
    there: Vec<(api::core::Pod, Vec<IpAddr>)>,
) -> (Runtime, Supervisor, Policies) {
    spots::start(sandbox, feed, proxy::Settings::default(), |caches, supervisor| {
        let policies = proxy::start_policies("here", &["10.43.0.10".parse().unwrap()], caches, supervisor);
        policies.recall(there);
        policies
    })
}
