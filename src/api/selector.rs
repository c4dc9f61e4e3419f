//! Label and field selectors, as query texts and as `LabelSelector` objects.

use crate::{Object, Texts, meta};
use std::collections::BTreeMap;
use std::fmt;

/// A selector that cannot be read. To be answered with 400.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
    Greater(i64),
    Less(i64),
}

/// A label selector; all requirements have to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Labels {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl Labels {
    /// Reads a `labelSelector` query: `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1,m<2`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let requirements =
            split_outside_parentheses(text).into_iter().map(requirement).collect::<Result<_, _>>()?;
        Ok(Self { requirements, nothing: false })
    }

    /// The selector of a `LabelSelector` object: an absent one selects nothing, an empty one all.
    pub fn of(selector: Option<&meta::LabelSelector>) -> Self {
        let Some(selector) = selector else { return Self { requirements: Vec::new(), nothing: true } };
        let equal = selector.match_labels.iter().flatten();
        let equal =
            equal.map(|(key, value)| Requirement { key: key.clone(), test: Test::In(vec![value.clone()]) });
        let tests = selector.match_expressions.iter().flatten().map(|expression| {
            let values = expression.values.clone().unwrap_or_default();
            let test = match expression.operator.as_str() {
                "In" => Test::In(values),
                "NotIn" => Test::NotIn(values),
                "Exists" => Test::Exists,
                _ => Test::Absent,
            };
            Requirement { key: expression.key.clone(), test }
        });
        Self { requirements: equal.chain(tests).collect(), nothing: false }
    }

    /// The selector of a plain map, as services have: all pairs have to be there.
    pub fn of_map(map: &BTreeMap<String, String>) -> Self {
        let equal = map
            .iter()
            .map(|(key, value)| Requirement { key: key.clone(), test: Test::In(vec![value.clone()]) });
        Self { requirements: equal.collect(), nothing: false }
    }

    /// Whether these labels are selected.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.matches_with(|key| labels.get(key).map(String::as_str))
    }

    /// Whether the labels of an object are selected.
    pub fn selects(&self, object: &impl Object) -> bool {
        self.matches_with(|key| object.labels().text(key))
    }

    /// Whether labels are selected that are looked up by a function.
    pub fn matches_with<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing
            && self.requirements.iter().all(|requirement| requirement.holds(label(&requirement.key)))
    }

    /// It selects everything.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }
}

impl Requirement {
    fn holds(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match &self.test {
            Test::In(values) => value.is_some_and(|value| values.iter().any(|one| one == value)),
            Test::NotIn(values) => value.is_none_or(|value| values.iter().all(|one| one != value)),
            Test::Exists => value.is_some(),
            Test::Absent => value.is_none(),
            Test::Greater(bound) => number().is_some_and(|number| number > *bound),
            Test::Less(bound) => number().is_some_and(|number| number < *bound),
        }
    }
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0u32, 0, Vec::new());
    for (index, character) in text.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    if text.trim().is_empty() { Vec::new() } else { parts }
}

fn requirement(text: &str) -> Result<Requirement, Error> {
    let text = text.trim();
    if let Some(key) = text.strip_prefix('!') {
        return Ok(Requirement { key: label_key(key)?, test: Test::Absent });
    }
    if let Some(end) = text.strip_suffix(')') {
        let (head, values) = end.split_once('(').ok_or_else(|| unreadable(text, "')' without '('"))?;
        let values: Vec<String> = values.split(',').map(|value| value.trim().to_owned()).collect();
        let mut words = head.split_whitespace();
        let key = label_key(words.next().unwrap_or_default())?;
        let test = match (words.next(), words.next()) {
            (Some("in"), None) => Test::In(values),
            (Some("notin"), None) => Test::NotIn(values),
            _ => return Err(unreadable(text, "expected 'in' or 'notin'")),
        };
        return Ok(Requirement { key, test });
    }
    type Build = fn(String) -> Option<Test>;
    let operators: [(&str, Build); 5] = [
        ("!=", |value| Some(Test::NotIn(vec![value]))),
        ("==", |value| Some(Test::In(vec![value]))),
        ("=", |value| Some(Test::In(vec![value]))),
        (">", |value| value.parse().ok().map(Test::Greater)),
        ("<", |value| value.parse().ok().map(Test::Less)),
    ];
    for (operator, build) in operators {
        if let Some((key, value)) = text.split_once(operator) {
            let value = value.trim();
            if !value.bytes().all(is_label_byte) {
                return Err(unreadable(text, "a label value has letters, digits, '-', '_' and '.' only"));
            }
            let test = build(value.to_owned())
                .ok_or_else(|| unreadable(text, "for 'Gt', 'Lt' operators, the value must be an integer"))?;
            return Ok(Requirement { key: label_key(key)?, test });
        }
    }
    Ok(Requirement { key: label_key(text)?, test: Test::Exists })
}

