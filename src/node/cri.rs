//! The container runtime behind its socket: the CRI verbs, each with a time limit, and containerd's
//! own services on the same connection. Behind a hollow node's there is no socket.

use crate::Error;
use crate::hollow::Hollow;
use crate::protocols::runtime::v1 as cri;
use crate::stats::counters;
use base::clock;
use cri::image_service_client::ImageServiceClient;
use cri::runtime_service_client::RuntimeServiceClient;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{Request, Response as Answer};
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status, Streaming};

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
    wire: Wire,
    runtime: RuntimeServiceClient<Wire>,
    images: ImageServiceClient<Wire>,
}

/// What carries gRPC to a runtime.
#[derive(Clone)]
pub(crate) enum Wire {
    Socket(Channel),
    /// A runtime within this process: its messages are encoded all the same.
    Hollow(Arc<Hollow>),
}

impl tower_service::Service<Request<Body>> for Wire {
    type Response = Answer<Body>;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = BoxFuture<'static, Result<Answer<Body>, Self::Error>>;

    fn poll_ready(&mut self, task: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        match self {
            Self::Socket(channel) => channel.poll_ready(task).map_err(Into::into),
            Self::Hollow(_) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self {
            Self::Socket(channel) => {
                let answer = channel.call(request);
                async move { Ok(answer.await?) }.boxed()
            }
            Self::Hollow(hollow) => {
                let hollow = hollow.clone();
                async move { Ok(hollow.answer(request).await) }.boxed()
            }
        }
    }
}

/// Asks the runtime. The state of the call is put beside that of who asks, who is one of many pods that
/// mostly wait.
fn call<T>(
    verb: &'static str,
    limit: Duration,
    answer: impl Future<Output = Result<Response<T>, Status>>,
) -> impl Future<Output = Result<T, Error>> {
    call_for(verb, String::new(), limit, answer)
}

/// Asks the runtime something about a pod or a container, known by its uid or id.
fn call_for<T>(
    verb: &'static str,
    of: String,
    limit: Duration,
    answer: impl Future<Output = Result<Response<T>, Status>>,
) -> impl Future<Output = Result<T, Error>> {
    let answer = Box::pin(answer);
    async move {
        let asked = clock::instant();
        let answer = tokio::time::timeout(limit, answer).await;
        counters::runtime_asked(verb, asked, !matches!(answer, Ok(Ok(_))));
        // Whoever wonders what a start waited for tells the runtime's time from knarr's own by this line.
        tracing::debug!(verb, of, took_ms = asked.elapsed().as_secs_f64() * 1e3, "the runtime was asked");
        match answer {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => {
                Err(Error::Runtime { verb, code: status.code(), message: status.message().to_owned() })
            }
            Err(_) => Err(Error::Runtime {
                verb,
                code: Code::DeadlineExceeded,
                message: format!("no answer within {} s", limit.as_secs()),
            }),
        }
    }
}

/// The uid of the pod that a sandbox is for.
fn uid(sandbox: Option<&cri::PodSandboxConfig>) -> String {
    sandbox.and_then(|config| config.metadata.as_ref()).map_or_else(String::new, |it| it.uid.clone())
}

impl Runtime {
    /// A connection that is made on first use.
    pub(crate) fn new(socket: &Path) -> Result<Self, Error> {
        let endpoint = Endpoint::try_from(format!("unix://{}", socket.display())).map_err(|error| {
            Error::Setup(format!("container runtime endpoint {}: {error}", socket.display()))
        })?;
        Ok(Self::over(Wire::Socket(endpoint.connect_lazy())))
    }

    /// That of a hollow node.
    pub(crate) fn hollow(hollow: Arc<Hollow>) -> Self {
        Self::over(Wire::Hollow(hollow))
    }

    fn over(wire: Wire) -> Self {
        Self {
            runtime: RuntimeServiceClient::new(wire.clone()).max_decoding_message_size(ANSWER_BYTES),
            images: ImageServiceClient::new(wire.clone()).max_decoding_message_size(ANSWER_BYTES),
            wire,
        }
    }

    /// Whether nothing of what it says runs.
    pub(crate) fn is_hollow(&self) -> bool {
        matches!(self.wire, Wire::Hollow(_))
    }

    /// What carries its messages, for containerd's own services.
    pub(crate) fn wire(&self) -> Wire {
        self.wire.clone()
    }

    pub(crate) async fn version(&self, request: cri::VersionRequest) -> Result<cri::VersionResponse, Error> {
        call("version", LOOK, self.runtime.clone().version(request)).await
    }

    pub(crate) async fn status(&self, request: cri::StatusRequest) -> Result<cri::StatusResponse, Error> {
        call("status", LOOK, self.runtime.clone().status(request)).await
    }

    /// What happens to containers and sandboxes from now on.
    pub(crate) async fn container_events(&self) -> Result<Streaming<cri::ContainerEventResponse>, Error> {
        let events = self.runtime.clone().get_container_events(cri::GetEventsRequest {}).await;
        events.map(Response::into_inner).map_err(|status| Error::runtime("get_container_events", &status))
    }

    pub(crate) async fn run_pod_sandbox(
        &self,
        request: cri::RunPodSandboxRequest,
    ) -> Result<cri::RunPodSandboxResponse, Error> {
        let (handler, asked) = (request.runtime_handler.clone(), clock::instant());
        let of = uid(request.config.as_ref());
        let ran =
            call_for("run_pod_sandbox", of, ACT * 2, self.runtime.clone().run_pod_sandbox(request)).await;
        counters::SANDBOX_DURATION.observe_since(&[&handler], asked);
        if ran.is_err() {
            counters::SANDBOX_ERRORS.count(&[&handler]);
        }
        ran
    }

