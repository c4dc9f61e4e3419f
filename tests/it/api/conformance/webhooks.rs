//! Admission webhooks: what Kubernetes describes of them for conformance.

use super::{MAPS, PODS, get};
use crate::support::definition::{DEFINITIONS, Defined, anything, define, definition, version};
use crate::support::https::{Https, JSON, JSON_PATCH, MERGE};
use crate::support::webhook::{Act, Shows, WebhookServer, configure, hook, patching, rule};
use serde_json::{Value, json};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const MUTATING: &str = "MutatingWebhookConfiguration";
const VALIDATING: &str = "ValidatingWebhookConfiguration";

/// What the sample server of Kubernetes' own tests does, as far as these need it.
fn decide(path: &str, request: &Value) -> Act {
    let (object, data) = (&request["object"], &request["object"]["data"]);
    let judged = |bad: bool, why: &str| match bad {
        true => Act::Review(json!({"allowed": false, "status": {"message": why}})),
        false => Act::Review(json!({"allowed": true})),
    };
    let stage = |before: &str, after: &str| match data[before] == "start" || data[before] == "yes" {
        true => patching(&json!([{"op": "add", "path": format!("/data/{after}"), "value": "yes"}])),
        false => judged(false, ""),
    };
    match path {
        "/always-deny" => judged(true, "this webhook denies all requests"),
        "/configmaps" => judged(
            data["webhook-e2e-test"] == "webhook-disallow",
            "the configmap contains unwanted key and value",
        ),
        "/pods" if object["metadata"]["name"] == "wait-forever" => Act::Hang,
        "/pods" => judged(
            object["metadata"]["labels"]["webhook-e2e-test"] == "webhook-disallow",
            "the pod contains unwanted label",
        ),
        "/slow" => Act::Late(json!({"allowed": true})),
        "/mutating-configmaps" => stage("mutation-start", "mutation-stage-1"),
        "/mutating-configmaps-again" => stage("mutation-stage-1", "mutation-stage-2"),
        "/mutating-pods" => {
            let container =
                json!([{"name": "webhook-added-init-container", "image": "image:1", "resources": {}}]);
            patching(&json!([{"op": "add", "path": "/spec/initContainers", "value": container}]))
        }
        "/mark" => patching(&json!([{"op": "add", "path": "/metadata/labels", "value": {"changed": "yes"}}])),
        _ => judged(false, ""),
    }
}

fn post(https: &Https, path: &str, object: &Value) -> (u16, Value) {
    https.send("POST", path, JSON, object)
}

fn merge(https: &Https, path: &str, patch: &Value) -> (u16, Value) {
    https.send("PATCH", path, MERGE, patch)
}

fn server(https: &Https) -> WebhookServer {
    WebhookServer::start(https, &["127.0.0.1"], Shows::Issued, decide)
}

/// A webhook that concerns the test's namespace.
fn own(name: &str, config: Value, rule: Value) -> Value {
    let selector = json!({"matchLabels": {"kubernetes.io/metadata.name": "conformance"}});
    hook(name, config, rule, &json!({"namespaceSelector": selector}))
}

fn maps() -> Value {
    rule(&["CREATE", "UPDATE"], "", "v1", "configmaps")
}

