//! gRPC without a connection: what tonic's clients ask is taken from the request and answered in its frames.

use super::Hollow;
use crate::protocols::containerd::types::Envelope;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use prost::Message;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::mpsc;
use tonic::Status;
use tonic::body::Body;

/// Before every message: whether it is compressed, and its length.
const HEAD: usize = 5;

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

fn reply<Q: Message + Default, A: Message>(
    body: &[u8],
    verb: impl FnOnce(Q) -> Result<A, Status>,
) -> Result<Response<Body>, Status> {
    let asked = Q::decode(body.get(HEAD..).unwrap_or_default());
    let asked = asked.map_err(|error| Status::invalid_argument(error.to_string()))?;
    Ok(response(stream::iter([framed(&verb(asked)?)])))
}

fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(HEAD + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // A message fits what was made for its length.
    if let Err(error) = message.encode(&mut frame) {
        tracing::error!(%error, "an answer was not encoded");
    }
    frame.freeze()
}

fn stream_of(events: mpsc::Receiver<Envelope>) -> impl Stream<Item = Bytes> {
    stream::unfold(events, |mut events| async { events.recv().await.map(|event| (framed(&event), events)) })
}

/// Messages, and that all went well.
fn response(messages: impl Stream<Item = Bytes> + Send + 'static) -> Response<Body> {
    let well = HeaderMap::from_iter([(Status::GRPC_STATUS, HeaderValue::from_static("0"))]);
    let frames = messages.map(Frame::data).chain(stream::iter([Frame::trailers(well)]));
    Response::new(Body::new(StreamBody::new(frames.map(Ok::<_, Infallible>))))
}
