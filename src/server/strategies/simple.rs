//! Kinds with a few rules each.

use super::{Errors, PLAIN, Strategy, default, items, items_mut, names, text};
use api::validate::{Error, Path, dns_label, dns_subdomain};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

/// The most data a ConfigMap or Secret may hold.
const DATA_BYTES: usize = 1 << 20;

pub(super) const NAMESPACE: Strategy = Strategy {
    name_rule: dns_label,
    default: |namespace| {
        // Everyone can select a namespace by its name.
        let name = namespace["metadata"]["name"].clone();
        if name.is_string() {
            if !namespace["metadata"]["labels"].is_object() {
                namespace["metadata"]["labels"] = json!({});
            }
            namespace["metadata"]["labels"]["kubernetes.io/metadata.name"] = name;
        }
    },
    prepare_create: |namespace| {
        namespace["status"] = json!({"phase": "Active"});
        let mut finalizers = namespace["spec"]["finalizers"].as_array().cloned().unwrap_or_default();
        if !finalizers.contains(&json!("kubernetes")) {
            finalizers.push(json!("kubernetes"));
        }
        namespace["spec"] = json!({"finalizers": finalizers});
    },
    // Only the `finalize` subresource changes these.
    prepare_update: |new, old| new["spec"] = old["spec"].clone(),
    ..PLAIN
};

pub(super) const NODE: Strategy = Strategy {
    status_at_creation: true,
    status_labels: true,
    validate: |node, errors| {
        for (index, taint) in items(&node["spec"], "taints").iter().enumerate() {
            let path = Path::new("spec").child("taints").index(index);
            if text(taint, "key").is_empty() {
                errors.push(Error::required(&path.child("key"), ""));
            }
            names::one_of(
                &taint["effect"],
                &path.child("effect"),
                &["NoSchedule", "PreferNoSchedule", "NoExecute"],
                errors,
            );
        }
    },
    ..PLAIN
};

pub(super) const CONFIG_MAP: Strategy = Strategy {
    validate: |map, errors| {
        let mut size = 0;
        for field in ["data", "binaryData"] {
            size += keys(&map[field], &Path::new(field), errors);
        }
        for key in map["binaryData"].as_object().into_iter().flat_map(Map::keys) {
            if !map["data"][key].is_null() {
                let detail = format!("duplicate of key present in {}", "data");
                errors.push(Error::invalid(&Path::new("data").key(key), key.as_str(), detail));
            }
        }
        if size > DATA_BYTES {
            errors.push(Error::too_long(&Path::default(), DATA_BYTES));
        }
    },
    validate_update: |new, old, errors| {
        if old["immutable"] == true {
            immutable_data(new, old, &["data", "binaryData"], errors);
        }
    },
    ..PLAIN
};

pub(super) const SECRET: Strategy = Strategy {
    default: |secret| {
        default(secret, "type", "Opaque");
        let plain = secret.as_object_mut().and_then(|fields| fields.remove("stringData"));
        for (key, value) in plain.as_ref().and_then(Value::as_object).into_iter().flatten() {
            if !secret["data"].is_object() {
                secret["data"] = json!({});
            }
            secret["data"][key] = Value::from(STANDARD.encode(value.as_str().unwrap_or_default()));
        }
    },
    validate: validate_secret,
    validate_update: |new, old, errors| {
        if new["type"] != old["type"] {
            errors.push(Error::invalid(&Path::new("type"), new["type"].clone(), "field is immutable"));
        }
        if old["immutable"] == true {
            immutable_data(new, old, &["data"], errors);
        }
    },
    ..PLAIN
};

fn validate_secret(secret: &Value, errors: &mut Errors) {
    let path = Path::new("data");
    let size = keys(&secret["data"], &path, errors);
    if size > DATA_BYTES {
        errors.push(Error::too_long(&path, DATA_BYTES));
    }
    for (key, value) in secret["data"].as_object().into_iter().flatten() {
        if STANDARD.decode(value.as_str().unwrap_or_default()).is_err() {
            errors.push(Error::invalid(&path.key(key), "<secret contents redacted>", "must be base64"));
        }
    }
    let required: &[&str] = match text(secret, "type") {
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        _ => &[],
    };
    for key in required {
        if secret["data"][*key].is_null() {
            errors.push(Error::required(&path.key(key), ""));
        }
    }
}

/// Checks the keys of a map of data; returns the size of all of it.
fn keys(data: &Value, path: &Path, errors: &mut Errors) -> usize {
    let mut size = 0;
    for (key, value) in data.as_object().into_iter().flatten() {
        size += value.as_str().map_or(0, str::len);
        let well_formed = key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if !well_formed || key.is_empty() || key.len() > 253 || key == "." || key.starts_with("..") {
            let detail = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
            errors.push(Error::invalid(&path.key(key), key.as_str(), detail));
        }
    }
    size
}

fn immutable_data(new: &Value, old: &Value, fields: &[&str], errors: &mut Errors) {
    if new["immutable"] != true {
        errors.push(Error::forbidden(&Path::new("immutable"), "field is immutable when `immutable` is set"));
    }
    for field in fields {
        if new[*field] != old[*field] {
            errors.push(Error::forbidden(&Path::new(field), "field is immutable when `immutable` is set"));
        }
    }
}

pub(super) const EVENT: Strategy = Strategy {
    default: |event| {
        default(event, "metadata", json!({}));
        default(event, "type", "Normal");
    },
    ..PLAIN
};

