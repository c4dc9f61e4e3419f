//! HTTP/1.1 with an endpoint for requests that are a head alone (GET, HEAD): nearly all of them. hyper could do that too
//! and does the rest, but takes a channel, a copy of the head for later tries and twice the time.
//!
//! What an endpoint says is read strictly (RFC 9112): what is not plain in its framing is an error, so that no answer is
//! taken for part of another one.

use super::Stream;
use super::body::Patience;
use bytes::{Buf, Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Response, StatusCode};
use http_body::Frame;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// The largest head of an answer, and the number of its headers.
const HEAD_BYTES: usize = 256 << 10;
const HEADERS: usize = 100;
/// Heads before the answer's own (1xx) that are passed over.
const INTERIM: usize = 8;
/// The longest line before a chunk, and all trailers together.
const LINE_BYTES: usize = 1 << 10;
const TRAILER_BYTES: usize = 16 << 10;
/// What is read at once, with a head and of the rest of a body.
const PIECE_BYTES: usize = 8 << 10;
const BODY_PIECE_BYTES: usize = 32 << 10;

/// Why there is no answer.
pub(crate) enum Unanswered {
    /// The connection was kept and has been closed meanwhile: another one may do.
    Gone,
    /// The answer did not begin in time.
    Late,
    Broken(io::Error),
}

/// How far a body goes.
#[derive(Debug, PartialEq)]
pub(super) enum Framing {
    /// So many bytes more.
    Length(u64),
    Chunked(Chunk),
    /// To the end of the connection.
    UntilClosed,
}

/// What comes next of a body in chunks.
#[derive(Debug, PartialEq)]
pub(super) enum Chunk {
    Size,
    Data(u64),
    DataEnd,
    Trailers(HeaderMap, usize),
    Done,
}

/// The head of an answer.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) response: Response<()>,
    pub(super) framing: Framing,
    /// Whether the connection may be used again.
    pub(super) is_kept: bool,
}

/// A connection.
pub(super) struct Wire {
    stream: Stream,
    buffer: BytesMut,
    pub(super) patience: Patience,
}

/// A request's head as it is sent.
pub(crate) fn head_of(request: &Parts) -> Vec<u8> {
    let path = request.uri.path_and_query().map_or("/", |path| path.as_str());
    let lengths = request.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    let mut bytes = Vec::with_capacity(path.len() + 32 + lengths.sum::<usize>());
    for part in [request.method.as_str(), " ", path, " HTTP/1.1\r\n"] {
        bytes.extend_from_slice(part.as_bytes());
    }
    for (name, value) in &request.headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            bytes.extend_from_slice(part);
        }
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

