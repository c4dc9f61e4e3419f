//! Whose processes and folders are meant: those of what was installed, or those that flags name.

use crate::installed::{Record, records};
use crate::life::Failure;
use crate::options::{self, Options, Role};
use clap::ArgMatches;
use clap::parser::ValueSource;

/// Settings that say what is stopped and removed, in place of what was installed.
pub(crate) const SETTINGS: [&str; 5] = ["data-dir", "run-dir", "kubelet-dir", "log-dir", "write-kubeconfig"];

/// What is stopped: a knarr by its folders, and the service that runs it.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) options: Options,
    pub(crate) record: Option<Record>,
}

/// What was installed, or the knarr that flags name; with neither the one of environment and configuration file.
pub(crate) fn targets(matches: &ArgMatches) -> Result<Vec<Target>, Failure> {
    let installed: Vec<Target> = records()?
        .into_iter()
        .map(|record| Ok(Target { options: record.options()?, record: Some(record) }))
        .collect::<Result<_, String>>()?;
    let is_named = |name: &&str| matches.value_source(name) == Some(ValueSource::CommandLine);
    if !installed.is_empty() && !SETTINGS.iter().chain(&["config"]).any(is_named) {
        return Ok(installed);
    }
    let options = own(matches)?;
    let record = installed.into_iter().find(|target| target.options.data_dir == options.data_dir);
    Ok(vec![Target { options, record: record.and_then(|target| target.record) }])
}

/// The settings of the command itself. The configuration file may be a server's or an agent's.
fn own(matches: &ArgMatches) -> Result<Options, Failure> {
    let read = |role| options::read(role, matches).and_then(|given| given.options());
    Ok(read(Role::Server).or_else(|error| read(Role::Agent).map_err(|_| error))?)
}
