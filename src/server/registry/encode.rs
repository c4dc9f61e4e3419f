//! Canonical JSON: sorted keys, no white space, and the resourceVersion where the store will put it.

use serde_json::{Map, Value};
use store::Template;

/// The bytes of an object, to be completed by the store with the revision of the write.
pub(crate) fn template(object: &Value) -> Template {
    let mut bytes = Vec::with_capacity(1024);
    let mut at = 0;
    let empty = Map::new();
    let fields = object.as_object().unwrap_or(&empty);
    bytes.push(b'{');
    for (index, (key, value)) in fields.iter().enumerate() {
        open(&mut bytes, index, key);
        match value {
            Value::Object(meta) if key == "metadata" => at = metadata(&mut bytes, meta),
            other => write(&mut bytes, other),
        }
    }
    bytes.push(b'}');
    Template { bytes, at }
}

fn metadata(bytes: &mut Vec<u8>, meta: &Map<String, Value>) -> usize {
    const OWN: &str = "resourceVersion";
    let mut at = None;
    let place = |bytes: &mut Vec<u8>, index: usize| {
        open(bytes, index, OWN);
        bytes.extend_from_slice(b"\"\"");
        bytes.len() - 1
    };
    bytes.push(b'{');
    let mut index = 0;
    for (key, value) in meta.iter().filter(|(key, _)| *key != OWN) {
        if at.is_none() && key.as_str() > OWN {
            at = Some(place(bytes, index));
            index += 1;
        }
        open(bytes, index, key);
        write(bytes, value);
        index += 1;
    }
    let at = at.unwrap_or_else(|| place(bytes, index));
    bytes.push(b'}');
    at
}

fn open(bytes: &mut Vec<u8>, index: usize, key: &str) {
    if index > 0 {
        bytes.push(b',');
    }
    write(bytes, key);
    bytes.push(b':');
}

fn write<T: serde::Serialize + ?Sized>(bytes: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(bytes, value).expect("values and texts can always be written as JSON to memory");
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_revision_has_its_sorted_place() {
        for meta in [
            json!({}),
            json!({"name": "a", "uid": "u"}),
            json!({"annotations": {"resourceVersion": ""}, "resourceVersion": "7"}),
            json!({"uid": "u"}),
        ] {
            let mut object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"metadata": {"resourceVersion": "x"}}});
            let template = template(&object);
            let mut bytes = template.bytes;
            bytes.splice(template.at..template.at, *b"42");
            object["metadata"]["resourceVersion"] = json!("42");
            assert_eq!(String::from_utf8(bytes).unwrap(), object.to_string());
        }
    }
}
