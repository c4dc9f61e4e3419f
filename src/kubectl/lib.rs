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
mod deleting;
mod discovery;
mod error;
mod kubeconfig;
mod manifests;
mod output;
mod pairs;
mod pods;
mod session;
mod target;
mod terminal;
mod wait_gone;
mod watch;
mod writing;

use args::Arguments;
use clap::Parser;
use error::Error;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

/// Runs one command; `args` are those after `kubectl`.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(std::iter::once(OsString::from("kubectl")).chain(args)) {
        Ok(arguments) => arguments,
        Err(refused) => return explain(&refused),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(run(arguments));
    // A read of standard input may still be blocked: it is not waited for.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(Error::Said(code)) => ExitCode::from(code),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// The server and user of a kubeconfig: of this file, or of those that kubectl reads without being told.
pub fn target(kubeconfig: Option<PathBuf>) -> Result<client::https::Target, String> {
    let global = args::Global { kubeconfig, ..Default::default() };
    session::Session::open(&global).map(|session| session.target).map_err(|error| match error {
        Error::Plain(text) => text,
        other => other.to_string(),
    })
}

/// Help goes to standard output and is no failure; what was not understood is said in kubectl's words.
fn explain(refused: &clap::Error) -> ExitCode {
    match args::misunderstood(refused) {
        Some(sentence) => {
            eprintln!("error: {sentence}");
            ExitCode::FAILURE
        }
        None => {
            let written = refused.print();
            if written.is_ok() && !refused.use_stderr() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Error> {
    let Arguments { global, command } = arguments;
    commands::run(&global, command).await
}
