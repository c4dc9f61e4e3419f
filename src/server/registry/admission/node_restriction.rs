//! NodeRestriction: a kubelet changes its own node, its own lease and what belongs to its own pods,
//! nothing else.

use super::certificates::subject_of;
use super::service_account::{MIRROR, is_mirror, names_secrets};
use super::view::row;
use super::{ALL, Operation, Request, STEP as PLAIN, Step, Verdict, items, text};
use crate::auth::{Attributes, node_of};
use api::kinds::Kind;
use api::status::Refusal;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

pub(super) const STEP: Step = Step {
    name: "NodeRestriction",
    operations: ALL,
    admit: |request, object| admit(request, object),
    ..PLAIN
};

/// Labels that kubelets may give their nodes, beside those of their own domains.
const KUBELET_LABELS: [&str; 11] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];

/// A request of a kubelet.
struct Asked<'a> {
    request: &'a Request<'a>,
    /// Null at a deletion.
    object: &'a Value,
    node: &'a str,
}

fn admit(request: &Request, object: &Value) -> Verdict {
    let Some(node) = node_of(request.user) else { return Ok(()) };
    let asked = Asked { request, object, node };
    let Kind { group, plural, .. } = request.kind;
    match (*group, *plural, request.subresource) {
        ("", "pods", "") => asked.pod(),
        ("", "pods", "status") => asked.pod_status(),
        ("", "pods", "eviction") => asked.eviction(),
        ("", "pods", other) => asked.refused(format!(
            "unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"
        )),
        ("", "nodes", _) => asked.node(),
        ("", "persistentvolumeclaims", "status") => asked.claim_status(),
        ("", "persistentvolumeclaims", _) => asked.refused("may only update PVC status"),
        ("", "serviceaccounts", "token") => asked.token(),
        ("coordination.k8s.io", "leases", _) => asked.lease(),
        ("storage.k8s.io", "csinodes", _) => {
            asked.named_like_the_node("can only access CSINode with the same name as the requesting node")
        }
        ("resource.k8s.io", "resourceslices", _) => asked.slice(),
        ("certificates.k8s.io", "certificatesigningrequests", "") => asked.signing_request(),
        ("certificates.k8s.io", "podcertificaterequests", _) => asked.pod_certificate(),
        _ => Ok(()),
    }
}

