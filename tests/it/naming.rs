//! Cluster DNS as its users see it: pods that look names up, a person who edits the Corefile, name
//! servers that fail.

mod outside;

use crate::support::cluster::{Cluster, IMAGE, SOON};
use crate::support::process::wait_for;
use hickory_proto::rr::RecordType;
use outside::{Client, Outside};
use std::fs;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The sandbox's own address, where the name server of the outside listens.
const MACHINE: &str = "10.99.0.2:53";
const STUB_DOMAIN: &str = "10.99.0.2:5300";

fn cluster() -> Cluster {
    let mut cluster = Cluster::prepared(&[]);
    let file = cluster.sandbox.folder.join("resolv.conf");
    fs::write(&file, "nameserver 10.99.0.2\n").unwrap();
    cluster.tell(&["--resolv-conf", &file.display().to_string()]);
    cluster.start();
    cluster
}

/// A pod with a shell, a headless Service whose subdomain it has, a Service with a named port, and an
/// alias.
fn manifest() -> String {
    format!(
        r#"apiVersion: v1
kind: Pod
metadata: {{name: shell, labels: {{app: shell}}}}
spec:
  hostname: first
  subdomain: group
  terminationGracePeriodSeconds: 0
  containers: [{{name: shell, image: {IMAGE}, command: [sleep, infinity]}}]
---
apiVersion: v1
kind: Service
metadata: {{name: group}}
spec:
  clusterIP: None
  selector: {{app: shell}}
  ports: [{{name: sql, port: 5432}}]
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  clusterIP: 10.43.7.7
  selector: {{app: shell}}
  ports: [{{name: http, port: 80}}]
---
apiVersion: v1
kind: Service
metadata: {{name: alias}}
spec: {{type: ExternalName, externalName: server.example.org}}
"#
    )
}

#[test]
fn names_are_found() {
    let cluster = cluster();
    let outside = Outside::new(cluster.sandbox.network(), MACHINE, [192, 0, 2, 1], 300);
    cluster.apply(&manifest());
    cluster.pod_ready("shell");
    let client = Client::new(cluster.sandbox.network());
    let address = of_the_cluster(&cluster, &client);
    pods_find_the_cluster(&cluster);
    pods_find_services(&cluster, &client, &address);
    pods_find_pods(&cluster, &address);
    pods_follow_external_names(&cluster);
    of_the_outside(&client, &outside);
    published(&cluster, &client);
}

/// Gives the pod's address.
fn of_the_cluster(cluster: &Cluster, client: &Client) -> String {
    let address = cluster.json("pod shell")["status"]["podIP"].as_str().unwrap().to_owned();
    let host = "first.group.default.svc.cluster.local.";
    wait_for("the pod's name", SOON, || (client.dig(host, RecordType::A) == address).then_some(()));
    let dig = |name: &str, kind| client.dig(&format!("{name}.cluster.local."), kind);
    assert_eq!(dig("web.default.svc", RecordType::A), "10.43.7.7");
    assert_eq!(dig("web.default.svc", RecordType::AAAA), "");
    assert_eq!(dig("none.default.svc", RecordType::A), "Non-Existent Domain");
    assert_eq!(dig("_http._tcp.web.default.svc", RecordType::SRV), "0 100 80 web.default.svc.cluster.local.");
    assert_eq!(dig("_sql._tcp.group.default.svc", RecordType::SRV), format!("0 100 5432 {host}"));
    assert_eq!(dig("dns-version", RecordType::TXT), "1.1.0");
    assert_eq!(client.dig("7.7.43.10.in-addr.arpa.", RecordType::PTR), "web.default.svc.cluster.local.");
    let reverse: Vec<&str> = address.rsplit('.').collect();
    assert_eq!(client.dig(&format!("{}.in-addr.arpa.", reverse.join(".")), RecordType::PTR), host);
    assert_eq!(dig("alias.default.svc", RecordType::A), "server.example.org., 192.0.2.1");
    let written = client.ask("WeB.Default.SVC.cluster.local.", RecordType::A);
    assert_eq!(written.answers[0].name.to_ascii(), "WeB.Default.SVC.cluster.local.");
    // The machine's name is known as k3s' table of hosts has it.
    assert_eq!(client.dig("node-1.", RecordType::A), "10.99.0.2");
    address
}

