//! What people add to the API: custom resources as kubectl, clients and controllers see them.

mod conversion;
mod migration;
mod operator;
mod published;
mod rules;
mod selecting;

use crate::support::cluster::{Cluster, SOON};
use crate::support::definition::{DEFINITIONS, condition, define, defined, definition};
use crate::support::https::{APPLY, Https, JSON, JSON_PATCH, MERGE, STRATEGIC};
use crate::support::process::wait_for;
use serde_json::{Value, json};
use std::panic::AssertUnwindSafe;

const BOATS: &str = "/apis/example.com/v1/namespaces/default/boats";
const OLD_BOATS: &str = "/apis/example.com/v1beta1/namespaces/default/boats";

/// Boats: two versions, both subresources, columns, fields to select by.
fn boats() -> Value {
    let schema = json!({"type": "object", "description": "A boat.", "properties": {
        "spec": {"type": "object", "required": ["length"], "properties": {
            "length": {"type": "integer", "minimum": 1, "description": "In metres."},
            "colour": {"type": "string", "default": "white"},
            "seats": {"type": "integer"},
            "crew": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "required": ["name"],
                    "properties": {"name": {"type": "string"}, "rank": {"type": "string"}}}}}},
        "status": {"type": "object", "properties": {
            "seats": {"type": "integer"}, "selector": {"type": "string"}}}}});
    let mut boats = definition("example.com", "boats", "Boat", &schema);
    boats["spec"]["names"]["shortNames"] = json!(["bo"]);
    boats["spec"]["names"]["categories"] = json!(["all"]);
    boats["spec"]["versions"][0]["subresources"] = json!({"status": {}, "scale": {
        "specReplicasPath": ".spec.seats", "statusReplicasPath": ".status.seats",
        "labelSelectorPath": ".status.selector"}});
    boats["spec"]["versions"][0]["selectableFields"] = json!([{"jsonPath": ".spec.colour"}]);
    boats["spec"]["versions"][0]["additionalPrinterColumns"] =
        json!([{"name": "Length", "type": "integer", "jsonPath": ".spec.length"}]);
    let old = json!({"name": "v1beta1", "served": true, "storage": false, "deprecated": true,
        "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}});
    boats["spec"]["versions"].as_array_mut().unwrap().push(old);
    boats
}

fn boat(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Boat", "metadata": {"name": name}, "spec": spec})
}

#[track_caller]
fn created(https: &Https, path: &str, object: &Value) -> Value {
    let (code, made) = https.send("POST", path, JSON, object);
    assert_eq!(code, 201, "{made}");
    made
}

/// A part of a test by its name.
type Part = (&'static str, fn(&Https));

#[test]
fn custom_resources_are_like_any_others() {
    let mut cluster = Cluster::control_plane();
    let https = Https::new(&cluster);
    defined(&https, &boats());
    documents(&cluster, &https);
    let parts: &[Part] = &[
        ("writes", writes),
        ("versions", versions),
        ("doors", doors),
        ("beginnings", beginnings),
        ("selections", selections),
        ("applying", applying),
        ("owners", owners),
        ("orphans", orphans),
        ("quotas", quotas),
        ("names", names),
        ("rules", rules::all),
        ("conversion", conversion::all),
        ("migration", migration::all),
    ];
    let fails = |part: fn(&Https)| std::panic::catch_unwind(AssertUnwindSafe(|| part(&https))).is_err();
    let failed: Vec<_> = parts.iter().filter(|(_, part)| fails(*part)).map(|(name, _)| name).collect();
    assert!(failed.is_empty(), "these fail: {failed:?}");
    with_kubectl(&cluster);
    selecting::all(&cluster, &https);
    cluster.stop("KILL");
    cluster.start();
    let https = Https::new(&cluster);
    let (code, kept) = https.call("GET", &format!("{BOATS}/first"));
    assert_eq!((code, &kept["spec"]["colour"]), (200, &json!("white")), "{kept}");
    namespaces(&https);
    removal(&https);
}

/// What discovery and OpenAPI say at once.
fn documents(cluster: &Cluster, https: &Https) {
    let (_, group) = https.call("GET", "/apis/example.com");
    assert_eq!(group["preferredVersion"]["version"], "v1");
    let (_, list) = https.call("GET", "/apis/example.com/v1");
    let names: Vec<_> = list["resources"].as_array().unwrap().iter().map(|one| one["name"].clone()).collect();
    assert_eq!(names, ["boats", "boats/scale", "boats/status"]);
    let (_, index) = https.call("GET", "/openapi/v3");
    let url = index["paths"]["apis/example.com/v1"]["serverRelativeURL"].as_str().unwrap();
    let (_, document) = https.call("GET", url);
    let object = &document["components"]["schemas"]["com.example.v1.Boat"];
    assert_eq!(object["properties"]["spec"]["properties"]["length"]["description"], "In metres.");
    assert!(
        document["paths"]["/apis/example.com/v1/namespaces/{namespace}/boats/{name}/scale"]["get"]
            .is_object()
    );
    let (_, v2) = https.call("GET", "/openapi/v2");
    assert_eq!(v2["definitions"]["com.example.v1.Boat"]["required"], Value::Null);
    assert!(v2["paths"]["/apis/example.com/v1/boats"]["get"].is_object());
    let explained = cluster.kubectl("explain boat.spec.length");
    assert!(explained.contains("In metres."), "{explained}");
}

/// Objects are pruned, defaulted and checked.
fn writes(https: &Https) {
    let made = created(https, BOATS, &boat("first", json!({"length": 7, "keel": "long"})));
    assert_eq!(made["spec"], json!({"length": 7, "colour": "white"}));
    assert_eq!(made["metadata"]["generation"], 1);
    let strict = format!("{BOATS}?fieldValidation=Strict");
    let (code, refused) = https.send("POST", &strict, JSON, &boat("strict", json!({"length": 7, "keel": 1})));
    assert_eq!(code, 400);
    assert_eq!(
        refused["message"],
        "Boat in version \"v1\" cannot be handled as a Boat: strict decoding error: unknown field \"spec.keel\""
    );
    let warned = https
        .ask("POST", &format!("{BOATS}?dryRun=All"))
        .object(JSON, &boat("warned", json!({"length": 7, "keel": 1})))
        .send();
    let unknown = "299 - \"unknown field \\\"spec.keel\\\"\"".to_owned();
    assert_eq!((warned.code, warned.header("warning")), (201, unknown.clone()));
    let refused = https.ask("POST", BOATS).object(JSON, &boat("warned", json!({"keel": 1}))).send();
    assert_eq!((refused.code, refused.header("warning")), (422, unknown));
    let (code, refused) = https.send(
        "POST",
        BOATS,
        JSON,
        &boat("short", json!({"length": 0, "crew": [{"name": "a"}, {"name": "a"}]})),
    );
    assert_eq!(code, 422);
    assert_eq!(
        refused["message"],
        "Boat.example.com \"short\" is invalid: [spec.length: Invalid value: 0: spec.length in body should be greater than or equal to 1, spec.crew[1]: Duplicate value: {\"name\":\"a\"}]"
    );
    let (code, refused) = https.send("POST", BOATS, JSON, &json!({"apiVersion": "example.com/v1", "kind": "Ship", "metadata": {"name": "s"}, "spec": {"length": 1}}));
    assert_eq!(
        (code, &refused["message"]),
        (422, &json!("Boat.example.com \"s\" is invalid: kind: Invalid value: \"Ship\": must be Boat"))
    );
    let path = format!("{BOATS}/first");
    let (code, refused) = https.send("PUT", &path, JSON, &boat("first", json!({"length": 8})));
    assert_eq!(code, 422);
    assert_eq!(
        refused["message"],
        "boats.example.com \"first\" is invalid: metadata.resourceVersion: Invalid value: 0: must be specified for an update"
    );
    let (code, changed) = https.send("PATCH", &path, MERGE, &json!({"spec": {"length": 8}}));
    assert_eq!((code, &changed["metadata"]["generation"]), (200, &json!(2)));
    let (code, changed) = https.send(
        "PATCH",
        &path,
        JSON_PATCH,
        &json!([{"op": "replace", "path": "/spec/length", "value": 9}]),
    );
    assert_eq!((code, &changed["spec"]["length"]), (200, &json!(9)));
    let (code, refused) = https.send("PATCH", &path, STRATEGIC, &json!({"spec": {}}));
    assert_eq!((code, &refused["reason"]), (415, &json!("UnsupportedMediaType")));
    let answer = https.ask("GET", &path).header("accept", "application/vnd.kubernetes.protobuf").send();
    assert_eq!(answer.code, 406);
}

/// Every version shows the same objects.
fn versions(https: &Https) {
    let answer = https.ask("GET", &format!("{OLD_BOATS}/first")).send();
    assert_eq!(
        answer.header("warning"),
        "299 - \"example.com/v1beta1 Boat is deprecated; use example.com/v1 Boat\""
    );
    assert_eq!(answer.value()["apiVersion"], "example.com/v1beta1");
    let old = json!({"apiVersion": "example.com/v1beta1", "kind": "Boat", "metadata": {"name": "old"}, "spec": {"length": 3}});
    let made = created(https, OLD_BOATS, &old);
    assert_eq!((&made["apiVersion"], &made["spec"]["colour"]), (&json!("example.com/v1beta1"), &Value::Null));
    let (_, shown) = https.call("GET", &format!("{BOATS}/old"));
    assert_eq!((&shown["apiVersion"], &shown["spec"]["colour"]), (&json!("example.com/v1"), &json!("white")));
    let (_, list) = https.call("GET", OLD_BOATS);
    let shown =
        list["items"].as_array().unwrap().iter().all(|item| item["apiVersion"] == "example.com/v1beta1");
    assert!(shown && list["kind"] == "BoatList", "{list}");
    // Fields that came into the schema later are there at once.
    let (_, mut definition) = https.call("GET", &format!("{DEFINITIONS}/boats.example.com"));
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["mast"] =
        json!({"type": "string", "default": "wood"});
    let (code, answer) = https.send("PUT", &format!("{DEFINITIONS}/boats.example.com"), JSON, &definition);
    assert_eq!(code, 200, "{answer}");
    let (_, list) = https.call("GET", BOATS);
    assert!(list["items"].as_array().unwrap().iter().all(|item| item["spec"]["mast"] == "wood"), "{list}");
}

/// `status` and `scale`.
fn doors(https: &Https) {
    let path = format!("{BOATS}/first");
    let both = json!({"spec": {"seats": 3}, "status": {"seats": 1, "selector": "a=b"}});
    let (_, main) = https.send("PATCH", &path, MERGE, &both);
    assert_eq!((&main["spec"]["seats"], &main["status"]), (&json!(3), &Value::Null));
    let (_, status) = https.send(
        "PATCH",
        &format!("{path}/status"),
        MERGE,
        &json!({"spec": {"seats": 9}, "status": both["status"]}),
    );
    assert_eq!((&status["spec"]["seats"], &status["status"]["seats"]), (&json!(3), &json!(1)));
    assert_eq!(main["metadata"]["generation"], status["metadata"]["generation"]);
    let (code, refused) =
        https.send("PATCH", &format!("{path}/status"), MERGE, &json!({"status": {"seats": "x"}}));
    assert_eq!(code, 422, "{refused}");
    let (_, scale) = https.call("GET", &format!("{path}/scale"));
    assert_eq!(
        (&scale["spec"], &scale["status"]),
        (&json!({"replicas": 3}), &json!({"replicas": 1, "selector": "a=b"}))
    );
    let (code, scale) =
        https.send("PATCH", &format!("{path}/scale"), MERGE, &json!({"spec": {"replicas": 5}}));
    assert_eq!((code, &scale["spec"]["replicas"]), (200, &json!(5)));
    assert_eq!(https.call("GET", &path).1["spec"]["seats"], 5);
    let (code, refused) = https.call("GET", &format!("{BOATS}/old/scale"));
    assert_eq!(
        (code, &refused["message"]),
        (500, &json!("Internal error occurred: the spec replicas field \".spec.seats\" does not exist"))
    );
}

/// A status that the writer of a new object cannot set begins with its default.
fn beginnings(https: &Https) {
    let phase = json!({"type": "object", "default": {"phase": "Pending"}, "properties": {"phase": {"type": "string"}}});
    let schema = json!({"type": "object", "properties": {"status": phase}});
    let mut docks = definition("docks.example.com", "docks", "Dock", &schema);
    docks["spec"]["versions"][0]["subresources"] = json!({"status": {}});
    defined(https, &docks);
    let docks = "/apis/docks.example.com/v1/namespaces/default/docks";
    let dock = json!({"apiVersion": "docks.example.com/v1", "kind": "Dock", "metadata": {"name": "a"}, "status": {"phase": "Done"}});
    let pending = json!({"phase": "Pending"});
    assert_eq!(created(https, &format!("{docks}?dryRun=All"), &dock)["status"], pending);
    assert_eq!(created(https, docks, &dock)["status"], pending);
    assert_eq!(https.call("GET", &format!("{docks}/a")).1["status"], pending);
}

/// Selectors, tables and watches.
fn selections(https: &Https) {
    created(https, BOATS, &boat("red", json!({"length": 2, "colour": "red"})));
    let (_, list) = https.call("GET", &format!("{BOATS}?fieldSelector=spec.colour%3Dred"));
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    let (code, refused) = https.call("GET", &format!("{BOATS}?fieldSelector=spec.length%3D2"));
    assert_eq!((code, &refused["message"]), (400, &json!("field label not supported: spec.length")));
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let table = https.ask("GET", &format!("{BOATS}/red")).header("accept", table).send().value();
    let names: Vec<_> =
        table["columnDefinitions"].as_array().unwrap().iter().map(|one| one["name"].clone()).collect();
    assert_eq!(
        (names, &table["rows"][0]["cells"]),
        (vec![json!("Name"), json!("Length")], &json!(["red", 2]))
    );
    let version = list["metadata"]["resourceVersion"].as_str().unwrap();
    let path = format!("{OLD_BOATS}?watch=1&fieldSelector=metadata.name%3Dred&resourceVersion={version}");
    let events = https.ask("GET", &path).watch().ok().unwrap();
    let (code, _) = https.call("DELETE", &format!("{BOATS}/red"));
    assert_eq!(code, 200);
    let event = events.next(SOON).unwrap().unwrap();
    assert_eq!(
        (&event["type"], &event["object"]["apiVersion"]),
        (&json!("DELETED"), &json!("example.com/v1beta1"))
    );
}

/// Lists that are maps are merged by their keys.
fn applying(https: &Https) {
    let apply = |manager: &str, crew: Value| {
        let path = format!("{BOATS}/shared?fieldManager={manager}");
        https.send("PATCH", &path, APPLY, &boat("shared", json!({"length": 4, "crew": crew})))
    };
    assert_eq!(apply("one", json!([{"name": "a", "rank": "captain"}])).0, 201);
    let (code, both) = apply("two", json!([{"name": "b"}]));
    assert_eq!((code, both["spec"]["crew"].as_array().unwrap().len()), (200, 2), "{both}");
    let (code, conflict) = apply("two", json!([{"name": "a", "rank": "cook"}]));
    assert_eq!(code, 409);
    assert_eq!(
        conflict["message"],
        "Apply failed with 1 conflict: conflict with \"one\": .spec.crew[name=\"a\"].rank"
    );
    let nothing = json!([{"name": "c", "rank": null}]);
    assert_eq!(
        apply("three", nothing).1["message"],
        "Boat.example.com \"shared\" is invalid: spec.crew[2].rank: Invalid value: \"null\": spec.crew[2].rank in body must be of type string: \"null\""
    );
}

fn with_kubectl(cluster: &Cluster) {
    let listed = cluster.kubectl("get bo first");
    assert!(listed.contains("LENGTH") && listed.contains("first"), "{listed}");
    assert!(cluster.kubectl("get all").contains("boat.example.com/first"));
    assert!(cluster.kubectl("api-resources --api-group=example.com").contains("bo"));
    let manifest = "apiVersion: example.com/v1\nkind: Boat\nmetadata: {name: applied}\nspec: {length: 5}\n";
    assert!(cluster.apply(manifest).contains("boat.example.com/applied created"));
    assert!(cluster.apply(&manifest.replace('5', "6")).contains("configured"));
    cluster.kubectl("wait --for=jsonpath={.spec.length}=6 boat/applied --timeout=10s");
}

/// What a custom object owns goes with it.
fn owners(https: &Https) {
    let owner = created(https, BOATS, &boat("owner", json!({"length": 1})));
    let maps = "/api/v1/namespaces/default/configmaps";
    let mut owned = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "owned"}});
    owned["metadata"]["ownerReferences"] = json!([{"apiVersion": "example.com/v1", "kind": "Boat", "name": "owner", "uid": owner["metadata"]["uid"]}]);
    created(https, maps, &owned);
    let mut lost = boat("lost", json!({"length": 1}));
    lost["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "none", "uid": "0"}]);
    created(https, BOATS, &lost);
    wait_for("an object without its owner to go", SOON, || {
        (https.call("GET", &format!("{BOATS}/lost")).0 == 404).then_some(())
    });
    assert_eq!(https.call("DELETE", &format!("{BOATS}/owner")).0, 200);
    wait_for("what a custom object owned to go", SOON, || {
        (https.call("GET", &format!("{maps}/owned")).0 == 404).then_some(())
    });
}

