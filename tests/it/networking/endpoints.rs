//! Pods and nodes that reach pods, slices that somebody else wrote, and ports of the node.

use super::{Heard, NODE, PODS, Rig, SOON, Spot, cluster_ip, text, wait_for};
use crate::support::cluster::{ADMINISTRATOR, API, IMAGE};
use crate::support::https::{Https, JSON};
use base::clock;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

/// `Networking Granular Checks: Pods`, from a pod.
pub(super) fn pods_reach_pods(rig: &Rig) {
    for (name, pod) in PODS.iter().zip(&rig.pods) {
        let address = pod.addresses[0];
        assert_eq!(rig.get(&format!("{address}:80")), *name);
        assert_eq!(rig.client.ask_udp(&format!("{address}:8081")).by(), *name);
    }
}

/// The same from the node.
pub(super) fn nodes_reach_pods(rig: &Rig) {
    for (name, pod) in PODS.iter().zip(&rig.pods) {
        let address = pod.addresses[0];
        let page = rig.cluster.fetch(&format!("http://{address}:80/name"));
        assert_eq!(page.unwrap_or_default().trim(), *name);
        assert_eq!(rig.node.ask_udp(&format!("{address}:8081")).by(), *name);
    }
}

/// A Service without a selector, and its slices: the pod and the port of each.
fn sliced(rig: &Rig, name: &str, slices: [(usize, u16); 2]) -> String {
    let ports = json!([{"name": "first", "port": 80}, {"name": "second", "port": 81}]);
    rig.apply(
        &json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": ports}}),
    );
    for (port, (pod, number)) in ["first", "second"].iter().zip(slices) {
        rig.apply(
            &json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": format!("{name}-{port}"), "labels": {"kubernetes.io/service-name": name}},
            "endpoints": [{"addresses": [rig.pods[pod].addresses[0]]}],
            "ports": [{"name": port, "port": number, "protocol": "TCP"}]}),
        );
    }
    cluster_ip(&rig.cluster.json(&format!("service {name}")))
}

#[track_caller]
fn answers(rig: &Rig, to: &str, wanted: &str) {
    wait_for(&format!("{wanted} at {to}"), SOON, || (rig.client.ask(to).by() == wanted).then_some(()));
}

pub(super) fn slices_of_several_ports(rig: &Rig) {
    let address = sliced(rig, "ports", [(0, 8080), (0, 9090)]);
    answers(rig, &format!("{address}:80"), "web-0");
    answers(rig, &format!("{address}:81"), "web-0");
}

pub(super) fn slices_of_several_addresses(rig: &Rig) {
    let address = sliced(rig, "addresses", [(1, 8080), (2, 9090)]);
    answers(rig, &format!("{address}:80"), "web-1");
    answers(rig, &format!("{address}:81"), "web-2");
}

/// `HostPort`: the same number for pods of one node, by address and protocol.
pub(super) fn ports_of_the_node(rig: &Rig) {
    let ports = [("here", "127.0.0.1", "TCP"), ("node", NODE, "TCP"), ("udp", NODE, "UDP")];
    for (name, address, protocol) in ports {
        let port = json!({"containerPort": if protocol == "UDP" { 8081 } else { 8080 }, "hostPort": 54_323,
            "hostIP": address, "protocol": protocol});
        rig.apply(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"terminationGracePeriodSeconds": 0, "containers":
                [{"name": "main", "image": IMAGE, "command": ["sleep", "100000"], "ports": [port]}]}}));
    }
    for (name, _, _) in ports {
        rig.cluster.pod_ready(name);
        super::inside(&rig.cluster, name).serve(&[8080], &[8081]);
    }
    let at = |address: &str| format!("{address}:54323");
    let soon = |what: &str, ask: &dyn Fn() -> Heard, wanted: &str| {
        wait_for(what, SOON, || (ask().by() == wanted).then_some(()));
    };
    soon("the port of localhost", &|| rig.node.ask(&at("127.0.0.1")), "here");
    soon("the port of the node", &|| rig.node.ask(&at(NODE)), "node");
    soon("the node's port from a pod", &|| rig.client.ask(&at(NODE)), "node");
    soon("the port of UDP", &|| rig.client.ask_udp(&at(NODE)), "udp");
    soon("the port of UDP from the node", &|| rig.node.ask_udp(&at(NODE)), "udp");
    rig.cluster.kubectl("delete pod here node udp --wait=false");
}

