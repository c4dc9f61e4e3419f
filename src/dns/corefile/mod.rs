//! CoreDNS' Corefile: text to lines, and lines ([`block`]) to what is served. Pure.
//!
//! The subset is what clusters use. What is not supported is refused with file and line, and never
//! passed over: who reads a Corefile can rely on all of it.

pub(crate) mod block;
mod directives;
mod hosts;
mod rewrite;

#[cfg(test)]
mod tests;

pub use block::default_corefile;
pub(crate) use block::{Block, CacheRule, ForwardRule, KubernetesRule, Page, Pods, Policy, Settings, To};
pub(crate) use hosts::Hosts;
pub(crate) use rewrite::Rewrite;

use std::collections::BTreeMap;
use std::fmt;

/// The longest text that is read, with everything it imports; hosts count.
const LONGEST: usize = 1024 * 1024;

/// So deep are blocks in each other: servers, directives, options.
const DEEPEST: usize = 3;

/// So many lines are read, of all files together.
const LINES: usize = 20_000;

/// Why a Corefile is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// The key of the ConfigMap.
    pub(crate) file: String,
    pub(crate) line: usize,
    pub(crate) what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} line {}: {}", self.file, self.line, self.what)
    }
}

/// What two ConfigMaps say: `coredns`, and `coredns-custom` as k3s has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sources {
    pub(crate) main: BTreeMap<String, String>,
    pub(crate) custom: BTreeMap<String, String>,
}

/// The key of the Corefile.
pub(crate) const COREFILE: &str = "Corefile";

/// Where CoreDNS finds what the ConfigMaps hold.
const FOLDER: &str = "/etc/coredns/";
const CUSTOM_FOLDER: &str = "/etc/coredns/custom/";

impl Sources {
    /// A file by the path that CoreDNS has it under.
    fn file(&self, path: &str) -> Option<&str> {
        let custom = path.strip_prefix(CUSTOM_FOLDER).map(|key| self.custom.get(key));
        custom.unwrap_or_else(|| self.main.get(path.strip_prefix(FOLDER)?)).map(String::as_str)
    }

    /// The lines of files whose names end so, which an `import` asks for.
    fn custom_lines(&self, ending: &str) -> Result<Vec<Line>, Problem> {
        let files = self.custom.iter().filter(|(key, _)| key.ends_with(ending));
        let lines = files.map(|(key, text)| parse(key, text)).collect::<Result<Vec<_>, _>>();
        lines.map(|lines| lines.into_iter().flatten().collect())
    }

    fn is_too_long(&self) -> bool {
        let texts = || self.main.values().chain(self.custom.values());
        texts().map(String::len).sum::<usize>() > LONGEST
            || texts().map(|text| text.lines().count()).sum::<usize>() > LINES
    }
}

/// One line: its words, and the lines of the block that it opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    file: String,
    number: usize,
    words: Vec<String>,
    /// None without braces.
    block: Option<Vec<Line>>,
}

impl Line {
    fn problem(&self, what: impl Into<String>) -> Problem {
        Problem { file: self.file.clone(), line: self.number, what: what.into() }
    }

    /// The directive's name.
    fn name(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    fn arguments(&self) -> Vec<&str> {
        self.words.iter().skip(1).map(String::as_str).collect()
    }

    fn options(&self) -> &[Line] {
        self.block.as_deref().unwrap_or_default()
    }

    /// The line is not understood as it is.
    fn unsupported(&self) -> Problem {
        self.problem(format!("{:?} is not supported", self.words.join(" ")))
    }

    /// Refuses a block where none is meant.
    fn plain(&self) -> Result<(), Problem> {
        match self.options() {
            [] => Ok(()),
            [first, ..] => Err(first.unsupported()),
        }
    }
}

/// A text as lines in blocks.
pub(crate) fn parse(file: &str, text: &str) -> Result<Vec<Line>, Problem> {
    // Blocks that are open, outermost first; the first is the file itself.
    let mut open: Vec<Vec<Line>> = vec![Vec::new()];
    for (number, line) in text.lines().enumerate() {
        let number = number + 1;
        let problem = |what: &str| Problem { file: file.to_owned(), line: number, what: what.to_owned() };
        let words = words(line).map_err(problem)?;
        let (opens, words) = match words.split_last() {
            None => continue,
            Some((last, rest)) if last == "{" => (true, rest),
            Some(_) => (false, &words[..]),
        };
        if words == ["}"] && !opens {
            let block = open.pop().filter(|_| !open.is_empty());
            let block = block.ok_or_else(|| problem("a brace is closed that was not opened"))?;
            let owner = open.last_mut().and_then(|lines| lines.last_mut());
            owner.ok_or_else(|| problem("a block without a name"))?.block = Some(block);
            continue;
        }
        if words.iter().any(|word| word == "{" || word == "}") {
            return Err(problem("a brace has to be the last of its line, or to stand alone when it closes"));
        }
        if words.is_empty() {
            return Err(problem("a block without a name"));
        }
        if opens && open.len() > DEEPEST {
            return Err(problem("too many blocks in each other"));
        }
        let line = Line { file: file.to_owned(), number, words: words.to_vec(), block: None };
        if let Some(lines) = open.last_mut() {
            lines.push(line);
        }
        if opens {
            open.push(Vec::new());
        }
    }
    match (open.pop(), open.is_empty()) {
        (Some(lines), true) => Ok(lines),
        _ => {
            let (line, what) = (text.lines().count(), "a brace is not closed".to_owned());
            Err(Problem { file: file.to_owned(), line, what })
        }
    }
}

/// The words of a line: by blanks, or in quotes, up to a comment.
fn words(line: &str) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while let Some(first) = rest.chars().next().filter(|first| *first != '#') {
        let (word, more) = if first == '"' { quoted(&rest[1..])? } else { bare(rest) };
        words.push(word);
        rest = more.trim_start();
    }
    Ok(words)
}

fn bare(text: &str) -> (String, &str) {
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    (text[..end].to_owned(), &text[end..])
}

fn quoted(text: &str) -> Result<(String, &str), &'static str> {
    let mut word = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Ok((word, &text[at + 1..])),
            '\\' => match letters.next() {
                Some((_, '"')) => word.push('"'),
                Some((_, other)) => word.extend(['\\', other]),
                None => break,
            },
            other => word.push(other),
        }
    }
    Err("a quote is not closed")
}
