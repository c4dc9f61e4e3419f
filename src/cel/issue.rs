//! What is wrong with an expression, in the words and the layout of CEL.

use std::fmt;

/// One fault of an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// The line, from 1; -1 where the fault is in no place.
    pub line: i64,
    /// The column in characters, from 0.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// The line's text.
    snippet: Option<String>,
}

impl Issue {
    pub(crate) fn new(source: &str, line: i64, column: usize, message: impl Into<String>) -> Self {
        let snippet = usize::try_from(line - 1).ok().and_then(|line| source.split('\n').nth(line));
        Self { line, column, message: message.into(), snippet: snippet.map(|line| line.replace('\t', " ")) }
    }

    /// At a byte of the source.
    pub(crate) fn at(source: &str, offset: u32, message: impl Into<String>) -> Self {
        let (mut line, mut column) = (1, 0);
        for (_, letter) in source.char_indices().take_while(|(at, _)| *at < offset as usize) {
            if letter == '\n' {
                line += 1;
                column = 0;
            } else {
                column += 1;
            }
        }
        Self::new(source, line, column, message)
    }

    pub(crate) fn nowhere(message: impl Into<String>) -> Self {
        Self { line: -1, column: 0, message: message.into(), snippet: None }
    }

    /// Sorts by place, as they are reported.
    pub(crate) fn sorted(mut issues: Vec<Issue>) -> Vec<Issue> {
        issues.sort_by_key(|issue| (issue.line, issue.column));
        issues
    }

    /// All issues as one message.
    pub fn report(issues: &[Issue]) -> String {
        issues.iter().map(Issue::to_string).collect::<Vec<_>>().join("\n")
    }
}

impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let column = if self.line < 0 { 0 } else { self.column + 1 };
        write!(f, "ERROR: <input>:{}:{column}: {}", self.line, self.message)?;
        let Some(snippet) = &self.snippet else { return Ok(()) };
        let mut letters = snippet.chars();
        // Wide letters are marked by wide signs.
        let dots: String = letters
            .by_ref()
            .take(self.column)
            .map(|letter| if letter.is_ascii() { '.' } else { '．' })
            .collect();
        let mark = if letters.next().is_none_or(|letter| letter.is_ascii()) { '^' } else { '＾' };
        write!(f, "\n | {snippet}\n | {dots}{mark}")
    }
}
