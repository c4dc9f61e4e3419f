//! Reads templates.

use super::{Error, Filter, Part, Slice, Step};
use serde_json::{Number, Value};

/// A template's parts.
pub(super) fn template(text: &str) -> Result<Vec<Part>, Error> {
    let mut actions = actions(text)?.into_iter();
    Ok(block(&mut actions, false))
}

/// Actions up to the `end` of the range that they are in; a range that has none goes to the template's end.
fn block(actions: &mut dyn Iterator<Item = Vec<Step>>, nested: bool) -> Vec<Part> {
    let mut parts = Vec::new();
    while let Some(mut steps) = actions.next() {
        let is = |step: Option<&Step>, name: &str| matches!(step, Some(Step::Word(word)) if word == name);
        if nested && is(steps.first(), "end") {
            return parts;
        }
        if is(steps.first(), "range") {
            steps.remove(0);
            parts.push(Part::Range(steps, block(actions, true)));
        } else {
            parts.push(Part::One(steps));
        }
    }
    parts
}

fn actions(text: &str) -> Result<Vec<Vec<Step>>, Error> {
    let mut actions = Vec::new();
    let mut reader = Reader(text);
    while !reader.0.is_empty() {
        let between = reader.until(|sign| sign == '{');
        if !between.is_empty() {
            actions.push(vec![Step::Text(Value::from(between))]);
        }
        if reader.skip("{") {
            actions.push(reader.action()?);
        }
    }
    Ok(actions)
}

/// What would stand alone within braces.
fn inner(text: &str) -> Result<Vec<Step>, Error> {
    Ok(actions(&format!("{{{text}}}"))?.into_iter().next().unwrap_or_default())
}

fn bad(reason: impl std::fmt::Display) -> Error {
    Error(reason.to_string())
}

fn is_line_end(sign: char) -> bool {
    matches!(sign, '\r' | '\n')
}

/// What ends a name.
fn is_end(sign: char) -> bool {
    matches!(sign, ' ' | '\t' | '.' | ',' | '[' | ']' | '$' | '@' | '{' | '}') || is_line_end(sign)
}

/// What is left to be read.
struct Reader<'a>(&'a str);

impl<'a> Reader<'a> {
    fn skip(&mut self, prefix: &str) -> bool {
        let rest = self.0.strip_prefix(prefix);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.0.split_at(bytes);
        self.0 = rest;
        taken
    }

