//! Creating.

use super::{Answers, Case, Check, NOBODY, Run, holds, name, same, version, with_wrong_label};
use crate::support::https::{Answer, JSON, PROTOBUF, YAML};
use serde_json::{Value, json};

pub(super) fn cases(run: &Run<'_>) {
    for (encoding, kind) in [("JSON", JSON), ("YAML", YAML), ("protobuf", PROTOBUF)] {
        run.case(encoding, |case| happy(case, kind));
    }
    run.case("dry run", dry_run);
    run.case("taken name", taken);
    run.case("version set", version_set);
    run.case("no name", no_name);
    run.case("generated name", generated);
    run.case("invalid", invalid);
    run.case("forbidden", forbidden);
    run.case("unknown field", unknown_field);
    run.case("malformed", malformed);
    run.case("other kind", other_kind);
    run.case("ill typed", ill_typed);
    run.case("unknown encoding", |case| {
        let answer = case.send("", case.ask("POST", &case.kind().collection()).body("text/plain", "x"));
        answer.refuses_with((415, "UnsupportedMediaType"), "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf")
    });
    run.case("wrong option", wrong_option);
    if run.kind.namespaced {
        run.case("other namespace", other_namespace);
        run.case("no namespace", no_namespace);
    }
}

/// Kinds whose objects are questions.
pub(super) fn of_answers(run: &Run<'_>) {
    run.case("JSON", answered);
    run.case("forbidden", |case| {
        let object = case.object();
        let path = case.kind().collection();
        let answer = case.send("", case.ask("POST", &path).object(JSON, &object).by(NOBODY));
        // What one asks about oneself is open to all who are known.
        if case.kind().resource.starts_with("self") {
            return answer.is(201);
        }
        case.is_forbidden(&answer, "create", ("", ""))
    });
    run.case("unknown field", |case| {
        let mut object = case.object();
        object["nonsense"] = json!(1);
        let path = format!("{}?fieldValidation=Strict", case.kind().collection());
        let answer = case.send("", case.ask("POST", &path).object(JSON, &object));
        answer.refuses_with((400, "BadRequest"), "strict decoding error: unknown field \"nonsense\"")
    });
    for verb in ["GET", "DELETE"] {
        run.case(verb, |case| {
            let answer = case.send("", case.ask(verb, &case.kind().collection()));
            answer.refuses(
                (405, "MethodNotAllowed"),
                "the server does not allow this method on the requested resource",
                json!({}),
            )
        });
    }
}

fn answered(case: Case<'_>) -> Check {
    let number = case.suite_number();
    if let Some(wanted) = case.document().wanted(number) {
        let answer = case.ask("POST", "/api/v1/namespaces/suite/pods").object(JSON, &wanted).send();
        answer.is(201)?;
    }
    let object = case.document().make(case.kind(), number);
    let path = case.kind().collection();
    let first = case.send("dry", case.ask("POST", &format!("{path}?dryRun=All")).object(JSON, &object));
    first.is(201)?;
    let answer = case.send("", case.ask("POST", &path).object(JSON, &object));
    answer.is(201)?;
    holds(
        "kind",
        matches!(answer.value()["kind"].as_str(), Some(own) if own == case.kind().kind || own == "Status"),
        &answer.value(),
    )
}

/// What is so of every object that was just made of `wanted`.
fn is_made(case: Case<'_>, made: &Value, wanted: &Value) -> Check {
    let kind = case.kind();
    same("apiVersion", &made["apiVersion"], &*kind.api_version())?;
    same("kind", &made["kind"], &*kind.kind)?;
    let meta = &made["metadata"];
    same("name", &meta["name"], &wanted["metadata"]["name"])?;
    let namespace = if kind.namespaced { json!(super::kinds::NAMESPACE) } else { Value::Null };
    same("namespace", &meta["namespace"], &namespace)?;
    holds("uid", meta["uid"].as_str().is_some_and(|uid| uid.len() == 36), made)?;
    holds("creationTimestamp", meta["creationTimestamp"].is_string(), made)?;
    holds("generation", meta["generation"].is_null() || meta["generation"] == 1, made)?;
    holds("deletionTimestamp", meta["deletionTimestamp"].is_null(), made)
}

/// The same of a write to an object that had managers before: where nobody managed anything, nobody does.
pub(super) fn is_managed_after(
    case: Case<'_>,
    (new, old): (&Value, &Value),
    entry: (&str, &str, &str),
) -> Check {
    if old["metadata"]["managedFields"].is_null() && entry.1 == "Update" {
        return same("managedFields", &new["metadata"]["managedFields"], &Value::Null);
    }
    is_managed(case, new, entry)
}