/// Waits until a pod finds this address for a name, which the C library looks up with search paths.
#[track_caller]
fn finds(cluster: &Cluster, name: &str, wanted: &str) {
    wait_for(&format!("{wanted} for {name} in a pod"), SOON, || {
        let tried =
            cluster.exec("shell", &format!("curl -sv --connect-timeout 1 http://{name}/ 2>&1")).stdout;
        tried.contains(&format!("Trying {wanted}:")).then_some(())
    });
}

/// Waits until a pod finds that a name stands for another one.
#[track_caller]
fn finds_alias(cluster: &Cluster, name: &str, wanted: &str) {
    wait_for(&format!("the name {wanted} for {name} in a pod"), SOON, || {
        let found = cluster.exec("shell", &format!("nslookup {name}"));
        (found.code == 0 && found.stdout.contains(wanted)).then_some(())
    });
}

fn pods_find_the_cluster(cluster: &Cluster) {
    for name in ["kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"] {
        finds(cluster, name, "10.43.0.1");
    }
    assert_ne!(cluster.exec("shell", "nslookup none.example.org").code, 0);
}

fn pods_find_services(cluster: &Cluster, client: &Client, address: &str) {
    for end in ["", ".default", ".default.svc", ".default.svc.cluster.local"] {
        finds(cluster, &format!("web{end}"), "10.43.7.7");
        finds(cluster, &format!("group{end}"), address);
    }
    // What looks SRV up goes by the same list, from which the node's name server is asked.
    let conf = cluster.exec("shell", "cat /etc/resolv.conf").ok();
    let searches: Vec<&str> = conf
        .lines()
        .filter_map(|line| line.strip_prefix("search "))
        .flat_map(str::split_whitespace)
        .collect();
    for (name, wanted) in [
        ("_http._tcp.web", "0 100 80 web.default.svc.cluster.local.".to_owned()),
        ("_http._tcp.web.default.svc", "0 100 80 web.default.svc.cluster.local.".to_owned()),
        ("_sql._tcp.group.default", "0 100 5432 first.group.default.svc.cluster.local.".to_owned()),
    ] {
        let found = searches.iter().map(|search| client.dig(&format!("{name}.{search}."), RecordType::SRV));
        assert!(found.collect::<Vec<_>>().contains(&wanted), "{name} {searches:?}");
    }
}

fn pods_find_pods(cluster: &Cluster, address: &str) {
    for name in ["first.group", "first.group.default.svc.cluster.local", "group"] {
        finds(cluster, name, address);
    }
    let hosts = cluster.exec("shell", "cat /etc/hosts").ok();
    assert!(hosts.contains(&format!("{address}\tfirst.group.default.svc.cluster.local\tfirst")), "{hosts}");
}

