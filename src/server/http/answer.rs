//! Answers: JSON from values or from stored bytes, refusals, and bodies of several pieces.

use api::status::Refusal;
use base::{Body, BodyError, full_body};
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::Value;

pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// An answer with a whole JSON body.
pub(crate) fn json_bytes(code: StatusCode, body: Bytes) -> Response<Body> {
    let mut response = Response::new(full_body(body));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
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

/// A JSON answer of many pieces that are handed on without being copied.
pub(crate) fn pieces(pieces: Vec<Bytes>) -> Response<Body> {
    let frames = pieces.into_iter().map(|piece| Ok::<_, BodyError>(Frame::data(piece)));
    let mut response = Response::new(StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

/// A refusal as an answer.
pub(crate) fn refused(refusal: &Refusal) -> Response<Body> {
    let code = StatusCode::from_u16(refusal.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(code, &refusal.to_value());
    if code == StatusCode::TOO_MANY_REQUESTS {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
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
