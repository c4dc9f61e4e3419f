//! What the words of each command may be that are no flags.

use super::names::Asked;
use super::{Candidates, FILES, NO_FILES, NO_SPACE};
use crate::commands::auth::VERBS;
use crate::plugins;
use crate::tree::Place;
use clap::Command;
use std::path::Path;

/// Kinds that have pods which a command can be about.
const OF_PODS: [&str; 8] = [
    "daemonsets/",
    "deployments/",
    "pods/",
    "jobs/",
    "replicasets/",
    "replicationcontrollers/",
    "services/",
    "statefulsets/",
];
const ROLLOUTS: &[&str] = &["deployment", "daemonset", "statefulset"];
const SCALED: &[&str] = &["deployment", "replicaset", "replicationcontroller", "statefulset"];
const TEMPLATES: &[&str] = &[
    "daemonsets",
    "deployments",
    "pods",
    "cronjobs",
    "jobs",
    "replicasets",
    "replicationcontrollers",
    "statefulsets",
];

/// What a command is about.
enum About {
    /// Objects of any kind.
    Objects,
    /// Objects of some kinds alone.
    Kinds(&'static [&'static str]),
    /// Objects of one kind, which is not said.
    Names(&'static str),
    /// A pod, or something that has pods; with what comes behind it.
    Pod(Behind),
    /// Contexts, clusters or users of the kubeconfig.
    Entries(&'static str),
    /// Some words, one after the other.
    Words(&'static [&'static str]),
    /// A verb, then a kind.
    Rights,
    Kind,
    /// `POD:` or a file.
    PodsAndFiles,
    Files,
    Nothing,
}

/// What comes behind a pod.
enum Behind {
    Containers,
    Ports,
    Nothing,
}

fn about(path: &str) -> About {
    match path {
        "get"
        | "describe"
        | "delete"
        | "edit"
        | "label"
        | "annotate"
        | "patch"
        | "wait"
        | "apply view-last-applied"
        | "apply edit-last-applied" => About::Objects,
        "set image" | "set env" | "set resources" | "set serviceaccount" => About::Kinds(TEMPLATES),
        "set selector" => About::Kinds(&["services"]),
        "set subject" => About::Kinds(&["rolebinding", "clusterrolebinding"]),
        "scale" | "autoscale" => About::Kinds(SCALED),
        "expose" => About::Kinds(&["pod", "service", "replicationcontroller", "deployment", "replicaset"]),
        "taint" => About::Kinds(&["node"]),
        "cordon" | "uncordon" | "drain" | "top node" => About::Names("nodes"),
        "top pod" => About::Names("pods"),
        "create token" => About::Names("serviceaccounts"),
        "certificate approve" | "certificate deny" => About::Names("certificatesigningrequests"),
        "logs" => About::Pod(Behind::Containers),
        "port-forward" => About::Pod(Behind::Ports),
        "exec" | "attach" | "debug" => About::Pod(Behind::Nothing),
        "config use-context"
        | "config delete-context"
        | "config rename-context"
        | "config get-contexts"
        | "config set-context" => About::Entries("contexts"),
        "config delete-cluster" | "config set-cluster" => About::Entries("clusters"),
        "config delete-user" | "config set-credentials" => About::Entries("users"),
        "completion" => About::Words(&["bash", "zsh", "fish", "powershell"]),
        "auth can-i" => About::Rights,
        "explain" => About::Kind,
        "cp" => About::PodsAndFiles,
        "kustomize" => About::Files,
        rollout if rollout.starts_with("rollout ") => About::Kinds(ROLLOUTS),
        _ => About::Nothing,
    }
}

