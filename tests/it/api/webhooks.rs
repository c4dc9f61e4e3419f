//! Admission webhooks, as their authors and those whose writes they see meet them.

use crate::support::cluster::{Cluster, SOON};
use crate::support::https::{APPLY, Answer, Https, JSON, MERGE};
use crate::support::process::wait_for;
use crate::support::webhook::{self as support, Act, Shows, WebhookServer, configure, patching, rule};
use http::StatusCode;
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/hooked/configmaps";
const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";

/// What the sample server does, by its path.
fn decide(path: &str, request: &Value) -> Act {
    let allowed = |response: Value| {
        let mut whole = json!({"allowed": true});
        ::api::patch::merge(&mut whole, &response).unwrap();
        Act::Review(whole)
    };
    let data = |key: &str, value: Value| {
        patching(&json!([{"op": "add", "path": format!("/data/{key}"), "value": value}]))
    };
    match path {
        "/deny" => Act::Review(json!({"allowed": false, "warnings": ["told anyway"],
            "status": {"code": 403, "message": "not today", "reason": "Forbidden"}})),
        "/mute" => Act::Review(json!({"allowed": false})),
        "/warn" => allowed(json!({"warnings": ["first", "second", "first"]})),
        "/hang" => Act::Hang,
        "/garbage" => Act::Raw(StatusCode::OK, "garbage".to_owned()),
        "/huge" => Act::Raw(StatusCode::OK, "x".repeat(6 << 20)),
        "/broken" => Act::Raw(StatusCode::INTERNAL_SERVER_ERROR, "broken".to_owned()),
        "/uid" => allowed(json!({"uid": "other"})),
        "/patchless" => allowed(json!({"patchType": "JSONPatch"})),
        "/first" => data("first", json!("1")),
        "/count" => data(
            "count",
            json!(format!("{}x", request["object"]["data"]["count"].as_str().unwrap_or_default())),
        ),
        "/unfit" => data("number", json!(7)),
        "/missing" => patching(&json!([{"op": "remove", "path": "/none"}])),
        "/label" => patching(&json!([{"op": "add", "path": "/metadata/labels", "value": {"hooked": "yes"}}])),
        "/replicas" => patching(&json!([{"op": "replace", "path": "/spec/replicas", "value": 3}])),
        "/accountless" => patching(
            &json!([{"op": "remove", "path": "/spec/serviceAccountName"}, {"op": "remove", "path": "/spec/serviceAccount"}]),
        ),
        "/container" => patching(&json!([{"op": "add", "path": "/container", "value": "chosen"}])),
        _ => allowed(json!({})),
    }
}

fn maps() -> Value {
    rule(&["*"], "", "v1", "configmaps")
}

/// One webhook for objects in the test's namespace.
fn hook(name: &str, config: Value, rule: Value, more: &Value) -> Value {
    let mut own = json!({"namespaceSelector": {"matchLabels": {"hooks": "on"}}});
    ::api::patch::merge(&mut own, more).unwrap();
    support::hook(name, config, rule, &own)
}

struct Test {
    https: Https,
    server: WebhookServer,
}

impl Test {
    /// Does something while webhooks are configured.
    fn with(&self, kind: &str, hooks: &[Value], act: impl FnOnce()) {
        let _configured = configure(&self.https, kind, "test", hooks);
        self.server.seen();
        act();
    }

    fn validating(&self, hooks: &[Value], act: impl FnOnce()) {
        self.with("ValidatingWebhookConfiguration", hooks, act);
    }

    fn mutating(&self, hooks: &[Value], act: impl FnOnce()) {
        self.with("MutatingWebhookConfiguration", hooks, act);
    }

    fn map(&self, name: &str) -> Answer {
        self.post(name, "")
    }

    fn post(&self, name: &str, query: &str) -> Answer {
        let map =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "b"}});
        self.https.ask("POST", &format!("{MAPS}{query}")).object(JSON, &map).send()
    }

    /// The message with which a new map is refused.
    fn refused(&self, name: &str) -> (u16, String) {
        let answer = self.map(name);
        let value = answer.value();
        (answer.code, value["message"].as_str().unwrap_or_default().to_owned())
    }

    fn url(&self, path: &str) -> Value {
        self.server.by_url(path)
    }

    /// Where the server was asked, in order.
    fn paths(&self) -> Vec<String> {
        self.server.seen().into_iter().map(|(path, _)| path).collect()
    }
}

