//! Reading objects and lists.

use super::{Answers, Case, Check, NOBODY, Run, holds, name, same, version, with_label};
use crate::support::https::{JSON, PROTOBUF, YAML};
use serde_json::{Value, json};

const TABLE: &str = "application/json;as=Table;g=meta.k8s.io;v=v1";
const PARTIAL: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
const PARTIAL_LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

pub(super) fn cases(run: &Run<'_>) {
    run.case("object", object);
    run.case("object as table", object_as_table);
    run.case("object missing", |case| {
        let answer = case.send("", case.ask("GET", &case.kind().path("absent")));
        case.is_missing(&answer, "absent")
    });
    run.case("object forbidden", |case| {
        let answer = case.send("", case.ask("GET", &case.kind().path("absent")).by(NOBODY));
        case.is_forbidden(&answer, "get", ("absent", ""))
    });
    run.case("unknown encoding", |case| {
        let answer = case.send("", case.ask("GET", &case.kind().collection()).header("accept", "text/html"));
        answer.refuses(
            (406, "NotAcceptable"),
            "406: Not Acceptable\n\nAvailable representations: application/json, application/yaml, application/vnd.kubernetes.protobuf, application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch",
            json!({}),
        )
    });
    run.case("list", list);
    run.case("list in pages", pages);
    run.case("list as table", list_as_table);
    run.case("list of then", then);
    run.case("list forbidden", |case| {
        let answer = case.send("", case.ask("GET", &case.kind().collection()).by(NOBODY));
        case.is_forbidden(&answer, "list", ("", ""))
    });
    run.case("list with wrong options", wrong_options);
}

/// Kinds that are told of something else than the store.
pub(super) fn of_nothing_stored(run: &Run<'_>) {
    let run = Run { document: run.suite.documents.first(), ..*run };
    run.case("list", |case| {
        let answer = case.ask("GET", &case.kind().collection()).send();
        answer.is(200)?;
        same("kind", &answer.value()["kind"], &*format!("{}List", case.kind().kind))
    });
    run.case("create", |case| {
        let answer = case.ask("POST", &case.kind().collection()).object(JSON, &json!({})).send();
        answer.refuses_with((405, "MethodNotAllowed"), "")
    });
}

fn object(case: Case<'_>) -> Check {
    let made = case.made()?;
    let path = case.kind().path_of(&made);
    for encoding in [JSON, YAML, PROTOBUF] {
        let answer = case.send(encoding, case.ask("GET", &path).header("accept", encoding));
        answer.is(200)?;
        same("content-type", &*answer.header("content-type"), encoding)?;
        case.same_object(encoding, &answer.value(), &made)?;
    }
    let answer = case.ask("GET", &path).header("accept", PARTIAL).send();
    answer.is(200)?;
    case.same_object("metadata", &metadata(&answer.value()), &metadata(&made))?;
    same("kind", &answer.value()["kind"], "PartialObjectMetadata")?;
    let answer = case.ask("GET", &format!("{path}?resourceVersion=0")).send();
    case.same_object("the cached object", &answer.value(), &made)
}

/// Metadata as it is shown alone: without an annotation that one version of a kind is shown with.
pub(super) fn metadata(object: &Value) -> Value {
    let mut metadata = object["metadata"].clone();
    let stale = "deprecated.daemonset.template.generation";
    let annotations = metadata.get_mut("annotations").and_then(Value::as_object_mut);
    if annotations.is_some_and(|own| own.remove(stale).is_some() && own.is_empty()) {
        metadata.as_object_mut().unwrap().remove("annotations");
    }
    metadata
}

fn object_as_table(case: Case<'_>) -> Check {
    let made = case.made()?;
    let answer = case.send("", case.ask("GET", &case.kind().path_of(&made)).header("accept", TABLE));
    answer.is(200)?;
    is_table(&answer.value(), &[name(&made)])
}

fn is_table(table: &Value, names: &[&str]) -> Check {
    same("kind", &table["kind"], "Table")?;
    same("apiVersion", &table["apiVersion"], "meta.k8s.io/v1")?;
    let columns = table["columnDefinitions"].as_array().map_or(0, Vec::len);
    let rows = table["rows"].as_array().cloned().unwrap_or_default();
    holds(
        "columns",
        columns > 0 && rows.iter().all(|row| row["cells"].as_array().map_or(0, Vec::len) == columns),
        table,
    )?;
    let named: Vec<&str> = rows.iter().map(|row| name(&row["object"])).collect();
    same("rows", &named, names)?;
    holds("objects", rows.iter().all(|row| row["object"]["kind"] == "PartialObjectMetadata"), table)
}

/// Some objects with a label of their own; the selector that finds them.
fn family(case: Case<'_>, count: usize) -> Result<(Vec<Value>, String), String> {
    let label = format!("f{}", case.suite_number());
    let made = (0..count).map(|_| case.made_of(&with_label(&case.object(), "family", &label)));
    let mut made: Vec<Value> = made.collect::<Result<_, _>>()?;
    made.sort_by(|one, other| name(one).cmp(name(other)));
    Ok((made, format!("labelSelector=family%3D{label}")))
}

