//! One registered driver.

use super::call::{Failure, call};
use crate::protocols::csi::v1::{
    self as csi, node_client::NodeClient, node_service_capability::Type as Wrapped,
    node_service_capability::rpc::Type,
};
use std::collections::HashSet;
use tokio::sync::OnceCell;
use tonic::transport::Channel;

/// What a driver can do besides publishing volumes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Capabilities(HashSet<i32>);

impl Capabilities {
    pub(super) fn has(&self, kind: Type) -> bool {
        self.0.contains(&(kind as i32))
    }

    fn of(answer: csi::NodeGetCapabilitiesResponse) -> Self {
        let kinds = answer.capabilities.into_iter().filter_map(|capability| match capability.r#type? {
            Wrapped::Rpc(rpc) => Some(rpc.r#type),
        });
        Self(kinds.collect())
    }
}

/// A driver, for as long as its socket is registered.
pub(crate) struct Driver {
    client: NodeClient<Channel>,
    capabilities: OnceCell<Capabilities>,
}

impl Driver {
    pub(super) fn new(client: NodeClient<Channel>) -> Self {
        Self { client, capabilities: OnceCell::new() }
    }

    pub(super) fn client(&self) -> NodeClient<Channel> {
        self.client.clone()
    }

    /// What it says of this node.
    pub(super) async fn info(&self) -> Result<csi::NodeGetInfoResponse, Failure> {
        call(self.client().node_get_info(csi::NodeGetInfoRequest {})).await
    }

    /// What it can do; asked once for as long as it is registered.
    pub(super) async fn capabilities(&self) -> Result<&Capabilities, Failure> {
        let ask = || async {
            let answer = call(self.client().node_get_capabilities(csi::NodeGetCapabilitiesRequest {})).await;
            answer.map(Capabilities::of)
        };
        self.capabilities.get_or_try_init(ask).await
    }
}
