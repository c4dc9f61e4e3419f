//! Kubernetes' JSONPath templates: text with `{…}` expressions, `range`/`end`, wildcards, slices, filters,
//! unions, recursive descent and quoted text. Their dialect, not RFC 9535.

use crate::validate::go_escaped;
use serde_json::Value;

/// A parsed template.
#[derive(Debug)]
pub struct Template(Vec<Part>);

/// Why a text is no template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("error parsing jsonpath: {0}")]
pub struct Error(String);

#[derive(Debug)]
enum Part {
    Text(String),
    Path(Vec<Step>),
    Range(Vec<Step>, Vec<Part>),
}

#[derive(Debug)]
enum Step {
    Field(String),
    Wildcard,
    Descend,
    Index(i64),
    Slice(Option<i64>, Option<i64>, i64),
    Union(Vec<Step>),
    Filter(Vec<Step>, Option<(String, Operand)>),
}

#[derive(Debug)]
enum Operand {
    Literal(Value),
    Path(Vec<Step>),
}

impl Template {
    /// Reads a template. Brackets nest by recursion: who takes templates from others bounds their length.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut rest = text;
        let parts = parts(&mut rest, false)?;
        Ok(Self(parts))
    }

    /// The template's text for an object.
    pub fn render(&self, object: &Value) -> String {
        let mut out = String::new();
        render(&self.0, object, &mut out);
        out
    }

    /// The values that the template's expressions find.
    pub fn values<'a>(&self, object: &'a Value) -> Vec<&'a Value> {
        self.first_values(object, usize::MAX)
    }

    /// The first field of the template's paths that an object has not, where it has what the field is asked of.
    pub fn missing(&self, object: &Value) -> Option<&str> {
        missing_in(&self.0, object)
    }

    /// So many of them at most, and no more work than finding so many takes at each step.
    pub fn first_values<'a>(&self, object: &'a Value, most: usize) -> Vec<&'a Value> {
        let paths = self.0.iter().filter_map(|part| match part {
            Part::Path(steps) => Some(walk(steps, object, most)),
            _ => None,
        });
        paths.flatten().take(most).collect()
    }
}

fn bad(reason: impl std::fmt::Display) -> Error {
    Error(reason.to_string())
}

fn parts(rest: &mut &str, nested: bool) -> Result<Vec<Part>, Error> {
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let open = rest.find('{').unwrap_or(rest.len());
        if open > 0 {
            parts.push(Part::Text(rest[..open].to_owned()));
            *rest = &rest[open..];
            continue;
        }
        let close = closing(rest).ok_or_else(|| bad("unclosed action"))?;
        let action = rest[1..close].trim();
        *rest = &rest[close + 1..];
        if action == "end" {
            return if nested { Ok(parts) } else { Err(bad("not in range, nothing to end")) };
        } else if let Some(path) = action.strip_prefix("range ") {
            let steps = steps(path.trim())?;
            parts.push(Part::Range(steps, self::parts(rest, true)?));
        } else if let Some(text) = quoted(action) {
            parts.push(Part::Text(text));
        } else {
            for path in words(action) {
                parts.push(Part::Path(steps(path)?));
            }
        }
    }
    if nested { Err(bad("unterminated range")) } else { Ok(parts) }
}

/// The paths of one action, parted by spaces outside of brackets.
fn words(action: &str) -> Vec<&str> {
    let mut depth = 0;
    action
        .split(|sign: char| {
            depth += i32::from(sign == '[') - i32::from(sign == ']');
            depth == 0 && sign.is_whitespace()
        })
        .filter(|word| !word.is_empty())
        .collect()
}

/// Where the brace that opens `text` is closed, outside of quotes.
fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    let mut escaped = false;
    for (at, sign) in text.char_indices() {
        match (quote, sign) {
            _ if escaped => escaped = false,
            (_, '\\') => escaped = true,
            (Some(open), _) if open == sign => quote = None,
            (None, '"' | '\'') => quote = Some(sign),
            (None, '}') => return Some(at),
            _ => {}
        }
    }
    None
}

fn quoted(action: &str) -> Option<String> {
    let quote = action.chars().next().filter(|sign| matches!(sign, '"' | '\''))?;
    let inner = action.strip_prefix(quote)?.strip_suffix(quote)?;
    Some(inner.replace("\\n", "\n").replace("\\t", "\t").replace("\\\"", "\"").replace("\\'", "'"))
}

fn steps(path: &str) -> Result<Vec<Step>, Error> {
    let mut rest = path.trim().trim_start_matches(['$', '@']);
    let mut steps = Vec::new();
    while let Some(sign) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("..") {
            steps.push(Step::Descend);
            // A name may follow at once, or a bracket.
            rest = after;
            if !rest.starts_with('[') {
                take_name(&mut rest, &mut steps);
            }
        } else if sign == '.' {
            rest = &rest[1..];
            take_name(&mut rest, &mut steps);
        } else if sign == '[' {
            let close = bracket(rest).ok_or_else(|| bad("unterminated array"))?;
            steps.push(subscript(rest[1..close].trim())?);
            rest = &rest[close + 1..];
        } else {
            take_name(&mut rest, &mut steps);
        }
    }
    Ok(steps)
}