fn start(cluster: &Cluster) -> Test {
    let https = Https::new(cluster);
    let names = ["127.0.0.1", "hook.hooked.svc"];
    let server = WebhookServer::start(&https, &names, Shows::Issued, decide);
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "hooked", "labels": {"hooks": "on"}}});
    assert_eq!(https.send("POST", "/api/v1/namespaces", JSON, &namespace).0, 201);
    wait_for("what every namespace is given", SOON, || {
        let given = ["configmaps/kube-root-ca.crt", "serviceaccounts/default"];
        let all =
            given.iter().all(|one| https.call("GET", &format!("/api/v1/namespaces/hooked/{one}")).0 == 200);
        all.then_some(())
    });
    Test { https, server }
}

#[test]
fn webhooks_judge_and_change_what_is_written() {
    let cluster = Cluster::control_plane();
    let test = start(&cluster);
    reviews(&test);
    denials(&test);
    mutations(&test);
    reinvocations(&test);
    warnings(&test);
    conditions(&test);
    selections(&test);
    versions(&test);
    dry_runs(&test);
    subresources(&test);
    configurations(&test);
    services(&test);
}

/// A webhook that refuses everything, and that nobody answers for yet, does not keep the cluster from starting.
#[test]
fn webhooks_do_not_lock_a_cluster_out() {
    let mut cluster = Cluster::control_plane();
    let role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/view";
    let https = Https::new(&cluster);
    assert_eq!(https.call("DELETE", role).0, 200);
    let everything = rule(&["CREATE", "UPDATE"], "*", "*", "*/*");
    let nowhere = json!({"service": {"namespace": "default", "name": "none"}});
    let hook = support::hook("all", nowhere, everything, &json!({}));
    let configured = configure(&https, "ValidatingWebhookConfiguration", "all", &[hook]);
    assert_eq!(cluster.stop("TERM"), 0);
    cluster.start();
    let https = Https::new(&cluster);
    assert_eq!(https.call("GET", role).0, 404);
    assert_eq!(https.call("DELETE", &configured.path).0, 200);
    wait_for("the role that was missing", SOON, || (https.call("GET", role).0 == 200).then_some(()));
}

#[test]
fn webhooks_that_fail_hurt_only_what_they_match() {
    let cluster = Cluster::control_plane();
    let test = start(&cluster);
    failures(&test);
    policies(&test);
    hanging(&test);
    certificates(&test);
}

/// What a webhook is told.
fn reviews(test: &Test) {
    let hooks = [hook("all", test.url("/all"), maps(), &json!({}))];
    test.validating(&hooks, || {
        assert_eq!(test.post("seen", "?fieldManager=me&fieldValidation=Strict").code, 201);
        let patch = json!({"data": {"a": "c"}});
        assert_eq!(test.https.send("PATCH", &format!("{MAPS}/seen"), MERGE, &patch).0, 200);
        let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}});
        let apply = format!("{MAPS}/applied?fieldManager=me");
        assert_eq!(test.https.send("PATCH", &apply, APPLY, &config).0, 201);
        let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"});
        assert_eq!(test.https.send("DELETE", &format!("{MAPS}/seen"), JSON, &options).0, 200);
        assert_eq!(test.https.call("DELETE", &format!("{MAPS}/applied")).0, 200);
        let seen = test.server.seen();
        let [create, update, apply, delete, _] = seen.as_slice() else { panic!("{seen:#?}") };
        assert_eq!(create.0, "/all?timeout=10s");
        let (create, update, apply, delete) = (&create.1, &update.1, &apply.1, &delete.1);
        let kind = json!({"group": "", "version": "v1", "kind": "ConfigMap"});
        let resource = json!({"group": "", "version": "v1", "resource": "configmaps"});
        assert_eq!([&create["kind"], &create["requestKind"]], [&kind, &kind]);
        assert_eq!([&create["resource"], &create["requestResource"]], [&resource, &resource]);
        assert_eq!([&create["name"], &create["namespace"], &create["operation"]], ["seen", "hooked", "CREATE"]);
        assert_eq!([&create["dryRun"], &create["oldObject"]], [&json!(false), &Value::Null]);
        assert_eq!(create["userInfo"]["username"], "system:admin");
        assert!(create["object"]["metadata"]["uid"].is_string(), "{create:#}");
        assert_eq!(
            create["options"],
            json!({"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1", "fieldManager": "me", "fieldValidation": "Strict"})
        );
        assert_eq!([&update["operation"], &update["options"]["kind"]], ["UPDATE", "UpdateOptions"]);
        assert_eq!([&update["object"]["data"]["a"], &update["oldObject"]["data"]["a"]], ["c", "b"]);
        assert_eq!([&apply["operation"], &apply["options"]["kind"]], ["CREATE", "CreateOptions"]);
        assert_eq!([&delete["operation"], &delete["options"]["propagationPolicy"]], ["DELETE", "Background"]);
        assert_eq!([&delete["object"], &delete["oldObject"]["data"]["a"]], [&Value::Null, &json!("c")]);
    });
}

