//! What devices use of quotas, what pods have to say, and that charging comes to what counting finds.

use super::*;
use crate::kinds::by_kind;
use proptest::prelude::*;
use serde_json::json;

fn quota(spec: &Value) -> Quota {
    Quota::of(&json!({"spec": spec}), Provided::default)
}

struct Namespace {
    pod: Value,
    claims: Vec<Value>,
}

impl Around for Namespace {
    fn pod(&self, name: &str) -> Option<Value> {
        Some(self.pod.clone()).filter(|pod| pod["metadata"]["name"] == name)
    }

    fn claims(&self) -> Vec<Value> {
        self.claims.clone()
    }
}

#[test]
fn devices_count_as_what_they_stand_for_unless_their_pod_does() {
    let class = ("gpu".to_owned(), Some("example.com/gpu".to_owned()));
    let hard = json!({"requests.example.com/gpu": "9", "requests.deviceclass.resource.kubernetes.io/gpu": "9",
        "requests.example.com/tpu": "9", "gpu.deviceclass.resource.k8s.io/devices": "9"});
    let quota = Quota::of(&json!({"spec": {"hard": hard}}), || Provided::of(std::iter::once(class)));
    let claims = by_kind("resource.k8s.io/v1", "ResourceClaim").unwrap();
    assert!(
        quota.resources(claims).iter().eq([
            "gpu.deviceclass.resource.k8s.io/devices",
            "requests.deviceclass.resource.kubernetes.io/gpu",
            "requests.example.com/gpu"
        ]
        .iter())
    );
    let claim = |name: &str, count: i64| {
        json!({"metadata": {"name": name, "annotations": {STANDS_FOR: "true"}, "creationTimestamp": "2026-01-01T00:00:00Z",
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true}]},
            "spec": {"devices": {"requests": [{"exactly": {"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": count}}]}}})
    };
    let pod = |uid: &str, status: Value| {
        json!({"metadata": {"name": "p", "uid": uid}, "status": status, "spec": {"containers": [
            {"name": "c", "resources": {"requests": {"example.com/gpu": "2"}}}]}})
    };
    let gpus = |object: &Value, pod: Value| {
        let around = Namespace { pod, claims: vec![claim("a", 2), claim("b", 2)] };
        let used = quota.used_by(claims, object, "2026-01-01T00:01:00Z".parse().unwrap(), &around);
        let used = demand::to_value(&used);
        assert_eq!(
            used["gpu.deviceclass.resource.k8s.io/devices"],
            used["requests.deviceclass.resource.kubernetes.io/gpu"]
        );
        used["requests.example.com/gpu"].clone()
    };
    let named = |name: &str| json!({"extendedResourceClaimStatus": {"resourceClaimName": name}});
    let mut others = claim("a", 3);
    others["metadata"]["annotations"] = Value::Null;
    assert_eq!(gpus(&others, pod("u", json!({}))), "3");
    assert_eq!(gpus(&claim("a", 2), pod("u", json!({}))), Value::Null);
    assert_eq!(gpus(&claim("a", 5), pod("u", json!({}))), "3");
    assert_eq!(gpus(&claim("b", 2), pod("u", json!({}))), "2");
    assert_eq!(gpus(&claim("b", 2), pod("u", named("b"))), Value::Null);
    assert_eq!(gpus(&claim("a", 2), pod("u", named("b"))), "2");
    assert_eq!(gpus(&claim("a", 2), pod("another", json!({}))), "2");
    assert_eq!(gpus(&claim("a", 2), pod("u", json!({"phase": "Succeeded"}))), "2");
}

#[test]
fn containers_have_to_state_what_is_limited() {
    let quota = quota(
        &json!({"hard": {"limits.cpu": "1", "requests.memory": "1", "requests.ephemeral-storage": "1"}}),
    );
    let pod = json!({"spec": {"containers": [{"name": "b"}, {"name": "a", "resources": {"limits": {"cpu": "1"}}}], "initContainers": [{"name": "c"}]}});
    assert_eq!(quota.unstated(&pod).unwrap(), "limits.cpu for: b,c; requests.memory for: a,b,c");
}

/// A pod as it may be at some time; `None` where it is not there.
fn some_pod() -> impl Strategy<Value = Option<Value>> {
    let phase = prop_oneof![Just("Pending"), Just("Running"), Just("Succeeded"), Just("Failed")];
    let amount = prop_oneof![Just("0"), Just("100m"), Just("0.25"), Just("1"), Just("1500m")];
    let pod = (phase, amount, any::<bool>(), any::<bool>()).prop_map(|(phase, cpu, ends, leaving)| {
        let mut pod = json!({"metadata": {}, "status": {"phase": phase}, "spec": {
            "containers": [{"name": "a", "resources": {"requests": {"cpu": cpu}}}]}});
        if ends {
            pod["spec"]["activeDeadlineSeconds"] = json!(5);
        }
        if leaving {
            pod["metadata"] =
                json!({"deletionTimestamp": "2026-01-01T00:00:10Z", "deletionGracePeriodSeconds": 5});
        }
        pod
    });
    proptest::option::of(pod)
}

proptest! {
    /// What is charged write by write is what a recount finds, for every quota.
    #[test]
    fn charging_comes_to_what_counting_finds(writes in prop::collection::vec((0..4usize, some_pod()), 1..40)) {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let kind = by_kind("v1", "Pod").unwrap();
        let hard = json!({"pods": "9", "count/pods": "9", "requests.cpu": "9"});
        for scopes in [json!([]), json!(["Terminating"]), json!(["NotTerminating", "NotBestEffort"])] {
            let quota = quota(&json!({"hard": hard, "scopes": scopes}));
            let zero = || quota.nothing_used(std::iter::once(kind));
            let of = |pod: &Option<Value>| pod.as_ref().map_or_else(Amounts::new, |pod| quota.used_by(kind, pod, now, &()));
            let (mut state, mut charged) = (vec![None; 4], zero());
            for (place, pod) in &writes {
                demand::add(&mut charged, &of(pod));
                demand::subtract(&mut charged, &of(&state[*place]));
                state[*place].clone_from(pod);
                let mut counted = zero();
                state.iter().for_each(|pod| demand::add(&mut counted, &of(pod)));
                prop_assert_eq!(&charged, &counted);
            }
        }
    }
}
