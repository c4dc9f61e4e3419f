//! Variables of containers, and where their values come from.

use super::page::Page;
use super::words::{amount, array, flag, names, or, shown};
use api::quantity::Amount;
use serde_json::Value;

/// The variables, with what those from the pod's own fields are; of a template there are none yet.
pub(super) fn write(page: &mut Page, container: &Value, pod: Option<&Value>) {
    let from = array(&container["envFrom"]);
    if !from.is_empty() {
        page.title(2, "Environment Variables from");
    }
    for source in from {
        let sources = [("ConfigMap", &source["configMapRef"]), ("Secret", &source["secretRef"])];
        let known = sources.into_iter().find(|(_, reference)| reference.is_object());
        let (kind, reference) = known.unwrap_or(("", &Value::Null));
        let prefix = match shown(&source["prefix"]) {
            prefix if prefix.is_empty() => prefix,
            prefix => format!(" with prefix '{prefix}'"),
        };
        let (name, optional) = (shown(&reference["name"]), flag(&reference["optional"]));
        page.line(3, format_args!("{name}\t{kind}{prefix}\tOptional: {optional}"));
    }
    let variables = array(&container["env"]);
    let none = if variables.is_empty() { "\t<none>" } else { "" };
    page.line(2, format_args!("Environment:{none}"));
    for variable in variables {
        let name = shown(&variable["name"]);
        if variable["valueFrom"].is_object() {
            page.field(3, &name, value_from(&variable["valueFrom"], container, pod));
            continue;
        }
        let value = shown(&variable["value"]);
        let mut lines = value.split('\n');
        page.field(3, &name, lines.next().unwrap_or_default());
        lines.for_each(|line| page.line(3, format_args!("\t{line}")));
    }
}

fn value_from(source: &Value, container: &Value, pod: Option<&Value>) -> String {
    let reference = |key: &Value, kind: &str| {
        let ([name, field], optional) = (names(key, ["name", "key"]), flag(&key["optional"]));
        format!("<set to the key '{field}' {kind} '{name}'>\tOptional: {optional}")
    };
    if source["fieldRef"].is_object() {
        let path = shown(&source["fieldRef"]["fieldPath"]);
        let value = pod.map(|pod| field(pod, &path)).unwrap_or_default();
        format!("{value} ({}:{path})", or(&source["fieldRef"]["apiVersion"], "v1"))
    } else if source["resourceFieldRef"].is_object() {
        let resource = shown(&source["resourceFieldRef"]["resource"]);
        let value = of_resources(&resource, &source["resourceFieldRef"]["divisor"], container);
        format!("{value} ({resource})")
    } else if source["secretKeyRef"].is_object() {
        reference(&source["secretKeyRef"], "in secret")
    } else if source["configMapKeyRef"].is_object() {
        reference(&source["configMapKeyRef"], "of config map")
    } else {
        // kubectl leaves these variables out.
        let file = &source["fileKeyRef"];
        let ([volume, path, key], optional) =
            (names(file, ["volumeName", "path", "key"]), flag(&file["optional"]));
        format!("<set to the key '{key}' of file '{path}' in volume '{volume}'>\tOptional: {optional}")
    }
}

/// A field of a pod's metadata; kubectl shows no others.
fn field(pod: &Value, path: &str) -> String {
    let metadata = &pod["metadata"];
    let map = |map: &Value| {
        let entries = map.as_object().into_iter().flatten();
        let lines = entries.map(|(key, value)| format!("{key}={:?}", shown(value)));
        lines.collect::<Vec<_>>().join("\n")
    };
    if let Some((map, key)) = path.strip_suffix("']").and_then(|path| path.split_once("['")) {
        return match map {
            "metadata.annotations" => shown(&metadata["annotations"][key]),
            "metadata.labels" => shown(&metadata["labels"][key]),
            _ => String::new(),
        };
    }
    match path {
        "metadata.annotations" => map(&metadata["annotations"]),
        "metadata.labels" => map(&metadata["labels"]),
        "metadata.name" | "metadata.namespace" | "metadata.uid" => {
            shown(&metadata[&path["metadata.".len()..]])
        }
        _ => String::new(),
    }
}

/// What `limits.cpu` and the like come to in units of a divisor, rounded up.
fn of_resources(path: &str, divisor: &Value, container: &Value) -> String {
    let Some((list, name)) = path.split_once('.') else { return String::new() };
    let is_known = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    if !is_known || !matches!(list, "limits" | "requests") {
        return String::new();
    }
    let given = amount(&container["resources"][list][name]);
    let divisor = match amount(divisor) {
        none if none == Amount::units(0) => Amount::units(1),
        divisor => divisor,
    };
    let (whole, part) = match name {
        "cpu" => (given.to_milli(), divisor.to_milli()),
        _ => (given.to_units(), divisor.to_units()),
    };
    match whole.div_euclid(part.max(1)) + i64::from(whole.rem_euclid(part.max(1)) != 0) {
        0 if matches!(path, "limits.cpu" | "limits.memory") => "node allocatable".to_owned(),
        count => count.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_of_fields() {
        let pod =
            json!({"metadata": {"name": "p", "labels": {"a": "b", "c": "\"d\""}}, "spec": {"nodeName": "n"}});
        assert_eq!(field(&pod, "metadata.name"), "p");
        assert_eq!(field(&pod, "metadata.labels['a']"), "b");
        assert_eq!(field(&pod, "metadata.labels"), "a=\"b\"\nc=\"\\\"d\\\"\"");
        assert_eq!(field(&pod, "spec.nodeName"), "");
    }

    #[test]
    fn values_of_resources_are_rounded_up() {
        let container = json!({"resources": {"limits": {"cpu": "1500m"}, "requests": {"memory": "3Mi"}}});
        let of = |path: &str, divisor: &str| of_resources(path, &json!(divisor), &container);
        assert_eq!(of("limits.cpu", "0"), "2");
        assert_eq!(of("limits.cpu", "1m"), "1500");
        assert_eq!(of("requests.memory", "2Mi"), "2");
        assert_eq!(of("limits.memory", "0"), "node allocatable");
        assert_eq!(of("requests.cpu", "0"), "0");
        assert_eq!(of("limits.nonsense", "0"), "");
    }
}
