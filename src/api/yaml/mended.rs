//! Brackets whose content stands further to the left than what they are the value of: YAML itself has them further to
//! the right, and the parser says so; Go's libraries never look. What is wrong is moved to the right and read again.

use saphyr_parser::{Parser, ScanError};

/// How often a text is read again, for one line each time.
const LINES: usize = 1_000;
/// How many bytes are read again, all times together, whoever sends them.
const BYTES: usize = 8 << 20;
/// The furthest that a line is moved.
const COLUMNS: usize = 1_000;

/// Whether it was that which an error is about. The parser looks at it within brackets alone.
pub(super) fn is_about(why: &str) -> bool {
    why == "invalid indentation" || why == "invalid indentation in flow construct"
}

/// The text with such lines further to the right, with as many lines as before; `None` where that does not help.
pub(super) fn mended(text: &str) -> Option<String> {
    // The parser counts them as line ends.
    if text.replace("\r\n", "").contains('\r') {
        return None;
    }
    let opened = text.lines().filter_map(|line| line.find(['[', '{'])).max()?;
    let space = " ".repeat(opened.min(COLUMNS) + 1);
    let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
    for _ in 0..LINES.min(BYTES / text.len().max(1)) {
        let whole = lines.concat();
        let Some(line) = misplaced(&whole) else { return Some(whole) };
        let line = lines.get_mut(line.checked_sub(1)?).filter(|line| !line.starts_with(&space))?;
        line.insert_str(0, &space);
    }
    None
}

/// The first line that is too far to the left.
fn misplaced(text: &str) -> Option<usize> {
    let error: ScanError = Parser::new_from_str(text).find_map(Result::err)?;
    is_about(error.info()).then(|| error.marker().line())
}

#[cfg(test)]
mod tests {
    use crate::yaml::{documents, first};
    use serde_json::json;

    #[test]
    fn brackets_may_close_where_their_key_is() {
        for text in [
            "a: [\n  1\n]",
            "a: [\n1\n]\n",
            "a:\n- [\n1,\n# not ] here\n]",
            "{\n\"a\":\n[1]}",
            "a: {\nb: [\n'x\n  y'],\n}\n",
            "a: {b: c,\nd: {\ne: f\n}\n}\n",
        ] {
            assert!(first(text.as_bytes()).is_ok(), "{text}: {:?}", first(text.as_bytes()));
        }
        let text = "a:\n  b: [ # not ] here\n    \"x]\",\n    'y'\n  ]\n  c: {\n    d: 1\n  }\ne: [1]\n";
        assert_eq!(
            first(text.as_bytes()).unwrap().value,
            json!({"a": {"b": ["x]", "y"], "c": {"d": 1}}, "e": [1]})
        );
    }

    #[test]
    fn texts_go_on_in_brackets() {
        let wanted = json!({"a": ["x y", {"b": "c d"}]});
        assert_eq!(first(b"a: [\nx\ny, {b: c\nd}]").unwrap().value, wanted);
    }

    /// What is no list keeps its spaces, though there is a bracket in it.
    #[test]
    fn nothing_else_is_moved() {
        let text = "script: |\n  if [ a\n   b\nlist: [\n1,\n]\nafter: |\n  [\n  x\n";
        let wanted = json!({"script": "if [ a\n b\n", "list": [1], "after": "[\nx\n"});
        assert_eq!(first(text.as_bytes()).unwrap().value, wanted);
    }

    #[test]
    fn documents_before_are_given_once() {
        let text = "x: 1\n---\na: [\n1\n]\n---\na: 1\na: 2\n---\na: [\nb: 1";
        let all: Vec<_> = documents(text).collect();
        let values: Vec<_> = all.iter().flatten().map(|document| document.value.clone()).collect();
        assert_eq!(values, [json!({"x": 1}), json!({"a": [1]}), json!({"a": 2})]);
        // Places are those of the text.
        assert_eq!(all[2].as_ref().unwrap().repeated, ["line 8: key \"a\" already set in map"]);
        assert!(all.len() == 4 && all[3].is_err(), "{all:?}");
    }
}
