//! Server-side apply and the owners of fields, over HTTPS and by the real kubectl.

use super::MAPS;
use crate::support::cluster::Cluster;
use crate::support::https::{APPLY, Https, JSON, MERGE};
use serde_json::{Value, json};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn map(name: &str, data: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

fn deployment(name: &str, replicas: u32) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": {
            "metadata": {"labels": {"app": name}},
            "spec": {"containers": [{"name": "main", "image": "knarr.test/none:1", "ports": [{"containerPort": 80}]}]}}}})
}

/// What a manager owns, and how it came by it.
fn entry<'a>(object: &'a Value, manager: &str, subresource: &str) -> Option<&'a Value> {
    object["metadata"]["managedFields"].as_array().into_iter().flatten().find(|entry| {
        entry["manager"] == manager && entry["subresource"].as_str().unwrap_or_default() == subresource
    })
}

fn owns(object: &Value, manager: &str, subresource: &str) -> Value {
    entry(object, manager, subresource).map_or(Value::Null, |entry| entry["fieldsV1"].clone())
}

#[test]
fn fields_have_owners() {
    let cluster = Cluster::control_plane();
    let https = Https::new(&cluster);
    writes_are_followed(&https);
    applying(&https);
    refusals(&https);
    subresources(&https);
    versions(&https);
    forgetting(&https);
    kubectl(&cluster);
    kubectl_takes_over(&cluster);
}

fn writes_are_followed(https: &Https) {
    let path = format!("{MAPS}/followed");
    let (_, made) =
        https.send("POST", &format!("{MAPS}?fieldManager=one"), JSON, &map("followed", &json!({"a": "1"})));
    let own = entry(&made, "one", "").unwrap();
    assert_eq!((&own["operation"], &own["apiVersion"]), (&json!("Update"), &json!("v1")));
    assert_eq!(
        (&own["fieldsType"], &own["fieldsV1"]),
        (&json!("FieldsV1"), &json!({"f:data": {".": {}, "f:a": {}}}))
    );
    assert!(own["time"].is_string());
    let by_agent = https.ask("PATCH", &path).header("user-agent", "two/1.2 (linux)");
    let (code, changed) = by_agent.object(MERGE, &json!({"data": {"a": "2", "b": "1"}})).parts();
    assert_eq!((code, owns(&changed, "two", "")), (200, json!({"f:data": {"f:a": {}, "f:b": {}}})));
    assert_eq!(owns(&changed, "one", ""), json!({"f:data": {}}));
    // Nothing new: nothing is written, whoever says it.
    let (_, same) =
        https.send("PATCH", &format!("{path}?fieldManager=three"), MERGE, &json!({"data": {"a": "2"}}));
    assert_eq!(same, changed);
    let (_, tried) = https.send(
        "PATCH",
        &format!("{path}?fieldManager=three&dryRun=All"),
        MERGE,
        &json!({"data": {"a": "3"}}),
    );
    assert_eq!(owns(&tried, "three", ""), json!({"f:data": {"f:a": {}}}));
    assert_eq!(https.call("GET", &path).1, changed);
    for index in 0..12 {
        let key = format!("k{index}");
        https.send("PATCH", &format!("{path}?fieldManager=m{index}"), MERGE, &json!({"data": {key: "1"}}));
    }
    let (_, many) = https.call("GET", &path);
    assert_eq!(many["metadata"]["managedFields"].as_array().unwrap().len(), 10, "{many}");
    assert!(entry(&many, "ancient-changes", "").is_some());
}

