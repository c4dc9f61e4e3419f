//! Policies of administrators with real packets: tiers, priorities, what passes on, ports, nodes and networks, and
//! what changes while they are there.

use super::in_x;
use super::rig::{Pod, Port, Rig};
use crate::support::cluster::{Cluster, IMAGE};
use crate::support::spots::Heard;
use serde_json::{Value, json};

const ADMIN: (&str, &str) = ("AdminNetworkPolicy", "admin");
const OTHER: (&str, &str) = ("AdminNetworkPolicy", "other");
const BASELINE: (&str, &str) = ("BaselineAdminNetworkPolicy", "default");
const CLUSTER: (&str, &str) = ("ClusterNetworkPolicy", "cluster");

/// Of namespace x.
fn spec(priority: u32, direction: &str, rules: Value) -> Value {
    json!({"priority": priority, "subject": {"namespaces": {"matchLabels": {"ns": "x"}}}, direction: rules})
}

fn of(namespace: &str) -> Value {
    json!([{"namespaces": {"matchLabels": {"ns": namespace}}}])
}

fn in_y(pod: &Pod) -> bool {
    pod.namespace == "y"
}

#[test]
fn tiers_with_packets() {
    let rig = Rig::new();
    rig.define();
    admin_before_namespaces(&rig);
    baseline_after_namespaces(&rig);
    ports(&rig);
    nodes_and_networks(&rig);
    the_later_api(&rig);
    rig.table("no policy any more", |_, _, _| true);
    assert!(!rig.nft(&["list", "tables"]).contains("knarr-policy"));
}

fn admin_before_namespaces(rig: &Rig) {
    rig.administer(ADMIN, spec(10, "ingress", json!([{"action": "Deny", "from": of("y")}])));
    rig.table("y is denied", |from, to, _| !(in_x(to) && in_y(from)));
    rig.policy("x", "allow", json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{}]}));
    rig.table("whatever x itself allows", |from, to, _| !(in_x(to) && in_y(from)));
    rig.policy("x", "allow", json!({"podSelector": {}, "policyTypes": ["Ingress"]}));
    rig.administer(OTHER, spec(5, "ingress", json!([{"action": "Allow", "from": of("y")}])));
    rig.table("a lower number is before, and x' own isolation after", |from, to, _| {
        !in_x(to) || from == to || in_y(from)
    });
    rig.administer(OTHER, spec(5, "ingress", json!([{"action": "Pass", "from": of("y")}])));
    rig.table("passed on to x, which denies", |from, to, _| !in_x(to) || from == to);
    rig.remove("x", "allow");
    rig.table("passed on to nobody", |_, _, _| true);
    rig.dismiss(OTHER);
    rig.table("denied again", |from, to, _| !(in_x(to) && in_y(from)));
    rig.label_namespace("z", &[("ns", "y")]);
    rig.label_namespace("z", &[("team", "y")]);
    rig.administer(
        ADMIN,
        spec(
            10,
            "ingress",
            json!([{"action": "Deny", "from": [{"namespaces": {"matchLabels": {"team": "y"}}}]}]),
        ),
    );
    rig.table("by a label that came later", |from, to, _| !(in_x(to) && from.namespace == "z"));
    rig.label_namespace("z", &[]);
    rig.table("and went", |_, _, _| true);
    rig.dismiss(ADMIN);
}

fn baseline_after_namespaces(rig: &Rig) {
    rig.administer(BASELINE, spec(0, "ingress", json!([{"action": "Deny", "from": [{"namespaces": {}}]}])));
    rig.table("nobody by default", |from, to, _| !in_x(to) || from == to);
    let b = json!([{"from": [{"podSelector": {"matchLabels": {"pod": "b"}}}]}]);
    rig.policy(
        "x",
        "own",
        json!({"podSelector": {"matchLabels": {"pod": "a"}}, "policyTypes": ["Ingress"], "ingress": b}),
    );
    rig.table("but where a policy of x is for the pod", |from, to, _| {
        !in_x(to) || from == to || to.name == "a" && in_x(from) && from.name == "b"
    });
    // A pod by its own service goes out and comes back: that is the administrators' business.
    rig.service("self", 6, &["10.42.0.3", "fd42::3"]);
    rig.service("isolated", 7, &["10.42.0.2", "fd42::2"]);
    for (own, isolated) in [("10.43.0.6:80", "10.43.0.7:80"), ("[fd43::6]:80", "[fd43::7]:80")] {
        rig.answers("of itself, as policies of x say", "x-a", || rig.pod("x", "a").ask(isolated));
        assert_eq!(rig.pod("x", "b").ask(own), Heard::Nothing);
    }
    rig.remove("x", "own");
    rig.dismiss(BASELINE);
}