fn wrong(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl Wire {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, buffer: BytesMut::new(), patience: Patience::default() }
    }

    /// Reads more; 0 at the end.
    fn poll_fill(&mut self, most: usize, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.buffer.reserve(most);
        pin!(self.stream.read_buf(&mut self.buffer)).poll(cx)
    }

    /// The same with what a head may bring; there is no room for it before it comes.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut piece = [const { MaybeUninit::uninit() }; PIECE_BYTES];
        let mut piece = ReadBuf::uninit(&mut piece);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut piece))?;
        self.buffer.extend_from_slice(piece.filled());
        Poll::Ready(Ok(piece.filled().len()))
    }

    /// Whether nothing has come since it was put aside, not even its end: what did would be taken for an answer.
    fn is_quiet(&mut self, cx: &mut Context<'_>) -> bool {
        self.buffer.is_empty() && self.poll_head(cx).is_pending()
    }

    fn poll_send(&mut self, left: &mut &[u8], cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !left.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, left) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(length)) => *left = &left[length..],
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Sends a head and waits for that of the answer.
    pub(super) async fn ask(
        &mut self,
        request: &[u8],
        is_head: bool,
        silence: Duration,
    ) -> Result<Head, Unanswered> {
        if !poll_fn(|cx| Poll::Ready(self.is_quiet(cx))).await {
            return Err(Unanswered::Gone);
        }
        let (mut left, mut is_sent, mut interim) = (request, false, 0);
        poll_fn(|cx| {
            if !is_sent && let Poll::Ready(sent) = self.poll_send(&mut left, cx) {
                sent.map_err(|_| Unanswered::Gone)?;
                is_sent = true;
            }
            while let Poll::Ready(read) = self.poll_head(cx) {
                // Who hangs up without a word has not seen the request, or may be asked again.
                let length = match read {
                    Ok(length) => length,
                    Err(_) if self.buffer.is_empty() => return Poll::Ready(Err(Unanswered::Gone)),
                    Err(error) => return Poll::Ready(Err(Unanswered::Broken(error))),
                };
                if length == 0 {
                    return Poll::Ready(Err(match self.buffer.is_empty() {
                        true => Unanswered::Gone,
                        false => Unanswered::Broken(io::ErrorKind::UnexpectedEof.into()),
                    }));
                }
                while let Some(head) = read_head(&mut self.buffer, is_head).map_err(Unanswered::Broken)? {
                    if !head.response.status().is_informational() {
                        self.patience.stop();
                        return Poll::Ready(Ok(head));
                    }
                    interim += 1;
                    if interim > INTERIM || head.response.status() == StatusCode::SWITCHING_PROTOCOLS {
                        return Poll::Ready(Err(Unanswered::Broken(wrong("a head that nobody asked for"))));
                    }
                }
            }
            if self.patience.ends(silence, cx) {
                return Poll::Ready(Err(Unanswered::Late));
            }
            Poll::Pending
        })
        .await
    }

    /// All of a body, if it has come and says its length.
    pub(super) fn whole(&mut self, framing: &Framing) -> Option<Bytes> {
        let Framing::Length(length) = framing else { return None };
        let length = usize::try_from(*length).ok()?;
        (self.buffer.len() >= length).then(|| self.buffer.split_to(length).freeze())
    }

    /// Lets go of what an idle connection does not need.
    pub(super) fn rest(&mut self) {
        self.patience.stop();
        self.buffer = BytesMut::new();
    }

    /// Whether nothing is left of an answer, nor anything after it.
    pub(super) fn is_clean(&self, framing: &Framing) -> bool {
        self.buffer.is_empty() && is_done(framing)
    }

    /// The next piece of a body; none at its end.
    pub(super) fn poll_piece(
        &mut self,
        framing: &mut Framing,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        loop {
            match next_piece(&mut self.buffer, framing) {
                Err(error) => return Poll::Ready(Some(Err(error))),
                Ok(Some(frame)) => return Poll::Ready(Some(Ok(frame))),
                Ok(None) if is_done(framing) => return Poll::Ready(None),
                Ok(None) => {}
            }
            match ready!(self.poll_fill(BODY_PIECE_BYTES, cx)) {
                Ok(0) if *framing == Framing::UntilClosed => {
                    *framing = Framing::Length(0);
                    return Poll::Ready(None);
                }
                Ok(0) => return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into()))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
    }
}

pub(super) fn is_done(framing: &Framing) -> bool {
    matches!(framing, Framing::Length(0) | Framing::Chunked(Chunk::Done))
}

