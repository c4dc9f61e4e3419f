//! `--sort-by`: by the first value that a path leads to; objects without one come first.

use crate::error::Error;
use crate::output::table::Row;
use api::jsonpath::{Template, text};
use serde_json::Value;
use std::cmp::Ordering;

/// A path in one of four forms: `a.b`, `.a.b`, `{a.b}`, `{.a.b}`.
struct Key(Template, String);

/// A path in one of the forms that people write, as a template.
pub(crate) fn relaxed(path: &str) -> Result<String, Error> {
    let bare = match path.strip_prefix('{') {
        Some(rest) => rest.strip_suffix('}'),
        None => Some(path),
    };
    let bare = bare
        .map(|bare| bare.strip_prefix('.').unwrap_or(bare))
        .filter(|bare| !bare.is_empty() && !bare.contains(['{', '}']));
    let bare = bare.ok_or_else(|| {
            Error::plain(
                "unexpected path string, expected a 'name1.name2' or '.name1.name2' or '{name1.name2}' or '{.name1.name2}'",
            )
        })?;
    Ok(format!("{{.{bare}}}"))
}

impl Key {
    fn parse(path: &str) -> Result<Self, Error> {
        let whole = relaxed(path)?;
        let template = Template::parse(&whole);
        let template = template
            .map_err(|error| Error::plain(format!("sorting error: {}", Error::from(error).message())))?;
        Ok(Self(template, whole))
    }

    fn of<'a>(&'a self, object: &'a Value) -> Option<&'a Value> {
        self.0.first_values(object, 1).first().copied()
    }

    /// A path that leads nowhere for anybody is a mistake.
    fn leads(&self, mut objects: impl ExactSizeIterator<Item = Value>) -> Result<(), Error> {
        if objects.len() == 0 || objects.any(|object| self.of(&object).is_some()) {
            return Ok(());
        }
        Err(Error::plain(format!("couldn't find any field with path {:?} in the list of objects", self.1)))
    }
}

/// Sorts a list's items.
pub(super) fn items(list: &mut Value, path: &str) -> Result<(), Error> {
    let key = Key::parse(path)?;
    if let Some(items) = list["items"].as_array_mut() {
        key.leads(items.iter().cloned())?;
        items.sort_by(|left, right| order(key.of(left), key.of(right)));
    }
    Ok(())
}

/// Sorts a table's rows by their objects.
pub(super) fn rows(rows: &mut [Row], path: &str) -> Result<(), Error> {
    let key = Key::parse(path)?;
    key.leads(rows.iter().map(|row| row.object.clone()))?;
    rows.sort_by(|left, right| order(key.of(&left.object), key.of(&right.object)));
    Ok(())
}

fn order(left: Option<&Value>, right: Option<&Value>) -> Ordering {
    let (Some(left), Some(right)) = (left, right) else { return left.is_some().cmp(&right.is_some()) };
    if let (Some(left), Some(right)) = (left.as_f64(), right.as_f64()) {
        return left.total_cmp(&right);
    }
    let (left, right) = (text(left), text(right));
    match (api::quantity::parse(&left), api::quantity::parse(&right)) {
        (Ok(left), Ok(right)) => left.to_float().total_cmp(&right.to_float()),
        _ => left.cmp(&right),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sorted(path: &str) -> Result<String, String> {
        let mut list = json!({"items": [{"n": "c", "a": 10, "q": "1Gi"}, {"n": "a", "a": 9, "q": "500Mi"}, {"n": "b", "q": "2"}]});
        items(&mut list, path).map_err(|error| error.to_string())?;
        let names =
            list["items"].as_array().unwrap().iter().map(|item| item["n"].as_str().unwrap().to_owned());
        Ok(names.collect())
    }

    #[test]
    fn values_are_compared_as_what_they_are() {
        for path in ["n", ".n", "{n}", "{.n}"] {
            assert_eq!(sorted(path).unwrap(), "abc", "{path}");
        }
        assert_eq!(sorted(".a").unwrap(), "bac");
        assert_eq!(sorted(".q").unwrap(), "bac");
        assert_eq!(
            sorted(".nowhere").unwrap_err(),
            "error: couldn't find any field with path \"{.nowhere}\" in the list of objects"
        );
    }
}
