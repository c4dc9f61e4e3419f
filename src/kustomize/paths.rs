//! Paths to fields, as kustomizations write them.

/// The parts of a path; a separator behind a backslash belongs to its part, one at the start means nothing.
pub(crate) fn split(path: &str, separator: char) -> Vec<String> {
    let path = path.strip_prefix(separator).filter(|rest| !rest.is_empty()).unwrap_or(path);
    let mut parts = vec![String::new()];
    let mut signs = path.chars().peekable();
    while let Some(sign) = signs.next() {
        let escaped = sign == '\\' && signs.peek() == Some(&separator);
        match parts.last_mut() {
            Some(last) if escaped => {
                last.push(separator);
                signs.next();
            }
            Some(last) if sign != separator => last.push(sign),
            _ => parts.push(String::new()),
        }
    }
    parts
}

/// As [`split`] at dots, but for those within brackets: `[name=a.b]` chooses an item, `[a.b]` is a field.
pub(crate) fn split_brackets(path: &str) -> Vec<String> {
    let mut parts = Vec::new();
    let mut split = split(path, '.').into_iter();
    while let Some(mut part) = split.next() {
        if part.starts_with('[') && !part.ends_with(']') {
            for next in split.by_ref() {
                part.push('.');
                part.push_str(&next);
                if next.ends_with(']') {
                    break;
                }
            }
            if !part.contains('=') {
                part = part.trim_matches(['[', ']']).to_owned();
            }
        }
        parts.push(part);
    }
    parts
}

/// The field and value by which `[name=value]` chooses an item; of an item that is a scalar the field is empty.
pub(crate) fn choice(part: &str) -> Option<(&str, &str)> {
    part.strip_prefix('[')?.strip_suffix(']')?.split_once('=')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_may_be_escaped_or_in_brackets() {
        assert_eq!(split("a/b\\/c/d", '/'), ["a", "b/c", "d"]);
        assert_eq!(split("/a/b", '/'), ["a", "b"]);
        assert_eq!(split_brackets("spec.x[0].[name=a.b].c"), ["spec", "x[0]", "[name=a.b]", "c"]);
        assert_eq!(split_brackets("metadata.annotations.[a.b/c]"), ["metadata", "annotations", "a.b/c"]);
        assert_eq!(choice("[name=a=b]"), Some(("name", "a=b")));
        assert_eq!(choice("name"), None);
    }
}
