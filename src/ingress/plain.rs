//! HTTP/1.1 with clients for requests that are a head alone (GET, HEAD): nearly all of them. hyper could do that too and
//! does the rest, but holds 16 KiB for a connection as long as it lasts, and takes longer. What is not plain is handed to
//! it as it came.
//!
//! A connection that waits for its client's next request holds no buffer.

use crate::converse::Closing;
use crate::forward::{Asking, Connection};
use crate::upstream::{Answer, Patience, Stream};
use base::{BodyError, clock};
use bytes::{Buf, Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body::Body as _;
use jiff::fmt::rfc2822::DateTimePrinter;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};

/// What is read at once. A larger head is for hyper.
const PIECE_BYTES: usize = 8 << 10;
const HEADERS: usize = 100;
/// What is added to a request's headers on its way.
const MORE_HEADERS: usize = 6;
/// Pieces of bodies up to this length are copied behind what comes before them, and sent with that.
const COPIED_BYTES: usize = 16 << 10;
/// Of an answer's head, beside its headers.
const FRAME_BYTES: usize = 160;

/// What becomes of a connection.
pub(crate) enum Next {
    /// It is over.
    End,
    /// What has come is not plain.
    Whole,
}

/// A client's connection.
pub(crate) struct Line {
    stream: Stream,
    /// What has come and was not read yet.
    buffer: BytesMut,
    patience: Patience,
}

impl Line {
    /// One of which something may have come already.
    pub(crate) fn new(came: BytesMut, stream: Stream) -> Self {
        Self { stream, buffer: came, patience: Patience::default() }
    }

    /// What has come and was not answered yet, and the connection.
    pub(crate) fn into_begun(self) -> (BytesMut, Stream) {
        (self.buffer, self.stream)
    }

    /// Serves requests for as long as they are plain. `closing` completes when there is to be no further one; `limit`
    /// is how long a head may take, and the silence before it.
    pub(crate) async fn serve(
        &mut self,
        connection: &Arc<Connection>,
        closing: &mut Closing,
        limit: Duration,
    ) -> Result<Next, BodyError> {
        loop {
            // Boxed, both of them, since there is room for what is not as long as the connection lasts.
            let came = read(&mut self.buffer).map(|came| came.map(Box::new));
            if let Ok(None) = came {
                if !self.more(closing, limit).await? {
                    return Ok(Next::End);
                }
                continue;
            }
            self.patience.stop();
            let Ok(Some(request)) = came else { return Ok(Next::Whole) };
            if Box::pin(self.exchange(connection, request, closing)).await? {
                return Ok(Next::End);
            }
        }
    }

    /// Answers a request; gives whether it was the last one.
    async fn exchange(
        &mut self,
        connection: &Arc<Connection>,
        request: Box<Asking>,
        closing: &mut Closing,
    ) -> Result<bool, BodyError> {
        let is_head = request.method() == Method::HEAD;
        let response = {
            let mut serving = pin!(connection.clone().serve(*request));
            let Ok(response) = self.unless_gone(|cx| serving.as_mut().poll(cx)).await?;
            response
        };
        let is_last = poll_fn(|cx| Poll::Ready(closing.poll(cx))).await;
        self.answer(response, is_head, is_last).await?;
        if is_last {
            self.stream.shutdown().await?;
        }
        Ok(is_last)
    }