fn is_list(case: Case<'_>, list: &Value, items: &[Value]) -> Check {
    same("kind", &list["kind"], &*format!("{}List", case.kind().kind))?;
    same("apiVersion", &list["apiVersion"], &*case.kind().api_version())?;
    let latest = items.iter().map(version).max().unwrap_or_default();
    holds("resourceVersion", version(list) >= latest, &list["metadata"])?;
    let got = list["items"].as_array().cloned().unwrap_or_default();
    // The items of a list are of the list's kind.
    let bare = |item: &Value| {
        let mut item = item.clone();
        let fields = item.as_object_mut().unwrap();
        fields.remove("kind");
        fields.remove("apiVersion");
        item
    };
    let (got, wanted): (Vec<Value>, Vec<Value>) =
        (got.iter().map(bare).collect(), items.iter().map(bare).collect());
    case.same_object("the items", &Value::from(got), &Value::from(wanted))
}

fn list(case: Case<'_>) -> Check {
    let (made, selector) = family(case, 2)?;
    let path = case.kind().collection();
    for encoding in [JSON, YAML, PROTOBUF] {
        let answer =
            case.send(encoding, case.ask("GET", &format!("{path}?{selector}")).header("accept", encoding));
        answer.is(200)?;
        is_list(case, &answer.value(), &made)?;
    }
    let everywhere = case.ask("GET", &format!("{}?{selector}", case.kind().everywhere())).send();
    is_list(case, &everywhere.value(), &made)?;
    let cached = case.ask("GET", &format!("{path}?{selector}&resourceVersion=0")).send();
    is_list(case, &cached.value(), &made)?;
    let named = format!("{path}?fieldSelector=metadata.name%3D{}", name(&made[1]));
    is_list(case, &case.ask("GET", &named).send().value(), &made[1..])?;
    let partial =
        case.ask("GET", &format!("{path}?{selector}")).header("accept", PARTIAL_LIST).send().value();
    same("kind", &partial["kind"], "PartialObjectMetadataList")?;
    case.same_object("metadata", &metadata(&partial["items"][0]), &metadata(&made[0]))
}

fn pages(case: Case<'_>) -> Check {
    let (made, selector) = family(case, 3)?;
    let path = format!("{}?{selector}&limit=2", case.kind().collection());
    let first = case.send("first", case.ask("GET", &path));
    first.is(200)?;
    let first = first.value();
    is_list(case, &first, &made[..2])?;
    let token = first["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
    holds("continue", !token.is_empty(), &first["metadata"])?;
    // What comes after the first page was told is not seen in the next.
    let late = case.made_of(&with_label(
        &case.object(),
        "family",
        made[0]["metadata"]["labels"]["family"].as_str().unwrap(),
    ))?;
    let second = case.send("second", case.ask("GET", &format!("{path}&continue={token}")));
    second.is(200)?;
    let second = second.value();
    is_list(case, &second, &made[2..])?;
    same("resourceVersion of the pages", &version(&second), &version(&first))?;
    holds(
        "continue",
        second["metadata"]["continue"].as_str().unwrap_or_default().is_empty(),
        &second["metadata"],
    )?;
    holds("the late object", version(&late) > version(&second), &late)
}

fn list_as_table(case: Case<'_>) -> Check {
    let (made, selector) = family(case, 2)?;
    let path = format!("{}?{selector}", case.kind().collection());
    let answer = case.send("", case.ask("GET", &path).header("accept", TABLE));
    answer.is(200)?;
    let names: Vec<&str> = made.iter().map(name).collect();
    is_table(&answer.value(), &names)
}

/// A list of what was there at a version.
fn then(case: Case<'_>) -> Check {
    let (made, selector) = family(case, 2)?;
    let path = format!("{}?{selector}", case.kind().collection());
    let now = case.ask("GET", &path).send().value();
    case.ask("DELETE", &case.kind().path_of(&made[0])).send().is(200)?;
    let exact = format!("{path}&resourceVersion={}&resourceVersionMatch=Exact", version(&now));
    let then = case.ask("GET", &exact).send();
    then.is(200)?;
    is_list(case, &then.value(), &made)?;
    same("resourceVersion", &version(&then.value()), &version(&now))?;
    let newer = format!("{path}&resourceVersion={}&resourceVersionMatch=NotOlderThan", version(&now));
    case.ask("GET", &newer).send().is(200)
}

fn wrong_options(case: Case<'_>) -> Check {
    let ask = |options: &str| {
        case.send(options, case.ask("GET", &format!("{}?{options}", case.kind().collection())))
    };
    ask("labelSelector=a%3D%3D%3Db").refuses_with((400, "BadRequest"), "unable to parse requirement")?;
    ask("fieldSelector=spec.nonsense%3Db").refuses_with((400, "BadRequest"), "spec.nonsense")?;
    ask("continue=nonsense").refuses_with((400, "BadRequest"), "continue")?;
    ask("resourceVersion=nonsense").refuses_with((400, "BadRequest"), "invalid resource version")?;
    ask("resourceVersionMatch=Exact").refuses_with(
        (422, "Invalid"),
        "resourceVersionMatch is forbidden unless resourceVersion is provided",
    )?;
    ask("resourceVersion=0&resourceVersionMatch=Exact").refuses_with(
        (422, "Invalid"),
        "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
    )?;
    let answer = case.ask("GET", &format!("{}?resourceVersion=999999999", case.kind().collection())).send();
    answer.refuses_with((504, "Timeout"), "Too large resource version: 999999999, current: ")
}
