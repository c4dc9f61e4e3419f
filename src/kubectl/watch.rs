//! A watch as a stream of events.

use crate::error::Error;
use crate::session::Session;
use base::Body;
use bytes::{Buf, BytesMut};
use http_body_util::BodyExt;
use serde_json::Value;

/// The longest line of a watch: an object at its size limit, with room for its envelope.
const LINE_BYTES: usize = 8 << 20;

/// The events of a watch, one a line.
pub(crate) struct Lines {
    body: Body,
    pending: BytesMut,
}

impl Lines {
    pub(crate) async fn open(session: &Session, path: &str, accept: &str) -> Result<Self, Error> {
        Ok(Self { body: session.stream(path, accept).await?, pending: BytesMut::new() })
    }

    /// The next event, or none when the server ended the watch.
    pub(crate) async fn next(&mut self) -> Result<Option<Value>, Error> {
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line = self.pending.split_to(end);
                self.pending.advance(1);
                let event: Value = serde_json::from_slice(&line)
                    .map_err(|error| Error::plain(format!("unable to decode an event: {error}")))?;
                match event["type"].as_str() {
                    Some("BOOKMARK") => continue,
                    Some("ERROR") => {
                        return Err(Error::plain(
                            event["object"]["message"].as_str().unwrap_or("the watch failed"),
                        ));
                    }
                    _ => return Ok(Some(event)),
                }
            }
            if self.pending.len() > LINE_BYTES {
                return Err(Error::plain("a watch event is larger than any object may be"));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(client::Error::Transport(error.to_string()).into()),
                Some(Ok(frame)) => self.pending.extend_from_slice(&frame.into_data().unwrap_or_default()),
            }
        }
    }
}
