//! Tunnels that nodes have made to this server, through which what is on them is reached: a node may be where nothing
//! reaches it.

use crate::auth::{User, node_of};
use api::status::Refusal;
use base::tunnel::Far;
use base::{Body, Phase, Supervisor, random};
use http::{HeaderValue, Request, Response};
use hyper::upgrade::OnUpgrade;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many tunnels of one node are kept: it has a second one for a moment, where it knows this server by several
/// addresses or has moved.
const TUNNELS: usize = 4;

/// A node's tunnels by number, the newest last.
type ByNode = HashMap<String, Vec<(u64, Far)>>;

#[derive(Clone)]
pub(crate) struct Tunnels {
    by_node: Arc<Mutex<ByNode>>,
    /// What nodes know this server by, to see that one that they have several addresses of is one.
    own: HeaderValue,
    supervisor: Supervisor,
}

impl Tunnels {
    pub(crate) fn new(supervisor: Supervisor) -> Self {
        let own = HeaderValue::try_from(random::uuid()).expect("a UUID is text");
        Self { by_node: Arc::default(), own, supervisor }
    }

    fn by_node(&self) -> MutexGuard<'_, ByNode> {
        self.by_node.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a node's tunnel, which is used rather than those it made before.
    pub(crate) fn take(&self, user: &User, mut request: Request<Body>) -> Result<Response<Body>, Refusal> {
        let upgrade = request.extensions_mut().remove::<OnUpgrade>();
        let asked = base::tunnel::is_asked(request.headers());
        let node = node_of(user).ok_or_else(|| Refusal::bad_request("tunnels are nodes'"))?.to_owned();
        let upgrade = upgrade.filter(|_| asked);
        let upgrade =
            upgrade.ok_or_else(|| Refusal::bad_request("this is for connections that become tunnels"))?;
        let tunnels = self.clone();
        self.supervisor.detached("tunnel of a node", Phase::Work, async move {
            let (far, driving) = match Far::of(upgrade).await {
                Ok(both) => both,
                Err(error) => return tracing::debug!(%error, node, "a tunnel did not come about"),
            };
            let number = tunnels.add(&node, far);
            tracing::debug!(node, "a node has made a tunnel");
            if let Err(error) = driving.await {
                tracing::debug!(%error, node, "a tunnel ended");
            }
            tunnels.remove(&node, number);
        });
        Ok(base::tunnel::accepted(&self.own))
    }

    fn add(&self, node: &str, far: Far) -> u64 {
        let mut by_node = self.by_node();
        let tunnels = by_node.entry(node.to_owned()).or_default();
        let number = tunnels.last().map_or(0, |(number, _)| number + 1);
        if tunnels.len() >= TUNNELS {
            tunnels.remove(0);
        }
        tunnels.push((number, far));
        number
    }

    /// A tunnel that has ended; others may be there still.
    fn remove(&self, node: &str, number: u64) {
        let mut by_node = self.by_node();
        let Some(tunnels) = by_node.get_mut(node) else { return };
        tunnels.retain(|(own, _)| *own != number);
        if tunnels.is_empty() {
            by_node.remove(node);
        }
    }

    /// A node's tunnel, if it has made one.
    pub(crate) fn of(&self, node: &str) -> Option<Far> {
        let by_node = self.by_node();
        let mut newest = by_node.get(node)?.iter().rev();
        newest.find(|(_, far)| !far.is_closed()).map(|(_, far)| far.clone())
    }
}
