//! Which certificates kubelets may show: of their own node's name and addresses, and of nobody else's. Kubernetes
//! leaves this to whoever runs it, because it cannot tell whose an address is; here one that another node or the API
//! has is refused, as the API is verified by the same authority.

use crate::certificate_request::Asked;
use api::Object;
use api::core::Node;
use std::net::IpAddr;

fn addresses(node: &Node) -> impl Iterator<Item = IpAddr> {
    let all = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    all.filter_map(|address| address.address.parse().ok())
}

/// Whether a node may show what it asks for, now. `api` are the addresses of the API.
pub(crate) fn check(asked: &Asked, node: &str, nodes: &[&Node], api: &[IpAddr]) -> Result<(), String> {
    if let Some(name) = asked.dns.iter().find(|name| *name != node) {
        return Err(format!("{name:?} is not the name of node {node:?}"));
    }
    let known = nodes.iter().find(|known| known.name() == node);
    let own: Vec<IpAddr> = addresses(known.ok_or_else(|| format!("there is no node {node:?}"))?).collect();
    for address in &asked.addresses {
        let mut others = nodes.iter().filter(|known| known.name() != node);
        if let Some(other) = others.find(|other| addresses(other).any(|it| it == *address)) {
            return Err(format!("{address} is an address of node {:?}", other.name()));
        }
        if api.contains(address) || address.is_loopback() {
            return Err(format!("{address} is an address of the API"));
        }
        if !own.contains(address) {
            return Err(format!("node {node:?} does not say that it has the address {address}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(name: &str, address: &str) -> Node {
        let status = json!({"addresses": [{"type": "InternalIP", "address": address},
            {"type": "Hostname", "address": "kubernetes.default.svc"}]});
        serde_json::from_value(json!({"metadata": {"name": name}, "status": status})).unwrap()
    }

    #[test]
    fn nodes_show_what_is_theirs() {
        let nodes = [node("a", "192.0.2.7"), node("b", "192.0.2.8")];
        let nodes: Vec<&Node> = nodes.iter().collect();
        let api = ["192.0.2.1".parse().unwrap(), "10.43.0.1".parse().unwrap()];
        let judged = |dns: &[&str], ips: &[&str], node: &str| {
            let mut asked = Asked::default();
            asked.dns = dns.iter().map(|name| (*name).to_owned()).collect();
            asked.addresses = ips.iter().map(|ip| ip.parse().unwrap()).collect();
            check(&asked, node, &nodes, &api).err().unwrap_or_default()
        };
        assert_eq!(judged(&["a"], &["192.0.2.7"], "a"), "");
        assert_eq!(
            judged(&["kubernetes.default.svc"], &[], "a"),
            "\"kubernetes.default.svc\" is not the name of node \"a\""
        );
        assert_eq!(judged(&["a"], &["192.0.2.8"], "a"), "192.0.2.8 is an address of node \"b\"");
        assert_eq!(judged(&["a"], &["10.43.0.1"], "a"), "10.43.0.1 is an address of the API");
        assert_eq!(judged(&["a"], &["127.0.0.1"], "a"), "127.0.0.1 is an address of the API");
        assert_eq!(
            judged(&["a"], &["192.0.2.9"], "a"),
            "node \"a\" does not say that it has the address 192.0.2.9"
        );
        assert_eq!(judged(&["c"], &[], "c"), "there is no node \"c\"");
    }
}
