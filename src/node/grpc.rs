//! The serving side of gRPC: a message in, messages out, in its frames.

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use http::{HeaderMap, HeaderValue, Response, header};
use http_body::Frame;
use http_body_util::StreamBody;
use prost::Message;
use std::convert::Infallible;
use tonic::Status;
use tonic::body::Body;

/// Before every message: whether it is compressed, and its length.
const HEAD: usize = 5;

/// Answers the one message of a request.
pub(crate) fn reply<Q: Message + Default, A: Message>(
    body: &[u8],
    verb: impl FnOnce(Q) -> Result<A, Status>,
) -> Result<Response<Body>, Status> {
    let asked = Q::decode(body.get(HEAD..).unwrap_or_default());
    let asked = asked.map_err(|error| Status::invalid_argument(error.to_string()))?;
    Ok(response(stream::iter([framed(&verb(asked)?)])))
}

/// A message in its frame.
pub(crate) fn framed(message: &impl Message) -> Bytes {
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

/// Messages, and that all went well.
pub(crate) fn response(messages: impl Stream<Item = Bytes> + Send + 'static) -> Response<Body> {
    let well = HeaderMap::from_iter([(Status::GRPC_STATUS, HeaderValue::from_static("0"))]);
    let frames = messages.map(Frame::data).chain(stream::iter([Frame::trailers(well)]));
    let mut response = Response::new(Body::new(StreamBody::new(frames.map(Ok::<_, Infallible>))));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}
