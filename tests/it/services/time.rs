//! What becomes of clients when services change.

use super::rig::{Rig, curl, hears, nft};
use crate::support::process::wait_for;
use crate::support::spots::{Heard, NODE, ask_on};
use serde_json::{Value, json};
use std::time::Duration;

const WEB: [&str; 2] = ["10.43.0.20:80", "[fd43::14]:80"];
const DNS: [&str; 2] = ["10.43.0.20:53", "[fd43::14]:53"];

pub(super) fn endpoints_change(rig: &Rig) {
    rig.service("web", 20, json!({}));
    for names in [&["one"][..], &["one", "two"], &["far", "one", "two"], &["two"], &["one"]] {
        rig.endpoints("web", names);
        for front in WEB {
            hears(front, names, || rig.one.ask(front));
        }
    }
    rig.endpoints("web", &[]);
    for front in WEB {
        hears(front, &["refused"], || rig.two.ask(front));
    }
}

pub(super) fn addresses_change(rig: &Rig) {
    rig.endpoints("web", &["one"]);
    rig.service("web", 21, json!({}));
    hears("the new address", &["one"], || rig.two.ask("10.43.0.21:80"));
    hears("the new address", &["one"], || rig.two.ask("[fd43::15]:80"));
    for front in WEB {
        hears("the old one", &["refused"], || rig.two.ask(front));
    }
    // Of two that want an address, the first by name has it, until it goes.
    rig.service("a", 21, json!({}));
    rig.endpoints("a", &["two"]);
    hears("the first by name", &["two"], || rig.two.ask("10.43.0.21:80"));
    rig.feed.delete(
        &json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "default", "name": "a"}}),
    );
    hears("the other again", &["one"], || rig.two.ask("10.43.0.21:80"));
    rig.service("web", 20, json!({}));
}

pub(super) fn affinity(rig: &Rig) {
    let timeout = json!({"clientIP": {"timeoutSeconds": 2}});
    let ports = json!([{"name": "web", "port": 80, "nodePort": 30090}]);
    rig.service("sticky", 22, json!({"type": "NodePort", "sessionAffinity": "ClientIP", "sessionAffinityConfig": timeout, "ports": ports}));
    rig.endpoints("sticky", &["one", "two"]);
    for (family, fronts) in
        [["10.43.0.22:80", "10.99.0.2:30090"], ["[fd43::16]:80", "[fd99::2]:30090"]].into_iter().enumerate()
    {
        for front in fronts {
            wait_for(front, Duration::from_secs(5), || {
                matches!(rig.two.ask(front), Heard::Answer(..)).then_some(())
            });
            let first = rig.two.ask(front).by().to_owned();
            let again: Vec<Heard> = (0..20).map(|_| rig.two.ask(front)).collect();
            assert!(again.iter().all(|heard| heard.by() == first), "{front} {again:?}");
            // Its endpoint goes: the client is not kept with it.
            let other = if first == "one" { "two" } else { "one" };
            rig.endpoints("sticky", &[other]);
            hears("the other endpoint", &[other], || rig.two.ask(front));
            rig.endpoints("sticky", &["one", "two"]);
            hears("it stays there", &[other], || rig.two.ask(front));
        }
        let table = ["ip", "ip6"][family];
        wait_for("the end of the time", Duration::from_secs(10), || {
            (!nft(rig, &["list", "map", table, "knarr-proxy", "affinity"]).contains("expires")).then_some(())
        });
    }
}

