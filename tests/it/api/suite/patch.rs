//! Patching, in every way.

use super::create::{is_managed, is_managed_after, is_name_alone};
use super::update::is_next;
use super::{Answers, Case, Check, NOBODY, Run, holds, name, same, version};
use crate::support::https::{APPLY, Answer, JSON_PATCH, MERGE, PROTOBUF, STRATEGIC, YAML};
use serde_json::{Value, json};

const WAYS: [(&str, &str); 4] = [
    ("JSON patch", JSON_PATCH),
    ("merge patch", MERGE),
    ("strategic merge patch", STRATEGIC),
    ("apply", APPLY),
];

pub(super) fn cases(run: &Run<'_>) {
    for (name, kind) in WAYS {
        let way = Way { kind };
        let named = |case: &str| format!("{name}, {case}");
        run.case(name, |case| way.happy(case));
        run.case(&named("dry run"), |case| way.dry_run(case));
        run.case(&named("stale"), |case| way.stale(case));
        run.case(&named("missing"), |case| way.missing(case));
        run.case(&named("invalid"), |case| way.invalid(case));
        run.case(&named("forbidden"), |case| way.forbidden(case));
        run.case(&named("malformed"), |case| way.malformed(case));
        run.case(&named("no change"), |case| way.no_change(case));
    }
    run.case("desired", desired);
    run.case("JSON patch, failed test", failed_test);
    run.case("apply, conflict", conflict);
    run.case("apply, without manager", without_manager);
    run.case("answer in other encodings", encodings);
    run.case("unknown way", |case| {
        let made = case.made()?;
        let answer = case.send("", case.ask("PATCH", &case.kind().path_of(&made)).body("text/plain", "{}"));
        answer.refuses((415, "UnsupportedMediaType"), "415: Unsupported Media Type", json!({}))
    });
}

struct Way {
    kind: &'static str,
}

impl Way {
    /// A patch that sets a label, and more of the metadata.
    fn body(&self, object: &Value, label: &str, more: &Value) -> Value {
        if self.kind == JSON_PATCH {
            let labels = json!({"op": "add", "path": "/metadata/labels", "value": {label: "yes"}});
            let fields = more.as_object().unwrap().iter();
            let others = fields.map(
                |(field, value)| json!({"op": "add", "path": format!("/metadata/{field}"), "value": value}),
            );
            return std::iter::once(labels).chain(others).collect();
        }
        let mut patch = json!({"metadata": {"labels": {label: "yes"}}});
        if self.kind == APPLY {
            patch = labelled(object, label, "yes");
        }
        for (field, value) in more.as_object().unwrap() {
            patch["metadata"][field] = value.clone();
        }
        patch
    }

    fn send(&self, case: Case<'_>, what: &str, (path, body): (&str, &Value)) -> Answer {
        case.send(what, case.ask("PATCH", path).body(self.kind, body.to_string()))
    }

    fn path(&self, case: Case<'_>, object: &Value) -> String {
        format!("{}?fieldManager=changer", case.kind().path_of(object))
    }

    fn happy(&self, case: Case<'_>) -> Check {
        let made = case.made()?;
        let body = self.body(&made, "changed", &json!({}));
        let answer = self.send(case, "", (&self.path(case, &made), &body));
        answer.is(200)?;
        let new = answer.value();
        is_next(&new, &made)?;
        same("label", &new["metadata"]["labels"]["changed"], "yes")?;
        let generation = case.document().generation_labelled(&made["metadata"]["generation"]);
        same("generation", &new["metadata"]["generation"], &generation)?;
        let operation = if self.kind == APPLY { "Apply" } else { "Update" };
        is_managed_after(case, (&new, &made), ("changer", operation, ""))?;
        case.same_object("the object read", &case.read(&made), &new)
    }

    fn dry_run(&self, case: Case<'_>) -> Check {
        let made = case.made()?;
        let body = self.body(&made, "changed", &json!({}));
        let answer = self.send(case, "", (&format!("{}&dryRun=All", self.path(case, &made)), &body));
        answer.is(200)?;
        same("label", &answer.value()["metadata"]["labels"]["changed"], "yes")?;
        case.same_object("the object read", &case.read(&made), &made)
    }

    fn stale(&self, case: Case<'_>) -> Check {
        let made = case.made()?;
        let body = self.body(&made, "changed", &json!({"resourceVersion": "1"}));
        let answer = self.send(case, "", (&self.path(case, &made), &body));
        case.is_stale(&answer, name(&made))?;
        let seen = json!({"resourceVersion": version(&made).to_string()});
        let body = self.body(&made, "changed", &seen);
        self.send(case, "seen", (&self.path(case, &made), &body)).is(200)
    }

    fn missing(&self, case: Case<'_>) -> Check {
        let object = case.object();
        let body = self.body(&object, "changed", &json!({}));
        let body = if self.kind == APPLY { object.clone() } else { body };
        let answer = self.send(case, "", (&self.path(case, &object), &body));
        if self.kind != APPLY {
            return case.is_missing(&answer, name(&object));
        }
        answer.is(201)?;
        if !is_name_alone(&object) {
            is_managed(case, &answer.value(), ("changer", "Apply", ""))?;
        }
        case.same_object("the object read", &case.read(&object), &answer.value())
    }

    fn invalid(&self, case: Case<'_>) -> Check {
        let made = case.made()?;
        let body = self.body(&made, "not a label", &json!({}));
        let answer = self.send(case, "", (&self.path(case, &made), &body));
        case.is_invalid(&answer, name(&made))?;
        case.same_object("the object read", &case.read(&made), &made)
    }

