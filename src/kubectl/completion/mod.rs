//! Completion: `kubectl __complete WORD…` says what the last word may become, one a line with what it is behind a
//! tab, and at the end `:` and what the shell does besides: 0 to complete files as well, 4 not to, and 2 more to add no
//! space. The scripts for the shells ask it, so that names of the cluster are completed.

mod names;
mod plugin;
mod scripts;
mod words;

pub(crate) use scripts::script;

use crate::globals::Global;
use crate::plugins;
use crate::tree::{self, Place};
use clap::Command;
use names::Asked;

/// Files are completed too.
const FILES: u8 = 0;
const NO_SPACE: u8 = 2;
const NO_FILES: u8 = 4;

/// Candidates with what they are, and what the shell does besides.
pub(crate) struct Candidates {
    pub(crate) words: Vec<(String, String)>,
    directive: u8,
}

impl Candidates {
    fn files() -> Self {
        Self { words: Vec::new(), directive: FILES }
    }

    fn of(words: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let words = words.into_iter().map(|word| (word.into(), String::new())).collect();
        Self { words, directive: NO_FILES }
    }

    /// As the scripts read it.
    pub(crate) fn render(&self) -> String {
        let line = |(word, what): &(String, String)| match what.is_empty() {
            true => format!("{word}\n"),
            false => format!("{word}\t{what}\n"),
        };
        let lines: String = self.words.iter().map(line).collect();
        format!("{lines}:{}\n", self.directive)
    }
}

/// What the last of the words may become.
pub(crate) async fn complete(root: &Command, words: &[String]) -> Candidates {
    let Some((last, before)) = words.split_last() else { return Candidates::files() };
    if let Some((_, before)) = before.split_first().filter(|(first, _)| *first == "help") {
        let mut found = words::commands(tree::follow(root, before).command());
        found.words.retain(|(word, _)| word.starts_with(last.as_str()));
        return found;
    }
    let place = tree::follow(root, before);
    if place.commands.len() == 1
        && let Some(found) = plugin::complete(before, last, plugins::on_path).await
    {
        return found;
    }
    let global = flags(&place, before);
    if before.iter().any(|word| word == "--") {
        return Candidates::files();
    }
    let mut found = if let Some((flag, value)) = last.split_once('=').filter(|_| last.starts_with("--")) {
        let mut found = value_of(&place, flag, before, &Asked::new(&global, value)).await;
        found.words.iter_mut().for_each(|(word, _)| *word = format!("{flag}={word}"));
        found
    } else if last.starts_with("--") || last == "-" {
        names_of_flags(&place)
    } else if last.starts_with('-') {
        // A flag of one sign is whole.
        let is_known = place.flag(last).is_some();
        Candidates::of(is_known.then(|| last.clone()))
    } else {
        let awaited = before.last().filter(|word| word.starts_with('-') && !word.contains('='));
        match awaited.filter(|word| place.flag(word).is_some_and(tree::takes_next)) {
            Some(flag) => value_of(&place, flag, before, &Asked::new(&global, last)).await,
            None => words::of(&place, &positional(&place, before), &Asked::new(&global, last)).await,
        }
    };
    found.words.retain(|(word, _)| word.starts_with(last.as_str()));
    if found.words.len() == 1 && found.words[0].0.ends_with(['=', '/']) {
        found.directive |= NO_SPACE;
    }
    found
}

/// The flags of the line that say which server is asked.
fn flags(place: &Place<'_>, words: &[String]) -> Global {
    let mut global = Global::default();
    for (at, word) in words.iter().enumerate() {
        let Some(long) = place.flag(word).and_then(clap::Arg::get_long) else { continue };
        let value = word.split_once('=').map(|(_, value)| value.to_owned()).or(words.get(at + 1).cloned());
        let place = match long {
            "namespace" => &mut global.namespace,
            "context" => &mut global.context,
            "cluster" => &mut global.cluster,
            "user" => &mut global.user,
            "server" => &mut global.server,
            "token" => &mut global.token,
            "kubeconfig" => {
                global.kubeconfig = value.map(Into::into);
                continue;
            }
            _ => continue,
        };
        *place = value;
    }
    // A shell does not wait for a server that is away.
    global.request_timeout = Some("5s".to_owned());
    global.tidied()
}

/// The words behind the command that are no flags and no flags' values.
fn positional(place: &Place<'_>, words: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = words[place.after..].iter();
    while let Some(word) = rest.next() {
        if !word.starts_with('-') {
            found.push(word.clone());
        } else if place.flag(word).is_some_and(tree::takes_next) && !word.contains('=') {
            rest.next();
        }
    }
    found
}

