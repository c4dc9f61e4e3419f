//! Autoscaling of a kind that somebody defined, by metrics that somebody serves.

use super::Sample;
use crate::support::cluster::SOON;
use crate::support::definition::DEFINITIONS;
use crate::support::https::MERGE;
use crate::support::process::wait_for;
use serde_json::{Value, json};

const EXTERNAL: &str = "external.metrics.k8s.io";
const ROOT: &str = "/apis/external.metrics.k8s.io/v1beta1";
const VALUE: &str = "/apis/external.metrics.k8s.io/v1beta1/namespaces/default/parcels";
const CRANES: &str = "/apis/port.example.com/v1/namespaces/default/cranes";
const AUTOSCALERS: &str = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";

/// Cranes, of which there can be several.
fn definition() -> Value {
    let count = json!({"type": "object", "properties": {
        "count": {"type": "integer"}, "selector": {"type": "string"}}});
    let schema = json!({"type": "object", "properties": {"spec": count, "status": count}});
    let scale = json!({"specReplicasPath": ".spec.count", "statusReplicasPath": ".status.count",
        "labelSelectorPath": ".status.selector"});
    json!({"metadata": {"name": "cranes.port.example.com"}, "spec": {"group": "port.example.com",
        "scope": "Namespaced", "names": {"plural": "cranes", "kind": "Crane"},
        "versions": [{"name": "v1", "served": true, "storage": true,
            "subresources": {"status": {}, "scale": scale}, "schema": {"openAPIV3Schema": schema}}]}})
}

/// Scales cranes by parcels, of which each is to have ten.
fn autoscaler(name: &str, crane: &str) -> Value {
    let target = json!({"type": "AverageValue", "averageValue": "10"});
    json!({"metadata": {"name": name}, "spec": {"minReplicas": 1, "maxReplicas": 9,
        "scaleTargetRef": {"apiVersion": "port.example.com/v1", "kind": "Crane", "name": crane},
        "metrics": [{"type": "External", "external": {"metric": {"name": "parcels"}, "target": target}}]}})
}

impl Sample {
    fn parcels(&self, count: i32) {
        let item = json!({"metricName": "parcels", "metricLabels": {}, "timestamp": "2026-01-01T00:00:00Z",
            "value": count.to_string()});
        let list = json!({"kind": "ExternalMetricValueList", "apiVersion": "external.metrics.k8s.io/v1beta1",
            "metadata": {}, "items": [item]});
        let resources = json!({"kind": "APIResourceList", "groupVersion": "external.metrics.k8s.io/v1beta1",
            "resources": []});
        let mut answers = self.extension.answers.lock().unwrap();
        answers.insert(VALUE.to_owned(), list);
        answers.insert(ROOT.to_owned(), resources);
    }

    /// Waits until a condition of an autoscaler has a reason, and gives its message.
    #[track_caller]
    fn said(&self, name: &str, what: &str, reason: &str) -> String {
        wait_for(&format!("{reason} of {name}"), SOON, || {
            let (_, own) = self.https.call("GET", &format!("{AUTOSCALERS}/{name}"));
            let conditions = own["status"]["conditions"].as_array()?.clone();
            let own = conditions.into_iter().find(|own| own["type"] == what && own["reason"] == reason)?;
            Some(own["message"].as_str().unwrap().to_owned())
        })
    }
}

#[test]
fn custom_kinds_are_scaled_by_metrics_of_others() {
    let sample = Sample::new();
    sample.parcels(50);
    let _serving = sample.is_served();
    sample.made(DEFINITIONS, &definition());
    wait_for("cranes to be served", SOON, || (sample.https.call("GET", CRANES).0 == 200).then_some(()));
    sample.made(
        CRANES,
        &json!({"apiVersion": "port.example.com/v1", "kind": "Crane",
        "metadata": {"name": "north"}, "spec": {"count": 2}}),
    );
    sample.made(AUTOSCALERS, &autoscaler("north", "north"));
    let missing = sample.said("north", "ScalingActive", "InvalidSelector");
    assert_eq!(missing, "the HPA target's scale is missing a selector");
    sample.made(AUTOSCALERS, &autoscaler("nobody", "nobody"));
    let message = sample.said("nobody", "AbleToScale", "FailedGetScale");
    let unable = "the HPA controller was unable to get the target's current scale: ";
    assert_eq!(message, format!("{unable}cranes.port.example.com \"nobody\" not found"));

    let status = json!({"status": {"count": 2, "selector": "app=crane"}});
    let (code, crane) = sample.https.send("PATCH", &format!("{CRANES}/north/status"), MERGE, &status);
    assert_eq!(code, 200, "{crane}");
    // The metrics are served by nobody yet; what changes lets the autoscaler look at once.
    let more = json!({"spec": {"maxReplicas": 8}});
    let patched = sample.https.send("PATCH", &format!("{AUTOSCALERS}/north"), MERGE, &more);
    assert_eq!(patched.0, 200, "{}", patched.1);
    let unserved = sample.said("north", "ScalingActive", "FailedGetExternalMetric");
    assert_eq!(
        unserved,
        "the HPA was unable to compute the replica count: failed to get parcels external metric: unable to get external metric default/parcels/nil: unable to fetch metrics from external metrics API: the server could not find the requested resource (get parcels.external.metrics.k8s.io)"
    );

    let name = format!("v1beta1.{EXTERNAL}");
    sample.register_as(&name, EXTERNAL);
    sample.becomes(&name, "Passed");
    let (_, own) = sample.https.call("GET", &format!("{AUTOSCALERS}/north"));
    assert_eq!(own["status"]["currentReplicas"], 2, "{own}");
    let more = json!({"spec": {"maxReplicas": 7}});
    assert_eq!(sample.https.send("PATCH", &format!("{AUTOSCALERS}/north"), MERGE, &more).0, 200);
    // Five are wanted; at once there are twice as many as before at most.
    let limited = sample.said("north", "ScalingLimited", "ScaleUpLimit");
    assert_eq!(limited, "the desired replica count is increasing faster than the maximum scale rate");
    wait_for("more cranes", SOON, || {
        let (_, crane) = sample.https.call("GET", &format!("{CRANES}/north"));
        (crane["spec"]["count"] == 4).then_some(())
    });
    let (_, own) = sample.https.call("GET", &format!("{AUTOSCALERS}/north"));
    let status = &own["status"];
    assert_eq!((&status["currentReplicas"], &status["desiredReplicas"]), (&json!(2), &json!(4)), "{own}");
    assert_eq!(status["currentMetrics"][0]["external"]["current"]["averageValue"], "25", "{own}");
    let active = sample.said("north", "ScalingActive", "ValidMetricFound");
    assert_eq!(
        active,
        "the HPA was able to successfully calculate a replica count from external metric parcels(nil)"
    );
    let printed = sample.cluster.kubectl("get hpa north --no-headers");
    let columns: Vec<&str> = printed.split_whitespace().collect();
    assert_eq!(columns[..6], ["north", "Crane/north", "25/10", "(avg)", "1", "7"], "{printed}");
    let events = sample
        .cluster
        .kubectl("get events --field-selector reason=SuccessfulRescale -o jsonpath={.items[*].message}");
    assert_eq!(events, "New size: 4; reason: external metric parcels(nil) above target");
}