    /// Reads what has come to a buffer that does not outlive this call; 0 at the end.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut piece = [const { MaybeUninit::uninit() }; PIECE_BYTES];
        let mut piece = ReadBuf::uninit(&mut piece);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut piece))?;
        self.buffer.extend_from_slice(piece.filled());
        Poll::Ready(Ok(piece.filled().len()))
    }

    /// Waits for more; gives whether there is any.
    async fn more(&mut self, closing: &mut Closing, limit: Duration) -> io::Result<bool> {
        let read = poll_fn(|cx| {
            if let Poll::Ready(read) = self.poll_read(cx) {
                return Poll::Ready(read);
            }
            if self.buffer.is_empty() {
                self.buffer = BytesMut::new();
            }
            let is_unasked = closing.poll(cx) && self.buffer.is_empty();
            if is_unasked || self.patience.ends(limit, cx) { Poll::Ready(Ok(0)) } else { Poll::Pending }
        });
        Ok(read.await? > 0)
    }

    /// Waits for something for as long as the client does; what else it says is for later.
    async fn unless_gone<T>(&mut self, mut what: impl FnMut(&mut Context<'_>) -> Poll<T>) -> io::Result<T> {
        poll_fn(|cx| {
            if let Poll::Ready(done) = what(cx) {
                return Poll::Ready(Ok(done));
            }
            while self.buffer.len() < PIECE_BYTES {
                if ready!(self.poll_read(cx))? == 0 {
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
            }
            Poll::Pending
        })
        .await
    }

    async fn answer(
        &mut self,
        response: Response<Answer>,
        is_head: bool,
        is_last: bool,
    ) -> Result<(), BodyError> {
        let (head, mut body) = response.into_parts();
        let framing = Framing::of(head.status, body.size_hint().exact(), is_head);
        let mut bytes = head_of((head.status, &head.headers), framing, is_last);
        let mut left = framing.bytes();
        let mut trailers = None;
        while left > 0 {
            let mut piece = Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop()));
            if piece.is_pending() {
                // What there is need not wait for the rest.
                self.send(&mut bytes).await?;
                piece = Poll::Ready(self.unless_gone(|cx| Pin::new(&mut body).poll_frame(cx)).await?);
            }
            let Poll::Ready(Some(frame)) = piece else { break };
            match frame?.into_data() {
                Ok(data) => {
                    left = left.checked_sub(data.len() as u64).ok_or("a body is longer than it said")?;
                    self.pass_on(&mut bytes, &data, framing).await?;
                }
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        match framing {
            Framing::Chunked => {
                end_chunks(&mut bytes, trailers.filter(|_| head.headers.contains_key(header::TRAILER)))
            }
            Framing::Length(_) if left > 0 => return Err("a body is shorter than it said".into()),
            Framing::Length(_) | Framing::None => {}
        }
        Ok(self.send(&mut bytes).await?)
    }

    /// Puts a piece of a body behind what is there, or sends both.
    async fn pass_on(&mut self, bytes: &mut Vec<u8>, data: &Bytes, framing: Framing) -> io::Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        if framing == Framing::Chunked {
            bytes.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
        }
        if data.len() > COPIED_BYTES {
            self.send(bytes).await?;
            self.stream.write_all(data).await?;
        } else {
            bytes.extend_from_slice(data);
        }
        if framing == Framing::Chunked {
            bytes.extend_from_slice(b"\r\n");
        }
        if bytes.len() > COPIED_BYTES { self.send(bytes).await } else { Ok(()) }
    }

    async fn send(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        bytes.clear();
        self.stream.flush().await
    }
}

/// How a client knows where an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// It is a head alone.
    None,
    Length(u64),
    Chunked,
}

impl Framing {
    fn of(code: StatusCode, length: Option<u64>, is_head: bool) -> Self {
        match (code, length) {
            (StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED, _) => Self::None,
            _ if is_head => Self::None,
            (_, Some(length)) => Self::Length(length),
            (_, None) => Self::Chunked,
        }
    }

    /// How many may come.
    fn bytes(self) -> u64 {
        match self {
            Self::None => 0,
            Self::Length(length) => length,
            Self::Chunked => u64::MAX,
        }
    }
}

/// The head of an answer as it is sent.
fn head_of((code, headers): (StatusCode, &HeaderMap), framing: Framing, is_last: bool) -> Vec<u8> {
    // A length that is said of a body which is not sent is none of ours.
    let keeps_length = framing == Framing::None && code != StatusCode::NO_CONTENT;
    let sent = headers.iter().filter(|(name, _)| keeps_length || *name != header::CONTENT_LENGTH);
    let lengths = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    let body =
        if let Framing::Length(length) = framing { usize::try_from(length).unwrap_or(usize::MAX) } else { 0 };
    let body = if body > COPIED_BYTES { 0 } else { body };
    let mut bytes = Vec::with_capacity(FRAME_BYTES + lengths.sum::<usize>() + body);
    let mut line = |parts: [&[u8]; 4]| parts.into_iter().for_each(|part| bytes.extend_from_slice(part));
    let reason = code.canonical_reason().unwrap_or_default();
    line([b"HTTP/1.1 ", code.as_str().as_bytes(), b" ", reason.as_bytes()]);
    for (name, value) in sent {
        line([b"\r\n", name.as_str().as_bytes(), b": ", value.as_bytes()]);
    }
    match framing {
        Framing::None => {}
        Framing::Length(length) => line([b"\r\ncontent-length: ", length.to_string().as_bytes(), b"", b""]),
        Framing::Chunked => line([b"\r\ntransfer-encoding: chunked", b"", b"", b""]),
    }
    if !headers.contains_key(header::DATE)
        && let Ok(date) = DateTimePrinter::new().timestamp_to_rfc9110_string(&clock::now())
    {
        line([b"\r\ndate: ", date.as_bytes(), b"", b""]);
    }
    if is_last {
        line([b"\r\nconnection: close", b"", b"", b""]);
    }
    line([b"\r\n\r\n", b"", b"", b""]);
    bytes
}

