//! Subresources that are no part of the object's own form: scale here, the others in a file each.

mod binding;
mod eviction;
mod token;

use super::admission::{self, Operation, Request};
use super::{Change, Context, Outcome, Part, Place, Registry, decoded};
use api::kinds::Kind;
use api::selector::Labels;
use api::status::Refusal;
use api::validate::{Error, Path};
use serde_json::{Value, json};
use std::cell::RefCell;

/// The answer of a subresource: an object as stored, or one made up for the answer.
#[derive(Debug)]
pub(crate) enum Reply {
    Stored(Outcome),
    Made(u16, Value),
}

impl Registry {
    /// Reads the scale of an object (autoscaling/v1 Scale).
    pub(crate) fn scale(&self, kind: &Kind, namespace: &str, name: &str) -> Result<Value, Refusal> {
        Ok(scale_of(&decoded(&*self.find(kind, namespace, name)?)?))
    }

    /// Changes the number of replicas through the scale of an object.
    pub(crate) async fn rescale(
        &self,
        place: Place<'_>,
        change: &Change,
        context: &Context,
    ) -> Result<Value, Refusal> {
        let Place { kind, namespace, name } = place;
        let record = self.find(kind, namespace, name)?;
        let scale = scale_of(&decoded(&record)?);
        if let Change::Apply(config) = change {
            let config = applied_scale(kind, config)?;
            let outcome = self.change(place, &Change::Apply(config), Part::Main, context).await?;
            return serde_json::from_slice(&outcome.object)
                .map(|object| scale_of(&object))
                .map_err(Refusal::internal);
        }
        let wanted = change.apply(&scale, kind)?;
        let replicas = wanted["spec"]["replicas"].as_i64().unwrap_or(0);
        if replicas < 0 {
            let error = Error::invalid(
                &Path::new("spec").child("replicas"),
                replicas,
                "must be greater than or equal to 0",
            );
            let mut refusal = Refusal::invalid(kind, name, std::slice::from_ref(&error));
            refusal.message = format!("Scale.autoscaling {name:?} is invalid: {error}");
            refusal.details["group"] = json!("autoscaling");
            refusal.details["kind"] = json!("Scale");
            return Err(refusal);
        }
        let mut patch = json!({"spec": {"replicas": replicas}});
        let seen = wanted["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        if matches!(change, Change::Replace(_)) && !seen.is_empty() {
            patch["metadata"] = json!({"resourceVersion": seen});
        }
        let outcome = self.change(place, &Change::Merge(patch), Part::Main, context).await?;
        let object = serde_json::from_slice(&outcome.object).map_err(Refusal::internal)?;
        Ok(scale_of(&object))
    }

    /// Admits what is posted to a subresource, as an object of its own; returns what to warn of.
    fn admit_posted(
        &self,
        Place { kind, namespace, name }: Place<'_>,
        subresource: &str,
        object: &mut Value,
        context: &Context,
    ) -> Result<Vec<String>, Refusal> {
        let (view, none) = (self.view(), Value::Null);
        let request = Request {
            kind,
            subresource,
            operation: Operation::Create,
            namespace,
            name,
            old: &none,
            user: &context.user,
            view: &view,
            warnings: RefCell::default(),
        };
        admission::admit(&request, object)?;
        admission::validate(&request, object)?;
        Ok(request.warnings.into_inner())
    }
}

/// 409 about something that is named otherwise than a kind's resource.
fn conflict(what: &str, group: &str, name: &str, why: &str) -> Refusal {
    let qualified = if group.is_empty() { what.to_owned() } else { format!("{what}.{group}") };
    let message = format!("Operation cannot be fulfilled on {qualified} {name:?}: {why}");
    let mut refusal = Refusal::new(409, "Conflict", message);
    refusal.details = json!({"name": name, "kind": what});
    if !group.is_empty() {
        refusal.details["group"] = Value::from(group);
    }
    refusal
}

fn success() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})
}

/// Sets one condition of a pod's status to true; it keeps its place and, if nothing changes, its time.
fn set_condition(pod: &mut Value, kind: &str, more: &Value) {
    let mut condition = json!({"type": kind, "status": "True", "lastTransitionTime": super::timestamp()});
    for (field, value) in more.as_object().into_iter().flatten() {
        condition[field] = value.clone();
    }
    let mut conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    match conditions.iter_mut().find(|own| own["type"] == kind) {
        Some(own) => {
            if own["status"] == "True" {
                condition["lastTransitionTime"] = own["lastTransitionTime"].clone();
            }
            *own = condition;
        }
        None => conditions.push(condition),
    }
    pod["status"]["conditions"] = Value::Array(conditions);
}

/// An applied scale as a configuration of the object itself.
fn applied_scale(kind: &Kind, config: &Value) -> Result<Value, Refusal> {
    if config["apiVersion"] != "autoscaling/v1" || config["kind"] != "Scale" {
        return Err(Refusal::bad_request(format!(
            "invalid object type: {}",
            super::apply::stated_kind(config)
        )));
    }
    let mut own =
        json!({"apiVersion": kind.api_version(), "kind": kind.kind, "metadata": config["metadata"]});
    if !config["spec"]["replicas"].is_null() {
        own["spec"] = json!({"replicas": config["spec"]["replicas"]});
    }
    Ok(own)
}

/// The scale of an object.
fn scale_of(object: &Value) -> Value {
    let meta = &object["metadata"];
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        metadata[field] = meta[field].clone();
    }
    let selector = &object["spec"]["selector"];
    let labels = if selector.get("matchLabels").is_some() || selector.get("matchExpressions").is_some() {
        serde_json::from_value(selector.clone()).map(|selector| Labels::of(Some(&selector)))
    } else {
        serde_json::from_value(selector.clone()).map(|map| Labels::of_map(&map))
    };
    let replicas = object["spec"]["replicas"].as_i64().filter(|replicas| *replicas != 0);
    json!({
        "apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": metadata,
        "spec": replicas.map_or(json!({}), |replicas| json!({"replicas": replicas})),
        "status": {
            "replicas": object["status"]["replicas"].as_i64().unwrap_or(0),
            "selector": labels.unwrap_or_default().to_string(),
        },
    })
}