fn ports(rig: &Rig) {
    let deny = |ports: Value| {
        spec(
            1,
            "egress",
            json!([{"action": "Deny", "to": [{"pods": {"namespaceSelector": {}, "podSelector": {}}}], "ports": ports}]),
        )
    };
    let check = |what, ports, denied: &dyn Fn(&Pod, Port) -> bool| {
        rig.administer(ADMIN, deny(ports));
        rig.table(what, |from, to, port| !in_x(from) || from == to || !denied(to, port));
    };
    check("a number", json!([{"portNumber": {"protocol": "TCP", "port": 80}}]), &|_, port| {
        port == Port::Tcp(80)
    });
    check(
        "a range",
        json!([{"portRange": {"protocol": "TCP", "start": 81, "end": 90}}, {"portRange": {"protocol": "UDP", "start": 1, "end": 80}}]),
        &|_, port| port != Port::Tcp(80),
    );
    // Pod c has another port of that name.
    check("a name", json!([{"namedPort": "web"}]), &|to, port| {
        port == if to.name == "c" { Port::Tcp(81) } else { Port::Tcp(80) }
    });
    rig.dismiss(ADMIN);
}

fn nodes_and_networks(rig: &Rig) {
    let (a, y) = (rig.pod("x", "a"), rig.pod("y", "a"));
    rig.label_node(&[("kind", "edge")], &["10.99.0.2", "fd99::2"]);
    rig.node.serve(&[8000], &[]);
    let node = ["10.99.0.2:8000", "[fd99::2]:8000"];
    node.iter().for_each(|node| rig.answers("its node", "node", || a.ask(node)));
    let to = |to: Value| spec(1, "egress", json!([{"action": "Deny", "to": to}]));
    rig.administer(ADMIN, to(json!([{"nodes": {"matchLabels": {"kind": "edge"}}}])));
    for node in node {
        rig.answers("a node that is denied", "nothing", || a.ask(node));
        assert_eq!(y.ask(node).by(), "node", "it is for x alone");
    }
    rig.answers("the world outside", "outside", || a.ask("10.99.0.1:80"));
    rig.label_node(&[], &["10.99.0.2", "fd99::2"]);
    node.iter().for_each(|node| rig.answers("a node without the label", "node", || a.ask(node)));
    rig.administer(ADMIN, to(json!([{"networks": ["10.99.0.0/24", "fd99::/64"]}])));
    for outside in ["10.99.0.1:80", "[fd99::1]:80"] {
        rig.answers("a network that is denied", "nothing", || a.ask(outside));
        assert_eq!(y.ask(outside).by(), "outside");
    }
    rig.table("which has no pods", |_, _, _| true);
    // Who may send nothing anywhere keeps its neighbours, and is answered.
    rig.administer(ADMIN, to(json!([{"networks": ["0.0.0.0/0", "::/0"]}])));
    rig.table("nothing from x", |from, to, _| !in_x(from) || from == to);
    rig.dismiss(ADMIN);
}

