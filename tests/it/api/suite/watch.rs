//! Watching.

use super::{Answers, Case, Check, NOBODY, Run, holds, name, same, version, with_label};
use crate::support::https::{Answer, Events, JSON, MERGE, PROTOBUF, YAML};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::time::Duration;

/// Enough for an event of a write that was answered.
const SOON: Duration = Duration::from_secs(20);

pub(super) fn cases(run: &Run<'_>) {
    run.case("events", |case| events(case, JSON));
    run.case("events in protobuf", |case| events(case, PROTOBUF));
    run.case("events as YAML", |case| {
        let path = format!("{}?watch=true", case.kind().collection());
        match case.ask("GET", &path).header("accept", YAML).watch() {
            Ok(_) => Ok(()),
            Err(answer) => answer.refuses_with((406, "NotAcceptable"), ""),
        }
    });
    run.case("initial events", initial);
    run.case("selection", selection);
    run.case("metadata alone", metadata);
    run.case("forbidden", |case| {
        let answer =
            case.send("", case.ask("GET", &format!("{}?watch=true", case.kind().collection())).by(NOBODY));
        case.is_forbidden(&answer, "watch", ("", ""))
    });
    run.case("wrong options", |case| {
        let path = format!("{}?watch=true&resourceVersion=nonsense", case.kind().collection());
        let why = "resourceVersion: Invalid value: \"nonsense\": strconv.ParseUint: parsing \"nonsense\": invalid syntax";
        case.send("", case.ask("GET", &path)).refuses_with((500, ""), why)?;
        let path = format!("{}?watch=true&sendInitialEvents=true", case.kind().collection());
        let answer = case.send("initial", case.ask("GET", &path));
        answer.refuses_with((422, "Invalid"), "sendInitialEvents")
    });
}

struct Watched<'a> {
    case: Case<'a>,
    label: String,
    since: u64,
}

impl<'a> Watched<'a> {
    /// Objects with a label of their own, from now on.
    fn new(case: Case<'a>) -> Self {
        let now = case.ask("GET", &format!("{}?limit=1", case.kind().collection())).send().value();
        Self { case, label: format!("w{}", case.suite_number()), since: version(&now) }
    }

    fn make(&self) -> Result<Value, String> {
        self.case.made_of(&with_label(&self.case.object(), "watched", &self.label))
    }

    fn open(&self, more: &str, accept: &str) -> Result<Told<'a>, String> {
        let path = format!(
            "{}?watch=true&labelSelector=watched%3D{}&timeoutSeconds=60&{more}",
            self.case.kind().collection(),
            self.label
        );
        let opened = self.case.ask("GET", &path).header("accept", accept).watch();
        self.told(opened)
    }

    fn told(&self, opened: Result<Events, Box<Answer>>) -> Result<Told<'a>, String> {
        let events = opened.map_err(|answer| format!("{} {}", answer.code, answer.value()))?;
        Ok(Told { case: self.case, events, last: RefCell::default() })
    }

    fn since(&self, accept: &str) -> Result<Told<'a>, String> {
        self.open(&format!("resourceVersion={}", self.since), accept)
    }
}

/// A watch and the object that it told of last.
struct Told<'a> {
    case: Case<'a>,
    events: Events,
    last: RefCell<Value>,
}

impl Told<'_> {
    /// The next event that is not of what the server does on its own.
    fn next(&self) -> Result<Value, String> {
        loop {
            let event = self.events.next(SOON)?.ok_or_else(|| "the watch ended".to_owned())?;
            let before = self.last.replace(event["object"].clone());
            let acted = event["type"] == "MODIFIED" && self.case.document().acted_on.is_some();
            if !acted || self.case.same_object("", &event["object"], &before).is_err() {
                return Ok(event);
            }
        }
    }

    fn is_next(&self, what: &str, object: &Value) -> Check {
        let event = self.next()?;
        same("type", &event["type"], what)?;
        self.case.same_object(&format!("the object of {what}"), &event["object"], object)
    }
}

