//! HTTP/1.1 with clients by hyper, for what is not plain: requests with bodies or for other protocols, and heads that are
//! large, old or wrong.

use crate::converse::Closing;
use crate::forward::Connection;
use crate::heads::{HeadTimer, Heads};
use crate::upstream::{Begun, Stream};
use base::Seldom;
use bytes::BytesMut;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The largest head of a request. It may have 100 headers, which is hyper's own limit: to set it costs an allocation
/// for each request.
const HEAD_BYTES: usize = 64 << 10;

/// What is to be done next.
enum Then {
    End(hyper::Result<()>),
    /// What was begun is done: the next request may be a plain one.
    Rest,
    Close,
    /// It is polled again, and sees that no head came.
    Again,
}

/// Serves a connection of which `first` has come, until there is nothing of a request or its answer left. Gives it back
/// with what has come of the next request, unless it is over or speaks another protocol from now on.
pub(crate) async fn serve(
    connection: Arc<Connection>,
    (first, stream): (BytesMut, Stream),
    closing: &mut Closing,
    limit: Duration,
) -> hyper::Result<Option<(BytesMut, Stream)>> {
    let heads = Heads::new(limit);
    let (is_asked, is_stuck) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let asked = is_asked.clone();
    // Boxed, since hyper keeps room for it as long as the connection lasts.
    let service = service_fn(move |request: Request<Incoming>| {
        asked.store(true, Ordering::Relaxed);
        Box::pin(connection.clone().serve(request.map(Some)))
    });
    let stream = Sending { stream: Begun::new(first.into(), stream), is_stuck: is_stuck.clone() };
    let mut builder = http1::Builder::new();
    builder
        .timer(HeadTimer(heads.clone()))
        .header_read_timeout(limit)
        .max_buf_size(HEAD_BYTES)
        .max_header_size(HEAD_BYTES);
    let mut serving = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
    let mut is_closing = false;
    loop {
        let mut overdue = Seldom::new(heads.overdue());
        let then = poll_fn(|cx| {
            if let Poll::Ready(ended) = Pin::new(&mut serving).poll(cx) {
                return Poll::Ready(Then::End(ended));
            }
            if !is_closing && closing.poll(cx) {
                return Poll::Ready(Then::Close);
            }
            let is_sent = !is_stuck.load(Ordering::Relaxed);
            if is_asked.load(Ordering::Relaxed) && heads.is_waited_for() && is_sent {
                return Poll::Ready(Then::Rest);
            }
            Pin::new(&mut overdue).poll(cx).map(|()| Then::Again)
        });
        match then.await {
            Then::End(ended) => return ended.map(|()| None),
            Then::Rest => break,
            Then::Close => {
                is_closing = true;
                Pin::new(&mut serving).graceful_shutdown();
            }
            Then::Again => {}
        }
    }
    Ok(serving.into_parts().map(|parts| {
        let (rest, stream) = parts.io.into_inner().stream.end();
        let mut came = BytesMut::from(&*parts.read_buf);
        came.extend_from_slice(&rest);
        (came, stream)
    }))
}

/// Notes whether something waits to be sent.
struct Sending {
    stream: Begun<Stream>,
    is_stuck: Arc<AtomicBool>,
}

impl Sending {
    fn noted<T>(&self, sent: Poll<T>) -> Poll<T> {
        self.is_stuck.store(sent.is_pending(), Ordering::Relaxed);
        sent
    }
}

impl AsyncRead for Sending {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Sending {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.noted(sent)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.noted(sent)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What could not be written before is still with hyper, which flushes after it alone.
        let sent = Pin::new(&mut self.stream).poll_flush(cx);
        self.noted(sent)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
