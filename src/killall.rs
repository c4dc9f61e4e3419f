//! `knarr killall`: stops knarr with all that it runs, and takes away what that did to the machine; data stays.

use crate::installed::Init;
use crate::life::{self, Failure};
use crate::places::{SETTINGS, Target, targets};
use crate::{options, processes, traces};
use clap::{ArgMatches, Command};
use nix::unistd::geteuid;
use std::process::ExitCode;
use std::time::Duration;

/// An init system stops a service within this; pods are not waited for.
const STOP_LIMIT: Duration = Duration::from_secs(120);

pub(crate) fn command() -> Command {
    let command = Command::new("killall").about(
        "Stop knarr, its runtime and every pod, and undo what they did to this machine's network, mounts and cgroups; data stays",
    );
    options::subset(command, &SETTINGS)
}

pub(crate) fn main(matches: &ArgMatches) -> ExitCode {
    life::once(async {
        need_root("killall")?;
        let mut troubles = Troubles::default();
        for target in &targets(matches)? {
            stop(target, &mut troubles).await;
        }
        traces::remove_shared(&mut troubles).await;
        troubles.into_result()
    })
}

/// Only root may do what follows.
pub(crate) fn need_root(command: &str) -> Result<(), Failure> {
    if geteuid().is_root() {
        return Ok(());
    }
    Err(format!("run it as root: sudo knarr {command}").into())
}

/// What could not be done. Removing goes on after each and tells all of them.
#[derive(Default)]
pub(crate) struct Troubles(pub(crate) Vec<String>);

impl Troubles {
    pub(crate) fn note(&mut self, what: impl Into<String>) {
        self.0.push(what.into());
    }

    pub(crate) fn into_result(self) -> Result<(), Failure> {
        if self.0.is_empty() { Ok(()) } else { Err(self.0.join("; ").into()) }
    }
}

/// Stops what runs from some folders, and unmounts what it mounted.
pub(crate) async fn stop(target: &Target, troubles: &mut Troubles) {
    if let Some(record) = &target.record {
        let (program, arguments): (_, &[&str]) = match record.init {
            Init::Systemd => ("systemctl", &["stop", record.service.as_str()]),
            Init::OpenRc => ("rc-service", &["--ifstarted", record.service.as_str(), "stop"]),
            Init::None => ("", &[]),
        };
        if !program.is_empty() {
            call(program, arguments, troubles).await;
        }
    }
    processes::stop(&target.options, troubles).await;
    traces::remove(&target.options, troubles);
}

/// Runs a program of the machine's to its end.
pub(crate) async fn call(program: &str, arguments: &[&str], troubles: &mut Troubles) {
    let mut command = base::process::command(program);
    command.args(arguments);
    if let Err(error) = base::process::check(command, b"", STOP_LIMIT).await {
        troubles.note(error.to_string());
    }
}