fn denials(test: &Test) {
    test.validating(&[hook("deny", test.url("/deny"), maps(), &json!({}))], || {
        let answer = test.map("denied");
        let status = answer.value();
        assert_eq!((answer.code, &status["reason"]), (403, &json!("Forbidden")));
        assert_eq!(status["message"], "admission webhook \"deny.knarr.test\" denied the request: not today");
        assert_eq!(answer.header("warning"), "299 - \"told anyway\"");
        assert_eq!(test.https.call("GET", &format!("{MAPS}/denied")).0, 404);
    });
    test.mutating(&[hook("mute", test.url("/mute"), maps(), &json!({}))], || {
        let wanted = "admission webhook \"mute.knarr.test\" denied the request without explanation";
        assert_eq!(test.refused("denied"), (400, wanted.to_owned()));
    });
    let deleting = rule(&["DELETE"], "", "v1", "configmaps");
    assert_eq!(test.map("kept").code, 201);
    test.validating(&[hook("deny", test.url("/deny"), deleting, &json!({}))], || {
        assert_eq!(test.https.call("DELETE", &format!("{MAPS}/kept")).0, 403);
        assert_eq!(test.https.call("DELETE", MAPS).0, 403);
    });
    assert_eq!(test.https.call("DELETE", MAPS).0, 200);
}

fn mutations(test: &Test) {
    let one = |name: &str| hook(name, test.url(&format!("/{name}")), maps(), &json!({}));
    test.mutating(&[one("first"), one("label")], || {
        let made = test.map("changed").value();
        assert_eq!(made["data"], json!({"a": "b", "first": "1"}));
        assert_eq!(made["metadata"]["labels"], json!({"hooked": "yes"}));
    });
    test.mutating(&[one("unfit")], || {
        let (code, message) = test.refused("unfit");
        let wanted = "json: cannot unmarshal number into Go struct field ConfigMap.data of type string";
        assert_eq!((code, message), (500, format!("Internal error occurred: {wanted}")));
    });
    test.mutating(&[one("missing")], || assert_eq!(test.refused("missing").0, 500));
}

/// Those that saw the object before it was changed are asked again, once.
fn reinvocations(test: &Test) {
    let again = json!({"reinvocationPolicy": "IfNeeded"});
    let count = |more: &Value| hook("count", test.url("/count"), maps(), more);
    let first = hook("first", test.url("/first"), maps(), &json!({}));
    test.mutating(&[count(&again), first.clone()], || {
        assert_eq!(test.map("twice").value()["data"]["count"], "xx");
        assert_eq!(test.paths(), ["/count?timeout=10s", "/first?timeout=10s", "/count?timeout=10s"]);
    });
    test.mutating(&[count(&json!({})), first.clone()], || {
        assert_eq!(test.map("once").value()["data"]["count"], "x");
    });
    test.mutating(&[first, count(&again)], || {
        assert_eq!(test.map("last").value()["data"]["count"], "x");
    });
    // The server's own steps run again as well: the account that a webhook takes away is put back.
    let pods = rule(&["CREATE"], "", "v1", "pods");
    test.mutating(&[hook("accountless", test.url("/accountless"), pods, &json!({}))], || {
        let path = "/api/v1/namespaces/hooked/pods?dryRun=All";
        let (code, made) = test.https.send("POST", path, JSON, &pod());
        assert_eq!((code, &made["spec"]["serviceAccountName"]), (201, &json!("default")), "{made}");
        assert_eq!(made["spec"]["volumes"].as_array().map(Vec::len), Some(1), "{made}");
        assert_eq!(test.paths().len(), 1);
    });
}

fn pod() -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "x:1"}]}})
}

