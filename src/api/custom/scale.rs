//! The fields that the `scale` subresource reads and writes.

use super::definition::Scale;
use crate::validate::{At, Error, Path, go_map, go_type};
use serde_json::Value;

impl Scale {
    /// Reports what is wrong with the fields of an object; those of its spec only where they may change.
    pub fn validate(&self, object: &At, with_spec: bool) {
        if with_spec {
            replicas(object, &self.spec_replicas);
        }
        replicas(object, &self.status_replicas);
        if let Some(path) = &self.label_selector
            && let Err(why) = value_at(object.value(), path, "string", Value::is_string)
        {
            object.report(|_| Error::invalid(&Path::new(path), "", why));
        }
    }
}

fn replicas(object: &At, path: &str) {
    let problem = match value_at(object.value(), path, "int64", Value::is_i64) {
        Err(why) => Some((0, why)),
        Ok(value) => match value.and_then(Value::as_i64).unwrap_or(0) {
            count if count < 0 => Some((count, "should be a non-negative integer".to_owned())),
            count if count > i64::from(i32::MAX) => {
                Some((count, format!("should be less than or equal to {}", i32::MAX)))
            }
            _ => None,
        },
    };
    if let Some((count, why)) = problem {
        object.report(|_| Error::invalid(&Path::new(path), count, why));
    }
}

/// The value at a dotted path; what is there but of another type is told in Go's words.
fn value_at<'v>(
    object: &'v Value,
    path: &str,
    wanted: &str,
    is: fn(&Value) -> bool,
) -> Result<Option<&'v Value>, String> {
    let steps: Vec<&str> = path.strip_prefix('.').unwrap_or(path).split('.').collect();
    let wrong = |depth: usize, value: &Value, wanted: &str| {
        let (path, of_type) = (steps[..depth].join("."), go_type(value));
        format!(".{path} accessor error: {} is of the type {of_type}, expected {wanted}", go_map(value))
    };
    let mut value = object;
    for (depth, step) in steps.iter().enumerate() {
        value = match value {
            Value::Object(fields) => match fields.get(*step) {
                Some(inner) => inner,
                None => return Ok(None),
            },
            Value::Null => return Ok(None),
            other => return Err(wrong(depth + 1, other, "map[string]interface{}")),
        };
    }
    if is(value) { Ok(Some(value)) } else { Err(wrong(steps.len(), value, wanted)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::check;
    use serde_json::json;

    #[test]
    fn replicas_are_counts() {
        let scale = Scale {
            spec_replicas: ".spec.n".to_owned(),
            status_replicas: ".status.n".to_owned(),
            label_selector: Some(".status.selector".to_owned()),
        };
        let told = |object: Value| {
            let found = check(&object, |object| scale.validate(object, true));
            found.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert!(told(json!({"spec": {"n": 3}})).is_empty());
        assert_eq!(
            told(json!({"spec": {"n": "x"}, "status": {"n": -1, "selector": 1}})),
            [
                ".spec.n: Invalid value: 0: .spec.n accessor error: x is of the type string, expected int64",
                ".status.n: Invalid value: -1: should be a non-negative integer",
                ".status.selector: Invalid value: \"\": .status.selector accessor error: 1 is of the type int64, expected string",
            ]
        );
        assert_eq!(
            told(json!({"spec": [], "status": {"n": 3_000_000_000_i64}})),
            [
                ".spec.n: Invalid value: 0: .spec.n accessor error: [] is of the type []interface {}, expected map[string]interface{}",
                ".status.n: Invalid value: 3000000000: should be less than or equal to 2147483647",
            ]
        );
    }
}