fn unreadable(text: &str, reason: &str) -> Error {
    Error(format!("unable to parse requirement: {reason}: {text:?}"))
}

fn is_label_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

fn label_key(key: &str) -> Result<String, Error> {
    let key = key.trim();
    let name = key.rsplit('/').next().unwrap_or_default();
    let well_formed =
        !name.is_empty() && name.len() <= 63 && key.bytes().all(|byte| is_label_byte(byte) || byte == b'/');
    if well_formed { Ok(key.to_owned()) } else { Err(unreadable(key, "invalid label key")) }
}

/// A field selector: `metadata.name=a,status.phase!=Running`; all terms have to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(Vec<Term>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    field: String,
    value: String,
    equal: bool,
}

impl Fields {
    /// Reads a `fieldSelector` query, in which `\` escapes `,`, `=` and itself.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut terms = Vec::new();
        for part in split_unescaped(text).into_iter().filter(|part| !part.is_empty()) {
            let (field, value, equal) = if let Some((field, value)) = part.split_once("!=") {
                (field, value, false)
            } else if let Some((field, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
                (field, value, true)
            } else {
                return Err(Error(format!("invalid selector: '{part}'; can't understand '{part}'")));
            };
            terms.push(Term { field: field.trim().to_owned(), value: value.replace('\\', ""), equal });
        }
        Ok(Self(terms))
    }

    /// Selects by one field.
    pub fn of(field: &str, value: &str) -> Self {
        Self(vec![Term { field: field.to_owned(), value: value.to_owned(), equal: true }])
    }

    /// The same selection by other names of the fields.
    pub fn renamed<'a>(mut self, name: impl Fn(&str) -> Option<&'a str>) -> Self {
        for term in &mut self.0 {
            if let Some(other) = name(&term.field) {
                other.clone_into(&mut term.field);
            }
        }
        self
    }

    /// The fields it names.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|term| term.field.as_str())
    }

    /// The value that a field must have, where the selector fixes one.
    pub fn required(&self, field: &str) -> Option<&str> {
        self.0.iter().find(|term| term.equal && term.field == field).map(|term| term.value.as_str())
    }

    /// Whether all terms hold for fields that are looked up by a function; absent fields are "".
    pub fn matches_with<'a>(&self, field: impl Fn(&str) -> &'a str) -> bool {
        self.0.iter().all(|term| (field(&term.field) == term.value) == term.equal)
    }

    /// It selects everything.
    pub fn is_everything(&self) -> bool {
        self.0.is_empty()
    }
}

fn split_unescaped(text: &str) -> Vec<&str> {
    let (mut escaped, mut start, mut parts) = (false, 0, Vec::new());
    for (index, character) in text.char_indices() {
        match character {
            '\\' if !escaped => {
                escaped = true;
                continue;
            }
            ',' if !escaped => {
                parts.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
        escaped = false;
    }
    parts.push(&text[start..]);
    parts
}

impl fmt::Display for Labels {
    /// The query text, as `status.selector` of a scale shows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.requirements.iter().map(|Requirement { key, test }| match test {
            Test::In(values) if values.len() == 1 => format!("{key}={}", values[0]),
            Test::In(values) => format!("{key} in ({})", values.join(",")),
            Test::NotIn(values) if values.len() == 1 => format!("{key}!={}", values[0]),
            Test::NotIn(values) => format!("{key} notin ({})", values.join(",")),
            Test::Exists => key.clone(),
            Test::Absent => format!("!{key}"),
            Test::Greater(bound) => format!("{key}>{bound}"),
            Test::Less(bound) => format!("{key}<{bound}"),
        });
        f.write_str(&parts.collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn every_operator() {
        let own = labels(&[("app", "web"), ("tier", "3")]);
        for (text, selected) in [
            ("", true),
            ("app", true),
            ("!app", false),
            ("app=web", true),
            ("app==web,tier!=4", true),
            ("app!=web", false),
            ("app in (db, web)", true),
            ("app notin (db,web)", false),
            ("other notin (x)", true),
            ("tier>2", true),
            ("tier<3", false),
            ("app=web,other", false),
        ] {
            assert_eq!(Labels::parse(text).unwrap().matches(&own), selected, "{text}");
        }
        for text in ["app in web", "a b", "app in web)", "tier>x", "=x", "a=b c"] {
            assert!(Labels::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_absent_selector_selects_nothing() {
        assert!(!Labels::of(None).matches(&labels(&[])));
        assert!(Labels::of(Some(&meta::LabelSelector::default())).matches(&labels(&[])));
    }

    #[test]
    fn fields_compare_texts() {
        let selector = Fields::parse(r"status.phase!=Running,spec.nodeName=a\,b").unwrap();
        let field = |name: &str| if name == "spec.nodeName" { "a,b" } else { "" };
        assert!(selector.matches_with(field));
        assert_eq!(selector.required("spec.nodeName"), Some("a,b"));
        assert!(Fields::parse("nonsense").is_err());
    }
}
