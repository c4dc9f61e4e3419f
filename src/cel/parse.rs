//! From text to a syntax tree: the parser of the `cel` crate, which is CEL's own grammar and so speaks with
//! its messages, with the macros that it lacks, within the bounds of CEL.

use crate::issue::Issue;
use crate::macros;
use parser::Env;
use parser::common::ast::{EntryExpr, Expr, IdedExpr, SourceInfo};
use parser::parser::Macro;
use std::sync::LazyLock;

/// Longer expressions are refused, in characters (CEL's own bound).
const MAX_CHARACTERS: usize = 100_000;
/// How deep expressions nest (CEL's own bound): parser, checker and evaluator follow them by recursion.
pub(crate) const MAX_DEPTH: usize = 250;
/// Of the thread that compiles. The parser needs the most: some kilobytes a level, which only then are touched.
const STACK_BYTES: usize = 64 << 20;

static ENVIRONMENT: LazyLock<Env> = LazyLock::new(|| with_macros(macros::all()));
static WITH_BINDING: LazyLock<Env> =
    LazyLock::new(|| with_macros(macros::all().into_iter().chain([macros::binding()])));

fn with_macros(all: impl IntoIterator<Item = Macro>) -> Env {
    let mut env = Env::default();
    for one in all {
        if let Err(error) = env.add_macro(one) {
            unreachable!("macros are declared once: {error}");
        }
    }
    env
}

/// A syntax tree with the places of its nodes.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub(crate) root: IdedExpr,
    pub(crate) places: SourceInfo,
}

/// Runs `work` where the stack is deep enough for any expression within the bounds.
pub(crate) fn with_deep_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, Vec<Issue>> {
    let failed = |what: &str| vec![Issue::nowhere(format!("the expression could not be compiled: {what}"))];
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().name("cel".into()).stack_size(STACK_BYTES);
        let started = builder.spawn_scoped(scope, work).map_err(|error| failed(&error.to_string()))?;
        started.join().map_err(|_| failed("internal error"))
    })
}

/// Parses within the bounds, with `cel.bind` or without. Needs a deep stack.
pub(crate) fn parse(source: &str, binding: bool) -> Result<Parsed, Vec<Issue>> {
    let length = source.chars().count();
    if length > MAX_CHARACTERS {
        let message =
            format!("expression code point size exceeds limit: size: {length}, limit {MAX_CHARACTERS}");
        return Err(vec![Issue::nowhere(message)]);
    }
    let too_deep = || vec![Issue::nowhere(format!("expression recursion limit exceeded: {MAX_DEPTH}"))];
    if nesting(source) > MAX_DEPTH {
        return Err(too_deep());
    }
    let environment = if binding { &WITH_BINDING } else { &ENVIRONMENT };
    let parser = environment.parser().max_recursion_depth(u16::MAX);
    match parser.parse_with_source_info(source) {
        Ok((root, _)) if depth(&root) > MAX_DEPTH => Err(too_deep()),
        Ok((root, places)) => Ok(Parsed { root, places }),
        Err(errors) => Err(issues(source, &errors.errors)),
    }
}

fn issues(source: &str, errors: &[parser::ParseError]) -> Vec<Issue> {
    let of = |error: &parser::ParseError| {
        let column = usize::try_from(error.pos.1 - 1).unwrap_or(0);
        Issue::new(source, i64::try_from(error.pos.0).unwrap_or(-1), column, error.msg.clone())
    };
    // What the tree's builder misses follows from what the grammar missed, and CEL does not report it.
    let own =
        |error: &&parser::ParseError| !error.msg.starts_with("No `") && !error.msg.starts_with("Incomplete ");
    let found: Vec<Issue> = errors.iter().filter(own).map(of).collect();
    Issue::sorted(if found.is_empty() { errors.iter().map(of).collect() } else { found })
}

