//! A node with two pods, a pod of another node and a client outside, and the proxy on it.

use crate::support::feed::Feed;
use crate::support::process::run;
use crate::support::sandbox::Sandbox;
use crate::support::spots::{self, Heard, Spot};
use base::Supervisor;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::time::Duration;
use tokio::runtime::Runtime;

/// How long the kernel may take to have what the API has.
const SOON: Duration = Duration::from_secs(5);

pub(super) struct Rig {
    pub(super) feed: Feed,
    pub(super) one: Spot,
    pub(super) two: Spot,
    pub(super) node: Spot,
    pub(super) outside: Spot,
    proxy: RefCell<(Runtime, Supervisor)>,
    pub(super) sandbox: Sandbox,
}

/// The other node's pod.
pub(super) const FAR: [&str; 2] = ["10.42.1.5", "fd42:0:0:1::5"];

impl Rig {
    pub(super) fn new() -> Self {
        let sandbox = Sandbox::new();
        let feed = Feed::default();
        feed.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "here"}}));
        let outside = spots::outside(&sandbox);
        let proxy = RefCell::new(start(&sandbox, &feed, &[]));
        let (one, two) = (spots::pod(&sandbox, "one", 7), spots::pod(&sandbox, "two", 8));
        for spot in [&one, &two] {
            spot.serve(&[8080], &[5353]);
        }
        outside.other("far", &FAR).serve(&[8080], &[5353]);
        let node = spots::node(&sandbox);
        Self { feed, one, two, node, outside, proxy, sandbox }
    }

    /// Stops it as knarr is stopped: what is in the kernel stays.
    pub(super) fn stop(&self) {
        let proxy = self.proxy.borrow();
        proxy.0.block_on(proxy.1.drain());
    }

    pub(super) fn start(&self, arguments: &[&str]) {
        self.proxy.replace(start(&self.sandbox, &self.feed, arguments));
    }

    /// A service with an address in each family, its ports 80 of TCP and 53 of UDP.
    pub(super) fn service(&self, name: &str, number: u8, spec: Value) {
        let (v4, v6) = (format!("10.43.0.{number}"), format!("fd43::{number:x}"));
        let mut all = json!({"clusterIP": v4, "clusterIPs": [v4, v6],
            "ports": [{"name": "web", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]});
        let status = spec.get("status").cloned().unwrap_or_default();
        for (key, value) in spec.as_object().unwrap().iter().filter(|(key, _)| *key != "status") {
            all[key] = value.clone();
        }
        self.feed.put(
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "default", "name": name},
            "spec": all, "status": status}),
        );
    }

    /// Its endpoints: `one` and `two` are pods of this node, `far` is one of another.
    pub(super) fn endpoints(&self, service: &str, names: &[&str]) {
        for (index, family) in ["IPv4", "IPv6"].iter().enumerate() {
            let endpoint = |name: &&str| {
                let (address, node) = match *name {
                    "far" => (FAR[index].to_owned(), "there"),
                    name => {
                        let spot = if name == "one" { &self.one } else { &self.two };
                        (spot.addresses[index].to_string(), "here")
                    }
                };
                json!({"addresses": [address], "nodeName": node, "conditions": {"ready": true}})
            };
            let labels = json!({"kubernetes.io/service-name": service});
            self.feed.put(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {"namespace": "default", "name": format!("{service}-{family}"), "labels": labels},
                "addressType": family, "endpoints": names.iter().map(endpoint).collect::<Vec<_>>(),
                "ports": [{"name": "web", "port": 8080}, {"name": "dns", "port": 5353, "protocol": "UDP"}]}));
        }
    }
}

/// Waits until a spot hears what it should, and that it goes on to.
#[track_caller]
pub(super) fn hears(what: &str, wanted: &[&str], ask: impl Fn() -> Heard) {
    let deadline = base::clock::instant() + SOON;
    loop {
        // Often enough for each of three to be chosen, but for once in ten thousand times.
        let heard: Vec<Heard> = (0..24).map(|_| ask()).collect();
        let mut names: Vec<&str> = heard.iter().map(Heard::by).collect();
        names.sort_unstable();
        names.dedup();
        if names == wanted {
            return;
        }
        assert!(base::clock::instant() < deadline, "{what}: {names:?}, not {wanted:?}");
    }
}

/// The same where nothing is heard, which takes a while each time.
#[track_caller]
pub(super) fn hears_nothing(what: &str, ask: impl Fn() -> Heard) {
    for _ in 0..2 {
        assert_eq!(ask(), Heard::Nothing, "{what}");
    }
}

pub(super) fn start(sandbox: &Sandbox, feed: &Feed, arguments: &[&str]) -> (Runtime, Supervisor) {
    let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    let settings = proxy::Settings::read(&arguments).unwrap();
    let (runtime, supervisor, ()) = spots::start(sandbox, feed, settings, |_, _| ());
    (runtime, supervisor)
}

/// What curl gets within the sandbox: status and body.
pub(super) fn curl(rig: &Rig, url: &str) -> (String, String) {
    let words = ["curl", "-s", "-g", "--max-time", "3", "-w", "\n%{http_code}", url];
    let output = run(rig.sandbox.command(Duration::from_secs(5), &words), "").stdout;
    let (body, status) = output.rsplit_once('\n').unwrap_or_default();
    (status.to_owned(), body.to_owned())
}

/// What nft says within the sandbox.
pub(super) fn nft(rig: &Rig, words: &[&str]) -> String {
    run(rig.sandbox.command(Duration::from_secs(5), &[&["nft"], words].concat()), "").ok()
}