/// Candidates for a word behind those before it.
pub(super) async fn of(place: &Place<'_>, before: &[String], asked: &Asked<'_>) -> Candidates {
    let command = place.command();
    if command.get_subcommands().next().is_some() && before.is_empty() {
        let mut found = commands(command);
        if place.commands.len() == 1 {
            found.words.extend(plugins::all().iter().filter_map(|file| plugin(file)));
        }
        return found;
    }
    match about(&place.path()) {
        About::Objects => objects(asked.kinds().await, before, asked).await,
        About::Kinds(kinds) => {
            objects(kinds.iter().map(|kind| (*kind).to_owned()).collect(), before, asked).await
        }
        About::Names(kind) => Candidates::of(others(asked.names(kind).await, before)),
        About::Pod(behind) => pod(behind, before, asked).await,
        About::Entries(list) => Candidates::of(others(asked.configured(list), before)),
        About::Words(words) if before.is_empty() => Candidates::of(words.iter().copied()),
        About::Kind if before.is_empty() => Candidates::of(asked.kinds().await),
        About::Rights => match before {
            [] => Candidates::of(VERBS.iter().copied()),
            [_] => Candidates::of(asked.kinds().await),
            [_, kind, ..] => Candidates::of(asked.names(kind).await),
        },
        About::PodsAndFiles if !asked.word.contains([':', '/', '.']) => {
            let pods = asked.names("pods").await.into_iter().map(|pod| format!("{pod}:"));
            Candidates { directive: FILES | NO_SPACE, ..Candidates::of(pods) }
        }
        About::PodsAndFiles | About::Files => Candidates::files(),
        About::Words(_) | About::Kind | About::Nothing => Candidates::of(Vec::<String>::new()),
    }
}

/// Those that are not on the line yet.
fn others(names: Vec<String>, before: &[String]) -> impl Iterator<Item = String> {
    names.into_iter().filter(|name| !before.contains(name))
}

/// A kind and then names of it, or both in one word.
async fn objects(kinds: Vec<String>, before: &[String], asked: &Asked<'_>) -> Candidates {
    if let Some((kind, _)) = asked.word.split_once('/') {
        let names = asked.names(kind).await.into_iter().map(|name| format!("{kind}/{name}"));
        return Candidates::of(others(names.collect(), before));
    }
    match before {
        [] => Candidates::of(kinds),
        [first, ..] if first.contains('/') => Candidates { directive: NO_FILES | NO_SPACE, ..slashed(kinds) },
        [kind, rest @ ..] => Candidates::of(others(asked.names(kind).await, rest)),
    }
}

/// Where each object is named with its kind, the next one is as well.
fn slashed(kinds: Vec<String>) -> Candidates {
    Candidates::of(kinds.into_iter().map(|kind| format!("{kind}/")))
}

async fn pod(behind: Behind, before: &[String], asked: &Asked<'_>) -> Candidates {
    match (before, behind) {
        ([], _) => match asked.word.split_once('/') {
            Some((kind, _)) => {
                let names = asked.names(kind).await;
                Candidates::of(names.into_iter().map(|name| format!("{kind}/{name}")))
            }
            None => {
                let kinds = OF_PODS.into_iter().map(str::to_owned);
                let mut found = Candidates::of(asked.names("pods").await.into_iter().chain(kinds));
                let is_kind = |word: &str| word.starts_with(asked.word) && !word.ends_with('/');
                // What is left is a kind alone, behind which a name comes at once.
                if !found.words.iter().any(|(word, _)| is_kind(word)) {
                    found.directive |= NO_SPACE;
                }
                found
            }
        },
        ([subject], Behind::Containers) => Candidates::of(asked.containers(subject).await),
        ([subject, ..], Behind::Ports) => Candidates::of(asked.ports(subject).await),
        _ => Candidates::of(Vec::<String>::new()),
    }
}

fn plugin(file: &Path) -> Option<(String, String)> {
    let name = file.file_name().filter(|_| plugins::is_executable(file))?.to_string_lossy().into_owned();
    Some((name.strip_prefix("kubectl-")?.replace('_', "-"), "A plugin".to_owned()))
}

/// A command's commands, as help sorts them.
pub(super) fn commands(command: &Command) -> Candidates {
    let shown = command.get_subcommands().filter(|one| !one.is_hide_set());
    let words = shown
        .map(|one| (one.get_name().to_owned(), one.get_about().map(ToString::to_string).unwrap_or_default()));
    let mut words: Vec<_> = words.collect();
    words.sort();
    Candidates { words, directive: NO_FILES }
}