fn pods_follow_external_names(cluster: &Cluster) {
    let name = "alias.default.svc.cluster.local";
    finds(cluster, name, "192.0.2.1");
    finds_alias(cluster, name, "server.example.org");
    cluster
        .try_kubectl(&["patch", "service", "alias", "-p", r#"{"spec":{"externalName":"other.example.org"}}"#])
        .ok();
    finds_alias(cluster, name, "other.example.org");
    let inside =
        r#"{"spec":{"type":"ClusterIP","externalName":null,"clusterIP":"10.43.7.8","ports":[{"port":80}]}}"#;
    cluster.try_kubectl(&["patch", "service", "alias", "-p", inside]).ok();
    finds(cluster, name, "10.43.7.8");
}

fn of_the_outside(client: &Client, outside: &Outside) {
    let before = outside.asked.load(Ordering::Relaxed);
    for _ in 0..5 {
        assert_eq!(client.dig("kept.example.org.", RecordType::A), "192.0.2.1");
        assert_eq!(client.dig("none.kept.example.org.", RecordType::A), "Non-Existent Domain");
    }
    assert_eq!(outside.asked.load(Ordering::Relaxed), before + 2, "answers and denials are kept");
    let names = ["a.example.org.", "kubernetes.default.svc.cluster.local.", "b.example.org."];
    assert_eq!(client.pipeline(&names), ["192.0.2.1", "10.43.0.1", "192.0.2.1"]);
}

/// What tools look for: the Service, and CoreDNS' metrics.
fn published(cluster: &Cluster, client: &Client) {
    let service = cluster.json("service kube-dns -n kube-system");
    assert_eq!(service["spec"]["clusterIP"], "10.43.0.10");
    let ports = service["spec"]["ports"].as_array().unwrap();
    assert_eq!(
        ports.iter().map(|port| port["name"].as_str().unwrap()).collect::<Vec<_>>(),
        ["dns", "dns-tcp", "metrics"]
    );
    client.dig("web.default.svc.cluster.local.", RecordType::A);
    let fetched =
        cluster.exec("shell", "curl -sS --max-time 5 http://kube-dns.kube-system:9153/metrics").ok();
    for series in [
        "coredns_dns_requests_total{server=\"dns://:53\",zone=\".\",view=\"\",proto=\"udp\",family=\"1\",type=\"A\"} ",
        "coredns_dns_responses_total{server=\"dns://:53\",zone=\".\",view=\"\",rcode=\"NXDOMAIN\"} ",
        "coredns_cache_hits_total{server=\"dns://:53\",zone=\".\",view=\"\",type=\"success\"} ",
        "coredns_proxy_request_duration_seconds_count{proxy_name=\"forward\",to=\"10.99.0.2:53\",rcode=\"NOERROR\"} ",
    ] {
        assert!(fetched.contains(series), "{series} is not in {fetched}");
    }
    // Who does not come from the cluster is not told.
    let foreign =
        ["curl", "-sS", "--max-time", "2", "--interface", "10.99.0.2", "http://10.43.0.10:9153/metrics"];
    assert_ne!(cluster.sandbox.run(&foreign).code, 0);
}

#[test]
fn a_corefile_is_followed_while_it_is_edited() {
    let cluster = cluster();
    let network = cluster.sandbox.network();
    let _machine = Outside::new(network.clone(), MACHINE, [192, 0, 2, 1], 300);
    let _stub = Outside::new(network.clone(), STUB_DOMAIN, [192, 0, 2, 53], 300);
    let client = Client::new(network);
    assert_eq!(client.dig("a.corp.example.", RecordType::A), "192.0.2.1");
    custom(&cluster, "corp.server", &format!("corp.example {{\n  cache 30\n  forward . {STUB_DOMAIN}\n}}"));
    becomes(&client, "a.corp.example.", "192.0.2.53");
    assert_eq!(client.dig("a.example.", RecordType::A), "192.0.2.1");
    custom(
        &cluster,
        "own.override",
        "hosts {\n  192.0.2.99 printer.office\n  fallthrough\n}\nrewrite name old.example kubernetes.default.svc.cluster.local",
    );
    becomes(&client, "printer.office.", "192.0.2.99");
    assert_eq!(client.dig("99.2.0.192.in-addr.arpa.", RecordType::PTR), "printer.office.");
    let renamed = client.ask("old.example.", RecordType::A);
    assert_eq!(
        (renamed.answers[0].name.to_ascii(), renamed.answers[0].data.to_string()),
        ("old.example.".into(), "10.43.0.1".into())
    );
    // What is refused is told of, and what was in force stays so.
    custom(&cluster, "own.override", "log\nautopath @kubernetes");
    let told = refused(&cluster);
    assert!(told.starts_with("own.override line 2: the directive \"autopath\" is not supported."), "{told}");
    assert_eq!(client.dig("printer.office.", RecordType::A), "192.0.2.99");
    custom(&cluster, "own.override", "");
    becomes(&client, "printer.office.", "192.0.2.1");
    let corefile = "{\"data\":{\"Corefile\":\".:53 {\\n forward . 10.99.0.2:5300\\n health\\n}\\n\"}}";
    cluster.try_kubectl(&["patch", "configmap", "coredns", "-n", "kube-system", "-p", corefile]).ok();
    becomes(&client, "b.example.", "192.0.2.53");
    // Without `kubernetes` the cluster's names are anybody's.
    assert_eq!(client.dig("kubernetes.default.svc.cluster.local.", RecordType::A), "192.0.2.53");
    cluster.answers("http://10.43.0.10:8080/health", "OK");
    cluster.kubectl("delete configmap coredns -n kube-system");
    becomes(&client, "kubernetes.default.svc.cluster.local.", "10.43.0.1");
}

/// What the event says that tells of a refusal.
fn refused(cluster: &Cluster) -> String {
    let events =
        "events -n kube-system --field-selector involvedObject.name=coredns-custom,reason=CorefileRefused";
    cluster.wait(events, |list| Some(list["items"][0]["message"].as_str()?.to_owned()))
}

fn custom(cluster: &Cluster, key: &str, text: &str) {
    let patch = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "coredns-custom", "namespace": "kube-system"}, "data": {key: text}});
    let manager = format!("--field-manager={key}");
    let words = ["apply", "--server-side", manager.as_str(), "-f", "-"];
    cluster.kubectl_with(&patch.to_string(), &words).ok();
}

