//! Reads an object the way a typed decoder would: values of a wrong type are errors, unknown fields
//! are found and removed, and explicit nulls are as good as absent.

use super::{Field, Type, TypeDef, TypeId, canonical, schema};
use crate::validate::go_kind;
use serde_json::{Map, Value};

/// What was found in an object.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// The first value of a wrong type, in the words of Kubernetes' decoder.
    pub ill_typed: Option<String>,
    /// Paths of fields that the type does not have.
    pub unknown: Vec<String>,
}

/// Checks `value` against a type, prunes what the type does not know, and brings it into the form in
/// which a typed server would write it.
pub fn check(value: &mut Value, ty: TypeId) -> Findings {
    let mut findings = Findings::default();
    object(value, schema().get(ty), "", &mut findings);
    if findings.ill_typed.is_none() {
        canonical(value, ty);
    }
    findings
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// What stands around keys of maps in paths while they are built: keys may hold every other sign.
const KEY: [char; 2] = ['\u{1}', '\u{2}'];

/// A path with its keys, as unknown fields are told.
fn with_keys(path: &str) -> String {
    path.replace(KEY[0], ".").replace(KEY[1], "")
}

/// A path without its keys and places in lists, as Go tells what does not fit.
fn fields_of(path: &str) -> String {
    let mut inside = None;
    let plain = path.chars().filter(|letter| match inside {
        Some(end) => {
            inside = Some(end).filter(|end| end != letter);
            false
        }
        None => {
            let ends = [(KEY[0], KEY[1]), ('[', ']')];
            inside = ends.iter().find(|(start, _)| start == letter).map(|(_, end)| *end);
            inside.is_none()
        }
    });
    plain.collect()
}

fn object(value: &mut Value, def: &TypeDef, path: &str, findings: &mut Findings) {
    if def.fields.is_empty() && def.gvk.is_none() {
        // Types without published fields, such as a JSON schema, take any object.
        return;
    }
    let Value::Object(map) = value else {
        let go_type = def.name.rsplit('.').take(2).collect::<Vec<_>>();
        return mismatch(value, &format!("{}.{}", go_type[1], go_type[0]), path, def.name, findings);
    };
    let names: Vec<String> = map.keys().cloned().collect();
    for name in names {
        match def.field(&name) {
            None => {
                findings.unknown.push(with_keys(&join(path, &name)));
                map.remove(&name);
            }
            Some(_) if map[&name].is_null() => drop(map.remove(&name)),
            Some(field) => of_field(&mut map[&name], field, &join(path, &name), def, findings),
        }
    }
}

fn of_field(value: &mut Value, field: &Field, path: &str, def: &TypeDef, findings: &mut Findings) {
    typed(value, &field.ty, path, def.name, findings);
}

fn typed(value: &mut Value, ty: &Type, path: &str, owner: &str, findings: &mut Findings) {
    let fits = match ty {
        Type::Any => true,
        Type::String | Type::Time | Type::MicroTime => value.is_string(),
        Type::Bytes => value.is_string(),
        Type::Bool => value.is_boolean(),
        Type::Int32 => value.as_i64().is_some_and(|number| i32::try_from(number).is_ok()) || whole(value),
        Type::Int64 => value.as_i64().is_some() || whole(value),
        Type::Double => value.is_number(),
        Type::Quantity => value.is_string() || value.is_number(),
        Type::IntOrString => {
            value.is_string() || value.as_i64().is_some_and(|number| i32::try_from(number).is_ok())
        }
        Type::List(item) => return list(value, item, path, owner, findings),
        Type::Map(item) => return map(value, item, path, owner, findings),
        Type::Ref(id) => return object(value, schema().get(*id), path, findings),
    };
    if !fits {
        return mismatch(value, go_name(ty), path, owner, findings);
    }
    match (ty, &*value) {
        // Go's decoder reads 1.0 and 1e3 as whole numbers; stored objects hold them as such.
        (Type::Int32 | Type::Int64, Value::Number(number)) if number.is_f64() => {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "whole() checked that it is a whole number in range"
            )]
            let whole = number.as_f64().unwrap_or_default() as i64;
            *value = Value::from(whole);
        }
        (Type::Quantity, _) => quantity(value, findings),
        _ => {}
    }
}

/// Quantities are kept in their canonical form.
fn quantity(value: &mut Value, findings: &mut Findings) {
    let given = match &*value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match crate::quantity::canonical(&given) {
        Ok(text) => *value = Value::from(text),
        Err(error) => {
            let number = given.trim_start_matches(['+', '-']);
            let suffix = number.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
            let power = suffix.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
            let power = power.strip_prefix(['+', '-']).unwrap_or(power);
            let well_formed = number.len() > suffix.len() && power.bytes().all(|b| b.is_ascii_digit());
            let why =
                if well_formed { "unable to parse quantity's suffix".to_owned() } else { error.to_string() };
            findings.ill_typed.get_or_insert(why);
        }
    }
}

fn whole(value: &Value) -> bool {
    value.as_f64().is_some_and(|number| number.fract() == 0.0 && number.abs() <= f64::from(i32::MAX))
}

