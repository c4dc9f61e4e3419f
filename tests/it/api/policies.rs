//! Admission policies, as those who write them and those whose writes they judge meet them.

use crate::support::cluster::{Cluster, SOON};
use crate::support::https::{Answer, Https, JSON};
use crate::support::process::wait_for;
use serde_json::{Value, json};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/judged/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/judged/deployments";

struct Test {
    https: Https,
}

impl Test {
    #[track_caller]
    fn made(&self, path: &str, object: &Value) -> Value {
        let (code, made) = self.https.send("POST", path, JSON, object);
        assert_eq!(code, 201, "{made}");
        made
    }

    fn map(&self, name: &str, data: &Value) -> Answer {
        self.https.ask("POST", MAPS).object(JSON, &json!({"metadata": {"name": name}, "data": data})).send()
    }

    /// With a policy of a kind in force.
    #[track_caller]
    fn with(&self, kind: &str, (spec, binding): (&Value, &Value), work: impl FnOnce()) {
        let plural = if kind == "Validating" { "validating" } else { "mutating" };
        let policies = format!("{GROUP}/{plural}admissionpolicies");
        let bindings = format!("{GROUP}/{plural}admissionpolicybindings");
        self.made(&policies, &json!({"metadata": {"name": "p"}, "spec": spec}));
        let mut bound = json!({"policyName": "p", "matchResources": {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "judged"}}}});
        if kind == "Validating" {
            bound["validationActions"] = json!(["Deny"]);
        }
        ::api::patch::merge(&mut bound, binding).unwrap();
        self.made(&bindings, &json!({"metadata": {"name": "b"}, "spec": bound}));
        work();
        assert_eq!(self.https.call("DELETE", &format!("{bindings}/b")).0, 200);
        assert_eq!(self.https.call("DELETE", &format!("{policies}/p")).0, 200);
    }
}

fn rule(group: &str, resource: &str) -> Value {
    json!({"apiGroups": [group], "apiVersions": ["*"], "operations": ["*"], "resources": [resource]})
}

/// A specification for config maps, with more in it.
fn maps(more: &Value) -> Value {
    let mut spec = json!({"matchConstraints": {"resourceRules": [rule("", "configmaps")]}});
    ::api::patch::merge(&mut spec, more).unwrap();
    spec
}

fn validations(list: &Value) -> Value {
    maps(&json!({"validations": list}))
}

#[track_caller]
fn refused(answer: &Answer, (code, reason): (u16, &str), message: &str) {
    let status = answer.value();
    assert_eq!(
        (answer.code, &status["reason"], &status["message"]),
        (code, &json!(reason), &json!(message)),
        "{status}"
    );
}

#[test]
fn policies_judge_and_change_what_is_written() {
    let cluster = Cluster::control_plane();
    let test = Test { https: Https::new(&cluster) };
    test.made("/api/v1/namespaces", &json!({"metadata": {"name": "judged"}}));
    rules(&test);
    words(&test);
    variables(&test);
    matching(&test);
    actions(&test);
    parameters(&test);
    failures(&test);
    broken(&test);
    checked(&test);
    configurations(&test);
    patches(&test);
    reinvocation(&test);
}

const DENIED: &str = "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: ";

fn rules(test: &Test) {
    let spec = validations(&json!([{"expression": "!has(object.data) || !('secret' in object.data)"}]));
    test.with("Validating", (&spec, &json!({})), || {
        assert_eq!(test.map("fine", &json!({"a": "b"})).code, 201);
        let why = format!(
            "configmaps \"wrong\" is forbidden: {DENIED}failed expression: !has(object.data) || !('secret' in object.data)"
        );
        let answer = test.map("wrong", &json!({"secret": "s"}));
        refused(&answer, (422, "Invalid"), &why);
        let cause = format!("{DENIED}failed expression: !has(object.data) || !('secret' in object.data)");
        let details = json!({"name": "wrong", "kind": "configmaps", "causes": [{"message": cause}]});
        assert_eq!(answer.value()["details"], details);
        // Changes are judged as well, and what is elsewhere is not.
        let change = json!({"data": {"secret": "s"}});
        let merge = crate::support::https::MERGE;
        let answer = test.https.ask("PATCH", &format!("{MAPS}/fine")).object(merge, &change).send();
        assert_eq!(answer.code, 422);
        let elsewhere = "/api/v1/namespaces/default/configmaps";
        test.made(elsewhere, &json!({"metadata": {"name": "other"}, "data": {"secret": "s"}}));
    });
    assert_eq!(test.map("late", &json!({"secret": "s"})).code, 201);
    let spec = validations(
        &json!([{"expression": "oldObject == null || object == null || object.data == oldObject.data",
        "message": " may not change ", "reason": "Forbidden"}]),
    );
    test.with("Validating", (&spec, &json!({})), || {
        let change = json!({"data": {"a": "c"}});
        let merge = crate::support::https::MERGE;
        let answer = test.https.ask("PATCH", &format!("{MAPS}/fine")).object(merge, &change).send();
        let why = format!("configmaps \"fine\" is forbidden: {DENIED}may not change");
        refused(&answer, (403, "Forbidden"), &why);
        assert_eq!(test.https.call("DELETE", &format!("{MAPS}/fine")).0, 200);
    });
}

