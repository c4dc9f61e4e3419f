//! Checks that a configuration is of its type, in the words of Kubernetes.

use super::compare::step_of;
use super::fields;
use super::shape::{Atom, Fields, Items, Scalar, Typed};
use crate::validate::{go_literal, go_map, go_type};
use serde_json::{Map, Value};
use std::collections::HashSet;

/// What is wrong with a configuration; `None` if nothing is.
pub(super) fn problems(ty: Typed<'_>, config: &Value) -> Option<String> {
    let mut checker = Checker::default();
    checker.value(ty, config);
    match checker.problems.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        all => Some(format!("errors:\n  {}", all.join("\n  "))),
    }
}

#[derive(Default)]
struct Checker {
    path: Vec<String>,
    problems: Vec<String>,
}

impl Checker {
    fn wrong(&mut self, what: &str) {
        let path = self.path.concat();
        self.problems.push(if path.is_empty() { what.to_owned() } else { format!("{path}: {what}") });
    }

    fn below(&mut self, step: String, check: impl FnOnce(&mut Self)) {
        self.path.push(step);
        check(self);
        self.path.pop();
    }

    fn value(&mut self, ty: Typed<'_>, value: &Value) {
        match (ty.atom(Some(value)), value) {
            (_, Value::Null) => {}
            (Atom::Scalar(scalar), value) => self.scalar(scalar, value),
            (Atom::List(item, items), Value::Array(values)) => {
                if let Some(item) = item {
                    self.items(item, items, values);
                }
            }
            (Atom::Map(fields), Value::Object(map)) => self.fields(fields, map),
            (Atom::List(..), other) => self.wrong(&format!("expected list, got &{{{}}}", go_map(other))),
            (Atom::Map(_), other) => self.wrong(&format!("expected map, got &{{{}}}", go_map(other))),
        }
    }

    fn scalar(&mut self, scalar: Scalar, value: &Value) {
        let found = go_map(value);
        match scalar {
            Scalar::Number if !value.is_number() => {
                self.wrong(&format!("expected numeric (int or float), got {}", go_type(value)));
            }
            Scalar::Text if !value.is_string() => {
                let found = go_literal(value);
                self.wrong(&format!("expected string, got &value.valueUnstructured{{Value:{found}}}"));
            }
            Scalar::Flag if !value.is_boolean() => {
                self.wrong(&format!("expected boolean, got &{{{found}}}"));
            }
            Scalar::Any if value.is_array() || value.is_object() => {
                self.wrong(&format!("expected any scalar, got &{{{found}}}"));
            }
            _ => {}
        }
    }

    fn items(&mut self, ty: Typed<'_>, items: &Items, values: &[Value]) {
        let mut seen = HashSet::new();
        for (index, value) in values.iter().enumerate() {
            let shown = if matches!(items, Items::Atomic) {
                format!("[{index}]")
            } else {
                match step_of(items, value) {
                    Err(why) => return self.wrong(&format!("element {index}: {why}")),
                    Ok(step) => {
                        let shown = fields::path_text(&[&step]);
                        if !seen.insert(step) {
                            self.wrong(&format!("duplicate entries for key {shown}"));
                        }
                        shown
                    }
                }
            };
            self.below(shown, |checker| checker.value(ty, value));
        }
    }

    fn fields(&mut self, fields: Fields<'_>, map: &Map<String, Value>) {
        for (name, value) in map {
            let ty = fields.field(name);
            let known = ty.is_some();
            self.below(format!(".{name}"), |checker| match ty {
                Some(ty) => checker.value(ty, value),
                None => checker.wrong("field not declared in schema"),
            });
            if !known {
                return;
            }
        }
    }
}
