//! Behaviours of admission policies: every verb on them and on their bindings, and what they do to Deployments.

use super::flow::lives;
use super::{DEPLOYMENTS, made};
use crate::support::https::{Https, JSON};
use serde_json::{Value, json};

const GROUP: &str = "admissionregistration.k8s.io";
const PATH: &str = "/apis/admissionregistration.k8s.io/v1";

/// A policy of a kind, for Deployments; `more` says what it does.
fn policy(kind: &str, more: Value) -> Value {
    let rule = json!({"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["deployments"]});
    let mut spec = json!({"matchConstraints": {"resourceRules": [rule]}});
    ::api::patch::merge(&mut spec, &more).unwrap();
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
        "metadata": {"name": "life", "labels": {"of": "life"}}, "spec": spec})
}

fn binding(kind: &str, more: Value) -> Value {
    let selected = json!({"matchLabels": {"kubernetes.io/metadata.name": "conformance"}});
    let mut spec = json!({"policyName": "life", "matchResources": {"namespaceSelector": selected}});
    ::api::patch::merge(&mut spec, &more).unwrap();
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
        "metadata": {"name": "life", "labels": {"of": "life"}}, "spec": spec})
}

fn validating(validations: Value) -> Value {
    policy("ValidatingAdmissionPolicy", validations)
}

fn mutating(expression: &str) -> Value {
    let mutation =
        json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}});
    policy("MutatingAdmissionPolicy", json!({"reinvocationPolicy": "Never", "mutations": [mutation]}))
}

pub(super) fn validating_policies(https: &Https) {
    let object = validating(json!({"validations": [{"expression": "object.spec.replicas <= 100"}]}));
    let condition = json!({"type": "Told", "status": "False", "reason": "Test", "message": "told",
        "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let plural = (GROUP, "validatingadmissionpolicies");
    lives(https, plural, &object, &json!({"failurePolicy": "Ignore"}), Some(condition));
}

pub(super) fn validating_bindings(https: &Https) {
    let object = binding("ValidatingAdmissionPolicyBinding", json!({"validationActions": ["Deny"]}));
    let plural = (GROUP, "validatingadmissionpolicybindings");
    lives(https, plural, &object, &json!({"validationActions": ["Warn"]}), None);
}

pub(super) fn mutating_policies(https: &Https) {
    let plural = (GROUP, "mutatingadmissionpolicies");
    lives(https, plural, &mutating("Object{}"), &json!({"failurePolicy": "Ignore"}), None);
}

pub(super) fn mutating_bindings(https: &Https) {
    let object = binding("MutatingAdmissionPolicyBinding", json!({}));
    let plural = (GROUP, "mutatingadmissionpolicybindings");
    lives(https, plural, &object, &json!({"policyName": "other"}), None);
}

/// What becomes of a Deployment while a policy is in force.
fn sent(https: &Https, (kind, policy): (&str, &Value), deployment: &Value) -> (u16, Value) {
    let (policies, bindings) =
        (format!("{PATH}/{kind}admissionpolicies"), format!("{PATH}/{kind}admissionpolicybindings"));
    made(https, &policies, policy);
    let bound = match kind {
        "validating" => binding("ValidatingAdmissionPolicyBinding", json!({"validationActions": ["Deny"]})),
        _ => binding("MutatingAdmissionPolicyBinding", json!({})),
    };
    made(https, &bindings, &bound);
    let answer = https.send("POST", DEPLOYMENTS, JSON, deployment);
    https.call("DELETE", &format!("{bindings}/life"));
    https.call("DELETE", &format!("{policies}/life"));
    https.call("DELETE", &format!("{DEPLOYMENTS}/judged"));
    answer
}

fn deployment(replicas: u32) -> Value {
    let labels = json!({"app": "judged"});
    json!({"metadata": {"name": "judged"}, "spec": {"replicas": replicas, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "knarr.test/none:1"}]}}}})
}

pub(super) fn deployments_are_validated(https: &Https) {
    let policy = validating(json!({"validations": [{"expression": "object.spec.replicas > 1",
        "messageExpression": "'wants more than one replica, got ' + string(object.spec.replicas)"}]}));
    assert_eq!(sent(https, ("validating", &policy), &deployment(2)).0, 201);
    let (code, status) = sent(https, ("validating", &policy), &deployment(1));
    let message = status["message"].as_str().unwrap();
    assert!(
        code == 422 && message.ends_with("denied request: wants more than one replica, got 1"),
        "{status}"
    );
}

pub(super) fn expressions_name_variables(https: &Https) {
    let policy = validating(json!({
        "variables": [{"name": "replicas", "expression": "object.spec.replicas"},
            {"name": "oddReplicas", "expression": "variables.replicas % 2 == 1"}],
        "validations": [{"expression": "variables.replicas > 1"}, {"expression": "variables.oddReplicas"}]}));
    assert_eq!(sent(https, ("validating", &policy), &deployment(3)).0, 201);
    for replicas in [1, 2] {
        assert_eq!(sent(https, ("validating", &policy), &deployment(replicas)).0, 422);
    }
}

pub(super) fn deployments_are_mutated(https: &Https) {
    let (_, made) = sent(
        https,
        ("mutating", &mutating("Object{spec: Object.spec{replicas: object.spec.replicas + 1}}")),
        &deployment(1),
    );
    assert_eq!(made["spec"]["replicas"], 2, "{made}");
}

pub(super) fn deployments_are_annotated(https: &Https) {
    let expression =
        "Object{metadata: Object.metadata{annotations: {'my-foo-annotation': 'myAnnotationValue'}}}";
    let (_, made) = sent(https, ("mutating", &mutating(expression)), &deployment(1));
    assert_eq!(made["metadata"]["annotations"]["my-foo-annotation"], "myAnnotationValue", "{made}");
}
