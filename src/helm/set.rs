//! `spec.set`: values by paths as `helm --set` has them (`a.b`, `list[0].c`, `a\.b`).

use serde_json::{Map, Value};

/// The longest list that a path may ask for (Helm's limit).
const LONGEST: usize = 65_536;

#[derive(Debug, PartialEq)]
enum Step {
    Key(String),
    Index(usize),
}

/// Sets all values, those of whole numbers, truths and null by their types, all others as texts.
pub(crate) fn apply(values: &mut Map<String, Value>, set: &Map<String, Value>) -> Result<(), String> {
    for (path, given) in set {
        let steps = steps(path)?;
        let value = match given {
            Value::String(text) => typed(text),
            other => other.clone(),
        };
        let mut root = Value::Object(std::mem::take(values));
        place(&mut root, &steps, value);
        if let Value::Object(all) = root {
            *values = all;
        }
    }
    Ok(())
}

fn typed(text: &str) -> Value {
    match text {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        "null" => Value::Null,
        _ if text == "0" || !text.starts_with('0') => {
            text.parse::<i64>().map_or_else(|_| Value::String(text.to_owned()), Value::from)
        }
        _ => Value::String(text.to_owned()),
    }
}

fn steps(path: &str) -> Result<Vec<Step>, String> {
    let wrong = |why: &str| format!("spec.set: {path:?} {why}");
    let (mut steps, mut key) = (Vec::new(), String::new());
    let mut chars = path.chars();
    let mut after_index = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' => key.extend(chars.next()),
            '.' | '[' => {
                if !key.is_empty() {
                    steps.push(Step::Key(std::mem::take(&mut key)));
                } else if !after_index {
                    return Err(wrong("has an empty key"));
                }
                after_index = false;
                if c == '[' {
                    let number: String = chars.by_ref().take_while(|c| *c != ']').collect();
                    let index = number.parse().ok().filter(|index| *index < LONGEST);
                    steps.push(Step::Index(index.ok_or_else(|| wrong("has an index that is none"))?));
                    after_index = true;
                }
            }
            c => key.push(c),
        }
    }
    if !key.is_empty() {
        steps.push(Step::Key(key));
    } else if !after_index {
        return Err(wrong("ends in an empty key"));
    }
    Ok(steps)
}

fn place(at: &mut Value, steps: &[Step], value: Value) {
    let Some((first, rest)) = steps.split_first() else {
        *at = value;
        return;
    };
    match first {
        Step::Key(key) => {
            if !at.is_object() {
                *at = Value::Object(Map::new());
            }
            if let Value::Object(fields) = at {
                place(fields.entry(key).or_insert(Value::Null), rest, value);
            }
        }
        Step::Index(index) => {
            if !at.is_array() {
                *at = Value::Array(Vec::new());
            }
            if let Value::Array(items) = at {
                if items.len() <= *index {
                    items.resize(index + 1, Value::Null);
                }
                place(&mut items[*index], rest, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_lead_into_maps_and_lists() {
        let mut values = json!({"a": {"b": 1}, "list": [{"x": 1}]}).as_object().unwrap().clone();
        let set = json!({"a.c": "true", "list[1].x": "7", "node\\.io/x": "text", "plain": 5, "zero": "007", "gone": "null"});
        apply(&mut values, set.as_object().unwrap()).unwrap();
        let wanted = json!({"a": {"b": 1, "c": true}, "list": [{"x": 1}, {"x": 7}], "node.io/x": "text", "plain": 5, "zero": "007", "gone": null});
        assert_eq!(Value::Object(values), wanted);
        for bad in ["", "a.", ".a", "a[x]", "a[99999999]"] {
            assert!(apply(&mut Map::new(), json!({bad: 1}).as_object().unwrap()).is_err(), "{bad}");
        }
    }
}
