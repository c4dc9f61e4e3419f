//! Which fields a value has, and in which two values differ.

use super::fields::{self, Mark, Set};
use super::shape::{Atom, Fields, Items, Typed};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// How one value differs from another. No field is in more than one of the sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Only in the first.
    pub removed: Set,
    /// In both, with different values.
    pub modified: Set,
    /// Only in the second.
    pub added: Set,
}

#[derive(Default)]
struct Difference {
    removed: Mark,
    modified: Mark,
    added: Mark,
}

/// Compares two objects.
pub fn compare(ty: Typed<'_>, old: &Value, new: &Value) -> Comparison {
    let found = difference(ty, Some(old), Some(new));
    Comparison { removed: found.removed.below, modified: found.modified.below, added: found.added.below }
}

/// The step to an item of a list, or why there is none.
pub(super) fn step_of(items: &Items, item: &Value) -> Result<String, String> {
    match (items, item) {
        (Items::Atomic, _) => Err("invalid indexing of non-associative list".to_owned()),
        (Items::Set, Value::Object(_)) => {
            Err("associative list without keys has an element that's a map type".to_owned())
        }
        (Items::Set, Value::Array(_)) => {
            Err("not supported: associative list with lists as elements".to_owned())
        }
        (Items::Set, Value::Null) => {
            Err("associative list without keys has an element that's an explicit null".to_owned())
        }
        (Items::Set, value) => Ok(fields::item(value)),
        (Items::Keyed(_), Value::Null) => {
            Err("associative list with keys may not have a null element".to_owned())
        }
        (Items::Keyed(keys), Value::Object(map)) => {
            let values = keys.iter().filter_map(|key| {
                let value = map.get(&*key.name).or(key.default.as_ref())?;
                Some((&*key.name, value))
            });
            if values.clone().next().is_some() {
                return Ok(fields::keyed(values));
            }
            let names: Vec<String> = keys.iter().map(|key| format!("{:?}", key.name)).collect();
            Err(format!(
                "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values for any key fields)",
                names.join(" ")
            ))
        }
        (Items::Keyed(_), _) => Err("associative list with keys may not have non-map elements".to_owned()),
    }
}

fn difference(ty: Typed<'_>, old: Option<&Value>, new: Option<&Value>) -> Difference {
    let mut found = Difference::default();
    let (was, is) = (ty.atom(old), ty.atom(new));
    let leaf = match (old, new) {
        (None, None) => return found,
        (Some(_), None) => of_atom(&was, (old, new), &mut found),
        (Some(_), Some(_)) if !was.same_kind(&is) => {
            of_atom(&was, (old, new), &mut found);
            of_atom(&is, (old, new), &mut found)
        }
        _ => of_atom(&is, (old, new), &mut found),
    };
    if !leaf {
        found.added.member |= old.is_none();
        found.removed.member |= new.is_none();
    }
    found
}

type Sides<'v> = (Option<&'v Value>, Option<&'v Value>);

/// Returns whether the values are compared as one.
fn of_atom(atom: &Atom<'_>, (old, new): Sides<'_>, found: &mut Difference) -> bool {
    let whole = match atom {
        Atom::Scalar(_) => true,
        Atom::List(_, items) => {
            let none = |side: Option<&Value>| side.and_then(Value::as_array).is_none_or(Vec::is_empty);
            matches!(items, Items::Atomic) || (none(old) && none(new))
        }
        Atom::Map(fields) => {
            let none = |side: Option<&Value>| match side.and_then(Value::as_object) {
                Some(map) => map.is_empty() && !fields.has_implied(),
                None => true,
            };
            fields.is_atomic() || (none(old) && none(new))
        }
    };
    match atom {
        _ if whole => match (old, new) {
            (None, _) => found.added.member = true,
            (_, None) => found.removed.member = true,
            (Some(old), Some(new)) => found.modified.member |= old != new,
        },
        Atom::List(item, items) => {
            if let Some(item) = item.filter(|_| old != new) {
                lists(item, items, (old, new), found);
            }
        }
        Atom::Map(fields) => maps(*fields, (old, new), found),
        Atom::Scalar(_) => {}
    }
    whole
}

impl Difference {
    /// Takes in what was found below a step.
    fn take(&mut self, name: &mut dyn FnMut() -> String, below: Self) {
        self.removed.below.add(&mut *name, below.removed);
        self.modified.below.add(&mut *name, below.modified);
        self.added.below.add(name, below.added);
    }
}

