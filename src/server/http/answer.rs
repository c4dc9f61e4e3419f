//! Answers: JSON from values or from stored bytes, refusals, and bodies of several pieces.

use super::indent::Indenter;
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

/// An answer without a body.
pub(crate) fn empty(code: StatusCode) -> Response<Body> {
    let mut response = Response::new(full_body(Bytes::new()));
    *response.status_mut() = code;
    response
}

/// The answer where nothing is.
pub(crate) fn nothing() -> Response<Body> {
    error(StatusCode::NOT_FOUND, "404 page not found")
}

/// An error as Go's library tells it.
pub(crate) fn error(code: StatusCode, why: &str) -> Response<Body> {
    let mut response = text(code, format!("{why}\n"));
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Says that an answer must not be kept, if it does not say how it may be.
pub(super) fn uncached(response: &mut Response<Body>) {
    let never = HeaderValue::from_static("no-cache, private");
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(never);
}

/// An answer for people to read, as those have always been that are no objects.
pub(crate) fn pretty(value: &Value) -> Response<Body> {
    json_bytes(StatusCode::OK, format!("{value:#}").into())
}

/// The answer with another content type.
pub(crate) fn typed(mut response: Response<Body>, content_type: &'static str) -> Response<Body> {
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// How long an answer's body is, of those that are whole.
pub(crate) fn length(response: &Response<Body>) -> Option<u64> {
    let stated = || response.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok();
    response.body().size_hint().exact().or_else(stated)
}

/// The answer with a body that is changed while it is sent. `step` is given its parts and, at the end,
/// nothing, and returns what is sent for them.
pub(crate) fn through(
    mut response: Response<Body>,
    step: impl FnMut(Option<Bytes>) -> std::io::Result<Bytes> + Send + 'static,
) -> Response<Body> {
    response.headers_mut().remove(header::CONTENT_LENGTH);
    response.map(|body| {
        let frames = futures_util::stream::unfold(Some((body, step)), |state| async move {
            let (mut body, mut step) = state?;
            loop {
                let data = match body.frame().await {
                    Some(Ok(frame)) => frame.into_data().ok(),
                    Some(Err(error)) => return Some((Err(error), None)),
                    None => None,
                };
                let ended = data.is_none();
                match step(data) {
                    Ok(part) if part.is_empty() && !ended => {}
                    Ok(part) => return Some((Ok(Frame::data(part)), (!ended).then_some((body, step)))),
                    Err(error) => return Some((Err(BodyError::from(error)), None)),
                }
            }
        });
        StreamBody::new(frames).boxed_unsync()
    })
}

/// JSON for people to read.
pub(super) fn indented(response: Response<Body>) -> Response<Body> {
    let mut indenter = Indenter::default();
    through(response, move |part| Ok(part.map_or_else(Bytes::new, |part| indenter.part(&part))))
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
    let length: usize = pieces.iter().map(Bytes::len).sum();
    let mut pieces = VecDeque::from(pieces);
    let frames = std::iter::from_fn(move || gather(&mut pieces));
    let frames = frames.map(|piece| Ok::<_, BodyError>(Frame::data(piece)));
    let mut response = Response::new(StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
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

/// Tells this server's own refusals from what others answer through it.
#[derive(Clone, Copy)]
struct Refused;

/// Tells what another server answered.
#[derive(Clone, Copy)]
struct Relayed;

/// Marks an answer as another server's.
pub(crate) fn relayed(mut response: Response<Body>) -> Response<Body> {
    response.extensions_mut().insert(Relayed);
    response
}

/// Whether an answer is another server's.
pub(crate) fn is_relayed(response: &Response<Body>) -> bool {
    response.extensions().get::<Relayed>().is_some()
}

/// Whether an answer is this server's own refusal.
pub(crate) fn is_refusal(response: &Response<Body>) -> bool {
    response.extensions().get::<Refused>().is_some()
}

/// A refusal as an answer.
pub(crate) fn refused(refusal: &Refusal) -> Response<Body> {
    let code = StatusCode::from_u16(refusal.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(code, &refusal.to_value());
    response.extensions_mut().insert(Refused);
    let retry_after_s = refusal.details["retryAfterSeconds"].as_u64();
    let default_s = (code == StatusCode::TOO_MANY_REQUESTS).then_some(1);
    if let Some(seconds) = retry_after_s.or(default_s) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// So many characters of warnings are sent whole (Kubernetes' limits).
const WARNING_LETTERS: usize = 4096;
/// Where they are more, so many of each, until the limit is reached again.
const SHORT_LETTERS: usize = 256;

/// Adds `Warning` headers, which kubectl prints.
pub(crate) fn warn_all(response: &mut Response<Body>, texts: &[String]) {
    let letters = |text: &String| text.chars().count();
    let whole = texts.iter().map(letters).sum::<usize>() <= WARNING_LETTERS;
    let mut sent = 0;
    for text in texts {
        if sent >= WARNING_LETTERS {
            return;
        }
        let most = if whole { usize::MAX } else { SHORT_LETTERS };
        let text: String = text.chars().take(most).collect();
        sent += letters(&text);
        warn(response, &text);
    }
}

/// What cannot be in a header is not sent, as Kubernetes has it.
fn warn(response: &mut Response<Body>, text: &str) {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
    let header = HeaderValue::try_from(format!("299 - \"{escaped}\""));
    response.headers_mut().extend(
        header.ok().filter(|_| !text.contains(char::is_control)).map(|value| (header::WARNING, value)),
    );
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

    #[test]
    fn many_warnings_are_cut_short() {
        let sent = |texts: &[String]| -> Vec<usize> {
            let mut response = empty(StatusCode::OK);
            warn_all(&mut response, texts);
            response.headers().get_all(header::WARNING).iter().map(HeaderValue::len).collect()
        };
        let frame = "299 - \"\"".len();
        assert_eq!(sent(&["x".repeat(4096)]), [4096 + frame]);
        assert_eq!(sent(&["x".repeat(4000), "y".repeat(100)]), [SHORT_LETTERS + frame, 100 + frame]);
        assert_eq!(
            sent(&vec!["x".repeat(300); 40]),
            [SHORT_LETTERS + frame; WARNING_LETTERS / SHORT_LETTERS]
        );
        assert!(sent(&["two\nlines".to_owned()]).is_empty());
    }
}
