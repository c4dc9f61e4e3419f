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
    ("certificates.k8s.io", "clustertrustbundles", &["get", "list", "watch"]),
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

const READ: [&str; 3] = ["get", "list", "watch"];
const SLICES: &str = "resourceslices.resource.k8s.io/";
const REQUESTS: &str = "podcertificaterequests.certificates.k8s.io/";

impl NodeAuthorizer {
    pub(super) fn new(records: Records) -> Self {
        Self { records }
    }

    pub(super) fn allows(&self, user: &User, attributes: &Attributes<'_>) -> bool {
        let Some(node) = node_of(user).filter(|_| attributes.path.is_empty()) else { return false };
        let (verb, name) = (attributes.verb, attributes.name);
        let reads = READ.contains(&verb);
        let changes = matches!(verb, "update" | "patch");
        match (attributes.group, attributes.resource, attributes.subresource) {
            ("", "secrets", "") => reads && self.is_secret_used(node, attributes),
            ("", "configmaps" | "persistentvolumeclaims" | "serviceaccounts", "") => {
                reads && self.is_used(node, attributes)
            }
            ("", "persistentvolumeclaims", "status") => changes && self.is_used(node, attributes),
            ("", "persistentvolumes", "") => verb == "get" && self.is_claimed(node, name),
            ("", "serviceaccounts", "token") => verb == "create" && self.is_used(node, attributes),
            ("storage.k8s.io", "volumeattachments", "") => verb == "get" && self.is_attached(node, name),
            ("storage.k8s.io", "csinodes", "") => {
                verb == "create" || name == node && (changes || matches!(verb, "get" | "delete"))
            }
            ("resource.k8s.io", "resourceclaims", "") => verb == "get" && self.is_used(node, attributes),
            ("resource.k8s.io", "resourceslices", "") => match verb {
                "create" => true,
                "list" | "watch" | "deletecollection" => attributes.node == node,
                _ => self.is_own(node, &format!("{SLICES}{name}")),
            },
            ("certificates.k8s.io", "podcertificaterequests", "") => match verb {
                "create" => true,
                "list" | "watch" => attributes.node == node,
                "get" => self.is_own(node, &format!("{REQUESTS}{}/{name}", attributes.namespace)),
                _ => false,
            },
            _ => is_allowed_whole(attributes),
        }
    }

    /// Whether one of the pods on the node, of a namespace or "" for all, is like this. Pods are decoded one after
    /// the other until one is.
    fn any_pod(&self, node: &str, namespace: &str, is_like: impl Fn(&Value) -> bool) -> bool {
        let snapshot = self.records.snapshot();
        let prefix = if namespace.is_empty() { "pods/".to_owned() } else { format!("pods/{namespace}/") };
        let own = self.records.on_nodes().of(node, &prefix);
        own.iter().filter_map(|key| snapshot.get(key)).any(|record| is_like(&read(record)))
    }

    fn object(&self, key: &str) -> Option<Value> {
        self.records.snapshot().get(key).map(|record| read(record))
    }

    /// Whether a pod on the node refers to the object.
    fn is_used(&self, node: &str, attributes: &Attributes<'_>) -> bool {
        let (resource, name) = (attributes.resource, attributes.name);
        !name.is_empty()
            && !attributes.namespace.is_empty()
            && self.any_pod(node, attributes.namespace, |pod| match resource {
                "persistentvolumeclaims" => refers(&pod["spec"], resource, name) || owns(pod, name),
                "resourceclaims" => claims_devices(pod, name),
                _ => refers(&pod["spec"], resource, name),
            })
    }

    /// Whether a pod on the node refers to the Secret, or a volume that it claims does.
    fn is_secret_used(&self, node: &str, attributes: &Attributes<'_>) -> bool {
        self.is_used(node, attributes)
            || !attributes.name.is_empty()
                && self.any_pod(node, "", |pod| {
                    self.volumes(pod)
                        .any(|volume| names_secret(&volume["spec"], attributes.namespace, attributes.name))
                })
    }

    /// The persistent volumes that a pod claims.
    fn volumes(&self, pod: &Value) -> impl Iterator<Item = Value> {
        let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
        let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
        let claims = volumes.filter_map(|volume| claim_of(pod, volume));
        claims.filter_map(move |claim| {
            let claim = self.object(&format!("persistentvolumeclaims/{namespace}/{claim}"))?;
            self.object(&format!("persistentvolumes/{}", claim["spec"]["volumeName"].as_str()?))
        })
    }

