//! Colours, for people alone: on a terminal that knows them, unless `NO_COLOR` is there.

use std::io::IsTerminal;

const PLAIN: &str = "\u{1b}[0m";
const BOLD: &str = "\u{1b}[1m";
const RED: &str = "\u{1b}[31m";
const YELLOW: &str = "\u{1b}[33m";
const STRONG_YELLOW: &str = "\u{1b}[33;1m";

/// What of a status says that something is wrong: whole words between `:`, `,` and spaces.
const WRONG: [&str; 11] = [
    "Failed",
    "Error",
    "NotReady",
    "Unknown",
    "Evicted",
    "OOMKilled",
    "Lost",
    "Denied",
    "NodeLost",
    "DeadlineExceeded",
    "False",
];
/// How words begin and end that say so.
const BEGINNINGS: [&str; 3] = ["Err", "Invalid", "Create"];
const ENDINGS: [&str; 3] = ["BackOff", "Error", "Failed"];
/// What is on its way, or held.
const WAITING: [&str; 8] = [
    "Pending",
    "Terminating",
    "ContainerCreating",
    "PodInitializing",
    "Init",
    "SchedulingDisabled",
    "SchedulingGated",
    "Released",
];

/// Whether what goes there is read by a person who wants colours.
pub(crate) fn is_wanted(stream: &impl IsTerminal) -> bool {
    stream.is_terminal()
        && std::env::var_os("NO_COLOR").is_none()
        && std::env::var_os("TERM").is_some_and(|terminal| terminal != "dumb")
}

/// A table's heading.
pub(crate) fn heading(line: &str) -> String {
    format!("{BOLD}{line}{PLAIN}")
}

/// `Warning:`.
pub(crate) fn warning(word: &str) -> String {
    format!("{STRONG_YELLOW}{word}{PLAIN}")
}

/// A status, coloured where a person has to look.
pub(crate) fn status(text: &str) -> String {
    let words = || text.split([':', ',', ' ', '/']).filter(|word| !word.is_empty());
    let is_wrong = |word: &str| {
        WRONG.contains(&word)
            || ENDINGS.iter().any(|ending| word.ends_with(ending))
            || BEGINNINGS
                .iter()
                .any(|beginning| word.starts_with(beginning) && word.len() > beginning.len() + 3)
    };
    match () {
        () if words().any(is_wrong) => format!("{RED}{text}{PLAIN}"),
        () if words().any(|word| WAITING.contains(&word)) => format!("{YELLOW}{text}{PLAIN}"),
        () => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_red_and_what_waits_is_yellow() {
        for text in [
            "CrashLoopBackOff",
            "Init:Error",
            "NotReady,SchedulingDisabled",
            "ErrImagePull",
            "Failed",
            "CreateContainerConfigError",
        ] {
            assert!(status(text).starts_with(RED), "{text}");
        }
        for text in ["Pending", "Init:0/1", "Terminating", "Ready,SchedulingDisabled"] {
            assert!(status(text).starts_with(YELLOW), "{text}");
        }
        for text in ["Running", "Completed", "Ready", "Bound", "Active", ""] {
            assert_eq!(status(text), text);
        }
    }
}
