//! Replacements: a value of one object goes into fields of others.

use crate::error::{Error, Result};
use crate::kustomization::{FieldOptions, Replacement, Source, Target, typed};
use crate::paths;
use crate::read::Root;
use crate::resource::{Gvk, Id, Resource, check_size, text_of};
use crate::selector::Chooser;
use crate::set::Set;
use regex::Regex;
use serde_json::{Map, Value};

const NAME: &str = "metadata.name";

/// Reads those that are in files.
pub(crate) fn load(root: &Root<'_>, entries: &[Replacement]) -> Result<Vec<Replacement>> {
    let mut all = Vec::new();
    for entry in entries {
        if entry.path.is_empty() {
            all.push(entry.clone());
            continue;
        }
        if entry.source.is_some() || entry.targets.is_some() {
            return Err(Error::new("cannot specify both path and inline replacement"));
        }
        let document =
            api::yaml::first(&root.load(&entry.path)?).map_err(|error| Error::new(error.to_string()))?;
        match document.value {
            list @ Value::Array(_) => all.extend(typed::<Vec<Replacement>>(list)?),
            one @ Value::Object(_) => all.push(typed(one)?),
            _ => return Err(Error::new(format!("{} holds no replacement", entry.path))),
        }
    }
    Ok(all)
}

/// Carries them out, one after the other.
pub(crate) fn apply(set: &mut Set, replacements: &[Replacement]) -> Result<()> {
    for replacement in replacements {
        let targets = replacement.targets.as_ref();
        let value = match (&replacement.source, &replacement.source_value, targets) {
            (Some(_), Some(_), _) => {
                return Err(Error::new("value and resource selectors are mutually exclusive"));
            }
            (None, Some(value), Some(_)) => Value::from(value.as_str()),
            (Some(source), None, Some(_)) => value_of(set, source)?,
            _ => return Err(Error::new("replacements must specify a source and at least one target")),
        };
        for target in targets.into_iter().flatten() {
            put(set, target, &value)?;
        }
    }
    Ok(())
}

/// The value that a source means.
fn value_of(set: &Set, source: &Source) -> Result<Value> {
    let gvk = Gvk { group: source.group.clone(), version: source.version.clone(), kind: source.kind.clone() };
    let wanted = Id { gvk, name: source.name.clone(), namespace: source.namespace.clone() };
    let namespace = |text: &str| if text.is_empty() { "default".to_owned() } else { text.to_owned() };
    let meant = |id: &Id| {
        (wanted.name.is_empty() || wanted.name == id.name)
            && (wanted.namespace.is_empty() || namespace(&wanted.namespace) == namespace(&id.namespace))
            && id.gvk.is_selected(&wanted.gvk)
    };
    let shown = || {
        let field = Some(source.field_path.as_str()).filter(|path| !path.is_empty());
        let mut parts = vec![wanted.to_string()];
        parts.extend(field.map(str::to_owned));
        if let Some(options) = source.options.as_ref().filter(|one| !one.delimiter.is_empty() || one.create) {
            parts.push(format!("{}({}), create={}", options.delimiter, options.index, options.create));
        }
        parts.join(":")
    };
    let index = match set.ever(meant).as_slice() {
        [one] => *one,
        [] => return Err(Error::new(format!("nothing selected by {}", shown()))),
        _ => return Err(Error::new(format!("multiple matches for selector {}", shown()))),
    };
    let path = if source.field_path.is_empty() { NAME } else { &source.field_path };
    let found = lookup(&set.all[index].object, &paths::split_brackets(path));
    let is_there = |value: &&Value| match value {
        Value::Null => false,
        Value::Object(fields) => !fields.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => true,
    };
    let value = found.filter(is_there).ok_or_else(|| {
        Error::new(format!("fieldPath `{path}` is missing for replacement source {wanted}"))
    })?;
    part_of(value, source.options.as_ref())
}

/// A field of an object.
pub(crate) fn lookup<'v>(value: &'v Value, path: &[String]) -> Option<&'v Value> {
    let Some((first, rest)) = path.split_first() else { return Some(value) };
    let next = match value {
        Value::Object(fields) => fields.get(first)?,
        Value::Array(items) => match paths::choice(first) {
            Some(("", wanted)) => items.iter().find(|item| text_of(item) == wanted)?,
            Some((field, wanted)) => {
                items.iter().find(|item| item.get(field).is_some_and(|own| text_of(own) == wanted))?
            }
            None if first == "-" => items.last()?,
            None => items.get(first.parse::<usize>().ok()?)?,
        },
        _ => return None,
    };
    lookup(next, rest)
}

