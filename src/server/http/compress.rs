//! Answers compressed by gzip, for clients that take it.

use super::answer;
use base::Body;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderValue, Response, header};
use std::io::Write;

/// Answers up to this size are not worth it (Kubernetes' threshold).
const THRESHOLD_BYTES: u64 = 128 << 10;

/// Whether the client takes compressed answers.
pub(crate) fn is_accepted(headers: &HeaderMap) -> bool {
    let encodings = headers.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
    encodings.is_some_and(|encodings| encodings.split(',').any(|own| own.trim() == "gzip"))
}

/// Says that an answer is compressed.
pub(crate) fn mark(headers: &mut HeaderMap) {
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
}

/// A large whole answer compressed while it is sent, at the level that costs least. Others, such as
/// watches, stay as they are.
pub(super) fn large(response: Response<Body>) -> Response<Body> {
    if answer::length(&response).is_none_or(|length| length <= THRESHOLD_BYTES) {
        return response;
    }
    let mut encoder = Some(GzEncoder::new(Vec::new(), Compression::fast()));
    let mut response = answer::through(response, move |part| {
        let Some(open) = &mut encoder else { return Ok(Bytes::new()) };
        match part {
            Some(part) => {
                open.write_all(&part)?;
                Ok(std::mem::take(open.get_mut()).into())
            }
            None => encoder.take().map_or(Ok(Vec::new()), GzEncoder::finish).map(Bytes::from),
        }
    });
    mark(response.headers_mut());
    response
}
