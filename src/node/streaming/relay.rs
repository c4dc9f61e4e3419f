//! Messages of a WebSocket on one side, streams of the runtime on the other.

use super::websocket;
use base::spdy::{Frame, Reader, Writer};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use std::io::{Error, Result};
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};
use tokio::sync::Mutex;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

/// Both sides.
pub(super) struct Relay<S, B> {
    sink: SplitSink<WebSocketStream<S>, Message>,
    messages: SplitStream<WebSocketStream<S>>,
    reader: Reader<ReadHalf<B>>,
    writer: Mutex<Writer<WriteHalf<B>>>,
}

impl<S, B> Relay<S, B>
where
    S: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    pub(super) async fn new(caller: S, backend: B) -> Self {
        let (sink, messages) = websocket::open(caller).await.split();
        let (from, to) = tokio::io::split(backend);
        Self { sink, messages, reader: Reader::new(from), writer: Mutex::new(Writer::new(to)) }
    }

    /// Opens a stream of the runtime.
    pub(super) async fn open(&mut self, stream: Frame) -> Result<()> {
        self.writer.get_mut().send(&stream).await
    }

    /// Tells the caller something at the beginning.
    pub(super) async fn tell(&mut self, message: Message) -> Result<()> {
        self.sink.send(message).await.map_err(Error::other)
    }

    /// Relays until these streams have ended, or the caller goes: dropping the connection ends them.
    pub(super) async fn run(
        self,
        mut open: Vec<u32>,
        tell: impl Fn(u32, &[u8]) -> Option<Message>,
        hear: impl Fn(&Message) -> Option<Frame>,
    ) -> Result<()> {
        let Self { mut sink, mut messages, mut reader, writer } = self;
        let outward = async {
            while !open.is_empty() {
                let Some(frame) = reader.next().await? else { break };
                match frame {
                    Frame::Data { stream, bytes, fin } => {
                        if !bytes.is_empty()
                            && let Some(message) = tell(stream, &bytes)
                        {
                            sink.send(message).await.map_err(Error::other)?;
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
            }
            let end = CloseFrame { code: CloseCode::Normal, reason: "".into() };
            sink.send(Message::Close(Some(end))).await.map_err(Error::other)
        };
        let inward = async {
            while let Some(message) = messages.next().await {
                if let Some(frame) = hear(&message.map_err(Error::other)?) {
                    writer.lock().await.send(&frame).await?;
                }
            }
            Ok::<(), Error>(())
        };
        tokio::select! {
            done = outward => done,
            done = inward => done,
        }
    }
}
