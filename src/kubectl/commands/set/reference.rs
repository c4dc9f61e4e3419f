//! What an environment variable refers to (`valueFrom`): how that is shown, and what it is.

use crate::error::Error;
use crate::session::Session;
use api::quantity::{Amount, parse};
use base64::Engine;
use serde_json::Value;
use std::collections::BTreeMap;

/// As `kubectl set env --list` shows it.
pub(super) fn shown(from: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    for (field, kind) in [("configMapKeyRef", "configmap"), ("secretKeyRef", "secret")] {
        if let Some(source) = from.get(field) {
            return format!("{kind} {}, key {}", text(&source["name"]), text(&source["key"]));
        }
    }
    if let Some(source) = from.get("fieldRef") {
        return format!("field path {}", text(&source["fieldPath"]));
    }
    if let Some(source) = from.get("resourceFieldRef") {
        let container = match text(&source["containerName"]) {
            name if name.is_empty() => name,
            name => format!("{name}/"),
        };
        return format!("resource field {container}{}", text(&source["resource"]));
    }
    "invalid valueFrom".to_owned()
}

/// Secrets and ConfigMaps that were read already.
pub(super) struct Sources<'a> {
    session: &'a Session,
    read: BTreeMap<String, Value>,
}

impl<'a> Sources<'a> {
    pub(super) fn new(session: &'a Session) -> Self {
        Self { session, read: BTreeMap::new() }
    }

    /// The value that a container of an object gets.
    pub(super) async fn value(
        &mut self,
        from: &Value,
        object: &Value,
        container: &Value,
    ) -> Result<String, Error> {
        if let Some(source) = from.get("secretKeyRef") {
            let encoded = self.key("secrets", "secret", source).await?;
            let bytes = base64::engine::general_purpose::STANDARD.decode(encoded);
            let bytes =
                bytes.map_err(|error| Error::plain(format!("a secret's value is no base64: {error}")))?;
            return Ok(String::from_utf8_lossy(&bytes).into_owned());
        }
        if let Some(source) = from.get("configMapKeyRef") {
            return self.key("configmaps", "config map", source).await;
        }
        if let Some(source) = from.get("fieldRef") {
            return field(object, source["fieldPath"].as_str().unwrap_or_default());
        }
        match from.get("resourceFieldRef") {
            Some(source) => amount(source, container),
            None => Err(Error::plain("invalid valueFrom")),
        }
    }

    async fn key(&mut self, plural: &str, kind: &str, source: &Value) -> Result<String, Error> {
        let text = |field: &str| source[field].as_str().unwrap_or_default();
        let (name, key) = (text("name"), text("key"));
        let path = format!("/api/v1/namespaces/{}/{plural}/{name}", self.session.namespace);
        if !self.read.contains_key(&path) {
            let object = self.session.get(&path).await?;
            self.read.insert(path.clone(), object);
        }
        let value = self.read.get(&path).and_then(|object| object["data"][key].as_str());
        value.map(str::to_owned).ok_or_else(|| Error::plain(format!("key {key} not found in {kind} {name}")))
    }
}

/// A field of an object's metadata, by its path.
fn field(object: &Value, path: &str) -> Result<String, Error> {
    let metadata = &object["metadata"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if let Some((place, key)) = path.strip_suffix("']").and_then(|path| path.split_once("['")) {
        return match place {
            "metadata.annotations" | "metadata.labels" => {
                Ok(text(&metadata[place.trim_start_matches("metadata.")][key]))
            }
            _ => Err(Error::plain(format!("fieldPath {path:?} does not support subscript"))),
        };
    }
    match path {
        "metadata.annotations" | "metadata.labels" => {
            let map = metadata[path.trim_start_matches("metadata.")].as_object().into_iter().flatten();
            let lines: Vec<String> = map.map(|(key, value)| format!("{key}={:?}", text(value))).collect();
            Ok(lines.join("\n"))
        }
        "metadata.name" | "metadata.namespace" | "metadata.uid" => {
            Ok(text(&metadata[path.trim_start_matches("metadata.")]))
        }
        _ => Err(Error::plain(format!("unsupported fieldPath: {path}"))),
    }
}

/// An amount of a container's resources in units of the divisor, rounded up.
fn amount(source: &Value, container: &Value) -> Result<String, Error> {
    let resource = source["resource"].as_str().unwrap_or_default();
    let unknown = || Error::plain(format!("Unsupported container resource : {resource}"));
    let (part, name) = resource.split_once('.').ok_or_else(unknown)?;
    let known = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    if !known || !matches!(part, "limits" | "requests") {
        return Err(unknown());
    }
    let read = |value: &Value, default: &str| -> Result<Amount, Error> {
        parse(value.as_str().unwrap_or(default)).map_err(|error| Error::plain(error.to_string()))
    };
    let value = read(&container["resources"][part][name], "0")?;
    let divisor = match read(&source["divisor"], "1")? {
        zero if zero.to_milli() == 0 => Amount::units(1),
        divisor => divisor,
    };
    let (value, divisor) = match name {
        "cpu" => (value.to_milli(), divisor.to_milli()),
        _ => (value.to_units(), divisor.to_units().max(1)),
    };
    Ok((value + divisor - 1).div_euclid(divisor).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_and_amounts_are_read_of_the_object() {
        let object = json!({"metadata": {"name": "web", "labels": {"a": "b", "c": "d"}}});
        assert_eq!(field(&object, "metadata.name").unwrap(), "web");
        assert_eq!(field(&object, "metadata.labels['c']").unwrap(), "d");
        assert_eq!(field(&object, "metadata.labels").unwrap(), "a=\"b\"\nc=\"d\"");
        assert_eq!(
            field(&object, "status.podIP").unwrap_err().to_string(),
            "error: unsupported fieldPath: status.podIP"
        );
        let container = json!({"resources": {"limits": {"cpu": "1500m", "memory": "3Mi"}}});
        let read = |resource: &str, divisor: &str| {
            amount(&json!({"resource": resource, "divisor": divisor}), &container).unwrap()
        };
        assert_eq!(
            (read("limits.cpu", "0"), read("limits.cpu", "1m"), read("limits.memory", "1Mi")),
            ("2".into(), "1500".into(), "3".into())
        );
        assert_eq!(read("requests.cpu", "1"), "0");
        assert!(amount(&json!({"resource": "limits.gpu"}), &container).is_err());
    }
}
