//! `--record`: the line itself, kept in an annotation of what it changes. It is deprecated, and taken out of the line
//! before that is read, so that commands do not know of it.

use crate::tree;
use clap::Command;

/// Where `rollout history` finds why something was changed.
pub(crate) const CAUSE: &str = "kubernetes.io/change-cause";

/// The commands that have the flag.
const COMMANDS: [&str; 16] = [
    "annotate",
    "apply",
    "apply edit-last-applied",
    "autoscale",
    "create",
    "edit",
    "expose",
    "label",
    "patch",
    "replace",
    "run",
    "scale",
    "set image",
    "set resources",
    "set selector",
    "set serviceaccount",
];

/// Takes the flag out of a line of a command that has it; gives the line to be recorded, if it is to be.
pub(crate) fn take(words: &mut Vec<String>, root: impl FnOnce() -> Command) -> Option<String> {
    let end = words.iter().position(|word| word == "--").unwrap_or(words.len());
    let is_it = |word: &String| word == "--record" || word.starts_with("--record=");
    if !words[..end].iter().any(is_it) {
        return None;
    }
    let root = root();
    let place = tree::follow(&root, words);
    if !COMMANDS.contains(&&*place.path()) {
        return None;
    }
    let values: Vec<bool> =
        words[..end].iter().filter(|word| is_it(word)).filter_map(|word| value(word)).collect();
    // What is no value of a switch is left for the parser to refuse.
    let last = values.last().copied()?;
    eprintln!("Flag --record has been deprecated, --record will be removed in the future");
    let line = last.then(|| written(&place, words));
    let mut at = 0;
    words.retain(|word| {
        at += 1;
        at > end || !is_it(word)
    });
    line
}

fn value(word: &str) -> Option<bool> {
    match word.strip_prefix("--record").and_then(|rest| rest.strip_prefix('=')) {
        None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Some(true),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Some(false),
        Some(_) => None,
    }
}

/// The line with its words first and its flags behind them, as kubectl writes it.
fn written(place: &tree::Place<'_>, words: &[String]) -> String {
    let (mut plain, mut flags) = (vec!["kubectl".to_owned()], Vec::new());
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        if word == "--" {
            plain.extend(rest.by_ref().cloned());
        } else if !word.starts_with('-') || word == "-" {
            plain.push(word.clone());
        } else {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let arg = place.flag(name);
            let long =
                arg.and_then(clap::Arg::get_long).map_or_else(|| name.to_owned(), |long| format!("--{long}"));
            let value = match arg {
                _ if word.contains('=') => value.to_owned(),
                Some(arg) if tree::takes_next(arg) => rest.next().cloned().unwrap_or_default(),
                _ => "true".to_owned(),
            };
            // Of these a log of what was done must not tell.
            let value =
                if matches!(&*long, "--token" | "--password") { "CLASSIFIED".to_owned() } else { value };
            flags.push(format!("{long}={value}"));
        }
    }
    plain.extend(flags);
    plain.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn taken(line: &str) -> (String, Option<String>) {
        let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let cause = take(&mut words, crate::args::Arguments::command);
        (words.join(" "), cause)
    }

    #[test]
    fn the_line_is_recorded_where_it_may_be() {
        assert_eq!(
            taken("set image deploy/web a=b --record -n x --token t"),
            (
                "set image deploy/web a=b -n x --token t".to_owned(),
                Some(
                    "kubectl set image deploy/web a=b --record=true --namespace=x --token=CLASSIFIED"
                        .to_owned()
                )
            )
        );
        assert_eq!(taken("scale rs x --record=false"), ("scale rs x".to_owned(), None));
        for line in
            ["get pods --record", "create ns x --record", "run x --image=y -- --record", "scale --record=x"]
        {
            assert_eq!(taken(line), (line.to_owned(), None));
        }
    }
}