/// The one entry of a manager.
pub(super) fn is_managed(
    case: Case<'_>,
    object: &Value,
    (manager, operation, subresource): (&str, &str, &str),
) -> Check {
    if case.document().unmanaged {
        return Ok(());
    }
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let own = entries.iter().find(|entry| {
        entry["manager"] == manager && entry["subresource"].as_str().unwrap_or_default() == subresource
    });
    let Some(own) = own else { return Err(format!("{manager} manages nothing: {entries:?}")) };
    same("operation", &own["operation"], operation)?;
    same("apiVersion of the entry", &own["apiVersion"], &*case.kind().api_version())?;
    same("fieldsType", &own["fieldsType"], "FieldsV1")?;
    // Kubernetes tells none for the scale.
    holds("time", own["time"].is_string() || subresource == "scale", own)?;
    holds("fieldsV1", own["fieldsV1"].is_object(), own)
}

fn happy(case: Case<'_>, encoding: &str) -> Check {
    let object = case.object();
    let path = format!("{}?fieldManager=maker", case.kind().collection());
    let answer = case.send("", case.ask("POST", &path).object(encoding, &object).header("accept", encoding));
    answer.is(201)?;
    same("content-type", &*answer.header("content-type"), encoding)?;
    let made = answer.value();
    is_made(case, &made, &object)?;
    holds("resourceVersion", version(&made) > 0, &made)?;
    if !is_name_alone(&object) {
        is_managed(case, &made, ("maker", "Update", ""))?;
    }
    case.same_object("the object read", &case.read(&object), &made)
}

/// Some objects have no field but their name, which nobody manages.
pub(super) fn is_name_alone(object: &Value) -> bool {
    let empty = |value: &Value| *value == json!({}) || *value == json!([]);
    let mut fields = object.as_object().unwrap().iter();
    fields.all(|(name, value)| matches!(name.as_str(), "apiVersion" | "kind" | "metadata") || empty(value))
}

fn dry_run(case: Case<'_>) -> Check {
    let object = case.object();
    let path = case.kind().collection();
    let answer = case.send("", case.ask("POST", &format!("{path}?dryRun=All")).object(JSON, &object));
    answer.is(201)?;
    let made = answer.value();
    is_made(case, &made, &object)?;
    same("resourceVersion", &made["metadata"]["resourceVersion"], &Value::Null)?;
    case.is_missing(&case.ask("GET", &case.kind().path_of(&object)).send(), name(&object))?;
    // Nothing that it took is kept from who comes after it.
    case.made_of(&object).map(drop)?;
    let taken = case.ask("POST", &format!("{path}?dryRun=All")).object(JSON, &object).send();
    taken.refuses_with((409, "AlreadyExists"), "already exists")
}

fn taken(case: Case<'_>) -> Check {
    let object = case.object();
    case.made_of(&object)?;
    let answer = case.send("", case.ask("POST", &case.kind().collection()).object(JSON, &object));
    let message = format!("{} {:?} already exists", case.kind().qualified(), name(&object));
    answer.refuses((409, "AlreadyExists"), &message, case.kind().details(name(&object)))
}

fn version_set(case: Case<'_>) -> Check {
    let mut object = case.object();
    object["metadata"]["resourceVersion"] = json!("1");
    let answer = case.send("", case.ask("POST", &case.kind().collection()).object(JSON, &object));
    answer.refuses_with((500, ""), "resourceVersion should not be set on objects to be created")
}

fn no_name(case: Case<'_>) -> Check {
    if case.document().unnamed {
        return Ok(());
    }
    let mut object = case.object();
    object["metadata"].as_object_mut().unwrap().remove("name");
    let answer = case.send("", case.ask("POST", &case.kind().collection()).object(JSON, &object));
    let required = "name or generateName is required";
    answer.refuses_with((422, "Invalid"), required)?;
    let cause = json!({"reason": "FieldValueRequired", "message": format!("Required value: {required}"), "field": "metadata.name"});
    let causes = answer.value()["details"]["causes"].as_array().cloned().unwrap_or_default();
    holds("the cause", causes.contains(&cause), &answer.value())
}

fn generated(case: Case<'_>) -> Check {
    if case.document().fixed {
        return Ok(());
    }
    let mut object = case.object();
    let base = name(&object).to_owned();
    let (first, rest) = base.split_once('.').map_or((base.as_str(), ""), |(first, rest)| (first, rest));
    let prefix = if rest.is_empty() { format!("{first}-") } else { format!("{first}.x") };
    object["metadata"].as_object_mut().unwrap().remove("name");
    object["metadata"]["generateName"] = json!(prefix);
    let answer = case.ask("POST", &case.kind().collection()).object(JSON, &object).send();
    answer.is(201)?;
    let made = answer.value();
    holds("the name", name(&made).len() == prefix.len() + 5 && name(&made).starts_with(&prefix), &made)?;
    same("generateName", &made["metadata"]["generateName"], &*prefix)
}

