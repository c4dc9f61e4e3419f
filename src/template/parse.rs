//! Reads tokens into trees.

use crate::lex::{Kind, Token, lex};
use crate::node::{Branch, Command, Node, Operand, Pipe, Term, Tree};
use crate::quote::unquote;
use crate::{Error, Library, Value, quote};
use std::collections::BTreeMap;
use std::rc::Rc;

/// How deep blocks and parentheses may stand in one another: they are read and carried out by recursion.
const DEPTH: usize = 100;

type Trees = BTreeMap<String, Rc<Tree>>;

/// The template of a text, and those that it defines.
pub(crate) fn parse(name: &str, text: &str, library: &Library) -> Result<Trees, Error> {
    let mut parser = Parser {
        name: name.into(),
        text: text.into(),
        tokens: lex(text),
        at: 0,
        vars: vec!["$".into()],
        library,
        trees: Trees::new(),
        depth: 0,
        ranges: 0,
    };
    let mut root = Vec::new();
    while parser.peek().kind != Kind::End {
        if parser.peek().kind == Kind::LeftDelim {
            let before = parser.at;
            parser.next();
            if parser.next_non_space().is("define") {
                parser.definition()?;
                continue;
            }
            parser.at = before;
        }
        match parser.text_or_action()? {
            Part::Node(node) => root.push(node),
            Part::End => return Err(parser.error("unexpected {{end}}")),
            Part::Else => return Err(parser.error("unexpected {{else}}")),
        }
    }
    parser.keep(name, root)?;
    Ok(parser.trees)
}

enum Part {
    Node(Node),
    End,
    Else,
}

struct Parser<'l> {
    name: Rc<str>,
    text: Rc<str>,
    tokens: Vec<Token>,
    at: usize,
    vars: Vec<Rc<str>>,
    library: &'l Library,
    trees: Trees,
    depth: usize,
    /// How many ranges the place is in.
    ranges: usize,
}

impl Token {
    fn is(&self, keyword: &str) -> bool {
        self.kind == Kind::Keyword && self.text == keyword
    }

    fn shown(&self) -> String {
        match self.kind {
            Kind::End => "EOF".to_owned(),
            Kind::Error => self.text.clone(),
            Kind::Keyword | Kind::Dot | Kind::Nil => format!("<{}>", self.text),
            _ if self.text.chars().count() > 10 => {
                format!("{}...", quote(&self.text.chars().take(10).collect::<String>()))
            }
            _ => quote(&self.text),
        }
    }
}

