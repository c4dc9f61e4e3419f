//! `-o custom-columns=NAME:.metadata.name,…`

use super::{say, tabs};
use crate::error::Error;
use api::jsonpath::{self, Template};
use serde_json::Value;

/// Headers with their paths, or why one is none: that is said where the first object would be.
pub(crate) struct Columns(Vec<(String, Result<Template, jsonpath::Error>)>);

/// There are none.
pub(crate) fn nothing() -> Error {
    Error::plain("custom-columns format specified but no custom columns given")
}

impl Columns {
    /// A file of two lines: headers, and below each its path.
    pub(crate) fn of_file(text: &str) -> Result<Self, Error> {
        let mut lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let (headers, paths) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        if headers.len() != paths.len() || headers.is_empty() {
            return Err(Error::plain(format!(
                "number of headers ({}) does not match number of columns ({})",
                headers.len(),
                paths.len()
            )));
        }
        let pairs: Vec<String> =
            headers.iter().zip(&paths).map(|(header, path)| format!("{header}:{path}")).collect();
        Self::parse(&pairs.join(","))
    }

    pub(crate) fn parse(spec: &str) -> Result<Self, Error> {
        let column = |part: &str| match part.split_once(':') {
            Some((header, path)) => {
                let path = path.trim_start_matches('{').trim_end_matches('}');
                let path = if path.starts_with('.') { path.to_owned() } else { format!(".{path}") };
                Ok((header.to_owned(), Template::parse(&format!("{{{path}}}"))))
            }
            None => Err(Error::plain(format!(
                "unexpected custom-columns spec: {part}, expected <header>:<json-path-expr>"
            ))),
        };
        if spec.is_empty() {
            return Err(nothing());
        }
        Ok(Self(spec.split(',').map(column).collect::<Result<_, _>>()?))
    }

    pub(crate) fn render(&self, items: &[&Value], headers: bool) -> Result<String, Error> {
        let mut text = String::new();
        if headers {
            let names: Vec<&str> = self.0.iter().map(|(header, _)| header.as_str()).collect();
            text.push_str(&format!("{}\n", names.join("\t")));
        }
        for item in items {
            let cells = self.0.iter().map(|(_, path)| match path {
                Ok(path) => Ok(cell(path, item)),
                Err(error) => Err(error.to_string()),
            });
            match cells.collect::<Result<Vec<String>, String>>() {
                Ok(cells) => text.push_str(&format!("{}\n", cells.join("\t"))),
                Err(why) => {
                    say(&tabs::align(&text, 6, 3))?;
                    return Err(Error::plain(why.trim_start_matches("error parsing jsonpath: ")));
                }
            }
        }
        Ok(tabs::align(&text, 6, 3))
    }
}

/// Texts and numbers as they are, whatever holds others as Go prints it.
fn shown(value: &Value) -> String {
    match value {
        Value::Array(_) | Value::Object(_) => template::sprint(&template::Value::from_json(value)),
        other => jsonpath::text(other),
    }
}

fn cell(path: &Template, item: &Value) -> String {
    let values: Vec<String> = path.values(item).into_iter().map(shown).collect();
    if values.is_empty() { "<none>".to_owned() } else { tabs::cell(&values.join(",")) }
}
