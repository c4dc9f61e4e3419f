//! The doors beside the object.

use super::create::{is_managed, is_managed_after};
use super::kinds::{NAMESPACE, Subresource};
use super::update::is_next;
use super::{Answers, Case, Check, NOBODY, Run, holds, kinds, name, same, version, with_label};
use crate::support::https::{APPLY, JSON, JSON_PATCH, MERGE, PROTOBUF, STRATEGIC, YAML};
use serde_json::{Value, json};

pub(super) fn cases(run: &Run<'_>) {
    for subresource in &run.kind.subresources {
        let run = run.of(&subresource.name);
        for verb in &subresource.verbs {
            run.case(&format!("{verb}, forbidden"), |case| forbidden(case, subresource, verb));
            run.case(&format!("{verb}, missing"), |case| missing(case, subresource, verb));
        }
        match subresource.name.as_str() {
            "status" => of_status(&run),
            "scale" => of_scale(&run),
            "finalize" => run.case("update", finalize),
            "approval" => run.case("update", approve),
            "token" => run.case("create", token),
            "binding" => run.case("create", bind),
            "eviction" => run.case("create", evict),
            "ephemeralcontainers" => run.case("patch", ephemeral_containers),
            "resize" => run.case("patch", resize),
            _ => {}
        }
    }
}

fn method(verb: &str) -> &'static str {
    match verb {
        "get" => "GET",
        "create" => "POST",
        "update" => "PUT",
        "patch" => "PATCH",
        _ => "DELETE",
    }
}

fn door(case: Case<'_>, object: &Value, subresource: &str) -> String {
    format!("{}/{subresource}", case.kind().path_of(object))
}

fn forbidden(case: Case<'_>, subresource: &Subresource, verb: &str) -> Check {
    let path = format!("{}/{}", case.kind().path("absent"), subresource.name);
    let kind = if verb == "patch" { MERGE } else { JSON };
    let answer = case.send("", case.ask(method(verb), &path).body(kind, "{}").by(NOBODY));
    case.is_forbidden(&answer, verb, ("absent", &subresource.name))
}

/// The object of a subresource has to be there.
fn missing(case: Case<'_>, subresource: &Subresource, verb: &str) -> Check {
    let path = format!("{}/{}", case.kind().path("absent"), subresource.name);
    let body = body_of(case, &subresource.name, "absent");
    let kind = if verb == "patch" { MERGE } else { JSON };
    let body = if verb == "patch" { json!({}) } else { body };
    if case.document().made_by_update && verb == "update" {
        return Ok(());
    }
    let answer = case.send("", case.ask(method(verb), &path).body(kind, body.to_string()));
    answer.is(404)?;
    same("reason", &answer.value()["reason"], "NotFound")
}

/// What is written through a door, where it may be nearly empty.
fn body_of(case: Case<'_>, subresource: &str, name: &str) -> Value {
    let metadata = json!({"name": name, "namespace": NAMESPACE});
    match subresource {
        "scale" => {
            json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": metadata, "spec": {"replicas": 1}})
        }
        "binding" => {
            json!({"apiVersion": "v1", "kind": "Binding", "metadata": metadata, "target": {"kind": "Node", "name": "node-1"}})
        }
        "eviction" => json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}),
        "token" => json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}),
        _ => {
            let mut object = case.object();
            object["metadata"]["name"] = json!(name);
            object
        }
    }
}

fn of_status(run: &Run<'_>) {
    run.case("get", |case| {
        let made = case.made()?;
        for encoding in [JSON, YAML, PROTOBUF] {
            let answer =
                case.send(encoding, case.ask("GET", &door(case, &made, "status")).header("accept", encoding));
            answer.is(200)?;
            case.same_object(encoding, &answer.value(), &made)?;
        }
        Ok(())
    });
    run.case("update", status_update);
    run.case("update, stale", |case| {
        let made = case.made()?;
        case.ask("PUT", &case.kind().path_of(&made))
            .object(JSON, &with_label(&made, "changed", "yes"))
            .send()
            .is(200)?;
        let answer = case
            .send("", case.ask("PUT", &door(case, &made, "status")).object(JSON, &with_status(case, &made)?));
        case.is_stale(&answer, name(&made))
    });
    run.case("update, dry run", |case| {
        let made = case.made()?;
        let path = format!("{}?dryRun=All", door(case, &made, "status"));
        case.send("", case.ask("PUT", &path).object(JSON, &with_status(case, &made)?)).is(200)?;
        case.same_object("the object read", &case.read(&made), &made)
    });
    for (way, kind) in [
        ("JSON patch", JSON_PATCH),
        ("merge patch", MERGE),
        ("strategic merge patch", STRATEGIC),
        ("apply", APPLY),
    ] {
        run.case(way, |case| status_patch(case, kind));
    }
}

