//! Reads the command line: through preferences and plugins, with flags as Go's library takes them, and what was not
//! understood said in kubectl's words.

use crate::args::Arguments;
use crate::error::Error;
use crate::globals::Refused;
use crate::{commands, help, plugins, preferences, record, tree};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, CommandFactory, Parser};
use std::ffi::OsString;
use std::process::ExitCode;

/// The one command whose exit code 1 has a meaning of its own.
const DIFF: &str = "kubectl diff";

/// What a line came to that is no command to run.
pub(crate) enum Ended {
    /// Everything is said.
    Said(ExitCode),
    Failed(Error),
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// The words of a line; all that kubectl takes is text.
pub(crate) fn words(args: impl Iterator<Item = OsString>) -> Result<Vec<String>, Error> {
    let text = |arg: OsString| {
        arg.into_string().map_err(|arg| Error::plain(format!("{} is no UTF-8", arg.to_string_lossy())))
    };
    args.map(text).collect()
}

/// Reads a line. Does not come back where a plugin takes it over.
pub(crate) fn read(words: Vec<String>) -> Result<Arguments, Ended> {
    let (words, policy) = preferences::apply(words, Arguments::command)?;
    if let Some(topic) = unknown_topic(&words) {
        eprintln!("Unknown help topic [`{topic}`]\n\n{}", Arguments::command().render_help());
        return Err(Ended::Said(ExitCode::SUCCESS));
    }
    let mut words = joined(asked_for_help(words));
    of_create(&words)?;
    let cause = record::take(&mut words, Arguments::command);
    loop {
        let parsed =
            Arguments::try_parse_from(std::iter::once("kubectl").chain(words.iter().map(String::as_str)));
        let refused = match parsed {
            Ok(mut arguments) => {
                arguments.global.policy = policy;
                arguments.global.cause = cause;
                return Ok(arguments);
            }
            Err(refused) => refused,
        };
        let rewritten = switched(&words, &refused)?.or(without_extra(&words, &refused)?);
        if let Some(rewritten) = rewritten {
            words = rewritten;
            continue;
        }
        if matches!(refused.kind(), ErrorKind::InvalidSubcommand | ErrorKind::UnknownArgument) {
            of_plugin(&words)?;
        }
        return Err(explained(&words, &refused));
    }
}

/// What `help` is asked about that is no command.
fn unknown_topic(words: &[String]) -> Option<String> {
    let [help, topics @ ..] = words else { return None };
    let topics: Vec<String> = topics.iter().filter(|word| !word.starts_with('-')).cloned().collect();
    let known = tree::follow(&Arguments::command(), &topics).after;
    (help == "help" && known < topics.len() && known == 0).then(|| topics.join("` `"))
}

/// `help get` is `get --help`.
fn asked_for_help(mut words: Vec<String>) -> Vec<String> {
    if words.first().is_some_and(|word| word == "help") {
        words.remove(0);
        words.push("--help".to_owned());
    }
    words
}

/// Go takes whatever stands behind a flag that needs a value for that value, also what looks like a flag: both become
/// one word.
fn joined(words: Vec<String>) -> Vec<String> {
    let end = words.iter().position(|word| word == "--").unwrap_or(words.len());
    let is_dashed = |word: &String| word.starts_with('-') && word != "-" && word != "--";
    if !words[..end].windows(2).any(|pair| is_dashed(&pair[0]) && is_dashed(&pair[1])) {
        return words;
    }
    let root = Arguments::command();
    let place = tree::follow(&root, &words);
    let mut out: Vec<String> = Vec::new();
    let mut rest = words.into_iter().enumerate().peekable();
    while let Some((at, mut word)) = rest.next() {
        let takes_next = at < end
            && is_dashed(&word)
            && !word.contains('=')
            && place.flag(&word).is_some_and(tree::takes_next);
        if takes_next && let Some((_, value)) = rest.next() {
            match is_dashed(&value) {
                true => word = format!("{word}={value}"),
                false => {
                    out.push(word);
                    word = value;
                }
            }
        }
        out.push(word);
    }
    out
}

/// Go takes a value for every switch: `--watch=false`. Gives the line without the one that was refused for it.
fn switched(words: &[String], refused: &clap::Error) -> Result<Option<Vec<String>>, Error> {
    if refused.kind() != ErrorKind::TooManyValues {
        return Ok(None);
    }
    let (Some(flag), Some(value)) =
        (text(refused, ContextKind::InvalidArg), text(refused, ContextKind::InvalidValue))
    else {
        return Ok(None);
    };
    let flag = flag.split(' ').next().unwrap_or(&flag).to_owned();
    let Some(at) = words.iter().position(|word| *word == format!("{flag}={value}")) else { return Ok(None) };
    let is_on = match value.as_str() {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
        "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
        _ => {
            let (command, flag) = meant(words, &flag);
            let why = format!("strconv.ParseBool: parsing {value:?}: invalid syntax");
            return Err(refusal(&command, &format!("invalid argument {value:?} for \"{flag}\" flag: {why}")));
        }
    };
    let mut words = words.to_vec();
    words.splice(at..=at, is_on.then_some(flag));
    Ok(Some(words))
}

/// Commands that pass over words which mean nothing to them, as kubectl's do.
const PASSING_OVER: [&str; 10] = [
    "auth whoami",
    "config current-context",
    "config get-clusters",
    "config get-users",
    "events",
    "kuberc view",
    "options",
    "plugin list",
    "proxy",
    "replace",
];
/// Commands that name such words and refuse them.
const REFUSING: [&str; 2] = ["api-versions", "config view"];

/// The line without a word that its command takes none of, where that is passed over.
fn without_extra(words: &[String], refused: &clap::Error) -> Result<Option<Vec<String>>, Error> {
    if refused.kind() != ErrorKind::UnknownArgument {
        return Ok(None);
    }
    let Some(extra) = text(refused, ContextKind::InvalidArg).filter(|word| !word.starts_with('-')) else {
        return Ok(None);
    };
    let root = Arguments::command();
    let place = tree::follow(&root, words);
    let path = place.path();
    if REFUSING.contains(&&*path) {
        let extra = behind(&words[place.after..], &extra);
        return Err(Error::usage(format!("unexpected arguments: [{extra}]"), &path));
    }
    let at = words.iter().skip(place.after).position(|word| *word == extra);
    Ok(at.filter(|_| PASSING_OVER.contains(&&*path)).map(|at| {
        let mut words = words.to_vec();
        words.remove(place.after + at);
        words
    }))
}

/// Becomes the plugin that `create NAME` may mean: `create` takes other words as well.
fn of_create(words: &[String]) -> Result<(), Error> {
    let [create, name, ..] = words else { return Ok(()) };
    if create != "create" || name.starts_with('-') {
        return Ok(());
    }
    let root = Arguments::command();
    let is_own = root.find_subcommand("create").is_some_and(|create| create.find_subcommand(name).is_some());
    if is_own { Ok(()) } else { plugins::run(words, 2) }
}

/// Becomes the plugin that the line may mean: one of a name that no command has.
fn of_plugin(words: &[String]) -> Result<(), Error> {
    if tree::follow(&Arguments::command(), words).commands.len() > 1 {
        return Ok(());
    }
    if let Some(flag) = words.first().filter(|word| word.starts_with('-'))
        && words.iter().any(|word| plugins::on_path(&format!("kubectl-{word}")).is_some())
    {
        return Err(Error::plain(format!("flags cannot be placed before plugin name: {flag}")));
    }
    plugins::run(words, 1)
}

fn text(refused: &clap::Error, kind: ContextKind) -> Option<String> {
    match refused.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => texts.first().cloned(),
        _ => None,
    }
}