impl Asked<'_> {
    fn refusal(&self, why: impl AsRef<str>) -> Refusal {
        self.request.forbidden(self.object, why)
    }

    fn refused(&self, why: impl AsRef<str>) -> Verdict {
        Err(self.refusal(why))
    }

    /// Refuses unless something holds.
    fn needs(&self, holds: bool, why: impl AsRef<str>) -> Verdict {
        if holds { Ok(()) } else { self.refused(why) }
    }

    fn operation(&self) -> &'static str {
        self.request.operation.name()
    }

    fn runs_here(&self, pod: &Value) -> bool {
        text(&pod["spec"], "nodeName") == self.node
    }

    fn pod(&self) -> Verdict {
        let node = self.node;
        match self.request.operation {
            Operation::Create => self.new_pod(),
            Operation::Delete => self.needs(
                self.runs_here(self.request.old),
                format!("node {node:?} can only delete pods with spec.nodeName set to itself"),
            ),
            Operation::Update | Operation::Connect => self.refused(format!(
                "unexpected operation {:?}, node {node:?} can only create and delete mirror pods",
                self.operation()
            )),
        }
    }

    fn new_pod(&self) -> Verdict {
        let (pod, node) = (self.object, self.node);
        self.needs(
            is_mirror(pod),
            format!("pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"),
        )?;
        self.needs(
            self.runs_here(pod),
            format!("node {node:?} can only create pods with spec.nodeName set to itself"),
        )?;
        self.owner(items(&pod["metadata"], "ownerReferences"))?;
        match referenced(&pod["spec"]) {
            Some(what) => self.refused(format!("node {node:?} can not create pods that reference {what}")),
            None => Ok(()),
        }
    }

    /// A mirror pod belongs to its node.
    fn owner(&self, owners: &[Value]) -> Verdict {
        let node = self.node;
        let itself = format!("node {node:?} can only create pods with an owner reference set to itself");
        let owner = match owners {
            [] => return self.refused(itself),
            [owner] => owner,
            _ => {
                return self.refused(format!(
                    "node {node:?} can only create pods with a single owner reference set to itself"
                ));
            }
        };
        let own = owner["apiVersion"] == "v1" && owner["kind"] == "Node" && owner["name"] == node;
        self.needs(own, itself)?;
        self.needs(
            owner["controller"] == true,
            format!("node {node:?} can only create pods with a controller owner reference set to itself"),
        )?;
        self.needs(
            owner["blockOwnerDeletion"] != true,
            format!("node {node:?} must not set blockOwnerDeletion on an owner reference"),
        )?;
        let nodes = row("v1", "Node");
        let record =
            self.request.view.record(nodes, "", node).ok_or_else(|| Refusal::not_found(nodes, node))?;
        let (stated, uid) = (text(owner, "uid"), &record.index.uid);
        self.needs(stated == &**uid, format!("node {node} UID mismatch: expected {stated} got {uid}"))
    }

    fn pod_status(&self) -> Verdict {
        let (new, old, node) = (self.object, self.request.old, self.node);
        self.needs(
            self.runs_here(old),
            format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself"),
        )?;
        self.needs(
            map(&new["metadata"]["labels"]) == map(&old["metadata"]["labels"]),
            format!("node {node:?} cannot update labels through pod status"),
        )?;
        let same = |field: &str| new["status"][field] == old["status"][field];
        self.needs(
            same("resourceClaimStatuses"),
            format!("node {node:?} cannot update resource claim statues"),
        )?;
        self.needs(
            same("extendedResourceClaimStatus"),
            format!("node {node:?} cannot update extended resource claim status"),
        )
    }

    fn eviction(&self) -> Verdict {
        let (pods, node) = (row("v1", "Pod"), self.node);
        let (namespace, name) = (self.request.namespace, self.request.name);
        let record = self.request.view.record(pods, namespace, name);
        let record = record.ok_or_else(|| Refusal::not_found(pods, name))?;
        self.needs(
            record.index.field("spec.nodeName") == node,
            format!("node {node} can only evict pods with spec.nodeName set to itself"),
        )
    }

    fn node(&self) -> Verdict {
        let (name, node) = (self.request.name, self.node);
        let stated = if name.is_empty() { text(&self.object["metadata"], "name") } else { name };
        self.needs(stated == node, format!("node {node:?} is not allowed to modify node {stated:?}"))?;
        let (new, old) = (self.object, self.request.old);
        let forbidden = forbidden_labels(&new["metadata"]["labels"], &old["metadata"]["labels"]);
        let list = forbidden.into_iter().collect::<Vec<_>>().join(", ");
        match self.request.operation {
            Operation::Create => {
                self.needs(
                    new["spec"]["configSource"].is_null(),
                    format!("node {node:?} is not allowed to create pods with a non-nil configSource"),
                )?;
                self.needs(
                    list.is_empty(),
                    format!("node {node:?} is not allowed to set the following labels: {list}"),
                )
            }
            Operation::Update => {
                self.node_update(new, old)?;
                self.needs(list.is_empty(), format!("is not allowed to modify labels: {list}"))
            }
            Operation::Delete | Operation::Connect => Ok(()),
        }
    }

    fn node_update(&self, new: &Value, old: &Value) -> Verdict {
        let node = self.node;
        let source = &new["spec"]["configSource"];
        self.needs(
            source.is_null() || *source == old["spec"]["configSource"],
            format!("node {node:?} is not allowed to update configSource to a new non-nil configSource"),
        )?;
        self.needs(
            items(&new["spec"], "taints") == items(&old["spec"], "taints"),
            format!("node {node:?} is not allowed to modify taints"),
        )?;
        self.needs(
            items(&new["metadata"], "ownerReferences") == items(&old["metadata"], "ownerReferences"),
            format!("node {node:?} is not allowed to modify ownerReferences"),
        )
    }

    fn claim_status(&self) -> Verdict {
        let rest = |claim: &Value| {
            let mut claim = claim.clone();
            for field in ["capacity", "conditions", "allocatedResourceStatuses", "allocatedResources"] {
                claim["status"].as_object_mut().and_then(|status| status.remove(field));
            }
            claim["metadata"].as_object_mut().and_then(|meta| meta.remove("resourceVersion"));
            claim
        };
        let node = self.node;
        self.needs(
            rest(self.object) == rest(self.request.old),
            format!("node {node:?} is not allowed to update fields other than status.quantity and status.conditions: "),
        )
    }

    fn token(&self) -> Verdict {
        if !self.request.creates() {
            return Ok(());
        }
        let reference = &self.object["spec"]["boundObjectRef"];
        let (name, uid) = (text(reference, "name"), text(reference, "uid"));
        let to_pod = reference["apiVersion"] == "v1" && reference["kind"] == "Pod" && !name.is_empty();
        self.needs(to_pod, "node requested token not bound to a pod")?;
        self.needs(!uid.is_empty(), "node requested token with a pod binding without a uid")?;
        let pods = row("v1", "Pod");
        let pod = self.request.view.get(pods, self.request.namespace, name);
        let pod = pod.ok_or_else(|| Refusal::not_found(pods, name))?;
        self.needs(
            pod["metadata"]["uid"] == uid,
            format!("the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"),
        )?;
        self.needs(
            self.runs_here(&pod),
            "node requested token bound to a pod scheduled on a different node",
        )?;
        self.audience(&pod)
    }

    /// A node gets tokens for whom its pods talk to, and for nobody else (KEP-4935).
    fn audience(&self, pod: &Value) -> Verdict {
        let audiences = items(&self.object["spec"], "audiences");
        let audience = match audiences {
            [] => "",
            [one] => one.as_str().unwrap_or_default(),
            _ => return self.refused("node may only request 0 or 1 audiences"),
        };
        if self.is_addressed(pod, audience) {
            return Ok(());
        }
        let attributes = Attributes {
            verb: "request-serviceaccounts-token-audience",
            resource: audience,
            namespace: self.request.namespace,
            name: self.request.name,
            ..Attributes::default()
        };
        let user = &self.request.user.name;
        self.needs(
            self.request.view.allows(self.request.user, &attributes),
            format!("audience {audience:?} not found in pod spec volume, {user} is not authorized to request tokens for this audience"),
        )
    }

    fn is_addressed(&self, pod: &Value, audience: &str) -> bool {
        items(&pod["spec"], "volumes").iter().any(|volume| {
            let projected = items(&volume["projected"], "sources").iter().any(|source| {
                let token = &source["serviceAccountToken"];
                token.is_object() && text(token, "audience") == audience
            });
            projected || self.driver_of(pod, volume).is_some_and(|driver| self.asks_for(&driver, audience))
        })
    }

    /// The CSI driver behind a volume.
    fn driver_of(&self, pod: &Value, volume: &Value) -> Option<String> {
        if let Some(driver) = volume["csi"]["driver"].as_str() {
            return Some(driver.to_owned());
        }
        let claim = match volume["persistentVolumeClaim"]["claimName"].as_str() {
            Some(name) => name.to_owned(),
            None if volume["ephemeral"].is_object() => {
                format!("{}-{}", text(&pod["metadata"], "name"), text(volume, "name"))
            }
            None => return None,
        };
        let view = self.request.view;
        let claim = view.get(row("v1", "PersistentVolumeClaim"), self.request.namespace, &claim)?;
        let volume = view.get(row("v1", "PersistentVolume"), "", text(&claim["spec"], "volumeName"))?;
        volume["spec"]["csi"]["driver"].as_str().map(str::to_owned)
    }

    fn asks_for(&self, driver: &str, audience: &str) -> bool {
        let driver = self.request.view.get(row("storage.k8s.io/v1", "CSIDriver"), "", driver);
        driver.is_some_and(|driver| {
            items(&driver["spec"], "tokenRequests").iter().any(|one| text(one, "audience") == audience)
        })
    }

    fn lease(&self) -> Verdict {
        self.needs(
            self.request.namespace == "kube-node-lease",
            "can only access leases in the \"kube-node-lease\" system namespace",
        )?;
        self.named_like_the_node("can only access node lease with the same name as the requesting node")
    }

    fn named_like_the_node(&self, why: &str) -> Verdict {
        let name = match self.request.name {
            "" => text(&self.object["metadata"], "name"),
            name => name,
        };
        self.needs(name == self.node, why)
    }

    fn slice(&self) -> Verdict {
        let own = |slice: &Value| text(&slice["spec"], "nodeName") == self.node;
        match self.request.operation {
            Operation::Create => self.needs(
                own(self.object),
                "can only create ResourceSlice with the same NodeName as the requesting node",
            ),
            Operation::Delete => self.needs(
                own(self.request.old),
                "can only delete ResourceSlice with the same NodeName as the requesting node",
            ),
            Operation::Update | Operation::Connect => Ok(()),
        }
    }

    fn signing_request(&self) -> Verdict {
        const SIGNERS: [&str; 2] =
            ["kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"];
        let signer = text(&self.object["spec"], "signerName");
        if !self.request.creates() || !SIGNERS.contains(&signer) {
            return Ok(());
        }
        let unread = || self.refusal("unable to parse csr: PEM block type must be CERTIFICATE REQUEST");
        let subject = subject_of(self.object).ok_or_else(unread)?;
        let wanted = format!("system:node:{}", self.node);
        self.needs(subject.name == wanted, format!("can only create a node CSR with CN={wanted}"))
    }

    fn pod_certificate(&self) -> Verdict {
        self.needs(self.request.creates(), format!("unexpected operation {}", self.operation()))?;
        let sub = self.request.subresource;
        self.needs(sub.is_empty(), format!("unexpected subresource {sub}"))?;
        let spec = &self.object["spec"];
        let stated = |field: &str| text(spec, field);
        let (node, namespace) = (self.node, self.request.namespace);
        self.needs(
            stated("nodeName") == node,
            format!(
                "PodCertificateRequest.Spec.NodeName={:?}, which is not the requesting node {node:?}",
                stated("nodeName")
            ),
        )?;
        let view = self.request.view;
        let uid = view.record(row("v1", "Node"), "", node).map(|record| record.index.uid.to_string());
        let place = format!("{namespace}/{}", stated("podName"));
        self.needs(
            uid.as_deref() == Some(stated("nodeUID")),
            format!("PodCertificateRequest for pod {place:?} names node UID {:?}, inconsistent with the running node ({:?})", stated("nodeUID"), uid.unwrap_or_default()),
        )?;
        let pod = view.get(row("v1", "Pod"), namespace, stated("podName"));
        let Some(pod) = pod.filter(|pod| pod["metadata"]["uid"] == stated("podUID")) else {
            return self.refused(format!("PodCertificateRequest for pod {place:?} contains pod UID ({:?}) which differs from running pod", stated("podUID")));
        };
        self.needs(
            self.runs_here(&pod),
            format!("pod {place:?} is not running on node {node:?} named in the PodCertificateRequest"),
        )?;
        self.needs(!is_mirror(&pod), format!("pod {place:?} is a mirror pod"))?;
        let own = text(&pod["spec"], "serviceAccountName");
        self.needs(
            stated("serviceAccountName") == own,
            format!("PodCertificateRequest for pod {place:?} contains serviceAccountName ({:?}) that differs from running pod ({own:?})", stated("serviceAccountName")),
        )?;
        let account = view.record(row("v1", "ServiceAccount"), namespace, own);
        let uid = account.map(|record| record.index.uid.to_string());
        self.needs(
            uid.as_deref() == Some(stated("serviceAccountUID")),
            format!("PodCertificateRequest for pod {place:?} names service account UID {:?}, which differs from the running service account ({:?})", stated("serviceAccountUID"), uid.unwrap_or_default()),
        )
    }
}