    fn forbidden(&self, case: Case<'_>) -> Check {
        let made = case.made()?;
        let body = self.body(&made, "changed", &json!({})).to_string();
        let ask = case.ask("PATCH", &self.path(case, &made)).body(self.kind, body).by(NOBODY);
        case.is_forbidden(&case.send("", ask), "patch", (name(&made), ""))
    }

    fn malformed(&self, case: Case<'_>) -> Check {
        let made = case.made()?;
        let ask = case.ask("PATCH", &self.path(case, &made)).body(self.kind, "{\"metadata\": ");
        case.send("", ask).refuses_with((400, "BadRequest"), "")
    }

    fn no_change(&self, case: Case<'_>) -> Check {
        let made = case.made()?;
        let body = self.body(&made, "changed", &json!({}));
        let once = self.send(case, "", (&self.path(case, &made), &body)).value();
        let twice = self.send(case, "again", (&self.path(case, &made), &body));
        twice.is(200)?;
        case.same_object("the object", &twice.value(), &once)
    }
}

/// A configuration of nothing but a label.
fn labelled(object: &Value, label: &str, value: &str) -> Value {
    json!({"apiVersion": object["apiVersion"], "kind": object["kind"],
        "metadata": {"name": name(object), "labels": {label: value}}})
}

fn desired(case: Case<'_>) -> Check {
    let Some(change) = case.document().change() else { return Ok(()) };
    for kind in [MERGE, STRATEGIC] {
        let made = case.made()?;
        let ask = case.ask("PATCH", &case.kind().path_of(&made)).body(kind, change.to_string());
        let answer = case.send(kind, ask);
        answer.is(200)?;
        is_next(&answer.value(), &made)?;
        let generation = case.document().generation_changed(&made["metadata"]["generation"]);
        same("generation", &answer.value()["metadata"]["generation"], &generation)?;
    }
    Ok(())
}

fn failed_test(case: Case<'_>) -> Check {
    let made = case.made()?;
    let path = case.kind().path_of(&made);
    let patch = json!([{"op": "test", "path": "/metadata/name", "value": "other"}]);
    let answer = case.send("test", case.ask("PATCH", &path).body(JSON_PATCH, patch.to_string()));
    answer
        .refuses_with((422, "Invalid"), "the server rejected our request due to an error in our request")?;
    let patch = json!([{"op": "remove", "path": "/metadata/labels/absent"}]);
    let answer = case.send("remove", case.ask("PATCH", &path).body(JSON_PATCH, patch.to_string()));
    answer
        .refuses_with((422, "Invalid"), "the server rejected our request due to an error in our request")?;
    let patch = json!([{"op": "nonsense", "path": "/metadata/labels/absent"}]);
    let answer = case.send("operation", case.ask("PATCH", &path).body(JSON_PATCH, patch.to_string()));
    answer.refuses_with((422, "Invalid"), "")
}

fn conflict(case: Case<'_>) -> Check {
    let made = case.made()?;
    let apply = |what: &str, manager: &str, value: &str, force: bool| {
        let config = labelled(&made, "own", value);
        let path = format!("{}?fieldManager={manager}&force={force}", case.kind().path_of(&made));
        case.send(what, case.ask("PATCH", &path).body(APPLY, config.to_string()))
    };
    apply("one", "one", "1", false).is(200)?;
    let answer = apply("two", "two", "2", false);
    let cause = json!({"reason": "FieldManagerConflict", "message": "conflict with \"one\"", "field": ".metadata.labels.own"});
    answer.refuses(
        (409, "Conflict"),
        "Apply failed with 1 conflict: conflict with \"one\": .metadata.labels.own",
        json!({"causes": [cause]}),
    )?;
    let forced = apply("forced", "two", "2", true);
    forced.is(200)?;
    same("label", &forced.value()["metadata"]["labels"]["own"], "2")?;
    is_managed(case, &forced.value(), ("two", "Apply", ""))
}

fn without_manager(case: Case<'_>) -> Check {
    let made = case.made()?;
    let config = labelled(&made, "own", "1").to_string();
    let answer = case.send("", case.ask("PATCH", &case.kind().path_of(&made)).body(APPLY, config));
    let body = "Required value: is required for apply patch";
    answer.refuses(
        (422, "Invalid"),
        &format!("PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: {body}"),
        json!({"group": "meta.k8s.io", "kind": "PatchOptions",
            "causes": [{"reason": "FieldValueRequired", "message": body, "field": "fieldManager"}]}),
    )
}

fn encodings(case: Case<'_>) -> Check {
    let made = case.made()?;
    for encoding in [YAML, PROTOBUF] {
        let patch = json!({"metadata": {"labels": {"changed": encoding.rsplit('.').next()}}});
        let patch = patch.to_string().replace('/', "-");
        let ask =
            case.ask("PATCH", &case.kind().path_of(&made)).body(MERGE, patch).header("accept", encoding);
        let answer = ask.send();
        answer.is(200)?;
        same("content-type", &*answer.header("content-type"), encoding)?;
        case.same_object("the object read", &case.read(&made), &answer.value())?;
    }
    let ask = case.ask("PATCH", &case.kind().path("absent")).body(MERGE, "{}").header("accept", PROTOBUF);
    let refused = ask.send();
    holds("content-type", refused.header("content-type") == PROTOBUF, &refused.value())?;
    refused.refuses_with((404, "NotFound"), "\"absent\" not found")
}
