//! The container runtime behind its socket: the CRI verbs, each with a time limit, and containerd's
//! own services on the same connection.

use crate::Error;
use crate::protocols::runtime::v1 as cri;
use cri::image_service_client::ImageServiceClient;
use cri::runtime_service_client::RuntimeServiceClient;
use std::future::Future;
use std::path::Path;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};

/// Verbs that only look.
const LOOK: Duration = Duration::from_secs(30);
/// Verbs that start and stop things; networking and slow disks are in them.
const ACT: Duration = Duration::from_secs(120);
/// What a stop may take beyond the grace it was asked for.
const STOP_SLACK: Duration = Duration::from_secs(60);
/// The largest answer: lists and verbose states of many containers, and output of probes.
const ANSWER_BYTES: usize = 16 << 20;

/// A connection to the runtime. Cheap to clone; connects anew by itself when the runtime was restarted.
#[derive(Clone)]
pub(crate) struct Runtime {
    channel: Channel,
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

async fn call<T>(
    verb: &'static str,
    limit: Duration,
    answer: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Error> {
    match tokio::time::timeout(limit, answer).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(Error::Runtime { verb, code: status.code(), message: status.message().to_owned() }),
        Err(_) => Err(Error::Runtime {
            verb,
            code: Code::DeadlineExceeded,
            message: format!("no answer within {} s", limit.as_secs()),
        }),
    }
}

macro_rules! verbs {
    ($($client:ident . $verb:ident($request:ident) -> $answer:ty, $limit:expr;)*) => {
        $(pub(crate) async fn $verb(&self, request: cri::$request) -> Result<$answer, Error> {
            let mut client = self.$client.clone();
            call(stringify!($verb), $limit, client.$verb(request)).await
        })*
    };
}

impl Runtime {
    /// A connection that is made on first use.
    pub(crate) fn new(socket: &Path) -> Result<Self, Error> {
        let endpoint = Endpoint::try_from(format!("unix://{}", socket.display()))
            .map_err(|error| Error::Setup(format!("container runtime endpoint {}: {error}", socket.display())))?;
        let channel = endpoint.connect_lazy();
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(ANSWER_BYTES),
            images: ImageServiceClient::new(channel.clone()).max_decoding_message_size(ANSWER_BYTES),
            channel,
        })
    }

    /// The connection itself, for containerd's own services.
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    verbs! {
        runtime.version(VersionRequest) -> cri::VersionResponse, LOOK;
        runtime.status(StatusRequest) -> cri::StatusResponse, LOOK;
        runtime.run_pod_sandbox(RunPodSandboxRequest) -> cri::RunPodSandboxResponse, ACT * 2;
        runtime.stop_pod_sandbox(StopPodSandboxRequest) -> cri::Empty, ACT;
        runtime.remove_pod_sandbox(RemovePodSandboxRequest) -> cri::Empty, ACT;
        runtime.pod_sandbox_status(PodSandboxStatusRequest) -> cri::PodSandboxStatusResponse, LOOK;
        runtime.list_pod_sandbox(ListPodSandboxRequest) -> cri::ListPodSandboxResponse, LOOK;
        runtime.create_container(CreateContainerRequest) -> cri::CreateContainerResponse, ACT;
        runtime.start_container(StartContainerRequest) -> cri::Empty, ACT;
        runtime.remove_container(RemoveContainerRequest) -> cri::Empty, ACT;
        runtime.list_containers(ListContainersRequest) -> cri::ListContainersResponse, LOOK;
        runtime.container_status(ContainerStatusRequest) -> cri::ContainerStatusResponse, LOOK;
        runtime.reopen_container_log(ReopenContainerLogRequest) -> cri::Empty, LOOK;
        runtime.exec(ExecRequest) -> cri::UrlResponse, LOOK;
        runtime.attach(AttachRequest) -> cri::UrlResponse, LOOK;
        runtime.port_forward(PortForwardRequest) -> cri::UrlResponse, LOOK;
        runtime.list_container_stats(ListContainerStatsRequest) -> cri::ListContainerStatsResponse, LOOK;
        images.list_images(ListImagesRequest) -> cri::ListImagesResponse, LOOK;
        images.image_status(ImageStatusRequest) -> cri::ImageStatusResponse, LOOK;
        images.remove_image(RemoveImageRequest) -> cri::Empty, ACT;
        images.image_fs_info(Empty) -> cri::ImageFsInfoResponse, LOOK;
    }

    /// Pulls an image, for as long as that takes: the runtime itself gives up when nothing arrives.
    pub(crate) async fn pull_image(&self, request: cri::PullImageRequest) -> Result<String, Error> {
        let mut client = self.images.clone();
        Ok(call("pull_image", Duration::from_secs(3600), client.pull_image(request)).await?.image_ref)
    }

    /// Sends the stop signal, and the kill signal after `grace`. Dropping the future lets go of the
    /// container, so that the stop can be asked for again with less grace.
    pub(crate) async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), Error> {
        let mut client = self.runtime.clone();
        let timeout = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        let request = cri::StopContainerRequest { container_id: id.to_owned(), timeout };
        match call("stop_container", grace + STOP_SLACK, client.stop_container(request)).await {
            Err(error) if error.is_gone() => Ok(()),
            other => other.map(drop),
        }
    }

    /// Runs a command in a container to its end. The runtime kills it after `limit`.
    pub(crate) async fn exec_sync(
        &self,
        id: &str,
        command: &[String],
        limit: Duration,
    ) -> Result<cri::ExecSyncResponse, Error> {
        let mut client = self.runtime.clone();
        let request = cri::ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: command.to_vec(),
            timeout: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        };
        call("exec_sync", limit + Duration::from_secs(2), client.exec_sync(request)).await
    }

    /// The runtime's id of an image that is present.
    pub(crate) async fn image(&self, name: &str) -> Result<Option<cri::Image>, Error> {
        let image = Some(cri::ImageSpec { image: name.to_owned(), ..Default::default() });
        Ok(self.image_status(cri::ImageStatusRequest { image }).await?.image)
    }
}