fn end_chunks(bytes: &mut Vec<u8>, trailers: Option<HeaderMap>) {
    bytes.extend_from_slice(b"0\r\n");
    for (name, value) in trailers.iter().flatten() {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            bytes.extend_from_slice(part);
        }
    }
    bytes.extend_from_slice(b"\r\n");
}

/// What is for hyper.
#[derive(Debug)]
struct NotPlain;

/// Reads a request off a buffer, which keeps what is not plain; none as long as it has not come whole.
fn read(buffer: &mut BytesMut) -> Result<Option<Asking>, NotPlain> {
    if buffer.is_empty() {
        return Ok(None);
    }
    let mut slots = [const { MaybeUninit::uninit() }; HEADERS];
    let mut parsed = httparse::Request::new(&mut []);
    let length = match parsed.parse_with_uninit_headers(buffer, &mut slots) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if buffer.len() < PIECE_BYTES => return Ok(None),
        _ => return Err(NotPlain),
    };
    let method = match (parsed.method, parsed.version) {
        (Some("GET"), Some(1)) => Method::GET,
        (Some("HEAD"), Some(1)) => Method::HEAD,
        _ => return Err(NotPlain),
    };
    let is_special = parsed.headers.iter().any(|one| is_special(one.name, one.value));
    let path = parsed.path.filter(|path| path.starts_with('/') && !is_special);
    let Some(path) = path else { return Err(NotPlain) };
    let place = |part: &[u8]| {
        let start = part.as_ptr() as usize - buffer.as_ptr() as usize;
        start..start + part.len()
    };
    let path = place(path.as_bytes());
    let mut places = Vec::with_capacity(parsed.headers.len());
    for one in parsed.headers.iter() {
        let Ok(name) = HeaderName::from_bytes(one.name.as_bytes()) else { return Err(NotPlain) };
        places.push((name, place(one.value)));
    }
    // Whatever cannot be taken over is hyper's to refuse.
    let head = Bytes::copy_from_slice(&buffer[..length]);
    let request = request(method, &head, path, places).ok_or(NotPlain)?;
    buffer.advance(length);
    Ok(Some(request))
}

fn request(
    method: Method,
    head: &Bytes,
    path: Range<usize>,
    places: Vec<(HeaderName, Range<usize>)>,
) -> Option<Asking> {
    let mut headers = HeaderMap::with_capacity(places.len() + MORE_HEADERS);
    for (name, place) in places {
        headers.append(name, HeaderValue::from_maybe_shared(head.slice(place)).ok()?);
    }
    let mut request = Request::new(None);
    *request.method_mut() = method;
    *request.uri_mut() = Uri::from_maybe_shared(head.slice(path)).ok()?;
    *request.headers_mut() = headers;
    Some(request)
}

