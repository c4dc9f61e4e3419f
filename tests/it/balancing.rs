//! Services of type LoadBalancer on a real node: its address, its port, and who does not get it.

use crate::support::cluster::{Cluster, IMAGE, SOON};
use crate::support::process::wait_for;
use crate::support::spots;

const NODE: &str = "10.99.0.2";

fn service(name: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  type: LoadBalancer\n  \
         selector: {{app: web}}\n  ports: [{{port: {port}, targetPort: 8080}}]\n"
    )
}

fn pod() -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: web, labels: {{app: web}}}}\nspec:\n  \
         terminationGracePeriodSeconds: 0\n  containers:\n  - name: web\n    image: {IMAGE}\n    \
         command: [httpd, -f, -p, '8080', -h, /www]\n"
    )
}

#[track_caller]
fn has(cluster: &Cluster, name: &str, address: Option<&str>) {
    cluster.wait(&format!("service {name}"), |service| {
        let ingress = &service["status"]["loadBalancer"]["ingress"];
        (ingress[0]["ip"].as_str() == address && ingress[1].is_null()).then_some(())
    });
}

#[test]
fn a_load_balancer_is_the_nodes_address() {
    let cluster = Cluster::new();
    cluster.apply(&pod());
    cluster.apply(&service("first", 8081));
    has(&cluster, "first", Some(NODE));
    cluster.pod_ready("web");
    cluster.answers(&format!("http://{NODE}:8081/"), "version 1\n");
    // The second one does not get the port, until the first one gives it back.
    cluster.apply(&service("second", 8081));
    let told = cluster.event("second", "PortConflict");
    assert!(told.ends_with("8081/TCP of the Service default/first"), "{told}");
    has(&cluster, "second", None);
    cluster.apply(&service("api", 6443));
    assert!(cluster.event("api", "PortConflict").ends_with("6443/TCP of knarr itself"));
    cluster.try_kubectl(&["patch", "service", "first", "-p", r#"{"spec":{"type":"ClusterIP"}}"#]).ok();
    has(&cluster, "first", None);
    has(&cluster, "second", Some(NODE));
    cluster.answers(&format!("http://{NODE}:8081/"), "version 1\n");
    // Where endpoints are asked for, a node without one is not told.
    let local = r#"{"spec":{"externalTrafficPolicy":"Local"}}"#;
    cluster.try_kubectl(&["patch", "service", "second", "-p", local]).ok();
    has(&cluster, "second", Some(NODE));
    cluster.kubectl("delete pod web");
    has(&cluster, "second", None);
    cluster.apply(&pod());
    has(&cluster, "second", Some(NODE));
    cluster.kubectl("label node node-1 knarr.io/enablelb=false");
    has(&cluster, "second", None);
    cluster.event("second", "NoAddress");
}

#[test]
fn a_load_balancer_may_be_somebody_elses() {
    let mut cluster = Cluster::prepared(&[]);
    cluster.tell(&["--disable", "servicelb"]);
    cluster.start();
    cluster.apply(&service("other", 8081));
    let status = r#"{"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.7"}]}}}"#;
    cluster.try_kubectl(&["patch", "service", "other", "--subresource=status", "-p", status]).ok();
    cluster.kubectl("label node node-1 some=label");
    cluster.sandbox.run(&["sleep", "1"]);
    has(&cluster, "other", Some("192.0.2.7"));
    let refused = cluster.fails(&["--disable", "nonsense"]);
    assert!(refused.stderr.contains("nonsense"), "{refused:?}");
}

/// From outside, on the node's link, where nobody else answers for the address.
#[test]
fn a_range_gives_services_addresses_of_their_own() {
    let mut cluster = Cluster::prepared(&[]);
    cluster.tell(&["--lb-range", "10.99.0.40-10.99.0.41"]);
    cluster.start();
    spots::outside(&cluster.sandbox);
    cluster.apply(&pod());
    cluster.apply(&service("first", 8081));
    has(&cluster, "first", Some("10.99.0.40"));
    assert!(cluster.event("first", "NodeAssigned").contains("node-1 answers for 10.99.0.40"));
    cluster.pod_ready("web");
    let fetch = || {
        let words =
            ["ip", "netns", "exec", "outside", "curl", "-s", "--max-time", "2", "http://10.99.0.40:8081/"];
        cluster.sandbox.run(&words).stdout
    };
    wait_for("an answer at its own address", SOON, || (fetch() == "version 1\n").then_some(()));
    // The same port is no conflict at another address, and two are all there are.
    cluster.apply(&service("second", 8081));
    has(&cluster, "second", Some("10.99.0.41"));
    cluster.apply(&service("third", 8081));
    assert!(cluster.event("third", "AddressNotAvailable").contains("No address of --lb-range is free"));
    // One that shares, and one that asks for the node's.
    let share = r#"{"metadata":{"annotations":{"knarr.io/lb-share":"k"}}}"#;
    cluster.try_kubectl(&["patch", "service", "first", "-p", share]).ok();
    let other = r#"}},"spec":{"ports":[{"port":8082,"targetPort":8080}]}}"#;
    let other = share.replace("}}}", other);
    cluster.try_kubectl(&["patch", "service", "third", "--type", "merge", "-p", &other]).ok();
    cluster.wait("service third", |service| {
        (service["status"]["loadBalancer"]["ingress"][0]["ip"] == "10.99.0.40").then_some(())
    });
    cluster
        .try_kubectl(&["patch", "service", "second", "-p", r#"{"spec":{"loadBalancerIP":"10.99.0.2"}}"#])
        .ok();
    has(&cluster, "second", Some(NODE));
    cluster.kubectl("label node node-1 knarr.io/enablelb=false");
    cluster.event("first", "NotAnnounced");
    wait_for("nobody to answer", SOON, || {
        let proxies = cluster.sandbox.run(&["ip", "neigh", "show", "proxy"]).ok();
        proxies.is_empty().then_some(())
    });
    let refused = cluster.fails(&["--lb-range", "10.99.0.9-10.99.0.1"]);
    assert!(refused.stderr.contains("10.99.0.9-10.99.0.1"), "{refused:?}");
}

/// A pod that has a port of its node keeps a younger load balancer from it.
#[test]
fn ports_of_pods_on_the_node_are_conflicts() {
    let cluster = Cluster::new();
    let taken = pod()
        .replace("command: [httpd", "ports: [{containerPort: 8080, hostPort: 8085}]\n    command: [httpd");
    cluster.apply(&taken);
    cluster.pod_ready("web");
    cluster.apply(&service("late", 8085));
    let told = cluster.event("late", "PortConflict");
    assert!(told.ends_with("8085/TCP of the Pod default/web"), "{told}");
    has(&cluster, "late", None);
    cluster.kubectl("delete pod web");
    has(&cluster, "late", Some(NODE));
}
