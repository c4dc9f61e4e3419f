//! A watch as a stream of events. What an object is of is not known here: it stays JSON.

use crate::request::{Client, Error, ListSelector, accepted, request, unreadable};
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
pub(crate) struct Named {
    /// `metadata.namespace`, or "".
    pub(crate) namespace: String,
    /// `metadata.name`.
    pub(crate) name: String,
    /// `metadata.resourceVersion`.
    pub(crate) revision: u64,
}

/// One event of a watch.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    /// The object is there in this form now: added or modified.
    Applied(&'a RawValue),
    /// The object is gone.
    Deleted(Named),
    /// Everything up to this revision was sent.
    Bookmark(u64),
}

/// A running watch.
pub(crate) struct Watch {
    body: Body,
    pending: BytesMut,
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
    /// Watches the collection at `path` from just after `revision`.
    pub(crate) async fn watch(
        &self,
        path: &str,
        selector: &ListSelector,
        revision: u64,
    ) -> Result<Watch, Error> {
        let path = format!(
            "{path}?watch=1&allowWatchBookmarks=true&resourceVersion={revision}&{}",
            selector.query()
        );
        let answer = self.raw(request(Method::GET, &path, "application/json", Bytes::new())?).await?;
        Ok(Watch { body: accepted(answer).await?.into_body(), pending: BytesMut::new() })
    }
}

impl Watch {
    /// The next event as a line, for [`Event::read`]; `None` when the server ended the watch, which it does from
    /// time to time.
    pub(crate) async fn next(&mut self) -> Result<Option<BytesMut>, Error> {
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line = self.pending.split_to(end);
                self.pending.advance(1);
                return Ok(Some(line));
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

impl<'a> Event<'a> {
    pub(crate) fn read(line: &'a [u8]) -> Result<Self, Error> {
        let line: Line<'_> = serde_json::from_slice(line).map_err(unreadable)?;
        match line.kind {
            "ADDED" | "MODIFIED" => Ok(Self::Applied(line.object)),
            "DELETED" => Named::of(line.object).map(Self::Deleted),
            "BOOKMARK" => Named::of(line.object).map(|named| Self::Bookmark(named.revision)),
            "ERROR" => {
                let status: Status = serde_json::from_str(line.object.get()).map_err(unreadable)?;
                Err(Error::Api(Box::new(status)))
            }
            other => Err(Error::Decode(format!("unknown watch event {other:?}"))),
        }
    }
}
