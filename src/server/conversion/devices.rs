//! Devices in the first beta version: requests have the fields of the exact request, and devices
//! hide theirs in `basic`.

use super::{Map, Value, json};

/// Changes each request of a claim.
pub(super) fn requests(object: &mut Value, devices: &str, change: fn(&mut Map<String, Value>)) {
    let requests = object.pointer_mut(devices).and_then(|devices| devices.get_mut("requests"));
    let requests = requests.and_then(Value::as_array_mut).into_iter().flatten();
    requests.filter_map(Value::as_object_mut).for_each(change);
}

pub(super) fn nest(request: &mut Map<String, Value>) {
    let own = |field: &String| matches!(field.as_str(), "name" | "firstAvailable");
    let (kept, exact): (Map<_, _>, Map<_, _>) =
        std::mem::take(request).into_iter().partition(|(field, _)| own(field));
    *request = kept;
    // Protobuf has its zero values where nothing was said.
    if exact.values().any(is_set) {
        request.insert("exactly".into(), Value::Object(exact));
    }
}

fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Number(number) => number.as_i64() != Some(0),
        Value::Array(items) => !items.is_empty(),
        _ => true,
    }
}

pub(super) fn flatten(request: &mut Map<String, Value>) {
    if let Some(Value::Object(exact)) = request.remove("exactly") {
        request.extend(exact);
    }
}

fn devices(slice: &mut Value, change: fn(&Map<String, Value>) -> Value) {
    let devices = slice.pointer_mut("/spec/devices").and_then(Value::as_array_mut);
    for device in devices.into_iter().flatten() {
        if let Some(fields) = device.as_object() {
            *device = change(fields);
        }
    }
}

pub(super) fn slice_stored(slice: &mut Value) {
    devices(slice, |device| {
        let mut flat = device.get("basic").cloned().unwrap_or_else(|| json!({}));
        flat["name"] = device.get("name").cloned().unwrap_or_default();
        flat
    });
}

pub(super) fn slice_shown(slice: &mut Value) {
    devices(slice, |device| {
        let mut basic = device.clone();
        let name = basic.remove("name");
        json!({"name": name, "basic": basic})
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_values_ask_for_nothing() {
        let nested = |request: Value| {
            let Value::Object(mut request) = request else { panic!() };
            nest(&mut request);
            Value::Object(request)
        };
        let others = json!({"name": "r", "firstAvailable": [{"name": "a"}]});
        let mut zeros = others.clone();
        zeros.as_object_mut().unwrap().extend([("deviceClassName".to_owned(), json!(""))]);
        assert_eq!(nested(zeros), others);
        let asked = json!({"name": "r", "deviceClassName": "c", "count": 0});
        assert_eq!(nested(asked), json!({"name": "r", "exactly": {"deviceClassName": "c", "count": 0}}));
    }
}