fn invalid(case: Case<'_>) -> Check {
    let object = with_wrong_label(&case.object());
    let answer = case.send("", case.ask("POST", &case.kind().collection()).object(JSON, &object));
    case.is_invalid(&answer, name(&object))
}

fn forbidden(case: Case<'_>) -> Check {
    let answer =
        case.send("", case.ask("POST", &case.kind().collection()).object(JSON, &case.object()).by(NOBODY));
    case.is_forbidden(&answer, "create", ("", ""))
}

fn unknown_field(case: Case<'_>) -> Check {
    let kind = case.kind();
    let mut object = case.object();
    object["nonsense"] = json!({"a": 1});
    let ask = |validation: &str, encoding: &str, object: &Value| {
        let path = format!("{}?fieldValidation={validation}", kind.collection());
        case.send(&format!("{validation} {encoding}"), case.ask("POST", &path).object(encoding, object))
    };
    let message = format!(
        "{} in version {:?} cannot be handled as a {}: strict decoding error: unknown field \"nonsense\"",
        kind.kind, kind.version, kind.kind
    );
    ask("Strict", JSON, &object).refuses((400, "BadRequest"), &message, Value::Null)?;
    ask("Strict", YAML, &object).refuses((400, "BadRequest"), &message, Value::Null)?;
    let warned = ask("Warn", JSON, &object);
    warned.is(201)?;
    let warning = "299 - \"unknown field \\\"nonsense\\\"\"";
    holds("warning", warned.header("warning").contains(warning), &json!(warned.header("warning")))?;
    same("nonsense", &warned.value()["nonsense"], &Value::Null)?;
    let mut other = case.object();
    other["nonsense"] = json!(1);
    let ignored = ask("Ignore", JSON, &other);
    ignored.is(201)?;
    holds("warning", !ignored.header("warning").contains("nonsense"), &json!(ignored.header("warning")))
}

fn malformed(case: Case<'_>) -> Check {
    let send = |what: &str, kind: &str, body: &'static str| -> Answer {
        case.send(what, case.ask("POST", &case.kind().collection()).body(kind, body))
    };
    send("JSON", JSON, "{\"metadata\": ").refuses_with((400, "BadRequest"), "")?;
    send("YAML", YAML, "a: [").refuses_with((400, "BadRequest"), "")?;
    send("protobuf", PROTOBUF, "nonsense").refuses_with((400, "BadRequest"), "")?;
    send("none", JSON, "").refuses_with((400, "BadRequest"), "")
}

fn other_kind(case: Case<'_>) -> Check {
    let mut object = case.object();
    object["kind"] = json!("Else");
    let answer = case.send("kind", case.ask("POST", &case.kind().collection()).object(JSON, &object));
    answer.refuses_with((400, "BadRequest"), "no kind \"Else\" is registered for version")?;
    let mut object = case.object();
    object["apiVersion"] = json!("knarr.test/v1");
    let answer = case.send("version", case.ask("POST", &case.kind().collection()).object(JSON, &object));
    answer.refuses_with((400, "BadRequest"), "")
}

fn ill_typed(case: Case<'_>) -> Check {
    let kind = case.kind();
    let mut object = case.object();
    object["metadata"]["labels"] = json!(5);
    let answer = case.send("", case.ask("POST", &kind.collection()).object(JSON, &object));
    let message = format!(
        "{} in version {:?} cannot be handled as a {}: json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type map[string]string",
        kind.kind, kind.version, kind.kind
    );
    answer.refuses((400, "BadRequest"), &message, Value::Null)
}

fn wrong_option(case: Case<'_>) -> Check {
    let path = format!("{}?dryRun=Some", case.kind().collection());
    let answer = case.send("", case.ask("POST", &path).object(JSON, &case.object()));
    let body = "Unsupported value: [\"Some\"]: supported values: \"All\"";
    let details = json!({"group": "meta.k8s.io", "kind": "CreateOptions",
        "causes": [{"reason": "FieldValueNotSupported", "message": body, "field": "dryRun"}]});
    let message = format!("CreateOptions.meta.k8s.io \"\" is invalid: dryRun: {body}");
    answer.refuses((422, "Invalid"), &message, details)
}

fn other_namespace(case: Case<'_>) -> Check {
    let mut object = case.object();
    object["metadata"]["namespace"] = json!("elsewhere");
    let answer = case.send("", case.ask("POST", &case.kind().collection()).object(JSON, &object));
    answer.refuses(
        (400, "BadRequest"),
        "the namespace of the provided object does not match the namespace sent on the request",
        Value::Null,
    )
}

fn no_namespace(case: Case<'_>) -> Check {
    let path = case.kind().collection_in("absent");
    let answer = case.send("", case.ask("POST", &path).object(JSON, &case.object()));
    answer.refuses(
        (404, "NotFound"),
        "namespaces \"absent\" not found",
        json!({"name": "absent", "kind": "namespaces"}),
    )
}
