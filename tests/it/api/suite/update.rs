//! Replacing.

use super::create::is_managed_after;
use super::{Answers, Case, Check, NOBODY, Run, holds, name, same, version, with_label, with_wrong_label};
use crate::support::https::{JSON, PROTOBUF, YAML};
use serde_json::{Value, json};

pub(super) fn cases(run: &Run<'_>) {
    for (encoding, kind) in [("JSON", JSON), ("YAML", YAML), ("protobuf", PROTOBUF)] {
        run.case(encoding, |case| happy(case, kind));
    }
    run.case("change of what is desired", desired);
    run.case("no change", no_change);
    run.case("dry run", dry_run);
    run.case("stale", stale);
    run.case("without version", without_version);
    run.case("missing", missing);
    run.case("invalid", invalid);
    run.case("forbidden", forbidden);
    run.case("other identity", other_identity);
    run.case("unknown field", unknown_field);
}

/// What is so of every object whose form before was `old`.
pub(super) fn is_next(new: &Value, old: &Value) -> Check {
    for field in ["name", "namespace", "uid", "creationTimestamp"] {
        same(field, &new["metadata"][field], &old["metadata"][field])?;
    }
    let later = version(new) > version(old);
    if later {
        Ok(())
    } else {
        Err(format!("resourceVersion went from {} to {}", version(old), version(new)))
    }
}

fn happy(case: Case<'_>, encoding: &str) -> Check {
    let made = case.made()?;
    let path = format!("{}?fieldManager=changer", case.kind().path_of(&made));
    let wanted = with_label(&made, "changed", "new");
    let answer = case.send("", case.ask("PUT", &path).object(encoding, &wanted).header("accept", encoding));
    answer.is(200)?;
    let new = answer.value();
    is_next(&new, &made)?;
    same("label", &new["metadata"]["labels"]["changed"], "new")?;
    let generation = case.document().generation_labelled(&made["metadata"]["generation"]);
    same("generation", &new["metadata"]["generation"], &generation)?;
    is_managed_after(case, (&new, &made), ("changer", "Update", ""))?;
    case.same_object("the object read", &case.read(&made), &new)
}

fn desired(case: Case<'_>) -> Check {
    let made = case.made()?;
    let wanted = case.changed(&made);
    let answer = case.send("", case.ask("PUT", &case.kind().path_of(&made)).object(JSON, &wanted));
    answer.is(200)?;
    let new = answer.value();
    is_next(&new, &made)?;
    let generation = case.document().generation_changed(&made["metadata"]["generation"]);
    same("generation", &new["metadata"]["generation"], &generation)
}

fn no_change(case: Case<'_>) -> Check {
    let made = case.made()?;
    let answer = case.send("", case.ask("PUT", &case.kind().path_of(&made)).object(JSON, &made));
    answer.is(200)?;
    if case.document().rewritten {
        return Ok(());
    }
    case.same_object("the object", &answer.value(), &made)
}

fn dry_run(case: Case<'_>) -> Check {
    let made = case.made()?;
    let path = case.kind().path_of(&made);
    let wanted = with_label(&case.changed(&made), "changed", "new");
    let answer = case.send("", case.ask("PUT", &format!("{path}?dryRun=All")).object(JSON, &wanted));
    answer.is(200)?;
    same("label", &answer.value()["metadata"]["labels"]["changed"], "new")?;
    case.same_object("the object read", &case.read(&made), &made)
}

fn stale(case: Case<'_>) -> Check {
    let made = case.made()?;
    let path = case.kind().path_of(&made);
    case.ask("PUT", &path).object(JSON, &with_label(&made, "changed", "new")).send().is(200)?;
    let answer = case.send("", case.ask("PUT", &path).object(JSON, &with_label(&made, "changed", "no")));
    case.is_stale(&answer, name(&made))?;
    let tried =
        case.ask("PUT", &format!("{path}?dryRun=All")).object(JSON, &with_label(&made, "changed", "no"));
    case.is_stale(&tried.send(), name(&made))
}

fn without_version(case: Case<'_>) -> Check {
    let made = case.made()?;
    let mut wanted = with_label(&made, "changed", "new");
    wanted["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    let answer = case.send("", case.ask("PUT", &case.kind().path_of(&made)).object(JSON, &wanted));
    if case.document().versioned {
        return answer.refuses_with(
            (422, "Invalid"),
            "metadata.resourceVersion: Invalid value: 0: must be specified for an update",
        );
    }
    answer.is(200)?;
    is_next(&answer.value(), &made)
}

fn missing(case: Case<'_>) -> Check {
    let object = case.object();
    let answer = case.send("", case.ask("PUT", &case.kind().path_of(&object)).object(JSON, &object));
    if case.document().made_by_update {
        answer.is(201)?;
        return case.same_object("the object read", &case.read(&object), &answer.value());
    }
    case.is_missing(&answer, name(&object))
}

fn invalid(case: Case<'_>) -> Check {
    let made = case.made()?;
    let answer =
        case.send("", case.ask("PUT", &case.kind().path_of(&made)).object(JSON, &with_wrong_label(&made)));
    case.is_invalid(&answer, name(&made))?;
    case.same_object("the object read", &case.read(&made), &made)
}

fn forbidden(case: Case<'_>) -> Check {
    let made = case.made()?;
    let ask = case.ask("PUT", &case.kind().path_of(&made)).object(JSON, &made).by(NOBODY);
    case.is_forbidden(&case.send("", ask), "update", (name(&made), ""))
}

fn other_identity(case: Case<'_>) -> Check {
    let made = case.made()?;
    let path = case.kind().path_of(&made);
    let with = |field: &str, value: &str| {
        let mut object = made.clone();
        object["metadata"][field] = json!(value);
        case.send(field, case.ask("PUT", &path).object(JSON, &object))
    };
    let uid = with("uid", "00000000-0000-4000-8000-000000000000");
    uid.refuses_with((409, "Conflict"), "Precondition failed: UID in precondition: 00000000-0000-4000-8000-000000000000, UID in object meta: ")?;
    let message =
        format!("the name of the object (other) does not match the name on the URL ({})", name(&made));
    with("name", "other").refuses((400, "BadRequest"), &message, Value::Null)?;
    let unnamed = {
        let mut object = made.clone();
        object["metadata"].as_object_mut().unwrap().remove("name");
        case.send("no name", case.ask("PUT", &path).object(JSON, &object))
    };
    unnamed.refuses_with((400, "BadRequest"), "name must be provided")?;
    if case.kind().namespaced {
        let message = "the namespace of the provided object does not match the namespace sent on the request";
        with("namespace", "elsewhere").refuses((400, "BadRequest"), message, Value::Null)?;
    }
    case.same_object("the object read", &case.read(&made), &made)
}

fn unknown_field(case: Case<'_>) -> Check {
    let mut made = case.made()?;
    made["nonsense"] = json!(1);
    let path = format!("{}?fieldValidation=Strict", case.kind().path_of(&made));
    let answer = case.send("", case.ask("PUT", &path).object(JSON, &made));
    answer.refuses_with((400, "BadRequest"), "strict decoding error: unknown field \"nonsense\"")?;
    let warned = case.ask("PUT", &case.kind().path_of(&made)).object(JSON, &made).send();
    warned.is(200)?;
    holds(
        "warning",
        warned.header("warning").contains("unknown field \\\"nonsense\\\""),
        &json!(warned.header("warning")),
    )
}
