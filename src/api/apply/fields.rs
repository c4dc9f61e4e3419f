//! Sets of fields, as `managedFields` names them (`FieldsV1`): a tree whose steps are written `f:name`
//! (a field), `k:{"name":"a"}` (an item of a list by its keys), `v:"x"` (an item of a set), `i:0`
//! (an item by its place), and `.` for the step itself.

use serde_json::{Map, Value};
use std::borrow::Cow;
use std::cmp::Ordering;

/// A set of fields below one place, ordered by step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set(Vec<Step>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Step {
    /// In the form of `FieldsV1`.
    name: Box<str>,
    mark: Mark,
}

/// What a set says of one place: whether it is in the set, and which fields below it are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// The place itself.
    pub member: bool,
    /// What is below.
    pub below: Set,
}

impl Mark {
    /// The place alone.
    pub const MEMBER: Self = Self { member: true, below: Set(Vec::new()) };

    /// Neither the place nor anything below it.
    pub fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }
}

/// The step to a field.
pub(super) fn field(name: &str) -> String {
    ["f:", name].concat()
}

/// The step to an item of a set.
pub(super) fn item(value: &Value) -> String {
    format!("v:{}", canonical(value))
}

/// The step to an item of a list by its keys, which are ordered by name.
pub(super) fn keyed<'a>(keys: impl Iterator<Item = (&'a str, &'a Value)>) -> String {
    let mut text = String::from("k:{");
    for (index, (name, value)) in keys.enumerate() {
        if index > 0 {
            text.push(',');
        }
        text.push_str(&Value::from(name).to_string());
        text.push(':');
        text.push_str(&canonical(value));
    }
    text.push('}');
    text
}

/// JSON in which equal numbers are the same text.
fn canonical(value: &Value) -> String {
    match value.as_f64() {
        Some(number) if value.is_f64() && number.fract() == 0.0 && number.abs() < 9e15 => {
            format!("{number:.0}")
        }
        _ => value.to_string(),
    }
}

/// A step as written by a client, in the form of ours. `None` for kinds of steps nobody knows.
fn adopted(name: &str) -> Result<Option<Cow<'_, str>>, String> {
    let parsed = |text: &str| serde_json::from_str::<Value>(text).map_err(|error| error.to_string());
    match name.split_at_checked(2) {
        None => Err("key must be 2 characters long:".to_owned()),
        Some(("f:", _)) => Ok(Some(Cow::Borrowed(name))),
        Some(("i:", place)) => match place.parse::<i64>() {
            Ok(_) => Ok(Some(Cow::Borrowed(name))),
            Err(error) => Err(error.to_string()),
        },
        Some(("v:", text)) => Ok(Some(Cow::Owned(item(&parsed(text)?)))),
        Some(("k:", text)) => match parsed(text)? {
            Value::Object(keys) => {
                Ok(Some(Cow::Owned(keyed(keys.iter().map(|(name, value)| (name.as_str(), value))))))
            }
            _ => Err(format!("no keys: {name}")),
        },
        Some((kind, _)) if kind.ends_with(':') => Ok(None),
        Some(_) => Err(format!("missing colon: {name}")),
    }
}

/// A step for people: `.name`, `[name="a"]`, `[="x"]`, `[0]`.
fn shown(name: &str) -> String {
    let text = |value: &Value| match value {
        Value::String(text) => format!("{text:?}"),
        other => other.to_string(),
    };
    let (kind, rest) = name.split_at_checked(2).unwrap_or(("", name));
    match (kind, serde_json::from_str::<Value>(rest)) {
        ("f:", _) => format!(".{rest}"),
        ("k:", Ok(Value::Object(keys))) => {
            let keys: Vec<String> =
                keys.iter().map(|(name, value)| format!("{name}={}", text(value))).collect();
            format!("[{}]", keys.join(","))
        }
        ("v:", Ok(value)) => format!("[={}]", text(&value)),
        _ => format!("[{rest}]"),
    }
}

/// A path of steps for people.
pub(super) fn path_text(steps: &[&str]) -> String {
    steps.iter().map(|step| shown(step)).collect()
}

impl Set {
    /// A set of fields by their names from the root.
    pub fn of(paths: &[&[&str]]) -> Self {
        let mut set = Self::default();
        for path in paths {
            set.insert(path);
        }
        set
    }

