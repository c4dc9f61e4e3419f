//! Behaviours of ResourceQuotas, each in a namespace of its own.

use super::{get, made, patched};
use crate::support::cluster::SOON;
use crate::support::https::{Https, JSON};
use crate::support::process::wait_for;
use serde_json::{Value, json};

/// A namespace in which nothing is but what every namespace has.
struct Place<'a> {
    https: &'a Https,
    path: String,
}

impl<'a> Place<'a> {
    fn new(https: &'a Https, name: &str) -> Self {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        made(https, "/api/v1/namespaces", &object);
        let place = Self { https, path: format!("namespaces/{name}") };
        for there in ["serviceaccounts/default", "configmaps/kube-root-ca.crt"] {
            wait_for(there, SOON, || (get(https, &place.at(there)).0 == 200).then_some(()));
        }
        place
    }

    /// The path of something in the core group.
    fn at(&self, rest: &str) -> String {
        format!("/api/v1/{}/{rest}", self.path)
    }

    fn quota(&self, name: &str, hard: &Value, scopes: &[&str]) {
        let mut object = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": name},
            "spec": {"hard": hard}});
        if !scopes.is_empty() {
            object["spec"]["scopes"] = json!(scopes);
        }
        made(self.https, &self.at("resourcequotas"), &object);
    }

    /// Waits until the status says that so much is used, and of the limits of the spec.
    #[track_caller]
    fn uses(&self, name: &str, used: &Value) {
        let path = self.at(&format!("resourcequotas/{name}"));
        wait_for(&format!("{used} used of {name}"), SOON, || {
            let (_, quota) = get(self.https, &path);
            let all = used.as_object().unwrap();
            let fits = all.iter().all(|(key, amount)| quota["status"]["used"][key] == *amount);
            (fits && quota["status"]["hard"] == quota["spec"]["hard"]).then_some(())
        });
    }

    fn pod(&self, name: &str, requests: &Value, deadline_s: Option<i64>) -> (u16, Value) {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
            "containers": [{"name": "c", "image": "knarr.test/none:1",
                "resources": {"requests": requests, "limits": requests}}]}});
        if let Some(seconds) = deadline_s {
            pod["spec"]["activeDeadlineSeconds"] = json!(seconds);
        }
        let answer = self.https.ask("POST", &self.at("pods")).object(JSON, &pod).send();
        (answer.code, answer.value())
    }

    fn remove(&self, path: &str) {
        assert_eq!(self.https.ask("DELETE", path).send().code, 200);
    }
}

pub(super) fn quota_status(https: &Https) {
    let place = Place::new(https, "quota-status");
    place.quota("q", &json!({"cpu": "1", "memory": "500Mi", "pods": "5", "services": "10"}), &[]);
    place.uses("q", &json!({"cpu": "0", "memory": "0", "pods": "0", "services": "0"}));
}

/// Creates an object that a quota counts, and takes it away again.
fn counts(https: &Https, namespace: &str, path: &str, object: &Value, resources: &[&str]) {
    let place = Place::new(https, namespace);
    let amounts = |number: usize| -> Value {
        resources.iter().map(|resource| ((*resource).to_owned(), json!(number.to_string()))).collect()
    };
    // What every namespace has counts as well.
    let first = usize::from(resources.contains(&"configmaps"));
    place.quota("q", &amounts(5), &[]);
    place.uses("q", &amounts(first));
    let collection = format!("{path}/{}/{}", place.path, object["plural"].as_str().unwrap());
    let mut own = object.clone();
    own.as_object_mut().unwrap().remove("plural");
    made(https, &collection, &own);
    place.uses("q", &amounts(first + 1));
    place.remove(&format!("{collection}/{}", own["metadata"]["name"].as_str().unwrap()));
    place.uses("q", &amounts(first));
}

pub(super) fn quota_of_config_maps(https: &Https) {
    let object =
        json!({"plural": "configmaps", "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    counts(https, "quota-configmaps", "/api/v1", &object, &["configmaps"]);
}

pub(super) fn quota_of_secrets(https: &Https) {
    let object =
        json!({"plural": "secrets", "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}});
    counts(https, "quota-secrets", "/api/v1", &object, &["secrets"]);
}

pub(super) fn quota_of_services(https: &Https) {
    let object = json!({"plural": "services", "apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"},
        "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
    counts(https, "quota-services", "/api/v1", &object, &["services", "services.nodeports"]);
}

fn replicated(api_version: &str, kind: &str, plural: &str, selector: &Value) -> Value {
    json!({"plural": plural, "apiVersion": api_version, "kind": kind, "metadata": {"name": "a"},
        "spec": {"replicas": 0, "selector": selector, "template": super::template("a")}})
}

pub(super) fn quota_of_replica_sets(https: &Https) {
    let object = replicated("apps/v1", "ReplicaSet", "replicasets", &json!({"matchLabels": {"app": "a"}}));
    counts(https, "quota-replicasets", "/apis/apps/v1", &object, &["count/replicasets.apps"]);
}

pub(super) fn quota_of_controllers(https: &Https) {
    let object = replicated("v1", "ReplicationController", "replicationcontrollers", &json!({"app": "a"}));
    counts(https, "quota-controllers", "/api/v1", &object, &["replicationcontrollers"]);
}

pub(super) fn quota_of_pods(https: &Https) {
    let place = Place::new(https, "quota-pods");
    let dongle = "requests.example.com/dongle";
    place.quota(
        "q",
        &json!({"pods": "5", "cpu": "1", "memory": "500Mi", "requests.ephemeral-storage": "50Gi", dongle: "3"}),
        &[],
    );
    place.uses(
        "q",
        &json!({"pods": "0", "cpu": "0", "memory": "0", "requests.ephemeral-storage": "0", dongle: "0"}),
    );
    let fits =
        json!({"cpu": "500m", "memory": "252Mi", "ephemeral-storage": "30Gi", "example.com/dongle": "2"});
    assert_eq!(place.pod("fits", &fits, None).0, 201);
    let used = json!({"pods": "1", "cpu": "500m", "memory": "252Mi", "requests.ephemeral-storage": "30Gi", dongle: "2"});
    place.uses("q", &used);
    for more in [
        json!({"cpu": "600m", "memory": "100Mi"}),
        json!({"cpu": "100m", "memory": "1Mi", "example.com/dongle": "2"}),
    ] {
        let (code, status) = place.pod("more", &more, None);
        assert_eq!((code, &status["reason"]), (403, &json!("Forbidden")));
        assert!(status["message"].as_str().unwrap().contains("exceeded quota: q"), "{status}");
    }
    let patch = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "100m"}}}]}});
    let strategic = "application/strategic-merge-patch+json";
    let answer = https.ask("PATCH", &place.at("pods/fits")).body(strategic, patch.to_string()).send();
    assert_eq!(answer.code, 422, "{}", answer.value());
    place.uses("q", &used);
    place.remove(&place.at("pods/fits"));
    place.uses(
        "q",
        &json!({"pods": "0", "cpu": "0", "memory": "0", "requests.ephemeral-storage": "0", dongle: "0"}),
    );
}

