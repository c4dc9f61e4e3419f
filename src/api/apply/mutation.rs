//! Configurations that policies make of an object on its way (`applyConfiguration`): merged like those that are
//! applied, but owned by nobody.

use super::merge::merge;
use super::shape::{Atom, Items, Typed};
use super::validate::problems;
use serde_json::Value;

/// The object with what the configuration says, or why it cannot be made so.
pub fn mutate(ty: Typed<'_>, object: &Value, config: &Value) -> Result<Value, String> {
    if let Some(why) = problems(ty, config) {
        return Err(format!("failed to convert patch object to typed object: {why}"));
    }
    let mut found = Vec::new();
    atomics(ty, config, String::new(), &mut found);
    match found.as_slice() {
        [] => Ok(merge(ty, object, config)),
        found => Err(format!(
            "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {}",
            found.join(", ")
        )),
    }
}

/// Finds what a configuration would replace as a whole, with all that it does not name.
fn atomics(ty: Typed<'_>, value: &Value, path: String, found: &mut Vec<String>) {
    match (ty.atom(Some(value)), value) {
        (Atom::Map(fields), Value::Object(entries)) => {
            if fields.is_atomic() {
                found.push(path.clone());
            }
            for (name, value) in entries {
                if let Some(ty) = fields.field(name) {
                    atomics(ty, value, format!("{path}.{name}"), found);
                }
            }
        }
        (Atom::List(item, items), Value::Array(values)) => {
            if matches!(items, Items::Atomic) {
                found.push(path.clone());
            }
            for (ty, (index, value)) in item.into_iter().cycle().zip(values.iter().enumerate()) {
                atomics(ty, value, format!("{path}[{index}]"), found);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::of_kind;
    use crate::kinds::by_kind;
    use serde_json::json;

    fn mutated(config: Value) -> Result<Value, String> {
        let object = json!({"metadata": {"name": "a", "labels": {"a": "b"}}, "spec": {
            "containers": [{"name": "c", "image": "i", "env": [{"name": "A", "value": "1"}]}]}});
        mutate(of_kind(by_kind("v1", "Pod").unwrap()).unwrap(), &object, &config)
    }

    #[test]
    fn configurations_are_merged_where_nothing_is_replaced() {
        let config = json!({"metadata": {"labels": {"c": "d"}},
            "spec": {"containers": [{"name": "c", "env": [{"name": "B", "value": "2"}]}, {"name": "e"}]}});
        let object = mutated(config).unwrap();
        assert_eq!(object["metadata"], json!({"name": "a", "labels": {"a": "b", "c": "d"}}));
        let env = json!([{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]);
        assert_eq!(
            object["spec"]["containers"],
            json!([{"name": "c", "image": "i", "env": env}, {"name": "e"}])
        );
        assert_eq!(
            mutated(json!({"spec": {"containers": [{"name": "c", "args": ["x"]}]}})).unwrap_err(),
            "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.containers[0].args"
        );
        let unknown =
            "failed to convert patch object to typed object: .spec.nope: field not declared in schema";
        assert_eq!(mutated(json!({"spec": {"nope": 1}})).unwrap_err(), unknown);
    }
}