fn warnings(test: &Test) {
    test.validating(&[hook("warn", test.url("/warn"), maps(), &json!({}))], || {
        assert_eq!(test.map("warned").header("warning"), "299 - \"first\", 299 - \"second\"");
        let deleted = test.https.ask("DELETE", &format!("{MAPS}/warned")).send();
        assert_eq!((deleted.code, deleted.header("warning").matches("299").count()), (200, 2));
    });
}

fn conditions(test: &Test) {
    let conditional = |expressions: &[&str], more: &Value| {
        let list = expressions.iter().enumerate();
        let list: Vec<Value> =
            list.map(|(place, text)| json!({"name": format!("c{place}"), "expression": text})).collect();
        let mut hook = hook("deny", test.url("/deny"), maps(), more);
        hook["matchConditions"] = json!(list);
        hook
    };
    let met = [
        "object.metadata.name == 'met' && request.operation == 'CREATE'",
        "request.userInfo.username == 'system:admin' && !has(request.subResource) && oldObject == null",
        "authorizer.group('').resource('pods').namespace('hooked').check('delete').allowed()",
        "authorizer.requestResource.check('create').allowed()",
        "namespaceObject == null && request.options.kind == 'CreateOptions'",
    ];
    test.validating(&[conditional(&met, &json!({}))], || {
        assert_eq!(test.map("met").code, 403);
        assert_eq!(test.map("unmet").code, 201);
    });
    let failing = ["object.data.none == 'x'"];
    test.validating(&[conditional(&failing, &json!({}))], || {
        let wanted = "configmaps \"failing\" is forbidden: expression 'object.data.none == 'x'' resulted in error: no such key: none";
        assert_eq!(test.refused("failing"), (403, wanted.to_owned()));
    });
    test.validating(&[conditional(&failing, &json!({"failurePolicy": "Ignore"}))], || {
        assert_eq!(test.map("ignored").code, 201);
    });
    test.validating(&[conditional(&[failing[0], "false"], &json!({}))], || {
        assert_eq!(test.map("decided").code, 201, "what does not hold decides whatever fails");
    });
    let configuration = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "wrong"}, "webhooks": [conditional(&["object.x ==", "'text'"], &json!({}))]});
    let path = format!("{GROUP}/validatingwebhookconfigurations");
    let (code, refused) = test.https.send("POST", &path, JSON, &configuration);
    let message = refused["message"].as_str().unwrap();
    assert_eq!(code, 422);
    assert!(message.contains("webhooks[0].matchConditions[0].expression: Invalid value: \"object.x ==\": compilation failed: ERROR: <input>:1:12: Syntax error"), "{message}");
    assert!(message.contains("webhooks[0].matchConditions[1].expression: Invalid value: \"'text'\": must evaluate to bool but got string"), "{message}");
}

fn selections(test: &Test) {
    let selecting = json!({"objectSelector": {"matchLabels": {"pick": "me"}}});
    test.validating(&[hook("deny", test.url("/deny"), maps(), &selecting)], || {
        assert_eq!(test.map("unpicked").code, 201);
        let picked = json!({"metadata": {"labels": {"pick": "me"}}});
        assert_eq!(test.https.send("PATCH", &format!("{MAPS}/unpicked"), MERGE, &picked).0, 403);
    });
    test.validating(&[hook("deny", test.url("/deny"), maps(), &json!({}))], || {
        let elsewhere = "/api/v1/namespaces/default/configmaps";
        assert_eq!(test.https.send("POST", elsewhere, JSON, &super::map("elsewhere")).0, 201);
    });
    let namespaces = rule(&["CREATE", "UPDATE"], "", "v1", "namespaces");
    test.validating(&[hook("deny", test.url("/deny"), namespaces, &json!({}))], || {
        let namespace = |name: &str, on: &str| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"hooks": on}}});
        let make = |name: &str, on: &str| test.https.send("POST", "/api/v1/namespaces", JSON, &namespace(name, on)).0;
        assert_eq!((make("judged", "on"), make("exempt", "off")), (403, 201));
        let seen = test.server.seen();
        assert_eq!([&seen[0].1["name"], &seen[0].1["namespace"]], ["judged", "judged"]);
    });
}

