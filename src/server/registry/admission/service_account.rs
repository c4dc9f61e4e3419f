//! ServiceAccount: every pod runs as an account of its namespace, has the account's token, and uses the
//! secrets that the account lets it use.

use super::super::meta::generated_name;
use super::view::row;
use super::{Request, STEP as PLAIN, Step, Verdict, items, items_mut, push, text};
use api::secrets::NAMING;
use api::status::Refusal;
use serde_json::{Value, json};
use std::collections::BTreeSet;

const TOKEN_MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const TOKEN_VOLUME: &str = "kube-api-access-";
/// One hour and a margin, as Kubernetes asks for projected tokens.
const TOKEN_LIFETIME_S: i64 = 3607;
const ENFORCED: &str = "kubernetes.io/enforce-mountable-secrets";
pub(super) const MIRROR: &str = "kubernetes.io/config.mirror";

pub(super) const STEP: Step = Step {
    name: "ServiceAccount",
    targets: &["pods", "pods/ephemeralcontainers"],
    admit: |request, pod| {
        if !request.creates() {
            return Ok(());
        }
        if !is_mirror(pod) {
            settle(request, pod)?;
        }
        validate(request, pod)
    },
    validate,
    ..PLAIN
};

/// A mirror pod stands for one that runs already; it cannot be given anything.
pub(super) fn is_mirror(pod: &Value) -> bool {
    !pod["metadata"]["annotations"][MIRROR].is_null()
}

fn account_of(request: &Request, pod: &Value) -> Result<Value, Refusal> {
    let (namespace, name) = (request.namespace, text(&pod["spec"], "serviceAccountName"));
    if name.is_empty() {
        let pod_name = text(&pod["metadata"], "name");
        let why = format!("no service account specified for pod {namespace}/{pod_name}");
        return Err(request.forbidden(pod, why));
    }
    request.view.get(row("v1", "ServiceAccount"), namespace, name).ok_or_else(|| {
        let why =
            format!("error looking up service account {namespace}/{name}: serviceaccount {name:?} not found");
        request.forbidden(pod, why)
    })
}

fn settle(request: &Request, pod: &mut Value) -> Verdict {
    let spec = &mut pod["spec"];
    if text(spec, "serviceAccountName").is_empty() {
        spec["serviceAccountName"] = json!("default");
        spec["serviceAccount"] = json!("default");
    }
    let account = account_of(request, pod)?;
    let spec = &mut pod["spec"];
    let wanted = [&spec["automountServiceAccountToken"], &account["automountServiceAccountToken"]];
    if wanted.into_iter().find_map(Value::as_bool).unwrap_or(true) {
        mount_token(spec);
    }
    if items(spec, "imagePullSecrets").is_empty() && !items(&account, "imagePullSecrets").is_empty() {
        spec["imagePullSecrets"] = account["imagePullSecrets"].clone();
    }
    Ok(())
}

fn validate(request: &Request, pod: &Value) -> Verdict {
    if !request.creates() && request.subresource.is_empty() {
        return Ok(());
    }
    if request.creates() && is_mirror(pod) {
        return mirror(request, pod);
    }
    let account = account_of(request, pod)?;
    let flag = account["metadata"]["annotations"][ENFORCED].as_str().unwrap_or_default();
    if !matches!(flag, "1" | "t" | "T" | "true" | "TRUE" | "True") {
        return Ok(());
    }
    let found =
        if request.creates() { foreign_secret(&pod["spec"], &account) } else { in_ephemeral(pod, &account) };
    found.map_or(Ok(()), |why| Err(request.forbidden(pod, why)))
}

fn mirror(request: &Request, pod: &Value) -> Verdict {
    let spec = &pod["spec"];
    let projected =
        || items(spec, "volumes").iter().flat_map(|volume| items(&volume["projected"], "sources"));
    let why = if !text(spec, "serviceAccountName").is_empty() {
        "a mirror pod may not reference service accounts"
    } else if names_secrets(spec) {
        "a mirror pod may not reference secrets"
    } else if projected().any(|source| source["serviceAccountToken"].is_object()) {
        "a mirror pod may not use ServiceAccountToken volume projections"
    } else {
        return Ok(());
    };
    Err(request.forbidden(pod, why))
}

/// Whether a pod names a secret anywhere.
pub(super) fn names_secrets(spec: &Value) -> bool {
    match spec {
        Value::Object(fields) => fields.iter().any(|(name, value)| {
            let empty = value.is_null() || value.as_array().is_some_and(Vec::is_empty);
            (NAMING.contains(&name.as_str()) && !empty) || names_secrets(value)
        }),
        Value::Array(list) => list.iter().any(names_secrets),
        _ => false,
    }
}

fn names(account: &Value, field: &str) -> BTreeSet<String> {
    items(account, field).iter().map(|one| text(one, "name").to_owned()).collect()
}

