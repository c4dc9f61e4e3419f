//! Through which node's tunnel a connection of this server's goes, if through any: decided here, whoever makes it.

use crate::registry::Records;
use crate::services::ServicePort;
use crate::streams::Tunnels;
use api::egress::Egress;
use base::https::{Connector, Through};
use base::tunnel::Far;
use std::sync::Arc;

/// What a connection is to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Whither {
    /// Something that no node vouches for.
    Anywhere,
    /// The kubelet of this node.
    Kubelet(String),
    /// A pod on this node.
    Pod(String),
    /// What a Service leads to on this node that is no pod of the API.
    Endpoint(String),
}

/// The nodes' tunnels, and what they are for. By default there are none.
#[derive(Clone, Default)]
pub(crate) struct Ways(Option<(Egress, Tunnels)>);

impl Ways {
    pub(crate) fn new(egress: Egress, tunnels: Tunnels) -> Self {
        Self(Some((egress, tunnels)))
    }

    /// The tunnel; none where this server connects by itself, which it also does if the node has made no tunnel.
    pub(crate) fn through(&self, whither: &Whither) -> Option<Far> {
        let (needed, node) = needed(whither)?;
        let (egress, tunnels) = self.0.as_ref()?;
        tunnels.of(node).filter(|_| *egress >= needed)
    }

    /// What to say of a connection that did not come about, behind the reason: nothing, where another mode would not
    /// help.
    pub(crate) fn hint(&self, whither: &Whither) -> &'static str {
        let helps =
            self.0.as_ref().zip(needed(whither)).is_some_and(|((egress, tunnels), (needed, node))| {
                *egress < needed && tunnels.of(node).is_some()
            });
        if helps {
            "; this would go through the node's tunnel with another --egress-selector-mode"
        } else {
            ""
        }
    }
}

/// The mode from which on there is a tunnel for it, and whose.
fn needed(whither: &Whither) -> Option<(Egress, &str)> {
    match whither {
        Whither::Anywhere => None,
        Whither::Kubelet(node) => Some((Egress::Agent, node)),
        Whither::Pod(node) => Some((Egress::Pod, node)),
        Whither::Endpoint(node) => Some((Egress::Cluster, node)),
    }
}

impl ServicePort {
    /// Connects as this one does, through the tunnels of the nodes that the Service's endpoints are on.
    pub(crate) fn through(&self, records: &Records, connector: Connector) -> Connector {
        let (service, records) = (self.clone(), records.clone());
        let through: Arc<Through> = Arc::new(move |address, _| {
            let whither = service.whither(&records, address);
            records.ways().through(&whither)
        });
        Connector { through: Some(through), ..connector }
    }
}