fn words(test: &Test) {
    let wrong = |rule: &Value| {
        let mut rule = rule.clone();
        rule["expression"] = json!("false");
        let mut told = String::new();
        test.with("Validating", (&validations(&json!([rule])), &json!({})), || {
            told = test.map("told", &json!({"a": "b"})).value()["message"].as_str().unwrap().to_owned();
        });
        told.strip_prefix(&format!("configmaps \"told\" is forbidden: {DENIED}")).map(str::to_owned).unwrap()
    };
    let words = "'no ' + object.metadata.name + ' by ' + request.userInfo.username + ' in ' + namespaceObject.metadata.name";
    assert_eq!(
        wrong(&json!({"messageExpression": words, "message": "other"})),
        "no told by system:admin in judged"
    );
    assert_eq!(wrong(&json!({"messageExpression": "'  '", "message": "plain"})), "plain");
    assert_eq!(wrong(&json!({"messageExpression": "'a\\nb'", "message": "plain"})), "plain");
    assert_eq!(wrong(&json!({"messageExpression": "string(object.nope)"})), "failed expression: false");
}

fn variables(test: &Test) {
    let spec = maps(&json!({
        "variables": [
            {"name": "keys", "expression": "has(object.data) ? object.data.map(key, key) : []"},
            {"name": "many", "expression": "size(variables.keys) > 2"},
            {"name": "unused", "expression": "object.nope.nope"},
        ],
        "validations": [{"expression": "!variables.many", "messageExpression": "'too many: ' + string(size(variables.keys))"}],
    }));
    test.with("Validating", (&spec, &json!({})), || {
        assert_eq!(test.map("few", &json!({"a": "1"})).code, 201);
        let why = format!("configmaps \"many\" is forbidden: {DENIED}too many: 3");
        refused(&test.map("many", &json!({"a": "1", "b": "2", "c": "3"})), (422, "Invalid"), &why);
    });
}

fn matching(test: &Test) {
    let spec = maps(&json!({
        "matchConstraints": {"excludeResourceRules": [{"apiGroups": [""], "apiVersions": ["*"], "operations": ["*"],
            "resources": ["configmaps"], "resourceNames": ["spared"]}]},
        "matchConditions": [{"name": "not-admins", "expression": "!('free' in object.metadata.?labels.orValue({}))"}],
        "validations": [{"expression": "false"}],
    }));
    let binding = json!({"matchResources": {"objectSelector": {"matchExpressions": [{"key": "skip", "operator": "DoesNotExist"}]}}});
    test.with("Validating", (&spec, &binding), || {
        assert_eq!(test.map("meant", &json!({})).code, 422);
        assert_eq!(test.map("spared", &json!({})).code, 201);
        for label in ["free", "skip"] {
            test.made(MAPS, &json!({"metadata": {"name": label, "labels": {label: "yes"}}}));
        }
    });
    // Policies say nothing about policies, so that they can be removed.
    let all = json!({"matchConstraints": {"resourceRules": [rule("*", "*")]}, "validations": [{"expression": "false"}]});
    test.with("Validating", (&all, &json!({"matchResources": null})), || {
        assert_eq!(test.map("nothing", &json!({})).code, 422);
    });
}

fn actions(test: &Test) {
    let spec = validations(&json!([{"expression": "false", "message": "odd"}]));
    test.with("Validating", (&spec, &json!({"validationActions": ["Warn", "Audit"]})), || {
        let answer = test.map("warned", &json!({}));
        assert_eq!(answer.code, 201);
        let warning = "299 - \"Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': odd\"";
        assert_eq!(answer.header("warning"), warning);
    });
}