fn list(value: &mut Value, item: &Type, path: &str, owner: &str, findings: &mut Findings) {
    let Value::Array(items) = value else {
        return mismatch(value, &format!("[]{}", go_name(item)), path, owner, findings);
    };
    for (index, value) in items.iter_mut().enumerate() {
        typed(value, item, &format!("{path}[{index}]"), owner, findings);
    }
}

fn map(value: &mut Value, item: &Type, path: &str, owner: &str, findings: &mut Findings) {
    let Value::Object(entries) = value else {
        return mismatch(value, &format!("map[string]{}", go_name(item)), path, owner, findings);
    };
    for (key, value) in entries.iter_mut() {
        if value.is_null() {
            *value = zero(item);
            continue;
        }
        typed(value, item, &format!("{path}{}{key}{}", KEY[0], KEY[1]), owner, findings);
    }
}

/// What Go's decoder makes of a null that is the value of a map's key; times are null when they are zero.
fn zero(ty: &Type) -> Value {
    match ty {
        Type::String => Value::from(""),
        Type::Int32 | Type::Int64 | Type::IntOrString => Value::from(0),
        Type::Double => Value::from(0.0),
        Type::Bool => Value::from(false),
        Type::Quantity => Value::from("0"),
        Type::Ref(_) => Value::Object(Map::new()),
        Type::Bytes | Type::Time | Type::MicroTime | Type::Any | Type::List(_) | Type::Map(_) => Value::Null,
    }
}

fn go_name(ty: &Type) -> &'static str {
    match ty {
        Type::String => "string",
        Type::Int32 => "int32",
        Type::Int64 => "int64",
        Type::Double => "float64",
        Type::Bool => "bool",
        Type::Bytes => "[]uint8",
        Type::Time => "v1.Time",
        Type::MicroTime => "v1.MicroTime",
        Type::Quantity => "resource.Quantity",
        Type::IntOrString => "intstr.IntOrString",
        Type::Any => "interface {}",
        Type::List(_) => "slice",
        Type::Map(_) => "map",
        Type::Ref(id) => schema().get(*id).name.rsplit('.').next().unwrap_or_default(),
    }
}

fn mismatch(value: &Value, go_type: &str, path: &str, owner: &str, findings: &mut Findings) {
    let found = match value {
        Value::Number(number) if !number.is_i64() && go_type.starts_with("int") => format!("number {number}"),
        other => go_kind(other).to_owned(),
    };
    let owner = owner.rsplit('.').next().unwrap_or_default();
    let path = fields_of(path);
    let text =
        format!("json: cannot unmarshal {found} into Go struct field {owner}.{path} of type {go_type}");
    findings.ill_typed.get_or_insert(text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::by_kind;
    use serde_json::json;

    fn checked(value: &mut Value) -> Findings {
        let kind = by_kind(value["apiVersion"].as_str().unwrap(), value["kind"].as_str().unwrap()).unwrap();
        check(value, schema().of(kind).unwrap())
    }

    #[test]
    fn unknown_fields_are_named_and_removed_and_nulls_vanish() {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "creationTimestamp": null},
            "spec": {"contaners": [], "containers": [{"name": "c", "imagee": "x"}], "nodeSelector": null}});
        let findings = checked(&mut pod);
        assert_eq!(findings.unknown, ["spec.containers[0].imagee", "spec.contaners"]);
        assert_eq!(findings.ill_typed, None);
        assert_eq!(
            pod,
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
                "spec": {"containers": [{"name": "c", "resources": {}}]}, "status": {}})
        );
    }

    #[test]
    fn wrong_types_are_told_as_go_tells_them() {
        let mut deployment =
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": "three"}});
        let text = checked(&mut deployment).ill_typed.unwrap();
        assert_eq!(
            text,
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"
        );
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": {"a.b[/c": 5}}});
        let text = checked(&mut pod).ill_typed.unwrap();
        assert!(text.ends_with("Go struct field ObjectMeta.metadata.labels of type string"), "{text}");
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"command": [5]}]}});
        let text = checked(&mut pod).ill_typed.unwrap();
        assert!(text.ends_with("Go struct field Container.spec.containers.command of type string"), "{text}");
    }

    #[test]
    fn nulls_in_maps_are_zero_values() {
        let mut map = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": null}});
        assert_eq!(checked(&mut map), Findings::default());
        assert_eq!(map["data"], json!({"a": ""}));
        let mut budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "status": {"disruptedPods": {"a": null}}});
        assert_eq!(checked(&mut budget), Findings::default());
        assert_eq!(budget["status"]["disruptedPods"], json!({"a": null}));
    }

    #[test]
    fn numbers_take_their_canonical_form() {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [
            {"name": "c", "ports": [{"containerPort": 80.0}], "resources": {"limits": {"cpu": 2, "memory": "1Gi"}}}]}});
        assert_eq!(checked(&mut pod), Findings::default());
        assert_eq!(pod["spec"]["containers"][0]["resources"]["limits"]["cpu"], json!("2"));
        assert_eq!(pod["spec"]["containers"][0]["ports"][0]["containerPort"], json!(80));
    }
}
