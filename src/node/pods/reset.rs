//! KEP-5532: the end of a container that makes all containers of its pod start over, in the same sandbox.

use super::observe::{Container as Record, Life, Observed};
use super::policy;
use super::spec::{self, Kind};
use api::core::Pod;

/// `reason` of containers that were removed to start over.
pub(crate) const REASON: &str = "RestartingAllContainers";
/// Their message.
pub(crate) const MESSAGE: &str = "The container is removed because RestartAllContainers in place";

/// Whether this record's end is what makes the others start over.
fn triggers(pod: &Pod, record: &Record) -> bool {
    let found = spec::container(pod, &record.name).filter(|(kind, _)| *kind != Kind::Ephemeral);
    record.life == Life::Exited
        && found.is_some_and(|(kind, it)| policy::of(pod, kind, &it).restarts_all(record.exit_code))
}

/// Whether all containers are to be removed, to start over.
pub(crate) fn is_due(pod: &Pod, observed: &Observed) -> bool {
    policy::may_restart_all(pod) && observed.containers.iter().any(|record| triggers(pod, record))
}

/// What is removed, in order: main containers before init containers, and last those whose ends ask for it, so
/// that a restart of knarr in between goes on with it.
pub(crate) fn order<'a>(pod: &Pod, observed: &'a Observed) -> Vec<&'a Record> {
    let of_init = |record: &Record| spec::init_containers(pod).iter().any(|c| c.name == record.name);
    let ephemeral =
        |record: &Record| spec::container(pod, &record.name).is_some_and(|(kind, _)| kind == Kind::Ephemeral);
    let mut records: Vec<&Record> = observed.containers.iter().filter(|record| !ephemeral(record)).collect();
    records.sort_by_key(|record| (triggers(pod, record), of_init(record)));
    records
}