fn applying(https: &Https) {
    let path = format!("{MAPS}/applied");
    let by = |manager: &str| format!("{path}?fieldManager={manager}");
    let (code, status) = https.send("PATCH", &path, APPLY, &map("applied", &json!({})));
    assert_eq!((code, &status["reason"]), (422, &json!("Invalid")));
    assert_eq!(
        status["message"],
        "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch"
    );
    let (code, _) =
        https.send("PATCH", &format!("{}&dryRun=All", by("a")), APPLY, &map("applied", &json!({})));
    assert_eq!((code, https.call("GET", &path).0), (201, 404));
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: applied\ndata:\n  x: '1'\n  'y': '1'\n";
    let (code, made) = https.ask("PATCH", &by("a")).body(APPLY, yaml).parts();
    assert_eq!((code, &made["data"]), (201, &json!({"x": "1", "y": "1"})));
    let own = entry(&made, "a", "").unwrap();
    assert_eq!(
        (&own["operation"], &own["fieldsV1"]),
        (&json!("Apply"), &json!({"f:data": {"f:x": {}, "f:y": {}}}))
    );
    let (code, again) = https.ask("PATCH", &by("a")).body(APPLY, yaml).parts();
    assert_eq!((code, &again), (200, &made));
    let (code, status) = https.send("PATCH", &by("b"), APPLY, &map("applied", &json!({"x": "2"})));
    assert_eq!((code, &status["reason"]), (409, &json!("Conflict")));
    assert_eq!(status["message"], "Apply failed with 1 conflict: conflict with \"a\": .data.x");
    assert_eq!(
        status["details"],
        json!({"causes": [{"reason": "FieldManagerConflict", "message": "conflict with \"a\"", "field": ".data.x"}]})
    );
    https.send("PATCH", &format!("{path}?fieldManager=c"), MERGE, &json!({"data": {"x": "3"}}));
    let (_, status) = https.send("PATCH", &by("b"), APPLY, &map("applied", &json!({"x": "2", "y": "2"})));
    assert_eq!(
        status["message"],
        "Apply failed with 2 conflicts: conflicts with \"a\":\n- .data.y\nconflicts with \"c\" using v1:\n- .data.x"
    );
    let (code, forced) =
        https.send("PATCH", &format!("{}&force=true", by("b")), APPLY, &map("applied", &json!({"x": "2"})));
    assert_eq!((code, &forced["data"]), (200, &json!({"x": "2", "y": "1"})));
    assert_eq!(owns(&forced, "c", ""), Value::Null);
    // Shared, given up by one, gone with the other.
    https.send("PATCH", &by("a"), APPLY, &map("applied", &json!({"x": "2", "y": "1"})));
    let (_, left) = https.send("PATCH", &by("b"), APPLY, &map("applied", &json!({"z": "1"})));
    assert_eq!(left["data"], json!({"x": "2", "y": "1", "z": "1"}));
    let (_, left) = https.send("PATCH", &by("a"), APPLY, &map("applied", &json!({})));
    assert_eq!(left["data"], json!({"z": "1"}));
}

fn refusals(https: &Https) {
    let path = format!("{MAPS}/refused?fieldManager=a");
    let with = |more: Value| {
        let mut config = map("refused", &json!({"x": "1"}));
        for (name, value) in more.as_object().unwrap() {
            config["metadata"][name] = value.clone();
        }
        config
    };
    https.send("PATCH", &path, APPLY, &with(json!({})));
    for (config, code, message) in [
        (with(json!({"managedFields": []})), 400, "metadata.managedFields must be nil"),
        (
            with(json!({"name": "other"})),
            400,
            "the name of the object (other) does not match the name on the URL (refused)",
        ),
        (
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "refused"}}),
            400,
            "invalid object type: apps/v1, Kind=Deployment",
        ),
        (
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "refused"}, "dta": {}}),
            500,
            "failed to create typed patch object (/refused; /v1, Kind=ConfigMap): .dta: field not declared in schema",
        ),
        (
            with(json!({"resourceVersion": "1"})),
            409,
            "Operation cannot be fulfilled on configmaps \"refused\": the object has been modified; please apply your changes to the latest version and try again",
        ),
    ] {
        let (got, status) = https.send("PATCH", &path, APPLY, &config);
        assert_eq!((got, &status["message"]), (code, &json!(message)), "{config}");
    }
    let (code, status) = https.send(
        "PATCH",
        &format!("{MAPS}/new?fieldManager=a"),
        APPLY,
        &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "new", "uid": "x"}}),
    );
    assert_eq!((code, &status["reason"]), (409, &json!("Conflict")), "{status}");
    let (code, status) = https.send("PATCH", &path, "application/apply-patch+cbor", &json!({}));
    assert_eq!((code, &status["reason"]), (415, &json!("UnsupportedMediaType")));
    let (code, status) = https.send("PATCH", &format!("{path}&force=true"), MERGE, &json!({}));
    assert_eq!((code, &status["details"]["causes"][0]["field"]), (422, &json!("force")));
}

