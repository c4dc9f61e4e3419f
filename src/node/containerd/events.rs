//! containerd's event stream: the ends of containers, as they happen, also on 1.6 where CRI has no
//! events.

use super::content::in_namespace;
use crate::Error;
use crate::cri::Runtime;
use crate::protocols::containerd::services::events::v1 as service;
use crate::protocols::containerd::types::{Envelope, TaskDelete, TaskExit, TaskOom};
use prost::Message;
use service::events_client::EventsClient;
use tonic::Streaming;

/// A container's or sandbox' main process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    /// The runtime's id of the container or sandbox.
    pub(crate) id: String,
}

/// An open subscription.
pub(crate) struct Events(Streaming<Envelope>);

impl Events {
    /// Subscribes to the ends of tasks.
    pub(crate) async fn subscribe(runtime: &Runtime) -> Result<Self, Error> {
        let topics = ["/tasks/exit", "/tasks/delete", "/tasks/oom"];
        Self::with_filters(runtime, topics.map(|topic| format!("namespace==k8s.io,topic=={topic:?}")).into())
            .await
    }

    async fn with_filters(runtime: &Runtime, filters: Vec<String>) -> Result<Self, Error> {
        let request = in_namespace(service::SubscribeRequest { filters }, None);
        let stream = EventsClient::new(runtime.wire()).subscribe(request).await;
        stream.map(|stream| Self(stream.into_inner())).map_err(|status| Error::runtime("subscribe", &status))
    }

    /// The next end. An error means that events may have been missed: look at everything again.
    pub(crate) async fn next(&mut self) -> Result<Ended, Error> {
        loop {
            let message = self.0.message().await.map_err(|status| Error::runtime("subscribe", &status))?;
            let Some(envelope) = message else {
                return Err(Error::Setup("the runtime closed its event stream".to_owned()));
            };
            if let Some(ended) = ended(&envelope) {
                return Ok(ended);
            }
        }
    }
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