fn map(name: &str, data: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

fn bad() -> Value {
    json!({"webhook-e2e-test": "webhook-disallow"})
}

fn started() -> Value {
    json!({"mutation-start": "start"})
}

fn removed(https: &Https, names: &[&str]) {
    names.iter().for_each(|name| assert_eq!(https.call("DELETE", &format!("{MAPS}/{name}")).0, 200));
}

/// Ten configurations with a label are listed by it, work, and are gone when they were deleted by it.
fn listed(https: &Https, kind: &str, path: &str, (data, works): (&Value, fn(u16, &Value) -> bool)) {
    let server = server(https);
    let collection = format!("{GROUP}/{}s", kind.to_lowercase());
    let label = json!({"metadata": {"labels": {"listed": kind}}});
    let all: Vec<_> = (0..10)
        .map(|place| {
            let name = format!("listed-{place}");
            let configured = configure(https, kind, &name, &[own(&name, server.by_url(path), maps())]);
            assert_eq!(merge(https, &configured.path, &label).0, 200);
            configured
        })
        .collect();
    let selected = format!("{collection}?labelSelector=listed%3D{kind}");
    assert_eq!(get(https, &selected).1["items"].as_array().unwrap().len(), 10);
    let (code, made) = post(https, MAPS, &map("listed", data));
    assert!(works(code, &made), "{code} {made}");
    assert_eq!(https.call("DELETE", &selected).0, 200);
    let (code, made) = post(https, MAPS, &map("after", data));
    assert!(code == 201 && !works(code, &made), "{code} {made}");
    drop(all);
    https.call("DELETE", &format!("{MAPS}/listed"));
    removed(https, &["after"]);
}

fn is_denied(code: u16, _: &Value) -> bool {
    code == 400
}

fn is_changed(_: u16, made: &Value) -> bool {
    made["data"]["mutation-stage-1"] == "yes"
}

pub(super) fn listing_of_mutating_webhooks(https: &Https) {
    listed(https, MUTATING, "/mutating-configmaps", (&started(), is_changed));
}

pub(super) fn listing_of_validating_webhooks(https: &Https) {
    listed(https, VALIDATING, "/configmaps", (&bad(), is_denied));
}

/// A rule that no longer names an operation, and then does again, counts at once.
fn changed(https: &Https, kind: &str, path: &str, (data, works): (&Value, fn(u16, &Value) -> bool)) {
    let server = server(https);
    let configured = configure(https, kind, "changed", &[own("changed", server.by_url(path), maps())]);
    let (_, mut stored) = get(https, &configured.path);
    stored["webhooks"][0]["rules"][0]["operations"] = json!(["UPDATE"]);
    assert_eq!(https.send("PUT", &configured.path, JSON, &stored).0, 200);
    let (code, made) = post(https, MAPS, &map("untouched", data));
    assert!(code == 201 && !works(code, &made), "{code} {made}");
    let patch = json!([{"op": "replace", "path": "/webhooks/0/rules/0/operations", "value": ["CREATE"]}]);
    let (code, patched) = https.send("PATCH", &configured.path, JSON_PATCH, &patch);
    assert_eq!(code, 200, "{patched}");
    let (code, made) = post(https, MAPS, &map("touched", data));
    assert!(works(code, &made), "{code} {made}");
    https.call("DELETE", &format!("{MAPS}/touched"));
    removed(https, &["untouched"]);
}

pub(super) fn changes_of_mutating_webhooks(https: &Https) {
    changed(https, MUTATING, "/mutating-configmaps", (&started(), is_changed));
}

pub(super) fn changes_of_validating_webhooks(https: &Https) {
    changed(https, VALIDATING, "/configmaps", (&bad(), is_denied));
}

/// Match conditions are kept as they were written, and as they were changed.
fn conditions_kept(https: &Https, kind: &str) {
    let server = server(https);
    let one = |text: &str| json!([{"name": "expression-1", "expression": text}]);
    let mut hook = own("kept", server.by_url("/always-allow"), maps());
    hook["matchConditions"] = one("object.metadata.namespace == 'production'");
    let configured = configure(https, kind, "kept", std::slice::from_ref(&hook));
    let (_, mut stored) = get(https, &configured.path);
    assert_eq!(stored["webhooks"][0]["matchConditions"], hook["matchConditions"]);
    let changed = one("object.metadata.namespace == 'staging'");
    stored["webhooks"][0]["matchConditions"] = changed.clone();
    assert_eq!(https.send("PUT", &configured.path, JSON, &stored).0, 200);
    assert_eq!(get(https, &configured.path).1["webhooks"][0]["matchConditions"], changed);
}

pub(super) fn conditions_of_mutating_webhooks(https: &Https) {
    conditions_kept(https, MUTATING);
}

pub(super) fn conditions_of_validating_webhooks(https: &Https) {
    conditions_kept(https, VALIDATING);
}

/// A configuration whose expression does not compile is refused.
fn wrong_condition(https: &Https, kind: &str) {
    let mut hook = own("wrong", json!({"url": "https://127.0.0.1:1"}), maps());
    hook["matchConditions"] =
        json!([{"name": "invalid-expression-1", "expression": "... [] bad expression"}]);
    let configuration = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
        "metadata": {"name": "wrong"}, "webhooks": [hook]});
    let (code, refused) = post(https, &format!("{GROUP}/{}s", kind.to_lowercase()), &configuration);
    assert_eq!(code, 422);
    assert!(refused["message"].as_str().unwrap().contains("compilation failed"), "{refused}");
}