fn is_scalar(value: &Value) -> bool {
    !value.is_object() && !value.is_array()
}

fn part_of(value: &Value, options: Option<&FieldOptions>) -> Result<Value> {
    let Some(options) = options.filter(|options| !options.delimiter.is_empty()) else {
        return Ok(value.clone());
    };
    if !is_scalar(value) {
        return Err(Error::new("delimiter option can only be used with scalar nodes"));
    }
    let text = text_of(value);
    let part = usize::try_from(options.index).ok().and_then(|at| text.split(&options.delimiter).nth(at));
    part.map(Value::from).ok_or_else(|| {
        Error::new(format!("options.index {} is out of bounds for value {text}", options.index))
    })
}

fn put(set: &mut Set, target: &Target, value: &Value) -> Result<()> {
    let Some(select) = &target.select else {
        return Err(Error::new("target must specify resources to select"));
    };
    let select = Chooser::new(select)?;
    let reject: Vec<Chooser> = target.reject.iter().map(Chooser::new).collect::<Result<_>>()?;
    let name = [NAME.to_owned()];
    let fields = if target.field_paths.is_empty() { &name[..] } else { &target.field_paths };
    for resource in &mut set.all {
        let rejected = reject.iter().any(|reject| {
            (reject.asks_for_marks() && reject.is_marked(resource))
                || (reject.asks_for_id() && resource.any_id(|id| reject.is_id(id)))
        });
        if !rejected && select.is_marked(resource) && resource.any_id(|id| select.is_id(id)) {
            fields.iter().try_for_each(|field| put_into(resource, field, target, value))?;
        }
    }
    Ok(())
}

fn put_into(resource: &mut Resource, field: &str, target: &Target, value: &Value) -> Result<()> {
    let path = paths::split_brackets(field);
    let options = target.options.as_ref();
    let writer = Writer { value, options, create: options.is_some_and(|options| options.create) };
    let missing = || {
        let what = if writer.create { "find or create" } else { "find" };
        Error::new(format!("unable to {what} field {field:?} in replacement target"))
    };
    match writer.walk(&mut resource.object, &path) {
        Ok(0) => Err(missing()),
        Ok(_) => check_size(&resource.object),
        Err(Stop::Nowhere(why)) => Err(Error::new(format!("{}: {why}", missing()))),
        Err(Stop::Wrong(error)) => Err(error),
    }
}

/// Why nothing was written.
enum Stop {
    /// The path leads nowhere.
    Nowhere(String),
    /// What is there does not fit.
    Wrong(Error),
}

struct Writer<'w> {
    value: &'w Value,
    options: Option<&'w FieldOptions>,
    create: bool,
}