/// The command that a line names, and a flag as kubectl shows it: `-w, --watch`.
fn meant(words: &[String], flag: &str) -> (String, String) {
    let root = Arguments::command();
    let place = tree::follow(&root, words);
    let short = place.flag(flag).and_then(clap::Arg::get_short).filter(|_| flag.starts_with("--"));
    let flag = short.map_or_else(|| flag.to_owned(), |short| format!("-{short}, {flag}"));
    (format!("kubectl {}", place.path()).trim_end().to_owned(), flag)
}

/// Help goes to standard output and is no failure.
fn explained(words: &[String], refused: &clap::Error) -> Ended {
    let (command, _) = meant(words, "");
    if let Some(error) = misunderstood(words, refused) {
        return Ended::Failed(error);
    }
    // A command that has commands of its own needs one of them; `kubectl` alone asks for help.
    let is_incomplete =
        refused.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand && command != "kubectl";
    let is_help =
        !refused.use_stderr() || refused.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    let root = Arguments::command();
    let below = if is_help { help::below(&tree::follow(&root, words)) } else { String::new() };
    let text = format!("{}{below}", refused.render());
    // That one asks for help alone, too.
    let is_incomplete = is_incomplete && command != "kubectl certificate";
    let written = match is_help && (!is_incomplete || command == "kubectl rollout") {
        true => crate::output::say(&text).is_ok(),
        false => {
            eprint!("{text}");
            true
        }
    };
    Ended::Said(if written && is_help && !is_incomplete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What is said of a flag or its value, with where the command's help is.
fn refusal(command: &str, why: &str) -> Error {
    match command {
        DIFF => Error::Exit(
            format!("error: {why}\nSee '{command} -h' for help and examples"),
            commands::diff::TROUBLE,
        ),
        _ => Error::Plain(format!("{why}\nSee '{command} --help' for usage.")),
    }
}

/// kubectl's sentence for a flag, value or command that there is not, if it is that which was refused.
fn misunderstood(words: &[String], refused: &clap::Error) -> Option<Error> {
    let (command, _) = meant(words, "");
    let flag = || text(refused, ContextKind::InvalidArg);
    match refused.kind() {
        ErrorKind::UnknownArgument => {
            let flag = flag()?;
            let sentence = match flag.strip_prefix("--").or(flag.strip_prefix('-')) {
                Some(short) if !flag.starts_with("--") => {
                    let first = short.chars().next()?;
                    format!("unknown shorthand flag: '{first}' in {flag}")
                }
                Some(_) => format!("unknown flag: {}", flag.split('=').next()?),
                None => return None,
            };
            Some(refusal(&command, &sentence))
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            let flag = flag()?.split([' ', '[']).next()?.to_owned();
            let value = text(refused, ContextKind::InvalidValue)?;
            flag.starts_with('-').then(|| refusal(&command, &invalid(words, refused, (&flag, &value))))
        }
        ErrorKind::InvalidSubcommand => {
            let word = text(refused, ContextKind::InvalidSubcommand)?;
            if command.contains(' ') {
                let rest = behind(words, &word);
                let sentence = format!("unknown command {rest:?}\nSee '{command} -h' for help and examples");
                return Some(Error::Plain(sentence));
            }
            let near: String =
                near(&Arguments::command(), &word).iter().map(|name| format!("\t{name}\n")).collect();
            let near = match near.trim_end() {
                "" => String::new(),
                near => format!("\n\nDid you mean this?\n{near}"),
            };
            Some(Error::Plain(format!("unknown command {word:?} for \"kubectl\"{near}")))
        }
        _ => None,
    }
}

/// A flag that has no value, or one that it cannot have.
fn invalid(words: &[String], refused: &clap::Error, (flag, value): (&str, &str)) -> String {
    let (_, shown) = meant(words, flag);
    if value.is_empty() {
        let last = words.last().filter(|last| shown.starts_with(&format!("{last}, ")));
        return match last {
            Some(short) => format!("flag needs an argument: '{}' in {short}", short.trim_start_matches('-')),
            None => format!("flag needs an argument: {flag}"),
        };
    }
    let why = std::error::Error::source(refused).and_then(|source| source.downcast_ref::<Refused>());
    let is_switch = matches!(refused.get(ContextKind::ValidValue), Some(ContextValue::Strings(all)) if all.iter().any(|one| one == "true"));
    let parser = if is_switch { "ParseBool" } else { "ParseInt" };
    let digits = value.strip_prefix(['-', '+']).unwrap_or(value);
    let is_number = !is_switch && !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    let wrong = if is_number { "value out of range" } else { "invalid syntax" };
    let why = why
        .map_or_else(|| format!("strconv.{parser}: parsing {value:?}: {wrong}"), |Refused(why)| why.clone());
    format!("invalid argument {value:?} for \"{shown}\" flag: {why}")
}

/// A word with those behind it that are no flags and no flags' values.
fn behind(words: &[String], word: &str) -> String {
    let root = Arguments::command();
    let place = tree::follow(&root, words);
    let mut found = vec![word];
    let mut rest = words.iter().skip_while(|one| *one != word).skip(1);
    while let Some(one) = rest.next() {
        if !one.starts_with('-') {
            found.push(one);
        } else if place.flag(one).is_some_and(tree::takes_next) && !one.contains('=') {
            rest.next();
        }
    }
    found.join(" ")
}

/// How many signs may be wrong in a command that is suggested.
const NEAR: usize = 2;

/// Commands that a person may have meant: of nearly the same name, or that begin like it.
fn near<'a>(root: &'a Command, word: &str) -> Vec<&'a str> {
    let word = word.to_lowercase();
    let names = root.get_subcommands().filter(|command| !command.is_hide_set()).map(Command::get_name);
    let is_meant = |name: &&str| {
        distance(name, &word) <= NEAR
            || name.starts_with(&word)
            || *name == "get" && ["list", "ls"].contains(&&*word)
    };
    names.filter(is_meant).collect()
}

