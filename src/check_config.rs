//! `knarr check-config`: whether this machine can run knarr, and what to do where it cannot. What can be tried is tried,
//! in namespaces of its own; only the rest is read from the kernel's configuration.

use crate::life::{Failure, runtime};
use crate::options::{self, Options, Role};
use crate::{check_kernel, check_machine, check_network, screen};
use clap::{ArgMatches, Command};
use std::process::ExitCode;

/// Settings that a machine may or may not be fit for.
const SETTINGS: [&str; 14] = [
    "data-dir",
    "bind-address",
    "https-listen-port",
    "cluster-cidr",
    "service-cidr",
    "network-backend",
    "vxlan-port",
    "wireguard-port",
    "node-name",
    "node-ip",
    "container-runtime-endpoint",
    "disable",
    "disable-agent",
    "run-dir",
];

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Pass,
    /// knarr runs, but not everything in it does.
    Warn,
    Fail,
}

/// What was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) verdict: Verdict,
    pub(crate) what: String,
    /// What to do; nothing where all is well.
    pub(crate) hint: String,
}

impl Finding {
    pub(crate) fn pass(what: impl Into<String>) -> Self {
        Self { verdict: Verdict::Pass, what: what.into(), hint: String::new() }
    }

    pub(crate) fn warn(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warn, what: what.into(), hint: hint.into() }
    }

    pub(crate) fn fail(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fail, what: what.into(), hint: hint.into() }
    }
}

pub(crate) fn command() -> Command {
    let command = Command::new("check-config").about(
        "Check whether this machine can run knarr: a line for each thing that was looked at; fails if one does",
    );
    options::subset(command, &SETTINGS)
}

pub(crate) fn main(matches: &ArgMatches) -> ExitCode {
    match settings(matches).and_then(|options| Ok(runtime()?.block_on(look(&options)))) {
        Err(error) => screen::failed(&error),
        Ok(findings) => tell(&findings),
    }
}

/// Those of a server, or of an agent where the configuration file is one's.
fn settings(matches: &ArgMatches) -> Result<Options, Failure> {
    let read = |role| options::read(role, matches).and_then(|given| given.options());
    Ok(read(Role::Server).or_else(|error| read(Role::Agent).map_err(|_| error))?)
}

async fn look(options: &Options) -> Vec<Finding> {
    let mut findings = vec![check_machine::root()];
    findings.extend(check_kernel::all(options));
    findings.extend(check_network::all(options).await);
    findings.extend(check_machine::all(options).await);
    findings
}

fn tell(findings: &[Finding]) -> ExitCode {
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    for finding in findings {
        let word = match finding.verdict {
            Verdict::Pass => "pass",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        };
        screen::say(&format!("{word}  {}", finding.what));
        if !finding.hint.is_empty() {
            screen::say(&format!("      {}", finding.hint));
        }
    }
    let (warnings, failures) = (count(Verdict::Warn), count(Verdict::Fail));
    screen::say(&match (failures, warnings) {
        (0, 0) => "This machine can run knarr.".to_owned(),
        (0, _) => format!("This machine can run knarr; warnings: {warnings}."),
        _ => format!("This machine cannot run knarr as it is; failures: {failures}, warnings: {warnings}."),
    });
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
