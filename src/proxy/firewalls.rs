//! Firewalls of others on this node: pods are let through where they say how, and elsewhere whoever runs the
//! machine is told what to do.

use crate::{Config, Error};
use base::{Phase, Restart, Shutdown, Supervisor};
use net::Cidr;
use net::firewalls::{News, Obstacle, pass};
use std::collections::BTreeSet;
use std::sync::Arc;

pub(crate) fn start(config: &Config, supervisor: &Supervisor) {
    let pods: Arc<[Cidr]> = config.cluster_cidrs.clone().into();
    supervisor.run("firewalls", Phase::Work, Restart::OnFailure, move |shutdown| run(pods.clone(), shutdown));
}

async fn run(pods: Arc<[Cidr]>, shutdown: Shutdown) -> Result<(), Error> {
    tokio::select! {
        result = follow(&pods) => result,
        () = shutdown.requested() => Ok(()),
    }
}

async fn follow(pods: &[Cidr]) -> Result<(), Error> {
    let mut news = News::listen()?;
    let mut told: BTreeSet<Obstacle> = BTreeSet::new();
    loop {
        let found: BTreeSet<Obstacle> = pass(pods).await?.into_iter().collect();
        for Obstacle { chain, hint } in found.difference(&told) {
            tracing::warn!(
                chain,
                hint,
                "another firewall may drop what pods send and get, whatever knarr allows"
            );
        }
        told = found;
        news.changed().await?;
    }
}
