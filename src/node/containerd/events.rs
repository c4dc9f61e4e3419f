//! The ends of containers, as they happen: from containerd's own event stream, also on 1.6 where CRI has no events;
//! from CRI's of other runtimes.

use super::content::in_namespace;
use crate::Error;
use crate::cri::Runtime;
use crate::protocols::containerd::services::events::v1 as service;
use crate::protocols::containerd::types::{Envelope, TaskDelete, TaskExit, TaskOom};
use crate::protocols::runtime::v1 as cri;
use prost::Message;
use service::events_client::EventsClient;
use tonic::{Code, Streaming};

/// A container's or sandbox' main process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    /// The runtime's id of the container or sandbox.
    pub(crate) id: String,
}

/// An open subscription.
pub(crate) enum Events {
    Containerd(Streaming<Envelope>),
    /// What every runtime may have (KEP-3386).
    Cri(Streaming<cri::ContainerEventResponse>),
}

impl Events {
    /// Subscribes to the ends of containers and sandboxes.
    pub(crate) async fn subscribe(runtime: &Runtime) -> Result<Self, Error> {
        let topics = ["/tasks/exit", "/tasks/delete", "/tasks/oom"];
        let filters = topics.map(|topic| format!("namespace==k8s.io,topic=={topic:?}"));
        match Self::with_filters(runtime, filters.into()).await {
            Err(Error::Runtime { code: Code::Unimplemented, .. }) => {
                Ok(Self::Cri(runtime.container_events().await?))
            }
            subscribed => subscribed,
        }
    }

    async fn with_filters(runtime: &Runtime, filters: Vec<String>) -> Result<Self, Error> {
        let request = in_namespace(service::SubscribeRequest { filters }, None);
        let stream = EventsClient::new(runtime.wire()).subscribe(request).await;
        stream
            .map(|stream| Self::Containerd(stream.into_inner()))
            .map_err(|status| Error::runtime("subscribe", &status))
    }

    /// The next end. An error means that events may have been missed: look at everything again.
    pub(crate) async fn next(&mut self) -> Result<Ended, Error> {
        loop {
            let next = match self {
                Self::Containerd(stream) => stream.message().await.map(|event| event.map(|it| ended(&it))),
                Self::Cri(stream) => stream.message().await.map(|event| event.map(stopped)),
            };
            match next.map_err(|status| Error::runtime("subscribe", &status))? {
                Some(Some(ended)) => return Ok(ended),
                Some(None) => {}
                None => return Err(Error::Setup("the runtime closed its event stream".to_owned())),
            }
        }
    }
}

/// Reads an event of CRI's.
fn stopped(event: cri::ContainerEventResponse) -> Option<Ended> {
    let ends =
        [cri::ContainerEventType::ContainerStoppedEvent, cri::ContainerEventType::ContainerDeletedEvent];
    ends.contains(&event.container_event_type()).then_some(Ended { id: event.container_id })
}

/// Reads an event; the ends of processes that `exec` added are nobody's concern.
fn ended(envelope: &Envelope) -> Option<Ended> {
    let bytes = envelope.event.as_ref()?.value.as_slice();
    let (container, process) = match envelope.topic.as_str() {
        "/tasks/exit" => TaskExit::decode(bytes).map(|event| (event.container_id, event.id)).ok()?,
        "/tasks/delete" => TaskDelete::decode(bytes).map(|event| (event.container_id, event.id)).ok()?,
        _ => (TaskOom::decode(bytes).ok()?.container_id, String::new()),
    };
    (process.is_empty() || process == container).then_some(Ended { id: container })
}

/// Returns when the runtime's process is gone: a subscription that no event matches ends then.
pub(crate) async fn until_closed(runtime: &Runtime) {
    let nothing = vec!["topic==\"/knarr/nothing\"".to_owned()];
    if let Ok(mut events) = Events::with_filters(runtime, nothing).await
        && let Err(error) = events.next().await
    {
        tracing::debug!(%error, "the runtime's event stream ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::{self, framed, response};
    use base::{Shutdown, Supervisor};
    use futures_util::stream;
    use http::Response;
    use tonic::Status;
    use tonic::body::Body;

    /// A runtime that is not containerd: one container is created and ends.
    fn answer(verb: &str, _: &[u8]) -> Result<Response<Body>, Status> {
        let event = |kind: cri::ContainerEventType| cri::ContainerEventResponse {
            container_id: "c".to_owned(),
            container_event_type: kind.into(),
        };
        let kinds =
            [cri::ContainerEventType::ContainerCreatedEvent, cri::ContainerEventType::ContainerStoppedEvent];
        match verb {
            "/runtime.v1.RuntimeService/GetContainerEvents" => {
                Ok(response(stream::iter(kinds.map(|kind| framed(&event(kind))))))
            }
            _ => Err(Status::unimplemented("unknown service")),
        }
    }

    #[tokio::test]
    async fn runtimes_without_containerds_events_are_asked_for_cris() {
        let socket = std::env::temp_dir().join(format!("knarr-events-{}.sock", std::process::id()));
        let supervisor = Supervisor::new();
        let listen = async {
            let runtime = Runtime::new(&socket).unwrap();
            let mut events = Events::subscribe(&runtime).await.unwrap();
            (events.next().await, events.next().await)
        };
        let (ended, closed) = tokio::select! {
            // First, so that there is a socket.
            biased;
            served = grpc::serve((&supervisor, "runtime"), &socket, answer, Shutdown::never()) => {
                panic!("nobody listens any more: {served:?}")
            }
            heard = listen => heard,
        };
        std::fs::remove_file(&socket).unwrap();
        assert_eq!(ended.unwrap().id, "c");
        assert!(closed.unwrap_err().to_string().contains("closed its event stream"));
    }
}
