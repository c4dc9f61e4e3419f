//! Tunnels that nodes have made to this server, through which their kubelets are reached: a node may be where nothing
//! reaches it.

use crate::auth::{User, node_of};
use api::status::Refusal;
use base::tunnel::{Far, Through};
use base::{Body, Phase, Supervisor};
use http::{Request, Response};
use hyper::upgrade::OnUpgrade;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Clone)]
pub(crate) struct Tunnels {
    by_node: Arc<Mutex<HashMap<String, (u64, Far)>>>,
    supervisor: Supervisor,
}

impl Tunnels {
    pub(crate) fn new(supervisor: Supervisor) -> Self {
        Self { by_node: Arc::default(), supervisor }
    }

    fn by_node(&self) -> MutexGuard<'_, HashMap<String, (u64, Far)>> {
        self.by_node.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a node's tunnel, in place of the one it made before.
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
        Ok(base::tunnel::accepted())
    }

    fn add(&self, node: &str, far: Far) -> u64 {
        let mut by_node = self.by_node();
        let number = by_node.get(node).map_or(0, |(number, _)| number + 1);
        by_node.insert(node.to_owned(), (number, far));
        number
    }

    /// A tunnel that has ended; another one may be there already.
    fn remove(&self, node: &str, number: u64) {
        let mut by_node = self.by_node();
        if by_node.get(node).is_some_and(|(own, _)| *own == number) {
            by_node.remove(node);
        }
    }

    /// A connection to a node's kubelet, if the node has a tunnel.
    pub(crate) async fn connect(&self, node: &str, port: u16) -> Option<Result<Through, String>> {
        let far = self.by_node().get(node).map(|(_, far)| far.clone()).filter(|far| !far.is_closed())?;
        Some(far.connect(&format!("kubelet:{port}")).await.map_err(|error| error.to_string()))
    }
}
