//! The runtime alone: pods that are started by CRI's three calls and nothing else, as the measure of what a start
//! costs beyond them. The pods have neither volumes nor cgroups of their own, so that they are, if anything, cheaper.

use crate::Failure;
use crate::knarr::Knarr;
use crate::pods::PAUSE;
use base::clock;
use futures_util::future::try_join_all;
use http::uri::PathAndQuery;
use prost::Message;
use std::path::PathBuf;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    namespace: String,
}

#[derive(Clone, PartialEq, Message)]
struct Sandbox {
    #[prost(message, tag = "1")]
    metadata: Option<Metadata>,
    #[prost(string, tag = "3")]
    log_directory: String,
}

#[derive(Clone, PartialEq, Message)]
struct RunPodSandbox {
    #[prost(message, tag = "1")]
    config: Option<Sandbox>,
}

/// A message that is one text: what was made, or what is to be done with it.
#[derive(Clone, PartialEq, Message)]
struct Id {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct Nothing {}

#[derive(Clone, PartialEq, Message)]
struct Container {
    #[prost(message, tag = "1")]
    metadata: Option<Id>,
    #[prost(message, tag = "2")]
    image: Option<Id>,
    #[prost(string, tag = "11")]
    log_path: String,
}

#[derive(Clone, PartialEq, Message)]
struct CreateContainer {
    #[prost(string, tag = "1")]
    sandbox: String,
    #[prost(message, tag = "2")]
    config: Option<Container>,
    #[prost(message, tag = "3")]
    sandbox_config: Option<Sandbox>,
}

fn named(id: &str) -> Option<Id> {
    Some(Id { id: id.to_owned() })
}

/// A connection to a runtime's socket.
pub(crate) struct Bare {
    channel: Channel,
    logs: PathBuf,
}

impl Bare {
    /// To the runtime of a server.
    pub(crate) async fn connect(server: &Knarr) -> Result<Self, Failure> {
        let channel = Endpoint::try_from(format!("unix://{}", server.runtime_socket().display()))?;
        Ok(Self { channel: channel.connect().await?, logs: server.folder().join("bare") })
    }

    async fn call<Q: Message + 'static, A: Message + Default + 'static>(
        &self,
        verb: &str,
        request: Q,
    ) -> Result<A, Failure> {
        let mut client = Grpc::new(self.channel.clone());
        client.ready().await?;
        let path = PathAndQuery::try_from(format!("/runtime.v1.RuntimeService/{verb}"))?;
        let codec = ProstCodec::<Q, A>::default();
        Ok(client.unary(tonic::Request::new(request), path, codec).await?.into_inner())
    }

    /// Starts a pod with one container; gives the sandbox, and how many milliseconds it took.
    async fn start(&self, number: usize) -> Result<(String, f64), Failure> {
        let began = clock::instant();
        let name = format!("bare-{number}");
        let metadata = Metadata { uid: name.clone(), namespace: "bare".to_owned(), name: name.clone() };
        let log_directory = self.logs.join(&name);
        std::fs::create_dir_all(&log_directory)?;
        let log_directory = log_directory.to_string_lossy().into_owned();
        let config = Some(Sandbox { metadata: Some(metadata), log_directory });
        let ran: Id = self.call("RunPodSandbox", RunPodSandbox { config: config.clone() }).await?;
        let container =
            Container { metadata: named("main"), image: named(PAUSE), log_path: "main.log".to_owned() };
        let create =
            CreateContainer { sandbox: ran.id.clone(), config: Some(container), sandbox_config: config };
        let created: Id = self.call("CreateContainer", create).await?;
        let _: Nothing = self.call("StartContainer", created).await?;
        Ok((ran.id, began.elapsed().as_secs_f64() * 1e3))
    }

    /// Starts so many pods at once and removes them: milliseconds of each, sorted.
    pub(crate) async fn starts(&self, count: usize) -> Result<Vec<f64>, Failure> {
        let started = try_join_all((0..count).map(|number| self.start(number))).await?;
        for (sandbox, _) in &started {
            let _: Nothing = self.call("StopPodSandbox", Id { id: sandbox.clone() }).await?;
            let _: Nothing = self.call("RemovePodSandbox", Id { id: sandbox.clone() }).await?;
        }
        let mut times: Vec<f64> = started.into_iter().map(|(_, ms)| ms).collect();
        times.sort_by(f64::total_cmp);
        Ok(times)
    }
}
