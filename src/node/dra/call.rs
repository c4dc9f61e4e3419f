//! Calls of drivers of devices. Both versions have the same messages under other names.

use crate::Error;
use crate::plugins::{Plugin, in_go_words};
use crate::protocols::dra;
use crate::protocols::v1alpha1::dra_resource_health_client::DraResourceHealthClient;
use crate::protocols::v1alpha1::{NodeWatchResourcesRequest, NodeWatchResourcesResponse};
use http::uri::PathAndQuery;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::watch;
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

/// How long a driver may take, as Kubernetes gives it.
const LIMIT: Duration = Duration::from_secs(45);

/// The services that this node speaks, the best first, with their paths.
const SERVICES: [(&str, &str); 2] = [
    ("v1.DRAPlugin", "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin"),
    ("v1beta1.DRAPlugin", "/k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin"),
];

/// The path of the best service that a driver has.
fn service(versions: &[String]) -> Result<&'static str, String> {
    if versions.is_empty() {
        return Err("empty list of supported gRPC services (aka supported versions)".to_owned());
    }
    let has = |name: &str| versions.iter().any(|own| own == name);
    let found = SERVICES.iter().find(|(name, _)| has(name)).map(|(_, path)| *path);
    // Drivers that are older than names of services say their version alone.
    let found = found.or_else(|| has("1.0.0").then_some(SERVICES[1].1));
    found.ok_or_else(|| {
        let known: Vec<&str> = SERVICES.iter().map(|(name, _)| *name).collect();
        format!(
            "none of services supported by the plugin ({versions:?}) are supported by the kubelet ({known:?})"
        )
    })
}

/// A registered driver.
pub(super) struct Driver {
    pub(super) name: String,
    pub(super) endpoint: PathBuf,
    service: &'static str,
    channel: Channel,
    ended: watch::Sender<bool>,
}

impl Driver {
    pub(super) fn new(plugin: &Plugin, channel: Channel) -> Result<Self, Error> {
        let (name, endpoint) = (&plugin.name, plugin.endpoint.display());
        let service = service(&plugin.versions).map_err(|why| {
            Error::Volume(format!(
                "invalid supported gRPC versions of DRA driver plugin {name} at endpoint {endpoint}: {why}"
            ))
        })?;
        let (name, endpoint) = (plugin.name.clone(), plugin.endpoint.clone());
        Ok(Self { name, endpoint, service, channel, ended: watch::Sender::default() })
    }

    /// It is registered no more.
    pub(super) fn end(&self) {
        self.ended.send_replace(true);
    }

    pub(super) fn has_ended(&self) -> bool {
        *self.ended.borrow()
    }

    /// Completes when it is registered no more.
    pub(super) async fn gone(&self) {
        // The sender is its own, and so there for as long as it is.
        drop(self.ended.subscribe().wait_for(|ended| *ended).await);
    }

    /// What it says of its devices from now on.
    pub(super) async fn watch(&self) -> Result<Streaming<NodeWatchResourcesResponse>, Status> {
        let mut client = DraResourceHealthClient::new(self.channel.clone());
        Ok(client.node_watch_resources(NodeWatchResourcesRequest {}).await?.into_inner())
    }

    async fn call<Q, A>(&self, verb: &str, request: Q) -> Result<A, Error>
    where
        Q: prost::Message + Default + 'static,
        A: prost::Message + Default + 'static,
    {
        let path = format!("{}/{verb}", self.service);
        let path = PathAndQuery::try_from(path).map_err(|error| Error::Volume(error.to_string()))?;
        let mut client = Grpc::new(self.channel.clone());
        let asked = async {
            client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            client.unary(Request::new(request), path, ProstCodec::default()).await
        };
        let answer = match tokio::time::timeout(LIMIT, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(Status::deadline_exceeded("context deadline exceeded")),
        };
        let failed = |status: Status| Error::Volume(format!("{verb}: {}", in_go_words(&status)));
        Ok(answer.map_err(failed)?.into_inner())
    }

    pub(super) async fn prepare(
        &self,
        claims: Vec<dra::Claim>,
    ) -> Result<dra::NodePrepareResourcesResponse, Error> {
        self.call("NodePrepareResources", dra::NodePrepareResourcesRequest { claims }).await
    }

    pub(super) async fn unprepare(
        &self,
        claims: Vec<dra::Claim>,
    ) -> Result<dra::NodeUnprepareResourcesResponse, Error> {
        self.call("NodeUnprepareResources", dra::NodeUnprepareResourcesRequest { claims }).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_service_is_spoken() {
        let of = |versions: &[&str]| {
            service(&versions.iter().map(|version| (*version).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(of(&["v1beta1.DRAPlugin", "v1.DRAPlugin"]), Ok(SERVICES[0].1));
        assert_eq!(of(&["v1beta1.DRAPlugin"]), Ok(SERVICES[1].1));
        assert!(of(&[]).unwrap_err().starts_with("empty list"));
        let none = "none of services supported by the plugin ([\"v9.DRAPlugin\"]) are supported by the kubelet \
                    ([\"v1.DRAPlugin\", \"v1beta1.DRAPlugin\"])";
        assert_eq!(of(&["v9.DRAPlugin"]).unwrap_err(), none);
    }
}
