//! Ports of a pod: many streams of SPDY on one connection, which is tunnelled through a WebSocket (KEP-4006) or is
//! upgraded to SPDY itself where the server is older.

use super::upgrade::{self, Socket};
use crate::error::Error;
use crate::session::Session;
use base::Phase;
use base::spdy::{Frame, Reader, Writer};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex, split,
};
use tokio::sync::{mpsc, oneshot};
use tokio_tungstenite::tungstenite::Message;

const PROTOCOL: &str = "portforward.k8s.io";
const TUNNELLED: &str = "SPDY/3.1+portforward.k8s.io";
/// One read, and so the most that a frame carries.
const CHUNK: usize = 32 << 10;
/// Frames of one stream that wait for whoever reads it; then the whole connection waits.
const QUEUE: usize = 64;
/// Why a stream is reset: it is not needed any more (CANCEL).
const CANCEL: u32 = 5;
/// What the server may say about what went wrong.
const COMPLAINT_BYTES: usize = 64 << 10;

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}
type Carrier = Box<dyn Io>;

/// Who reads a stream; dropped when nothing more comes.
type Inbox = mpsc::Sender<Vec<u8>>;

/// A connection on which ports are forwarded.
pub(crate) struct Forwarder {
    writer: tokio::sync::Mutex<Sending>,
    inboxes: Mutex<HashMap<u32, Inbox>>,
    closed: tokio::sync::Notify,
}

struct Sending {
    writer: Writer<WriteHalf<Carrier>>,
    /// The number of the next stream.
    stream: u32,
    request: u32,
}

/// A connection's end is told here.
pub(crate) type Lost = oneshot::Receiver<()>;

/// Opens a connection to a pod, whose path ends in `/portforward`.
pub(crate) async fn open(session: &Session, path: &str) -> Result<(Arc<Forwarder>, Lost), Error> {
    let carrier: Carrier =
        match upgrade::websocket(session, path, TUNNELLED).await {
            Ok(socket) => Box::new(tunnel(session, socket)),
            // Whatever a server answers with that knows no such WebSocket: what it says to SPDY is what counts.
            Err(error) if error.code().is_some() => {
                let wire = upgrade::spdy(session, path, PROTOCOL).await;
                Box::new(wire.map_err(|error| {
                    Error::plain(format!("error upgrading connection: {}", error.message()))
                })?)
            }
            Err(error) => return Err(error),
        };
    let (from, to) = split(carrier);
    let sending = Sending { writer: Writer::new(to), stream: 1, request: 0 };
    let forwarder = Arc::new(Forwarder {
        writer: tokio::sync::Mutex::new(sending),
        inboxes: Mutex::default(),
        closed: tokio::sync::Notify::new(),
    });
    let (lost, told) = oneshot::channel();
    let own = forwarder.clone();
    session.supervisor.detached("forwarded ports", Phase::Front, async move {
        let received = tokio::select! {
            received = own.receive(Reader::new(from)) => received,
            () = own.closed.notified() => Ok(()),
        };
        if let Err(error) = received {
            eprintln!("the connection broke: {error}");
        }
        own.inboxes().clear();
        drop(lost);
    });
    Ok((forwarder, told))
}

/// The bytes within the messages of a WebSocket.
fn tunnel(session: &Session, socket: Socket) -> DuplexStream {
    let (near, far) = duplex(2 * CHUNK);
    session.supervisor.detached("tunnel", Phase::Front, async move {
        let (mut sink, mut messages) = socket.split();
        let (mut from, mut to) = split(far);
        let inward = async {
            while let Some(Ok(message)) = messages.next().await {
                match message {
                    Message::Binary(bytes) if to.write_all(&bytes).await.is_err() => break,
                    Message::Close(_) => break,
                    _ => {}
                }
            }
        };
        let outward = async {
            let mut buffer = vec![0; CHUNK];
            while let Ok(count @ 1..) = from.read(&mut buffer).await {
                let message = Message::Binary(Bytes::copy_from_slice(&buffer[..count]));
                if sink.send(message).await.is_err() {
                    break;
                }
            }
        };
        // Whoever reads the other end sees that this one is gone.
        tokio::select! {
            () = inward => {}
            () = outward => {}
        }
    });
    near
}

