//! JSON paths to fields of a schema, as `selectableFields` and the rules' `fieldPath` have them.

use serde_json::Value;

/// The field that a path leads to: its path as messages write it, and its schema, if that is said.
pub(super) fn resolve<'v>(
    path: &str,
    root: &'v Value,
    arrays: bool,
) -> Result<(Vec<String>, Option<&'v Value>), String> {
    let mut tokens = tokens(path).into_iter();
    let mut steps = Vec::new();
    let mut schema = Some(root);
    const ENDS: &str = "unexpected end of JSON path";
    while let Some(token) = tokens.next() {
        let name = match token {
            "." => tokens.next().ok_or(ENDS)?.to_owned(),
            "[" if !arrays => return Err("array notation is not allowed".to_owned()),
            "[" => {
                let quoted = tokens.next().ok_or(ENDS)?;
                let inner = quoted.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\''));
                let inner = inner.ok_or_else(|| format!("expected single quoted string but got {quoted}"))?;
                let name = unescaped(inner)?;
                match tokens.next().ok_or(ENDS)? {
                    "]" => name,
                    other => return Err(format!("expected ] but got {other}")),
                }
            }
            other => return Err(format!("expected [ or . but got: {other}")),
        };
        schema = Some(below(schema, &name).ok_or("does not refer to a valid field")?);
        steps.push(name);
    }
    Ok((steps, schema))
}

fn below<'v>(schema: Option<&'v Value>, name: &str) -> Option<&'v Value> {
    let schema = schema?;
    match schema["properties"].as_object() {
        Some(properties) if !properties.is_empty() => properties.get(name),
        _ => Some(&schema["additionalProperties"]).filter(|extra| !extra.is_null()),
    }
}

/// Dots, brackets and what is between them; in quotes they are like other signs.
fn tokens(path: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = path;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '.' | '[' | ']' => 1,
            '\'' => closing(rest).unwrap_or(rest.len()),
            _ => rest.find(['.', '[', ']']).unwrap_or(rest.len()),
        };
        found.push(&rest[..length]);
        rest = &rest[length..];
    }
    found
}

fn closing(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    (1..bytes.len()).find(|at| bytes[*at] == b'\'' && bytes[*at - 1] != b'\\').map(|at| at + 1)
}

fn unescaped(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut signs = text.chars();
    while let Some(sign) = signs.next() {
        out.push(match sign {
            '\\' => match signs.next() {
                Some('a') => '\x07',
                Some('b') => '\x08',
                Some('f') => '\x0c',
                Some('n') => '\n',
                Some('r') => '\r',
                Some('t') => '\t',
                Some('v') => '\x0b',
                Some(sign @ ('\'' | '\\')) => sign,
                other => {
                    let other = other.map(String::from).unwrap_or_default();
                    return Err(format!("invalid string literal: invalid escape char \\{other}"));
                }
            },
            sign => sign,
        });
    }
    Ok(out)
}
