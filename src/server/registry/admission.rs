//! What is decided about a write beyond its own kind's rules: its namespace, the service account and
//! priority of pods, the reach of kubelets, and that nobody gives away rights they do not have.

use super::{Context, Registry};
use crate::auth::{escalation, node_of};
use api::kinds::{Kind, by_kind};
use api::status::Refusal;
use serde_json::{Value, json};

const TOKEN_MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// One hour and a margin, as Kubernetes asks for projected tokens.
const TOKEN_LIFETIME_S: i64 = 3607;
/// How long pods stay on a node that is not ready or not reached, unless they say otherwise.
const TOLERATED_S: i64 = 300;

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

fn row(api_version: &str, kind: &str) -> &'static Kind {
    by_kind(api_version, kind).expect("the table of kinds has every built-in kind")
}

impl Registry {
    /// Decides about a new object; returns what to warn its writer of.
    pub(super) fn admit_create(
        &self,
        kind: &'static Kind,
        namespace: &str,
        object: &mut Value,
        context: &Context,
    ) -> Result<Vec<String>, Refusal> {
        if kind.namespaced {
            self.admit_into_namespace(kind, namespace, text(&object["metadata"], "name"))?;
        }
        restrict_node(kind, object, context)?;
        self.check_rights(kind, object, context)?;
        match (kind.group, kind.kind) {
            ("", "Pod") => {
                self.admit_priority(kind, object)?;
                tolerate(object);
                self.admit_account(kind, namespace, object)?;
            }
            ("", "Endpoints") => {
                return Ok(vec![
                    "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice".to_owned(),
                ]);
            }
            ("certificates.k8s.io", "CertificateSigningRequest") => sign_off(object, context),
            _ => {}
        }
        Ok(Vec::new())
    }

    pub(super) fn admit_update(
        &self,
        kind: &'static Kind,
        new: &mut Value,
        old: &Value,
        context: &Context,
    ) -> Result<(), Refusal> {
        restrict_node(kind, new, context)?;
        if new["rules"] != old["rules"] || new["subjects"] != old["subjects"] {
            self.check_rights(kind, new, context)?;
        }
        Ok(())
    }

    pub(super) fn admit_delete(
        &self,
        kind: &'static Kind,
        object: &Value,
        context: &Context,
    ) -> Result<(), Refusal> {
        let name = text(&object["metadata"], "name");
        restrict_node(kind, object, context)?;
        if (kind.group, kind.kind) == ("", "Namespace")
            && matches!(name, "default" | "kube-system" | "kube-public")
        {
            return Err(Refusal::forbidden(kind, name, "this namespace may not be deleted"));
        }
        Ok(())
    }

    fn admit_into_namespace(&self, kind: &Kind, namespace: &str, name: &str) -> Result<(), Refusal> {
        let owner = row("v1", "Namespace");
        let record = self.find(owner, "", namespace)?;
        if record.index.field("status.phase") != "Terminating" {
            return Ok(());
        }
        let why =
            format!("unable to create new content in namespace {namespace} because it is being terminated");
        let mut refusal = Refusal::forbidden(kind, name, &why);
        refusal.details["causes"] = json!([{"reason": "NamespaceTerminating", "message": format!("namespace {namespace} is being terminated"), "field": "metadata.namespace"}]);
        Err(refusal)
    }

    fn check_rights(&self, kind: &Kind, object: &Value, context: &Context) -> Result<(), Refusal> {
        if kind.group != "rbac.authorization.k8s.io" {
            return Ok(());
        }
        escalation::check(&self.authorizer, &self.records, &context.user, kind, object)
    }

    /// `spec.priority` from the pod's priority class, or from the default one.
    fn admit_priority(&self, kind: &Kind, pod: &mut Value) -> Result<(), Refusal> {
        let classes = row("scheduling.k8s.io/v1", "PriorityClass");
        let wanted = text(&pod["spec"], "priorityClassName").to_owned();
        let class = if wanted.is_empty() {
            self.default_priority_class(classes)
        } else {
            let record = self.find(classes, "", &wanted);
            let why = format!("no PriorityClass with name {wanted} was found");
            let record =
                record.map_err(|_| Refusal::forbidden(kind, text(&pod["metadata"], "name"), &why))?;
            Some(super::decoded(&record)?)
        };
        let spec = &mut pod["spec"];
        if let Some(class) = &class {
            spec["priorityClassName"] = class["metadata"]["name"].clone();
        }
        let class = class.unwrap_or_default();
        spec["priority"] = json!(class["value"].as_i64().unwrap_or(0));
        if spec["preemptionPolicy"].is_null() {
            spec["preemptionPolicy"] =
                json!(class["preemptionPolicy"].as_str().unwrap_or("PreemptLowerPriority"));
        }
        Ok(())
    }

    fn default_priority_class(&self, classes: &Kind) -> Option<Value> {
        let snapshot = self.records.snapshot();
        let prefix = classes.storage_prefix();
        let all = snapshot.range(&prefix, None).filter_map(|record| super::decoded(record).ok());
        let mut defaults: Vec<Value> = all.filter(|class| class["globalDefault"] == true).collect();
        defaults.sort_by_key(|class| class["value"].as_i64());
        defaults.into_iter().next()
    }