fn parameters(test: &Test) {
    let spec = maps(&json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "validations": [{"expression": "object.data.size < params.data.most", "messageExpression": "'less than ' + params.data.most"}]}));
    test.made(
        MAPS,
        &json!({"metadata": {"name": "limits", "labels": {"limits": "yes"}}, "data": {"most": "5"}}),
    );
    let large = json!({"size": "7"});
    let denied = |answer: &Answer, why: &str| {
        let name = answer.value()["details"]["name"].as_str().unwrap().to_owned();
        refused(answer, (422, "Invalid"), &format!("configmaps \"{name}\" is forbidden: {DENIED}{why}"));
    };
    let by_name = json!({"paramRef": {"name": "limits", "parameterNotFoundAction": "Deny"}});
    test.with("Validating", (&spec, &by_name), || {
        denied(&test.map("large", &large), "less than 5");
        assert_eq!(test.map("small", &json!({"size": "3"})).code, 201);
    });
    let labels = json!({"matchLabels": {"limits": "yes"}});
    let by_labels =
        json!({"paramRef": {"selector": labels, "namespace": "judged", "parameterNotFoundAction": "Allow"}});
    test.with("Validating", (&spec, &by_labels), || denied(&test.map("large", &large), "less than 5"));
    let missing = |action: &str| json!({"paramRef": {"name": "none", "parameterNotFoundAction": action}});
    test.with("Validating", (&spec, &missing("Deny")), || {
        let why = "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction";
        denied(&test.map("large", &large), why);
    });
    test.with("Validating", (&spec, &missing("Allow")), || assert_eq!(test.map("allowed", &large).code, 201));
    let mut unknown = spec.clone();
    unknown["paramKind"] = json!({"apiVersion": "none.example/v1", "kind": "None"});
    test.with("Validating", (&unknown, &by_name), || {
        let why = "configmaps \"x\" is forbidden: ValidatingAdmissionPolicy 'p' denied request: failed to configure policy: failed to find resource referenced by paramKind: 'none.example/v1, Kind=None'";
        refused(&test.map("x", &large), (422, "Invalid"), why);
    });
}

fn failures(test: &Test) {
    let spec = validations(&json!([{"expression": "object.data.none == 'x'"}]));
    test.with("Validating", (&spec, &json!({})), || {
        let why = format!(
            "configmaps \"x\" is forbidden: {DENIED}expression 'object.data.none == 'x'' resulted in error: no such key: none"
        );
        refused(&test.map("x", &json!({"a": "b"})), (422, "Invalid"), &why);
    });
    let mut ignoring = spec;
    ignoring["failurePolicy"] = json!("Ignore");
    test.with("Validating", (&ignoring, &json!({})), || {
        assert_eq!(test.map("ignored", &json!({"a": "b"})).code, 201)
    });
    let numbers: Vec<i32> = (0..60).collect();
    let costly = format!("{numbers:?}.all(a, {numbers:?}.all(b, {numbers:?}.all(c, a + b + c >= 0)))");
    let spec = validations(&json!([{"expression": "true"}, {"expression": costly}]));
    test.with("Validating", (&spec, &json!({})), || {
        let answer = test.map("costly", &json!({}));
        let message = answer.value()["message"].as_str().unwrap().to_owned();
        assert!(message.ends_with("operation cancelled: actual cost limit exceeded"), "{message}");
    });
}

