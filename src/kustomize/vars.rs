//! Variables (`vars`): `$(NAME)` stands for a field of an object, in places that are known for it.

use crate::error::{Error, Result};
use crate::fields::{self, Made};
use crate::kustomization::{Place, Var};
use crate::replace::lookup;
use crate::resource::{Gvk, Id, text_of};
use crate::set::Set;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// All variables by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Vars(BTreeMap<String, String>);

impl Vars {
    /// Adds some, and notes on the objects that they take their values from that they do.
    pub(crate) fn add(&mut self, vars: &[Var], set: &mut Set) -> Result<()> {
        for var in vars {
            let id = object_of(var);
            // Without a namespace, objects of any are meant.
            let anywhere = id.namespace.is_empty() && !id.gvk.is_cluster_scoped();
            let like = |other: &Id| {
                if anywhere { other.name == id.name && other.gvk == id.gvk } else { other.is(&id) }
            };
            match set.ever(like).as_slice() {
                [] => {}
                [one] => set.all[*one].vars.push(var.name.clone()),
                several => {
                    let found = several.len();
                    return Err(Error::new(format!(
                        "found {found} resId matches for var {} (unable to disambiguate)",
                        var.name
                    )));
                }
            }
            self.insert(&var.name, &var.fieldref.field_path)?;
        }
        Ok(())
    }

    /// Adds those of another kustomization.
    pub(crate) fn merge(&mut self, others: &Self) -> Result<()> {
        others.0.iter().try_for_each(|(name, path)| self.insert(name, path))
    }

    fn insert(&mut self, name: &str, path: &str) -> Result<()> {
        let path = if path.is_empty() { "metadata.name" } else { path };
        match self.0.insert(name.to_owned(), path.to_owned()) {
            Some(_) => Err(Error::new(format!("var '{name}' already encountered"))),
            None => Ok(()),
        }
    }

    /// Puts the values where the variables stand, and says which stood nowhere.
    pub(crate) fn resolve(&self, set: &mut Set, places: &[Place]) -> Result<Vec<String>> {
        let mut values = BTreeMap::new();
        for (name, path) in &self.0 {
            values.insert(name.as_str(), value_of(set, name, path)?);
        }
        if values.is_empty() {
            return Ok(Vec::new());
        }
        let mut used = BTreeSet::new();
        for resource in &mut set.all {
            for place in places {
                fields::at(resource, place, Made::Nothing, &mut |value| put(value, &values, &mut used))?;
            }
        }
        Ok(values.keys().filter(|name| !used.contains(**name)).map(|name| (*name).to_owned()).collect())
    }
}

fn object_of(var: &Var) -> Id {
    let of = &var.objref;
    let gvk = if of.api_version.is_empty() {
        Gvk { group: of.group.clone(), version: of.version.clone(), kind: of.kind.clone() }
    } else {
        let given = Gvk::new(&of.api_version, &of.kind);
        let group = if given.group.is_empty() { of.group.clone() } else { given.group };
        Gvk { group, ..given }
    };
    Id { gvk, name: of.name.clone(), namespace: of.namespace.clone() }
}

fn value_of(set: &Set, name: &str, path: &str) -> Result<Value> {
    let found = set.all.iter().find(|one| one.vars.iter().any(|var| var == name)).ok_or_else(|| {
        Error::new(format!("var '{name}' cannot be mapped to a field in the set of known resources"))
    })?;
    // `ports[0].port` is written for `ports.0.port`.
    let path = path.replace('[', ".").replace(']', "");
    let parts: Vec<String> = path.split('.').map(str::to_owned).collect();
    let value = lookup(&found.object, &parts).filter(|value| !value.is_null());
    value.cloned().ok_or_else(|| {
        Error::new(format!("field specified in var '{name}' not found in corresponding resource"))
    })
}

fn put(value: &mut Value, values: &BTreeMap<&str, Value>, used: &mut BTreeSet<String>) -> Result<()> {
    match value {
        Value::String(text) => *value = expanded(text, values, used),
        Value::Object(fields) => {
            for value in fields.values_mut() {
                if let Value::String(text) = value {
                    *value = expanded(text, values, used);
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                let Value::String(text) = item else {
                    return Err(Error::new("invalid value type expect a string"));
                };
                *item = expanded(text, values, used);
            }
        }
        _ => {}
    }
    Ok(())
}

/// A text with its variables replaced. One that is a variable and nothing else becomes what that is;
/// `$$` is a dollar sign.
fn expanded(text: &str, values: &BTreeMap<&str, Value>, used: &mut BTreeSet<String>) -> Value {
    let mut value = |name: &str| {
        let value = values.get(name).filter(|value| !value.is_object() && !value.is_array())?;
        used.insert(name.to_owned());
        Some(value.clone())
    };
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let after = &from[1..];
        let variable = after.strip_prefix('(').and_then(|inner| inner.split_once(')'));
        if let Some((name, behind)) = variable {
            match value(name) {
                Some(value) if before.is_empty() && out.is_empty() && behind.is_empty() => return value,
                Some(value) => out.push_str(&text_of(&value)),
                None => out.push_str(&from[..name.len() + 3]),
            }
            rest = behind;
        } else if let Some(behind) = after.strip_prefix('$') {
            out.push('$');
            rest = behind;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    Value::from(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn variables_keep_their_kind_where_they_stand_alone() {
        let values = BTreeMap::from([("N", json!(80)), ("S", json!("x")), ("M", json!({}))]);
        let mut used = BTreeSet::new();
        let mut get = |text: &str| expanded(text, &values, &mut used);
        assert_eq!(get("$(N)"), json!(80));
        assert_eq!(get("a$(N)b$(S)"), json!("a80bx"));
        assert_eq!(get("$$(N) $(O) $(M) $x $( $"), json!("$(N) $(O) $(M) $x $( $"));
        assert_eq!(used.into_iter().collect::<Vec<_>>(), ["N", "S"]);
    }
}