impl Parser<'_> {
    fn peek(&self) -> &Token {
        // The last token is the end or an error, and stays.
        &self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.at = (self.at + 1).min(self.tokens.len());
        token
    }

    fn peek_non_space(&mut self) -> &Token {
        while self.peek().kind == Kind::Space {
            self.at += 1;
        }
        self.peek()
    }

    fn next_non_space(&mut self) -> Token {
        self.peek_non_space();
        self.next()
    }

    fn error(&self, message: &str) -> Error {
        let line = self.tokens[self.at.saturating_sub(1).min(self.tokens.len() - 1)].line;
        Error {
            place: format!("{}:{line}", self.name),
            executing: None,
            message: message.to_owned(),
            cause: None,
            said: false,
        }
    }

    fn unexpected(&self, token: &Token, context: &str) -> Error {
        match token.kind {
            Kind::Error => self.error(&token.text),
            _ => self.error(&format!("unexpected {} in {context}", token.shown())),
        }
    }

    fn expect(&mut self, kind: Kind, context: &str) -> Result<Token, Error> {
        let token = self.next_non_space();
        if token.kind == kind { Ok(token) } else { Err(self.unexpected(&token, context)) }
    }

    fn deeper<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        if self.depth >= DEPTH {
            return Err(self.error("exceeded max nesting depth"));
        }
        self.depth += 1;
        let result = work(self);
        self.depth -= 1;
        result
    }

    fn keep(&mut self, name: &str, root: Vec<Node>) -> Result<(), Error> {
        let tree = Tree { name: name.into(), parse_name: self.name.clone(), text: self.text.clone(), root };
        match self.trees.get(name) {
            Some(old) if !old.is_empty() => {
                if !tree.is_empty() {
                    let message = format!("multiple definition of template {}", quote(name));
                    return Err(self.error(&message));
                }
            }
            _ => drop(self.trees.insert(name.to_owned(), Rc::new(tree))),
        }
        Ok(())
    }

    fn named(&mut self, context: &str) -> Result<String, Error> {
        let token = self.next_non_space();
        match token.kind {
            Kind::String | Kind::RawString => self.unquoted(&token),
            _ => Err(self.unexpected(&token, context)),
        }
    }

    fn unquoted(&self, token: &Token) -> Result<String, Error> {
        unquote(&token.text).ok_or_else(|| self.error("invalid syntax"))
    }

    fn definition(&mut self) -> Result<(), Error> {
        const CONTEXT: &str = "define clause";
        let name = self.named(CONTEXT)?;
        self.expect(Kind::RightDelim, CONTEXT)?;
        let outer = (std::mem::replace(&mut self.vars, vec!["$".into()]), std::mem::take(&mut self.ranges));
        let (list, end) = self.list()?;
        (self.vars, self.ranges) = outer;
        match end {
            Part::End => self.keep(&name, list),
            _ => Err(self.error("unexpected {{else}} in define clause")),
        }
    }

    /// Nodes up to an end or an else.
    fn list(&mut self) -> Result<(Vec<Node>, Part), Error> {
        let mut list = Vec::new();
        while self.peek_non_space().kind != Kind::End {
            match self.text_or_action()? {
                Part::Node(node) => list.push(node),
                end => return Ok((list, end)),
            }
        }
        self.next();
        Err(self.error("unexpected EOF"))
    }

    fn text_or_action(&mut self) -> Result<Part, Error> {
        let token = self.next_non_space();
        match token.kind {
            Kind::Text => Ok(Part::Node(Node::Text(token.text.into()))),
            Kind::LeftDelim => self.deeper(Self::action),
            _ => Err(self.unexpected(&token, "input")),
        }
    }

    fn action(&mut self) -> Result<Part, Error> {
        let token = self.next_non_space();
        if token.kind != Kind::Keyword {
            self.at -= 1;
            let pipe = self.pipeline("command", Kind::RightDelim)?;
            return Ok(Part::Node(Node::Action(pipe)));
        }
        match &*token.text {
            "if" => Ok(Part::Node(Node::If(self.branch("if")?))),
            "with" => Ok(Part::Node(Node::With(self.branch("with")?))),
            "range" => Ok(Part::Node(Node::Range(self.branch("range")?))),
            "template" => self.template(),
            "block" => self.block(),
            "end" => self.expect(Kind::RightDelim, "end").map(|_| Part::End),
            "else" => match self.peek_non_space() {
                next if next.is("if") || next.is("with") => Ok(Part::Else),
                _ => self.expect(Kind::RightDelim, "else").map(|_| Part::Else),
            },
            word @ ("break" | "continue") => {
                let end = self.next_non_space();
                if end.kind != Kind::RightDelim {
                    return Err(self.unexpected(&end, &format!("{{{{{word}}}}}")));
                }
                if self.ranges == 0 {
                    return Err(self.error(&format!("{{{{{word}}}}} outside {{{{range}}}}")));
                }
                Ok(Part::Node(if word == "break" { Node::Break } else { Node::Continue }))
            }
            _ => Err(self.unexpected(&token, "command")),
        }
    }

    fn branch(&mut self, context: &'static str) -> Result<Branch, Error> {
        let vars = self.vars.len();
        let pipe = self.pipeline(context, Kind::RightDelim)?;
        self.ranges += usize::from(context == "range");
        let listed = self.list();
        self.ranges -= usize::from(context == "range");
        let (list, end) = listed?;
        let otherwise = match end {
            Part::Else if context != "range" && self.peek_non_space().is(context) => {
                self.next();
                let inner = self.deeper(|parser| parser.branch(context))?;
                Some(vec![if context == "if" { Node::If(inner) } else { Node::With(inner) }])
            }
            Part::Else => {
                if self.peek().kind == Kind::Keyword {
                    let next = self.next();
                    return Err(self.unexpected(&next, context));
                }
                let (list, end) = self.list()?;
                if !matches!(end, Part::End) {
                    return Err(self.error("expected end; found {{else}}"));
                }
                Some(list)
            }
            _ => None,
        };
        self.vars.truncate(vars);
        Ok(Branch { pipe, list, otherwise })
    }

    fn template(&mut self) -> Result<Part, Error> {
        const CONTEXT: &str = "template clause";
        let pos = self.peek_non_space().pos;
        let name = self.named(CONTEXT)?;
        let pipe = match self.next_non_space() {
            token if token.kind == Kind::RightDelim => None,
            _ => {
                self.at -= 1;
                Some(self.pipeline(CONTEXT, Kind::RightDelim)?)
            }
        };
        Ok(Part::Node(Node::Template { pos, name: name.into(), pipe }))
    }

    fn block(&mut self) -> Result<Part, Error> {
        const CONTEXT: &str = "block clause";
        let pos = self.peek_non_space().pos;
        let name = self.named(CONTEXT)?;
        let pipe = self.pipeline(CONTEXT, Kind::RightDelim)?;
        let outer = (std::mem::replace(&mut self.vars, vec!["$".into()]), std::mem::take(&mut self.ranges));
        let (list, end) = self.list()?;
        (self.vars, self.ranges) = outer;
        if !matches!(end, Part::End) {
            return Err(self.error("unexpected {{else}} in block clause"));
        }
        self.keep(&name, list)?;
        Ok(Part::Node(Node::Template { pos, name: name.into(), pipe: Some(pipe) }))
    }

    fn pipeline(&mut self, context: &str, end: Kind) -> Result<Pipe, Error> {
        let mut pipe = Pipe::default();
        self.declarations(&mut pipe, context)?;
        loop {
            let token = self.next_non_space();
            match token.kind {
                kind if kind == end => return self.checked(pipe, context),
                Kind::Bool
                | Kind::CharConstant
                | Kind::Dot
                | Kind::Field
                | Kind::Identifier
                | Kind::Number
                | Kind::Nil
                | Kind::RawString
                | Kind::String
                | Kind::Variable
                | Kind::LeftParen => {
                    self.at -= 1;
                    let command = self.command()?;
                    pipe.commands.push(command);
                }
                _ => return Err(self.unexpected(&token, context)),
            }
        }
    }

    fn declarations(&mut self, pipe: &mut Pipe, context: &str) -> Result<(), Error> {
        while self.peek_non_space().kind == Kind::Variable {
            let start = self.at;
            let variable: Rc<str> = self.next().text.into();
            let next = self.peek_non_space().clone();
            match next.kind {
                Kind::Assign | Kind::Declare => {
                    pipe.assigns = next.kind == Kind::Assign;
                    self.next();
                    pipe.declared.push(variable.clone());
                    self.vars.push(variable);
                    return Ok(());
                }
                Kind::Char if next.text == "," => {
                    self.next();
                    pipe.declared.push(variable.clone());
                    self.vars.push(variable);
                    if context != "range" || pipe.declared.len() >= 2 {
                        return Err(self.error(&format!("too many declarations in {context}")));
                    }
                    let follows = self.peek_non_space().kind;
                    if !matches!(follows, Kind::Variable | Kind::RightDelim | Kind::RightParen) {
                        return Err(self.error("range can only initialize variables"));
                    }
                }
                _ => {
                    self.at = start;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn checked(&self, pipe: Pipe, context: &str) -> Result<Pipe, Error> {
        if pipe.commands.is_empty() {
            return Err(self.error(&format!("missing value for {context}")));
        }
        for (index, command) in pipe.commands.iter().enumerate().skip(1) {
            let first = command.args.first().map(|operand| &operand.term);
            if matches!(
                first,
                Some(Term::Bool(_) | Term::Dot | Term::Nil | Term::Number(..) | Term::Text(..))
            ) {
                let message = format!("non executable command in pipeline stage {}", index + 1);
                return Err(self.error(&message));
            }
        }
        Ok(pipe)
    }

    fn command(&mut self) -> Result<Command, Error> {
        let pos = self.peek_non_space().pos;
        let mut args = Vec::new();
        loop {
            self.peek_non_space();
            args.extend(self.operand()?);
            let token = self.next();
            match token.kind {
                Kind::Space => continue,
                Kind::RightDelim | Kind::RightParen => self.at -= 1,
                Kind::Pipe => {}
                _ => return Err(self.unexpected(&token, "operand")),
            }
            break;
        }
        if args.is_empty() {
            return Err(self.error("empty command"));
        }
        Ok(Command { pos, args })
    }

    fn operand(&mut self) -> Result<Option<Operand>, Error> {
        let Some(operand) = self.term()? else { return Ok(None) };
        if self.peek().kind != Kind::Field {
            return Ok(Some(operand));
        }
        let pos = self.peek().pos;
        let mut names: Vec<Rc<str>> = Vec::new();
        while self.peek().kind == Kind::Field {
            names.push(self.next().text[1..].into());
        }
        let term = match operand.term {
            Term::Field(mut own) => {
                own.extend(names);
                Term::Field(own)
            }
            Term::Variable(name, mut own) => {
                own.extend(names);
                Term::Variable(name, own)
            }
            Term::Bool(_) | Term::Text(..) | Term::Number(..) | Term::Nil | Term::Dot => {
                let message = format!("unexpected . after term {}", quote(&operand.to_string()));
                return Err(self.error(&message));
            }
            _ => Term::Chain(Box::new(operand), names),
        };
        Ok(Some(Operand { pos, term }))
    }

    fn term(&mut self) -> Result<Option<Operand>, Error> {
        let token = self.next_non_space();
        let term = match token.kind {
            Kind::Identifier => {
                if self.library.get(&token.text).is_none() {
                    return Err(self.error(&format!("function {} not defined", quote(&token.text))));
                }
                Term::Function(token.text.into())
            }
            Kind::Dot => Term::Dot,
            Kind::Nil => Term::Nil,
            Kind::Bool => Term::Bool(token.text == "true"),
            Kind::Variable => {
                if !self.vars.iter().any(|known| **known == *token.text) {
                    return Err(self.error(&format!("undefined variable {}", quote(&token.text))));
                }
                Term::Variable(token.text.into(), Vec::new())
            }
            Kind::Field => Term::Field(vec![token.text[1..].into()]),
            Kind::CharConstant => {
                let said = self.unquoted(&token)?;
                let mut chars = said.chars();
                let (Some(c), None) = (chars.next(), chars.next()) else {
                    return Err(self.error(&format!("malformed character constant: {}", token.text)));
                };
                Term::Number(token.text, Value::Int(i64::from(u32::from(c))))
            }
            Kind::Number => {
                let value = crate::number::constant(&token.text).unwrap_or(Value::Nil);
                Term::Number(token.text, value)
            }
            Kind::LeftParen => {
                let pipe =
                    self.deeper(|parser| parser.pipeline("parenthesized pipeline", Kind::RightParen))?;
                Term::Pipe(Box::new(pipe))
            }
            Kind::String | Kind::RawString => {
                let said = self.unquoted(&token)?;
                Term::Text(token.text, Value::text(said))
            }
            _ => {
                self.at -= 1;
                return Ok(None);
            }
        };
        Ok(Some(Operand { pos: token.pos, term }))
    }
}