/// An object is shown in the version that a webhook asks for, and a patch in that version counts.
fn versions(test: &Test) {
    let scalers = "/apis/autoscaling/v1/namespaces/hooked/horizontalpodautoscalers";
    let scaler = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
        "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 50, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}});
    let newer = rule(&["*"], "autoscaling", "v2", "horizontalpodautoscalers");
    test.mutating(&[hook("label", test.url("/label"), newer.clone(), &json!({}))], || {
        let (code, made) = test.https.send("POST", scalers, JSON, &scaler);
        assert_eq!(
            (code, &made["apiVersion"], &made["metadata"]["labels"]["hooked"]),
            (201, &json!("autoscaling/v1"), &json!("yes")),
            "{made}"
        );
        let (_, asked) = test.server.seen().remove(0);
        assert_eq!([&asked["kind"]["version"], &asked["requestKind"]["version"]], ["v2", "v1"]);
        assert_eq!(asked["object"]["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 50);
    });
    let exact = json!({"matchPolicy": "Exact"});
    test.validating(&[hook("deny", test.url("/deny"), newer, &exact)], || {
        assert_eq!(test.https.call("DELETE", &format!("{scalers}/h")).0, 200);
    });
    let beta = json!({"admissionReviewVersions": ["v2", "v1beta1", "v1"]});
    test.mutating(&[hook("label", test.url("/label"), maps(), &beta)], || {
        assert_eq!(test.map("beta").value()["metadata"]["labels"]["hooked"], "yes");
    });
}

fn dry_runs(test: &Test) {
    test.validating(
        &[hook("all", test.url("/all"), maps(), &json!({"sideEffects": "NoneOnDryRun"}))],
        || {
            assert_eq!(test.post("dry", "?dryRun=All").code, 201);
            let (_, asked) = test.server.seen().remove(0);
            assert_eq!((&asked["dryRun"], &asked["options"]["dryRun"]), (&json!(true), &json!(["All"])));
            assert_eq!(test.https.call("GET", &format!("{MAPS}/dry")).0, 404);
        },
    );
}

fn subresources(test: &Test) {
    let deployments = "/apis/apps/v1/namespaces/hooked/deployments";
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"replicas": 0,
        "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "x:1"}]}}}});
    assert_eq!(test.https.send("POST", deployments, JSON, &deployment).0, 201);
    let scales = rule(&["UPDATE"], "*", "*", "*/scale");
    test.mutating(&[hook("replicas", test.url("/replicas"), scales, &json!({}))], || {
        let (code, scale) = test.https.send(
            "PATCH",
            &format!("{deployments}/d/scale"),
            MERGE,
            &json!({"spec": {"replicas": 1}}),
        );
        assert_eq!((code, &scale["spec"]["replicas"]), (200, &json!(3)), "{scale}");
        let (_, asked) = test.server.seen().remove(0);
        assert_eq!(asked["kind"], json!({"group": "autoscaling", "version": "v1", "kind": "Scale"}));
        assert_eq!([&asked["subResource"], &asked["requestSubResource"]], ["scale", "scale"]);
        assert_eq!(
            [&asked["object"]["spec"]["replicas"], &asked["oldObject"]["kind"]],
            [&json!(1), &json!("Scale")]
        );
    });
    let pods = "/api/v1/namespaces/hooked/pods";
    let (code, made) = test.https.send("POST", pods, JSON, &pod());
    assert_eq!(code, 201, "{made}");
    let doors = rule(&["*"], "", "v1", "pods/*");
    test.validating(&[hook("deny", test.url("/deny"), doors, &json!({}))], || {
        let status = json!({"status": {"phase": "Running"}});
        assert_eq!(test.https.send("PATCH", &format!("{pods}/p/status"), MERGE, &status).0, 403);
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
        assert_eq!(test.https.send("POST", &format!("{pods}/p/eviction"), JSON, &eviction).0, 403);
        let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
        assert_eq!(test.https.send("POST", &format!("{pods}/p/binding"), JSON, &binding).0, 403);
        assert_eq!(test.https.call("POST", &format!("{pods}/p/exec?command=sh&stdin=true")).0, 403);
        assert_eq!(test.https.call("GET", &format!("{pods}/p/proxy/some/path")).0, 403);
        let seen = test.server.seen();
        let kinds: Vec<&str> = seen.iter().filter_map(|(_, asked)| asked["kind"]["kind"].as_str()).collect();
        let (_, exec) = seen.iter().find(|(_, asked)| asked["subResource"] == "exec").unwrap();
        assert_eq!([&exec["operation"], &exec["options"]], [&json!("CONNECT"), &Value::Null]);
        assert_eq!(exec["object"], json!({"kind": "PodExecOptions", "apiVersion": "v1", "command": ["sh"], "stdin": true}));
        for wanted in ["Pod", "Eviction", "Binding", "PodExecOptions", "PodProxyOptions"] {
            assert!(kinds.contains(&wanted), "{wanted} in {kinds:?}");
        }
    });
    // What carries an eviction out is no deletion of its own.
    test.validating(
        &[hook("deny", test.url("/deny"), rule(&["DELETE"], "", "v1", "pods"), &json!({}))],
        || {
            let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
            assert_eq!(test.https.send("POST", &format!("{pods}/p/eviction"), JSON, &eviction).0, 201);
        },
    );
    let execs = rule(&["CONNECT"], "", "v1", "pods/exec");
    assert_eq!(test.https.send("POST", pods, JSON, &pod()).0, 201);
    test.mutating(&[hook("container", test.url("/container"), execs, &json!({}))], || {
        let (code, refused) = test.https.call("POST", &format!("{pods}/p/exec?command=sh"));
        assert_eq!((code, &refused["message"]), (400, &json!("container chosen is not valid for pod p")));
    });
}

/// Nobody can lock the removal of a webhook out.
fn configurations(test: &Test) {
    let everything =
        json!({"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"]});
    let anywhere = json!({"namespaceSelector": null, "matchConditions": [{"name": "admin", "expression": "request.userInfo.username == 'system:admin'"}]});
    test.validating(&[hook("deny", test.url("/deny"), everything, &anywhere)], || {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "none"}});
        assert_eq!(test.https.send("POST", "/api/v1/namespaces", JSON, &namespace).0, 403);
        let patch = json!({"metadata": {"labels": {"a": "b"}}});
        let path = format!("{GROUP}/validatingwebhookconfigurations/test");
        assert_eq!(test.https.send("PATCH", &path, MERGE, &patch).0, 200);
    });
}