    /// Whether a pod on the node uses the claim that the volume is bound to.
    fn is_claimed(&self, node: &str, volume: &str) -> bool {
        let Some(volume) = self.object(&format!("persistentvolumes/{volume}")) else { return false };
        let reference = &volume["spec"]["claimRef"];
        let text = |field: &str| reference[field].as_str().unwrap_or_default();
        let claim = Attributes {
            resource: "persistentvolumeclaims",
            namespace: text("namespace"),
            name: text("name"),
            ..Attributes::default()
        };
        self.is_used(node, &claim)
    }

    fn is_attached(&self, node: &str, attachment: &str) -> bool {
        let attachment = self.object(&format!("volumeattachments.storage.k8s.io/{attachment}"));
        attachment.is_some_and(|attachment| attachment["spec"]["nodeName"] == node)
    }

    fn is_own(&self, node: &str, key: &str) -> bool {
        self.object(key).is_some_and(|object| object["spec"]["nodeName"] == node)
    }
}

fn is_allowed_whole(attributes: &Attributes<'_>) -> bool {
    let resource = match attributes.subresource {
        "" => attributes.resource.to_owned(),
        subresource => format!("{}/{subresource}", attributes.resource),
    };
    let row = ALLOWED.iter().find(|row| row.0 == attributes.group && row.1 == resource);
    row.is_some_and(|row| row.2.contains(&attributes.verb))
}

/// The claim that a pod's volume is of.
fn claim_of(pod: &Value, volume: &Value) -> Option<String> {
    let own = || {
        let (pod, volume) = (pod["metadata"]["name"].as_str()?, volume["name"].as_str()?);
        Some(format!("{pod}-{volume}"))
    };
    let named = volume["persistentVolumeClaim"]["claimName"].as_str().map(str::to_owned);
    named.or_else(|| own().filter(|_| volume["ephemeral"].is_object()))
}

/// Whether what a node has to know of a volume names a Secret.
fn names_secret(volume: &Value, namespace: &str, name: &str) -> bool {
    const REFERENCES: [(&str, &str); 4] = [
        ("csi", "nodePublishSecretRef"),
        ("csi", "nodeStageSecretRef"),
        ("csi", "nodeExpandSecretRef"),
        ("iscsi", "secretRef"),
    ];
    REFERENCES.iter().any(|(kind, field)| {
        let reference = &volume[kind][field];
        // One that says no namespace is in the claim's.
        let place = reference["namespace"].as_str().or(volume["claimRef"]["namespace"].as_str());
        reference["name"] == name && place == Some(namespace)
    })
}

/// Whether a pod has a claim of devices: named by it, made for it, or standing for its resources.
fn claims_devices(pod: &Value, name: &str) -> bool {
    let any =
        |list: &Value| list.as_array().into_iter().flatten().any(|claim| claim["resourceClaimName"] == name);
    let status = &pod["status"];
    any(&pod["spec"]["resourceClaims"])
        || any(&status["resourceClaimStatuses"])
        || status["extendedResourceClaimStatus"]["resourceClaimName"] == name
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

    #[test]
    fn claims_and_their_secrets_are_found() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"resourceClaims": [{"resourceClaimName": "named"}]},
            "status": {"resourceClaimStatuses": [{"name": "gpu", "resourceClaimName": "made"}],
                "extendedResourceClaimStatus": {"resourceClaimName": "stands"}}});
        for name in ["named", "made", "stands"] {
            assert!(claims_devices(&pod, name), "{name}");
        }
        assert!(!claims_devices(&pod, "gpu"));
        let own = json!({"name": "v", "ephemeral": {}});
        assert_eq!(claim_of(&pod, &own).as_deref(), Some("p-v"));
        assert_eq!(claim_of(&pod, &json!({"name": "v", "emptyDir": {}})), None);
        let volume = json!({"csi": {"nodeStageSecretRef": {"namespace": "n", "name": "s"},
            "controllerPublishSecretRef": {"namespace": "n", "name": "hidden"}}});
        assert!(names_secret(&volume, "n", "s"));
        assert!(!names_secret(&volume, "m", "s") && !names_secret(&volume, "n", "hidden"));
    }
}