    fn insert(&mut self, path: &[&str]) {
        let [name, rest @ ..] = path else { return };
        let mut mark = Mark::default();
        if rest.is_empty() {
            mark.member = true;
        } else {
            mark.below.insert(rest);
        }
        self.unite(Self(vec![Step { name: field(name).into(), mark }]));
    }

    /// Nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds what is known of a place that the set has no step to yet; nothing for an empty mark.
    pub(super) fn add(&mut self, name: impl FnOnce() -> String, mark: Mark) {
        if mark.is_empty() {
            return;
        }
        let step = Step { name: name().into(), mark };
        match self.0.last() {
            Some(last) if last.name >= step.name => match self.find(&step.name) {
                Ok(place) => self.0[place] = step,
                Err(place) => self.0.insert(place, step),
            },
            _ => self.0.push(step),
        }
    }

    fn find(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|step| (*step.name).cmp(name))
    }

    /// What it says of a step.
    pub(super) fn get(&self, name: &str) -> Option<&Mark> {
        self.find(name).ok().map(|place| &self.0[place].mark)
    }

    /// Its steps with their marks.
    pub(super) fn steps(&self) -> impl Iterator<Item = (&str, &Mark)> {
        self.0.iter().map(|step| (&*step.name, &step.mark))
    }

    /// Adds all of another set.
    pub fn unite(&mut self, other: Self) {
        if self.0.is_empty() {
            self.0 = other.0;
            return;
        }
        let mut others = other.0.into_iter().peekable();
        let mut all = Vec::with_capacity(self.0.len() + others.len());
        for mut step in std::mem::take(&mut self.0) {
            while let Some(before) = others.next_if(|other| other.name < step.name) {
                all.push(before);
            }
            if let Some(same) = others.next_if(|other| other.name == step.name) {
                step.mark.member |= same.mark.member;
                step.mark.below.unite(same.mark.below);
            }
            all.push(step);
        }
        all.extend(others);
        self.0 = all;
    }

    /// Takes out what is in another set: a place does not take those below it along.
    pub fn subtract(&mut self, other: &Self) {
        self.subtracted(other, &|mark, gone| {
            mark.member &= !gone.member;
            mark.below.subtract(&gone.below);
        });
    }

    /// Takes out what is in another set, and all below it.
    pub fn subtract_all_below(&mut self, other: &Self) {
        self.subtracted(other, &|mark, gone| {
            if gone.member {
                *mark = Mark::default();
            } else {
                mark.below.subtract_all_below(&gone.below);
            }
        });
    }

    fn subtracted(&mut self, other: &Self, take: &dyn Fn(&mut Mark, &Mark)) {
        let mut gone = other.0.iter().peekable();
        self.0.retain_mut(|step| {
            while gone.next_if(|other| other.name < step.name).is_some() {}
            match gone.peek() {
                Some(other) if other.name == step.name => {
                    take(&mut step.mark, &other.mark);
                    !step.mark.is_empty()
                }
                _ => true,
            }
        });
    }

    /// What is in both.
    #[must_use]
    pub fn common(&self, other: &Self) -> Self {
        let (mut left, mut right) = (self.0.iter().peekable(), other.0.iter().peekable());
        let mut both = Vec::new();
        while let (Some(own), Some(its)) = (left.peek(), right.peek()) {
            let order = own.name.cmp(&its.name);
            if order == Ordering::Equal {
                let mark = Mark {
                    member: own.mark.member && its.mark.member,
                    below: own.mark.below.common(&its.mark.below),
                };
                if !mark.is_empty() {
                    both.push(Step { name: own.name.clone(), mark });
                }
            }
            if order != Ordering::Greater {
                left.next();
            }
            if order != Ordering::Less {
                right.next();
            }
        }
        Self(both)
    }

    /// Visits each path in it: those of a place before those below it.
    pub(super) fn visit<'a>(&'a self, path: &mut Vec<&'a str>, see: &mut dyn FnMut(&[&'a str])) {
        for step in self.0.iter().filter(|step| step.mark.member) {
            path.push(&step.name);
            see(path);
            path.pop();
        }
        for step in &self.0 {
            path.push(&step.name);
            step.mark.below.visit(path, see);
            path.pop();
        }
    }

    /// Reads `fieldsV1`; `own` if it was written by us, so that its steps need no second look.
    pub fn read(fields: &Value, own: bool) -> Result<Self, String> {
        match fields {
            Value::Object(map) => read(map, own).map(|mark| mark.below),
            Value::Null => Ok(Self::default()),
            _ => Err("fieldsV1 has to be an object".to_owned()),
        }
    }

    /// Writes `fieldsV1`.
    pub fn write(self) -> Value {
        write(Mark { member: false, below: self })
    }
}

