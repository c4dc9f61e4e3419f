//! Putting a pod on a node (v1 Binding).

use super::super::commit::Held;
use super::super::{Context, Place, Registry, decoded, set_condition, store_refusal, update};
use super::{conflict, success};
use api::status::Refusal;
use api::validate::{Error, Path, aggregate};
use serde_json::{Value, json};
use store::WriteError;

/// How often a binding is tried again when somebody else wrote to the pod.
const ATTEMPTS: usize = 64;

impl Registry {
    /// Puts a pod on a node.
    pub(crate) async fn bind(
        &self,
        place: Place<'_>,
        binding: &Value,
        context: &Context,
    ) -> Result<(u16, Value), Refusal> {
        check(place.name, binding)?;
        if place.name.is_empty() {
            return Err(Refusal::bad_request("Name parameter required."));
        }
        let mut binding = binding.clone();
        self.admit_posted(place, "binding", &mut binding, context).await?;
        for _ in 0..ATTEMPTS {
            let record = self.find(place.kind, place.namespace, place.name)?;
            let pod = bound(place, decoded(&record)?, &binding)?;
            if context.dry_run {
                return Ok((201, success()));
            }
            match self.put(place, &record, pod, Held::default()).await {
                Ok(_) => return Ok((201, success())),
                Err(WriteError::Conflict(_)) => {}
                Err(error) => return Err(store_refusal(&error)),
            }
        }
        Err(Refusal::stale(place.kind, place.name))
    }
}

fn check(name: &str, binding: &Value) -> Result<(), Refusal> {
    if binding["metadata"]["name"].as_str().unwrap_or_default() != name {
        return Err(Refusal::bad_request("name in URL does not match name in Binding object"));
    }
    let (target, path) = (&binding["target"], Path::new("target"));
    let kind = target["kind"].as_str().unwrap_or_default();
    let mut errors = Vec::new();
    if !matches!(kind, "" | "Node") {
        errors.push(Error::not_supported(&path.child("kind"), kind, &["Node", "<empty>"]));
    }
    if target["name"].as_str().unwrap_or_default().is_empty() {
        errors.push(Error::required(&path.child("name"), ""));
    }
    // Kubernetes hands these on as they are, which makes them an error of the server.
    if errors.is_empty() { Ok(()) } else { Err(Refusal::new(500, "", aggregate(&errors))) }
}

/// The pod with its node.
fn bound(place: Place<'_>, mut pod: Value, binding: &Value) -> Result<Value, Refusal> {
    let name = place.name;
    preconditions(place, &pod, &binding["metadata"])?;
    let refused = |why: String| Err(conflict("pods/binding", "", name, &why));
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        return refused(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let present = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if !present.is_empty() {
        return refused(format!("pod {name} is already assigned to node {present:?}"));
    }
    if pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
        return refused(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    pod["spec"]["nodeName"] = binding["target"]["name"].clone();
    pod["status"].as_object_mut().and_then(|status| status.remove("nominatedNodeName"));
    for field in ["annotations", "labels"] {
        for (key, value) in binding["metadata"][field].as_object().into_iter().flatten() {
            if !pod["metadata"][field].is_object() {
                pod["metadata"][field] = json!({});
            }
            pod["metadata"][field][key] = value.clone();
        }
    }
    set_condition(&mut pod, json!({"type": "PodScheduled", "status": "True"}));
    Ok(pod)
}

/// The pod is the one that the binding was decided for.
fn preconditions(place: Place<'_>, pod: &Value, wanted: &Value) -> Result<(), Refusal> {
    for (field, what) in [("uid", "UID"), ("resourceVersion", "ResourceVersion")] {
        let stated = wanted[field].as_str().unwrap_or_default();
        let own = pod["metadata"][field].as_str().unwrap_or_default();
        if !stated.is_empty() && stated != own {
            return Err(update::precondition_failed(place, what, stated, own));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::kinds::by_kind;

    fn told(pod: &Value, meta: &Value) -> String {
        let place = Place { kind: by_kind("v1", "Pod").unwrap(), namespace: "web", name: "p" };
        let binding = json!({"metadata": meta, "target": {"name": "n"}});
        bound(place, pod.clone(), &binding)
            .map_or_else(|refusal| refusal.message, |pod| pod["spec"]["nodeName"].to_string())
    }

    #[test]
    fn pods_are_bound_once_and_only_as_they_were_seen() {
        let mut pod =
            json!({"metadata": {"name": "p", "uid": "u", "resourceVersion": "7"}, "spec": {}, "status": {}});
        assert_eq!(told(&pod, &json!({"uid": "u"})), "\"n\"");
        assert_eq!(
            told(&pod, &json!({"uid": "x"})),
            "Operation cannot be fulfilled on pods \"p\": StorageError: invalid object, Code: 4, Key: /registry/pods/web/p, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: x, UID in object meta: u"
        );
        pod["spec"]["nodeName"] = json!("a");
        assert_eq!(
            told(&pod, &json!({})),
            "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"a\""
        );
    }
}