#[track_caller]
fn becomes(client: &Client, name: &str, wanted: &str) {
    wait_for(&format!("{wanted} for {name}"), SOON, || {
        (client.dig(name, RecordType::A) == wanted).then_some(())
    });
}

#[test]
fn name_servers_may_fail() {
    let cluster = cluster();
    let client = Client::new(cluster.sandbox.network());
    // Nobody listens: it is known at once.
    let begin = base::clock::instant();
    assert_eq!(client.dig("a.example.", RecordType::A), "Server Failure");
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    let outside = Outside::new(cluster.sandbox.network(), MACHINE, [192, 0, 2, 1], 1);
    becomes(&client, "a.example.", "192.0.2.1");
    outside.silent.store(true, Ordering::Relaxed);
    cluster.sandbox.run(&["sleep", "1.2"]);
    // What was kept serves on, other names fail before clients give up, and the cluster's do not care.
    let begin = base::clock::instant();
    assert_eq!(client.dig("a.example.", RecordType::A), "192.0.2.1");
    assert_eq!(client.dig("kubernetes.default.svc.cluster.local.", RecordType::A), "10.43.0.1");
    assert_eq!(client.dig("b.example.", RecordType::A), "Server Failure");
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    let begin = base::clock::instant();
    for name in ["a.example.", "c.example.", "d.example."] {
        client.dig(name, RecordType::A);
    }
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    outside.silent.store(false, Ordering::Relaxed);
    becomes(&client, "b.example.", "192.0.2.1");
    // The machine moves to another network.
    drop(outside);
    let _other = Outside::new(cluster.sandbox.network(), "127.0.0.9:53", [192, 0, 2, 9], 1);
    fs::write(cluster.sandbox.folder.join("resolv.conf"), "nameserver 127.0.0.9\n").unwrap();
    becomes(&client, "e.example.", "192.0.2.9");
}

/// A cluster of IPv6 alone, whose clients and pods have no other.
#[test]
fn names_are_found_over_ipv6() {
    let mut cluster = Cluster::prepared(&[]);
    let setup = "set -e; ip -6 addr add 2001:db8:99::2/64 dev eth0 nodad; \
                 ip -6 route add default via 2001:db8:99::1 dev eth0";
    cluster.sandbox.sh(setup).ok();
    let blocks = ["--cluster-cidr", "fd00:42::/56", "--service-cidr", "fd00:43::/112"];
    cluster.tell(&[&blocks[..], &["--node-ip", "2001:db8:99::2"]].concat());
    cluster.start();
    cluster.apply(&manifest().replace("10.43.7.7", "fd00:43::7"));
    cluster.pod_ready("shell");
    let address = cluster.json("pod shell")["status"]["podIP"].as_str().unwrap().to_owned();
    assert!(address.starts_with("fd00:42:"), "{address}");
    let client = Client::at(cluster.sandbox.network(), "[fd00:43::a]:53");
    let dig = |name: &str, kind| client.dig(&format!("{name}.cluster.local."), kind);
    wait_for("the pod's name", SOON, || {
        (dig("first.group.default.svc", RecordType::AAAA) == address).then_some(())
    });
    assert_eq!(dig("kubernetes.default.svc", RecordType::AAAA), "fd00:43::1");
    assert_eq!(dig("web.default.svc", RecordType::AAAA), "fd00:43::7");
    assert_eq!(dig("web.default.svc", RecordType::A), "");
    assert_eq!(dig("_http._tcp.web.default.svc", RecordType::SRV), "0 100 80 web.default.svc.cluster.local.");
    let reverse = format!("7.{}3.4.0.0.0.0.d.f.ip6.arpa.", "0.".repeat(23));
    assert_eq!(client.dig(&reverse, RecordType::PTR), "web.default.svc.cluster.local.");
    let piped = client.pipeline(&["none.default.svc.cluster.local."]);
    assert_eq!(piped, ["Non-Existent Domain"], "over TCP");
    for (name, wanted) in
        [("web", "fd00:43::7"), ("group.default", &address), ("kubernetes.default", "fd00:43::1")]
    {
        wait_for(&format!("{wanted} for {name} in a pod"), SOON, || {
            let tried = cluster.exec("shell", &format!("curl -sv --connect-timeout 1 http://{name}/ 2>&1"));
            tried.stdout.contains(wanted).then_some(())
        });
    }
}
