//! NetworkPolicies with real packets: nine pods of three namespaces, every pair of them, every port, both
//! families; what passes has to be what the policies say, no more and no less.

mod administrators;
mod rig;

use crate::support::cluster::{ADMINISTRATOR, API, Cluster, IMAGE, SOON};
use crate::support::fleet::Fleet;
use crate::support::process::wait_for;
use crate::support::spots::Heard;
use rig::{Pod, Port, Rig};
use serde_json::json;

/// The pods and ports of Kubernetes' own tests.
#[test]
fn truth_tables() {
    let rig = Rig::new();
    rig.table("no policy", |_, _, _| true);
    denials(&rig);
    peers(&rig);
    ports(&rig);
    egress(&rig);
    changes(&rig);
}

fn in_x(pod: &Pod) -> bool {
    pod.namespace == "x"
}

fn denials(rig: &Rig) {
    rig.policy("x", "deny", json!({"podSelector": {}, "policyTypes": ["Ingress"]}));
    rig.table("default deny of ingress", |from, to, _| !in_x(to) || from == to);
    rig.policy("x", "allow", json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{}]}));
    rig.table("and one that allows all", |_, _, _| true);
    rig.remove("x", "allow");
    rig.remove("x", "deny");
    let one = json!({"podSelector": {"matchLabels": {"pod": "a"}}, "policyTypes": ["Ingress", "Egress"]});
    rig.policy("x", "deny", one);
    let is_one = |pod: &Pod| in_x(pod) && pod.name == "a";
    rig.table("both ways, of one pod", |from, to, _| from == to || !is_one(from) && !is_one(to));
    rig.remove("x", "deny");
}

fn peers(rig: &Rig) {
    let of = |from: serde_json::Value| json!({"podSelector": {"matchLabels": {"pod": "a"}}, "policyTypes": ["Ingress"], "ingress": [{"from": from}]});
    let bound = |to: &Pod| in_x(to) && to.name == "a";
    let check = |what, from, allowed: &dyn Fn(&Pod) -> bool| {
        rig.policy("x", "peers", of(from));
        rig.table(what, |from, to, _| !bound(to) || from == to || allowed(from));
    };
    let b = json!({"matchLabels": {"pod": "b"}});
    let y = json!({"matchExpressions": [{"key": "ns", "operator": "In", "values": ["y", "other"]}]});
    check("a pod of the namespace", json!([{"podSelector": b}]), &|from| in_x(from) && from.name == "b");
    check("a namespace", json!([{"namespaceSelector": y}]), &|from| from.namespace == "y");
    let both = json!([{"namespaceSelector": y, "podSelector": b}]);
    check("a pod of a namespace", both, &|from| from.namespace == "y" && from.name == "b");
    let either = json!([{"namespaceSelector": y}, {"podSelector": b}]);
    check("a namespace or a pod", either, &|from| from.namespace == "y" || in_x(from) && from.name == "b");
    check("every namespace", json!([{"namespaceSelector": {}}]), &|_| true);
    let blocks = json!([
        {"ipBlock": {"cidr": "10.42.0.0/16", "except": ["10.42.0.16/28"]}},
        {"ipBlock": {"cidr": "fd42::/64", "except": ["fd42::10/124"]}}]);
    // Namespace y is 18 to 20.
    check("blocks with exceptions", blocks, &|from| from.namespace != "y");
    assert_eq!(rig.outside.ask("10.42.0.1:80"), Heard::Refused, "the node itself is no pod");
    rig.remove("x", "peers");
}

fn ports(rig: &Rig) {
    let of = |ports: serde_json::Value| json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"ports": ports}]});
    let check = |what, ports, allowed: &dyn Fn(&Pod, Port) -> bool| {
        rig.policy("x", "ports", of(ports));
        rig.table(what, |from, to, port| !in_x(to) || from == to || allowed(to, port));
    };
    check("a number", json!([{"port": 80}]), &|_, port| port == Port::Tcp(80));
    check("a protocol", json!([{"protocol": "UDP"}]), &|_, port| port == Port::Udp(80));
    check(
        "a range",
        json!([{"port": 70, "endPort": 80}, {"port": 1, "endPort": 79, "protocol": "UDP"}]),
        &|_, port| port == Port::Tcp(80),
    );
    // Pod c has another port of that name.
    check("a name", json!([{"port": "web"}]), &|to, port| {
        port == if to.name == "c" { Port::Tcp(81) } else { Port::Tcp(80) }
    });
    rig.remove("x", "ports");
}