fn the_later_api(rig: &Rig) {
    let with = |tier: &str, mut spec: Value| {
        spec["tier"] = tier.into();
        spec
    };
    let number = json!([{"tcp": {"destinationPort": {"number": 80}}}]);
    let deny = json!([{"action": "Deny", "from": of("y"), "protocols": number}]);
    rig.administer(CLUSTER, with("Admin", spec(3, "ingress", deny.clone())));
    rig.administer(ADMIN, spec(4, "ingress", json!([{"action": "Allow", "from": of("y")}])));
    let denied = |from: &Pod, to: &Pod, port: Port| in_x(to) && in_y(from) && port == Port::Tcp(80);
    rig.table("both are one tier", |from, to, port| !denied(from, to, port));
    rig.administer(CLUSTER, with("Baseline", spec(3, "ingress", deny)));
    rig.table("allowed before the baseline", |_, _, _| true);
    rig.dismiss(ADMIN);
    rig.table("denied by the baseline", |from, to, port| !denied(from, to, port));
    // What an implementation does not know, as later versions may have it, denies.
    let later = json!([{"action": "Deny", "from": [{"later": {}}]}]);
    rig.administer(CLUSTER, with("Admin", spec(3, "ingress", later)));
    rig.table("closed", |from, to, _| !in_x(to) || from == to);
    rig.dismiss(CLUSTER);
}

/// As users install them, but for the schemas.
fn definition(kind: &str, plural: &str, version: &str) -> String {
    let (singular, schema) =
        (kind.to_lowercase(), "{type: object, x-kubernetes-preserve-unknown-fields: true}");
    format!(
        "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata:\n  name: {plural}.policy.networking.k8s.io\n  \
         annotations: {{api-approved.kubernetes.io: 'https://github.com/kubernetes-sigs/network-policy-api/pull/30'}}\nspec:\n  \
         group: policy.networking.k8s.io\n  scope: Cluster\n  names: {{kind: {kind}, plural: {plural}, singular: {singular}, listKind: {kind}List}}\n  \
         versions:\n  - name: {version}\n    served: true\n    storage: true\n    subresources: {{status: {{}}}}\n    schema: {{openAPIV3Schema: {schema}}}\n---\n"
    )
}

fn pod(name: &str, script: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  restartPolicy: Never\n  \
         terminationGracePeriodSeconds: 0\n  containers:\n  - name: c\n    image: {IMAGE}\n    command: [sh, -c]\n    args:\n    - |\n      {script}\n---\n"
    )
}

/// In a cluster with the real runtime, where a pod's first act is to send.
#[test]
fn definitions_that_are_installed_are_honoured() {
    let cluster = Cluster::new();
    cluster.apply(&pod("server", "mkdir /www; exec httpd -f -p 8080 -h /www"));
    cluster.pod_ready("server");
    let address = cluster.json("pod server")["status"]["podIP"].as_str().unwrap().to_owned();
    cluster.apply(
        &[
            definition("AdminNetworkPolicy", "adminnetworkpolicies", "v1alpha1"),
            definition("ClusterNetworkPolicy", "clusternetworkpolicies", "v1alpha2"),
        ]
        .concat(),
    );
    cluster.kubectl("wait --for condition=Established crd/adminnetworkpolicies.policy.networking.k8s.io crd/clusternetworkpolicies.policy.networking.k8s.io");
    let subject = "subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: bound}}}}";
    cluster.apply(&format!(
        "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\nmetadata: {{name: names}}\nspec:\n  priority: 1\n  {subject}\n  egress:\n  \
         - action: Allow\n    to: [{{pods: {{namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: kube-system}}}}, podSelector: {{matchLabels: {{k8s-app: kube-dns}}}}}}}}]\n---\n\
         apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {{name: nothing}}\nspec:\n  tier: Admin\n  priority: 2\n  {subject}\n  egress:\n  \
         - action: Deny\n    to: [{{networks: [0.0.0.0/0]}}]\n"
    ));
    crate::support::process::wait_for("the table of policies", std::time::Duration::from_secs(20), || {
        let tables = cluster.sandbox.run(&["nft", "list", "table", "inet", "knarr-policy"]).stdout;
        tables.contains("block-4-").then_some(())
    });
    let script = format!(
        "for i in 1 2 3; do nc -w 1 {address} 8080 < /dev/null 2>/dev/null && echo reached; done; nslookup kubernetes.default.svc.cluster.local > /dev/null && echo named"
    );
    cluster.apply(&[pod("bound", &script), pod("free", &script)].concat());
    for name in ["bound", "free"] {
        cluster.pod_ended(name);
    }
    assert_eq!(cluster.kubectl("logs free"), "reached\nreached\nreached\nnamed\n");
    assert_eq!(cluster.kubectl("logs bound"), "named\n", "not one packet, but names");
}
