//! What Kubernetes 1.36 answers to wrong objects, case by case (`cases/*.txt`).
//!
//! A line of JSON is an object in order; `=>` shows it as it is stored. Each line that follows makes
//! it wrong (`path = value`, `path -` takes away; `~` changes the stored object, `%` its status), and
//! the indented lines are the causes that are told, in their order.

use super::{Part, Strategies};
use crate::registry::{reshape, shape};
use api::kinds::{Kind, by_kind};
use api::schema::{self, schema};
use serde_json::Value;

/// Parts of a path such as `spec.containers[0].name` or `data["a.b"]`.
fn steps(path: &str) -> Vec<String> {
    let (mut parts, mut rest) = (Vec::new(), path);
    while !rest.is_empty() {
        rest = rest.strip_prefix('.').unwrap_or(rest);
        if let Some(quoted) = rest.strip_prefix("[\"") {
            let (key, after) = quoted.split_once("\"]").expect("a closed key");
            parts.push(key.to_owned());
            rest = after;
        } else if let Some(index) = rest.strip_prefix('[') {
            let (index, after) = index.split_once(']').expect("a closed index");
            parts.push(index.to_owned());
            rest = after;
        } else {
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            parts.push(rest[..end].to_owned());
            rest = &rest[end..];
        }
    }
    parts
}

fn assign(object: &mut Value, path: &str, value: Option<Value>) {
    let steps = steps(path);
    let (last, parents) = steps.split_last().expect("a path");
    let mut current = object;
    for (step, next) in parents.iter().zip(&steps[1..]) {
        let fresh = || {
            if next.parse::<usize>().is_ok() {
                Value::from(Vec::<Value>::new())
            } else {
                Value::Object(serde_json::Map::new())
            }
        };
        current = match current {
            Value::Array(items) => {
                let index: usize = step.parse().expect("an index");
                if index == items.len() {
                    items.push(fresh());
                }
                &mut items[index]
            }
            other => {
                if other[step].is_null() {
                    other[step] = fresh();
                }
                &mut other[step]
            }
        };
    }
    match (current, value) {
        (Value::Array(items), Some(value)) => {
            let index: usize = last.parse().expect("an index");
            if index == items.len() { items.push(value) } else { items[index] = value }
        }
        (Value::Array(items), None) => drop(items.remove(last.parse().expect("an index"))),
        (other, Some(value)) => other[last] = value,
        (other, None) => drop(other.as_object_mut().and_then(|fields| fields.remove(last))),
    }
}

fn changed(object: &Value, line: &str) -> Value {
    let mut object = object.clone();
    for change in line.split(" ;; ") {
        match change.strip_suffix(" -") {
            Some(path) => assign(&mut object, path, None),
            None => {
                let (path, value) = change.split_once(" = ").expect("an assignment");
                assign(&mut object, path, Some(serde_json::from_str(value).expect("a value")));
            }
        }
    }
    object
}

/// Brings an object into its stored form and checks it; None where its very types are wrong.
fn created(kind: &'static Kind, mut object: Value) -> Option<(Value, Vec<String>)> {
    let findings = schema::check(&mut object, schema().of(kind)?);
    if findings.ill_typed.is_some() {
        return None;
    }
    let strategy = Strategies::of(kind);
    shape(&mut object, kind, strategy);
    let uid = object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    let object: Value =
        serde_json::from_str(&object.to_string().replace(&uid, "UID")).expect("the same with another uid");
    let errors = strategy.check_new(kind, &object);
    Some((object, errors.iter().map(ToString::to_string).collect()))
}

fn updated(kind: &'static Kind, old: &Value, mut new: Value, part: Part) -> Option<Vec<String>> {
    let findings = schema::check(&mut new, schema().of(kind)?);
    if findings.ill_typed.is_some() {
        return None;
    }
    let strategy = Strategies::of(kind);
    reshape((&mut new, old), kind, strategy, part);
    let errors = strategy.check_change(kind, &new, old, part);
    Some(errors.iter().map(ToString::to_string).collect())
}

/// Fields that admission or allocation decides, not the rules of the kind.
const ELSEWHERE: [&str; 12] = [
    "/metadata/creationTimestamp",
    "/metadata/uid",
    "/metadata/resourceVersion",
    "/spec/clusterIP",
    "/spec/clusterIPs",
    "/spec/priority",
    "/spec/tolerations",
    "/spec/preemptionPolicy",
    "/spec/username",
    "/spec/groups",
    "/status/lastPhaseTransitionTime",
    "/status/conditions",
];

