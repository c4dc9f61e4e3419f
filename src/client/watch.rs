//! A watch as a stream of typed events.

use crate::request::{Client, Error, ListSelector, accepted, path_of, request, unreadable};
use api::Object;
use api::meta::Status;
use base::Body;
use bytes::{Buf, Bytes, BytesMut};
use http::Method;
use http_body_util::BodyExt;
use serde_json::value::RawValue;

/// The longest line of a watch: an object at its size limit, with room for its envelope.
const LINE_BYTES: usize = 8 << 20;

/// What an object is called, and the revision of an event about it.
#[derive(Debug)]
pub struct Named {
    /// `metadata.namespace`, or "".
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.resourceVersion`.
    pub revision: u64,
}

/// One event of a watch.
#[derive(Debug)]
pub enum Event<T> {
    /// The object is there in this form now: added or modified.
    Applied(T),
    /// The object is gone.
    Deleted(Named),
    /// The object is there in a form that cannot be read, and why.
    Unreadable(Named, String),
    /// Everything up to this revision was sent.
    Bookmark(u64),
}

/// A running watch.
pub struct Watch<T> {
    body: Body,
    pending: BytesMut,
    kind: std::marker::PhantomData<fn() -> T>,
}

#[derive(serde::Deserialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// As much of an object as every kind has.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Marked {
    metadata: Marks,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Marks {
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    name: String,
    resource_version: String,
}

impl Named {
    pub(crate) fn of(object: &RawValue) -> Result<Self, Error> {
        let Marked { metadata } = serde_json::from_str(object.get()).map_err(unreadable)?;
        let Marks { namespace, name, resource_version } = metadata;
        let revision = resource_version.parse().ok();
        let revision = revision.ok_or_else(|| Error::Decode("an event without a revision".to_owned()))?;
        Ok(Self { namespace, name, revision })
    }
}

impl Client {
    /// Watches a kind from just after `revision`.
    pub async fn watch<T: Object>(
        &self,
        namespace: &str,
        selector: &ListSelector,
        revision: &str,
    ) -> Result<Watch<T>, Error> {
        let path = format!(
            "{}?watch=1&allowWatchBookmarks=true&resourceVersion={revision}&{}",
            path_of::<T>(namespace),
            selector.query()
        );
        let answer = self.raw(request(Method::GET, &path, "application/json", Bytes::new())?).await?;
        Ok(Watch::new(accepted(answer).await?.into_body()))
    }
}

impl<T: Object> Watch<T> {
    fn new(body: Body) -> Self {
        Self { body, pending: BytesMut::new(), kind: std::marker::PhantomData }
    }

    /// The next event; `None` when the server ended the watch, which it does from time to time.
    pub async fn next(&mut self) -> Result<Option<Event<T>>, Error> {
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line = self.pending.split_to(end);
                self.pending.advance(1);
                return event(&line).map(Some);
            }
            if self.pending.len() > LINE_BYTES {
                return Err(Error::Decode("a watch event is larger than any object may be".to_owned()));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(Error::Transport(error.to_string())),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.pending.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}

fn event<T: Object>(line: &[u8]) -> Result<Event<T>, Error> {
    let line: Line<'_> = serde_json::from_slice(line).map_err(unreadable)?;
    match line.kind {
        "ADDED" | "MODIFIED" => match T::from_json(line.object.get().as_bytes()) {
            Ok(object) => Ok(Event::Applied(object)),
            Err(why) => Ok(Event::Unreadable(Named::of(line.object)?, why.to_string())),
        },
        "DELETED" => Named::of(line.object).map(Event::Deleted),
        "BOOKMARK" => Named::of(line.object).map(|named| Event::Bookmark(named.revision)),
        "ERROR" => {
            let status: Status = serde_json::from_str(line.object.get()).map_err(unreadable)?;
            Err(Error::Api(Box::new(status)))
        }
        other => Err(Error::Decode(format!("unknown watch event {other:?}"))),
    }
}
