//! gRPC without a connection: what tonic's clients ask is taken from the request and answered in its frames.

use super::Hollow;
use crate::grpc::{framed, reply, response};
use crate::protocols::containerd::types::Envelope;
use bytes::Bytes;
use futures_util::{Stream, stream};
use http::{Request, Response};
use http_body_util::BodyExt;
use std::sync::Arc;
use tokio::sync::mpsc;
use tonic::Status;
use tonic::body::Body;

impl Hollow {
    /// Answers a request of any of the services.
    pub(crate) async fn answer(self: &Arc<Self>, request: Request<Body>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let answered = match request.into_body().collect().await {
            Ok(body) => self.dispatch(path.rsplit('/').next().unwrap_or_default(), &body.to_bytes()),
            Err(status) => Err(status),
        };
        answered.unwrap_or_else(Status::into_http)
    }

    fn dispatch(self: &Arc<Self>, verb: &str, body: &[u8]) -> Result<Response<Body>, Status> {
        match verb {
            "Version" => reply(body, |()| Ok(Self::version())),
            "Status" => reply(body, |()| Ok(self.status())),
            "RunPodSandbox" => reply(body, |asked| self.run_pod_sandbox(asked)),
            "StopPodSandbox" => reply(body, |asked| self.stop_pod_sandbox(&asked)),
            "RemovePodSandbox" => reply(body, |asked| self.remove_pod_sandbox(&asked)),
            "PodSandboxStatus" => reply(body, |asked| self.pod_sandbox_status(&asked)),
            "ListPodSandbox" => reply(body, |asked| Ok(self.list_pod_sandbox(asked))),
            "CreateContainer" => reply(body, |asked| self.create_container(asked)),
            "StartContainer" => reply(body, |asked| self.start_container(asked)),
            "StopContainer" => reply(body, |asked| self.stop_container(&asked)),
            "RemoveContainer" => reply(body, |asked| self.remove_container(&asked)),
            "UpdateContainerResources" => reply(body, |()| Ok(())),
            "ListContainerStats" => reply(body, |()| Ok(())),
            "ContainerStatus" => reply(body, |asked| self.container_status(&asked)),
            "ListContainers" => reply(body, |asked| Ok(self.list_containers(asked))),
            // Whatever is asked for is there; nobody has to be told which that are.
            "ListImages" => reply(body, |()| Ok(())),
            "ImageStatus" => reply(body, |asked| Ok(Self::image_status(asked))),
            "PullImage" => reply(body, |asked| Ok(Self::pull_image(asked))),
            "Subscribe" => Ok(response(stream_of(self.subscribe()))),
            other => Err(Status::unimplemented(format!("a hollow node does not know {other}"))),
        }
    }
}

fn stream_of(events: mpsc::Receiver<Envelope>) -> impl Stream<Item = Bytes> {
    stream::unfold(events, |mut events| async { events.recv().await.map(|event| (framed(&event), events)) })
}
