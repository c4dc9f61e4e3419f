//! Nodes that pull images from each other, which spares registries, and stands in for those that are not there.
//!
//! The runtime asks [`door`], which is the first of a registry's hosts to it, on the loopback interface; the door asks
//! other nodes at their kubelets' HTTPS, as this node by its certificate; [`serve`] answers there, nodes of the cluster
//! alone, from what this node's runtime has whole. Whom to ask follows from the Nodes ([`candidates`]). Nobody tells
//! others anything of images besides, and nothing is done while no image is pulled. What comes is the runtime's to
//! verify, by its digest.

mod asked;
mod candidates;
mod door;
mod serve;

pub(crate) use door::Door;
pub(crate) use serve::Sharing;

use crate::containerd::registries::Shared;
use crate::{Context, Error};
use api::core::Node;
use base::https::Connector;
use base::{Phase, Restart};
use client::Cache;
use std::sync::Arc;

/// Begins to ask other nodes, and gives what answers them.
pub(crate) fn start(context: &Arc<Context>, door: Door) -> Arc<Sharing> {
    let nodes: Cache<Node> = context.caches.of();
    let shared = Arc::new(door.shared.clone());
    let connector = Connector { tls: context.config.peers.clone(), ..Connector::default() };
    let others = door::Others::new(
        (nodes.clone(), context.config.node_name.clone()),
        shared.clone(),
        ("https", connector.pool()),
    );
    let (door, others, supervisor) = (Arc::new(door), Arc::new(others), context.supervisor.clone());
    context.supervisor.run("images of other nodes", Phase::Ground, Restart::OnFailure, move |shutdown| {
        let (door, others, supervisor) = (door.clone(), others.clone(), supervisor.clone());
        async move { door.run(others, &supervisor, shutdown).await }
    });
    Arc::new(Sharing::new(context.runtime.clone(), shared, nodes, context.supervisor.clone()))
}

/// Says what becomes of a node's part where its runtime is not knarr's own.
pub(crate) fn leave_out(socket: &std::path::Path) {
    tracing::warn!(
        runtime = %socket.display(),
        "this node neither gives images to other nodes nor takes any from them: its runtime is not knarr's own"
    );
}

/// Takes the door's address on the loopback interface, if any registry's images are shared.
pub(crate) async fn bind(shared: Shared, file: &std::path::Path) -> Result<Option<Door>, Error> {
    if shared.is_empty() { Ok(None) } else { Door::bind(shared, file).await.map(Some) }
}
