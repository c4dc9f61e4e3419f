//! Finds fields by paths such as `spec/containers[]/image`, through lists, and makes them if they are to be.

use crate::error::{Error, Result, Within};
use crate::kustomization::Place;
use crate::paths;
use crate::resource::{Gvk, Resource};
use serde_json::{Map, Value};

/// What is made where nothing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Made {
    /// Nothing.
    Nothing,
    /// A map.
    Map,
    /// A text.
    Scalar,
}

/// Calls `set` with every value at a place, if the object is of its kind.
pub(crate) fn at(
    resource: &mut Resource,
    place: &Place,
    made: Made,
    set: &mut dyn FnMut(&mut Value) -> Result<()>,
) -> Result<()> {
    let gvk = resource.gvk();
    if !gvk.is_selected(&place.gvk()) {
        return Ok(());
    }
    let path = paths::split(&place.path, '/');
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let made = if place.create { made } else { Made::Nothing };
    let name = (resource.name().to_owned(), resource.namespace().to_owned());
    visit(&mut resource.object, &path, made, set).within(|| {
        let id = crate::resource::Id { gvk: Gvk { ..gvk }, name: name.0, namespace: name.1 };
        format!("considering field '{}' of object {id}", place.path)
    })
}

fn visit(
    value: &mut Value,
    path: &[&str],
    made: Made,
    set: &mut dyn FnMut(&mut Value) -> Result<()>,
) -> Result<()> {
    let Some((first, rest)) = path.split_first() else { return set(value) };
    match value {
        Value::Null => Ok(()),
        Value::Array(items) => items.iter_mut().try_for_each(|item| visit(item, path, made, set)),
        Value::Object(fields) => {
            let (name, is_list) = first.strip_suffix("[]").map_or((*first, false), |name| (name, true));
            if name.is_empty() {
                return Err(Error::new("cannot set or create an empty field name"));
            }
            let kind = if rest.is_empty() { made } else { made.then_map() };
            if kind != Made::Nothing && !is_list {
                fields.entry(name).or_insert(Value::Null);
            }
            let Some(field) = fields.get_mut(name) else { return Ok(()) };
            if field.is_null() {
                match kind {
                    _ if is_list => *field = Value::Array(Vec::new()),
                    Made::Map => *field = Value::Object(Map::new()),
                    Made::Scalar => *field = Value::from(""),
                    Made::Nothing => {}
                }
            }
            visit(field, rest, made, set)
        }
        _ => Err(Error::new("expected sequence or mapping node")),
    }
}

impl Made {
    /// On the way to a field there are maps.
    fn then_map(self) -> Self {
        if self == Self::Nothing { self } else { Self::Map }
    }
}
