//! Object metadata that the server owns.

use api::kinds::Kind;
use api::status::Refusal;
use api::validate::{self, Error, Path};
use base::clock;
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Value, json};

/// Letters of generated suffixes: no vowels, and none that look like another.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX: usize = 5;
/// The longest base that leaves room for the suffix in a label.
const LONGEST_BASE: usize = 63 - SUFFIX;

pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).expect("the system's random source works");
    bytes
}

/// A random UUID (RFC 9562, version 4).
pub(crate) fn new_uid() -> String {
    let mut b: [u8; 16] = random();
    b[6] = (b[6] & 0x0f) | 0x40;
    b[8] = (b[8] & 0x3f) | 0x80;
    let hex: String = b.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// `metadata.generateName` with a random suffix.
pub(crate) fn generated_name(base: &str) -> String {
    let base = &base[..base.floor_char_boundary(base.len().min(LONGEST_BASE))];
    let suffix =
        random::<SUFFIX>().into_iter().map(|byte| char::from(LETTERS[usize::from(byte) % LETTERS.len()]));
    base.chars().chain(suffix).collect()
}

/// The present time as objects carry it: whole seconds (RFC 3339).
pub(crate) fn timestamp() -> String {
    let now = clock::now();
    jiff::Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}

/// Makes sure that `metadata` is there and its namespace is the path's.
pub(crate) fn place(object: &mut Value, kind: &Kind, namespace: &str) -> Result<(), Refusal> {
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    let meta = &mut object["metadata"];
    if !kind.namespaced {
        let stated = meta["namespace"].as_str().unwrap_or_default();
        if !stated.is_empty() {
            return Err(Refusal::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        return Ok(());
    }
    match meta["namespace"].as_str().unwrap_or_default() {
        "" => meta["namespace"] = Value::from(namespace),
        stated if stated == namespace => {}
        _ => {
            return Err(Refusal::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
    }
    Ok(())
}

/// Fills in what the server says about a new object.
pub(crate) fn stamp(object: &mut Value, generation: bool) {
    let Some(meta) = object["metadata"].as_object_mut() else { return };
    for owned in [
        "resourceVersion",
        "selfLink",
        "managedFields",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
    ] {
        meta.remove(owned);
    }
    let base = meta.get("generateName").and_then(Value::as_str).unwrap_or_default();
    if meta.get("name").and_then(Value::as_str).unwrap_or_default().is_empty() && !base.is_empty() {
        meta.insert("name".to_owned(), Value::from(generated_name(base)));
    }
    meta.insert("uid".to_owned(), Value::from(new_uid()));
    meta.insert("creationTimestamp".to_owned(), Value::from(timestamp()));
    if generation {
        meta.insert("generation".to_owned(), Value::from(1));
    }
}

/// Checks metadata; `name_rule` says what is wrong with a name of this kind.
pub(crate) fn validate(
    object: &Value,
    kind: &Kind,
    name_rule: fn(&str) -> Vec<String>,
    errors: &mut Vec<Error>,
) {
    let meta = &object["metadata"];
    let path = Path::new("metadata");
    match meta["name"].as_str().unwrap_or_default() {
        "" => errors.push(Error::required(&path.child("name"), "name or generateName is required")),
        name => errors.extend(
            name_rule(name).into_iter().map(|problem| Error::invalid(&path.child("name"), name, problem)),
        ),
    }
    if kind.namespaced && meta["namespace"].as_str().unwrap_or_default().is_empty() {
        errors.push(Error::required(&path.child("namespace"), ""));
    }
    validate::labels(&meta["labels"], &path.child("labels"), errors);
    validate::annotations(&meta["annotations"], &path.child("annotations"), errors);
    finalizers(meta, &path, errors);
    owners(meta, &path, errors);
}

fn finalizers(meta: &Value, path: &Path, errors: &mut Vec<Error>) {
    let path = path.child("finalizers");
    for finalizer in meta["finalizers"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let problems = validate::qualified_name(finalizer);
        errors.extend(problems.into_iter().map(|problem| Error::invalid(&path, finalizer, problem)));
    }
}

fn owners(meta: &Value, path: &Path, errors: &mut Vec<Error>) {
    let path = path.child("ownerReferences");
    let owners = meta["ownerReferences"].as_array().map_or(&[][..], Vec::as_slice);
    for (index, owner) in owners.iter().enumerate() {
        let path = path.index(index);
        for (field, what) in [("apiVersion", "version"), ("kind", "kind"), ("name", "name"), ("uid", "uid")] {
            if owner[field].as_str().unwrap_or_default().is_empty() {
                errors.push(Error::invalid(&path.child(field), "", format!("{what} must not be empty")));
            }
        }
    }
    let controllers: Vec<&Value> = owners.iter().filter(|owner| owner["controller"] == true).collect();
    if let [first, second, ..] = controllers.as_slice() {
        let detail = format!(
            "Only one reference can have Controller set to true. Found \"true\" in references for {}/{} and {}/{}",
            text(first, "kind"),
            text(first, "name"),
            text(second, "kind"),
            text(second, "name")
        );
        errors.push(Error::invalid(&path, Value::Array(owners.to_vec()), detail));
    }
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_leave_room_for_their_suffix() {
        assert_eq!(generated_name(&"a".repeat(80)).len(), 63);
        let name = generated_name("web-");
        assert!(name.starts_with("web-") && name.len() == 9 && name != generated_name("web-"));
    }

    #[test]
    fn uids_are_uuids() {
        let uid = new_uid();
        assert_eq!((uid.len(), &uid[14..15]), (36, "4"));
    }
}
