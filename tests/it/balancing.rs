//! Services of type LoadBalancer on a real node: its address, its port, and who does not get it.

use crate::support::cluster::{Cluster, IMAGE};

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