/// The first secret that a pod uses and its account does not name, in words.
fn foreign_secret(spec: &Value, account: &Value) -> Option<String> {
    let (secrets, account_name) = (names(account, "secrets"), text(&account["metadata"], "name"));
    let foreign = |volume: &&Value| {
        volume["secret"].is_object() && !secrets.contains(text(&volume["secret"], "secretName"))
    };
    if let Some(volume) = items(spec, "volumes").iter().find(foreign) {
        let name = text(&volume["secret"], "secretName");
        return Some(format!(
            "volume with secret.secretName=\"{name}\" is not allowed because service account {account_name} does not reference that secret"
        ));
    }
    let lists = [("initContainers", "init container"), ("containers", "container")];
    let found = lists.iter().find_map(|(list, what)| in_containers(items(spec, list), what, account));
    let pulls = names(account, "imagePullSecrets");
    found.or_else(|| {
        let mut all = items(spec, "imagePullSecrets").iter().enumerate();
        let (index, one) = all.find(|(_, one)| !pulls.contains(text(one, "name")))?;
        let name = text(one, "name");
        Some(format!("imagePullSecrets[{index}].name=\"{name}\" is not allowed because service account {account_name} does not reference that imagePullSecret"))
    })
}

fn in_ephemeral(pod: &Value, account: &Value) -> Option<String> {
    in_containers(items(&pod["spec"], "ephemeralContainers"), "ephemeral container", account)
}

fn in_containers(containers: &[Value], what: &str, account: &Value) -> Option<String> {
    let (secrets, account_name) = (names(account, "secrets"), text(&account["metadata"], "name"));
    let tail =
        format!("is not allowed because service account {account_name} does not reference that secret");
    containers.iter().find_map(|container| {
        let name = text(container, "name");
        let foreign = |reference: &Value| {
            let secret = text(reference, "name");
            (reference.is_object() && !secrets.contains(secret)).then(|| secret.to_owned())
        };
        let variable = items(container, "env").iter().find_map(|env| {
            let secret = foreign(&env["valueFrom"]["secretKeyRef"])?;
            Some(format!(
                "{what} {name} with envVar {} referencing secret.secretName=\"{secret}\" {tail}",
                text(env, "name")
            ))
        });
        variable.or_else(|| {
            let secret = items(container, "envFrom").iter().find_map(|from| foreign(&from["secretRef"]))?;
            Some(format!("{what} {name} with envFrom referencing secret.secretName=\"{secret}\" {tail}"))
        })
    })
}

/// Mounts a projected token, the cluster's authority and the namespace into every container that has
/// nothing there yet.
fn mount_token(spec: &mut Value) {
    let own = items(spec, "volumes").iter().map(|volume| text(volume, "name"));
    let there = own.into_iter().find(|name| name.starts_with(TOKEN_VOLUME)).map(str::to_owned);
    let volume = there.clone().unwrap_or_else(|| generated_name(TOKEN_VOLUME));
    let mut used = false;
    for list in ["initContainers", "containers"] {
        for container in items_mut(spec, list) {
            if !items(container, "volumeMounts").iter().any(|mount| mount["mountPath"] == TOKEN_MOUNT) {
                push(
                    container,
                    "volumeMounts",
                    json!({"name": volume, "mountPath": TOKEN_MOUNT, "readOnly": true}),
                );
                used = true;
            }
        }
    }
    if used && there.is_none() {
        push(spec, "volumes", token_volume(&volume));
    }
}

fn token_volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": TOKEN_LIFETIME_S}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_mounted_once_and_not_over_something() {
        let mut spec = json!({"containers": [{"name": "a"}, {"name": "b", "volumeMounts": [{"name": "x", "mountPath": TOKEN_MOUNT}]}]});
        mount_token(&mut spec);
        assert_eq!(spec["containers"][0]["volumeMounts"][0]["mountPath"], TOKEN_MOUNT);
        assert_eq!(items(&spec["containers"][1], "volumeMounts").len(), 1);
        assert_eq!(spec["volumes"][0]["name"], spec["containers"][0]["volumeMounts"][0]["name"]);
    }

    #[test]
    fn only_the_accounts_own_secrets_are_used() {
        let account = json!({"metadata": {"name": "web"}, "secrets": [{"name": "own"}], "imagePullSecrets": [{"name": "pull"}]});
        let told = |spec: &Value| foreign_secret(spec, &account).unwrap_or_default();
        assert_eq!(
            told(
                &json!({"volumes": [{"secret": {"secretName": "own"}}], "imagePullSecrets": [{"name": "pull"}]})
            ),
            ""
        );
        assert_eq!(
            told(&json!({"volumes": [{"secret": {"secretName": "x"}}]})),
            "volume with secret.secretName=\"x\" is not allowed because service account web does not reference that secret"
        );
        assert_eq!(
            told(
                &json!({"containers": [{"name": "c", "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "x"}}}]}]})
            ),
            "container c with envVar E referencing secret.secretName=\"x\" is not allowed because service account web does not reference that secret"
        );
        assert_eq!(
            told(&json!({"imagePullSecrets": [{"name": "x"}]})),
            "imagePullSecrets[0].name=\"x\" is not allowed because service account web does not reference that imagePullSecret"
        );
    }
}