fn take_name(rest: &mut &str, steps: &mut Vec<Step>) {
    let mut name = String::new();
    let mut signs = rest.char_indices();
    let end = loop {
        match signs.next() {
            None => break rest.len(),
            Some((_, '\\')) => name.extend(signs.next().map(|(_, sign)| sign)),
            Some((at, '.' | '[')) => break at,
            Some((_, sign)) => name.push(sign),
        }
    };
    *rest = &rest[end..];
    match name.as_str() {
        "" => {}
        "*" => steps.push(Step::Wildcard),
        _ => steps.push(Step::Field(name)),
    }
}

/// Where the bracket that opens `text` is closed.
fn bracket(text: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0, None);
    for (at, sign) in text.char_indices() {
        match (quote, sign) {
            (Some(open), _) if open == sign => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(sign),
            (None, '[') => depth += 1,
            (None, ']') => {
                depth -= 1;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

fn subscript(text: &str) -> Result<Step, Error> {
    let number =
        |text: &str| text.trim().parse::<i64>().map_err(|_| bad(format!("invalid array index {text}")));
    let optional = |text: &str| if text.trim().is_empty() { Ok(None) } else { number(text).map(Some) };
    if text == "*" {
        return Ok(Step::Wildcard);
    }
    if let Some(condition) = text.strip_prefix("?(").and_then(|text| text.strip_suffix(')')) {
        return filter(condition.trim());
    }
    if text.contains(',') {
        return Ok(Step::Union(text.split(',').map(|one| subscript(one.trim())).collect::<Result<_, _>>()?));
    }
    if let Some(name) = quoted(text) {
        return Ok(Step::Field(name));
    }
    match text.split(':').collect::<Vec<_>>()[..] {
        [only] => Ok(Step::Index(number(only)?)),
        [from, to] => Ok(Step::Slice(optional(from)?, optional(to)?, 1)),
        [from, to, step] => Ok(Step::Slice(optional(from)?, optional(to)?, number(step)?.max(1))),
        _ => Err(bad(format!("invalid array index {text}"))),
    }
}

fn filter(condition: &str) -> Result<Step, Error> {
    for operator in ["==", "!=", "<=", ">=", "<", ">"] {
        if let Some((left, right)) = condition.split_once(operator) {
            let right = right.trim();
            let operand = match quoted(right) {
                Some(text) => Operand::Literal(Value::String(text)),
                None if right.starts_with(['@', '$', '.']) => Operand::Path(steps(right)?),
                None => Operand::Literal(
                    serde_json::from_str(right).unwrap_or_else(|_| Value::String(right.to_owned())),
                ),
            };
            return Ok(Step::Filter(steps(left)?, Some((operator.to_owned(), operand))));
        }
    }
    Ok(Step::Filter(steps(condition)?, None))
}

fn render(parts: &[Part], here: &Value, out: &mut String) {
    for part in parts {
        match part {
            Part::Text(text) => out.push_str(text),
            Part::Path(steps) => {
                let found: Vec<String> = walk(steps, here, usize::MAX).into_iter().map(text).collect();
                out.push_str(&found.join(" "));
            }
            Part::Range(steps, body) => {
                walk(steps, here, usize::MAX).into_iter().for_each(|item| render(body, item, out));
            }
        }
    }
}

/// What is at the end of a path, `most` values at each step.
fn walk<'a>(steps: &[Step], from: &'a Value, most: usize) -> Vec<&'a Value> {
    steps.iter().fold(vec![from], |found, step| {
        found.into_iter().flat_map(|value| take(step, value, most)).take(most).collect()
    })
}

fn missing_in<'a>(parts: &'a [Part], object: &Value) -> Option<&'a str> {
    parts.iter().find_map(|part| match part {
        Part::Text(_) => None,
        Part::Path(steps) => missing(steps, vec![object]).err(),
        Part::Range(steps, body) => match missing(steps, vec![object]) {
            Err(field) => Some(field),
            Ok(found) => found.into_iter().find_map(|value| missing_in(body, value)),
        },
    })
}

/// What steps lead to, or the field that is not there.
fn missing<'a, 'b>(steps: &'a [Step], mut found: Vec<&'b Value>) -> Result<Vec<&'b Value>, &'a str> {
    for step in steps {
        let next: Vec<&Value> = found.iter().flat_map(|value| take(step, value, usize::MAX)).collect();
        match step {
            Step::Field(name) if next.is_empty() && !found.is_empty() => return Err(name),
            _ => found = next,
        }
    }
    Ok(found)
}

fn take<'a>(step: &Step, value: &'a Value, most: usize) -> Vec<&'a Value> {
    match step {
        Step::Field(name) => value.get(name).into_iter().collect(),
        Step::Wildcard => match value {
            Value::Array(items) => items.iter().collect(),
            Value::Object(fields) => fields.values().collect(),
            _ => Vec::new(),
        },
        Step::Descend => descendants(value),
        Step::Index(index) => at(value, *index).into_iter().collect(),
        Step::Slice(from, to, by) => slice(value, (*from, *to, *by)),
        Step::Union(steps) => steps.iter().flat_map(|step| take(step, value, most)).collect(),
        Step::Filter(left, right) => match value {
            Value::Array(items) => {
                items.iter().filter(|item| holds(left, right.as_ref(), item, most)).collect()
            }
            _ => Vec::new(),
        },
    }
}

