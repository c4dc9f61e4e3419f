//! Which tasks of a server run on every server of a cluster, and which on the one that leads.
//!
//! Every server serves, keeps its own certificates and what others know it by, and runs its own node. What writes objects
//! for the cluster as a whole runs on one: the controllers, and with them what is kept of flow control, APIServices and
//! machines' passwords; and the scheduler. Their caches and queues are kept current everywhere, so that whoever takes over
//! goes on at once.

use base::{Phase, Restart, Shutdown, Supervisor, Term};
use client::election::{Candidate, NAMESPACE};
use client::{Caches, Client};
use std::convert::Infallible;
use std::process::exit;
use std::sync::Arc;

/// What the parts that lead run under.
pub(crate) struct Leading {
    pub(crate) controllers: Supervisor,
    pub(crate) scheduler: Supervisor,
}

impl Leading {
    /// Where there is no other server: they run always, and nothing is written for it.
    pub(crate) fn alone(supervisor: &Supervisor) -> Self {
        Self { controllers: supervisor.clone(), scheduler: supervisor.clone() }
    }

    /// Where there may be others. `clients` are the controllers' and the scheduler's, of those that run here.
    pub(crate) fn elected(
        hostname: &str,
        clients: (Option<Client>, Option<Client>),
        caches: &Caches,
        supervisor: &Supervisor,
    ) -> Self {
        let part = |name, client: Option<Client>| {
            let term = Term::new();
            if let Some(client) = client {
                let known = (client, caches.selected(NAMESPACE, ""));
                stand(Candidate::new(name, hostname, known, &term, supervisor), supervisor);
            }
            supervisor.during(&term)
        };
        Self {
            controllers: part("kube-controller-manager", clients.0),
            scheduler: part("kube-scheduler", clients.1),
        }
    }
}

fn stand(candidate: Candidate, supervisor: &Supervisor) {
    let name = format!("election of {}", candidate.name);
    let candidate = Arc::new(candidate);
    supervisor.run(&name, Phase::Work, Restart::Fatal, move |shutdown| lead(candidate.clone(), shutdown));
}

async fn lead(candidate: Arc<Candidate>, shutdown: Shutdown) -> Result<(), Infallible> {
    if let Err(stuck) = candidate.run(&shutdown).await {
        tracing::error!(lease = candidate.name, %stuck, "the process ends");
        // Not by an orderly stop, which would wait for them while another leads.
        exit(1);
    }
    Ok(())
}
