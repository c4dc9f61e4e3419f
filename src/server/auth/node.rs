//! The Node authorizer: what a kubelet may read and write, by what runs on its node.

use super::{Attributes, User};
use crate::registry::{Records, read};
use api::secrets::{NAMING, mentions};
use serde_json::Value;

const GROUP: &str = "system:nodes";
const PREFIX: &str = "system:node:";

/// What kubelets may do with whole kinds: group, resource, verbs. What is narrower than a kind is in
/// [`NodeAuthorizer::allows`]; what a kubelet may change is narrowed again by NodeRestriction.
const ALLOWED: &[(&str, &str, &[&str])] = &[
    ("", "services", &["get", "list", "watch"]),
    ("", "nodes", &["create", "get", "list", "watch", "update", "patch"]),
    ("", "nodes/status", &["update", "patch"]),
    ("", "pods", &["get", "list", "watch", "create", "delete"]),
    ("", "pods/status", &["update", "patch"]),
    ("", "pods/eviction", &["create"]),
    ("", "events", &["create", "update", "patch"]),
    ("discovery.k8s.io", "endpointslices", &["get", "list", "watch"]),
    ("coordination.k8s.io", "leases", &["create", "get", "update", "patch", "delete"]),
    ("node.k8s.io", "runtimeclasses", &["get", "list", "watch"]),
    ("storage.k8s.io", "csidrivers", &["get", "list", "watch"]),
    ("storage.k8s.io", "csinodes", &["create", "get", "update", "patch", "delete"]),
    ("certificates.k8s.io", "certificatesigningrequests", &["create", "get", "list", "watch"]),
    ("authentication.k8s.io", "tokenreviews", &["create"]),
    ("authorization.k8s.io", "subjectaccessreviews", &["create"]),
];

/// Answers for users that are nodes.
pub(super) struct NodeAuthorizer {
    records: Records,
}

/// The node that a user is.
pub(crate) fn node_of(user: &User) -> Option<&str> {
    user.name.strip_prefix(PREFIX).filter(|name| !name.is_empty() && user.is_in(GROUP))
}

impl NodeAuthorizer {
    pub(super) fn new(records: Records) -> Self {
        Self { records }
    }

    pub(super) fn allows(&self, user: &User, attributes: &Attributes<'_>) -> bool {
        let Some(node) = node_of(user).filter(|_| attributes.path.is_empty()) else { return false };
        let reads = matches!(attributes.verb, "get" | "list" | "watch") && attributes.subresource.is_empty();
        match (attributes.group, attributes.resource) {
            ("", "secrets" | "configmaps" | "persistentvolumeclaims") if reads => {
                !attributes.name.is_empty() && self.is_used(node, attributes)
            }
            ("", "persistentvolumes") if reads => {
                attributes.verb == "get" && self.is_claimed(node, attributes.name)
            }
            ("", "serviceaccounts") => {
                let asks = (attributes.verb, attributes.subresource);
                // Programs that give credentials for images are told annotations of the account.
                matches!(asks, ("create", "token") | ("get", "")) && self.is_used(node, attributes)
            }
            (group, resource) => {
                let resource = match attributes.subresource {
                    "" => resource.to_owned(),
                    subresource => format!("{resource}/{subresource}"),
                };
                let row = ALLOWED.iter().find(|row| row.0 == group && row.1 == resource);
                row.is_some_and(|row| row.2.contains(&attributes.verb))
            }
        }
    }

    /// Whether a pod on the node refers to the object.
    fn is_used(&self, node: &str, attributes: &Attributes<'_>) -> bool {
        let snapshot = self.records.snapshot();
        let prefix = format!("pods/{}/", attributes.namespace);
        let own = self.records.on_nodes().of(node, &prefix);
        own.iter().filter_map(|key| snapshot.get(key)).any(|record| {
            let pod = read(record);
            refers(&pod["spec"], attributes.resource, attributes.name)
                || (attributes.resource == "persistentvolumeclaims" && owns(&pod, attributes.name))
        })
    }

    /// Whether a pod on the node uses the claim that the volume is bound to.
    fn is_claimed(&self, node: &str, volume: &str) -> bool {
        let snapshot = self.records.snapshot();
        let Some(record) = snapshot.get(&format!("persistentvolumes/{volume}")) else { return false };
        let volume = read(record);
        let reference = &volume["spec"]["claimRef"];
        let text = |field: &str| reference[field].as_str().unwrap_or_default();
        let claim = Attributes {
            resource: "persistentvolumeclaims",
            namespace: text("namespace"),
            name: text("name"),
            ..Attributes::default()
        };
        !claim.name.is_empty() && self.is_used(node, &claim)
    }
}

/// Whether a pod's spec names the object anywhere in the fields that refer to its kind.
fn refers(spec: &Value, resource: &str, name: &str) -> bool {
    let keys: &[&str] = match resource {
        "secrets" => &NAMING,
        "configmaps" => &["configMap", "configMapRef", "configMapKeyRef"],
        "persistentvolumeclaims" => &["claimName"],
        _ => &["serviceAccountName"],
    };
    mentions(spec, keys, name)
}

/// Whether a claim is one of the pod's own, which are named after it and a volume.
fn owns(pod: &Value, claim: &str) -> bool {
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let volume = claim.strip_prefix(name).and_then(|rest| rest.strip_prefix('-'));
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    volume.is_some_and(|volume| {
        volumes.into_iter().any(|own| own["name"] == volume && !own["ephemeral"].is_null())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn references_are_found_where_pods_have_them() {
        let spec = json!({
            "serviceAccountName": "web",
            "imagePullSecrets": [{"name": "pull"}],
            "containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "env", "key": "k"}}}], "envFrom": [{"configMapRef": {"name": "all"}}]}],
            "volumes": [{"secret": {"secretName": "files"}}, {"projected": {"sources": [{"secret": {"name": "projected"}}]}}],
        });
        for name in ["pull", "env", "files", "projected"] {
            assert!(refers(&spec, "secrets", name), "{name}");
        }
        assert!(refers(&spec, "configmaps", "all"));
        assert!(refers(&spec, "serviceaccounts", "web"));
        assert!(!refers(&spec, "secrets", "all"));
        assert!(!refers(&spec, "configmaps", "web"));
    }
}