pub(super) fn wrong_conditions_of_mutating_webhooks(https: &Https) {
    wrong_condition(https, MUTATING);
}

pub(super) fn wrong_conditions_of_validating_webhooks(https: &Https) {
    wrong_condition(https, VALIDATING);
}

fn pod(name: &str, labels: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels},
        "spec": {"containers": [{"name": "c", "image": "image:1"}]}})
}

fn end(https: &Https, pod: &str) {
    assert_eq!(https.call("DELETE", &format!("{PODS}/{pod}?gracePeriodSeconds=0")).0, 200);
}

pub(super) fn attaching_denied(https: &Https) {
    let server = server(https);
    assert_eq!(post(https, PODS, &pod("attached", &json!({}))).0, 201);
    let rule = rule(&["CONNECT"], "", "v1", "pods/attach");
    let configured =
        configure(https, VALIDATING, "attach", &[own("attach", server.by_url("/always-deny"), rule)]);
    let (code, refused) = https.call("POST", &format!("{PODS}/attached/attach?container=c&stdin=true"));
    assert_eq!(code, 400);
    assert!(
        refused["message"]
            .as_str()
            .unwrap()
            .ends_with("denied the request: this webhook denies all requests")
    );
    drop(configured);
    end(https, "attached");
}

pub(super) fn pods_and_maps_denied(https: &Https) {
    let server = server(https);
    let exempting = |name: &str, path: &str, rule: Value| {
        let more = json!({"timeoutSeconds": 1, "namespaceSelector": {"matchExpressions":
            [{"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["exempt"]}]}});
        hook(name, server.by_url(path), rule, &more)
    };
    let pods = exempting("pods", "/pods", rule(&["CREATE"], "", "v1", "pods"));
    let hooks = [pods, exempting("maps", "/configmaps", maps())];
    let _configured = configure(https, VALIDATING, "denying", &hooks);
    let (code, refused) = post(https, PODS, &pod("bad", &bad()));
    assert_eq!(code, 400);
    assert!(refused["message"].as_str().unwrap().contains("the pod contains unwanted label"));
    let (code, refused) = post(https, PODS, &pod("wait-forever", &json!({})));
    let message = refused["message"].as_str().unwrap();
    assert_eq!(code, 500);
    assert!(message.contains("deadline") || message.contains("timeout"), "{message}");
    assert_eq!(get(https, &format!("{PODS}/wait-forever")).0, 404);
    let (code, refused) = post(https, MAPS, &map("bad", &bad()));
    assert_eq!(code, 400);
    assert!(refused["message"].as_str().unwrap().contains("the configmap contains unwanted key and value"));
    assert_eq!(post(https, MAPS, &map("good", &json!({}))).0, 201);
    assert_eq!(https.send("PUT", &format!("{MAPS}/good"), JSON, &map("good", &bad())).0, 400);
    assert_eq!(merge(https, &format!("{MAPS}/good"), &json!({"data": bad()})).0, 400);
    super::namespace(https, "exempt");
    assert_eq!(post(https, "/api/v1/namespaces/exempt/configmaps", &map("bad", &bad())).0, 201);
    removed(https, &["good"]);
    assert_eq!(https.call("DELETE", "/api/v1/namespaces/exempt").0, 200);
}

pub(super) fn definitions_denied(https: &Https) {
    let server = server(https);
    let rule = rule(&["CREATE"], "apiextensions.k8s.io", "*", "customresourcedefinitions");
    let hook = hook("definitions", server.by_url("/always-deny"), rule, &json!({}));
    let _configured = configure(https, VALIDATING, "definitions", &[hook]);
    let (code, refused) = post(https, DEFINITIONS, &shipyard(&anything()));
    assert_eq!(code, 400);
    assert!(refused["message"].as_str().unwrap().contains("this webhook denies all requests"), "{refused}");
}

const SHIPS: &str = "/apis/knarr.test/v1/namespaces/conformance/ships";

/// Ships in two versions that are alike.
fn shipyard(data: &Value) -> Value {
    let schema = json!({"type": "object", "properties": {"data": data}});
    let mut definition = definition("knarr.test", "ships", "Ship", &schema);
    definition["spec"]["versions"] = json!([version("v1", true, &schema), version("v2", false, &schema)]);
    definition
}

fn define_ships<'a>(https: &'a Https, data: &Value) -> Defined<'a> {
    define(https, &shipyard(data))
}

fn ships(operations: &[&str]) -> Value {
    rule(operations, "knarr.test", "v1", "ships")
}

fn ship(name: &str, data: &Value) -> Value {
    json!({"apiVersion": "knarr.test/v1", "kind": "Ship", "metadata": {"name": name}, "data": data})
}

/// The hooks that add to each other's data.
fn stages(server: &WebhookServer, rule: &Value) -> Vec<Value> {
    let stages = ["/mutating-configmaps", "/mutating-configmaps-again"].iter().enumerate();
    stages.map(|(place, path)| own(&format!("stage-{place}"), server.by_url(path), rule.clone())).collect()
}

pub(super) fn custom_resources_denied(https: &Https) {
    let server = server(https);
    let _defined = define_ships(https, &anything());
    assert_eq!(post(https, SHIPS, &ship("good", &json!({}))).0, 201);
    let writes = own("ships", server.by_url("/configmaps"), ships(&["CREATE", "UPDATE"]));
    let ends = own("ends", server.by_url("/always-deny"), ships(&["DELETE"]));
    let _configured = configure(https, VALIDATING, "ships", &[writes, ends]);
    assert_eq!(post(https, SHIPS, &ship("bad", &bad())).0, 400);
    let (code, refused) = merge(https, &format!("{SHIPS}/good"), &json!({"data": bad()}));
    assert_eq!(code, 400);
    assert!(refused["message"].as_str().unwrap().contains("unwanted key and value"), "{refused}");
    assert_eq!(https.call("DELETE", &format!("{SHIPS}/good")).0, 400);
    assert_eq!(get(https, &format!("{SHIPS}/good")).0, 200);
}

pub(super) fn custom_resources_changed(https: &Https) {
    let server = server(https);
    let _defined = define_ships(https, &anything());
    let _configured = configure(https, MUTATING, "ships", &stages(&server, &ships(&["CREATE"])));
    let (code, made) = post(https, SHIPS, &ship("changed", &started()));
    let wanted = json!({"mutation-start": "start", "mutation-stage-1": "yes", "mutation-stage-2": "yes"});
    assert_eq!((code, &made["data"]), (201, &wanted), "{made}");
}

pub(super) fn custom_resources_in_another_version(https: &Https) {
    let server = server(https);
    let defined = define_ships(https, &anything());
    let hooks = stages(&server, &ships(&["CREATE", "UPDATE"]));
    let _configured = configure(https, MUTATING, "ships", &hooks);
    assert_eq!(post(https, SHIPS, &ship("moved", &json!({"before": "1"}))).0, 201);
    let stored =
        json!({"spec": {"versions": [version("v1", false, &anything()), version("v2", true, &anything())]}});
    let (code, moved) = merge(https, &defined.path, &stored);
    assert_eq!(code, 200, "{moved}");
    let (code, patched) =
        merge(https, &format!("{SHIPS}/moved"), &json!({"data": {"mutation-start": "start"}}));
    assert_eq!((code, &patched["apiVersion"]), (200, &json!("knarr.test/v1")), "{patched}");
    assert_eq!([&patched["data"]["before"], &patched["data"]["mutation-stage-2"]], ["1", "yes"]);
}

pub(super) fn custom_resources_pruned(https: &Https) {
    let server = server(https);
    let text = json!({"type": "string"});
    let data = json!({"type": "object", "properties": {"mutation-start": text, "mutation-stage-1": text}});
    let _defined = define_ships(https, &data);
    let _configured = configure(https, MUTATING, "ships", &stages(&server, &ships(&["CREATE"])));
    let (code, made) = post(https, SHIPS, &ship("pruned", &started()));
    let wanted = json!({"mutation-start": "start", "mutation-stage-1": "yes"});
    assert_eq!((code, &made["data"]), (201, &wanted), "{made}");
}

pub(super) fn webhook_timeouts(https: &Https) {
    let server = server(https);
    for (timeout_s, policy, code) in [(1, "Fail", 500), (1, "Ignore", 201), (10, "Fail", 201)] {
        let mut hook = own("slow", server.by_url("/slow"), maps());
        hook["timeoutSeconds"] = json!(timeout_s);
        hook["failurePolicy"] = json!(policy);
        let _configured = configure(https, VALIDATING, "slow", &[hook]);
        let (told, answer) = post(https, MAPS, &map("slow", &json!({})));
        assert_eq!(told, code, "{timeout_s} {policy} {answer}");
        if code == 201 {
            removed(https, &["slow"]);
        }
    }
}

pub(super) fn webhooks_in_discovery(https: &Https) {
    let (_, groups) = get(https, "/apis");
    let groups = groups["groups"].as_array().unwrap();
    let group = groups.iter().find(|group| group["name"] == "admissionregistration.k8s.io").unwrap();
    let versions = group["versions"].as_array().unwrap();
    assert!(versions.contains(&json!({"groupVersion": "admissionregistration.k8s.io/v1", "version": "v1"})));
    let (_, list) = get(https, GROUP);
    for name in ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"] {
        assert!(list["resources"].as_array().unwrap().iter().any(|one| one["name"] == name), "{name}");
    }
}

pub(super) fn mutations_in_order(https: &Https) {
    let server = server(https);
    let hooks = stages(&server, &maps());
    let _configured = configure(https, MUTATING, "stages", &hooks);
    let (_, made) = post(https, MAPS, &map("staged", &started()));
    let wanted = json!({"mutation-start": "start", "mutation-stage-1": "yes", "mutation-stage-2": "yes"});
    assert_eq!(made["data"], wanted);
    removed(https, &["staged"]);
}

pub(super) fn conditions_skip_by_name(https: &Https) {
    let server = server(https);
    let mut hook = own("skip", server.by_url("/mutating-configmaps"), maps());
    hook["matchConditions"] = json!([{"name": "skip-me", "expression": "object.metadata.name != 'skip-me'"}]);
    let _configured = configure(https, MUTATING, "skip", &[hook]);
    assert_eq!(post(https, MAPS, &map("skip-me", &started())).1["data"], started());
    let (code, made) = post(https, MAPS, &map("mutate-me", &started()));
    assert!(is_changed(code, &made), "{made}");
    removed(https, &["skip-me", "mutate-me"]);
}

pub(super) fn defaults_after_mutation(https: &Https) {
    let server = server(https);
    let pods = rule(&["CREATE"], "", "v1", "pods");
    let configured =
        configure(https, MUTATING, "pods", &[own("pods", server.by_url("/mutating-pods"), pods)]);
    let (_, made) = post(https, PODS, &pod("changed", &json!({})));
    let added = &made["spec"]["initContainers"][0];
    assert_eq!(
        [&added["name"], &added["terminationMessagePolicy"]],
        ["webhook-added-init-container", "File"]
    );
    drop(configured);
    end(https, "changed");
}

/// Webhooks for configurations of webhooks are never called.
pub(super) fn configurations_are_exempt(https: &Https) {
    let server = server(https);
    let both = |operations: &[&str]| {
        let mut both =
            rule(operations, "admissionregistration.k8s.io", "*", "validatingwebhookconfigurations");
        both["resources"] = json!(["validatingwebhookconfigurations", "mutatingwebhookconfigurations"]);
        both
    };
    let deny = hook("deny", server.by_url("/always-deny"), both(&["DELETE"]), &json!({}));
    let mark = hook("mark", server.by_url("/mark"), both(&["CREATE"]), &json!({}));
    let _denying = configure(https, VALIDATING, "denying", &[deny]);
    let _marking = configure(https, MUTATING, "marking", &[mark]);
    for kind in [VALIDATING, MUTATING] {
        let made = configure(https, kind, "ordinary", &[own("any", server.by_url("/always-allow"), maps())]);
        assert_eq!(get(https, &made.path).1["metadata"]["labels"], Value::Null);
        assert_eq!(https.call("DELETE", &made.path).0, 200);
    }
    assert!(server.seen().is_empty());
}

/// Without an authority to trust a webhook cannot be called, and what it is for is refused.
pub(super) fn failing_closed(https: &Https) {
    let server = server(https);
    let mut config = server.by_url("/configmaps");
    config.as_object_mut().unwrap().remove("caBundle");
    let _configured = configure(https, VALIDATING, "closed", &[own("closed", config, maps())]);
    let (code, refused) = post(https, MAPS, &map("closed", &json!({})));
    assert_eq!((code, &refused["reason"]), (500, &json!("InternalError")), "{refused}");
}
