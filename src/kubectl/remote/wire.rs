//! Channels to a process in a container: over a WebSocket, whose messages begin with the number of their channel
//! (`v5.channel.k8s.io`, KEP-4006), or as streams of SPDY.

use super::upgrade::{self, Socket, Wire};
use crate::error::Error;
use crate::session::Session;
use base::spdy::{Frame, Reader, Writer};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{ReadHalf, WriteHalf};
use tokio_tungstenite::tungstenite::{self, Message};

pub(super) const STDIN: u8 = 0;
pub(crate) const STDOUT: u8 = 1;
pub(crate) const STDERR: u8 = 2;
pub(super) const ERROR: u8 = 3;
pub(super) const RESIZE: u8 = 4;
/// The first byte of a message that closes the channel which the second names.
const CLOSE: u8 = 255;

/// Channels by number, with what their streams are called.
const NAMES: [&str; 5] = ["stdin", "stdout", "stderr", "error", "resize"];

/// What is heard: a channel's bytes, and no more when all is said.
pub(super) enum Heard {
    Socket(SplitStream<Socket>),
    Streams { reader: Box<Reader<ReadHalf<Wire>>>, open: Vec<u8>, ids: Vec<(u8, u32)> },
}

/// What is said.
pub(super) enum Said {
    Socket(SplitSink<Socket, Message>),
    Streams { writer: Box<Writer<WriteHalf<Wire>>>, ids: Vec<(u8, u32)> },
}

/// Opens the channels that a path asks for.
pub(super) async fn open(session: &Session, path: &str, channels: &[u8]) -> Result<(Said, Heard), Error> {
    let refusal = match upgrade::websocket(session, path, "v5.channel.k8s.io").await {
        Ok(socket) => {
            let (sink, source) = socket.split();
            return Ok((Said::Socket(sink), Heard::Socket(source)));
        }
        Err(error) => error,
    };
    // Whatever a server answers with that knows no WebSocket here: what it says to SPDY is what counts.
    if refusal.code().is_none() {
        return Err(refusal);
    }
    let wire = upgrade::spdy(session, path, "v4.channel.k8s.io").await?;
    let (from, to) = tokio::io::split(wire);
    let mut writer = Writer::new(to);
    let ids: Vec<(u8, u32)> = channels.iter().copied().zip((1u32..).step_by(2)).collect();
    for (channel, stream) in &ids {
        let headers = vec![("streamtype".to_owned(), NAMES[usize::from(*channel)].to_owned())];
        writer.send(&Frame::Open { stream: *stream, headers, fin: false }).await.map_err(|e| broken(&e))?;
    }
    let open = channels.iter().copied().filter(|channel| (STDOUT..=ERROR).contains(channel)).collect();
    Ok((
        Said::Streams { writer: Box::new(writer), ids: ids.clone() },
        Heard::Streams { reader: Box::new(Reader::new(from)), open, ids },
    ))
}

fn broken(error: &dyn std::fmt::Display) -> Error {
    Error::plain(format!("the connection broke: {error}"))
}

impl Heard {
    /// The next bytes of a channel; none when the server has closed them all.
    pub(super) async fn next(&mut self) -> Result<Option<(u8, Vec<u8>)>, Error> {
        match self {
            Self::Socket(source) => messages(source).await,
            Self::Streams { reader, open, ids } => frames(reader, open, ids).await,
        }
    }
}

async fn messages(source: &mut SplitStream<Socket>) -> Result<Option<(u8, Vec<u8>)>, Error> {
    while let Some(message) = source.next().await {
        let data = match message {
            Ok(Message::Binary(data)) => data,
            Ok(Message::Text(text)) => text.into(),
            Ok(Message::Close(_)) => return Ok(None),
            Ok(_) => continue,
            Err(tungstenite::Error::Protocol(
                tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
            )) => return Ok(None),
            Err(error) => return Err(broken(&error)),
        };
        if let Some((channel, bytes)) = data.split_first() {
            return Ok(Some((*channel, bytes.to_vec())));
        }
    }
    Ok(None)
}

async fn frames(
    reader: &mut Reader<ReadHalf<Wire>>,
    open: &mut Vec<u8>,
    ids: &[(u8, u32)],
) -> Result<Option<(u8, Vec<u8>)>, Error> {
    let channel = |stream: u32| ids.iter().find(|(_, id)| *id == stream).map(|(channel, _)| *channel);
    while !open.is_empty() {
        let Some(frame) = reader.next().await.map_err(|error| broken(&error))? else { break };
        match frame {
            Frame::Data { stream, bytes, fin } => {
                let Some(channel) = channel(stream) else { continue };
                open.retain(|own| *own != channel || !fin);
                if !bytes.is_empty() {
                    return Ok(Some((channel, bytes)));
                }
            }
            Frame::Reset { stream, .. } => open.retain(|own| Some(*own) != channel(stream)),
            Frame::GoAway { .. } => break,
            _ => {}
        }
    }
    Ok(None)
}

impl Said {
    /// Sends bytes on a channel. Once the process has ended nobody takes them: how it did, the other direction says.
    pub(super) async fn send(&mut self, channel: u8, bytes: &[u8]) {
        let sent = match self {
            Self::Socket(sink) => {
                let message = [&[channel], bytes].concat();
                sink.send(Message::Binary(message.into())).await.is_ok()
            }
            Self::Streams { writer, ids } => match id(ids, channel) {
                Some(stream) => {
                    writer.send(&Frame::Data { stream, bytes: bytes.to_vec(), fin: false }).await.is_ok()
                }
                None => true,
            },
        };
        if !sent {
            std::future::pending::<()>().await;
        }
    }

    /// Says that nothing more comes on a channel.
    pub(super) async fn close(&mut self, channel: u8) {
        let sent = match self {
            Self::Socket(sink) => sink.send(Message::Binary(vec![CLOSE, channel].into())).await.is_ok(),
            Self::Streams { writer, ids } => match id(ids, channel) {
                Some(stream) => {
                    writer.send(&Frame::Data { stream, bytes: Vec::new(), fin: true }).await.is_ok()
                }
                None => true,
            },
        };
        if !sent {
            std::future::pending::<()>().await;
        }
    }
}

fn id(ids: &[(u8, u32)], channel: u8) -> Option<u32> {
    ids.iter().find(|(own, _)| *own == channel).map(|(_, id)| *id)
}
