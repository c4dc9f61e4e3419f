//! YAML as charts have it: where lists in brackets go on at their key's indentation, which Go's library reads and the
//! parser here does not, what is in brackets is moved to the right and read again.

use api::yaml::{Document, Error};

/// The first document of a text.
pub(crate) fn first(bytes: &[u8]) -> Result<Document, Error> {
    api::yaml::first(bytes).or_else(|error| {
        let text = std::str::from_utf8(bytes).map_err(|_| Error::Encoding)?;
        again(&error, text).and_then(|text| api::yaml::first(text.as_bytes()).ok()).ok_or(error)
    })
}

/// The documents of a text.
pub(crate) fn documents(text: &str) -> Result<Vec<Document>, Error> {
    let all = |text: &str| api::yaml::documents(text).collect::<Result<Vec<_>, _>>();
    all(text).or_else(|error| again(&error, text).and_then(|text| all(&text).ok()).ok_or(error))
}

/// The text to be read instead, if it was indentation that was wrong.
fn again(error: &Error, text: &str) -> Option<String> {
    let is_it = matches!(error, Error::Malformed { why, .. } if why.contains("indentation"));
    is_it.then(|| moved(text))
}

/// The text with all lines moved to the right that begin within brackets.
fn moved(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    // How deep in brackets, and how far to the right the line began in which they opened.
    let (mut depth, mut indentation) = (0_usize, 0);
    for line in text.split_inclusive('\n') {
        if depth > 0 {
            out.push_str(&" ".repeat(indentation + 2));
        } else {
            indentation = line.len() - line.trim_start_matches(' ').len();
        }
        out.push_str(line);
        let mut quoted = None;
        let mut before = ' ';
        for c in line.chars() {
            match (quoted, c) {
                (Some(mark), _) if mark == c && before != '\\' => quoted = None,
                (Some(_), _) => {}
                (None, '#') if before.is_whitespace() => break,
                (None, '"' | '\'') if before.is_whitespace() || "[{,:(".contains(before) => quoted = Some(c),
                (None, '[' | '{') if depth > 0 || before.is_whitespace() => depth += 1,
                (None, ']' | '}') => depth = depth.saturating_sub(1),
                _ => {}
            }
            before = c;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn brackets_may_close_where_their_key_is() {
        let text = "a:\n  b: [ # not ] here\n    \"x]\",\n    'y'\n  ]\n  c: {\n    d: 1\n  }\ne: [1]\n";
        let wanted = json!({"a": {"b": ["x]", "y"], "c": {"d": 1}}, "e": [1]});
        assert!(api::yaml::first(text.as_bytes()).is_err(), "nothing has to be moved any more");
        assert_eq!(first(text.as_bytes()).unwrap().value, wanted);
        assert_eq!(documents(&format!("x: 1\n---\n{text}")).unwrap()[1].value, wanted);
        assert!(first(b"a: [\nb: 1").is_err());
    }
}