impl Writer<'_> {
    /// Writes at every place that the path leads to, and counts them.
    fn walk(&self, at: &mut Value, path: &[String]) -> std::result::Result<usize, Stop> {
        let Some((first, rest)) = path.split_first() else {
            return self.write(at).map(|()| 1).map_err(Stop::Wrong);
        };
        match at {
            Value::String(text) => {
                let written = self.within_text(text, path)?;
                *text = written.0;
                Ok(written.1)
            }
            Value::Array(items) => self.walk_list(items, first, rest),
            Value::Object(fields) => {
                if paths::choice(first).is_some() || first == "*" {
                    return Err(Stop::Nowhere("wrong node kind: expected a list".to_owned()));
                }
                if self.create && !fields.contains_key(first) {
                    fields.insert(first.clone(), self.made_for(rest));
                }
                fields.get_mut(first).map_or(Ok(0), |field| self.walk(field, rest))
            }
            Value::Null => Ok(0),
            other => Err(Stop::Nowhere(format!("{other} has no fields"))),
        }
    }

    fn walk_list(
        &self,
        items: &mut Vec<Value>,
        first: &str,
        rest: &[String],
    ) -> std::result::Result<usize, Stop> {
        if first == "*" {
            return items.iter_mut().try_fold(0, |count, item| Ok(count + self.walk(item, rest)?));
        }
        if let Ok(index) = first.parse::<usize>() {
            if index == items.len() && self.create {
                items.push(self.made_for(rest));
            }
            let found = items.len();
            let missing =
                || Stop::Nowhere(format!("index {index} specified but only {found} elements found"));
            return self.walk(items.get_mut(index).ok_or_else(missing)?, rest);
        }
        let Some((field, pattern)) = paths::choice(first) else {
            return Err(Stop::Nowhere(format!(
                "wrong node kind: expected a map with {first}, but got a list"
            )));
        };
        let expression = Regex::new(pattern)
            .map_err(|_| Stop::Nowhere(format!("{pattern:?} is no regular expression")))?;
        let mut count = 0;
        let chosen = |item: &Value| {
            let own = if field.is_empty() { Some(item) } else { item.get(field) };
            own.is_some_and(|own| expression.is_match(&text_of(own)))
        };
        for item in items.iter_mut().filter(|item| chosen(item)) {
            // A scalar has nothing below it: what follows is not looked at.
            count += self.walk(item, if field.is_empty() { &[] } else { rest })?;
        }
        if count == 0 && self.create {
            let value = plain(pattern);
            items.push(match field {
                "" => value,
                field => Value::Object(Map::from_iter([(field.to_owned(), value)])),
            });
            if let Some(item) = items.last_mut() {
                count = self.walk(item, if field.is_empty() { &[] } else { rest })?;
            }
        }
        Ok(count)
    }

    /// What is made for the rest of a path to go on in.
    fn made_for(&self, rest: &[String]) -> Value {
        match rest.first() {
            None if is_scalar(self.value) => Value::Null,
            None if self.value.is_array() => Value::Array(Vec::new()),
            Some(next) if paths::choice(next).is_some() || next.parse::<usize>().is_ok() || next == "-" => {
                Value::Array(Vec::new())
            }
            _ => Value::Object(Map::new()),
        }
    }

    /// A text that is YAML or JSON itself: what is below is set, and it is written again.
    fn within_text(&self, text: &str, path: &[String]) -> std::result::Result<(String, usize), Stop> {
        let nowhere = |error: api::yaml::Error| Stop::Nowhere(error.to_string());
        let mut inner = api::yaml::first(text.as_bytes()).map_err(nowhere)?.value;
        if is_scalar(&inner) {
            return Err(Stop::Nowhere(format!("{text:?} has no fields")));
        }
        let count = self.walk(&mut inner, path)?;
        let written = match text.trim_start().chars().next() {
            Some('{' | '[') if text.contains('\n') && text.contains("  ") => {
                serde_json::to_string_pretty(&inner).unwrap_or_default()
            }
            Some('{' | '[') => inner.to_string(),
            _ => return Ok((api::yaml::render(&inner).trim().to_owned(), count)),
        };
        Ok((api::validate::go_escaped(&written), count))
    }

    fn write(&self, at: &mut Value) -> Result<()> {
        let delimited = self.options.filter(|options| !options.delimiter.is_empty());
        let text = match delimited {
            None if !is_scalar(at) => {
                *at = self.value.clone();
                return Ok(());
            }
            None if !is_scalar(self.value) => {
                if at.is_null() {
                    *at = self.value.clone();
                    return Ok(());
                }
                return Err(Error::new(format!("{} cannot take the place of {at}", self.value)));
            }
            None => text_of(self.value),
            Some(_) if !is_scalar(at) || !is_scalar(self.value) => {
                return Err(Error::new("delimiter option can only be used with scalar nodes"));
            }
            Some(options) => joined(&text_of(at), &text_of(self.value), options),
        };
        // A text stays a text, and whatever else it is becomes what the new text means.
        let new = if at.is_string() { Value::from(text) } else { plain(&text) };
        if (at.is_number() && !new.is_number()) || (at.is_boolean() && !new.is_boolean()) {
            return Err(Error::new(format!("{new} cannot take the place of {at}, which is of another type")));
        }
        *at = new;
        Ok(())
    }
}

fn joined(old: &str, new: &str, options: &FieldOptions) -> String {
    let mut parts: Vec<&str> = old.split(&options.delimiter).collect();
    match usize::try_from(options.index) {
        Err(_) => parts.insert(0, new),
        Ok(at) if at >= parts.len() => parts.push(new),
        Ok(at) => parts[at] = new,
    }
    parts.join(&options.delimiter)
}

/// What a text without quotes means.
fn plain(text: &str) -> Value {
    let read = api::yaml::plain_documents(text).next().and_then(std::result::Result::ok);
    match read {
        Some(document) if matches!(document.value, Value::Number(_) | Value::Bool(_)) => document.value,
        _ => Value::from(text),
    }
}
