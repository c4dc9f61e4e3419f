//! Services that change their types, their ports and whom clients stay with.

use super::endpoints::is_unset;
use super::{BTreeSet, Heard, Rig, SOON, cluster_ip, node_port, wait_for};
use crate::support::cluster::IMAGE;
use serde_json::{Value, json};

/// `create a functioning NodePort service`.
pub(super) fn node_ports(rig: &Rig) {
    let made = rig.service("port", &json!({"type": "NodePort"}));
    rig.reached("port");
    rig.reached(&cluster_ip(&made));
    rig.reached(&node_port(&made));
}

/// `serve endpoints on same port and different protocols`.
pub(super) fn protocols(rig: &Rig) {
    let tcp = json!({"name": "tcp", "port": 90, "protocol": "TCP", "targetPort": 8080});
    let udp = json!({"name": "udp", "port": 90, "protocol": "UDP", "targetPort": 8081});
    let to = format!("{}:90", cluster_ip(&rig.service("protocols", &json!({"ports": [tcp, udp]}))));
    let is = |tcp: bool, udp: bool| {
        wait_for(&format!("TCP {tcp} and UDP {udp}"), SOON, || {
            let heard = |heard: Heard| matches!(heard, Heard::Answer(..));
            (heard(rig.client.ask(&to)) == tcp && heard(rig.client.ask_udp(&to)) == udp).then_some(())
        });
    };
    is(true, true);
    rig.patch("protocols", &json!({"ports": [tcp]}));
    is(true, false);
    rig.patch("protocols", &json!({"ports": [udp]}));
    is(false, true);
}

/// `change the type from … to …`, for all four.
pub(super) fn to_and_from_external_names(rig: &Rig) {
    rig.service("target", &json!({}));
    let target = "target.default.svc.cluster.local";
    for kind in ["ClusterIP", "NodePort"] {
        let name = format!("from-{}", kind.to_lowercase());
        let made = rig.service(&name, &json!({"type": kind}));
        let address = cluster_ip(&made);
        rig.reached(&address);
        let outside = rig.patch(&name, &json!({"type": "ExternalName", "externalName": target}));
        assert!(is_unset(&outside["spec"]["clusterIP"]), "{outside}");
        assert!(outside["spec"]["ports"][0]["nodePort"].is_null(), "{outside}");
        stands_for(rig, &name, target);
        rig.reached(&name);
        wait_for("the end of its address", SOON, || rig.get(&address).is_empty().then_some(()));

        let name = format!("to-{}", kind.to_lowercase());
        rig.apply(&json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"type": "ExternalName", "externalName": "else.example.org"}}));
        let before = rig.cluster.json(&format!("service {name}"));
        assert!(is_unset(&before["spec"]["clusterIP"]), "{before}");
        let inside = json!({"type": kind, "externalName": null, "selector": {"app": "web"},
            "ports": [{"port": 80, "protocol": "TCP"}]});
        let after = rig.patch(&name, &inside);
        rig.reached(&cluster_ip(&after));
        rig.reached(&name);
        if kind == "NodePort" {
            rig.reached(&node_port(&after));
        }
    }
}

fn stands_for(rig: &Rig, name: &str, target: &str) {
    wait_for(&format!("{target} for {name}"), SOON, || {
        let found = rig.cluster.exec("client", &format!("nslookup {name}.default.svc.cluster.local"));
        found.stdout.contains(target).then_some(())
    });
}

/// Who answers of so many requests.
fn heard(rig: &Rig, authority: &str) -> BTreeSet<String> {
    let script =
        format!("for i in $(seq 15); do curl -sf --max-time 2 http://{authority}/name || echo nobody; done");
    let said = rig.cluster.exec("client", &script).ok();
    said.lines().map(str::to_owned).collect()
}

/// A Service whose clients stay, with the places where it is reached.
fn sticky(rig: &Rig, name: &str, kind: &str) -> Vec<String> {
    let made = rig.service(name, &json!({"type": kind, "sessionAffinity": "ClientIP"}));
    let mut places = vec![name.to_owned(), cluster_ip(&made)];
    if kind == "NodePort" {
        places.push(node_port(&made));
    }
    places.iter().for_each(|place| rig.reached(place));
    places
}

#[track_caller]
fn stays(rig: &Rig, place: &str) {
    let all = heard(rig, place);
    assert!(all.len() == 1 && !all.contains("nobody"), "{place}: {all:?}");
}

/// `have session affinity work`, for both types.
pub(super) fn affinity(rig: &Rig) {
    for (name, kind) in [("stays", "ClusterIP"), ("stays-port", "NodePort")] {
        sticky(rig, name, kind).iter().for_each(|place| stays(rig, place));
    }
}

/// `switch session affinity`, for both types.
pub(super) fn affinity_is_switched(rig: &Rig) {
    for (name, kind) in [("switched", "ClusterIP"), ("switched-port", "NodePort")] {
        let places = sticky(rig, name, kind);
        rig.patch(name, &json!({"sessionAffinity": "None"}));
        for place in &places {
            wait_for(&format!("several at {place}"), SOON, || (heard(rig, place).len() > 1).then_some(()));
        }
        rig.patch(name, &json!({"sessionAffinity": "ClientIP"}));
        for place in &places {
            wait_for(&format!("one at {place}"), SOON, || (heard(rig, place).len() == 1).then_some(()));
            stays(rig, place);
        }
    }
}

/// `support configurable pod DNS nameservers`.
pub(super) fn name_servers_of_a_pod(rig: &Rig) {
    let dns = json!({"nameservers": ["1.1.1.1"], "searches": ["resolv.conf.local"]});
    let pod: Value = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "own-dns"},
        "spec": {"terminationGracePeriodSeconds": 0, "dnsPolicy": "None", "dnsConfig": dns,
            "containers": [{"name": "main", "image": IMAGE, "command": ["sleep", "100000"]}]}});
    rig.apply(&pod);
    rig.cluster.pod_ready("own-dns");
    let written = rig.cluster.exec("own-dns", "cat /etc/resolv.conf").ok();
    let lines: BTreeSet<&str> = written.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    assert_eq!(lines, BTreeSet::from(["nameserver 1.1.1.1", "search resolv.conf.local"]));
}