/// Whether stored `fieldsV1` have something in common with a set.
pub(super) fn overlaps(stored: &Value, set: &Set) -> bool {
    set.steps().any(|(name, mark)| {
        let below = stored.get(name);
        below.is_some_and(|below| (mark.member && is_member(below)) || overlaps(below, &mark.below))
    })
}

/// Whether stored `fieldsV1` have all that a set has.
pub(super) fn covers(stored: &Value, set: &Set) -> bool {
    set.steps().all(|(name, mark)| {
        let below = stored.get(name);
        below.is_some_and(|below| (!mark.member || is_member(below)) && covers(below, &mark.below))
    })
}

fn is_member(below: &Value) -> bool {
    below.as_object().is_some_and(|map| map.is_empty() || map.contains_key("."))
}

fn read(map: &Map<String, Value>, own: bool) -> Result<Mark, String> {
    let mut mark = Mark::default();
    for (name, below) in map {
        if name == "." {
            mark.member = true;
            continue;
        }
        let name = if own { Some(Cow::Borrowed(name.as_str())) } else { adopted(name)? };
        let (Some(name), Value::Object(below)) = (name, below) else { continue };
        mark.below.add(|| name.into_owned(), read(below, own)?);
    }
    // What has nothing below it is there for its own sake.
    mark.member |= mark.below.is_empty();
    Ok(mark)
}

fn write(mark: Mark) -> Value {
    let own = (mark.member && !mark.below.is_empty()).then(|| (".".to_owned(), Value::Object(Map::new())));
    let below = mark.below.0.into_iter().map(|step| (String::from(step.name), write(step.mark)));
    Value::Object(own.into_iter().chain(below).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(fields: &Value) -> Set {
        Set::read(fields, false).unwrap()
    }

    #[test]
    fn sets_are_read_and_written() {
        for fields in [
            json!({}),
            json!({"f:data": {".": {}, "f:a": {}}}),
            json!({"f:spec": {"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}}}}}),
            json!({"f:metadata": {"f:finalizers": {"v:\"x/y\"": {}}}}),
        ] {
            assert_eq!(set(&fields).write(), fields);
        }
        assert_eq!(
            set(&json!({"f:a": {".": {}}, "k:{ \"b\":1.0, \"a\": 2 }": {}, "z:what": {}})).write(),
            json!({"f:a": {}, "k:{\"a\":2,\"b\":1}": {}})
        );
        for wrong in [json!({"x": {}}), json!({"k:[]": {}}), json!({"v:": {}}), json!({"i:x": {}})] {
            assert!(Set::read(&wrong, false).is_err(), "{wrong}");
        }
    }

    #[test]
    fn places_and_what_is_below_them_are_apart() {
        let parent = set(&json!({"f:a": {}}));
        let child = set(&json!({"f:a": {"f:b": {}}}));
        let mut rest = parent.clone();
        rest.subtract(&child);
        assert_eq!(rest, parent);
        let mut rest = child.clone();
        rest.subtract(&parent);
        assert_eq!(rest, child);
        rest.subtract_all_below(&parent);
        assert!(rest.is_empty());
        let mut both = parent.clone();
        both.unite(child.clone());
        assert_eq!(both.clone().write(), json!({"f:a": {".": {}, "f:b": {}}}));
        assert_eq!(both.common(&child), child);
        assert!(parent.common(&child).is_empty());
    }

    #[test]
    fn paths_are_shown_as_people_read_them() {
        let fields = json!({"f:spec": {"f:c": {"k:{\"name\":\"a\",\"port\":80}": {".": {}, "f:image": {}}},
            "f:z": {"v:\"x\"": {}}, "f:list": {"i:3": {}}}});
        let set = set(&fields);
        let mut seen = Vec::new();
        set.visit(&mut Vec::new(), &mut |path| seen.push(path_text(path)));
        assert_eq!(
            seen,
            [
                ".spec.c[name=\"a\",port=80]",
                ".spec.c[name=\"a\",port=80].image",
                ".spec.list[3]",
                ".spec.z[=\"x\"]"
            ]
        );
    }
}