fn map(value: &Value) -> Option<&Map<String, Value>> {
    value.as_object().filter(|map| !map.is_empty())
}

fn is_of(label: &str, domain: &str) -> bool {
    let own = label.split_once('/').map_or("", |(own, _)| own);
    own == domain || own.strip_suffix(domain).is_some_and(|head| head.ends_with('.'))
}

/// Labels that differ and that a kubelet may not decide.
fn forbidden_labels(new: &Value, old: &Value) -> BTreeSet<String> {
    let keys = [new, old].into_iter().flat_map(|labels| labels.as_object().into_iter().flatten());
    let changed = keys.map(|(key, _)| key).filter(|key| new[key.as_str()] != old[key.as_str()]);
    let of_kubelets = |key: &str| {
        KUBELET_LABELS.contains(&key)
            || is_of(key, "kubelet.kubernetes.io")
            || is_of(key, "node.kubernetes.io")
    };
    let of_kubernetes = |key: &str| is_of(key, "kubernetes.io") || is_of(key, "k8s.io");
    let forbidden = changed.filter(|key| {
        is_of(key, "node-restriction.kubernetes.io") || (of_kubernetes(key) && !of_kubelets(key))
    });
    forbidden.cloned().collect()
}

/// What of the API a pod refers to, which a mirror pod must not.
fn referenced(spec: &Value) -> Option<&'static str> {
    if !text(spec, "serviceAccountName").is_empty() {
        return Some("serviceaccounts");
    }
    if names_secrets(spec) {
        return Some("secrets");
    }
    if mentions(spec, &["configMap", "configMapRef", "configMapKeyRef"]) {
        return Some("configmaps");
    }
    if !items(spec, "resourceClaims").is_empty() {
        return Some("resourceclaims");
    }
    items(spec, "volumes").iter().find_map(volume_reference)
}