fn with_status(case: Case<'_>, object: &Value) -> Result<Value, String> {
    let mut object = object.clone();
    api::patch::merge(&mut object, &json!({"status": status_of(case)?})).unwrap();
    Ok(object)
}

/// A kind with a status says in its document what to write there.
fn status_of<'a>(case: Case<'a>) -> Result<&'a Value, String> {
    let status = &case.document().status;
    if status.is_null() { Err("its document has no status".to_owned()) } else { Ok(&status["status"]) }
}

fn contains(got: &Value, wanted: &Value) -> bool {
    match (got, wanted) {
        (Value::Object(got), Value::Object(wanted)) => {
            wanted.iter().all(|(name, value)| got.get(name).is_some_and(|own| contains(own, value)))
        }
        (Value::Array(got), Value::Array(wanted)) => {
            wanted.iter().all(|value| got.iter().any(|own| contains(own, value)))
        }
        _ => got == wanted,
    }
}

/// What is desired cannot be changed through the status, nor the other way round.
fn status_update(case: Case<'_>) -> Check {
    let wanted = status_of(case)?;
    let made = case.made()?;
    let path = format!("{}?fieldManager=teller", door(case, &made, "status"));
    let both = with_status(case, &case.changed(&made))?;
    let answer = case.send("", case.ask("PUT", &path).object(JSON, &both));
    answer.is(200)?;
    let new = answer.value();
    is_next(&new, &made)?;
    case.same_object("the spec", &new["spec"], &made["spec"])?;
    same("generation", &new["metadata"]["generation"], &made["metadata"]["generation"])?;
    holds("status", contains(&new["status"], wanted), &new["status"])?;
    is_managed_after(case, (&new, &made), ("teller", "Update", "status"))?;
    case.same_object("the object read", &case.read(&made), &new)?;
    let mut other = with_label(&new, "changed", "yes");
    other["status"] = json!({});
    if case.document().acted_on.is_some() {
        other["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    }
    let answer = case.send("main", case.ask("PUT", &case.kind().path_of(&made)).object(JSON, &other));
    answer.is(200)?;
    let status = |object: &Value| json!({"status": object["status"]});
    case.same_object("the status", &status(&answer.value()), &status(&new))
}

fn status_patch(case: Case<'_>, kind: &str) -> Check {
    let wanted = status_of(case)?;
    let made = case.made()?;
    let path = format!("{}?fieldManager=teller&force=true", door(case, &made, "status"));
    let path = if kind == APPLY { path } else { path.replace("&force=true", "") };
    let body = match kind {
        JSON_PATCH => json!([{"op": "add", "path": "/status", "value": wanted}]),
        APPLY => json!({"apiVersion": made["apiVersion"], "kind": made["kind"],
            "metadata": {"name": name(&made)}, "status": wanted}),
        _ => json!({"status": wanted}),
    };
    let answer = case.send("", case.ask("PATCH", &path).body(kind, body.to_string()));
    answer.is(200)?;
    let new = answer.value();
    is_next(&new, &made)?;
    holds("status", contains(&new["status"], wanted), &new["status"])?;
    let operation = if kind == APPLY { "Apply" } else { "Update" };
    is_managed_after(case, (&new, &made), ("teller", operation, "status"))?;
    case.same_object("the object read", &case.read(&made), &new)?;
    let again = case.ask("PATCH", &format!("{path}&dryRun=All")).body(kind, body.to_string()).send();
    again.is(200)?;
    case.same_object("the object read", &case.read(&made), &new)
}

fn of_scale(run: &Run<'_>) {
    run.case("get", |case| {
        let made = case.made()?;
        let answer = case.send("", case.ask("GET", &door(case, &made, "scale")));
        is_scale(&answer.value(), &made, 0)?;
        let other = case.ask("GET", &door(case, &made, "scale")).header("accept", PROTOBUF).send();
        case.same_object("protobuf", &other.value(), &answer.value())
    });
    run.case("update", scale_update);
    run.case("patch", scale_patch);
    run.case("update, invalid", |case| {
        let made = case.made()?;
        let mut scale = case.ask("GET", &door(case, &made, "scale")).send().value();
        scale["spec"]["replicas"] = json!(-1);
        let answer = case.send("", case.ask("PUT", &door(case, &made, "scale")).object(JSON, &scale));
        let body = "Invalid value: -1: must be greater than or equal to 0";
        let message = format!("Scale.autoscaling {:?} is invalid: spec.replicas: {body}", name(&made));
        answer.refuses(
            (422, "Invalid"),
            &message,
            json!({"name": name(&made), "group": "autoscaling", "kind": "Scale",
                "causes": [{"reason": "FieldValueInvalid", "message": body, "field": "spec.replicas"}]}),
        )
    });
}

fn is_scale(scale: &Value, object: &Value, replicas: i64) -> Check {
    same("kind", &scale["kind"], "Scale")?;
    same("apiVersion", &scale["apiVersion"], "autoscaling/v1")?;
    for field in ["name", "namespace", "uid", "creationTimestamp"] {
        same(field, &scale["metadata"][field], &object["metadata"][field])?;
    }
    holds("selector", scale["status"]["selector"] == "app=one", scale)?;
    same("replicas", &scale["spec"]["replicas"].as_i64().unwrap_or_default(), &replicas)
}

fn scale_update(case: Case<'_>) -> Check {
    let made = case.made()?;
    let path = door(case, &made, "scale");
    let first = case.ask("GET", &path).send().value();
    let mut scale = first.clone();
    scale["spec"]["replicas"] = json!(2);
    case.send("dry run", case.ask("PUT", &format!("{path}?dryRun=All")).object(JSON, &scale)).is(200)?;
    case.same_object("the object read", &case.read(&made), &made)?;
    let answer = case.send("", case.ask("PUT", &format!("{path}?fieldManager=scaler")).object(JSON, &scale));
    answer.is(200)?;
    is_scale(&answer.value(), &made, 2)?;
    let new = case.read(&made);
    is_next(&new, &made)?;
    same("replicas", &new["spec"]["replicas"], &2)?;
    same("generation", &new["metadata"]["generation"], &kinds::next(&made["metadata"]["generation"]))?;
    is_managed(case, &new, ("scaler", "Update", "scale"))?;
    scale["spec"]["replicas"] = json!(3);
    let stale = case.send("stale", case.ask("PUT", &path).object(JSON, &scale));
    stale.refuses_with((409, "Conflict"), "the object has been modified")?;
    holds("versions", version(&new) > version(&first), &new)
}

fn scale_patch(case: Case<'_>) -> Check {
    let made = case.made()?;
    let path = door(case, &made, "scale");
    let patches = [
        (MERGE, json!({"spec": {"replicas": 2}})),
        (STRATEGIC, json!({"spec": {"replicas": 3}})),
        (JSON_PATCH, json!([{"op": "replace", "path": "/spec/replicas", "value": 4}])),
    ];
    for (index, (kind, patch)) in patches.iter().enumerate() {
        let answer = case.send(kind, case.ask("PATCH", &path).body(kind, patch.to_string()));
        answer.is(200)?;
        is_scale(&answer.value(), &made, i64::try_from(index).unwrap() + 2)?;
    }
    Ok(())
}

fn finalize(case: Case<'_>) -> Check {
    let made = case.made()?;
    same("finalizers", &made["spec"]["finalizers"], &json!(["kubernetes"]))?;
    case.ask("DELETE", &case.kind().path_of(&made)).send().is(200)?;
    let mut done = case.read(&made);
    same("phase", &done["status"]["phase"], "Terminating")?;
    done["spec"]["finalizers"] = json!([]);
    let answer = case.send("", case.ask("PUT", &door(case, &made, "finalize")).object(JSON, &done));
    answer.is(200)?;
    case.is_missing(&case.ask("GET", &case.kind().path_of(&made)).send(), name(&made))
}

fn approve(case: Case<'_>) -> Check {
    let made = case.made()?;
    let mut approved = made.clone();
    approved["status"]["conditions"] =
        json!([{"type": "Approved", "status": "True", "reason": "Test", "message": "told"}]);
    approved["spec"]["usages"] = json!(["client auth"]);
    let answer = case.send("", case.ask("PUT", &door(case, &made, "approval")).object(JSON, &approved));
    answer.is(200)?;
    let new = answer.value();
    case.same_object("the spec", &new["spec"], &made["spec"])?;
    same("condition", &new["status"]["conditions"][0]["type"], "Approved")?;
    holds("lastUpdateTime", new["status"]["conditions"][0]["lastUpdateTime"].is_string(), &new["status"])?;
    let ask = case.ask("PUT", &door(case, &made, "status")).object(JSON, &with_status(case, &new)?);
    let part = "updates may not remove a condition of type \"Approved\"";
    case.send("status", ask).refuses_with((422, "Invalid"), part)
}

fn token(case: Case<'_>) -> Check {
    let made = case.made()?;
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}});
    let answer = case.send("", case.ask("POST", &door(case, &made, "token")).object(JSON, &request));
    answer.is(201)?;
    let token = answer.value();
    same("kind", &token["kind"], "TokenRequest")?;
    holds(
        "token",
        token["status"]["token"].as_str().is_some_and(|token| token.split('.').count() == 3),
        &token,
    )?;
    let short = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 1}});
    let answer = case.send("short", case.ask("POST", &door(case, &made, "token")).object(JSON, &short));
    answer.refuses_with(
        (422, "Invalid"),
        "spec.expirationSeconds: Invalid value: 1: may not specify a duration less than 10 minutes",
    )?;
    let tried =
        case.ask("POST", &format!("{}?dryRun=All", door(case, &made, "token"))).object(JSON, &request).send();
    tried.is(201)
}