fn descendants(value: &Value) -> Vec<&Value> {
    let children: Vec<&Value> = match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(fields) => fields.values().collect(),
        _ => Vec::new(),
    };
    std::iter::once(value).chain(children.into_iter().flat_map(descendants)).collect()
}

fn at(value: &Value, index: i64) -> Option<&Value> {
    let items = value.as_array()?;
    let length = i64::try_from(items.len()).ok()?;
    items.get(usize::try_from(if index < 0 { length + index } else { index }).ok()?)
}

fn slice(value: &Value, (from, to, by): (Option<i64>, Option<i64>, i64)) -> Vec<&Value> {
    let length = i64::try_from(value.as_array().map_or(0, Vec::len)).unwrap_or(0);
    let place = |index: i64| if index < 0 { length + index } else { index }.clamp(0, length);
    let (from, to) = (place(from.unwrap_or(0)), place(to.unwrap_or(length)));
    (from..to).step_by(usize::try_from(by).unwrap_or(1)).filter_map(|index| at(value, index)).collect()
}

fn holds(left: &[Step], right: Option<&(String, Operand)>, item: &Value, most: usize) -> bool {
    let found = walk(left, item, most);
    let Some((operator, operand)) = right else { return !found.is_empty() };
    let wanted = match operand {
        Operand::Literal(value) => value.clone(),
        Operand::Path(path) => {
            walk(path, item, most).first().map(|value| (*value).clone()).unwrap_or_default()
        }
    };
    found.iter().any(|value| {
        let order = match (value.as_f64(), wanted.as_f64()) {
            (Some(left), Some(right)) => left.partial_cmp(&right),
            _ => Some(text(value).cmp(&text(&wanted))),
        };
        match operator.as_str() {
            "==" => order.is_some_and(std::cmp::Ordering::is_eq),
            "!=" => order.is_some_and(std::cmp::Ordering::is_ne),
            "<" => order.is_some_and(std::cmp::Ordering::is_lt),
            "<=" => order.is_some_and(std::cmp::Ordering::is_le),
            ">" => order.is_some_and(std::cmp::Ordering::is_gt),
            _ => order.is_some_and(std::cmp::Ordering::is_ge),
        }
    })
}

/// A value as it is printed: texts bare, everything else as JSON.
pub fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => go_escaped(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_that_are_not_there_are_found() {
        let object = json!({"items": [{"a": 1}, {"b": 2}], "none": []});
        let missing = |text: &str| Template::parse(text).unwrap().missing(&object).map(str::to_owned);
        assert_eq!(missing("{.items[0].a}{.items[1].b}"), None);
        assert_eq!(missing("{.items[1].a}").as_deref(), Some("a"));
        assert_eq!(missing("{range .items[*]}{.c}{end}").as_deref(), Some("c"));
        assert_eq!(missing("{.none[*].c}"), None);
    }

    #[test]
    fn templates_as_people_write_them() {
        let list = json!({"kind": "List", "items": [
            {"metadata": {"name": "a", "labels": {"app.kubernetes.io/name": "x"}}, "spec": {"n": 1, "c": [{"image": "i"}, {"image": "j"}]}},
            {"metadata": {"name": "b"}, "spec": {"n": 2}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}},
        ]});
        let cases = [
            ("{.items[*].metadata.name}", "a b"),
            ("{.items[0].metadata.labels.app\\.kubernetes\\.io/name}", "x"),
            ("{.items[0].metadata.labels['app.kubernetes.io/name']}", "x"),
            ("{range .items[*]}{.metadata.name}{\"\\t\"}{.spec.n}{\"\\n\"}{end}", "a\t1\nb\t2\n"),
            ("{.items[?(@.spec.n>1)].metadata.name}", "b"),
            ("{.items[?(@.metadata.name==\"a\")].spec.n}", "1"),
            ("{.items[1].status.conditions[?(@.type==\"Ready\")].status}", "True"),
            ("{.items[-1:].metadata.name}", "b"),
            ("{.items[0:1].metadata.name}", "a"),
            ("{..image}", "i j"),
            ("{.items[0]['metadata.name', 'kind']}", ""),
            ("{.items[0].metadata}", "{\"labels\":{\"app.kubernetes.io/name\":\"x\"},\"name\":\"a\"}"),
            ("name={.items[0].metadata.name}!", "name=a!"),
            ("{.missing}", ""),
        ];
        for (template, wanted) in cases {
            let template = Template::parse(template).unwrap();
            assert_eq!(template.render(&list), wanted);
        }
        for broken in ["{.a", "{range .a}x", "{end}", "{.a[x]}"] {
            assert!(Template::parse(broken).is_err(), "{broken}");
        }
    }
}