/// What a custom object owned is let go, also of a kind that has just been defined.
fn orphans(https: &Https) {
    let mut rafts = definition("rafts.example.com", "rafts", "Raft", &json!({"type": "object"}));
    rafts["spec"]["scope"] = json!("Cluster");
    let _defined = define(https, &rafts);
    let path = "/apis/rafts.example.com/v1/rafts";
    let raft = |name: &str| json!({"apiVersion": "rafts.example.com/v1", "kind": "Raft", "metadata": {"name": name}});
    let owner = created(https, path, &raft("owner"));
    let mut owned = raft("owned");
    owned["metadata"]["ownerReferences"] = json!([{"apiVersion": "rafts.example.com/v1", "kind": "Raft", "name": "owner", "uid": owner["metadata"]["uid"]}]);
    created(https, path, &owned);
    let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Orphan"});
    assert_eq!(https.send("DELETE", &format!("{path}/owner"), JSON, &options).0, 200);
    wait_for("an owner of orphans to go", SOON, || {
        (https.call("GET", &format!("{path}/owner")).0 == 404).then_some(())
    });
    let (code, orphan) = https.call("GET", &format!("{path}/owned"));
    assert_eq!((code, &orphan["metadata"]["ownerReferences"]), (200, &Value::Null), "{orphan}");
}