/// Policies that cannot be compiled are not taken.
fn broken(test: &Test) {
    let said = |plural: &str, spec: &Value| {
        let policy = json!({"metadata": {"name": "broken"}, "spec": spec});
        let (code, status) = test.https.send("POST", &format!("{GROUP}/{plural}"), JSON, &policy);
        assert_eq!(code, 422, "{status}");
        let causes = status["details"]["causes"].as_array().unwrap();
        causes
            .iter()
            .map(|cause| {
                format!("{}: {}", cause["field"].as_str().unwrap(), cause["message"].as_str().unwrap())
            })
            .collect::<Vec<_>>()
    };
    let spec = maps(&json!({
        "variables": [{"name": "a", "expression": "1"}, {"name": "b", "expression": "variables.c"}],
        "validations": [{"expression": "variables.a", "messageExpression": "1"}],
        "auditAnnotations": [{"key": "k", "valueExpression": "true"}],
    }));
    assert_eq!(
        said("validatingadmissionpolicies", &spec),
        [
            "spec.variables[1].expression: Invalid value: \"variables.c\": compilation failed: ERROR: <input>:1:10: undefined field 'c'\n | variables.c\n | .........^",
            "spec.validations[0].expression: Invalid value: \"variables.a\": must evaluate to bool but got int",
            "spec.validations[0].messageExpression: Invalid value: \"1\": must evaluate to string but got int",
            "spec.auditAnnotations[0].valueExpression: Invalid value: \"true\": must evaluate to one of [string null_type] but got bool",
        ]
    );
    let spec = maps(&json!({"reinvocationPolicy": "Never", "mutations": [
        {"patchType": "JSONPatch", "jsonPatch": {"expression": "[]"}},
        {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "{}"}}]}));
    let said = said("mutatingadmissionpolicies", &spec);
    assert_eq!(
        said[0],
        "spec.mutations[0].jsonPatch.expression: Invalid value: \"[]\": must evaluate to list(JSONPatch) but got list(dyn)"
    );
    assert!(said[1].contains("must evaluate to Object but got map("), "{said:?}");
}

/// Expressions that do not fit the kinds that they are for are told in the status.
fn checked(test: &Test) {
    let spec = json!({"matchConstraints": {"resourceRules": [rule("apps", "deployments"), rule("", "pods")]},
        "variables": [{"name": "replicas", "expression": "object.spec.replicas"}],
        "validations": [{"expression": "object.spec.replicas > 1"}, {"expression": "variables.replicas == 'x'"}, {"expression": "true"}]});
    let mut spec = spec;
    for (rule, version) in
        spec["matchConstraints"]["resourceRules"].as_array_mut().unwrap().iter_mut().zip(["v1", "v1"])
    {
        rule["apiVersions"] = json!([version]);
    }
    test.with("Validating", (&spec, &json!({})), || {
        let status = wait_for("the status of a policy", SOON, || {
            let (_, policy) = test.https.call("GET", &format!("{GROUP}/validatingadmissionpolicies/p"));
            (policy["status"]["observedGeneration"] == 1).then(|| policy["status"].clone())
        });
        let warnings = status["typeChecking"]["expressionWarnings"].as_array().unwrap();
        assert_eq!(warnings.len(), 2, "{status}");
        let first = "/v1, Kind=Pod: ERROR: <input>:1:12: undefined field 'replicas'\n | object.spec.replicas > 1\n | ...........^\n";
        assert_eq!(warnings[0], json!({"fieldRef": "spec.validations[0].expression", "warning": first}));
        assert_eq!(warnings[1]["fieldRef"], "spec.validations[1].expression");
        let second = warnings[1]["warning"].as_str().unwrap();
        assert!(second.starts_with("apps/v1, Kind=Deployment: ERROR: <input>:1:20: found no matching overload for '_==_' applied to '(int, string)'"), "{second}");
    });
}

/// What policies make of a config map.
fn mutated(test: &Test, mutations: &Value, more: &Value) -> Answer {
    let mut spec = maps(&json!({"reinvocationPolicy": "Never", "mutations": mutations}));
    ::api::patch::merge(&mut spec, more).unwrap();
    let mut answer = None;
    test.with("Mutating", (&spec, &json!({})), || {
        answer = Some(test.map("mutated", &json!({"a": "b"})));
        test.https.call("DELETE", &format!("{MAPS}/mutated"));
    });
    answer.unwrap()
}

fn apply(expression: &str) -> Value {
    json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}})
}

fn patch(expression: &str) -> Value {
    json!({"patchType": "JSONPatch", "jsonPatch": {"expression": expression}})
}

