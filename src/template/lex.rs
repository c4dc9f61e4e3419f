//! Cuts a template into tokens, with the words of Go's library for what cannot be cut.

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Error,
    Bool,
    Char,
    CharConstant,
    Assign,
    Declare,
    End,
    Field,
    Identifier,
    LeftDelim,
    LeftParen,
    Number,
    Pipe,
    RawString,
    RightDelim,
    RightParen,
    Space,
    Text,
    String,
    Variable,
    Dot,
    Nil,
    /// `if`, `range` and the like.
    Keyword,
}

#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) pos: usize,
    pub(crate) line: usize,
    pub(crate) text: String,
}

const LEFT: &str = "{{";
const RIGHT: &str = "}}";
const KEYWORDS: [&str; 10] =
    ["block", "break", "continue", "define", "else", "end", "if", "range", "template", "with"];

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

/// The tokens of a text; the last is the end or an error.
pub(crate) fn lex(text: &str) -> Vec<Token> {
    let mut lexer = Lexer { text, pos: 0, line: 1, parens: 0, tokens: Vec::new() };
    if let Err(why) = lexer.run() {
        lexer.push(Kind::Error, lexer.pos, why);
    }
    lexer.tokens
}

struct Lexer<'t> {
    text: &'t str,
    pos: usize,
    line: usize,
    parens: usize,
    tokens: Vec<Token>,
}