    pub(crate) async fn stop_pod_sandbox(
        &self,
        request: cri::StopPodSandboxRequest,
    ) -> Result<cri::Empty, Error> {
        call("stop_pod_sandbox", ACT, self.runtime.clone().stop_pod_sandbox(request)).await
    }

    pub(crate) async fn remove_pod_sandbox(
        &self,
        request: cri::RemovePodSandboxRequest,
    ) -> Result<cri::Empty, Error> {
        call("remove_pod_sandbox", ACT, self.runtime.clone().remove_pod_sandbox(request)).await
    }

    pub(crate) async fn pod_sandbox_status(
        &self,
        request: cri::PodSandboxStatusRequest,
    ) -> Result<cri::PodSandboxStatusResponse, Error> {
        call("pod_sandbox_status", LOOK, self.runtime.clone().pod_sandbox_status(request)).await
    }

    pub(crate) async fn list_pod_sandbox(
        &self,
        request: cri::ListPodSandboxRequest,
    ) -> Result<cri::ListPodSandboxResponse, Error> {
        call("list_pod_sandbox", LOOK, self.runtime.clone().list_pod_sandbox(request)).await
    }

    pub(crate) async fn create_container(
        &self,
        request: cri::CreateContainerRequest,
    ) -> Result<cri::CreateContainerResponse, Error> {
        let of = uid(request.sandbox_config.as_ref());
        let mut client = self.runtime.clone();
        let created = call_for("create_container", of.clone(), ACT, client.create_container(request)).await?;
        tracing::debug!(of, container = created.container_id, "a container was created");
        Ok(created)
    }

    pub(crate) async fn start_container(
        &self,
        request: cri::StartContainerRequest,
    ) -> Result<cri::Empty, Error> {
        let (of, mut client) = (request.container_id.clone(), self.runtime.clone());
        call_for("start_container", of, ACT, client.start_container(request)).await
    }

    pub(crate) async fn remove_container(
        &self,
        request: cri::RemoveContainerRequest,
    ) -> Result<cri::Empty, Error> {
        call("remove_container", ACT, self.runtime.clone().remove_container(request)).await
    }

    pub(crate) async fn list_containers(
        &self,
        request: cri::ListContainersRequest,
    ) -> Result<cri::ListContainersResponse, Error> {
        call("list_containers", LOOK, self.runtime.clone().list_containers(request)).await
    }

    pub(crate) async fn container_status(
        &self,
        request: cri::ContainerStatusRequest,
    ) -> Result<cri::ContainerStatusResponse, Error> {
        call("container_status", LOOK, self.runtime.clone().container_status(request)).await
    }

    pub(crate) async fn update_container_resources(
        &self,
        request: cri::UpdateContainerResourcesRequest,
    ) -> Result<cri::Empty, Error> {
        let mut client = self.runtime.clone();
        call("update_container_resources", LOOK, client.update_container_resources(request)).await
    }

    pub(crate) async fn reopen_container_log(
        &self,
        request: cri::ReopenContainerLogRequest,
    ) -> Result<cri::Empty, Error> {
        call("reopen_container_log", LOOK, self.runtime.clone().reopen_container_log(request)).await
    }

    /// Writes a container's state into an archive; as long as was asked for.
    pub(crate) async fn checkpoint_container(
        &self,
        request: cri::CheckpointContainerRequest,
    ) -> Result<cri::Empty, Error> {
        let asked = u64::try_from(request.timeout).ok().filter(|seconds| *seconds > 0);
        let limit = asked.map_or(ACT, Duration::from_secs);
        call("checkpoint_container", limit, self.runtime.clone().checkpoint_container(request)).await
    }

    pub(crate) async fn exec(&self, request: cri::ExecRequest) -> Result<cri::UrlResponse, Error> {
        call("exec", LOOK, self.runtime.clone().exec(request)).await
    }

    pub(crate) async fn attach(&self, request: cri::AttachRequest) -> Result<cri::UrlResponse, Error> {
        call("attach", LOOK, self.runtime.clone().attach(request)).await
    }

    pub(crate) async fn port_forward(
        &self,
        request: cri::PortForwardRequest,
    ) -> Result<cri::UrlResponse, Error> {
        call("port_forward", LOOK, self.runtime.clone().port_forward(request)).await
    }

    pub(crate) async fn list_container_stats(
        &self,
        request: cri::ListContainerStatsRequest,
    ) -> Result<cri::ListContainerStatsResponse, Error> {
        call("list_container_stats", LOOK, self.runtime.clone().list_container_stats(request)).await
    }

    pub(crate) async fn list_images(
        &self,
        request: cri::ListImagesRequest,
    ) -> Result<cri::ListImagesResponse, Error> {
        call("list_images", LOOK, self.images.clone().list_images(request)).await
    }

    pub(crate) async fn image_status(
        &self,
        request: cri::ImageStatusRequest,
    ) -> Result<cri::ImageStatusResponse, Error> {
        call("image_status", LOOK, self.images.clone().image_status(request)).await
    }

    pub(crate) async fn image_fs_info(&self) -> Result<cri::ImageFsInfoResponse, Error> {
        call("image_fs_info", LOOK, self.images.clone().image_fs_info(cri::ImageFsInfoRequest {})).await
    }

    /// Removes an image with all its names.
    pub(crate) async fn remove_image(&self, request: cri::RemoveImageRequest) -> Result<(), Error> {
        call("remove_image", ACT, self.images.clone().remove_image(request)).await.map(drop)
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