/// `Service endpoints latency`: how long a Service waits for its endpoints, a hundred times.
pub(super) fn soon_there(rig: &Rig) {
    const SERVICES: &str = "/api/v1/namespaces/default/services";
    let https = Https::new(&rig.cluster);
    let mut times: Vec<Duration> = (0..100)
        .map(|number| {
            let name = format!("latency-{number}");
            let spec = json!({"selector": {"app": "web"}, "ports": [{"port": 80}]});
            let began = clock::instant();
            let (code, made) =
                https.send("POST", SERVICES, JSON, &json!({"metadata": {"name": name}, "spec": spec}));
            assert_eq!(code, 201, "{made}");
            wait_for("endpoints", SOON, || {
                let (_, found) = https.call("GET", &format!("/api/v1/namespaces/default/endpoints/{name}"));
                let addresses = found["subsets"][0]["addresses"].as_array().map_or(0, Vec::len);
                (addresses == PODS.len()).then_some(())
            });
            began.elapsed()
        })
        .collect();
    times.sort_unstable();
    let (half, nine_tenths) = (times[50], times[90]);
    assert!(
        half < Duration::from_secs(20) && nine_tenths < Duration::from_secs(50),
        "{half:?} {nine_tenths:?}"
    );
    let all: Vec<String> = (0..100).map(|number| format!("latency-{number}")).collect();
    rig.cluster.kubectl(&format!("delete service {}", all.join(" ")));
}

/// Whether an object's field is unset.
pub(super) fn is_unset(value: &Value) -> bool {
    text(value).is_empty() || text(value) == "None"
}

const METHODS: [&str; 7] = ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"];

/// Repeats the first line of each request, in the pod's network.
fn echo(pod: &Spot, port: u16) {
    let bound = pod.within(move || TcpListener::bind(("::", port)).unwrap()).join().unwrap();
    std::thread::spawn(move || {
        for stream in bound.incoming() {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte).unwrap_or_default() == 0 {
                    break;
                }
                head.extend(byte);
            }
            let line = String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned();
            let length = line.len();
            let body = if line.starts_with("HEAD") { "" } else { &line };
            let answer = format!(
                "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\nx-line: {line}\r\n\r\n{body}"
            );
            // Who has left meanwhile needs no answer.
            drop(stream.write_all(answer.as_bytes()));
        }
    });
}

/// `A set of valid responses are returned for both pod and service`, with and without a path.
pub(super) fn proxied_methods(rig: &Rig) {
    rig.pods.iter().for_each(|pod| echo(pod, 9100));
    rig.service("echo", &json!({"ports": [{"port": 80, "targetPort": 9100}]}));
    let asked = |method: &str, path: &str| {
        let url = format!("{API}/api/v1/namespaces/default/{path}");
        let method = if method == "HEAD" { vec!["-I"] } else { vec!["-i", "-X", method] };
        let words = [&ADMINISTRATOR[..], &["--http1.1", "--max-time", "5"], &method, &[&url]].concat();
        rig.cluster.curl(&words).stdout.to_ascii_lowercase()
    };
    for place in ["pods/web-0:9100/proxy", "services/echo/proxy"] {
        wait_for(place, SOON, || asked("GET", &format!("{place}/")).contains("200 ok").then_some(()));
        for method in METHODS {
            let line = |path: &str| format!("x-line: {} {path} http/1.1\r\n", method.to_lowercase());
            let path = format!("/some/path/with/{}", method.to_lowercase());
            let answer = asked(method, &format!("{place}{path}"));
            assert!(answer.starts_with("http/1.1 200") && answer.contains(&line(&path)), "{answer}");
            // Without a path those who read are sent on to its root, where links are right.
            let answer = asked(method, &format!("{place}?method={}", method.to_lowercase()));
            match method {
                "GET" | "HEAD" => {
                    assert!(
                        answer.starts_with("http/1.1 301") && answer.contains("/proxy/?method="),
                        "{answer}"
                    );
                }
                _ => assert!(answer.starts_with("http/1.1 200") && answer.contains("x-line: "), "{answer}"),
            }
        }
    }
}
