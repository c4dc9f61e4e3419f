//! Kubernetes' JSONPath templates: text with `{…}` expressions, `range`/`end`, wildcards, slices, filters,
//! unions, recursive descent and quoted text. Their dialect, not RFC 9535: an expression is read from left to right, and
//! each part of it is asked of what the parts before it found, spaces or not.

mod find;
mod read;

use crate::validate::go_escaped;
use serde_json::Value;

/// A parsed template.
#[derive(Debug)]
pub struct Template(Vec<Part>);

/// Why a text is no template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("error parsing jsonpath: {0}")]
pub struct Error(String);

/// Why a template has nothing to say of an object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Fault(String);

#[derive(Debug)]
enum Part {
    /// An expression, or the text between two.
    One(Vec<Step>),
    /// What is done for each of what an expression finds.
    Range(Vec<Step>, Vec<Part>),
}

#[derive(Debug)]
enum Step {
    Field(String),
    Wildcard,
    Descend,
    Slice(Slice),
    Union(Vec<Vec<Step>>),
    Filter(Filter),
    /// Text, which stands for itself alone.
    Text(Value),
    /// A number or a switch, which stands for each of what was found before it.
    Constant(Value),
    /// A bare word: `range`, `end`, or a mistake that shows when the template is used.
    Word(String),
}

/// `[from:to:by]`, or `[from]` alone.
#[derive(Clone, Copy, Debug, Default)]
struct Slice {
    from: Option<i64>,
    to: Option<i64>,
    by: Option<i64>,
    /// It was one number.
    single: bool,
}

/// `[?(left operator right)]`, or with the left side alone whether there is anything.
#[derive(Debug)]
struct Filter {
    left: Vec<Step>,
    comparison: Option<(String, Vec<Step>)>,
}

/// How much is found, and what may be missing.
#[derive(Clone, Copy)]
struct Rules {
    /// Each field has to be there.
    strict: bool,
    /// So many values at each step.
    most: usize,
}

impl Rules {
    const ALL: Self = Self { strict: false, most: usize::MAX };
}

impl Template {
    /// Reads a template. Brackets nest by recursion: who takes templates from others bounds their length.
    pub fn parse(text: &str) -> Result<Self, Error> {
        Ok(Self(read::template(text)?))
    }

    /// The template's text for an object. With `strict` every field has to be there.
    pub fn render(&self, object: &Value, strict: bool) -> Result<String, Fault> {
        let shown = |values: &Vec<&Value>| {
            let each: Vec<String> = values.iter().map(|value| printed(value)).collect();
            each.join(" ")
        };
        Ok(self.results(object, strict)?.iter().map(shown).collect())
    }

    /// What each of the template's expressions finds. With `strict` every field has to be there.
    pub fn results<'a>(&'a self, object: &'a Value, strict: bool) -> Result<Vec<Vec<&'a Value>>, Fault> {
        let mut all = Vec::new();
        find::parts(&self.0, object, Rules { strict, ..Rules::ALL }, &mut all)?;
        Ok(all)
    }

    /// The values that the template's expressions find; none where one of them cannot be asked of the object.
    pub fn values<'a>(&'a self, object: &'a Value) -> Vec<&'a Value> {
        self.first_values(object, usize::MAX)
    }

    /// So many of them at most, and no more work than finding so many takes at each step.
    pub fn first_values<'a>(&'a self, object: &'a Value, most: usize) -> Vec<&'a Value> {
        let mut all = Vec::new();
        match find::parts(&self.0, object, Rules { most, ..Rules::ALL }, &mut all) {
            Ok(()) => all.into_iter().flatten().take(most).collect(),
            Err(_) => Vec::new(),
        }
    }
}

/// A value as it is printed: texts bare, everything else as JSON.
pub fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => go_escaped(&other.to_string()),
    }
}

/// The same in a template's text, where nothing has a name.
fn printed(value: &Value) -> String {
    if value.is_null() { "null".to_owned() } else { text(value) }
}

#[cfg(test)]
mod tests;