fn patch(case: Case<'_>, object: &Value, body: &Value) -> Result<Value, String> {
    let answer = case.ask("PATCH", &case.kind().path_of(object)).body(MERGE, body.to_string()).send();
    answer.is(200)?;
    Ok(answer.value())
}

fn events(case: Case<'_>, accept: &str) -> Check {
    let watched = Watched::new(case);
    let events = watched.since(accept)?;
    let made = watched.make()?;
    events.is_next("ADDED", &made)?;
    let changed = patch(case, &made, &json!({"metadata": {"annotations": {"changed": "yes"}}}))?;
    events.is_next("MODIFIED", &changed)?;
    patch(case, &made, &json!({"metadata": {"finalizers": null}}))?;
    let path = format!("{}?propagationPolicy=Background", case.kind().path_of(&made));
    case.ask("DELETE", &path).send().is(200)?;
    let mut last = events.next()?;
    while last["type"] == "MODIFIED" {
        if case.kind().kind == "Namespace" {
            return Ok(());
        }
        last = events.next()?;
    }
    same("type", &last["type"], "DELETED")?;
    same("name", name(&last["object"]), name(&made))?;
    holds("the version of the deletion", version(&last["object"]) > version(&changed), &last)?;
    // Who comes later from the same version is told the same.
    let again = watched.since(accept)?;
    again.is_next("ADDED", &made)
}

fn initial(case: Case<'_>) -> Check {
    let watched = Watched::new(case);
    let made = watched.make()?;
    let events = watched.open("resourceVersion=0", JSON)?;
    events.is_next("ADDED", &made)?;
    let options = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let events = watched.open(options, JSON)?;
    events.is_next("ADDED", &made)?;
    let mark = events.next()?;
    same("type", &mark["type"], "BOOKMARK")?;
    same("kind", &mark["object"]["kind"], &*case.kind().kind)?;
    holds("resourceVersion of the mark", version(&mark["object"]) >= version(&made), &mark)?;
    same("the mark", &mark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true")?;
    let late = watched.make()?;
    events.is_next("ADDED", &late)
}

/// What leaves a selection is told as deleted, what enters it as added.
fn selection(case: Case<'_>) -> Check {
    let watched = Watched::new(case);
    let events = watched.since(JSON)?;
    let made = watched.make()?;
    events.is_next("ADDED", &made)?;
    let gone = patch(case, &made, &json!({"metadata": {"labels": {"watched": "no"}}}))?;
    let event = events.next()?;
    same("type", &event["type"], "DELETED")?;
    same("label", &event["object"]["metadata"]["labels"]["watched"], &*watched.label)?;
    same("resourceVersion", &version(&event["object"]), &version(&gone))?;
    let back = patch(case, &made, &json!({"metadata": {"labels": {"watched": watched.label}}}))?;
    events.is_next("ADDED", &back)?;
    let named = format!(
        "{}?watch=true&resourceVersion={}&fieldSelector=metadata.name%3D{}",
        case.kind().collection(),
        watched.since,
        name(&made)
    );
    let events = watched.told(case.ask("GET", &named).watch())?;
    events.is_next("ADDED", &made)
}

fn metadata(case: Case<'_>) -> Check {
    let watched = Watched::new(case);
    let made = watched.make()?;
    let events = watched.since("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1")?;
    let event = events.next()?;
    same("kind", &event["object"]["kind"], "PartialObjectMetadata")?;
    let metadata = |object: &Value| json!({"metadata": super::read::metadata(object)});
    case.same_object("metadata", &metadata(&event["object"]), &metadata(&made))?;
    let events = watched.since("application/json;as=Table;g=meta.k8s.io;v=v1")?;
    let event = events.next()?;
    same("kind", &event["object"]["kind"], "Table")?;
    same("row", name(&event["object"]["rows"][0]["object"]), name(&made))
}