/// How deep the parser would go, by counting brackets and chained operators: before it does.
fn nesting(source: &str) -> usize {
    let mut levels = vec![Chains::default()];
    let mut deepest = 0;
    let mut rest = source;
    // Signs before an operand begin one, and chain nothing.
    let mut after_operand = false;
    while let Some(letter) = rest.chars().next() {
        if let Some(length) = literal_length(rest) {
            rest = &rest[length..];
            after_operand = true;
            continue;
        }
        rest = &rest[letter.len_utf8()..];
        if let Some(level) = levels.last_mut()
            && (after_operand || !matches!(letter, '(' | '[' | '-' | '!'))
        {
            level.count(letter);
        }
        if !letter.is_whitespace() {
            after_operand = letter.is_alphanumeric() || matches!(letter, '_' | ')' | ']' | '}');
        }
        match letter {
            '(' | '[' | '{' => levels.push(Chains::default()),
            ')' | ']' | '}' if levels.len() > 1 => drop(levels.pop()),
            '/' if rest.starts_with('/') => rest = &rest[rest.find('\n').unwrap_or(rest.len())..],
            _ => {}
        }
        deepest = deepest.max(levels.len() + levels.iter().map(Chains::total).sum::<usize>());
        if deepest > MAX_DEPTH {
            break;
        }
    }
    deepest
}

/// Operators in a row at one level of brackets, tighter ones forgotten at looser ones.
#[derive(Default)]
struct Chains {
    member: usize,
    calculation: usize,
    relation: usize,
    condition: usize,
}

impl Chains {
    fn count(&mut self, letter: char) {
        match letter {
            '.' | '[' | '(' => self.member += 1,
            '+' | '-' | '*' | '/' | '%' => {
                *self = Self { member: 0, calculation: self.calculation + 1, ..*self }
            }
            '<' | '>' | '=' | '!' => {
                *self = Self { relation: self.relation + 1, condition: self.condition, ..Self::default() };
            }
            '&' | '|' | ':' => *self = Self { condition: self.condition, ..Self::default() },
            '?' => *self = Self { condition: self.condition + 1, member: self.member, ..Self::default() },
            ',' => *self = Self::default(),
            _ => {}
        }
    }

    fn total(&self) -> usize {
        self.member + self.calculation + self.relation + self.condition
    }
}

/// The length of the string that begins here, if one does.
fn literal_length(text: &str) -> Option<usize> {
    let prefix = text.find(|letter: char| !matches!(letter, 'r' | 'R' | 'b' | 'B')).filter(|at| *at <= 2)?;
    let raw = text[..prefix].contains(['r', 'R']);
    let body = &text[prefix..];
    let quote = body.chars().next().filter(|letter| matches!(letter, '"' | '\''))?;
    let triple = quote.to_string().repeat(3);
    let (open, close) = if body.starts_with(&triple) { (3, triple) } else { (1, quote.to_string()) };
    let mut at = prefix + open;
    while let Some(letter) = text[at..].chars().next() {
        if text[at..].starts_with(&close) {
            return Some(at + close.len());
        }
        if open == 1 && letter == '\n' {
            return None;
        }
        at += letter.len_utf8();
        if letter == '\\' && !raw {
            at += text[at..].chars().next().map_or(0, char::len_utf8);
        }
    }
    None
}

/// The height of the tree.
fn depth(node: &IdedExpr) -> usize {
    1 + children(&node.expr).into_iter().map(depth).max().unwrap_or(0)
}

/// The nodes directly below.
pub(crate) fn children(expr: &Expr) -> Vec<&IdedExpr> {
    match expr {
        Expr::Call(call) => call.target.as_deref().into_iter().chain(&call.args).collect(),
        Expr::Select(select) => vec![&select.operand],
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Map(map) => map.entries.iter().flat_map(|entry| of_entry(&entry.expr)).collect(),
        Expr::Struct(object) => object.entries.iter().flat_map(|entry| of_entry(&entry.expr)).collect(),
        Expr::Comprehension(fold) => {
            vec![&fold.iter_range, &fold.accu_init, &fold.loop_cond, &fold.loop_step, &fold.result]
        }
        _ => Vec::new(),
    }
}

fn of_entry(entry: &EntryExpr) -> Vec<&IdedExpr> {
    match entry {
        EntryExpr::StructField(field) => vec![&field.value],
        EntryExpr::MapEntry(pair) => vec![&pair.key, &pair.value],
    }
}
