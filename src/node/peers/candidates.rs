//! Which nodes to ask for an image, and in which order. Pure.

use crate::settings::PORT;
use api::core::Node;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// How many nodes are asked at most.
const MOST: usize = 32;

/// A node that can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) name: String,
    pub(super) at: SocketAddr,
}

fn peer(node: &Node) -> Option<Peer> {
    let status = node.status.as_ref()?;
    let is_ready = |kind: &str, value: &str| (kind, value) == ("Ready", "True");
    status.conditions.iter().flatten().find(|it| is_ready(&it.type_, &it.status))?;
    let internal = status.addresses.iter().flatten().find(|it| it.type_ == "InternalIP")?;
    let endpoint = status.daemon_endpoints.as_ref().and_then(|all| all.kubelet_endpoint.as_ref());
    let port = endpoint.map_or(Ok(PORT), |it| u16::try_from(it.port)).ok()?;
    let address: IpAddr = internal.address.parse().ok()?;
    Some(Peer { name: node.metadata.name.clone().unwrap_or_default(), at: (address, port).into() })
}

/// Whether a node says that it has an image of a repository. It names no more than fifty, the largest.
fn has(node: &Node, repository: &str) -> bool {
    let images = node.status.iter().flat_map(|status| status.images.iter().flatten());
    let mut names = images.flat_map(|image| image.names.iter().flatten());
    names.any(|name| name.strip_prefix(repository).is_some_and(|rest| rest.starts_with([':', '@'])))
}

/// Other nodes that are ready: first those that say that they have an image of the repository, then those that may
/// have it. Where they begin is turned by `turn`, so that not all of a cluster ask the same few.
pub(super) fn order<'a>(
    nodes: impl Iterator<Item = &'a Arc<Node>>,
    (own, repository): (&str, &str),
    turn: usize,
) -> Vec<Peer> {
    let others = nodes.filter(|node| node.metadata.name.as_deref() != Some(own));
    let known = others.filter_map(|node| Some((peer(node)?, has(node, repository))));
    let (mut first, mut rest): (Vec<_>, Vec<_>) = known.partition(|(_, has)| *has);
    for group in [&mut first, &mut rest] {
        let by = turn.checked_rem(group.len()).unwrap_or(0);
        group.rotate_left(by);
    }
    first.into_iter().chain(rest).map(|(peer, _)| peer).take(MOST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(name: &str, ready: &str, images: &[&str]) -> Arc<Node> {
        let port = if name == "d" { 10_251 } else { 10_250 };
        let node = json!({
            "metadata": {"name": name},
            "status": {
                "addresses": [{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": "192.0.2.1"}],
                "conditions": [{"type": "Ready", "status": ready}],
                "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
                "images": [{"names": images}],
            },
        });
        Arc::new(serde_json::from_value(node).unwrap())
    }

    #[test]
    fn who_says_to_have_it_is_asked_first() {
        let nodes = [
            node("a", "True", &[]),
            node("b", "True", &["a.io/app-more:1", "a.io/app@sha256:00"]),
            node("c", "Unknown", &["a.io/app:1"]),
            node("d", "True", &["a.io/app:1"]),
            node("e", "True", &["a.io/app-more:1"]),
            node("own", "True", &["a.io/app:1"]),
        ];
        let names = |turn| {
            let all = order(nodes.iter(), ("own", "a.io/app"), turn);
            all.iter().map(|peer| peer.name.clone()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!([names(0), names(1), names(2)], ["b d a e", "d b e a", "b d a e"]);
        let all = order(nodes.iter(), ("own", "a.io/app"), 0);
        assert_eq!(all[1].at.to_string(), "192.0.2.1:10251");
    }

    #[test]
    fn not_all_of_many_are_asked() {
        let nodes: Vec<_> = (0..100).map(|number| node(&number.to_string(), "True", &[])).collect();
        assert_eq!(order(nodes.iter(), ("", "a.io/app"), 7).len(), MOST);
        assert!(order([].iter(), ("", "a.io/app"), 7).is_empty());
    }
}