fn maps(fields: Fields<'_>, (old, new): Sides<'_>, found: &mut Difference) {
    let (old, new) = (old.and_then(Value::as_object), new.and_then(Value::as_object));
    // A side that is there has what is implied; one that is not has nothing.
    let mut one = |name: &str, was: Option<&Value>, is: Option<&Value>| {
        let Some(slot) = fields.slot(name).filter(|_| was != is) else { return };
        let was = old.and_then(|_| slot.seen(was));
        let is = new.and_then(|_| slot.seen(is));
        found.take(&mut || fields::field(name), difference(slot.ty, was, is));
    };
    let mut others = new.into_iter().flatten().peekable();
    for (name, value) in old.into_iter().flatten() {
        while let Some((name, value)) = others.next_if(|(other, _)| *other < name) {
            one(name, None, Some(value));
        }
        let same = others.next_if(|(other, _)| *other == name).map(|(_, value)| value);
        one(name, Some(value), same);
    }
    for (name, value) in others {
        one(name, None, Some(value));
    }
    // Where both are there, what is implied is the same in both.
    let alone = match (old, new) {
        (Some(map), None) | (None, Some(map)) => map,
        _ => return,
    };
    for (name, value) in fields.implied().filter(|(name, _)| !alone.contains_key(*name)) {
        one(name, old.map(|_| value), new.map(|_| value));
    }
}

fn lists(ty: Typed<'_>, items: &Items, (old, new): Sides<'_>, found: &mut Difference) {
    let mut places: BTreeMap<String, (Vec<&Value>, Vec<&Value>)> = BTreeMap::new();
    for item in old.and_then(Value::as_array).into_iter().flatten() {
        if let Ok(step) = step_of(items, item) {
            places.entry(step).or_default().0.push(item);
        }
    }
    for item in new.and_then(Value::as_array).into_iter().flatten() {
        if let Ok(step) = step_of(items, item) {
            places.entry(step).or_default().1.push(item);
        }
    }
    for (step, (old, new)) in places {
        let below = match (old.as_slice(), new.as_slice()) {
            ([] | [_], [] | [_]) => difference(ty, old.first().copied(), new.first().copied()),
            // Items that are there twice are owned as one, whatever they are.
            (several, [rest @ .., _]) if several.len() > 1 && !rest.is_empty() => {
                let modified = Mark { member: old != new, ..Mark::default() };
                Difference { modified, ..Difference::default() }
            }
            (several, rest) if several.len() > 1 => {
                let mut below = difference(ty, None, rest.first().copied());
                below.removed.member = true;
                below
            }
            (rest, _) => {
                let mut below = difference(ty, rest.first().copied(), None);
                below.added.member = true;
                below
            }
        };
        found.take(&mut || step.clone(), below);
    }
}

/// The fields that a configuration names.
pub fn fields_of(ty: Typed<'_>, value: &Value) -> Set {
    named(ty, value).below
}

fn named(ty: Typed<'_>, value: &Value) -> Mark {
    match (ty.atom(Some(value)), value) {
        (Atom::Scalar(_) | Atom::List(_, Items::Atomic), _) => Mark::MEMBER,
        (Atom::List(Some(item), items), Value::Array(values)) => named_items(item, items, values),
        (Atom::Map(fields), _) if fields.is_atomic() => Mark::MEMBER,
        (Atom::Map(fields), Value::Object(map)) => {
            let mut mark = Mark::default();
            for (name, value) in map {
                let Some(ty) = fields.field(name) else { continue };
                let mut own = named(ty, value);
                own.member |=
                    value.is_null() || value.as_object().is_some_and(Map::is_empty) || !fields.is_named(name);
                mark.below.add(|| fields::field(name), own);
            }
            mark
        }
        _ => Mark::default(),
    }
}

fn named_items(ty: Typed<'_>, items: &Items, values: &[Value]) -> Mark {
    let mut places: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
    for value in values {
        if let Ok(step) = step_of(items, value) {
            places.entry(step).or_default().push(value);
        }
    }
    let mut mark = Mark::default();
    for (step, values) in places {
        let below = match values.as_slice() {
            [one] => Mark { member: true, ..named(ty, one) },
            _ => Mark::MEMBER,
        };
        mark.below.add(|| step, below);
    }
    mark
}
