//! Gives pods their nodes: a queue, an incremental picture of the cluster, and a table of small pure
//! plugins.
//!
//! It never lists the world: caches tell it what changed, and a pod that fits nowhere waits until
//! something changes that could help it. Start reading at `runner.rs`; `cycle.rs` decides, the table of
//! plugins stands in `plugins/mod.rs`, and what is counted for them in `wishes.rs`.

mod ask;
mod binder;
mod claims;
mod cluster;
mod config;
mod config_rules;
mod cycle;
mod devices;
mod events;
mod intern;
mod lookup;
mod nodes;
mod plugins;
mod preemption;
mod profile;
mod queue;
mod resources;
mod runner;
mod storage;
#[cfg(test)]
mod tests;
mod wishes;
mod world;

pub use config::Error;

use base::Supervisor;
use client::{Caches, Client};
use config::Written;
use queue::Backoffs;
use std::path::Path;

/// Whose pods this scheduler's are, and how it decides.
#[derive(Clone, Debug)]
pub struct Config {
    profiles: Vec<Written>,
    backoffs: Backoffs,
}

impl Config {
    /// What a file with a `KubeSchedulerConfiguration` says.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let (profiles, backoffs) = config::read(path)?;
        Ok(Self { profiles, backoffs })
    }
}

impl Default for Config {
    fn default() -> Self {
        Self { profiles: vec![Written::default()], backoffs: Backoffs::default() }
    }
}

/// Starts the scheduler under `supervisor` and returns.
pub fn start(config: Config, client: Client, caches: &Caches, supervisor: &Supervisor) {
    runner::start(config, client, caches, supervisor);
}