fn is_success(value: &Value) -> Check {
    same("kind", &value["kind"], "Status")?;
    same("status", &value["status"], "Success")
}

fn bind(case: Case<'_>) -> Check {
    let made = case.made()?;
    let body = body_of(case, "binding", name(&made));
    let path = door(case, &made, "binding");
    case.send("dry run", case.ask("POST", &format!("{path}?dryRun=All")).object(JSON, &body)).is(201)?;
    case.same_object("the object read", &case.read(&made), &made)?;
    let answer = case.send("", case.ask("POST", &path).object(JSON, &body));
    answer.is(201)?;
    is_success(&answer.value())?;
    let bound = case.read(&made);
    same("node", &bound["spec"]["nodeName"], "node-1")?;
    holds(
        "condition",
        contains(&bound["status"]["conditions"], &json!([{"type": "PodScheduled", "status": "True"}])),
        &bound,
    )?;
    let again = case.send("again", case.ask("POST", &path).object(JSON, &body));
    again.refuses_with((409, "Conflict"), "is already assigned to node \"node-1\"")?;
    let mut nowhere = body;
    nowhere["target"] = json!({});
    let wrong = case.send("nowhere", case.ask("POST", &path).object(JSON, &nowhere));
    wrong.refuses_with((500, ""), "target.name: Required value")
}

