//! An agent behind a router that translates addresses: it needs nothing but the way to the API.

use crate::support::cluster::{IMAGE, SOON};
use crate::support::fleet::{Fleet, WIRE};
use crate::support::process::wait_for;

/// Between the wire and the agent's machine, whose link is moved there. What the machine begins towards the API is let
/// through, with its answers, and nothing else.
pub(crate) const ROUTER: &str = "set -e
ip netns add router
ip -n wire link set dev node-2 nomaster
ip -n wire link set dev node-2 netns router name inner
ip -n wire link add port-router type veth peer name outer netns router
ip -n wire link set port-router master br0 up
ip -n router link set lo up
ip -n router link set inner up
ip -n router link set outer up
ip -n router addr add 10.99.0.50/24 dev outer
ip -n router addr add 192.168.77.1/24 dev inner
ip netns exec router sysctl -qw net.ipv4.ip_forward=1
ip netns exec router nft 'table ip router {
    chain out { type nat hook postrouting priority 100; oifname outer masquerade; }
    chain in { type nat hook prerouting priority -100; }
    chain through { type filter hook forward priority 0; policy drop;
        ct state established,related accept; iifname inner tcp dport 6443 accept; }
}'
ip -n node-2 addr flush dev eth0 scope global
ip -n node-2 addr add 192.168.77.2/24 dev eth0
ip -n node-2 route replace default via 192.168.77.1
";

/// Tunnels come and go.
const OPEN: &str = "nft 'add rule ip router in iifname outer udp dport 8472 dnat to 192.168.77.2
add rule ip router through udp dport 8472 accept'";

/// A pod that serves its name, behind a Service of that name.
pub(crate) fn pod(name: &str, node: &str) -> String {
    format!(
        r#"apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 1
  containers:
  - name: web
    image: {IMAGE}
    command: [sh, -c, 'echo begun; echo {name} > /www/index.html; exec httpd -f -p 80 -h /www']
    readinessProbe: {{httpGet: {{path: /, port: 80}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  selector: {{app: {name}}}
  ports: [{{port: 80}}]
---
"#
    )
}

#[test]
fn an_agent_behind_a_router_is_a_node_like_any_other() {
    let mut fleet = Fleet::new(&["--network-external-ip"]);
    fleet.machine("node-2", 3);
    fleet.cluster.sandbox.sh(ROUTER).ok();
    let token = fleet.token_file();
    fleet.start("node-2", &["--token-file", &token, "--node-external-ip", "10.99.0.50"]);
    fleet.node_is_ready("node-2");
    fleet.cluster.apply(&[pod("near", "node-1"), pod("far", "node-2")].concat());
    fleet.cluster.pod_ready("near");
    fleet.cluster.pod_ready("far");
    // Nobody gets in from outside; what the API server asks of the kubelet travels in what the agent began.
    let kubelet = fleet.sh_on(WIRE, "curl -sk --max-time 2 https://10.99.0.50:10250/healthz");
    assert_ne!(kubelet.code, 0, "{kubelet:?}");
    assert_eq!(fleet.cluster.kubectl("logs far").trim(), "begun");
    assert_eq!(fleet.cluster.exec("far", "cat /www/index.html").ok(), "far\n");
    assert_eq!(fleet.until("its own service", SOON, "far", "curl -sf --max-time 2 http://far/"), "far\n");
    let proxied = fleet.cluster.kubectl("get --raw /api/v1/nodes/node-2/proxy/healthz");
    assert_eq!(proxied.trim(), "ok");
    pods_reach_pods(&fleet);
    // The router forgets what it translates, as when it starts anew: the agent comes back.
    fleet.sh_on("router", "conntrack -F").ok();
    wait_for("logs after that", SOON, || {
        (fleet.cluster.try_kubectl(&["logs", "far"]).stdout.trim() == "begun").then_some(())
    });
}

/// Once the router passes tunnels on.
fn pods_reach_pods(fleet: &Fleet) {
    let ask = |name: &str| format!("curl -sf --max-time 2 http://{name}/");
    assert_ne!(fleet.cluster.exec("near", &ask("far")).code, 0);
    fleet.sh_on("router", OPEN).ok();
    assert_eq!(fleet.until("a pod behind the router", SOON, "near", &ask("far")), "far\n");
    assert_eq!(fleet.until("a pod before the router", SOON, "far", &ask("near")), "near\n");
}