fn names_of_flags(place: &Place<'_>) -> Candidates {
    let mut words = Vec::new();
    for arg in place.commands.iter().rev().flat_map(|command| command.get_arguments()) {
        let Some(long) = arg.get_long().filter(|_| arg.is_global_set() || !arg.is_hide_set()) else {
            continue;
        };
        let what = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let name = format!("--{long}");
        if !words.iter().any(|(known, _)| *known == name) {
            words.push((name, what));
        }
    }
    Candidates { words, directive: NO_FILES }
}

async fn value_of(place: &Place<'_>, flag: &str, before: &[String], asked: &Asked<'_>) -> Candidates {
    let Some(arg) = place.flag(flag) else { return Candidates::files() };
    let values: Vec<String> =
        arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    if !values.is_empty() {
        return Candidates::of(values);
    }
    let path = place.path();
    match arg.get_long().unwrap_or_default() {
        "namespace" => Candidates::of(asked.names("namespaces").await),
        "context" => Candidates::of(asked.configured("contexts")),
        "cluster" => Candidates::of(asked.configured("clusters")),
        "user" if path.starts_with("config") || !path.contains(' ') => {
            Candidates::of(asked.configured("users"))
        }
        "container" => match positional(place, before).first() {
            Some(subject) => Candidates::of(asked.containers(subject).await),
            None => Candidates::of(Vec::<String>::new()),
        },
        "output" => Candidates::of(forms(&path).iter().copied()),
        "dry-run" => Candidates::of(["none", "client", "server"]),
        "cascade" => Candidates::of(["background", "foreground", "orphan"]),
        "subresource" => Candidates::of(["status", "scale", "resize"]),
        "validate" => Candidates::of(["strict", "warn", "ignore"]),
        "type" if path == "patch" => Candidates::of(["json", "merge", "strategic"]),
        "for" if path == "wait" => Candidates::of(["condition=", "create", "delete", "jsonpath="]),
        "sort-by" if path.starts_with("top") => Candidates::of(["cpu", "memory"]),
        "sort-by" if path == "api-resources" => Candidates::of(["kind", "name"]),
        "kubeconfig" | "kuberc" | "filename" | "kustomize" => Candidates::files(),
        name if PATHS.iter().any(|path| name.contains(path)) => Candidates::files(),
        _ => Candidates::of(Vec::<String>::new()),
    }
}

/// What stands in the names of flags whose values are files or folders.
const PATHS: [&str; 10] =
    ["file", "dir", "cert", "key", "authority", "path", "www", "from-", "output-", "policy"];

/// What `-o` may be.
fn forms(path: &str) -> &'static [&'static str] {
    const ALL: [&str; 12] = [
        "json",
        "yaml",
        "kyaml",
        "name",
        "go-template=",
        "go-template-file=",
        "jsonpath=",
        "jsonpath-as-json=",
        "jsonpath-file=",
        "custom-columns=",
        "custom-columns-file=",
        "wide",
    ];
    match path {
        "get" => &ALL,
        "version" | "apply view-last-applied" | "edit" => &ALL[..2],
        "api-resources" => &["json", "yaml", "kyaml", "name", "wide"],
        "config get-contexts" => &["name"],
        "explain" => &["plaintext", "plaintext-openapiv2"],
        _ => &ALL[..9],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    async fn completed(line: &str) -> String {
        let root = crate::args::Arguments::command();
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        complete(&root, &words).await.render()
    }

    #[tokio::test]
    async fn commands_flags_and_values_are_completed() {
        assert_eq!(completed("ge").await, "get\tShow objects\n:4\n");
        assert_eq!(completed("rollout und").await, "undo\tGo back to an earlier revision\n:4\n");
        assert_eq!(completed("get pods --show-l").await, "--show-labels\tShow labels as a column\n:4\n");
        assert_eq!(completed("get pods -o ya").await, "yaml\n:4\n");
        assert_eq!(completed("get pods --output=ya").await, "--output=yaml\n:4\n");
        assert_eq!(completed("completion f").await, "fish\n:4\n");
        assert_eq!(completed("apply -f ").await, ":0\n");
        assert_eq!(completed("exec pod -- ls ").await, ":0\n");
        assert_eq!(completed("get pods -o cust").await, "custom-columns=\ncustom-columns-file=\n:4\n");
        assert_eq!(completed("get pods -o jsonpath-f").await, "jsonpath-file=\n:6\n");
        assert_eq!(completed("label pod x -o cust").await, ":4\n");
        assert_eq!(completed("wait --for=cond").await, "--for=condition=\n:6\n");
        assert_eq!(completed("rollout status d").await, "deployment\ndaemonset\n:4\n");
        assert_eq!(completed("auth can-i del").await, "delete\ndeletecollection\n:4\n");
        assert_eq!(completed("help roll").await, "rollout\tWatch and steer rollouts\n:4\n");
        assert_eq!(completed("top node --sort-by c").await, "cpu\n:4\n");
        assert_eq!(completed("get -n").await, "-n\n:4\n");
        assert_eq!(completed("diff ").await, ":4\n");
    }
}
