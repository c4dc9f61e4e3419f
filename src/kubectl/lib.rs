//! `knarr kubectl`: the command line client, in the words and with the exit codes of Kubernetes' own.
//!
//! It must never know more of a kind than the server publishes, so that custom resources work like
//! built-in ones; only what prints (`describe`, `rollout`), what generates (`create`, `run`, `expose`) and what is
//! about pods or rights of one kind (`set`, `auth`, `certificate`) know the kinds that they are about. Start reading at [`main`], then `session`, which every command is given;
//! `commands` has one file a command, `choice` finds the objects that one is about and `writing` changes and
//! prints them.

mod args;
mod choice;
mod commands;
mod completion;
mod connection;
mod controlled;
mod deleting;
mod discovery;
mod discovery_cache;
mod download;
mod error;
mod events;
mod globals;
mod help;
mod kubeconfig;
mod line;
mod manifests;
mod output;
mod pairs;
mod parts;
mod plugins;
mod pods;
mod preferences;
mod private_file;
mod record;
mod remote;
mod requests;
mod session;
mod target;
mod terminal;
mod tree;
mod wait_gone;
mod watch;
mod writing;

use args::Arguments;
use clap::CommandFactory;
use error::Error;
use line::Ended;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

/// Runs one command; `args` are those after `kubectl`.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let words = match line::words(args) {
        Ok(words) => words,
        Err(error) => return ended(Err(error)),
    };
    if let Some((first, words)) = words.split_first()
        && matches!(first.as_str(), "__complete" | "__completeNoDesc")
    {
        return waited_for(completed(words.to_vec(), first == "__complete"));
    }
    match line::read(words) {
        Ok(arguments) => waited_for(run(arguments)),
        Err(Ended::Said(code)) => code,
        Err(Ended::Failed(error)) => ended(Err(error)),
    }
}

fn waited_for(work: impl Future<Output = Result<(), Error>>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(work);
    // A read of standard input may still be blocked: it is not waited for.
    runtime.shutdown_background();
    ended(done)
}

fn ended(done: Result<(), Error>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Error::Said(code)) => ExitCode::from(code),
        Err(error) => {
            eprintln!("{error}");
            if let Error::Exit(_, code) = error { ExitCode::from(code) } else { ExitCode::FAILURE }
        }
    }
}

async fn completed(words: Vec<String>, described: bool) -> Result<(), Error> {
    let mut found = completion::complete(&Arguments::command(), &words).await;
    if !described {
        found.words.iter_mut().for_each(|(_, what)| what.clear());
    }
    output::say(&found.render())
}

/// The server and user of a kubeconfig: of this file, or of those that kubectl reads without being told.
pub fn target(kubeconfig: Option<PathBuf>) -> Result<client::https::Target, String> {
    let global = args::Global { kubeconfig, ..Default::default() };
    session::Session::open(&global).and_then(session::Session::plain_target).map_err(|error| match error {
        Error::Plain(text) => text,
        other => other.to_string(),
    })
}

async fn run(arguments: Arguments) -> Result<(), Error> {
    let Arguments { global, command } = arguments;
    commands::run(&global, command).await
}
