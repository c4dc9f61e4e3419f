//! kubectl's channels over WebSocket (`v4.channel.k8s.io`, `v5.channel.k8s.io`), translated to the
//! streams that the runtime serves over SPDY.

use super::route::Streams;
use super::websocket;
use crate::spdy::{Frame, Reader, Writer};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use std::io::{Error, Result};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Mutex;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

/// Channels with an exit status, and with a message that closes a channel (KEP-4006).
pub(super) const V4: &str = "v4.channel.k8s.io";
pub(super) const V5: &str = "v5.channel.k8s.io";

/// The first byte of a message that closes the channel named by the second.
const CLOSE: u8 = 255;

/// Channels by number, with the names of the streams they become.
const CHANNELS: [(u8, &str); 5] = [(0, "stdin"), (1, "stdout"), (2, "stderr"), (3, "error"), (4, "resize")];

/// Which channels exist for these streams, in the order that peers open them.
fn wanted(streams: Streams) -> Vec<(u8, u32)> {
    let exists = |channel: u8| match channel {
        0 => streams.stdin,
        1 => streams.stdout,
        2 => streams.stderr && !streams.tty,
        4 => streams.tty,
        _ => true,
    };
    let order = [3u8, 0, 1, 2, 4];
    order.into_iter().filter(|channel| exists(*channel)).zip((1u32..).step_by(2)).collect()
}

/// Translates until the command has ended and its status was passed on.
pub(super) async fn translate<S, B>(caller: S, backend: B, streams: Streams, closable: bool) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let ids = wanted(streams);
    let (mut sink, mut messages) = websocket::open(caller).await.split();
    let (from, to) = tokio::io::split(backend);
    let (mut reader, writer) = (Reader::new(from), Mutex::new(Writer::new(to)));
    for (channel, stream) in &ids {
        let name = CHANNELS.iter().find(|(number, _)| number == channel).map_or("", |(_, name)| name);
        let headers = vec![("streamtype".to_owned(), name.to_owned())];
        writer.lock().await.send(&Frame::Open { stream: *stream, headers, fin: false }).await?;
    }
    if streams.stdout {
        // Tells the caller that the streams are there.
        sink.send(Message::Binary(Bytes::from_static(&[1]))).await.map_err(Error::other)?;
    }
    let outward = async {
        let mut open: Vec<u32> =
            ids.iter().filter(|(channel, _)| (1..=3).contains(channel)).map(|(_, id)| *id).collect();
        while let Some(frame) = reader.next().await? {
            match frame {
                Frame::Data { stream, bytes, fin } => {
                    if let Some((channel, _)) =
                        ids.iter().find(|(_, id)| *id == stream).filter(|_| !bytes.is_empty())
                    {
                        let mut message = BytesMut::with_capacity(bytes.len() + 1);
                        message.put_u8(*channel);
                        message.put_slice(&bytes);
                        sink.send(Message::Binary(message.freeze())).await.map_err(Error::other)?;
                    }
                    open.retain(|id| *id != stream || !fin);
                }
                Frame::Reset { stream, .. } => open.retain(|id| *id != stream),
                Frame::Ping(number) if number % 2 == 0 => {
                    writer.lock().await.send(&Frame::Ping(number)).await?
                }
                Frame::GoAway { .. } => break,
                _ => {}
            }
            if open.is_empty() {
                break;
            }
        }
        let end = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        sink.send(Message::Close(Some(end))).await.map_err(Error::other)
    };
    let inward = async {
        while let Some(message) = messages.next().await {
            let Message::Binary(bytes) = message.map_err(Error::other)? else { continue };
            let (channel, content, fin) = match bytes.as_ref() {
                [CLOSE, channel] if closable => (*channel, Vec::new(), true),
                [channel, content @ ..] => (*channel, content.to_vec(), false),
                [] => continue,
            };
            if let Some((_, stream)) = ids.iter().find(|(number, _)| *number == channel) {
                let frame = Frame::Data { stream: *stream, bytes: content, fin };
                writer.lock().await.send(&frame).await?;
            }
        }
        Ok::<(), Error>(())
    };
    tokio::select! {
        done = outward => done,
        // The caller went away: dropping the connection ends the command's streams.
        done = inward => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_has_no_separate_errors() {
        let streams = Streams { stdin: true, stdout: true, stderr: true, tty: true };
        assert_eq!(wanted(streams), [(3, 1), (0, 3), (1, 5), (4, 7)]);
        assert_eq!(wanted(Streams { tty: false, stdin: false, ..streams }), [(3, 1), (1, 3), (2, 5)]);
    }
}