/// Levenshtein's: how many signs have to be put in, left out or changed.
pub(crate) fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (at, sign) in left.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], at + 1);
        for (index, other) in right.iter().enumerate() {
            let changed = diagonal + usize::from(sign != *other);
            diagonal = row[index + 1];
            row[index + 1] = changed.min(diagonal + 1).min(row[index] + 1);
        }
    }
    row[right.len()]
}

/// `kubectl options`: the flags of all commands.
pub(crate) fn options() -> String {
    let root = Arguments::command();
    let mut text = "The following options can be passed to any command:\n\n".to_owned();
    let mut flags: Vec<_> = root.get_arguments().filter(|arg| arg.is_global_set()).collect();
    flags.sort_by_key(|arg| arg.get_long());
    for arg in flags {
        let short = arg.get_short().map(|short| format!("-{short}, ")).unwrap_or_default();
        let value = if arg.get_action().takes_values() { "=''" } else { "=false" };
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        text.push_str(&format!("    {short}--{}{value}:\n\t{help}\n\n", arg.get_long().unwrap_or_default()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(line: &str) -> String {
        match read(line.split(' ').skip(1).map(str::to_owned).collect()) {
            Ok(_) => "understood".to_owned(),
            Err(Ended::Failed(error)) => error.message(),
            Err(Ended::Said(_)) => "said".to_owned(),
        }
    }

    #[test]
    fn what_there_is_not_is_said_as_kubectl_says_it() {
        assert_eq!(
            said("kubectl get pods --nonsense"),
            "unknown flag: --nonsense\nSee 'kubectl get --help' for usage."
        );
        assert_eq!(
            said("kubectl rollout status x -q"),
            "unknown shorthand flag: 'q' in -q\nSee 'kubectl rollout status --help' for usage."
        );
        assert_eq!(
            said("kubectl rollout nonsense x -n y"),
            "unknown command \"nonsense x\"\nSee 'kubectl rollout -h' for help and examples"
        );
        assert_eq!(
            said("kubectl diff --nonsense"),
            "unknown flag: --nonsense\nSee 'kubectl diff -h' for help and examples"
        );
        for line in ["kubectl patch cm x --all", "kubectl edit cm -lx", "kubectl edit -A cm"] {
            assert!(said(line).starts_with("unknown "), "{line}");
        }
        assert_eq!(said("kubectl nonsense"), "unknown command \"nonsense\" for \"kubectl\"");
        assert_eq!(
            said("kubectl gett"),
            "unknown command \"gett\" for \"kubectl\"\n\nDid you mean this?\n\tget\n\tset"
        );
        assert_eq!(
            said("kubectl ls"),
            "unknown command \"ls\" for \"kubectl\"\n\nDid you mean this?\n\tget\n\tlogs\n\tcp"
        );
    }

    #[test]
    fn words_that_mean_nothing_are_passed_over_or_refused() {
        for line in ["kubectl config get-users x -n y z", "kubectl events x --types=Normal"] {
            assert_eq!(said(line), "understood", "{line}");
        }
        assert_eq!(
            said("kubectl config view x y"),
            "unexpected arguments: [x y]\nSee 'kubectl config view -h' for help and examples"
        );
    }

    #[test]
    fn values_may_look_like_flags() {
        let joined = |line: &str| joined(line.split(' ').map(str::to_owned).collect()).join(" ");
        assert_eq!(joined("get cm -l -a --sort-by -x -w -A"), "get cm -l=-a --sort-by=-x -w -A");
        assert_eq!(joined("exec pod -it -n x -- ls -l -a"), "exec pod -it -n x -- ls -l -a");
        assert_eq!(joined("get -n x -o -"), "get -n x -o -");
    }

    #[test]
    fn switches_take_values() {
        for line in ["kubectl get pods --watch=false", "kubectl get pods --no-headers=true -o json -o yaml"] {
            assert_eq!(said(line), "understood", "{line}");
        }
        assert_eq!(
            said("kubectl get pods --watch=perhaps"),
            "invalid argument \"perhaps\" for \"-w, --watch\" flag: strconv.ParseBool: parsing \"perhaps\": invalid syntax\nSee 'kubectl get --help' for usage."
        );
    }

    #[test]
    fn switches_that_are_on_take_values_too() {
        assert_eq!(
            said("kubectl get pods --server-print=perhaps"),
            "invalid argument \"perhaps\" for \"--server-print\" flag: strconv.ParseBool: parsing \"perhaps\": invalid syntax\nSee 'kubectl get --help' for usage."
        );
    }

    #[test]
    fn a_profile_of_debugs_is_one_of_the_container() {
        let line =
            |text: &str| read(text.split(' ').map(str::to_owned).collect()).ok().expect("it is understood");
        assert_eq!(line("debug x --profile=netadmin").global.profile, "netadmin");
        assert_eq!(line("debug x --image=y").global.profile, "general");
        assert!(line("get pods --profile=netadmin").global.check().is_err());
    }

    #[test]
    fn no_two_flags_share_a_name() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn distances() {
        for (left, right, distance) in
            [("get", "gett", 1), ("apply", "aply", 1), ("get", "", 3), ("patch", "auth", 3)]
        {
            assert_eq!(super::distance(left, right), distance, "{left} {right}");
        }
    }
}
