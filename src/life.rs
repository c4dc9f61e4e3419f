//! The life of a process that runs rooms: it starts them, waits, and drains.

use crate::{ready, screen};
use base::log::Format;
use base::{Drained, Exit, Supervisor};
use client::Client;
use client::https::Https;
use std::error::Error as StdError;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tracing::level_filters::LevelFilter;

/// Failures on the way up are sentences for the person who started knarr.
pub(crate) type Failure = Box<dyn StdError + Send + Sync>;

/// Threads that carry the tasks of a command: the work is short and mostly waiting.
const WORKERS: usize = 2;
/// Of a server or agent, which also carry others' requests, at the most: each keeps memory of its own.
const MOST_WORKERS: usize = 8;

fn threads(workers: usize) -> Result<Runtime, std::io::Error> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()
}

pub(crate) fn runtime() -> Result<Runtime, std::io::Error> {
    threads(WORKERS)
}

/// Threads by the processors that this process may use, of cgroups' quotas too.
fn living() -> Result<Runtime, std::io::Error> {
    let processors = std::thread::available_parallelism().map_or(WORKERS, usize::from);
    threads(processors.clamp(WORKERS, MOST_WORKERS))
}

/// Runs a command to its end.
pub(crate) fn once(work: impl Future<Output = Result<(), Failure>>) -> ExitCode {
    let done = match runtime() {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => Err(format!("cannot start threads: {error}").into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => screen::failed(&error),
    }
}

/// Speaks with a server as the administrator of a kubeconfig, or of those that kubectl finds.
pub(crate) fn administrator(kubeconfig: Option<PathBuf>) -> Result<Client, Failure> {
    Ok(Client::new(Arc::new(Https::new(kubectl::target(kubeconfig)?))))
}

/// Starts rooms, and runs them until they are stopped.
pub(crate) fn live(
    log: Format,
    debug: bool,
    start: impl AsyncFnOnce(&Supervisor) -> Result<(), Failure>,
) -> ExitCode {
    let level = if debug { LevelFilter::DEBUG } else { LevelFilter::INFO };
    base::log::start(log, level);
    let installed = rustls::crypto::ring::default_provider().install_default();
    if installed.is_err() {
        return screen::failed(&"the TLS provider was installed twice");
    }
    match living() {
        Ok(runtime) => runtime.block_on(run(start)),
        Err(error) => screen::failed(&format!("cannot start threads: {error}")),
    }
}

async fn run(start: impl AsyncFnOnce(&Supervisor) -> Result<(), Failure>) -> ExitCode {
    let supervisor = Supervisor::new();
    let running = async {
        match start(&supervisor).await {
            Ok(()) => wait(&supervisor).await,
            Err(failure) => screen::failed(&failure),
        }
    };
    let code = tokio::select! {
        code = running => code,
        signal = stopped() => match signal {
            Ok(()) => {
                screen::say(&"Stopping; pods keep running.");
                ExitCode::SUCCESS
            }
            Err(failure) => screen::failed(&failure),
        },
    };
    ready::notify("STOPPING=1");
    if let Drained::Aborted(tasks) = supervisor.drain().await {
        tracing::warn!(tasks, "some tasks did not stop in time");
    }
    code
}

async fn wait(supervisor: &Supervisor) -> ExitCode {
    match supervisor.ended().await {
        Exit::Requested => ExitCode::SUCCESS,
        Exit::Task(name, why) => screen::failed(&format!("{name} ended: {why}")),
    }
}

/// Completes on SIGINT or SIGTERM.
pub(crate) async fn stopped() -> Result<(), Failure> {
    let both = signal(SignalKind::interrupt()).and_then(|int| Ok((int, signal(SignalKind::terminate())?)));
    let (mut interrupt, mut terminate) =
        both.map_err(|error| format!("cannot listen for signals: {error}"))?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}