fn evict(case: Case<'_>) -> Check {
    let made = case.made()?;
    let path = door(case, &made, "eviction");
    let body = body_of(case, "eviction", name(&made));
    let mut tried = body.clone();
    tried["deleteOptions"] = json!({"dryRun": ["All"]});
    case.send("dry run", case.ask("POST", &path).object(JSON, &tried)).is(201)?;
    case.same_object("the object read", &case.read(&made), &made)?;
    let answer = case.send("", case.ask("POST", &path).object(JSON, &body));
    answer.is(201)?;
    is_success(&answer.value())?;
    case.is_missing(&case.ask("GET", &case.kind().path_of(&made)).send(), name(&made))
}

fn ephemeral_containers(case: Case<'_>) -> Check {
    let made = case.made()?;
    let patch = json!({"spec": {"ephemeralContainers": [{"name": "debug", "image": "knarr.test/none:1"}]}});
    let path = door(case, &made, "ephemeralcontainers");
    let answer = case.send("", case.ask("PATCH", &path).body(STRATEGIC, patch.to_string()));
    answer.is(200)?;
    let new = answer.value();
    is_next(&new, &made)?;
    same("container", &new["spec"]["ephemeralContainers"][0]["name"], "debug")?;
    case.same_object("containers", &new["spec"]["containers"], &made["spec"]["containers"])?;
    let mut without = new.clone();
    without["spec"]["ephemeralContainers"] = json!([]);
    let answer = case.send("removed", case.ask("PUT", &path).object(JSON, &without));
    answer.refuses_with((422, "Invalid"), "existing ephemeral containers \"debug\" may not be removed")
}

fn resize(case: Case<'_>) -> Check {
    let mut object = case.object();
    object["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "100m"}});
    let made = case.made_of(&object)?;
    let patch =
        json!({"spec": {"containers": [{"name": "main", "resources": {"requests": {"cpu": "200m"}}}]}});
    let answer =
        case.send("", case.ask("PATCH", &door(case, &made, "resize")).body(STRATEGIC, patch.to_string()));
    answer.is(200)?;
    let new = answer.value();
    is_next(&new, &made)?;
    same("cpu", &new["spec"]["containers"][0]["resources"]["requests"]["cpu"], "200m")
}
