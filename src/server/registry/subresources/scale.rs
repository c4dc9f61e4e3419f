//! `scale`: the number of replicas of an object, wherever its kind keeps that.

use super::super::apply::stated_kind;
use super::super::{Change, Context, Part, Place, Registry, decoded};
use crate::catalogue::Custom;
use api::custom::Scale;
use api::kinds::Kind;
use api::selector::Labels;
use api::status::Refusal;
use api::validate::{Error, Path};
use serde_json::{Value, json};

impl Registry {
    /// Reads the scale of an object (autoscaling/v1 Scale).
    pub(crate) async fn scale(&self, kind: &Kind, namespace: &str, name: &str) -> Result<Value, Refusal> {
        let custom = self.custom(kind)?;
        let paths = custom.as_ref().and_then(Custom::scale);
        let object = decoded(&*self.get(kind, namespace, name).await?)?;
        if let Some(paths) = paths.filter(|paths| at(&object, &paths.spec_replicas).is_null()) {
            let why = format!("the spec replicas field {:?} does not exist", paths.spec_replicas);
            return Err(Refusal::internal(why));
        }
        Ok(scale_of(&object, paths))
    }

    /// Changes the number of replicas through the scale of an object.
    pub(crate) async fn rescale(
        &self,
        place: Place<'_>,
        change: &Change,
        context: &Context,
    ) -> Result<Value, Refusal> {
        let Place { kind, namespace, name } = place;
        let custom = self.custom(kind)?;
        let paths = custom.as_ref().and_then(Custom::scale);
        let scale = scale_of(&decoded(&*self.get(kind, namespace, name).await?)?, paths);
        let change = match change {
            Change::Apply(config) => Change::Apply(applied(kind, config, paths)?),
            change => changed(place, change, &scale, paths)?,
        };
        let outcome = self.change(place, &change, Part::Main, context).await?;
        let object = serde_json::from_slice(&outcome.object).map_err(Refusal::internal)?;
        Ok(scale_of(&object, paths))
    }
}

/// The change of an object that a change of its scale asks for.
fn changed(
    place: Place<'_>,
    change: &Change,
    scale: &Value,
    paths: Option<&Scale>,
) -> Result<Change, Refusal> {
    let Place { kind, name, .. } = place;
    let wanted = change.apply(scale, kind)?;
    let replicas = wanted["spec"]["replicas"].as_i64().unwrap_or(0);
    if replicas < 0 {
        let path = Path::new("spec").child("replicas");
        let error = Error::invalid(&path, replicas, "must be greater than or equal to 0");
        let mut refusal = Refusal::invalid(kind, name, std::slice::from_ref(&error));
        refusal.message = format!("Scale.autoscaling {name:?} is invalid: {error}");
        refusal.details["group"] = json!("autoscaling");
        refusal.details["kind"] = json!("Scale");
        return Err(refusal);
    }
    let mut patch = json!({});
    set_replicas(&mut patch, paths, json!(replicas));
    let seen = wanted["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    if matches!(change, Change::Replace(_)) && !seen.is_empty() {
        patch["metadata"] = json!({"resourceVersion": seen});
    }
    Ok(Change::Merge(patch))
}

/// An applied scale as a configuration of the object itself.
fn applied(kind: &Kind, config: &Value, paths: Option<&Scale>) -> Result<Value, Refusal> {
    if config["apiVersion"] != "autoscaling/v1" || config["kind"] != "Scale" {
        return Err(Refusal::bad_request(format!("invalid object type: {}", stated_kind(config))));
    }
    let mut own =
        json!({"apiVersion": kind.api_version(), "kind": kind.kind, "metadata": config["metadata"]});
    if !config["spec"]["replicas"].is_null() {
        set_replicas(&mut own, paths, config["spec"]["replicas"].clone());
    }
    Ok(own)
}

fn spec_path(paths: Option<&Scale>) -> &str {
    paths.map_or(".spec.replicas", |paths| &paths.spec_replicas)
}

/// The value at a dotted path.
fn at<'v>(object: &'v Value, path: &str) -> &'v Value {
    path.trim_start_matches('.').split('.').fold(object, |value, field| &value[field])
}

/// Sets the wanted number of replicas.
pub(crate) fn set_replicas(object: &mut Value, paths: Option<&Scale>, replicas: Value) {
    set(object, spec_path(paths), replicas);
}

fn set(object: &mut Value, path: &str, value: Value) {
    *path.trim_start_matches('.').split('.').fold(object, |value, field| &mut value[field]) = value;
}

/// The scale of an object; `paths` are where a custom kind keeps it.
pub(crate) fn scale_of(object: &Value, paths: Option<&Scale>) -> Value {
    let meta = &object["metadata"];
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        metadata[field] = meta[field].clone();
    }
    let count = |path: &str| at(object, path).as_i64().unwrap_or(0);
    let replicas = Some(count(spec_path(paths))).filter(|replicas| *replicas != 0);
    let mut status = json!({
        "replicas": count(paths.map_or(".status.replicas", |paths| &paths.status_replicas)),
    });
    let selector = match paths {
        None => selector_of(&object["spec"]["selector"]),
        Some(paths) => {
            let text = paths.label_selector.as_deref().map(|path| at(object, path));
            text.and_then(Value::as_str).unwrap_or_default().to_owned()
        }
    };
    if paths.is_none() || !selector.is_empty() {
        status["selector"] = Value::from(selector);
    }
    json!({
        "apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": metadata,
        "spec": replicas.map_or(json!({}), |replicas| json!({"replicas": replicas})),
        "status": status,
    })
}

/// A selector as text.
fn selector_of(selector: &Value) -> String {
    let labels = if selector.get("matchLabels").is_some() || selector.get("matchExpressions").is_some() {
        serde_json::from_value(selector.clone()).map(|selector| Labels::of(Some(&selector)))
    } else {
        serde_json::from_value(selector.clone()).map(|map| Labels::of_map(&map))
    };
    labels.unwrap_or_default().to_string()
}