fn quotas(https: &Https) {
    created(https, "/api/v1/namespaces", &json!({"metadata": {"name": "harbour"}}));
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"count/boats.example.com": "1"}}});
    created(https, "/api/v1/namespaces/harbour/resourcequotas", &quota);
    let boats = BOATS.replace("default", "harbour");
    created(https, &boats, &boat("one", json!({"length": 1})));
    let (code, refused) = https.send("POST", &boats, JSON, &boat("two", json!({"length": 1})));
    assert_eq!(code, 403);
    assert_eq!(
        refused["message"],
        "boats.example.com \"two\" is forbidden: exceeded quota: q, requested: count/boats.example.com=1, used: count/boats.example.com=1, limited: count/boats.example.com=1"
    );
}

/// A name belongs to who had it first; a group of the project is for those that it approved.
fn names(https: &Https) {
    let schema = json!({"type": "object"});
    created(https, DEFINITIONS, &definition("example.com", "vessels", "Boat", &schema));
    let own = wait_for("a verdict on names", SOON, || {
        let (_, own) = https.call("GET", &format!("{DEFINITIONS}/vessels.example.com"));
        condition(&own, "NamesAccepted").map(|_| own)
    });
    assert_eq!(
        (condition(&own, "NamesAccepted"), condition(&own, "Established")),
        (Some("False".into()), Some("False".into()))
    );
    assert_eq!(https.call("GET", "/apis/example.com/v1/vessels").0, 404);
    assert_eq!(https.call("DELETE", &format!("{DEFINITIONS}/vessels.example.com")).0, 200);
    let (code, refused) =
        https.send("POST", DEFINITIONS, JSON, &definition("sub.k8s.io", "ours", "Our", &schema));
    assert_eq!(code, 422, "{refused}");
    let loose = json!({"type": "object", "properties": {"a": {"items": {"type": "string"}}}});
    let (code, refused) =
        https.send("POST", DEFINITIONS, JSON, &definition("loose.example.com", "as", "A", &loose));
    assert_eq!(
        (
            code,
            refused["message"].as_str().unwrap().contains("must not be empty for specified object fields")
        ),
        (422, true),
        "{refused}"
    );
}

