//! Raw bytes tunnelled through a WebSocket.

pub(super) use base::websocket::{accept, is_asked, open};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use std::io::{Error, Result};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;

/// SPDY's bytes in binary messages, as kubectl forwards ports from 1.30 on (KEP-4006).
pub(super) const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
/// One message of a tunnel.
const CHUNK_BYTES: usize = 32 << 10;

/// Copies bytes between the messages of a WebSocket and a plain connection until either ends.
pub(super) async fn tunnel<S, B>(caller: S, backend: B) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sink, mut messages) = open(caller).await.split();
    let (mut from, mut to) = tokio::io::split(backend);
    let inward = async {
        while let Some(message) = messages.next().await {
            match message.map_err(Error::other)? {
                Message::Binary(bytes) => to.write_all(&bytes).await?,
                Message::Close(_) => break,
                _ => {}
            }
        }
        to.shutdown().await
    };
    let outward = async {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            match from.read(&mut buffer).await? {
                0 => break,
                n => sink
                    .send(Message::Binary(Bytes::copy_from_slice(&buffer[..n])))
                    .await
                    .map_err(Error::other)?,
            }
        }
        sink.close().await.map_err(Error::other)
    };
    tokio::select! {
        done = inward => done,
        done = outward => done,
    }
}
