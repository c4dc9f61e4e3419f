//! A server without a node, and an agent behind a router: what the server reaches on the agent's machine goes through the
//! agent's tunnel, or is not reached.

use crate::behind_router::{ROUTER, pod};
use crate::support::cluster::SOON;
use crate::support::fleet::Fleet;
use crate::support::https::{Https, JSON};
use crate::support::process::wait_for;
use crate::support::webhook::{Act, Shows, WebhookServer, configure, hook, rule};
use serde_json::{Value, json};
use std::fs;

const CORE: &str = "/api/v1/namespaces/default";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// The agent's machine, behind the router.
const INNER: &str = "192.168.77.2";

/// A fleet whose server has no way to the agent's machine and its pods, and says so at once.
pub(crate) fn apart(mode: &str) -> Fleet {
    let mut fleet = Fleet::prepared(&["--disable-agent"]);
    set_mode(&fleet, mode);
    fleet.cluster.start();
    fleet.machine("node-2", 3);
    let sandbox = &fleet.cluster.sandbox;
    sandbox.sh(ROUTER).ok();
    sandbox.sh("ip route add unreachable 10.42.0.0/16; ip route add unreachable 192.168.77.0/24").ok();
    let token = fleet.token_file();
    fleet.start("node-2", &["--token-file", &token]);
    fleet.node_is_ready("node-2");
    fleet
}

pub(crate) fn set_mode(fleet: &Fleet, mode: &str) {
    let config = fleet.cluster.sandbox.folder.join("config.yaml");
    fs::write(config, format!("egress-selector-mode: {mode}\n")).unwrap();
}

/// A Service without a selector that leads to a port of an address on the agent's node.
fn lead(https: &Https, name: &str, (address, port): (&str, u16), target: &Value) {
    let service = json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 443}]}});
    let slice = json!({"metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4", "ports": [{"port": port}],
        "endpoints": [{"addresses": [address], "nodeName": "node-2", "targetRef": target}]});
    for (path, object) in [
        (format!("{CORE}/services"), service),
        ("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices".to_owned(), slice),
    ] {
        let (code, made) = https.send("POST", &path, JSON, &object);
        assert_eq!(code, 201, "{made}");
    }
}

fn decide(_: &str, _: &Value) -> Act {
    Act::Review(json!({"allowed": false, "status": {"message": "seen by the hook"}}))
}

/// What becomes of a new object that the webhook is asked about.
fn admitted(https: &Https) -> String {
    let map = json!({"metadata": {"name": "map"}});
    let (_, answer) = https.send("POST", &format!("{MAPS}?dryRun=All"), JSON, &map);
    answer["message"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn what_runs_on_an_agent_is_reached_through_its_tunnel() {
    let mut fleet = apart("cluster");
    fleet.cluster.apply(&pod("far", "node-2"));
    fleet.cluster.pod_ready("far");
    let https = Https::new(&fleet.cluster);
    let there =
        Https::of_kubeconfig(&fleet.cluster.kubeconfig(), Some(fleet.cluster.sandbox.namespace("node-2")));
    let server = WebhookServer::start(&there, &["hook.default.svc"], Shows::Issued, decide);
    lead(&https, "hook", (INNER, server.port), &Value::Null);
    lead(&https, "elsewhere", ("10.99.0.1", 80), &json!({"kind": "Pod", "name": "other"}));
    let config = json!({"service": {"namespace": "default", "name": "hook"}, "caBundle": server.bundle});
    let only = json!({"objectSelector": {"matchExpressions": [{"key": "none", "operator": "DoesNotExist"}]}});
    let maps = rule(&["CREATE"], "", "v1", "configmaps");
    let mine = hook("far", config, maps, &only);
    let configured = configure(&https, "ValidatingWebhookConfiguration", "far", &[mine]);
    let proxied = ["pods/far", "pods/far:80", "services/far:80"];
    for what in proxied {
        let path = format!("{CORE}/{what}/proxy/");
        let page = wait_for(what, SOON, || {
            let answer = fleet.cluster.try_kubectl(&["get", "--raw", &path]);
            (answer.code == 0).then_some(answer.stdout)
        });
        assert_eq!(page, "far\n", "{what}");
    }
    wait_for("the webhook on the agent's machine", SOON, || {
        admitted(&https).contains("seen by the hook").then_some(())
    });
    // The agent has a say: it is no proxy into the network that it is in.
    let (code, answer) = https.call("GET", &format!("{CORE}/services/elsewhere/proxy/"));
    assert_eq!(code, 503, "{answer}");
    let why = answer["message"].as_str().unwrap();
    assert!(why.contains("dial tcp 10.99.0.1:80: the tunnel's other end lets nobody through"), "{why}");
    let (_, answer) = https.call("GET", &format!("{CORE}/pods/far:81/proxy/"));
    assert!(answer["message"].as_str().unwrap().ends_with(":81: connect: connection refused"), "{answer}");

    assert_eq!(fleet.cluster.stop("TERM"), 0);
    set_mode(&fleet, "agent");
    fleet.cluster.start();
    wait_for("logs, which are the kubelet's", SOON, || {
        (fleet.cluster.try_kubectl(&["logs", "far"]).stdout.trim() == "begun").then_some(())
    });
    for what in proxied {
        let (code, answer) = https.call("GET", &format!("{CORE}/{what}/proxy/"));
        let why = answer["message"].as_str().unwrap();
        let hint = "connect: no route to host; this would go through the node's tunnel with another --egress-selector-mode";
        assert!(code == 503 && why.ends_with(hint), "{what}: {answer}");
    }
    assert!(
        admitted(&https).ends_with(&format!("dial tcp {INNER}:{}: connect: no route to host", server.port))
    );
    drop(configured);
}
