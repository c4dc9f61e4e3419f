//! The tree of commands and flags, looked at without parsing a line: for plugins, preferences and completion.

use clap::{Arg, Command};

/// How far a line's words lead into the tree.
pub(crate) struct Place<'a> {
    /// From `kubectl` to the innermost command that was found.
    pub(crate) commands: Vec<&'a Command>,
    /// Where the word after that command stands.
    pub(crate) after: usize,
}

impl<'a> Place<'a> {
    pub(crate) fn command(&self) -> &'a Command {
        self.commands[self.commands.len() - 1]
    }

    /// `get`, or `create role`; "" of `kubectl` itself.
    pub(crate) fn path(&self) -> String {
        self.commands[1..].iter().map(|command| command.get_name()).collect::<Vec<_>>().join(" ")
    }

    /// A flag by `--name` or `-n`, of the command or of all.
    pub(crate) fn flag(&self, word: &str) -> Option<&'a Arg> {
        let name = word.split('=').next().unwrap_or(word);
        let is_named = |arg: &&Arg| match name.strip_prefix("--") {
            Some(long) => arg.get_long() == Some(long),
            None => name.strip_prefix('-').is_some_and(|short| {
                let mut signs = short.chars();
                arg.get_short().is_some() && arg.get_short() == signs.next() && signs.next().is_none()
            }),
        };
        self.commands.iter().rev().find_map(|command| command.get_arguments().find(is_named))
    }
}

/// Follows a line's words; flags and their values are passed over.
pub(crate) fn follow<'a>(root: &'a Command, words: &[String]) -> Place<'a> {
    let mut place = Place { commands: vec![root], after: 0 };
    let mut at = 0;
    while let Some(word) = words.get(at) {
        at += 1;
        if word == "--" {
            break;
        }
        if word.starts_with('-') {
            if place.flag(word).is_some_and(takes_next) && !word.contains('=') {
                at += 1;
            }
            continue;
        }
        let Some(next) = place.command().find_subcommand(word) else { break };
        place.commands.push(next);
        place.after = at;
    }
    place
}

/// Whether a flag's value is the word that follows it.
pub(crate) fn takes_next(arg: &Arg) -> bool {
    arg.get_action().takes_values() && !arg.is_require_equals_set()
}