fn subresources(https: &Https) {
    let path = format!("{DEPLOYMENTS}/sub");
    let (code, _) =
        https.send("PATCH", &format!("{path}/status?fieldManager=s"), APPLY, &deployment("sub", 0));
    assert_eq!(code, 404);
    https.send("PATCH", &format!("{path}?fieldManager=a"), APPLY, &deployment("sub", 0));
    let condition = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "sub"}, "spec": {"replicas": 9},
        "status": {"conditions": [{"type": "Mine", "status": "True"}]}});
    let (code, sub) = https.send("PATCH", &format!("{path}/status?fieldManager=s"), APPLY, &condition);
    assert_eq!((code, &sub["spec"]["replicas"]), (200, &json!(0)), "{sub}");
    assert_eq!(
        owns(&sub, "s", "status"),
        json!({"f:status": {"f:conditions": {"k:{\"type\":\"Mine\"}": {".": {}, "f:status": {}, "f:type": {}}}}})
    );
    let (code, scale) = https.send(
        "PATCH",
        &format!("{path}/scale?fieldManager=h"),
        MERGE,
        &json!({"spec": {"replicas": 3}}),
    );
    assert_eq!((code, &scale["spec"]["replicas"]), (200, &json!(3)));
    let (_, scaled) = https.call("GET", &path);
    assert_eq!(owns(&scaled, "h", "scale"), json!({"f:spec": {"f:replicas": {}}}));
    let own = owns(&scaled, "a", "");
    assert_eq!((&own["f:spec"]["f:replicas"], &own["f:spec"]["f:selector"]), (&Value::Null, &json!({})));
    let (code, status) = https.send("PATCH", &format!("{path}?fieldManager=a"), APPLY, &deployment("sub", 5));
    assert_eq!(code, 409);
    assert_eq!(
        status["message"],
        "Apply failed with 1 conflict: conflict with \"h\" with subresource \"scale\" using apps/v1: .spec.replicas"
    );
    let scale = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "sub"}, "spec": {"replicas": 2}});
    let (code, scaled) =
        https.send("PATCH", &format!("{path}/scale?fieldManager=g&force=true"), APPLY, &scale);
    assert_eq!((code, &scaled["spec"]["replicas"]), (200, &json!(2)));
    let (_, scaled) = https.call("GET", &path);
    assert_eq!(
        (owns(&scaled, "h", "scale"), owns(&scaled, "g", "scale")),
        (Value::Null, json!({"f:spec": {"f:replicas": {}}}))
    );
    let ports = &owns(&scaled, "a", "")["f:spec"]["f:template"]["f:spec"]["f:containers"]["k:{\"name\":\"main\"}"]
        ["f:ports"];
    assert!(ports["k:{\"containerPort\":80,\"protocol\":\"TCP\"}"].is_object(), "{ports}");
}

/// Fields are compared in the version in which they are owned.
fn versions(https: &Https) {
    let group = "/apis/autoscaling";
    let path = |version: &str, manager: &str| {
        format!("{group}/{version}/namespaces/default/horizontalpodautoscalers/h?fieldManager={manager}")
    };
    let scaler = |version: &str, most: u32| {
        json!({"apiVersion": format!("autoscaling/{version}"), "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
            "spec": {"maxReplicas": most, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}})
    };
    let (code, made) = https.send("PATCH", &path("v2", "a"), APPLY, &scaler("v2", 3));
    assert_eq!((code, &made["spec"]["maxReplicas"]), (201, &json!(3)), "{made}");
    let (code, status) = https.send("PATCH", &path("v1", "b"), APPLY, &scaler("v1", 4));
    assert_eq!(
        (code, &status["details"]["causes"][0]["field"]),
        (409, &json!(".spec.maxReplicas")),
        "{status}"
    );
    let (code, changed) = https.send(
        "PATCH",
        &path("v1", "b"),
        MERGE,
        &json!({"spec": {"targetCPUUtilizationPercentage": 60}}),
    );
    assert_eq!((code, &changed["apiVersion"]), (200, &json!("autoscaling/v1")), "{changed}");
    let own = entry(&changed, "b", "").unwrap();
    assert_eq!(own["apiVersion"], "autoscaling/v1");
    assert_eq!(own["fieldsV1"]["f:spec"]["f:targetCPUUtilizationPercentage"], json!({}), "{own}");
    assert!(entry(&changed, "a", "").is_some());
}

