//! HTTP bodies, as every room sees them.

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};

/// The error type of HTTP bodies, boxed because bodies come from several rooms.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The body of every HTTP request and response that crosses a room's door, streaming or whole.
pub type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, BodyError>;

/// Why a body could not be taken into memory.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// It is larger than allowed. To be refused.
    #[error("the body is larger than {0} bytes")]
    TooLarge(usize),
    /// The sender went away or broke its encoding. Nothing to answer.
    #[error("{0}")]
    Broken(BodyError),
}

/// A whole body held in memory.
pub fn full_body(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Takes a body of at most `limit` bytes into memory; a body of one piece is not copied.
pub async fn collect(mut body: Body, limit: usize) -> Result<Bytes, CollectError> {
    let mut whole = Bytes::new();
    let mut pieces = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(CollectError::Broken)?.into_data() else { continue };
        if whole.len() + pieces.len() + data.len() > limit {
            return Err(CollectError::TooLarge(limit));
        }
        if whole.is_empty() && pieces.is_empty() {
            whole = data;
        } else {
            pieces.extend_from_slice(&std::mem::take(&mut whole));
            pieces.extend_from_slice(&data);
        }
    }
    Ok(if pieces.is_empty() { whole } else { pieces.freeze() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use http_body::Frame;
    use http_body_util::StreamBody;

    fn pieces(parts: &[&'static str]) -> Body {
        let frames: Vec<Result<Frame<Bytes>, BodyError>> =
            parts.iter().map(|part| Ok(Frame::data(Bytes::from_static(part.as_bytes())))).collect();
        StreamBody::new(stream::iter(frames)).boxed_unsync()
    }

    #[tokio::test]
    async fn collects_up_to_the_limit() {
        assert_eq!(collect(pieces(&["ab", "", "c", "def"]), 6).await.unwrap(), "abcdef");
        assert!(matches!(collect(pieces(&["ab", "c", "def"]), 5).await, Err(CollectError::TooLarge(5))));
    }
}