fn namespaces(https: &Https) {
    assert_eq!(https.call("DELETE", "/api/v1/namespaces/harbour").0, 200);
    wait_for("a namespace with custom objects to go", SOON, || {
        (https.call("GET", "/api/v1/namespaces/harbour").0 == 404).then_some(())
    });
    let (_, list) = https.call("GET", "/apis/example.com/v1/boats");
    assert!(
        list["items"].as_array().unwrap().iter().all(|boat| boat["metadata"]["namespace"] == "default"),
        "{list}"
    );
}

/// A definition goes after its objects; until then nothing new is made.
fn removal(https: &Https) {
    let held = json!({"metadata": {"finalizers": ["example.com/hold"]}});
    assert_eq!(https.send("PATCH", &format!("{BOATS}/first"), MERGE, &held).0, 200);
    let (_, list) = https.call("GET", BOATS);
    let version = list["metadata"]["resourceVersion"].as_str().unwrap();
    let events =
        https.ask("GET", &format!("{BOATS}?watch=1&resourceVersion={version}")).watch().ok().unwrap();
    let path = format!("{DEFINITIONS}/boats.example.com");
    let (code, going) = https.call("DELETE", &path);
    assert_eq!((code, condition(&going, "Terminating")), (200, Some("True".into())), "{going}");
    let (code, refused) = https.send("POST", BOATS, JSON, &boat("late", json!({"length": 1})));
    assert_eq!(
        (code, &refused["message"]),
        (405, &json!("create not allowed while custom resource definition is terminating"))
    );
    wait_for("objects that nothing holds to go", SOON, || {
        let (_, list) = https.call("GET", BOATS);
        (list["items"].as_array()?.len() == 1).then_some(())
    });
    let free = json!({"metadata": {"finalizers": null}});
    assert_eq!(https.send("PATCH", &format!("{BOATS}/first"), MERGE, &free).0, 200);
    wait_for("a definition to go", SOON, || (https.call("GET", &path).0 == 404).then_some(()));
    assert_eq!(https.call("GET", BOATS).0, 404);
    assert_eq!(https.call("GET", "/apis/example.com").0, 404);
    let all: Vec<Value> = std::iter::from_fn(|| events.next(SOON).unwrap()).collect();
    let deleted = all.iter().filter(|event| event["type"] == "DELETED");
    assert_eq!(deleted.count(), list["items"].as_array().unwrap().len(), "the watch ends with them: {all:?}");
}
