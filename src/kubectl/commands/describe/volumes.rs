//! Volumes, of pods and of pod templates.

use super::page::{Page, array, or_none, shown};
use serde_json::Value;

/// The volumes below their title; `depth` is the title's.
pub(super) fn write(page: &mut Page, depth: usize, volumes: &Value) {
    let volumes = array(volumes);
    if volumes.is_empty() {
        return page.field(depth, "Volumes", "<none>");
    }
    page.line(depth, "Volumes:");
    for volume in volumes {
        let margin = if depth > 0 { " " } else { "" };
        page.line(1, &format!("{margin}{}:", shown(&volume["name"])));
        one(page, volume);
    }
}

fn one(page: &mut Page, volume: &Value) {
    let Some((kind, source)) = volume.as_object().into_iter().flatten().find(|(key, _)| *key != "name")
    else {
        return page.line(1, "<unknown>");
    };
    let optional = |page: &mut Page, source: &Value| page.field(2, "Optional", source["optional"] == true);
    match kind.as_str() {
        "hostPath" => {
            page.field(2, "Type", "HostPath (bare host directory volume)");
            page.field(2, "Path", shown(&source["path"]));
            page.field(2, "HostPathType", shown(&source["type"]));
        }
        "emptyDir" => {
            page.field(2, "Type", "EmptyDir (a temporary directory that shares a pod's lifetime)");
            page.field(2, "Medium", shown(&source["medium"]));
            let limit = shown(&source["sizeLimit"]);
            page.field(2, "SizeLimit", if limit.is_empty() { "<unset>" } else { &limit });
        }
        "secret" => {
            page.field(2, "Type", "Secret (a volume populated by a Secret)");
            page.field(2, "SecretName", shown(&source["secretName"]));
            optional(page, source);
        }
        "configMap" => {
            page.field(2, "Type", "ConfigMap (a volume populated by a ConfigMap)");
            page.field(2, "Name", shown(&source["name"]));
            optional(page, source);
        }
        "persistentVolumeClaim" => {
            let kind = "PersistentVolumeClaim (a reference to a PersistentVolumeClaim in the same namespace)";
            page.field(2, "Type", kind);
            page.field(2, "ClaimName", shown(&source["claimName"]));
            page.field(2, "ReadOnly", source["readOnly"] == true);
        }
        "downwardAPI" => {
            page.field(2, "Type", "DownwardAPI (a volume populated by information about the pod)");
            page.line(2, "Items:");
            for item in array(&source["items"]) {
                let from = [&item["fieldRef"]["fieldPath"], &item["resourceFieldRef"]["resource"]];
                let from = from.into_iter().map(shown).find(|text| !text.is_empty()).unwrap_or_default();
                page.line(3, &format!("{from} -> {}", shown(&item["path"])));
            }
        }
        "projected" => projected(page, source),
        other => {
            page.field(2, "Type", other);
            for (key, value) in
                source.as_object().into_iter().flatten().filter(|(_, value)| !value.is_object())
            {
                page.field(2, key, or_none(&shown(value)));
            }
        }
    }
}

fn projected(page: &mut Page, source: &Value) {
    page.field(2, "Type", "Projected (a volume that contains injected data from multiple sources)");
    for part in array(&source["sources"]) {
        for (field, title) in [("secret", "SecretName"), ("configMap", "ConfigMapName")] {
            if part[field].is_object() {
                page.field(2, title, shown(&part[field]["name"]));
                page.field(2, "Optional", part[field]["optional"] == true);
            }
        }
        if part["downwardAPI"].is_object() {
            page.field(2, "DownwardAPI", true);
        }
        if part["serviceAccountToken"].is_object() {
            page.field(2, "TokenExpirationSeconds", shown(&part["serviceAccountToken"]["expirationSeconds"]));
        }
    }
}