/// A pod counts for one of two scopes, and not for the other.
fn scopes(https: &Https, namespace: &str, of: [&str; 2], pods: [(&Value, Option<i64>); 2]) {
    let place = Place::new(https, namespace);
    for (name, scope) in ["first", "second"].iter().zip(of) {
        place.quota(name, &json!({"pods": "5"}), &[scope]);
        place.uses(name, &json!({"pods": "0"}));
    }
    for (index, (requests, deadline_s)) in pods.into_iter().enumerate() {
        let (code, made) = place.pod("p", requests, deadline_s);
        assert_eq!(code, 201, "{made}");
        let used = |own: bool| json!({"pods": if own { "1" } else { "0" }});
        place.uses("first", &used(index == 0));
        place.uses("second", &used(index == 1));
        place.remove(&place.at("pods/p"));
        place.uses("first", &used(false));
        place.uses("second", &used(false));
    }
}

pub(super) fn quota_of_best_effort(https: &Https) {
    let some = json!({"cpu": "100m", "memory": "1Mi"});
    scopes(https, "quota-effort", ["BestEffort", "NotBestEffort"], [(&json!({}), None), (&some, None)]);
}

pub(super) fn quota_of_terminating(https: &Https) {
    let some = json!({"cpu": "100m", "memory": "1Mi"});
    scopes(https, "quota-ends", ["NotTerminating", "Terminating"], [(&some, None), (&some, Some(3600))]);
}

pub(super) fn quota_changes(https: &Https) {
    let place = Place::new(https, "quota-changes");
    place.quota("q", &json!({"cpu": "1", "memory": "500Mi"}), &[]);
    let path = place.at("resourcequotas/q");
    let (_, mut quota) = get(https, &path);
    quota["spec"]["hard"] = json!({"cpu": "2", "memory": "1Gi"});
    let answer = https.ask("PUT", &path).object(JSON, &quota).send();
    // The status was written in between: once more with the newest version.
    let code = if answer.code == 409 {
        quota["metadata"]["resourceVersion"] = get(https, &path).1["metadata"]["resourceVersion"].clone();
        https.ask("PUT", &path).object(JSON, &quota).send().code
    } else {
        answer.code
    };
    assert_eq!((code, &get(https, &path).1["spec"]["hard"]), (200, &json!({"cpu": "2", "memory": "1Gi"})));
    place.remove(&path);
    assert_eq!(get(https, &path).0, 404);
}

pub(super) fn quota_lifecycle(https: &Https) {
    let place = Place::new(https, "quota-life");
    place.quota("q", &json!({"cpu": "1", "memory": "500Mi"}), &[]);
    let path = place.at("resourcequotas/q");
    patched(
        https,
        &path,
        &json!({"metadata": {"labels": {"of": "life"}}, "spec": {"hard": {"memory": "750Mi"}}}),
    );
    let (_, list) = get(https, "/api/v1/resourcequotas?labelSelector=of%3Dlife");
    let items = list["items"].as_array().unwrap();
    assert_eq!((items.len(), &items[0]["spec"]["hard"]["memory"]), (1, &json!("750Mi")));
    place.remove(&place.at("resourcequotas?labelSelector=of%3Dlife"));
    assert_eq!(get(https, &path).0, 404);
}

pub(super) fn quota_status_changes(https: &Https) {
    let place = Place::new(https, "quota-told");
    place.quota("q", &json!({"cpu": "500m", "memory": "500Mi"}), &[]);
    place.uses("q", &json!({"cpu": "0"}));
    let path = place.at("resourcequotas/q");
    patched(https, &path, &json!({"spec": {"hard": {"cpu": "1", "memory": "1Gi"}}}));
    place.uses("q", &json!({"cpu": "0"}));
    let told = patched(https, &format!("{path}/status"), &json!({"status": {"hard": {"cpu": "2"}}}));
    assert_eq!((&told["status"]["hard"]["cpu"], &told["spec"]["hard"]["cpu"]), (&json!("2"), &json!("1")));
    // What the spec says is put right again.
    place.uses("q", &json!({"cpu": "0"}));
    let (code, own) = get(https, &format!("{path}/status"));
    assert_eq!((code, &own["status"]["hard"]), (200, &json!({"cpu": "1", "memory": "1Gi"})));
}