pub(super) const CLAIM: Strategy = Strategy {
    default: |claim| {
        if let Some(spec) = claim.get_mut("spec") {
            default(spec, "volumeMode", "Filesystem");
        }
    },
    prepare_create: |claim| {
        claim["status"] = json!({"phase": "Pending"});
        protect(claim, "kubernetes.io/pvc-protection");
    },
    validate: |claim, errors| {
        let path = Path::new("spec");
        access_modes(&claim["spec"], &path, errors);
        if claim["spec"]["resources"]["requests"]["storage"].is_null() {
            errors.push(Error::required(&path.child("resources").key("storage"), ""));
        }
        names::quantities(
            &claim["spec"]["resources"]["requests"],
            &path.child("resources").child("requests"),
            errors,
        );
    },
    ..PLAIN
};

pub(super) const VOLUME: Strategy = Strategy {
    default: |volume| {
        if let Some(spec) = volume.get_mut("spec") {
            default(spec, "persistentVolumeReclaimPolicy", "Retain");
            default(spec, "volumeMode", "Filesystem");
        }
    },
    prepare_create: |volume| {
        volume["status"] = json!({"phase": "Pending"});
        protect(volume, "kubernetes.io/pv-protection");
    },
    validate: |volume, errors| {
        let path = Path::new("spec");
        access_modes(&volume["spec"], &path, errors);
        if volume["spec"]["capacity"]["storage"].is_null() {
            errors.push(Error::required(&path.child("capacity"), ""));
        }
        names::quantities(&volume["spec"]["capacity"], &path.child("capacity"), errors);
    },
    ..PLAIN
};

fn protect(object: &mut Value, finalizer: &str) {
    let mut finalizers = object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    if !finalizers.contains(&json!(finalizer)) {
        finalizers.push(json!(finalizer));
    }
    object["metadata"]["finalizers"] = Value::Array(finalizers);
}

fn access_modes(spec: &Value, path: &Path, errors: &mut Errors) {
    let path = path.child("accessModes");
    if items(spec, "accessModes").is_empty() {
        errors.push(Error::required(&path, "at least 1 access mode is required"));
    }
    let known = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
    items(spec, "accessModes").iter().for_each(|mode| names::one_of(mode, &path, &known, errors));
}

pub(super) const SERVICE_ACCOUNT: Strategy = Strategy { name_rule: dns_subdomain, ..PLAIN };

pub(super) const ENDPOINT_SLICE: Strategy = Strategy {
    generation: true,
    default: |slice| {
        for port in items_mut(slice, "ports") {
            default(port, "name", "");
            default(port, "protocol", "TCP");
        }
    },
    validate: |slice, errors| {
        names::one_of(&slice["addressType"], &Path::new("addressType"), &["FQDN", "IPv4", "IPv6"], errors);
        let endpoints = items(slice, "endpoints");
        if endpoints.len() > 1000 {
            errors.push(Error::too_many(&Path::new("endpoints"), endpoints.len(), 1000));
        }
        for (index, endpoint) in endpoints.iter().enumerate() {
            if items(endpoint, "addresses").is_empty() {
                let path = Path::new("endpoints").index(index).child("addresses");
                errors.push(Error::required(&path, "must contain at least 1 address"));
            }
        }
    },
    validate_update: |new, old, errors| {
        if new["addressType"] != old["addressType"] {
            errors.push(Error::invalid(
                &Path::new("addressType"),
                new["addressType"].clone(),
                "field is immutable",
            ));
        }
    },
    ..PLAIN
};

pub(super) const PRIORITY_CLASS: Strategy = Strategy {
    generation: true,
    default: |class| default(class, "preemptionPolicy", "PreemptLowerPriority"),
    validate: |class, errors| {
        let name = class["metadata"]["name"].as_str().unwrap_or_default();
        let built_in = matches!(name, "system-node-critical" | "system-cluster-critical");
        if name.starts_with("system-") && !built_in {
            let detail =
                "priority class names with 'system-' prefix are reserved for system use only. error: "
                    .to_owned()
                    + name
                    + " is not a known system priority class";
            errors.push(Error::forbidden(&Path::new("metadata").child("name"), detail));
        }
        if !built_in && class["value"].as_i64().is_some_and(|value| value > 1_000_000_000) {
            errors.push(Error::forbidden(
                &Path::new("value"),
                "maximum allowed value of a user defined priority is 1000000000",
            ));
        }
    },
    validate_update: |new, old, errors| {
        if new["value"] != old["value"] {
            errors.push(Error::forbidden(&Path::new("value"), "may not be changed in an update."));
        }
    },
    ..PLAIN
};

pub(super) const STORAGE_CLASS: Strategy = Strategy {
    default: |class| {
        default(class, "reclaimPolicy", "Delete");
        default(class, "volumeBindingMode", "Immediate");
    },
    validate: |class, errors| {
        if text(class, "provisioner").is_empty() {
            errors.push(Error::required(&Path::new("provisioner"), ""));
        }
    },
    ..PLAIN
};

pub(super) fn default_network_policy(policy: &mut Value) {
    let Some(spec) = policy.get_mut("spec") else { return };
    let types = if spec["egress"].is_array() { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
    default(spec, "policyTypes", types);
    for direction in ["ingress", "egress"] {
        for rule in items_mut(spec, direction) {
            items_mut(rule, "ports").for_each(|port| default(port, "protocol", "TCP"));
        }
    }
}
