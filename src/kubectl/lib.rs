//! `knarr kubectl`: the command line client, in the words and with the exit codes of Kubernetes' own.
//!
//! It must never know more of a kind than the server publishes, so that custom resources work like
//! built-in ones; only `describe`, `logs`, `scale` and `rollout` know the kinds that they are about.
//! Start reading at [`main`], then `session`, which every command is given.

mod api_resources;
mod apply;
mod args;
mod config;
mod create;
mod delete;
mod describe;
mod discovery;
mod error;
mod exec;
mod get;
mod kubeconfig;
mod logs;
mod manifests;
mod output;
mod pods;
mod rollout;
mod scale;
mod session;
mod target;
mod terminal;
mod version;
mod wait_gone;
mod watch;

use args::{Arguments, Command};
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

/// Help goes to standard output and is no failure.
fn explain(refused: &clap::Error) -> ExitCode {
    let written = refused.print();
    if written.is_ok() && !refused.use_stderr() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn run(arguments: Arguments) -> Result<(), Error> {
    let Arguments { global, command } = arguments;
    if let Command::Config(command) = command {
        return config::run(&global, command);
    }
    let session = session::Session::open(&global)?;
    match command {
        Command::Get(args) => get::run(&session, &args).await,
        Command::Describe(args) => describe::run(&session, &args).await,
        Command::Apply(args) => apply::run(&session, &args).await,
        Command::Create(args) => create::run(&session, &args).await,
        Command::Delete(args) => delete::run(&session, &args).await,
        Command::Logs(args) => logs::run(&session, &args).await,
        Command::Exec(args) => exec::run(&session, &args).await,
        Command::Scale(args) => scale::run(&session, &args).await,
        Command::Rollout(command) => rollout::run(&session, &command).await,
        Command::ApiResources(args) => api_resources::run(&session, &args).await,
        Command::Version(args) => version::run(&session, &args).await,
        Command::Config(_) => Ok(()),
    }
}
