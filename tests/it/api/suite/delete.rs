//! Deleting, one and all.

use super::{Answers, Case, Check, NOBODY, Run, holds, kinds, name, same, version, with_label};
use crate::support::https::{Answer, JSON, MERGE, PROTOBUF, YAML};
use serde_json::{Value, json};

pub(super) fn cases(run: &Run<'_>) {
    for (encoding, kind) in [("JSON", JSON), ("YAML", YAML), ("protobuf", PROTOBUF)] {
        run.case(encoding, |case| happy(case, kind));
    }
    run.case("dry run", dry_run);
    run.case("missing", |case| {
        let answer = case.send("", case.ask("DELETE", &case.kind().path("absent")));
        case.is_missing(&answer, "absent")
    });
    run.case("forbidden", |case| {
        let made = case.made()?;
        let answer = case.send("", case.ask("DELETE", &case.kind().path_of(&made)).by(NOBODY));
        case.is_forbidden(&answer, "delete", (name(&made), ""))
    });
    run.case("preconditions", preconditions);
    run.case("finalizers", finalizers);
    run.case("wrong options", wrong_options);
    if run.kind.verbs.iter().any(|verb| verb == "deletecollection") {
        run.case("all", all);
        run.case("all, forbidden", |case| {
            let answer = case.send("", case.ask("DELETE", &case.kind().collection()).by(NOBODY));
            case.is_forbidden(&answer, "deletecollection", ("", ""))
        });
    } else {
        run.case("all", |case| {
            let answer = case.send("", case.ask("DELETE", &case.kind().collection()));
            answer.refuses_with((405, "MethodNotAllowed"), "")
        });
    }
}

fn delete(case: Case<'_>, object: &Value, options: &Value) -> Answer {
    let ask = case.ask("DELETE", &case.kind().path_of(object)).object(JSON, options);
    case.send(&options.to_string().replace(object["metadata"]["uid"].as_str().unwrap_or("-"), "?"), ask)
}

fn options(more: Value) -> Value {
    let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions"});
    api::patch::merge(&mut options, &more).unwrap();
    options
}

/// What is told of an object that is gone, or that something still holds.
fn is_deleted(case: Case<'_>, answer: &Answer, object: &Value) -> Check {
    answer.is(200)?;
    let told = answer.value();
    if told["kind"] == "Status" {
        same("status", &told["status"], "Success")?;
        let mut details = case.kind().details(name(object));
        details["uid"] = object["metadata"]["uid"].clone();
        case.same_object("details", &told["details"], &details)?;
        return case.is_missing(&case.ask("GET", &case.kind().path_of(object)).send(), name(object));
    }
    same("kind", &told["kind"], &object["kind"])?;
    same("uid", &told["metadata"]["uid"], &object["metadata"]["uid"])?;
    let read = case.ask("GET", &case.kind().path_of(object)).send();
    if is_held(&told) {
        holds("deletionTimestamp", told["metadata"]["deletionTimestamp"].is_string(), &told)?;
        return case.same_object("the object read", &read.value(), &told);
    }
    case.is_missing(&read, name(object))
}

fn is_held(object: &Value) -> bool {
    let waits = |list: &Value| list.as_array().is_some_and(|items| !items.is_empty());
    waits(&object["metadata"]["finalizers"])
        || (object["kind"] == "Namespace" && waits(&object["spec"]["finalizers"]))
}

fn happy(case: Case<'_>, encoding: &str) -> Check {
    let made = case.made()?;
    let options = options(json!({"preconditions": {"uid": made["metadata"]["uid"]}}));
    let ask =
        case.ask("DELETE", &case.kind().path_of(&made)).object(encoding, &options).header("accept", encoding);
    let answer = case.send("", ask);
    same("content-type", &*answer.header("content-type"), encoding)?;
    is_deleted(case, &answer, &made)?;
    let other = case.made()?;
    is_deleted(case, &case.ask("DELETE", &case.kind().path_of(&other)).send(), &other)
}

fn dry_run(case: Case<'_>) -> Check {
    let made = case.made()?;
    let path = format!("{}?dryRun=All", case.kind().path_of(&made));
    case.send("query", case.ask("DELETE", &path)).is(200)?;
    case.same_object("the object read", &case.read(&made), &made)?;
    delete(case, &made, &options(json!({"dryRun": ["All"]}))).is(200)?;
    case.same_object("the object read", &case.read(&made), &made)
}

