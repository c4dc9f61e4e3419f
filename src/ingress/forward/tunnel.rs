//! WebSockets and other protocols that a connection changes to.

use super::{Answered, Asking, Going};
use crate::numbers::NUMBERS;
use crate::rules::{Protocol, Weighted};
use crate::upstream::{Backend, Failed, Sent, upgrade};
use base::{Phase, clock};
use http::header::{self, HeaderValue};
use http::{Request, StatusCode, Version};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A tunnel in which nothing moves for this long is closed.
const SILENCE: Duration = Duration::from_secs(3600);

/// Whether a request asks for another protocol; HTTP/2 in the clear by upgrade is none that is offered.
pub(super) fn is_asked_for(request: &Asking) -> bool {
    let Some(protocol) = request.headers().get(header::UPGRADE) else { return false };
    let connection = request.headers().get(header::CONNECTION).and_then(|value| value.to_str().ok());
    let mut named = connection.unwrap_or_default().split(',').map(str::trim);
    request.version() == Version::HTTP_11
        && !protocol.as_bytes().eq_ignore_ascii_case(b"h2c")
        && named.any(|name| name.eq_ignore_ascii_case("upgrade"))
}

/// Passes the wish on, and joins both connections where the endpoint agrees.
pub(super) async fn open(
    going: &Going<'_>,
    backend: &Backend,
    share: &Weighted,
    mut request: Asking,
) -> Answered {
    if backend.key.protocol == Protocol::H2c {
        return Err(StatusCode::BAD_GATEWAY);
    }
    let client = hyper::upgrade::on(&mut request);
    let (mut head, body) = request.into_parts();
    let protocol = head.headers.get(header::UPGRADE).cloned();
    going.prepare(&mut head, share, backend)?;
    // Taken away as everything that is of one connection; here both go together.
    if let Some(protocol) = protocol {
        head.headers.insert(header::UPGRADE, protocol);
        head.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
    let mut request = Request::from_parts(head, Sent::of_client(body, going.live.route.limits.body_bytes));
    let limits = &going.live.route.limits;
    let supervisor = &going.connection.proxy.supervisor;
    for tries in 0..=limits.retries as usize {
        let endpoint = backend.pick(tries).ok_or(StatusCode::SERVICE_UNAVAILABLE)?;
        let asking = upgrade(endpoint, request, going.terms(None));
        let asked = tokio::time::timeout(limits.response, asking).await;
        match asked.map_err(|_| StatusCode::GATEWAY_TIMEOUT)? {
            Ok((response, None)) => return Ok(response),
            Ok((response, Some((endpoint, lease)))) => {
                supervisor.detached("tunnel", Phase::Work, async move {
                    join(client, endpoint).await;
                    drop(lease);
                });
                return Ok(response);
            }
            Err(Failed::Unsent(unsent, _)) => request = *unsent,
            Err(Failed::Broken(error)) => return Err(super::code_of(&error)),
            Err(Failed::Late) => return Err(StatusCode::GATEWAY_TIMEOUT),
        }
    }
    Err(StatusCode::BAD_GATEWAY)
}

async fn join(client: OnUpgrade, endpoint: Upgraded) {
    match client.await {
        Ok(client) => copy(TokioIo::new(client), TokioIo::new(endpoint)).await,
        Err(error) => tracing::debug!(%error, "a client did not take its upgrade"),
    }
}

/// Moves bytes both ways until both sides have ended, or nothing moves any more.
pub(super) async fn copy<A, B>(client: A, endpoint: B)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let _open = NUMBERS.tunnel();
    let moved = Arc::new(AtomicU64::new(0));
    let mut client = Counted { stream: client, moved: moved.clone() };
    let mut endpoint = Counted { stream: endpoint, moved: moved.clone() };
    tokio::select! {
        joined = tokio::io::copy_bidirectional(&mut client, &mut endpoint) => match joined {
            Ok((up, down)) => tracing::debug!(up, down, "a tunnel ended"),
            Err(error) => tracing::debug!(%error, "a tunnel broke"),
        },
        () = silence(&moved) => tracing::debug!("a tunnel was silent for too long"),
    }
}

/// Completes when nothing has moved for a while.
async fn silence(moved: &AtomicU64) {
    let mut before = None;
    loop {
        let now = moved.load(Ordering::Relaxed);
        if before == Some(now) {
            return;
        }
        before = Some(now);
        clock::sleep(SILENCE).await;
    }
}

/// Counts what is read.
struct Counted<S> {
    stream: S,
    moved: Arc<AtomicU64>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        self.moved.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