/// A service leads to its endpoints, over connections that are kept.
fn services(test: &Test) {
    let config = json!({"service": {"namespace": "hooked", "name": "hook", "path": "/first", "port": 8443}, "caBundle": test.server.bundle});
    test.mutating(&[hook("first", config, maps(), &json!({}))], || {
        let call = "Internal error occurred: failed calling webhook \"first.knarr.test\": failed to call webhook: Post \"https://hook.hooked.svc:8443/first?timeout=10s\"";
        assert_eq!(test.refused("early"), (500, format!("{call}: service \"hook\" not found")));
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "hook"}, "spec": {"ports": [{"name": "https", "port": 8443}]}});
        assert_eq!(test.https.send("POST", "/api/v1/namespaces/hooked/services", JSON, &service).0, 201);
        assert_eq!(test.refused("early"), (500, format!("{call}: no endpoints available for service \"hook\"")));
        let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "hook", "labels": {"kubernetes.io/service-name": "hook"}},
            "endpoints": [{"addresses": ["10.99.0.2"]}], "ports": [{"name": "https", "port": test.server.port}]});
        let slices = "/apis/discovery.k8s.io/v1/namespaces/hooked/endpointslices";
        assert_eq!(test.https.send("POST", slices, JSON, &slice).0, 201);
        let before = test.server.connections();
        for name in ["by-service", "again", "once-more"] {
            assert_eq!(test.map(name).value()["data"]["first"], "1");
        }
        assert_eq!(test.server.connections(), before + 1);
    });
}

/// What is said of answers that are none.
fn failures(test: &Test) {
    let said = |path: &str, why: &str| {
        test.mutating(&[hook("bad", test.url(path), maps(), &json!({}))], || {
            let wanted = format!("Internal error occurred: failed calling webhook \"bad.knarr.test\": {why}");
            assert_eq!(test.refused("bad"), (500, wanted), "{path}");
        });
    };
    said(
        "/garbage",
        r#"failed to call webhook: couldn't get version/kind; json parse error: json: cannot unmarshal string into Go value of type struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#,
    );
    said(
        "/huge",
        "failed to call webhook: unexpected error when reading response body. Please retry. Original error: the body is larger than 5242880 bytes",
    );
    said(
        "/broken",
        "failed to call webhook: an error on the server (\"broken\") has prevented the request from succeeding",
    );
    said(
        "/patchless",
        "received invalid webhook response: webhook returned response.patchType but not response.patch",
    );
    test.mutating(&[hook("bad", test.url("/uid"), maps(), &json!({}))], || {
        let message = test.refused("bad").1;
        assert!(message.contains("received invalid webhook response: expected response.uid=\""), "{message}");
    });
    test.validating(&[hook("bad", test.url("/first"), maps(), &json!({}))], || {
        let message = test.refused("bad").1;
        assert!(
            message.ends_with(
                "received invalid webhook response: validating webhook may not return response.patch"
            ),
            "{message}"
        );
    });
}