fn preconditions(case: Case<'_>) -> Check {
    let made = case.made()?;
    let kind = case.kind();
    let own = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    for (field, wanted, what, happened, own) in [
        ("uid", "other", "UID", "deleted and then recreated", own(&made["metadata"]["uid"])),
        ("resourceVersion", "1", "ResourceVersion", "modified", version(&made).to_string()),
    ] {
        let answer = delete(case, &made, &options(json!({"preconditions": {field: wanted}})));
        let part = format!(
            "the {what} in the precondition ({wanted}) does not match the {what} in record ({own}). The object might have been {happened}"
        );
        if kind.kind == "Namespace" {
            // Namespaces have their own way to the store, and its words.
            answer.refuses_with((409, "Conflict"), "")?;
            continue;
        }
        answer.refuses_with((409, "Conflict"), &part)?;
        // Here it is the kind, and not the resource as elsewhere.
        let mut details = kind.details(name(&made));
        details["kind"] = json!(kind.kind);
        if kind.home().is_empty() {
            details.as_object_mut().unwrap().remove("group");
        }
        case.same_object("details", &answer.value()["details"], &details)?;
    }
    case.same_object("the object read", &case.read(&made), &made)?;
    let seen = options(json!({"preconditions": {"resourceVersion": version(&made).to_string()}}));
    is_deleted(case, &delete(case, &made, &seen), &made)
}

fn finalizers(case: Case<'_>) -> Check {
    let mut object = case.object();
    object["metadata"]["finalizers"] = json!(["knarr.test/held"]);
    let made = case.made_of(&object)?;
    let held = made["metadata"]["finalizers"].as_array().map_or(0, Vec::len);
    let answer = delete(case, &made, &options(json!({})));
    answer.is(200)?;
    let told = answer.value();
    holds("deletionTimestamp", told["metadata"]["deletionTimestamp"].is_string(), &told)?;
    let grace = &told["metadata"]["deletionGracePeriodSeconds"];
    holds("deletionGracePeriodSeconds", grace.is_number() || case.kind().kind == "Namespace", &told)?;
    same("generation", &told["metadata"]["generation"], &kinds::next(&made["metadata"]["generation"]))?;
    case.same_object("the object read", &case.read(&made), &told)?;
    let again = delete(case, &made, &options(json!({})));
    again.is(200)?;
    let path = case.kind().path_of(&made);
    let add = json!({"metadata": {"finalizers": ["knarr.test/held", "knarr.test/late"]}}).to_string();
    let refused = case.send("late", case.ask("PATCH", &path).body(MERGE, add));
    if held == 1 {
        refused.refuses_with((422, "Invalid"), "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"knarr.test/late\"}")?;
    }
    let release = json!({"metadata": {"finalizers": null}}).to_string();
    let released = case.send("release", case.ask("PATCH", &path).body(MERGE, release));
    released.is(200)?;
    if is_held(&released.value()) {
        return Ok(());
    }
    case.is_missing(&case.ask("GET", &path).send(), name(&made))
}

fn wrong_options(case: Case<'_>) -> Check {
    let made = case.made()?;
    let policy = delete(case, &made, &options(json!({"propagationPolicy": "Odd"})));
    let part = "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: \"Odd\": supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\"";
    policy.refuses_with((422, "Invalid"), part)?;
    same("details", policy.value()["details"]["kind"].as_str().unwrap_or_default(), "DeleteOptions")?;
    let both =
        delete(case, &made, &options(json!({"propagationPolicy": "Orphan", "orphanDependents": true})));
    both.refuses_with((422, "Invalid"), "orphanDependents and deletionPropagation cannot be both set")?;
    case.same_object("the object read", &case.read(&made), &made)
}

fn all(case: Case<'_>) -> Check {
    let label = format!("d{}", case.suite_number());
    let make = || case.made_of(&with_label(&case.object(), "doomed", &label));
    let (one, two, other) = (make()?, make()?, case.made()?);
    let selector = format!("labelSelector=doomed%3D{label}");
    let path = format!("{}?{selector}", case.kind().collection());
    case.send("dry run", case.ask("DELETE", &format!("{path}&dryRun=All"))).is(200)?;
    case.same_object("the object read", &case.read(&one), &one)?;
    let answer = case.send("", case.ask("DELETE", &path));
    answer.is(200)?;
    let told = answer.value();
    same("kind", &told["kind"], &*format!("{}List", case.kind().kind))?;
    let mut names: Vec<&str> = told["items"].as_array().into_iter().flatten().map(name).collect();
    names.sort_unstable();
    let mut wanted = [name(&one), name(&two)];
    wanted.sort_unstable();
    same("the items", &names[..], &wanted[..])?;
    let left = case.ask("GET", &path).send().value();
    let held = left["items"].as_array().into_iter().flatten().all(is_held);
    holds("what is left", held, &left)?;
    case.same_object("the other object", &case.read(&other), &other)
}