fn egress(rig: &Rig) {
    let of =
        |egress: serde_json::Value| json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": egress});
    rig.policy("x", "egress", of(json!([])));
    rig.table("default deny of egress", |from, to, _| !in_x(from) || from == to);
    assert_eq!(rig.pod("x", "a").ask("10.42.0.1:80"), Heard::Refused, "its own node is always reached");
    assert_eq!(rig.pod("x", "a").ask("10.99.0.1:80"), Heard::Nothing, "the world outside is not");
    let to_y =
        json!([{"to": [{"namespaceSelector": {"matchLabels": {"ns": "y"}}}], "ports": [{"port": "web"}]}]);
    rig.policy("x", "egress", of(to_y));
    let web = |to: &Pod| if to.name == "c" { Port::Tcp(81) } else { Port::Tcp(80) };
    rig.table("to the named ports of a namespace", |from, to, port| {
        !in_x(from) || from == to || to.namespace == "y" && port == web(to)
    });
    // Both sides have their say.
    rig.policy("y", "ingress", json!({"podSelector": {}, "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"ns": "x"}}, "podSelector": {"matchLabels": {"pod": "a"}}}]}]}));
    rig.table("and of the other side", |from, to, port| {
        let may_send = !in_x(from) || to.namespace == "y" && port == web(to);
        let may_receive = to.namespace != "y" || in_x(from) && from.name == "a";
        from == to || may_send && may_receive
    });
    rig.remove("y", "ingress");
    rig.policy("x", "egress", of(json!([{"to": [{"ipBlock": {"cidr": "10.99.0.0/24"}}]}])));
    rig.table("to a block without pods", |from, to, _| !in_x(from) || from == to);
    assert_eq!(rig.pod("x", "a").ask("10.99.0.1:80").by(), "outside");
    rig.remove("x", "egress");
}

/// Labels of pods and of namespaces change while policies stay.
fn changes(rig: &Rig) {
    let spec = json!({"podSelector": {"matchLabels": {"pod": "a"}}, "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"team": "red"}}, "podSelector": {"matchLabels": {"role": "client"}}}]}]});
    rig.policy("x", "red", spec);
    let bound = |to: &Pod| in_x(to) && to.name == "a";
    rig.table("nobody yet", |from, to, _| !bound(to) || from == to);
    rig.label("y", "b", &[("role", "client")]);
    rig.label_namespace("y", &[("team", "red")]);
    rig.table("a pod of the team", |from, to, _| {
        !bound(to) || from == to || from.namespace == "y" && from.name == "b"
    });
    rig.label("y", "b", &[]);
    rig.label("y", "c", &[("role", "client")]);
    rig.table("another", |from, to, _| !bound(to) || from == to || from.namespace == "y" && from.name == "c");
    rig.label_namespace("y", &[]);
    rig.table("no team any more", |from, to, _| !bound(to) || from == to);
    rig.remove("x", "red");
    rig.table("no policy any more", |_, _, _| true);
    assert!(!rig.nft(&["list", "tables"]).contains("knarr-policy"));
}

/// What a table of new connections does not tell.
#[test]
fn connections_and_beginnings() {
    let rig = Rig::new();
    let (a, b) = (rig.pod("x", "a"), rig.pod("x", "b"));
    // A connection that was there before goes on.
    let mut open = a.within(|| std::net::TcpStream::connect("10.42.0.3:7").unwrap()).join().unwrap();
    rig::echoed(&mut open);
    rig.policy("x", "deny", json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}));
    rig.table("default deny", |from, to, _| from == to || !in_x(from) && !in_x(to));
    rig::echoed(&mut open);
    assert_eq!(a.ask("10.42.0.3:80"), Heard::Nothing);
    // The node reaches its pods, whatever they are allowed.
    for address in ["10.42.0.3:80", "[fd42::3]:80"] {
        assert_eq!(rig.node.ask(address).by(), "x-b");
    }
    services(&rig);
    // A pod of which the API has no address yet is isolated as soon as its kubelet has said so.
    let late = rig.attach("x", "late", 40);
    assert_eq!(b.ask("10.42.0.40:80"), Heard::Nothing, "b may send nothing");
    assert_eq!(rig.outside.ask("10.42.0.40:80").by(), "x-late", "nobody knows it");
    rig.admit("x", "late", &late);
    for address in ["10.42.0.40:80", "[fd42::28]:80"] {
        assert_eq!(rig.outside.ask(address), Heard::Nothing);
    }
    // It stays so over a start, also when the API does not learn its address for long.
    let quiet = rig.never_heard(&rig.outside, "10.42.0.40:80");
    rig.stop();
    rig.start_with(&[("x", "late", &late)]);
    rig.table("default deny all the while", |from, to, _| from == to || !in_x(from) && !in_x(to));
    quiet();
    // The table comes anew, as when somebody took it.
    rig.nft(&["delete", "table", "inet", "knarr-policy"]);
    rig.table("default deny once more", |from, to, _| from == to || !in_x(from) && !in_x(to));
    assert_eq!(rig.outside.ask("10.42.0.40:80"), Heard::Nothing);
    // A stop leaves what there is, and a start puts it right.
    rig.stop();
    assert_eq!(a.ask("10.42.0.3:80"), Heard::Nothing);
    rig.nft(&["flush", "map", "inet", "knarr-policy", "egress-4"]);
    rig.nft(&["flush", "map", "inet", "knarr-policy", "ingress-4"]);
    assert_eq!(a.ask("10.42.0.3:80").by(), "x-b");
    rig.start();
    rig.table("default deny again", |from, to, _| from == to || !in_x(from) && !in_x(to));
}

/// Policies see the endpoint, not the service; and a pod always reaches itself.
fn services(rig: &Rig) {
    rig.service("web", 5, &["10.42.0.3", "fd42::3"]);
    rig.service("self", 6, &["10.42.0.2", "fd42::2"]);
    for family in 0..2 {
        let at =
            |number: u8| [format!("10.43.0.{number}:80"), format!("[fd43::{number:x}]:80")][family].clone();
        rig.answers("a pod by its own service", "x-a", || rig.pod("x", "a").ask(&at(6)));
        assert_eq!(rig.pod("x", "a").ask(&at(5)), Heard::Nothing);
        assert_eq!(rig.pod("y", "a").ask(&at(5)), Heard::Nothing);
    }
    rig.policy("x", "serve", json!({"podSelector": {"matchLabels": {"pod": "b"}}, "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"ns": "y"}}}], "ports": [{"port": 80}]}]}));
    for front in ["10.43.0.5:80", "[fd43::5]:80"] {
        rig.answers("from the other namespace", "x-b", || rig.pod("y", "a").ask(front));
        assert_eq!(rig.pod("z", "a").ask(front), Heard::Nothing);
    }
    rig.remove("x", "serve");
}

/// A pod whose first act is to send, in a cluster with the real runtime.
#[test]
fn pods_are_isolated_before_they_run() {
    let cluster = Cluster::new();
    let pod = |name: &str, script: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  restartPolicy: Never\n  \
             terminationGracePeriodSeconds: 0\n  containers:\n  - name: c\n    image: {IMAGE}\n    command: [sh, -c]\n    args:\n    - |\n      {script}\n---\n"
        )
    };
    cluster.apply(&pod("server", "mkdir /www; exec httpd -f -p 8080 -h /www"));
    cluster.pod_ready("server");
    let address = cluster.json("pod server")["status"]["podIP"].as_str().unwrap().to_owned();
    let deny = |name: &str, app: &str| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}}}\nspec: {{podSelector: {{matchLabels: {{app: {app}}}}}, policyTypes: [Egress]}}\n---\n"
        )
    };
    cluster.apply(&deny("bound", "bound"));
    let script = format!(
        "for i in 1 2 3; do nc -w 1 {address} 8080 < /dev/null 2>/dev/null && echo reached; done; echo done"
    );
    cluster.apply(&[pod("bound", &script), pod("free", &script)].concat());
    for name in ["bound", "free"] {
        cluster.pod_ended(name);
    }
    assert_eq!(cluster.kubectl("logs free"), "reached\nreached\nreached\ndone\n");
    assert_eq!(cluster.kubectl("logs bound"), "done\n", "not one packet");
    // The node itself reaches a pod whatever it is allowed, and so probes do.
    cluster.apply(&deny("server", "server").replace("Egress", "Ingress"));
    let from_node = format!("http://{address}:8080/");
    let code = || {
        cluster
            .sandbox
            .run(&["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "2", &from_node])
            .stdout
    };
    assert_eq!(code(), "200");
    cluster.apply(&pod("later", &script));
    cluster.pod_ended("later");
    assert_eq!(cluster.kubectl("logs later"), "done\n");
    cluster.kubectl("delete networkpolicy --all");
    cluster.apply(&pod("again", &script));
    cluster.pod_ended("again");
    assert_eq!(cluster.kubectl("logs again"), "reached\nreached\nreached\ndone\n");
}

/// An agent dies before the API knows the address of a pod that it has started. Nobody reaches the pod, neither while
/// the agent is gone nor when it is back.
#[test]
fn pods_are_isolated_over_a_crash() {
    let mut fleet = Fleet::new(&[]);
    fleet.join("node-2", 3);
    let pod = |name: &str, node: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  nodeName: {node}\n  \
             terminationGracePeriodSeconds: 0\n  containers:\n  - name: c\n    image: {IMAGE}\n    command: [httpd, -f, -p, '8080', -h, /www]\n---\n"
        )
    };
    let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: shut}\nspec: {podSelector: {matchLabels: {app: shut}}, policyTypes: [Ingress]}\n";
    fleet.cluster.apply(&[pod("asks", "node-1"), pod("shut", "node-2"), policy.to_owned()].concat());
    fleet.cluster.pod_ready("asks");
    fleet.cluster.pod_ready("shut");
    let address = fleet.cluster.json("pod shut")["status"]["podIP"].as_str().unwrap().to_owned();
    let ask = format!("nc -w 1 {address} 8080 < /dev/null");
    wait_for("a pod that nobody reaches", SOON, || {
        (fleet.cluster.exec("asks", &ask).code != 0).then_some(())
    });
    fleet.stop("node-2", "KILL");
    // As if the status had never been written.
    let patch = r#"{"status": {"podIP": null, "podIPs": null}}"#;
    let url = format!("{API}/api/v1/namespaces/default/pods/shut/status");
    let kind = "content-type: application/merge-patch+json";
    fleet
        .cluster
        .curl(&[&ADMINISTRATOR[..], &["-f", "-X", "PATCH", "-H", kind, "-d", patch, &url]].concat())
        .ok();
    assert!(fleet.cluster.json("pod shut")["status"]["podIP"].is_null());
    let asking =
        format!("(while :; do {ask} && echo reached >> /tmp/reached; done) > /dev/null 2>&1 & echo begun");
    assert_eq!(fleet.cluster.exec("asks", &asking).ok(), "begun\n");
    let token = fleet.token_file();
    fleet.start("node-2", &["--token-file", &token]);
    fleet.cluster.wait("pod shut", |pod| (pod["status"]["podIP"] == address.as_str()).then_some(()));
    assert_ne!(fleet.cluster.exec("asks", &ask).code, 0);
    assert_ne!(fleet.cluster.exec("asks", "cat /tmp/reached").code, 0, "it was reached");
    fleet.cluster.kubectl("delete networkpolicy shut");
    wait_for("a pod that is open", SOON, || {
        (fleet.cluster.exec("asks", "cat /tmp/reached").code == 0).then_some(())
    });
}
