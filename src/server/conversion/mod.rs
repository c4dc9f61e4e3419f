//! Versions of a kind: objects are stored in one form, and read and written in several.
//!
//! Most versions differ in their name alone; for the others the table has a function each way.

mod autoscaling;
mod devices;
mod events;

use api::kinds::Kind;
use api::schema::{canonical, schema};
use bytes::Bytes;
use serde_json::{Map, Value, json};

/// Group and version, the kind, and how its objects are made stored ones and the reverse.
type Row = (&'static str, &'static str, fn(&mut Value), fn(&mut Value));

const CONVERSIONS: &[Row] = &[
    ("events.k8s.io/v1", "Event", events::stored, events::shown),
    ("autoscaling/v1", "HorizontalPodAutoscaler", autoscaling::stored, autoscaling::shown),
    (
        "resource.k8s.io/v1beta1",
        "ResourceClaim",
        |claim| devices::requests(claim, "/spec/devices", devices::nest),
        |claim| devices::requests(claim, "/spec/devices", devices::flatten),
    ),
    (
        "resource.k8s.io/v1beta1",
        "ResourceClaimTemplate",
        |template| devices::requests(template, "/spec/spec/devices", devices::nest),
        |template| devices::requests(template, "/spec/spec/devices", devices::flatten),
    ),
    ("resource.k8s.io/v1beta1", "ResourceSlice", devices::slice_stored, devices::slice_shown),
];

fn row(api_version: &str, kind: &Kind) -> Option<&'static Row> {
    CONVERSIONS.iter().find(|(version, name, _, _)| *version == api_version && *name == kind.kind)
}

fn converted(mut object: Value, to: &Kind, by: Option<fn(&mut Value)>) -> Value {
    if let Some(convert) = by {
        convert(&mut object);
    }
    object["apiVersion"] = Value::from(to.api_version());
    if let Some(ty) = schema().of(to).filter(|_| by.is_some()) {
        canonical(&mut object, ty);
    }
    object
}

/// An object as it is stored, from one of a kind.
pub(crate) fn stored(kind: &Kind, object: Value) -> Value {
    match kind.stored_as() {
        None => object,
        Some(hub) => converted(object, hub, row(&kind.api_version(), kind).map(|row| row.2)),
    }
}

/// A stored object as one of a kind.
pub(crate) fn shown(kind: &Kind, object: Value) -> Value {
    match kind.stored_as() {
        None => object,
        Some(_) => converted(object, kind, row(&kind.api_version(), kind).map(|row| row.3)),
    }
}

/// The bytes of a stored object as those of one of a kind.
pub(crate) fn shown_bytes(kind: &Kind, bytes: &Bytes) -> Bytes {
    if kind.stored_as().is_none() {
        return bytes.clone();
    }
    match serde_json::from_slice(bytes) {
        Ok(object) => shown(kind, object).to_string().into(),
        Err(_) => bytes.clone(),
    }
}

/// The stored name of a field that a selector of a kind names, where it is another.
pub(crate) fn stored_field(kind: &Kind, field: &str) -> Option<&'static str> {
    kind.stored_as().and_then(|_| events::stored_field(field))
}

/// Moves what is at one path to another, paths being fields with dots between them.
fn carry(from: &Value, path: &str, to: &mut Value, target: &str) {
    let value = path.split('.').fold(from, |value, field| &value[field]);
    if !value.is_null() {
        *target.split('.').fold(to, |place, field| &mut place[field]) = value.clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::kinds::by_kind;

    fn there_and_back(form: &Value, hub: &Value) {
        let name = form["kind"].as_str().unwrap();
        let kind = by_kind(form["apiVersion"].as_str().unwrap(), name).unwrap();
        assert_eq!(&stored(kind, form.clone()), hub);
        assert_eq!(&shown(kind, hub.clone()), form);
    }

    #[test]
    fn versions_that_differ_in_name_alone() {
        there_and_back(
            &json!({"apiVersion": "networking.k8s.io/v1beta1", "kind": "ServiceCIDR", "spec": {"cidrs": []}}),
            &json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "spec": {"cidrs": []}}),
        );
    }

    #[test]
    fn events_have_other_names_in_their_own_group() {
        there_and_back(
            &json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"}, "note": "n", "reason": "R",
                "regarding": {"kind": "Pod"}, "reportingController": "c", "reportingInstance": "i", "eventTime": null,
                "deprecatedSource": {"component": "k"}, "deprecatedCount": 2,
                "deprecatedFirstTimestamp": null, "deprecatedLastTimestamp": "2026-01-01T00:00:00Z"}),
            &json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "message": "n", "reason": "R",
                "involvedObject": {"kind": "Pod"}, "reportingComponent": "c", "reportingInstance": "i", "eventTime": null,
                "source": {"component": "k"}, "count": 2, "firstTimestamp": null, "lastTimestamp": "2026-01-01T00:00:00Z"}),
        );
    }

    #[test]
    fn autoscalers_keep_what_their_first_version_cannot_say_in_annotations() {
        let hub = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "h"},
            "spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "d"}, "metrics": [
                {"type": "Pods", "pods": {"metric": {"name": "m"}, "target": {"type": "AverageValue", "averageValue": "5"}}},
                {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}}]},
            "status": {"currentMetrics": null, "desiredReplicas": 1}});
        let kind = by_kind("autoscaling/v1", "HorizontalPodAutoscaler").unwrap();
        let form = shown(kind, hub.clone());
        assert_eq!(form["spec"]["targetCPUUtilizationPercentage"], 70);
        assert_eq!(
            form["metadata"]["annotations"]["autoscaling.alpha.kubernetes.io/metrics"],
            r#"[{"pods":{"metricName":"m","targetAverageValue":"5"},"type":"Pods"}]"#
        );
        assert_eq!(stored(kind, form)["spec"], hub["spec"]);
    }

    #[test]
    fn devices_of_the_first_beta_are_flat() {
        let (mut claim, nested) = (
            json!({"spec": {"devices": {"requests": [{"name": "r", "deviceClassName": "c", "count": 2}, {"name": "s", "firstAvailable": []}]}}}),
            json!({"spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "c", "count": 2}}, {"name": "s", "firstAvailable": []}]}}}),
        );
        let flat = claim.clone();
        devices::requests(&mut claim, "/spec/devices", devices::nest);
        assert_eq!(claim, nested);
        devices::requests(&mut claim, "/spec/devices", devices::flatten);
        assert_eq!(claim, flat);
    }
}
