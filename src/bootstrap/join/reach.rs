//! What servers may connect to through a node's tunnels: its kubelet, and, as far as the cluster's mode goes
//! (`--egress-selector-mode`), what runs on the node. Everything else is refused.

use api::egress::Egress;
use api::slim::{EndpointSlice, Pod};
use base::tunnel::Allowed;
use client::{Cache, Caches};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// This node's kubelet alone.
pub fn kubelet_alone(port: u16) -> Allowed {
    let kubelet = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let name = format!("kubelet:{port}");
    Arc::new(move |asked| (asked == name).then_some(kubelet))
}

/// What the mode asks for of this node, which has these addresses.
pub fn reachable(
    egress: Egress,
    port: u16,
    (node, addresses): (&str, &[IpAddr]),
    caches: &Caches,
) -> Allowed {
    let kubelet = kubelet_alone(port);
    match egress {
        Egress::Disabled => Arc::new(|_| None),
        Egress::Agent => kubelet,
        Egress::Pod | Egress::Cluster => {
            let reach = Reach {
                node: node.to_owned(),
                addresses: addresses.to_vec(),
                pods: caches.selected("", &format!("spec.nodeName={node}")),
                slices: (egress == Egress::Cluster).then(|| caches.of()),
            };
            Arc::new(move |asked| {
                let to = || asked.parse().ok().filter(|to| reach.allows(*to));
                kubelet(asked).or_else(to)
            })
        }
    }
}

/// What runs on a node.
struct Reach {
    node: String,
    addresses: Vec<IpAddr>,
    /// Those on the node.
    pods: Cache<Pod>,
    /// Where what Services lead to is reached, too.
    slices: Option<Cache<EndpointSlice>>,
}

impl Reach {
    /// Pods are reached at all their ports; at the node's addresses, which pods may have as well, those ports are that
    /// its pods or, where that is asked for, its Services' endpoints name.
    fn allows(&self, to: SocketAddr) -> bool {
        if !is_of_a_network(to.ip()) {
            return false;
        }
        let pods = self.pods.snapshot();
        let mut running =
            pods.iter().filter(|pod| is_running(pod) && addresses_of(pod).any(|ip| ip == to.ip()));
        let is_nodes = self.addresses.contains(&to.ip());
        running.any(|pod| {
            let at_node = is_nodes || pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
            !at_node || ports_of(pod).any(|port| port == i32::from(to.port()))
        }) || is_nodes && self.is_endpoint(to)
    }

    fn is_endpoint(&self, to: SocketAddr) -> bool {
        let Some(slices) = &self.slices else { return false };
        let snapshot = slices.snapshot();
        snapshot.iter().any(|slice| {
            let mut ports = slice.ports.iter().flatten();
            let mut endpoints = slice.endpoints.iter().flatten();
            ports.any(|port| is_tcp(port.protocol.as_deref()) && port.port == Some(i32::from(to.port())))
                && endpoints.any(|endpoint| {
                    let mut own = endpoint.addresses.iter().filter_map(|text| text.parse::<IpAddr>().ok());
                    endpoint.node_name.as_deref() == Some(&self.node) && own.any(|ip| ip == to.ip())
                })
        })
    }
}

/// Whether an address is one that others know a machine or pod by, whatever a Pod's status may say.
fn is_of_a_network(address: IpAddr) -> bool {
    let is_local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some(),
    };
    !(is_local || address.is_loopback() || address.is_unspecified() || address.is_multicast())
}

/// The addresses of pods that have ended may be others' by now.
fn is_running(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    !matches!(phase, Some("Succeeded" | "Failed"))
}

fn addresses_of(pod: &Pod) -> impl Iterator<Item = IpAddr> {
    let ips = pod.status.iter().flat_map(|status| status.pod_ips.iter().flatten());
    ips.filter_map(|ip| ip.ip.parse().ok())
}

/// The ports that a pod's containers name.
fn ports_of(pod: &Pod) -> impl Iterator<Item = i32> {
    let spec = pod.spec.iter();
    let all = spec.flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    let ports = all.flat_map(|container| container.ports.iter().flatten());
    ports.filter(|port| is_tcp(port.protocol.as_deref())).map(|port| port.container_port)
}

fn is_tcp(protocol: Option<&str>) -> bool {
    protocol.is_none_or(|protocol| protocol == "TCP")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read<T: serde::de::DeserializeOwned>(object: Value) -> T {
        serde_json::from_value(object).unwrap()
    }

    fn pod(name: &str, address: &str, phase: &str, host_network: bool) -> Pod {
        read(json!({"metadata": {"namespace": "default", "name": name},
            "spec": {"hostNetwork": host_network, "containers": [{"name": "a", "ports": [
                {"containerPort": 8080}, {"containerPort": 53, "protocol": "UDP"}]}]},
            "status": {"phase": phase, "podIPs": [{"ip": address}, {"ip": "fd00::5"}]}}))
    }

    fn slice(name: &str, (node, address): (&str, &str)) -> EndpointSlice {
        read(json!({"metadata": {"namespace": "default", "name": name}, "addressType": "IPv4",
            "ports": [{"port": 9443}], "endpoints": [{"addresses": [address], "nodeName": node}]}))
    }

    fn allows(reach: &Reach, to: &str) -> bool {
        reach.allows(to.parse().unwrap())
    }

    fn reach(slices: bool) -> Reach {
        let pods = [
            pod("one", "10.42.1.5", "Running", false),
            pod("ended", "10.42.1.6", "Succeeded", false),
            pod("host", "192.0.2.3", "Running", true),
            pod("liar", "127.0.0.1", "Running", false),
            pod("other-liar", "192.0.2.3", "Running", false),
        ];
        let all = [slice("own", ("node-1", "192.0.2.3")), slice("far", ("node-1", "198.51.100.1"))];
        Reach {
            node: "node-1".to_owned(),
            addresses: vec![[192, 0, 2, 3].into()],
            pods: Cache::of(pods),
            slices: slices.then(|| Cache::of(all)),
        }
    }

    #[test]
    fn the_nodes_own_pods_are_reached_and_nothing_else() {
        let reach = reach(false);
        for to in ["10.42.1.5:80", "10.42.1.5:8080", "[fd00::5]:8080", "192.0.2.3:8080"] {
            assert!(allows(&reach, to), "{to}");
        }
        let refused = ["10.42.1.6:80", "10.42.2.1:80", "192.0.2.3:22", "192.0.2.3:53", "192.0.2.3:9443"];
        let local =
            ["127.0.0.1:8080", "169.254.169.254:80", "[::1]:8080", "[::ffff:10.42.1.5]:80", "0.0.0.0:8080"];
        for to in refused.iter().chain(&local) {
            assert!(!allows(&reach, to), "{to}");
        }
    }

    #[test]
    fn ports_of_services_are_reached_at_the_nodes_addresses_where_that_is_asked_for() {
        let reach = reach(true);
        assert!(allows(&reach, "192.0.2.3:9443"));
        for to in ["192.0.2.3:22", "198.51.100.1:9443", "10.42.2.1:9443"] {
            assert!(!allows(&reach, to), "{to}");
        }
    }

    #[test]
    fn a_node_of_no_mode_that_says_more_is_its_kubelet_alone() {
        let allowed = kubelet_alone(10250);
        assert_eq!(allowed("kubelet:10250"), Some(([127, 0, 0, 1], 10250).into()));
        assert_eq!((allowed("kubelet:22"), allowed("127.0.0.1:10250")), (None, None));
    }
}