    fn until(&mut self, stops: impl Fn(char) -> bool) -> &'a str {
        let end = self.0.find(stops).unwrap_or(self.0.len());
        self.take(end)
    }

    /// Behind an opening brace: up to the closing one.
    fn action(&mut self) -> Result<Vec<Step>, Error> {
        let mut steps = Vec::new();
        loop {
            if self.skip("}") {
                return Ok(steps);
            }
            if self.skip("[?(") {
                steps.push(Step::Filter(self.filter()?));
                continue;
            }
            if self.skip("..") {
                self.descent(&mut steps)?;
                continue;
            }
            match self.0.chars().next() {
                None => return Err(bad("unclosed action")),
                Some(sign) if is_line_end(sign) => return Err(bad("unclosed action")),
                Some(' ' | '@' | '$') => {
                    self.take(1);
                }
                Some('[') => self.array(&mut steps)?,
                Some(quote @ ('"' | '\'')) => steps.push(Step::Text(Value::from(self.quoted(quote)?))),
                Some('.') => {
                    self.take(1);
                    steps.push(self.field());
                }
                Some(sign) if sign == '+' || sign == '-' || sign.is_numeric() => {
                    steps.push(Step::Constant(self.number()?));
                }
                Some(sign) if sign == '_' || sign.is_alphabetic() => {
                    steps.push(match self.until(is_end) {
                        word @ ("true" | "false") => Step::Constant(Value::Bool(word == "true")),
                        word => Step::Word(word.to_owned()),
                    });
                }
                Some(sign) => {
                    let code = u32::from(sign);
                    return Err(bad(format!("unrecognized character in action: U+{code:04X} '{sign}'")));
                }
            }
        }
    }

    fn descent(&mut self, steps: &mut Vec<Step>) -> Result<(), Error> {
        if matches!(steps.last(), Some(Step::Descend)) {
            return Err(bad("invalid multiple recursive descent"));
        }
        steps.push(Step::Descend);
        if self.0.starts_with(|sign: char| sign == '_' || sign.is_alphanumeric()) {
            steps.push(self.field());
        }
        Ok(())
    }

    /// A name, in which a backslash takes its meaning from the sign behind it.
    fn field(&mut self) -> Step {
        let mut signs = self.0.char_indices();
        let end = loop {
            match signs.next() {
                None => break self.0.len(),
                Some((_, '\\')) => {
                    signs.next();
                }
                Some((at, sign)) if is_end(sign) => break at,
                Some(_) => {}
            }
        };
        match self.take(end) {
            "*" => Step::Wildcard,
            name => Step::Field(name.replace('\\', "")),
        }
    }

    fn number(&mut self) -> Result<Value, Error> {
        let signed = usize::from(self.0.starts_with(['+', '-']));
        let digits = self.0[signed..].find(|sign: char| sign != '.' && !sign.is_numeric());
        let text = self.take(digits.map_or(self.0.len(), |digits| signed + digits));
        let float = || text.parse::<f64>().ok().and_then(Number::from_f64).map(Value::Number);
        let number = text.parse::<i64>().ok().map(Value::from).or_else(float);
        number.ok_or_else(|| bad(format!("cannot parse number {text}")))
    }

    /// Text in quotes, which may be escaped as in Go.
    fn quoted(&mut self, quote: char) -> Result<String, Error> {
        let mut escaped = false;
        let end = self.0.char_indices().skip(1).find_map(|(at, sign)| {
            let ends = is_line_end(sign) || (sign == quote && !escaped);
            escaped = sign == '\\';
            ends.then_some((at, sign))
        });
        let Some((end, _)) = end.filter(|(_, sign)| *sign == quote) else {
            return Err(bad("unterminated quoted string"));
        };
        let whole = self.take(end + 1);
        unescaped(&whole[1..end], quote)
            .ok_or_else(|| bad(format!("unquote string {whole} error invalid syntax")))
    }

    fn array(&mut self, steps: &mut Vec<Step>) -> Result<(), Error> {
        let end = self.0.find([']', '\n']).filter(|end| self.0[*end..].starts_with(']'));
        let end = end.ok_or_else(|| bad("unterminated array"))?;
        let text = &self.take(end + 1)[1..end];
        if text.contains(',') {
            let each = text.split(',').map(|one| inner(&format!("[{}]", one.trim_matches(' '))));
            steps.push(Step::Union(each.collect::<Result<_, _>>()?));
            return Ok(());
        }
        let key = text.strip_prefix('\'').and_then(|text| text.strip_suffix('\''));
        if let Some(key) = key.filter(|key| !key.contains('\'')) {
            steps.extend(inner(&format!(".{key}"))?);
            return Ok(());
        }
        steps.push(Step::Slice(slice(if text == "*" { ":" } else { text })?));
        Ok(())
    }

    fn filter(&mut self) -> Result<Filter, Error> {
        // A parenthesis within the quotes that the condition may have is one of its signs.
        let (mut quote, mut closed, mut before) = (None, false, '(');
        let end = self.0.char_indices().find_map(|(at, sign)| {
            match (sign, quote) {
                ('\n', _) => return Some((at, sign)),
                ('"' | '\'', None) => quote = Some(sign),
                ('"' | '\'', Some(open)) if before != '\\' && sign == open => closed = true,
                (')', _) if quote.is_some() == closed => return Some((at, sign)),
                _ => {}
            }
            before = sign;
            None
        });
        let Some((end, ')')) = end else { return Err(bad("unterminated filter")) };
        let condition = self.take(end);
        if !self.skip(")]") {
            return Err(bad("unclosed array expect ]"));
        }
        let Some((left, operator, right)) = compared(condition) else {
            return Ok(Filter { left: inner(condition)?, comparison: None });
        };
        Ok(Filter { left: inner(left)?, comparison: Some((operator.to_owned(), inner(right)?)) })
    }
}

/// The two sides of a comparison and the operator between them.
fn compared(condition: &str) -> Option<(&str, &str, &str)> {
    let is_operator = |sign: char| matches!(sign, '!' | '<' | '>' | '=');
    let start = condition.find(is_operator).filter(|start| *start > 0)?;
    let rest = &condition[start..];
    let length = rest.find(|sign| !is_operator(sign)).or_else(|| rest.len().checked_sub(1))?;
    (length > 0).then(|| (&condition[..start], &rest[..length], &rest[length..]))
}

/// `1`, `1:2`, `:2`, `1:2:3`.
fn slice(text: &str) -> Result<Slice, Error> {
    let wrong = || bad(format!("invalid array index {text}"));
    let number = |part: &str| match part {
        "" => Ok(None),
        _ if !part.trim_start_matches('-').bytes().all(|digit| digit.is_ascii_digit())
            || part.starts_with("--") =>
        {
            Err(wrong())
        }
        part => part.parse().map(Some).map_err(|_| bad(format!("array index {part} is not a number"))),
    };
    match text.split(':').collect::<Vec<_>>()[..] {
        [from] => Ok(Slice { from: number(from)?, single: true, ..Slice::default() }),
        [from, to] => Ok(Slice { from: number(from)?, to: number(to)?, ..Slice::default() }),
        [from, to, by] => {
            Ok(Slice { from: number(from)?, to: number(to)?, by: number(by)?, ..Slice::default() })
        }
        _ => Err(wrong()),
    }
}

/// Text without Go's escapes, if it has none that there are not.
fn unescaped(text: &str, quote: char) -> Option<String> {
    let mut out = String::new();
    let mut signs = text.chars();
    while let Some(sign) = signs.next() {
        if sign != '\\' {
            out.push(sign);
            continue;
        }
        out.push(match signs.next()? {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'a' => '\u{7}',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'v' => '\u{b}',
            '\\' => '\\',
            'u' => hex(&mut signs, 4)?,
            'x' => hex(&mut signs, 2)?,
            other if other == quote => other,
            _ => return None,
        });
    }
    Some(out)
}

fn hex(signs: &mut std::str::Chars<'_>, digits: usize) -> Option<char> {
    let text: String = signs.take(digits).collect();
    u32::from_str_radix(&text, 16).ok().filter(|_| text.len() == digits).and_then(char::from_u32)
}