/// Reads a head off a buffer; none as long as it has not come whole.
fn read_head(buffer: &mut BytesMut, is_head: bool) -> io::Result<Option<Head>> {
    let mut slots = [const { MaybeUninit::uninit() }; HEADERS];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let length = match config.parse_response_with_uninit_headers(&mut parsed, buffer, &mut slots) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if buffer.len() < HEAD_BYTES => return Ok(None),
        _ => return Err(wrong("the head of an answer is none, or too large")),
    };
    let base = buffer.as_ptr() as usize;
    let mut places = [(0, 0); HEADERS];
    let mut headers = HeaderMap::with_capacity(parsed.headers.len());
    let mut names: [Option<HeaderName>; HEADERS] = [const { None }; HEADERS];
    let count = parsed.headers.len();
    for (at, one) in parsed.headers.iter().enumerate() {
        names[at] = Some(HeaderName::from_bytes(one.name.as_bytes()).map_err(io::Error::other)?);
        let start = one.value.as_ptr() as usize - base;
        places[at] = (start, start + one.value.len());
    }
    let code = StatusCode::from_u16(parsed.code.unwrap_or_default()).map_err(io::Error::other)?;
    let is_new = parsed.version == Some(1);
    let head = buffer.split_to(length).freeze();
    for (name, (start, end)) in names.iter_mut().zip(places).take(count) {
        let value = HeaderValue::from_maybe_shared(head.slice(start..end)).map_err(io::Error::other)?;
        headers.append(name.take().unwrap_or(header::VIA), value);
    }
    let (framing, is_plain) = framing(&mut headers, is_head, code)?;
    let is_kept = is_plain && is_new && framing != Framing::UntilClosed && !closes(&headers);
    let mut response = Response::new(());
    *response.status_mut() = code;
    *response.headers_mut() = headers;
    Ok(Some(Head { response, framing, is_kept }))
}

fn closes(headers: &HeaderMap) -> bool {
    let named = headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    named.map(<[u8]>::trim_ascii).any(|name| name.eq_ignore_ascii_case(b"close"))
}

