//! Go's zero values where a typed object must have a time: Go writes its zero time as `null`, and reads none as it.

use serde_json::Value;

/// Go's zero time, as RFC 3339 has it.
const TIME: &str = "0001-01-01T00:00:00Z";

/// Times that must be there: under this key lie objects, or an object, with this field.
const TIMES: [(&str, &str); 2] = [("conditions", "lastTransitionTime"), ("series", "lastObservedTime")];

/// An object with the zero time wherever a time is missing that must be there; none if it lacks none.
pub(crate) fn filled(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut object: Value = serde_json::from_slice(bytes).ok()?;
    let count = fill(&mut object);
    (count > 0).then(|| object.to_string().into_bytes())
}

fn fill(value: &mut Value) -> usize {
    match value {
        Value::Array(items) => items.iter_mut().map(fill).sum(),
        Value::Object(fields) => {
            let mut count = 0;
            for (key, field) in fields.iter_mut() {
                let time = TIMES.iter().find(|(under, _)| under == key);
                count += time.map_or(0, |(_, time)| fill_in(field, time)) + fill(field);
            }
            count
        }
        _ => 0,
    }
}

fn fill_in(value: &mut Value, time: &str) -> usize {
    match value {
        Value::Array(items) => items.iter_mut().map(|item| fill_in(item, time)).sum(),
        Value::Object(fields) if fields.get(time).is_none_or(Value::is_null) => {
            fields.insert(time.to_owned(), Value::from(TIME));
            1
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Object;
    use crate::core::Service;
    use serde_json::json;

    #[test]
    fn conditions_without_a_time_are_read_as_go_reads_them() {
        for time in [json!({}), json!({"lastTransitionTime": null})] {
            let mut condition = json!({"type": "T", "status": "True", "reason": "R", "message": ""});
            condition.as_object_mut().unwrap().extend(time.as_object().unwrap().clone());
            let service = json!({"metadata": {"name": "s"}, "status": {"conditions": [condition]}});
            let service = Service::from_json(service.to_string().as_bytes()).unwrap();
            let condition = &service.status.unwrap().conditions.unwrap()[0];
            assert_eq!(json!(condition.last_transition_time), json!(TIME));
        }
        // What is wrong in another way stays wrong.
        assert!(Service::from_json(br#"{"status": {"conditions": [{"type": 5}]}}"#).is_err());
        assert_eq!(filled(br#"{"status": {"conditions": []}}"#), None);
    }
}
