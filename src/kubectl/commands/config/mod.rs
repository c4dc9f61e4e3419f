//! `kubectl config`: shows and changes kubeconfig files.

mod entries;
mod property;
mod view;

use crate::error::Error;
use crate::globals::Global;
use crate::kubeconfig::{Kubeconfig, names};
use crate::output::say;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

/// What is done with the kubeconfig.
#[derive(Subcommand)]
pub(crate) enum Config {
    /// Show the context in use
    CurrentContext,
    /// Remove a cluster
    DeleteCluster(Words),
    /// Remove a context
    DeleteContext(Words),
    /// Remove a user
    DeleteUser(Words),
    /// List clusters
    GetClusters,
    /// List contexts
    GetContexts(view::GetContexts),
    /// List users
    GetUsers,
    /// Give a context another name
    RenameContext(Words),
    /// Set a value by its path
    Set(property::Set),
    /// Change or add a cluster
    SetCluster(entries::SetCluster),
    /// Change or add a context
    SetContext(entries::SetContext),
    /// Change or add a user
    SetCredentials(Box<entries::SetCredentials>),
    /// Remove a value by its path
    Unset(Words),
    /// Use another context
    #[command(alias = "use")]
    UseContext(Words),
    /// Show it
    View(view::View),
}

/// Names and values.
#[derive(Args)]
pub(crate) struct Words {
    words: Vec<String>,
}

/// Exactly so many words.
fn exactly<const N: usize>(words: &[String]) -> Result<[&str; N], Error> {
    let all: Vec<&str> = words.iter().map(String::as_str).collect();
    let said = format!("Unexpected args: [{}]", all.join(" "));
    all.try_into().map_err(|_| Error::plain(said))
}

pub(crate) fn run(global: &Global, command: Config) -> Result<(), Error> {
    let config = Kubeconfig::load_raw(global)?;
    match command {
        Config::CurrentContext => match config.content["current-context"].as_str().unwrap_or_default() {
            "" => Err(Error::plain("current-context is not set")),
            name => say(&format!("{name}\n")),
        },
        Config::DeleteCluster(args) => delete(&config, ("clusters", "cluster"), &args.words),
        Config::DeleteContext(args) => delete(&config, ("contexts", "context"), &args.words),
        Config::DeleteUser(args) => delete(&config, ("users", "user"), &args.words),
        Config::GetClusters => list(&config, "clusters"),
        Config::GetContexts(args) => view::contexts(&config, &args),
        Config::GetUsers => list(&config, "users"),
        Config::RenameContext(args) => rename(&config, &args.words),
        Config::Set(args) => property::set(&config, &args),
        Config::SetCluster(args) => entries::set_cluster(global, &config, &args),
        Config::SetContext(args) => entries::set_context(global, &config, &args),
        Config::SetCredentials(args) => entries::set_credentials(global, &config, &args),
        Config::Unset(args) => property::unset(&config, &args.words),
        Config::UseContext(args) => switch(&config, &args.words),
        Config::View(args) => view::run(global, &args),
    }
}

fn list(config: &Kubeconfig, list: &str) -> Result<(), Error> {
    let lines: String = names(&config.content, list).iter().map(|name| format!("{name}\n")).collect();
    say(&format!("NAME\n{lines}"))
}

fn delete(config: &Kubeconfig, (list, what): (&str, &str), words: &[String]) -> Result<(), Error> {
    let [name] = exactly(words)?;
    let file = config.default_file().display();
    if config.entry(list, name).is_none() {
        return Err(Error::plain(format!("cannot delete {what} {name}, not in {file}")));
    }
    let mut edited = config.content.clone();
    if list == "contexts" && edited["current-context"] == name {
        eprintln!(
            "warning: this removed your active context, use \"kubectl config use-context\" to select a different one"
        );
    }
    if let Some(items) = edited[list].as_array_mut() {
        items.retain(|item| item["name"] != name);
    }
    config.write(&edited, true)?;
    say(&format!("deleted {what} {name} from {file}\n"))
}

fn rename(config: &Kubeconfig, words: &[String]) -> Result<(), Error> {
    let [name, new] = exactly(words)?;
    let file = config.default_file().display();
    if new.is_empty() {
        return Err(Error::plain("You must specify a new non-empty context name"));
    }
    let Some(context) = config.entry("contexts", name) else {
        return Err(Error::plain(format!("cannot rename the context {name:?}, it's not in {file}")));
    };
    if config.entry("contexts", new).is_some() {
        return Err(Error::plain(format!(
            "cannot rename the context {name:?}, the context {new:?} already exists in {file}"
        )));
    }
    let mut edited = config.content.clone();
    put(&mut edited, ("contexts", "context"), new, context.clone());
    if let Some(items) = edited["contexts"].as_array_mut() {
        items.retain(|item| item["name"] != name);
    }
    if edited["current-context"] == name {
        edited["current-context"] = json!(new);
    }
    config.write(&edited, true)?;
    say(&format!("Context {name:?} renamed to {new:?}.\n"))
}

fn switch(config: &Kubeconfig, words: &[String]) -> Result<(), Error> {
    let [name] = exactly(words)?;
    if name.is_empty() {
        return Err(Error::plain("empty context names are not allowed"));
    }
    if config.entry("contexts", name).is_none() {
        return Err(Error::plain(format!("no context exists with the name: {name:?}")));
    }
    let mut edited = config.content.clone();
    edited["current-context"] = json!(name);
    config.write(&edited, true)?;
    say(&format!("Switched to context {name:?}.\n"))
}

/// Puts an entry into a list, in place of one of the same name.
fn put(content: &mut Value, (list, field): (&str, &str), name: &str, entry: Value) {
    let Some(items) = content[list].as_array_mut() else { return };
    match items.iter_mut().find(|item| item["name"] == name) {
        Some(item) => item[field] = entry,
        None => items.push(json!({"name": name, field: entry})),
    }
}
