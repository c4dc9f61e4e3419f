//! Completion: `kubectl __complete WORD…` says what the last word may become, one a line with what it is behind a
//! tab, and at the end `:` and what the shell does besides: 0 to complete files as well, 4 not to, and 2 more to add no
//! space. The scripts for the shells ask it, so that names of the cluster are completed.

mod names;
mod scripts;

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
    let place = tree::follow(root, before);
    let global = flags(&place, before);
    if before.iter().any(|word| word == "--") {
        return Candidates::files();
    }
    let mut found = if let Some((flag, value)) = last.split_once('=').filter(|_| last.starts_with("--")) {
        let mut found = value_of(&place, flag, &Asked::new(&global, value)).await;
        found.words.iter_mut().for_each(|(word, _)| *word = format!("{flag}={word}"));
        found
    } else if last.starts_with('-') {
        names_of_flags(&place)
    } else {
        let awaited = before.last().filter(|word| word.starts_with('-') && !word.contains('='));
        match awaited.filter(|word| place.flag(word).is_some_and(tree::takes_next)) {
            Some(flag) => value_of(&place, flag, &Asked::new(&global, last)).await,
            None => word(&place, &positional(&place, before), &Asked::new(&global, last)).await,
        }
    };
    found.words.retain(|(word, _)| word.starts_with(last.as_str()));
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
        let Some(long) = arg.get_long().filter(|_| !arg.is_hide_set()) else { continue };
        let what = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let name = format!("--{long}");
        if !words.iter().any(|(known, _)| *known == name) {
            words.push((name, what));
        }
    }
    Candidates { words, directive: NO_FILES }
}

async fn value_of(place: &Place<'_>, flag: &str, asked: &Asked<'_>) -> Candidates {
    let Some(arg) = place.flag(flag) else { return Candidates::files() };
    let values: Vec<String> =
        arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    if !values.is_empty() {
        return Candidates::of(values);
    }
    match arg.get_long().unwrap_or_default() {
        "namespace" => Candidates::of(asked.names("namespaces").await),
        "context" => Candidates::of(asked.configured("contexts")),
        "cluster" => Candidates::of(asked.configured("clusters")),
        "user" => Candidates::of(asked.configured("users")),
        "container" => Candidates::of(Vec::<String>::new()),
        "output" => Candidates::of([
            "custom-columns=",
            "custom-columns-file=",
            "go-template=",
            "go-template-file=",
            "json",
            "jsonpath=",
            "jsonpath-as-json=",
            "jsonpath-file=",
            "kyaml",
            "name",
            "wide",
            "yaml",
        ]),
        "dry-run" => Candidates::of(["none", "client", "server"]),
        "cascade" => Candidates::of(["background", "foreground", "orphan"]),
        _ => Candidates::files(),
    }
}

/// Words that are of one kind alone, by the command.
fn only_kind(path: &str) -> Option<&'static str> {
    match path {
        "cordon" | "uncordon" | "drain" => Some("nodes"),
        "logs" | "exec" | "attach" | "port-forward" | "debug" => Some("pods"),
        _ => None,
    }
}

async fn word(place: &Place<'_>, before: &[String], asked: &Asked<'_>) -> Candidates {
    let command = place.command();
    if command.get_subcommands().next().is_some() && before.is_empty() {
        let mut found = subcommands(command);
        if place.commands.len() == 1 {
            let plugins = plugins::all();
            let name = |file: &std::path::PathBuf| {
                let name =
                    file.file_name().filter(|_| plugins::is_executable(file))?.to_string_lossy().into_owned();
                Some((name.strip_prefix("kubectl-")?.replace('_', "-"), "A plugin".to_owned()))
            };
            found.words.extend(plugins.iter().filter_map(name));
        }
        return found;
    }
    let path = place.path();
    match path.as_str() {
        "config use-context"
        | "config delete-context"
        | "config rename-context"
        | "config get-contexts"
        | "config set-context" => return Candidates::of(asked.configured("contexts")),
        "config delete-cluster" | "config set-cluster" => {
            return Candidates::of(asked.configured("clusters"));
        }
        "config delete-user" | "config set-credentials" => return Candidates::of(asked.configured("users")),
        "completion" => return Candidates::of(["bash", "fish", "powershell", "zsh"]),
        "cp" | "config" | "kustomize" => return Candidates::files(),
        "explain" | "api-resources" => return Candidates::of(asked.kinds().await),
        _ => {}
    }
    if path.starts_with("config ") || path.starts_with("create") || path == "version" {
        return Candidates::of(Vec::<String>::new());
    }
    if let Some((kind, _)) = asked.word.split_once('/') {
        let names = asked.names(kind).await;
        return Candidates::of(names.into_iter().map(|name| format!("{kind}/{name}")));
    }
    match (only_kind(&path), before) {
        (Some("pods"), [pod]) if path == "logs" => Candidates::of(asked.containers(pod).await),
        (Some("pods"), [_, ..]) => Candidates::of(Vec::<String>::new()),
        (Some(kind), _) => Candidates::of(asked.names(kind).await),
        (None, []) => {
            let mut found = Candidates::of(asked.kinds().await);
            found.directive |= if asked.word.ends_with('/') { NO_SPACE } else { 0 };
            found
        }
        (None, [first, ..]) if first.contains('/') => Candidates::of(asked.kinds().await),
        (None, [kind, rest @ ..]) => {
            let names = asked.names(kind).await;
            Candidates::of(names.into_iter().filter(|name| !rest.contains(name)))
        }
    }
}

fn subcommands(command: &Command) -> Candidates {
    let shown = command.get_subcommands().filter(|one| !one.is_hide_set());
    let words = shown
        .map(|one| (one.get_name().to_owned(), one.get_about().map(ToString::to_string).unwrap_or_default()));
    Candidates { words: words.collect(), directive: NO_FILES }
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
    }
}
