//! Volumes of pods.

use super::{Errors, default, items, items_mut, names, text};
use api::validate::{Error, Path, dns_label};
use serde_json::{Value, json};
use std::collections::HashSet;

/// Modes are decimal in JSON: 0644.
const FILE_MODE: i64 = 0o644;

pub(super) fn default_volume(volume: &mut Value) {
    let sources = volume.as_object().map_or(0, |fields| fields.keys().filter(|key| *key != "name").count());
    if sources == 0 {
        volume["emptyDir"] = json!({});
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = volume.get_mut(source) {
            default(source, "defaultMode", FILE_MODE);
            items_mut(source, "items").for_each(field_ref);
            for part in items_mut(source, "sources") {
                if let Some(token) = part.get_mut("serviceAccountToken") {
                    default(token, "expirationSeconds", 3600);
                }
                if let Some(downward) = part.get_mut("downwardAPI") {
                    items_mut(downward, "items").for_each(field_ref);
                }
            }
        }
    }
    if let Some(path) = volume.get_mut("hostPath") {
        default(path, "type", "");
    }
}

fn field_ref(item: &mut Value) {
    if let Some(reference) = item.get_mut("fieldRef") {
        default(reference, "apiVersion", "v1");
    }
}

/// Checks the volumes of a pod spec and returns their names.
pub(super) fn validate(spec: &Value, path: &Path, errors: &mut Errors) -> HashSet<String> {
    let mut seen = HashSet::new();
    for (index, volume) in items(spec, "volumes").iter().enumerate() {
        let path = path.child("volumes").index(index);
        let name = text(volume, "name");
        if name.is_empty() {
            errors.push(Error::required(&path.child("name"), ""));
        } else {
            let problems = dns_label(name);
            errors.extend(
                problems.into_iter().map(|problem| Error::invalid(&path.child("name"), name, problem)),
            );
        }
        if !seen.insert(name.to_owned()) {
            errors.push(Error::duplicate(&path.child("name"), name));
        }
        source(volume, &path, errors);
    }
    seen
}

fn source(volume: &Value, path: &Path, errors: &mut Errors) {
    let given: Vec<&String> = volume
        .as_object()
        .into_iter()
        .flat_map(|fields| fields.keys())
        .filter(|key| *key != "name")
        .collect();
    for extra in given.iter().skip(1) {
        errors.push(Error::forbidden(&path.child(extra), "may not specify more than 1 volume type"));
    }
    let Some(kind) = given.first() else { return };
    let (value, path) = (&volume[kind.as_str()], path.child(kind));
    let mut need = |field: &str| {
        if text(value, field).is_empty() {
            errors.push(Error::required(&path.child(field), ""));
        }
    };
    match kind.as_str() {
        "secret" => need("secretName"),
        "configMap" => need("name"),
        "hostPath" => need("path"),
        "persistentVolumeClaim" => need("claimName"),
        "nfs" => ["server", "path"].into_iter().for_each(need),
        "csi" => need("driver"),
        _ => {}
    }
    let mode = &value["defaultMode"];
    if mode.as_i64().is_some_and(|mode| !(0..=0o777).contains(&mode)) {
        errors.push(Error::invalid(
            &path.child("defaultMode"),
            mode.clone(),
            "must be a number between 0 and 0777 (octal), both inclusive",
        ));
    }
}

/// Checks the mounts of a container.
pub(super) fn validate_mounts(
    container: &Value,
    volumes: &HashSet<String>,
    path: &Path,
    errors: &mut Errors,
) {
    let mut seen = HashSet::new();
    for (index, mount) in items(container, "volumeMounts").iter().enumerate() {
        let path = path.child("volumeMounts").index(index);
        let (name, target) = (text(mount, "name"), text(mount, "mountPath"));
        if name.is_empty() {
            errors.push(Error::required(&path.child("name"), ""));
        } else if !volumes.contains(name) {
            errors.push(Error::not_found(&path.child("name"), name));
        }
        if target.is_empty() {
            errors.push(Error::required(&path.child("mountPath"), ""));
        } else if !seen.insert(target.to_owned()) {
            errors.push(Error::invalid(&path.child("mountPath"), target, "must be unique"));
        }
        let sub_path = text(mount, "subPath");
        if sub_path.starts_with('/') {
            errors.push(Error::invalid(&path.child("subPath"), sub_path, "must be a relative path"));
        }
        if sub_path.split('/').any(|part| part == "..") {
            errors.push(Error::invalid(&path.child("subPath"), sub_path, "must not contain '..'"));
        }
        if mount.get("mountPropagation").is_some() {
            let known = ["None", "HostToContainer", "Bidirectional"];
            names::one_of(&mount["mountPropagation"], &path.child("mountPropagation"), &known, errors);
        }
    }
}