/// A connection may be on its way through the kernel at the moment in which its client is forgotten, which was
/// remembered anew for the endpoint that is gone: once in thirty changes, where a client goes on all the time.
pub(super) fn affinity_ends(rig: &Rig) {
    let timeout = json!({"clientIP": {"timeoutSeconds": 60}});
    rig.service("ended", 24, json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": timeout}));
    for other in ["one", "two"].into_iter().cycle().take(40) {
        rig.endpoints("ended", &[other]);
        hears("the endpoint that is left", &[other], || rig.two.ask("10.43.0.24:80"));
    }
}

pub(super) fn flows(rig: &Rig) {
    let ports = json!([{"name": "dns", "port": 53, "nodePort": 30091, "protocol": "UDP"}]);
    rig.service(
        "web",
        20,
        json!({"type": "NodePort", "ports": ports, "externalIPs": ["198.51.100.9", "2001:db8:7::9"]}),
    );
    let others = ["10.99.0.2:30091", "[fd99::2]:30091", "198.51.100.9:53", "[2001:db8:7::9]:53"];
    for front in DNS.into_iter().chain(others) {
        rig.endpoints("web", &["one"]);
        hears(front, &["one"], || rig.two.ask_udp(front));
        // A port of the client's may be that of a flow of before the change, which is only now forgotten.
        let flow =
            wait_for(&format!("{front} by a flow to the first endpoint"), Duration::from_secs(5), || {
                let flow = rig.two.flow(front);
                (ask_on(&flow).by() == "one").then_some(flow)
            });
        rig.endpoints("web", &["two"]);
        // The same flow, which has no end of its own.
        wait_for(&format!("{front} at the other endpoint"), Duration::from_secs(5), || {
            (ask_on(&flow).by() == "two").then_some(())
        });
        rig.endpoints("web", &["one", "two"]);
        hears("new flows everywhere", &["one", "two"], || rig.two.ask_udp(front));
        assert_eq!(ask_on(&flow).by(), "two", "a flow whose endpoint serves goes on");
    }
}

pub(super) fn health(rig: &Rig) {
    let spec =
        json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32000});
    rig.service("checked", 23, spec.clone());
    rig.endpoints("checked", &["one", "far"]);
    let check = |address: &str, wanted: (&str, i64)| {
        let url = format!("http://{}/", base::https::host_port(address, 32000));
        wait_for(&format!("{wanted:?} from {url}"), Duration::from_secs(5), || {
            let (status, body) = curl(rig, &url);
            let body: Value = serde_json::from_str(&body).ok()?;
            (status == wanted.0 && body["localEndpoints"] == wanted.1 && body["service"]["name"] == "checked")
                .then_some(())
        });
    };
    for address in NODE {
        check(address, ("200", 1));
    }
    rig.endpoints("checked", &["far"]);
    check(NODE[0], ("503", 0));
    rig.service("checked", 23, json!({"type": "LoadBalancer"}));
    wait_for("the end of the port", Duration::from_secs(5), || {
        (curl(rig, "http://127.0.0.1:32000/").0 == "000").then_some(())
    });
    let healthz = || curl(rig, "http://10.99.0.2:10256/healthz");
    let (status, body) = healthz();
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (status.as_str(), &body["healthy"], &body["nodeEligible"]),
        ("200", &json!(true), &json!(true))
    );
    let taint = json!([{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]);
    rig.feed.put(
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "here"}, "spec": {"taints": taint}}),
    );
    wait_for("503 of a node that goes", Duration::from_secs(5), || (healthz().0 == "503").then_some(()));
    assert_eq!(curl(rig, "http://10.99.0.2:10256/livez").0, "200");
    let (_, metrics) = curl(rig, "http://127.0.0.1:10249/metrics");
    assert!(
        metrics.contains("kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv6\"}"),
        "{metrics}"
    );
    assert_eq!(curl(rig, "http://127.0.0.1:10249/proxyMode").1, "nftables");
    assert_eq!(curl(rig, "http://10.99.0.2:10249/metrics").0, "000", "on localhost alone");
}

/// What is in the kernel stays when the proxy stops, and is put right when it starts.
pub(super) fn restart(rig: &Rig) {
    rig.service("web", 20, json!({}));
    rig.endpoints("web", &["one"]);
    hears("before", &["one"], || rig.two.ask(WEB[0]));
    rig.stop();
    hears("while it is stopped", &["one"], || rig.two.ask(WEB[0]));
    nft(rig, &["add", "element", "ip", "knarr-proxy", "hairpin", "{ 1.1.1.1 . 1.1.1.1 }"]);
    rig.endpoints("web", &["two"]);
    rig.start(&[]);
    for front in WEB {
        hears("after", &["two"], || rig.one.ask(front));
    }
    assert!(!nft(rig, &["list", "table", "ip", "knarr-proxy"]).contains("1.1.1.1"));
}