fn configurations(test: &Test) {
    let answer = mutated(
        test,
        &json!([apply(
            "Object{metadata: Object.metadata{labels: {'made': 'yes'}}, data: {'c': object.data.a}}"
        )]),
        &json!({}),
    );
    let object = answer.value();
    assert_eq!((answer.code, &object["metadata"]["labels"]), (201, &json!({"made": "yes"})), "{object}");
    assert_eq!(object["data"], json!({"a": "b", "c": "b"}));
    let unknown = mutated(test, &json!([apply("Object{nope: 1}")]), &json!({}));
    let why = "policy 'p' with binding 'b' denied request: error applying patch: failed to convert patch object to typed object: .nope: field not declared in schema";
    refused(&unknown, (403, "Invalid"), why);
    let ignored = mutated(test, &json!([apply("Object{nope: 1}")]), &json!({"failurePolicy": "Ignore"}));
    assert_eq!(ignored.code, 201);
    // What others default follows what policies make, and a list is merged by its keys.
    let spec = json!({"matchConstraints": {"resourceRules": [rule("apps", "deployments")]}, "reinvocationPolicy": "Never",
        "mutations": [apply("Object{spec: Object.spec{replicas: 2, template: Object.spec.template{spec: Object.spec.template.spec{containers: [Object.spec.template.spec.containers{name: 'side', image: 'i'}]}}}}")]});
    test.with("Mutating", (&spec, &json!({})), || {
        let labels = json!({"app": "a"});
        let deployment = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "image": "i"}]}}}});
        let made = test.made(DEPLOYMENTS, &deployment);
        let containers = made["spec"]["template"]["spec"]["containers"].as_array().unwrap();
        let names: Vec<&Value> = containers.iter().map(|container| &container["name"]).collect();
        assert_eq!((&made["spec"]["replicas"], names), (&json!(2), vec![&json!("main"), &json!("side")]));
        assert_eq!(containers[1]["imagePullPolicy"], "Always");
    });
}

fn patches(test: &Test) {
    let steps = "[JSONPatch{op: 'test', path: '/data/a', value: 'b'}, JSONPatch{op: 'add', path: '/metadata/labels', value: {'x': 'y'}}, JSONPatch{op: 'add', path: '/data/' + jsonpatch.escapeKey('k~/y'), value: 'v'}]";
    let answer = mutated(test, &json!([patch(&steps.replace("k~/y", "key"))]), &json!({}));
    assert_eq!(
        (answer.code, &answer.value()["metadata"]["labels"]),
        (201, &json!({"x": "y"})),
        "{}",
        answer.value()
    );
    assert_eq!(answer.value()["data"], json!({"a": "b", "key": "v"}));
    // Where a test fails nothing is done.
    let untouched = mutated(test, &json!([patch(&steps.replace("value: 'b'", "value: 'c'"))]), &json!({}));
    assert_eq!(
        (untouched.code, &untouched.value()["data"]),
        (201, &json!({"a": "b"})),
        "{}",
        untouched.value()
    );
    let missing = mutated(test, &json!([patch("[JSONPatch{op: 'remove', path: '/data/none'}]")]), &json!({}));
    let message = missing.value()["message"].as_str().unwrap().to_owned();
    assert_eq!(missing.code, 403, "{message}");
    assert!(message.starts_with("policy 'p' with binding 'b' denied request: JSON Patch: "), "{message}");
    let skipped = json!({"matchConditions": [{"name": "none", "expression": "object.data.a == 'other'"}]});
    let skipped = mutated(test, &json!([patch("[JSONPatch{op: 'remove', path: '/data/a'}]")]), &skipped);
    assert_eq!(skipped.value()["data"], json!({"a": "b"}));
}

/// A policy that is asked again sees what another one changed after it.
fn reinvocation(test: &Test) {
    let count = |policy: &str, expression: &str| {
        let spec = maps(&json!({"reinvocationPolicy": policy, "mutations": [apply(expression)]}));
        let more = maps(
            &json!({"reinvocationPolicy": "Never", "mutations": [apply("Object{data: {'late': 'yes'}}")]}),
        );
        test.made(
            &format!("{GROUP}/mutatingadmissionpolicies"),
            &json!({"metadata": {"name": "q"}, "spec": more}),
        );
        let binding = json!({"metadata": {"name": "q"}, "spec": {"policyName": "q"}});
        test.made(&format!("{GROUP}/mutatingadmissionpolicybindings"), &binding);
        let mut data = Value::Null;
        test.with("Mutating", (&spec, &json!({})), || {
            data = test.map("again", &json!({})).value()["data"].clone();
            test.https.call("DELETE", &format!("{MAPS}/again"));
        });
        test.https.call("DELETE", &format!("{GROUP}/mutatingadmissionpolicybindings/q"));
        test.https.call("DELETE", &format!("{GROUP}/mutatingadmissionpolicies/q"));
        data
    };
    let seen = "Object{data: {'seen': string('late' in object.?data.orValue({}))}}";
    assert_eq!(count("IfNeeded", seen), json!({"late": "yes", "seen": "true"}));
    assert_eq!(count("Never", seen), json!({"late": "yes", "seen": "false"}));
}