    /// The pod's service account: named, existing, and its token mounted.
    fn admit_account(&self, kind: &Kind, namespace: &str, pod: &mut Value) -> Result<(), Refusal> {
        // A mirror pod stands for one that runs already; it cannot be given anything.
        if !pod["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_null() {
            return Ok(());
        }
        let spec = &mut pod["spec"];
        if text(spec, "serviceAccountName").is_empty() {
            spec["serviceAccountName"] = json!("default");
            spec["serviceAccount"] = json!("default");
        }
        let account_name = text(spec, "serviceAccountName").to_owned();
        let name = text(&pod["metadata"], "name").to_owned();
        let accounts = row("v1", "ServiceAccount");
        let record = self.find(accounts, namespace, &account_name).map_err(|_| {
            let why = format!("error looking up service account {namespace}/{account_name}: serviceaccount {account_name:?} not found");
            Refusal::forbidden(kind, &name, &why)
        })?;
        let account = super::decoded(&record)?;
        let spec = &mut pod["spec"];
        if spec["imagePullSecrets"].as_array().is_none_or(Vec::is_empty)
            && account["imagePullSecrets"].is_array()
        {
            spec["imagePullSecrets"] = account["imagePullSecrets"].clone();
        }
        let wanted = [&spec["automountServiceAccountToken"], &account["automountServiceAccountToken"]];
        if wanted.into_iter().find_map(Value::as_bool).unwrap_or(true) {
            mount_token(spec);
        }
        Ok(())
    }
}

/// A signing request says who asked, whatever its writer says.
fn sign_off(request: &mut Value, context: &Context) {
    let user = context.user.to_value();
    for field in ["username", "groups", "uid", "extra"] {
        match &user[field] {
            Value::Null => drop(request["spec"].as_object_mut().and_then(|spec| spec.remove(field))),
            stated => request["spec"][field] = stated.clone(),
        }
    }
}

/// Mounts a projected token, the cluster's authority and the namespace into every container that has
/// nothing there yet.
fn mount_token(spec: &mut Value) {
    let volume = super::meta::generated_name("kube-api-access-");
    let mut used = false;
    for list in ["initContainers", "containers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let mounts = container["volumeMounts"].as_array().cloned().unwrap_or_default();
            if mounts.iter().any(|mount| mount["mountPath"] == TOKEN_MOUNT) {
                continue;
            }
            let own = json!({"name": volume, "mountPath": TOKEN_MOUNT, "readOnly": true});
            container["volumeMounts"] = mounts.into_iter().chain([own]).collect();
            used = true;
        }
    }
    if !used {
        return;
    }
    let source = json!({"name": volume, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": TOKEN_LIFETIME_S}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}});
    let volumes = spec["volumes"].as_array().cloned().unwrap_or_default();
    spec["volumes"] = volumes.into_iter().chain([source]).collect();
}

/// Pods stay for a while on a node that is not ready or not reached (DefaultTolerationSeconds).
fn tolerate(pod: &mut Value) {
    let mut tolerations = pod["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let covers = |one: &Value| {
            let key_fits = one["key"] == key || text(one, "key").is_empty();
            key_fits && matches!(text(one, "effect"), "" | "NoExecute")
        };
        if !tolerations.iter().any(covers) {
            tolerations.push(json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATED_S}));
        }
    }
    pod["spec"]["tolerations"] = Value::Array(tolerations);
}

/// NodeRestriction: a kubelet changes its own node, its own lease and pods bound to it, nothing else.
fn restrict_node(kind: &Kind, object: &Value, context: &Context) -> Result<(), Refusal> {
    let Some(node) = node_of(&context.user) else { return Ok(()) };
    let name = text(&object["metadata"], "name");
    let namespace = text(&object["metadata"], "namespace");
    let refused = |why: String| Err(Refusal::forbidden(kind, name, &why));
    match kind.kind {
        "Node" | "CSINode" if name != node => {
            refused(format!("node {node:?} is not allowed to modify node {name:?}"))
        }
        "Pod" if text(&object["spec"], "nodeName") != node => {
            refused(format!("node {node:?} can only create pods with spec.nodeName set to itself"))
        }
        "Lease" if namespace != "kube-node-lease" || name != node => {
            refused("can only access node lease with the same name as the requesting node".to_owned())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_mounted_once_and_not_over_something() {
        let mut spec = json!({"containers": [{"name": "a"}, {"name": "b", "volumeMounts": [{"name": "x", "mountPath": TOKEN_MOUNT}]}]});
        mount_token(&mut spec);
        assert_eq!(spec["containers"][0]["volumeMounts"][0]["mountPath"], TOKEN_MOUNT);
        assert_eq!(spec["containers"][1]["volumeMounts"].as_array().unwrap().len(), 1);
        assert_eq!(spec["volumes"][0]["name"], spec["containers"][0]["volumeMounts"][0]["name"]);
    }

    #[test]
    fn own_tolerations_are_respected() {
        let mut pod = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
        tolerate(&mut pod);
        assert_eq!(pod["spec"]["tolerations"].as_array().unwrap().len(), 1);
        let mut plain = json!({"spec": {}});
        tolerate(&mut plain);
        assert_eq!(plain["spec"]["tolerations"].as_array().unwrap().len(), 2);
    }
}