/// A webhook that cannot be called is no obstacle where its policy says so.
fn policies(test: &Test) {
    let nowhere = json!({"url": "https://127.0.0.1:1/x", "caBundle": test.server.bundle});
    test.validating(&[hook("gone", nowhere.clone(), maps(), &json!({}))], || {
        let why = "failed to call webhook: Post \"https://127.0.0.1:1/x?timeout=10s\": dial tcp 127.0.0.1:1: connect: connection refused";
        let wanted = format!("Internal error occurred: failed calling webhook \"gone.knarr.test\": {why}");
        assert_eq!(test.refused("gone"), (500, wanted));
    });
    let open = json!({"failurePolicy": "Ignore"});
    let deny = hook("deny", test.url("/deny"), maps(), &open);
    test.validating(&[hook("gone", nowhere.clone(), maps(), &open)], || {
        assert_eq!(test.map("open").code, 201)
    });
    test.mutating(&[hook("gone", nowhere.clone(), maps(), &open)], || {
        assert_eq!(test.map("open2").code, 201)
    });
    test.validating(&[hook("gone", nowhere, maps(), &open), deny], || {
        assert_eq!(test.map("open3").code, 403, "a refusal is no failure");
    });
}

/// A webhook that hangs holds up what it matches until its time is over, and nothing else.
fn hanging(test: &Test) {
    let hook = hook("slow", test.url("/hang"), maps(), &json!({"timeoutSeconds": 5}));
    test.validating(&[hook], || {
        let wanted = format!("Internal error occurred: failed calling webhook \"slow.knarr.test\": failed to call webhook: Post \"https://127.0.0.1:{}/hang?timeout=5s\": context deadline exceeded", test.server.port);
        let before = test.server.connections();
        std::thread::scope(|scope| {
            let slow: Vec<_> =
                (0..20).map(|place| scope.spawn(move || test.refused(&format!("slow-{place}")))).collect();
            wait_for("webhooks that hang", SOON, || (test.server.connections() >= before + 20).then_some(()));
            for place in 0..20 {
                let name = format!("quick-{place}");
                let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}});
                assert_eq!(test.https.send("POST", "/api/v1/namespaces/hooked/secrets", JSON, &secret).0, 201);
            }
            assert!(slow.iter().all(|call| !call.is_finished()), "others had to wait");
            for call in slow {
                assert_eq!(call.join().unwrap(), (500, wanted.clone()));
            }
        });
    });
}

fn certificates(test: &Test) {
    let said = |server: &WebhookServer, config: Value| {
        let hook = hook("tls", config, maps(), &json!({}));
        let mut told = String::new();
        test.validating(&[hook], || told = test.refused("tls").1);
        let place = format!(
            "Internal error occurred: failed calling webhook \"tls.knarr.test\": failed to call webhook: Post \"https://127.0.0.1:{}/all?timeout=10s\": ",
            server.port
        );
        told.strip_prefix(&place).map_or(told.clone(), str::to_owned)
    };
    let start = |names: &[&str], shows| WebhookServer::start(&test.https, names, shows, decide);
    let expired = start(&["127.0.0.1"], Shows::Expired);
    let old = "tls: failed to verify certificate: x509: certificate has expired or is not yet valid";
    assert!(said(&expired, expired.by_url("/all")).starts_with(old));
    let other = start(&["other.test"], Shows::Issued);
    let named = "tls: failed to verify certificate: x509: cannot validate certificate for 127.0.0.1 because it doesn't contain any IP SANs";
    assert_eq!(said(&other, other.by_url("/all")), named);
    let unknown = "tls: failed to verify certificate: x509: certificate signed by unknown authority";
    let foreign = json!({"url": test.url("/all")["url"], "caBundle": other.bundle});
    assert_eq!(said(&test.server, foreign), unknown);
    let own = start(&["127.0.0.1"], Shows::OwnAuthority);
    test.validating(&[hook("own", own.by_url("/all"), maps(), &json!({}))], || {
        assert_eq!(test.map("own").code, 201);
    });
}