/// Headers that say of a request that it is more than its head, or of its connection that it goes on in another way.
fn is_special(name: &str, value: &[u8]) -> bool {
    let is = |one: &str| name.eq_ignore_ascii_case(one);
    match name.len() {
        6 => is("expect"),
        7 => is("upgrade"),
        10 => is("connection") && !value.eq_ignore_ascii_case(b"keep-alive"),
        14 => is("content-length"),
        17 => is("transfer-encoding"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn came(text: &str) -> (Result<Option<Asking>, NotPlain>, String) {
        let mut buffer = BytesMut::from(text);
        let came = read(&mut buffer);
        (came, String::from_utf8(buffer.to_vec()).unwrap())
    }

    #[test]
    fn heads_alone_are_plain() {
        let (request, left) =
            came("GET /a?b=c HTTP/1.1\r\nHost: h\r\nX: 1\r\nx:  2 \r\nConnection: Keep-Alive\r\n\r\nGET ");
        let request = request.unwrap().unwrap();
        assert_eq!(
            (request.method(), request.uri().to_string().as_str(), left.as_str()),
            (&Method::GET, "/a?b=c", "GET ")
        );
        assert_eq!(request.headers().get_all("x").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(came("\r\nHEAD / HTTP/1.1\r\n\r\n").0.unwrap().unwrap().method(), Method::HEAD);
        for part in ["", "GET / HTTP/1.1\r\nHost: h\r\n", "G"] {
            assert!(matches!(came(part), (Ok(None), left) if left == part), "{part}");
        }
    }

    #[test]
    fn everything_else_is_left_as_it_came() {
        let of_headers = |headers: &str| format!("GET / HTTP/1.1\r\nhost: h\r\n{headers}\r\n");
        let wholes = [
            "Content-Length: 0\r\n",
            "transfer-encoding: chunked\r\n",
            "Expect: 100-continue\r\n",
            "connection: upgrade\r\n",
            "Connection: close\r\n",
            "UPGRADE: websocket\r\n",
            "a b: c\r\n",
            "a: b\r\n c\r\n",
        ];
        let starts = [
            "POST / HTTP/1.1",
            "GET / HTTP/1.0",
            "GET http://h/ HTTP/1.1",
            "OPTIONS * HTTP/1.1",
            "PRI * HTTP/2.0",
            "GET /",
        ];
        let large = of_headers(&format!("a: {}", "b".repeat(PIECE_BYTES)));
        let all = wholes
            .map(of_headers)
            .into_iter()
            .chain(starts.map(|start| format!("{start}\r\nhost: h\r\n\r\n")));
        for text in all.chain([large, of_headers(&"a: b\r\n".repeat(HEADERS))]) {
            assert!(matches!(came(&text), (Err(NotPlain), left) if left == text), "{text}");
        }
    }

    #[test]
    fn heads_of_answers_say_where_they_end() {
        let head = |code: u16, framing, is_last| {
            let mut headers = HeaderMap::new();
            for (name, value) in [("content-length", "9"), ("a", "b"), ("date", "d")] {
                headers.insert(name, HeaderValue::from_static(value));
            }
            let code = StatusCode::from_u16(code).unwrap();
            String::from_utf8(head_of((code, &headers), framing, is_last)).unwrap()
        };
        assert_eq!(
            head(200, Framing::Length(3), false),
            "HTTP/1.1 200 OK\r\na: b\r\ndate: d\r\ncontent-length: 3\r\n\r\n"
        );
        assert_eq!(
            head(404, Framing::Chunked, true),
            "HTTP/1.1 404 Not Found\r\na: b\r\ndate: d\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
        );
        assert_eq!(
            head(304, Framing::None, false),
            "HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\na: b\r\ndate: d\r\n\r\n"
        );
        assert_eq!(head(204, Framing::None, false), "HTTP/1.1 204 No Content\r\na: b\r\ndate: d\r\n\r\n");
        let dated = head_of((StatusCode::OK, &HeaderMap::new()), Framing::None, false);
        let dated = String::from_utf8(dated).unwrap();
        assert!(dated.starts_with("HTTP/1.1 200 OK\r\ndate: ") && dated.ends_with(" GMT\r\n\r\n"), "{dated}");
    }

    #[test]
    fn bodies_are_framed() {
        let of =
            |code: u16, length, is_head| Framing::of(StatusCode::from_u16(code).unwrap(), length, is_head);
        assert_eq!((of(200, Some(3), false), of(200, None, false)), (Framing::Length(3), Framing::Chunked));
        assert_eq!(
            (of(200, Some(3), true), of(304, None, false), of(204, Some(0), false)),
            (Framing::None, Framing::None, Framing::None)
        );
        let mut bytes = Vec::new();
        end_chunks(&mut bytes, Some(HeaderMap::from_iter([(header::ETAG, HeaderValue::from_static("x"))])));
        end_chunks(&mut bytes, None);
        assert_eq!(bytes, b"0\r\netag: x\r\n\r\n0\r\n\r\n");
    }
}