/// What of the API a volume takes its content from.
fn volume_reference(volume: &Value) -> Option<&'static str> {
    const SOURCES: [(&str, &str); 5] = [
        ("csi", "csidrivers (via CSI volumes)"),
        ("glusterfs", "endpoints (via glusterFS volumes)"),
        ("persistentVolumeClaim", "persistentvolumeclaims"),
        ("ephemeral", "persistentvolumeclaims (via ephemeral volumes)"),
        ("azureFile", "secrets (via azureFile volumes)"),
    ];
    const PROJECTED: [(&str, &str); 3] = [
        ("serviceAccountToken", "serviceaccounts (via projected volumes)"),
        ("clusterTrustBundle", "clustertrustbundles"),
        ("podCertificate", "podcertificates"),
    ];
    let named = |of: &Value, table: &[(&str, &'static str)]| {
        table.iter().find(|(field, _)| !of[*field].is_null()).map(|(_, what)| *what)
    };
    named(volume, &SOURCES).or_else(|| {
        items(&volume["projected"], "sources").iter().find_map(|source| named(source, &PROJECTED))
    })
}

fn mentions(value: &Value, fields: &[&str]) -> bool {
    match value {
        Value::Object(map) => {
            map.iter().any(|(name, value)| fields.contains(&name.as_str()) || mentions(value, fields))
        }
        Value::Array(list) => list.iter().any(|item| mentions(item, fields)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn kubelets_label_their_nodes_within_their_domains() {
        let old = json!({"kept.kubernetes.io/a": "1", "example.com/x": "1"});
        let new = json!({"kept.kubernetes.io/a": "1", "example.com/x": "2", "kubernetes.io/os": "linux",
            "a.kubelet.kubernetes.io/b": "1", "node-role.kubernetes.io/control-plane": "true",
            "x.node-restriction.kubernetes.io/y": "1"});
        let names: Vec<String> = forbidden_labels(&new, &old).into_iter().collect();
        assert_eq!(names, ["node-role.kubernetes.io/control-plane", "x.node-restriction.kubernetes.io/y"]);
    }

    #[test]
    fn mirror_pods_refer_to_nothing() {
        assert_eq!(referenced(&json!({"volumes": [{"hostPath": {"path": "/"}}]})), None);
        assert_eq!(referenced(&json!({"volumes": [{"secret": {"secretName": "a"}}]})), Some("secrets"));
        assert_eq!(
            referenced(&json!({"containers": [{"envFrom": [{"configMapRef": {"name": "a"}}]}]})),
            Some("configmaps")
        );
    }
}
