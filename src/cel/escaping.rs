//! Names of properties as identifiers of CEL, and back.

/// Words that the grammar keeps for itself.
const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];
/// What stands for characters that identifiers cannot hold.
const ESCAPES: [(&str, &str); 4] = [("__", "underscores"), (".", "dot"), ("-", "dash"), ("/", "slash")];

/// The identifier by which a property is reached, `None` where there is none: `a-b` is `a__dash__b`.
pub fn escape(property: &str) -> Option<String> {
    if property.is_empty() || property.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    if RESERVED.contains(&property) {
        return Some(format!("__{property}__"));
    }
    let mut escaped = String::with_capacity(property.len());
    let mut rest = property;
    while let Some(next) = rest.chars().next() {
        if let Some((from, to)) = ESCAPES.iter().find(|(from, _)| rest.starts_with(from)) {
            escaped.push_str("__");
            escaped.push_str(to);
            escaped.push_str("__");
            rest = &rest[from.len()..];
        } else if next.is_ascii_alphanumeric() || next == '_' {
            escaped.push(next);
            rest = &rest[1..];
        } else {
            return None;
        }
    }
    Some(escaped)
}

/// The property that an identifier reaches, `None` where its escapes are none.
pub fn unescape(identifier: &str) -> Option<String> {
    let mut property = String::with_capacity(identifier.len());
    let mut rest = identifier;
    while let Some(at) = rest.find("__") {
        let inner = &rest[at + 2..];
        let length = inner.find('_').unwrap_or(inner.len());
        if length == 0 || !inner[length..].starts_with("__") {
            property.push_str(&rest[..at + 1]);
            rest = &rest[at + 1..];
            continue;
        }
        property.push_str(&rest[..at]);
        property.push_str(escaped_text(&inner[..length], length + 4 == identifier.len())?);
        rest = &inner[length + 2..];
    }
    property.push_str(rest);
    Some(property)
}

fn escaped_text(word: &str, alone: bool) -> Option<&str> {
    let escape = ESCAPES.iter().find(|(_, to)| *to == word).map(|(from, _)| *from);
    escape.or_else(|| (alone && RESERVED.contains(&word)).then_some(word))
}

/// Whether it is a word of the grammar, that may still be selected as a field.
pub(crate) fn is_reserved(word: &str) -> bool {
    RESERVED.contains(&word)
}