/// How far a body goes (RFC 9112, 6.3), and whether that was said in one way only.
fn framing(headers: &mut HeaderMap, is_head: bool, code: StatusCode) -> io::Result<(Framing, bool)> {
    let length = content_length(headers)?;
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let coding = codings.next().map(|coding| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"));
    if coding == Some(false) || codings.next().is_some() {
        return Err(wrong("a transfer coding other than chunked"));
    }
    let is_chunked = coding.is_some();
    let is_plain = !(is_chunked && length.is_some());
    if !is_plain {
        headers.remove(header::CONTENT_LENGTH);
    }
    let without = is_head
        || code.is_informational()
        || matches!(code, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    Ok(match (without, is_chunked, length) {
        (true, ..) => (Framing::Length(0), is_plain),
        (_, true, _) => (Framing::Chunked(Chunk::Size), is_plain),
        (_, _, Some(length)) => (Framing::Length(length), is_plain),
        _ => (Framing::UntilClosed, is_plain),
    })
}

/// The length that all values say alike.
fn content_length(headers: &HeaderMap) -> io::Result<Option<u64>> {
    let mut length = None;
    for value in headers.get_all(header::CONTENT_LENGTH) {
        let digits = value.as_bytes();
        if digits.is_empty() || digits.len() > 18 || !digits.iter().all(u8::is_ascii_digit) {
            return Err(wrong("a length of a body that is none"));
        }
        let one = digits.iter().fold(0_u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
        if length.is_some_and(|known| known != one) {
            return Err(wrong("two lengths of a body"));
        }
        length = Some(one);
    }
    Ok(length)
}

/// Takes up to so many bytes.
fn take(buffer: &mut BytesMut, left: &mut u64) -> Option<Frame<Bytes>> {
    let length = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
    *left -= length as u64;
    (length > 0).then(|| Frame::data(buffer.split_to(length).freeze()))
}

/// What a buffer has of a body; none where more has to come first, or nothing is left.
fn next_piece(buffer: &mut BytesMut, framing: &mut Framing) -> io::Result<Option<Frame<Bytes>>> {
    let chunk = match framing {
        Framing::Length(left) => return Ok(take(buffer, left)),
        Framing::UntilClosed => return Ok(take(buffer, &mut u64::MAX.clone())),
        Framing::Chunked(chunk) => chunk,
    };
    loop {
        match chunk {
            Chunk::Size => match line(buffer, LINE_BYTES)? {
                None => return Ok(None),
                Some(line) => match size(&line)? {
                    0 => *chunk = Chunk::Trailers(HeaderMap::new(), 0),
                    size => *chunk = Chunk::Data(size),
                },
            },
            Chunk::Data(0) => *chunk = Chunk::DataEnd,
            Chunk::Data(left) => return Ok(take(buffer, left)),
            Chunk::DataEnd => match line(buffer, 2)? {
                None => return Ok(None),
                Some(line) if line.is_empty() => *chunk = Chunk::Size,
                Some(_) => return Err(wrong("a chunk is longer than it said")),
            },
            Chunk::Trailers(trailers, bytes) => match line(buffer, TRAILER_BYTES)? {
                None => return Ok(None),
                Some(line) if line.is_empty() => {
                    let trailers = std::mem::take(trailers);
                    *chunk = Chunk::Done;
                    return Ok((!trailers.is_empty()).then(|| Frame::trailers(trailers)));
                }
                Some(line) => {
                    *bytes += line.len();
                    if *bytes > TRAILER_BYTES || trailers.len() >= HEADERS {
                        return Err(wrong("too many trailers"));
                    }
                    let (name, value) = trailer(&line)?;
                    trailers.append(name, value);
                }
            },
            Chunk::Done => return Ok(None),
        }
    }
}

/// A line of at most so many bytes, without its end.
fn line(buffer: &mut BytesMut, most: usize) -> io::Result<Option<Bytes>> {
    let Some(end) = buffer.iter().take(most).position(|byte| *byte == b'\n') else {
        return if buffer.len() < most { Ok(None) } else { Err(wrong("a line of chunks is too long")) };
    };
    if end == 0 || buffer[end - 1] != b'\r' {
        return Err(wrong("a line of chunks does not end as lines do"));
    }
    let line = buffer.split_to(end - 1).freeze();
    buffer.advance(2);
    Ok(Some(line))
}

/// The size before a chunk; extensions are passed over.
fn size(line: &[u8]) -> io::Result<u64> {
    let end = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    let (digits, rest) = line.split_at(end);
    let rest = rest.trim_ascii_start();
    if digits.is_empty() || digits.len() > 15 || !(rest.is_empty() || rest[0] == b';') {
        return Err(wrong("a size of a chunk that is none"));
    }
    let digit = |byte: u8| u64::from(char::from(byte).to_digit(16).unwrap_or_default());
    Ok(digits.iter().fold(0, |sum, byte| sum * 16 + digit(*byte)))
}

fn trailer(line: &Bytes) -> io::Result<(HeaderName, HeaderValue)> {
    let colon = line.iter().position(|byte| *byte == b':').ok_or_else(|| wrong("a trailer that is none"))?;
    let name = HeaderName::from_bytes(&line[..colon]).map_err(io::Error::other)?;
    let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).map_err(io::Error::other)?;
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str, is_head: bool) -> Result<Option<(Head, usize)>, String> {
        let mut buffer = BytesMut::from(text);
        let head = read_head(&mut buffer, is_head).map_err(|error| error.to_string())?;
        Ok(head.map(|head| (head, buffer.len())))
    }

    #[test]
    fn heads_say_how_far_bodies_go() {
        let of = |lines: &str| {
            let (head, left) = head(&format!("HTTP/1.1 200 OK\r\n{lines}\r\nrest"), false).unwrap().unwrap();
            assert_eq!(left, 4);
            (head.framing, head.is_kept)
        };
        assert_eq!(of("Content-Length: 10\r\nX: y\r\n"), (Framing::Length(10), true));
        assert_eq!(of("content-length: 10\r\ncontent-length: 10\r\n"), (Framing::Length(10), true));
        assert_eq!(of("transfer-encoding: Chunked\r\n"), (Framing::Chunked(Chunk::Size), true));
        assert_eq!(
            of("transfer-encoding: chunked\r\ncontent-length: 1\r\n"),
            (Framing::Chunked(Chunk::Size), false)
        );
        assert_eq!(of(""), (Framing::UntilClosed, false));
        assert_eq!(of("content-length: 3\r\nconnection: x, Close\r\n"), (Framing::Length(3), false));
        let none = |code: u16, is_head| {
            let text = format!("HTTP/1.1 {code} x\r\ncontent-length: 9\r\n\r\n");
            head(&text, is_head).unwrap().unwrap().0.framing
        };
        assert_eq!(
            (none(304, false), none(204, false), none(200, true)),
            (Framing::Length(0), Framing::Length(0), Framing::Length(0))
        );
        let old = head("HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\n", false).unwrap().unwrap();
        assert!(!old.0.is_kept);
        assert!(head("HTTP/1.1 200 OK\r\ncontent", false).unwrap().is_none());
        for wrong in [
            "content-length: -1\r\n",
            "content-length: 1, 1\r\n",
            "content-length: 1\r\ncontent-length: 2\r\n",
            "content-length: 9999999999999999999\r\n",
            "transfer-encoding: gzip\r\n",
            "transfer-encoding: gzip, chunked\r\n",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
            "content length: 1\r\n",
        ] {
            assert!(head(&format!("HTTP/1.1 200 OK\r\n{wrong}\r\n"), false).is_err(), "{wrong}");
        }
        assert!(head("SSH-2.0-x\r\n\r\n", false).is_err());
        assert!(head(&format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(101)), false).is_err());
        assert!(head(&format!("HTTP/1.1 200 OK\r\na: {}", "b".repeat(HEAD_BYTES)), false).is_err());
    }

    /// What is read of a body in chunks that comes in pieces of so many bytes.
    fn chunks(text: &str, piece: usize) -> Result<(String, HeaderMap, usize), String> {
        let (mut buffer, mut framing) = (BytesMut::new(), Framing::Chunked(Chunk::Size));
        let (mut data, mut trailers, mut left) = (Vec::new(), HeaderMap::new(), text.as_bytes());
        loop {
            while let Some(frame) =
                next_piece(&mut buffer, &mut framing).map_err(|error| error.to_string())?
            {
                match frame.into_data() {
                    Ok(bytes) => data.extend_from_slice(&bytes),
                    Err(frame) => trailers = frame.into_trailers().unwrap(),
                }
            }
            if is_done(&framing) {
                return Ok((String::from_utf8(data).unwrap(), trailers, buffer.len() + left.len()));
            }
            if left.is_empty() {
                return Err("more has to come".to_owned());
            }
            let (next, rest) = left.split_at(piece.min(left.len()));
            buffer.extend_from_slice(next);
            left = rest;
        }
    }

    #[test]
    fn chunks_are_read_in_any_pieces() {
        let text = "5\r\nhello\r\n1;ext=\"x\"\r\n \r\n00a \r\n0123456789\r\n0\r\nA: b\r\nc:d\r\n\r\nnext";
        for piece in 1..text.len() {
            let (data, trailers, left) = chunks(text, piece).unwrap();
            assert_eq!((data.as_str(), left), ("hello 0123456789", 4), "{piece}");
            assert_eq!(
                (&trailers["a"], &trailers["c"]),
                (&"b".parse::<HeaderValue>().unwrap(), &"d".parse().unwrap())
            );
        }
        for wrong in [
            "x\r\n",
            "\r\n",
            "-1\r\n",
            "5\nhello\r\n",
            "5\r\nhello!\r\n0\r\n\r\n",
            "5 5\r\nhello\r\n0\r\n\r\n",
            "1000000000000000\r\n",
            "0\r\nno trailer\r\n\r\n",
            "0\r\na : b\r\n\r\n",
            "5\r\nhel",
        ] {
            for piece in [1, 100] {
                assert!(chunks(wrong, piece).is_err(), "{wrong}");
            }
        }
        assert!(chunks(&format!("5;{}\r\n", "x".repeat(LINE_BYTES)), 100).is_err());
        assert!(chunks(&format!("0\r\na: {}\r\n\r\n", "x".repeat(TRAILER_BYTES)), 100).is_err());
    }

    #[test]
    fn heads_are_written_as_they_are() {
        let request = http::Request::get("/a?b=c").header("host", "h").header("x", "1").header("x", "2");
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let text = String::from_utf8(head_of(&parts)).unwrap();
        assert_eq!(text, "GET /a?b=c HTTP/1.1\r\nhost: h\r\nx: 1\r\nx: 2\r\n\r\n");
    }
}
