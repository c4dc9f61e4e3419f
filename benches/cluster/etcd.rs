//! The peer for durable writes: etcd, on the same disk, asked over gRPC without TLS.

use crate::Failure;
use base::clock;
use http::uri::PathAndQuery;
use std::path::Path;
use std::time::Duration;
use tokio::process::Child;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

pub(crate) const ADDRESS: &str = "http://127.0.0.1:23790";

#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {}

/// A running etcd; ends with this value.
pub(crate) struct Etcd(Child);

impl Etcd {
    /// Starts etcd with its data in `folder`. `None` where it is not installed.
    pub(crate) async fn start(folder: &Path) -> Result<Option<Self>, Failure> {
        std::fs::create_dir_all(folder)?;
        let log = std::fs::File::create(folder.join("log"))?;
        let mut command = base::process::command("etcd");
        command.arg("--data-dir").arg(folder.join("data"));
        command.args(["--listen-client-urls", ADDRESS, "--advertise-client-urls", ADDRESS]);
        command.args(["--listen-peer-urls", "http://127.0.0.1:23800"]);
        command.stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        let Ok(child) = command.spawn() else { return Ok(None) };
        let deadline = clock::instant() + Duration::from_secs(20);
        while let Err(failure) = async { Self::connect().await?.put(b"first", Vec::new()).await }.await {
            if clock::instant() > deadline {
                return Err(failure);
            }
            clock::sleep(Duration::from_millis(100)).await;
        }
        Ok(Some(Self(child)))
    }

    pub(crate) fn process(&self) -> Result<u32, Failure> {
        self.0.id().ok_or_else(|| "etcd ended by itself".into())
    }

    /// Ends it, so that another can have its ports.
    pub(crate) async fn stop(mut self) -> Result<(), Failure> {
        Ok(self.0.kill().await?)
    }

    pub(crate) async fn connect() -> Result<Connection, Failure> {
        Ok(Connection(Grpc::new(Endpoint::from_static(ADDRESS).connect().await?)))
    }
}

/// One client's connection.
pub(crate) struct Connection(Grpc<Channel>);

impl Connection {
    pub(crate) async fn put(&mut self, key: &[u8], value: Vec<u8>) -> Result<(), Failure> {
        self.0.ready().await?;
        let path = PathAndQuery::from_static("/etcdserverpb.KV/Put");
        let request = tonic::Request::new(PutRequest { key: key.to_vec(), value });
        let codec: ProstCodec<PutRequest, PutResponse> = ProstCodec::default();
        self.0.unary(request, path, codec).await?;
        Ok(())
    }
}