impl<'t> Lexer<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.pos..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn push(&mut self, kind: Kind, pos: usize, text: String) {
        self.tokens.push(Token { kind, pos, line: self.line, text });
    }

    /// A token of the next so many bytes.
    fn take(&mut self, kind: Kind, len: usize) {
        let text = &self.rest()[..len];
        self.push(kind, self.pos, text.to_owned());
        self.skip(len);
    }

    fn skip(&mut self, len: usize) {
        self.line += self.rest()[..len].matches('\n').count();
        self.pos += len;
    }

    fn run(&mut self) -> Result<(), String> {
        loop {
            let Some(start) = self.rest().find(LEFT) else {
                if !self.rest().is_empty() {
                    self.take(Kind::Text, self.rest().len());
                }
                self.push(Kind::End, self.pos, String::new());
                return Ok(());
            };
            let trims = self.trims_left(start + LEFT.len());
            let before = &self.rest()[..start];
            let kept = if trims { before.trim_end_matches(is_space).len() } else { start };
            if kept > 0 {
                self.take(Kind::Text, kept);
            }
            self.skip(start - kept);
            let mark = if trims { 2 } else { 0 };
            if self.rest()[LEFT.len() + mark..].starts_with("/*") {
                self.comment(LEFT.len() + mark)?;
                continue;
            }
            self.take(Kind::LeftDelim, LEFT.len());
            self.skip(mark);
            self.action()?;
        }
    }

    fn trims_left(&self, at: usize) -> bool {
        let mut after = self.rest()[at..].chars();
        after.next() == Some('-') && after.next().is_some_and(is_space)
    }

    fn comment(&mut self, start: usize) -> Result<(), String> {
        self.skip(start);
        let Some(end) = self.rest().find("*/") else { return Err("unclosed comment".to_owned()) };
        self.skip(end + 2);
        match self.right_delim() {
            Some((len, trims)) => {
                self.close(len, trims);
                Ok(())
            }
            None => Err("comment ends before closing delimiter".to_owned()),
        }
    }

    /// Whether the closing delimiter is here: how long it is with its mark, and whether it trims.
    fn right_delim(&self) -> Option<(usize, bool)> {
        let rest = self.rest();
        if rest.starts_with(RIGHT) {
            return Some((RIGHT.len(), false));
        }
        let space = rest.chars().next().filter(|c| is_space(*c))?.len_utf8();
        rest[space..].starts_with("-}}").then_some((space + 3, true))
    }

    fn close(&mut self, len: usize, trims: bool) {
        self.skip(len);
        if trims {
            let blank = self.rest().len() - self.rest().trim_start_matches(is_space).len();
            self.skip(blank);
        }
    }

    fn action(&mut self) -> Result<(), String> {
        self.parens = 0;
        loop {
            if let Some((len, trims)) = self.right_delim() {
                if self.parens > 0 {
                    return Err("unclosed left paren".to_owned());
                }
                self.push(Kind::RightDelim, self.pos, RIGHT.to_owned());
                self.close(len, trims);
                return Ok(());
            }
            let Some(c) = self.peek() else { return Err("unclosed action".to_owned()) };
            self.inside(c)?;
        }
    }

    fn inside(&mut self, c: char) -> Result<(), String> {
        let rest = self.rest();
        match c {
            _ if is_space(c) => self.space(),
            '=' => self.take(Kind::Assign, 1),
            ':' if rest.starts_with(":=") => self.take(Kind::Declare, 2),
            ':' => return Err("expected :=".to_owned()),
            '|' => self.take(Kind::Pipe, 1),
            '"' => return self.quoted('"', Kind::String, "unterminated quoted string"),
            '\'' => return self.quoted('\'', Kind::CharConstant, "unterminated character constant"),
            '`' => match rest[1..].find('`') {
                Some(end) => self.take(Kind::RawString, end + 2),
                None => return Err("unterminated raw quoted string".to_owned()),
            },
            '$' => return self.word(Kind::Variable),
            '.' if !rest[1..].starts_with(|next: char| next.is_ascii_digit()) => {
                return self.word(Kind::Field);
            }
            '.' | '+' | '-' | '0'..='9' => return self.number(),
            '(' => {
                self.take(Kind::LeftParen, 1);
                self.parens += 1;
            }
            ')' => {
                self.parens = self.parens.checked_sub(1).ok_or("unexpected right paren")?;
                self.take(Kind::RightParen, 1);
            }
            _ if is_word(c) => return self.word(Kind::Identifier),
            ' '..='~' => self.take(Kind::Char, 1),
            _ => return Err(format!("unrecognized character in action: {}", code(c))),
        }
        Ok(())
    }

    fn space(&mut self) {
        let mut len = 0;
        for c in self.rest().chars() {
            // A trimming delimiter needs its blank.
            let closes = self.rest()[len..].starts_with(" -}}") || {
                let rest = &self.rest()[len..];
                rest.starts_with(is_space) && rest[1..].starts_with("-}}")
            };
            if !is_space(c) || (closes && len > 0) {
                break;
            }
            len += c.len_utf8();
        }
        self.take(Kind::Space, len);
    }

    fn quoted(&mut self, mark: char, kind: Kind, unterminated: &str) -> Result<(), String> {
        let mut escaped = false;
        for (at, c) in self.rest().char_indices().skip(1) {
            match c {
                '\n' => break,
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                _ if c == mark => {
                    self.take(kind, at + 1);
                    return Ok(());
                }
                _ => {}
            }
        }
        Err(unterminated.to_owned())
    }

    fn word(&mut self, kind: Kind) -> Result<(), String> {
        let rest = self.rest();
        let first = usize::from(kind != Kind::Identifier);
        let len = first + rest[first..].find(|c| !is_word(c)).unwrap_or(rest.len() - first);
        let word = &rest[..len];
        let after = rest[len..].chars().next();
        let ends = after.is_none_or(|c| {
            is_space(c)
                || matches!(c, '.' | ',' | '|' | ':' | ')' | '(')
                || rest[len..].starts_with(RIGHT)
                || c == '='
        });
        if !ends && word != "." {
            return Err(format!("bad character {}", after.map_or_else(String::new, code)));
        }
        let kind = match (kind, word) {
            (Kind::Field, ".") => Kind::Dot,
            (Kind::Identifier, "true" | "false") => Kind::Bool,
            (Kind::Identifier, "nil") => Kind::Nil,
            (Kind::Identifier, word) if KEYWORDS.contains(&word) => Kind::Keyword,
            _ => kind,
        };
        self.take(kind, len);
        Ok(())
    }

    fn number(&mut self) -> Result<(), String> {
        let rest = self.rest();
        let mut len = 0;
        for (at, c) in rest.char_indices() {
            let sign = matches!(c, '+' | '-');
            let signed = at == 0 || rest[..at].ends_with(['e', 'E', 'p', 'P']) && !rest.starts_with("0x");
            if !(c.is_ascii_alphanumeric() || c == '_' || c == '.' || sign && signed) {
                break;
            }
            len = at + c.len_utf8();
        }
        if crate::number::constant(&rest[..len]).is_none() {
            return Err(format!("bad number syntax: {}", crate::quote(&rest[..len])));
        }
        self.take(Kind::Number, len);
        Ok(())
    }
}

/// A character as Go shows it in errors.
fn code(c: char) -> String {
    format!("U+{:04X} '{c}'", u32::from(c))
}