/// Kubernetes writes null for some fields that are not there.
fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(without_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

fn shown(object: &Value) -> Value {
    let mut object = object.clone();
    for pointer in ELSEWHERE {
        let (parent, field) = pointer.rsplit_once('/').expect("a pointer");
        object.pointer_mut(parent).and_then(Value::as_object_mut).and_then(|fields| fields.remove(field));
    }
    without_nulls(&mut object);
    if object["kind"] == "Service" {
        for port in object["spec"]["ports"].as_array_mut().into_iter().flatten() {
            port.as_object_mut().and_then(|port| port.remove("nodePort"));
        }
    }
    object
}

/// The causes as kubectl prints them, each once. Kubernetes appends what differs to some; that is
/// for people to read and not compared.
fn distinct<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut seen = Vec::new();
    for line in lines {
        let line =
            line.split(['\n']).next().unwrap_or_default().split("\\n").next().unwrap_or_default().to_owned();
        if !seen.contains(&line) {
            seen.push(line);
        }
    }
    seen
}

struct Suite {
    kind: &'static Kind,
    base: Value,
    stored: Value,
    failures: Vec<String>,
    cases: usize,
}

impl Suite {
    fn case(&mut self, line: &str, expected: &[&str]) {
        if expected.iter().any(|line| line.starts_with("! 4") || line.starts_with("! 5")) {
            return;
        }
        self.cases += 1;
        let (part, change) = match line.get(..2) {
            Some("~ ") => (Some(Part::Main), &line[2..]),
            Some("% ") => (Some(Part::Status), &line[2..]),
            _ => (None, line),
        };
        let actual = match part {
            None => created(self.kind, changed(&self.base, change)).map(|(_, errors)| errors),
            Some(part) => updated(self.kind, &self.stored, changed(&self.stored, change), part),
        };
        let actual = actual.unwrap_or_else(|| vec!["(ill typed)".to_owned()]);
        let (actual, expected) =
            (distinct(actual.iter().map(String::as_str)), distinct(expected.iter().copied()));
        if actual != expected {
            let named = format!("{} {}", self.kind.kind, self.base["metadata"]["name"]);
            let list = |lines: &[String]| lines.iter().map(|line| format!("\n\t{line}")).collect::<String>();
            self.failures.push(format!(
                "{named}: {line}\n  wanted{}\n  got{}",
                list(&expected),
                list(&actual)
            ));
        }
    }
}

fn run(text: &str) -> (usize, Vec<String>) {
    let (mut cases, mut failures) = (0, Vec::new());
    let mut suite: Option<Suite> = None;
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    for (index, line) in lines.iter().enumerate() {
        if line.starts_with('{') {
            if let Some(suite) = suite.take() {
                cases += suite.cases;
                failures.extend(suite.failures);
            }
            let base: Value = serde_json::from_str(line).expect("an object");
            let api_version = base["apiVersion"].as_str().expect("a version");
            let kind = by_kind(api_version, base["kind"].as_str().expect("a kind")).expect("a known kind");
            let (stored, _) = created(kind, base.clone()).expect("an object of its kind");
            suite = Some(Suite { kind, base, stored, failures: Vec::new(), cases: 0 });
            continue;
        }
        let Some(suite) = &mut suite else { continue };
        if let Some(expected) = line.strip_prefix("=> ") {
            let expected: Value = serde_json::from_str(expected).expect("an object");
            let (actual, wanted) = (shown(&suite.stored), shown(&expected));
            if actual != wanted {
                suite.failures.push(format!(
                    "{} {}\n  wanted {wanted}\n  got    {actual}",
                    suite.kind.kind, suite.base["metadata"]["name"]
                ));
            }
            suite.stored = {
                let mut stored = expected;
                without_nulls(&mut stored);
                stored["metadata"]["resourceVersion"] = Value::from("1");
                stored
            };
        } else if !line.starts_with('\t') {
            let expected: Vec<&str> =
                lines[index + 1..].iter().map_while(|line| line.strip_prefix('\t')).collect();
            suite.case(line, &expected);
        }
    }
    if let Some(suite) = suite {
        cases += suite.cases;
        failures.extend(suite.failures);
    }
    (cases, failures)
}

#[test]
fn wrong_objects_are_told_as_kubernetes_tells_them() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("strategies/cases");
    let (mut cases, mut failures) = (0, Vec::new());
    for file in std::fs::read_dir(folder).expect("the folder of cases") {
        let text = std::fs::read_to_string(file.expect("a file").path()).expect("a text");
        let (count, wrong) = run(&text);
        cases += count;
        failures.extend(wrong);
    }
    assert!(failures.is_empty(), "{} of {cases} cases:\n{}", failures.len(), failures.join("\n"));
}