/// Clients may say who owns what, and that nobody does.
fn forgetting(https: &Https) {
    let path = format!("{MAPS}/forgotten");
    https.send("PATCH", &format!("{path}?fieldManager=a"), APPLY, &map("forgotten", &json!({"x": "1"})));
    let rename = json!([{"op": "replace", "path": "/metadata/managedFields/0/manager", "value": "b"}]);
    let (_, renamed) = https.send("PATCH", &path, "application/json-patch+json", &rename);
    assert_eq!(owns(&renamed, "b", ""), json!({"f:data": {"f:x": {}}}), "{renamed}");
    let (_, kept) = https.send("PATCH", &path, MERGE, &json!({"metadata": {"managedFields": null}}));
    assert_eq!(kept, renamed);
    let (code, forgotten) = https.send("PATCH", &path, MERGE, &json!({"metadata": {"managedFields": [{}]}}));
    assert_eq!((code, &forgotten["metadata"]["managedFields"]), (200, &Value::Null));
    let (_, status) =
        https.send("PATCH", &format!("{path}?fieldManager=a"), APPLY, &map("forgotten", &json!({"x": "2"})));
    assert_eq!(
        status["message"],
        "Apply failed with 1 conflict: conflict with \"before-first-apply\" using v1: .data.x"
    );
}

fn kubectl(cluster: &Cluster) {
    let apply = |replicas: u32, words: &[&str]| {
        let all = [&["apply", "--server-side", "-f", "-"], words].concat();
        cluster.kubectl_with(&deployment("tool", replicas).to_string(), &all)
    };
    assert_eq!(apply(0, &[]).ok(), "deployment.apps/tool serverside-applied\n");
    assert_eq!(apply(0, &[]).ok(), "deployment.apps/tool serverside-applied\n");
    let diff = |replicas: u32| {
        cluster.kubectl_with(&deployment("tool", replicas).to_string(), &["diff", "--server-side", "-f", "-"])
    };
    assert_eq!(diff(0).code, 0);
    let changed = diff(4);
    assert_eq!(changed.code, 1, "{}", changed.stderr);
    assert!(
        changed.stdout.contains("-  replicas: 0") && changed.stdout.contains("+  replicas: 4"),
        "{}",
        changed.stdout
    );
    let shown = raw(cluster, "/apis/apps/v1/namespaces/default/deployments/tool");
    let applied = |entry: &Value| entry["manager"] == "kubectl" && entry["operation"] == "Apply";
    assert!(shown["metadata"]["managedFields"].as_array().unwrap().iter().any(applied), "{shown}");
    cluster.kubectl("scale deployment tool --replicas=2");
    let refused = apply(0, &[]).err();
    assert!(
        refused.contains("Apply failed with 1 conflict: conflict with \"kubectl\" with subresource \"scale\" using apps/v1: .spec.replicas"),
        "{refused}"
    );
    apply(0, &["--force-conflicts"]).ok();
    assert_eq!(cluster.json("deployment tool")["spec"]["replicas"], 0);
}

/// An object with its managed fields, which kubectl's versions show differently.
fn raw(cluster: &Cluster, path: &str) -> Value {
    serde_json::from_str(&cluster.kubectl(&format!("get --raw {path}"))).unwrap()
}

/// What was applied on the client's side before goes over to the server's.
fn kubectl_takes_over(cluster: &Cluster) {
    let config = |data: Value| map("client", &data).to_string();
    cluster.kubectl_with(&config(json!({"x": "1", "y": "1"})), &["apply", "-f", "-"]).ok();
    let last = cluster.kubectl("apply view-last-applied configmap client -o json");
    assert!(last.contains("\"x\": \"1\""), "{last}");
    cluster.kubectl_with(&config(json!({"x": "2"})), &["apply", "--server-side", "-f", "-"]).ok();
    let object = raw(cluster, "/api/v1/namespaces/default/configmaps/client");
    assert_eq!(object["data"], json!({"x": "2"}), "{object}");
    let managers: Vec<&Value> = object["metadata"]["managedFields"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| &entry["manager"])
        .collect();
    assert!(!managers.contains(&&json!("kubectl-client-side-apply")), "{object}");
    let last = cluster.kubectl("apply view-last-applied configmap client -o json");
    assert!(last.contains("\"x\": \"2\"") && !last.contains("\"y\""), "{last}");
}
