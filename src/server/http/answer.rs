//! Answers: JSON from values or from stored bytes, refusals, and bodies of several pieces.

use crate::registry::render;
use api::status::Refusal;
use base::{Body, BodyError, full_body};
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, StreamBody};
use serde_json::Value;
use std::collections::VecDeque;

pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// An answer with a whole JSON body.
pub(crate) fn json_bytes(code: StatusCode, body: Bytes) -> Response<Body> {
    let mut response = Response::new(full_body(body));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

/// The answer with another content type.
pub(crate) fn typed(mut response: Response<Body>, content_type: &'static str) -> Response<Body> {
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A whole JSON answer as protobuf: statuses and what subresources answer. Others stay as they are.
pub(crate) async fn in_protobuf(response: Response<Body>) -> Response<Body> {
    let whole = response.body().size_hint().exact().is_some();
    if !whole || response.headers().get(header::CONTENT_TYPE) != Some(&JSON) {
        return response;
    }
    let (head, body) = response.into_parts();
    // It is in memory already.
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    match render::in_protobuf(&body) {
        Some(encoded) => typed(Response::from_parts(head, full_body(encoded)), render::PROTOBUF),
        None => Response::from_parts(head, full_body(body)),
    }
}

/// An answer with a value as its body.
pub(crate) fn json(code: StatusCode, value: &Value) -> Response<Body> {
    json_bytes(code, value.to_string().into())
}

/// An answer in plain text.
pub(crate) fn text(code: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full_body(body));
    *response.status_mut() = code;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// Pieces up to this size are copied together: a frame of its own costs a small piece more than its bytes.
const SMALL_BYTES: usize = 16 << 10;
/// How much is copied together at a time.
const CHUNK_BYTES: usize = 64 << 10;

/// Takes the next part of a body from its pieces: a large one as it is, or small ones in one buffer.
pub(crate) fn gather(pieces: &mut VecDeque<Bytes>) -> Option<Bytes> {
    let mut length = 0;
    let fits = |piece: &&Bytes| {
        length += piece.len();
        piece.len() <= SMALL_BYTES && length <= CHUNK_BYTES
    };
    let count = pieces.iter().take_while(fits).count();
    if count < 2 {
        return pieces.pop_front();
    }
    let size = pieces.range(..count).map(Bytes::len).sum();
    let mut chunk = Vec::with_capacity(size);
    pieces.drain(..count).for_each(|piece| chunk.extend_from_slice(&piece));
    Some(chunk.into())
}

/// A JSON answer of many pieces.
pub(crate) fn pieces(pieces: Vec<Bytes>) -> Response<Body> {
    let mut pieces = VecDeque::from(pieces);
    let frames = std::iter::from_fn(move || gather(&mut pieces));
    let frames = frames.map(|piece| Ok::<_, BodyError>(Frame::data(piece)));
    let mut response = Response::new(StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

/// The answer, which keeps something until its body was sent.
pub(crate) fn holding<T: Send + 'static>(response: Response<Body>, held: T) -> Response<Body> {
    response.map(|body| {
        let keeping = body.map_frame(move |frame| {
            let _kept = &held;
            frame
        });
        keeping.boxed_unsync()
    })
}

/// A refusal as an answer.
pub(crate) fn refused(refusal: &Refusal) -> Response<Body> {
    let code = StatusCode::from_u16(refusal.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(code, &refusal.to_value());
    let retry_after_s = refusal.details["retryAfterSeconds"].as_u64();
    let default_s = (code == StatusCode::TOO_MANY_REQUESTS).then_some(1);
    if let Some(seconds) = retry_after_s.or(default_s) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Adds a `Warning` header, which kubectl prints.
pub(crate) fn warn(response: &mut Response<Body>, text: &str) {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace(|c: char| c.is_control(), " ");
    if let Ok(value) = HeaderValue::try_from(format!("299 - \"{escaped}\"")) {
        response.headers_mut().append(header::WARNING, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_pieces_are_gathered_and_large_ones_handed_on() {
        let large = Bytes::from(vec![b'x'; SMALL_BYTES + 1]);
        let mut pieces: VecDeque<Bytes> = ["[", "1", ","].map(Bytes::from).into();
        pieces.extend([large.clone(), Bytes::from_static(b"]")]);
        let parts: Vec<Bytes> = std::iter::from_fn(|| gather(&mut pieces)).collect();
        assert_eq!(parts, [Bytes::from_static(b"[1,"), large.clone(), Bytes::from_static(b"]")]);
        assert_eq!(parts[1].as_ptr(), large.as_ptr());
        let mut many: VecDeque<Bytes> = std::iter::repeat_n(Bytes::from(vec![0; 10_000]), 20).collect();
        let sizes: Vec<usize> = std::iter::from_fn(|| gather(&mut many)).map(|part| part.len()).collect();
        assert_eq!(sizes, [60_000, 60_000, 60_000, 20_000]);
    }
}
