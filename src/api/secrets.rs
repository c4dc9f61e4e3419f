//! Secrets that hold tokens, and where pods name Secrets.

use crate::core::Secret;
use jiff::Timestamp;
use serde_json::Value;

/// The type of a Secret that holds a token.
pub const TOKEN: &str = "kubernetes.io/service-account-token";
/// The annotation that names the account whose it is.
pub const ACCOUNT: &str = "kubernetes.io/service-account.name";
/// The one with the account's uid.
pub const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
/// The label that says on which day it was used last.
pub const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
/// The one that says since which day it is refused.
pub const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
/// The ConfigMap in `kube-system` that says since when uses are noted (KEP-2799).
pub const TRACKING: &str = "kube-apiserver-legacy-service-account-token-tracking";

/// The type of a Secret that holds a token by which machines join.
pub const BOOTSTRAP_TOKEN: &str = "bootstrap.kubernetes.io/token";
/// What the name of one begins with; the token's id follows.
pub const BOOTSTRAP_PREFIX: &str = "bootstrap-token-";
/// The group of machines that may join as nodes, which such tokens and the servers' own are of.
pub const JOINERS: &str = "system:bootstrappers:knarr:default-node-token";

/// A key of a Secret as text, "" if it is missing.
pub fn text<'a>(secret: &'a Secret, key: &str) -> &'a str {
    let bytes = secret.data.as_ref().and_then(|data| data.get(key));
    bytes.and_then(|bytes| std::str::from_utf8(&bytes.0).ok()).unwrap_or_default()
}

/// The fields of a pod that name Secrets: by a text, by an object with a name, or by a list of those.
pub const NAMING: [&str; 6] =
    ["secretName", "secretRef", "secretKeyRef", "secret", "imagePullSecrets", "nodePublishSecretRef"];

/// A day as labels have it.
pub fn day(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d").to_string()
}

/// Whether one of these fields, wherever it is, names an object.
pub fn mentions(value: &Value, fields: &[&str], name: &str) -> bool {
    match value {
        Value::Object(map) => map.iter().any(|(field, value)| {
            let named = |value: &Value| value == name || value["name"] == name || value["secretName"] == name;
            let hit = fields.contains(&field.as_str())
                && (named(value) || value.as_array().is_some_and(|items| items.iter().any(named)));
            hit || mentions(value, fields, name)
        }),
        Value::Array(items) => items.iter().any(|item| mentions(item, fields, name)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn secrets_are_found_wherever_pods_name_them() {
        let pod = json!({"spec": {"imagePullSecrets": [{"name": "pull"}], "volumes": [
            {"name": "a", "secret": {"secretName": "volume"}},
            {"name": "b", "projected": {"sources": [{"secret": {"name": "projected"}}]}},
            {"name": "c", "csi": {"nodePublishSecretRef": {"name": "publish"}}}],
            "containers": [{"name": "c", "envFrom": [{"secretRef": {"name": "all"}}],
                "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "key", "key": "k"}}}]}]}});
        let others = ["a", "b", "c", "E", "k", "secret", "name"];
        let all = ["all", "key", "projected", "publish", "pull", "volume"];
        let named = |name: &&str| mentions(&json!([pod]), &NAMING, name);
        assert_eq!(
            all.iter().chain(&others).filter(|name| named(name)).collect::<Vec<_>>(),
            all.iter().collect::<Vec<_>>()
        );
    }
}
