//! Gives pods their nodes: a queue, an incremental picture of the cluster, and tables of small pure
//! filters and scores.
//!
//! It never lists the world: caches tell it what changed, and a pod that fits nowhere waits until
//! something changes that could help it. Start reading at `runner.rs`; `plan.rs` decides, and the
//! tables of plugins stand in `filters.rs` and `scores.rs`.

mod cluster;
mod filters;
mod plan;
mod preemption;
mod queue;
mod resources;
mod runner;
mod scores;
#[cfg(test)]
mod tests;
mod topology;
mod wanted;

use base::Supervisor;
use client::{Caches, Client};

/// Which pods are this scheduler's.
#[derive(Clone, Debug)]
pub struct Config {
    /// Pods with this `spec.schedulerName`.
    pub scheduler_name: String,
}

impl Default for Config {
    fn default() -> Self {
        Self { scheduler_name: "default-scheduler".to_owned() }
    }
}

/// Starts the scheduler under `supervisor` and returns.
pub fn start(config: Config, client: Client, caches: &Caches, supervisor: &Supervisor) {
    runner::start(config, client, caches, supervisor);
}
