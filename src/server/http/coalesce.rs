//! Writes that follow each other closely leave as one.

use bytes::{Buf, BytesMut};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How much is held back at most; as much as rustls takes at a time.
const HELD_BYTES: usize = 64 << 10;
/// The largest TLS record: full ones leave without being copied first.
const RECORD_BYTES: usize = 16 << 10;
/// So much beyond whole records is copied rather than sent as a record of its own.
const REST_BYTES: usize = 4 << 10;

/// A connection that gathers what is written until it is flushed, and then lets those tasks write first
/// that are ready to: an event to a hundred watches of a connection is a hundred small frames, each of
/// which would else be encrypted and sent alone.
pub(crate) struct Coalesced<S> {
    inner: S,
    held: BytesMut,
    /// The others were let write since the last flush began.
    yielded: bool,
}

impl<S> Coalesced<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self { inner, held: BytesMut::new(), yielded: false }
    }
}

impl<S: AsyncWrite + Unpin> Coalesced<S> {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            let sent = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.held))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.held.advance(sent);
        }
        // Thousands of idle connections hold no memory.
        self.held = BytesMut::new();
        self.yielded = false;
        Poll::Ready(Ok(()))
    }

    /// Sends what is held and then as much of `data` as fills whole records; a little that is left is held.
    fn poll_records(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let rest = (self.held.len() + data.len()) % RECORD_BYTES;
            let whole = &data[..data.len() - if rest > REST_BYTES { 0 } else { rest }];
            let parts = [IoSlice::new(&self.held), IoSlice::new(whole)];
            let sent = ready!(Pin::new(&mut self.inner).poll_write_vectored(cx, &parts))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            if sent < self.held.len() {
                self.held.advance(sent);
                continue;
            }
            let taken = sent - self.held.len();
            self.held.clear();
            if taken == whole.len() {
                self.held.extend_from_slice(&data[taken..]);
                return Poll::Ready(Ok(data.len()));
            }
            if taken > 0 {
                return Poll::Ready(Ok(taken));
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Coalesced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Coalesced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if data.len() >= RECORD_BYTES {
            return self.poll_records(cx, data);
        }
        if self.held.len() + data.len() > HELD_BYTES {
            ready!(self.poll_send(cx))?;
        }
        self.held.extend_from_slice(data);
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.held.is_empty() && !self.yielded {
            self.yielded = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn small_writes_arrive_together_and_in_order() {
        let (own, mut other) = tokio::io::duplex(1 << 20);
        let mut own = Coalesced::new(own);
        own.write_all(b"one ").await.unwrap();
        own.write_all(b"two").await.unwrap();
        own.flush().await.unwrap();
        let mut seen = [0; 32];
        let count = other.read(&mut seen).await.unwrap();
        assert_eq!(&seen[..count], b"one two");
        let large: Vec<u8> =
            (0..3 * HELD_BYTES).map(|at| at.to_le_bytes()[0] ^ at.to_le_bytes()[1]).collect();
        let mut expected = Vec::new();
        for length in [RECORD_BYTES, RECORD_BYTES + 9, large.len(), RECORD_BYTES - 1, large.len() - 7] {
            for part in [b"head", &large[..length]] {
                own.write_all(part).await.unwrap();
                expected.extend_from_slice(part);
            }
        }
        own.shutdown().await.unwrap();
        let mut all = Vec::new();
        other.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, expected);
    }
}