impl Forwarder {
    fn inboxes(&self) -> std::sync::MutexGuard<'_, HashMap<u32, Inbox>> {
        self.inboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the connection, and all that is forwarded on it.
    pub(crate) fn close(&self) {
        self.closed.notify_one();
    }

    /// Hands on what comes until the connection ends.
    async fn receive(&self, mut reader: Reader<ReadHalf<Carrier>>) -> std::io::Result<()> {
        while let Some(frame) = reader.next().await? {
            match frame {
                Frame::Data { stream, bytes, fin } => {
                    let inbox = self.inboxes().get(&stream).cloned();
                    // Who is gone wants nothing.
                    if let (Some(inbox), false) = (inbox, bytes.is_empty())
                        && inbox.send(bytes).await.is_err()
                    {
                        self.inboxes().remove(&stream);
                    }
                    if fin {
                        self.inboxes().remove(&stream);
                    }
                }
                Frame::Reset { stream, .. } => drop(self.inboxes().remove(&stream)),
                Frame::Reply { stream, fin: true, .. } => drop(self.inboxes().remove(&stream)),
                Frame::Ping(number) if number % 2 == 0 => {
                    self.writer.lock().await.writer.send(&frame).await?
                }
                Frame::GoAway { .. } => break,
                _ => {}
            }
        }
        Ok(())
    }

    async fn send(&self, frame: Frame) -> std::io::Result<()> {
        self.writer.lock().await.writer.send(&frame).await
    }

    /// Opens the two streams of one forwarded connection: for what is wrong, and for its bytes.
    async fn streams(&self, port: u16) -> std::io::Result<[(u32, mpsc::Receiver<Vec<u8>>); 2]> {
        let mut sending = self.writer.lock().await;
        let (first, request) = (sending.stream, sending.request);
        sending.stream += 4;
        sending.request += 1;
        let mut made = Vec::new();
        for (stream, kind) in [(first, "error"), (first + 2, "data")] {
            let (inbox, read) = mpsc::channel(QUEUE);
            self.inboxes().insert(stream, inbox);
            let headers =
                [("streamtype", kind), ("port", &port.to_string()), ("requestid", &request.to_string())]
                    .map(|(name, value)| (name.to_owned(), value.to_owned()));
            sending.writer.send(&Frame::Open { stream, headers: headers.into(), fin: false }).await?;
            made.push((stream, read));
        }
        // Nothing is ever said about what is wrong on this side.
        sending.writer.send(&Frame::Data { stream: first, bytes: Vec::new(), fin: true }).await?;
        made.try_into().map_err(|_| std::io::Error::other("two streams are needed"))
    }

    /// Carries one connection to a port of the pod until either end is done; an error is what the pod's side complained
    /// about.
    pub(crate) async fn carry<S>(&self, local: S, port: u16) -> Result<(), String>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let text = |error: std::io::Error| error.to_string();
        let [(errors, mut complaints), (stream, mut told)] = self.streams(port).await.map_err(text)?;
        let (mut from, mut to) = split(local);
        let outward = async {
            let mut buffer = vec![0; CHUNK];
            loop {
                let count = from.read(&mut buffer).await?;
                let bytes = buffer[..count].to_vec();
                self.send(Frame::Data { stream, bytes, fin: count == 0 }).await?;
                if count == 0 {
                    return std::future::pending::<std::io::Result<()>>().await;
                }
            }
        };
        let inward = async {
            while let Some(bytes) = told.recv().await {
                if to.write_all(&bytes).await.is_err() {
                    break;
                }
            }
            // The other side of a connection that is done wants to know.
            drop(to.shutdown().await);
        };
        tokio::select! {
            () = inward => {}
            // A local end that broke is no fault of the pod's.
            _ = outward => {}
        }
        self.inboxes().remove(&stream);
        self.send(Frame::Reset { stream, status: CANCEL }).await.map_err(text)?;
        let mut complaint = Vec::new();
        while let Some(bytes) = complaints.recv().await {
            complaint.extend_from_slice(&bytes[..bytes.len().min(COMPLAINT_BYTES - complaint.len())]);
        }
        self.inboxes().remove(&errors);
        if complaint.is_empty() { Ok(()) } else { Err(String::from_utf8_lossy(&complaint).into_owned()) }
    }
}
