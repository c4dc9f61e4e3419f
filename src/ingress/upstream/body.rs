//! Bodies on their way to an endpoint and back.

use super::Lease;
use super::conn::{Conn, keep};
use super::wire::{Framing, Head, Wire, is_done};
use base::{BodyError, clock};
use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Sleep;

/// How long a client may be silent in the middle of a body.
const CLIENT_SILENCE: Duration = Duration::from_secs(60);
/// Pieces of a body that a mirror may lag behind; it is given up then.
pub(crate) const MIRROR_PIECES: usize = 64;

/// Why a body of a request was not read to its end. To be told to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("the body is larger than the route allows")]
    TooLarge,
    #[error("the body stopped coming")]
    TooSlow,
}

/// How long is waited for something that is polled for. To set the timer later again takes no lock, which to make
/// one does.
#[derive(Default)]
pub(crate) struct Patience {
    timer: Option<Pin<Box<Sleep>>>,
    /// Whether it runs; who does not ask does not wait.
    runs: bool,
}

impl Patience {
    pub(crate) fn ends(&mut self, limit: Duration, cx: &mut Context<'_>) -> bool {
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        if !std::mem::replace(&mut self.runs, true) {
            timer.as_mut().reset(clock::instant() + limit);
        }
        timer.as_mut().poll(cx).is_ready()
    }

    /// What was waited for came.
    pub(crate) fn stop(&mut self) {
        self.runs = false;
    }
}

/// Counts the pieces of a body that went, for whoever waits for an answer to it.
#[derive(Clone, Default)]
pub(crate) struct Progress(Arc<AtomicU64>);

impl Progress {
    /// How many pieces went.
    pub(super) fn pieces(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Completes when nothing has moved for so long.
    pub(super) async fn stalls(&self, limit: Duration) {
        let mut before = None;
        loop {
            let now = self.pieces();
            if before == Some(now) {
                return;
            }
            before = Some(now);
            clock::sleep(limit).await;
        }
    }
}

/// The body of a request, as it is sent on.
pub(crate) struct Sent {
    from: Source,
    /// Bytes that may still come.
    left: Option<u64>,
    patience: Patience,
    progress: Option<Progress>,
    /// Who gets copies of the pieces; who lags is given up.
    copies: Vec<mpsc::Sender<Bytes>>,
}

enum Source {
    Nothing,
    Client(Incoming),
    /// Pieces of another request's body.
    Copy(mpsc::Receiver<Bytes>),
}

impl Sent {
    /// No body.
    pub(crate) fn empty() -> Self {
        Self {
            from: Source::Nothing,
            left: None,
            patience: Patience::default(),
            progress: None,
            copies: Vec::new(),
        }
    }

    /// A client's, of at most so many bytes.
    pub(crate) fn of_client(body: Option<Incoming>, limit: Option<u64>) -> Self {
        match body.filter(|body| !body.is_end_stream()) {
            None => Self::empty(),
            Some(body) => Self { from: Source::Client(body), left: limit, ..Self::empty() },
        }
    }

    /// A copy of what this body is from now on.
    pub(crate) fn copy(&mut self) -> Self {
        if matches!(self.from, Source::Nothing) {
            return Self::empty();
        }
        let (sender, receiver) = mpsc::channel(MIRROR_PIECES);
        self.copies.push(sender);
        Self { from: Source::Copy(receiver), ..Self::empty() }
    }

    /// Tells how it goes; none where there is nothing to send.
    pub(crate) fn progress(&mut self) -> Option<Progress> {
        if self.is_empty() {
            return None;
        }
        Some(self.progress.get_or_insert_default().clone())
    }

    /// Whether there is nothing to send, so that it can be sent again.
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self.from, Source::Nothing)
    }

    fn take(&mut self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, BodyError> {
        self.patience.stop();
        if let Some(progress) = &self.progress {
            progress.0.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(data) = frame.data_ref() {
            if let Some(left) = &mut self.left {
                let bytes = data.len() as u64;
                *left = left.checked_sub(bytes).ok_or(Refused::TooLarge)?;
            }
            if !self.copies.is_empty() {
                self.copies.retain(|copy| copy.try_send(data.clone()).is_ok());
            }
        }
        Ok(frame)
    }
}

impl Body for Sent {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = match &mut this.from {
            Source::Nothing => return Poll::Ready(None),
            Source::Copy(pieces) => return pieces.poll_recv(cx).map(|piece| Some(Ok(Frame::data(piece?)))),
            Source::Client(body) => Pin::new(body).poll_frame(cx),
        };
        match polled {
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(this.take(frame))),
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => {
                this.copies.clear();
                Poll::Ready(None)
            }
            Poll::Pending if this.patience.ends(CLIENT_SILENCE, cx) => {
                Poll::Ready(Some(Err(Refused::TooSlow.into())))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.from {
            Source::Nothing => true,
            Source::Client(body) => body.is_end_stream(),
            Source::Copy(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.from {
            Source::Nothing => SizeHint::with_exact(0),
            Source::Client(body) => body.size_hint(),
            Source::Copy(_) => SizeHint::default(),
        }
    }
}

/// A piece of an answer as it came.
type Piece = Result<Frame<Bytes>, hyper::Error>;

/// The body of an answer.
pub(crate) struct Answer(Kind);

enum Kind {
    Whole(Option<Bytes>),
    Endpoint(Box<Streaming>),
    Wire(Box<Reading>),
}

/// A body that is read off its connection.
struct Reading {
    /// None when it has been read, or is broken.
    wire: Option<Box<Wire>>,
    framing: Framing,
    is_kept: bool,
    lease: Lease,
    silence: Duration,
    held: Option<Box<dyn Send>>,
}

impl Reading {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(wire) = &mut self.wire else { return Poll::Ready(None) };
        match wire.poll_piece(&mut self.framing, cx) {
            Poll::Ready(Some(Ok(frame))) => {
                wire.patience.stop();
                self.finish();
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.wire = None;
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(None) => {
                self.finish();
                Poll::Ready(None)
            }
            Poll::Pending if wire.patience.ends(self.silence, cx) => {
                self.wire = None;
                Poll::Ready(Some(Err("the endpoint stopped sending".into())))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// Gives the connection back as soon as the body was read to its end.
    fn finish(&mut self) {
        if is_done(&self.framing)
            && let Some(wire) = self.wire.take()
        {
            give_back(wire, &self.framing, self.is_kept, &self.lease);
        }
    }
}

fn give_back(mut wire: Box<Wire>, framing: &Framing, is_kept: bool, lease: &Lease) {
    if is_kept && wire.is_clean(framing) {
        wire.rest();
        lease.0.wires.put(wire);
    }
}

struct Streaming {
    /// What came with the head.
    first: Option<Piece>,
    body: Incoming,
    /// Driven here; none where it has a task of its own.
    conn: Option<Box<Conn>>,
    lease: Lease,
    silence: Duration,
    patience: Patience,
    /// Held for as long as the route counts the request.
    held: Option<Box<dyn Send>>,
}

impl Answer {
    pub(crate) fn empty() -> Self {
        Self(Kind::Whole(None))
    }

    pub(crate) fn text(text: &'static str) -> Self {
        Self::whole(Bytes::from_static(text.as_bytes()))
    }

    pub(super) fn whole(bytes: Bytes) -> Self {
        Self(Kind::Whole(Some(bytes)))
    }

    pub(super) fn of_endpoint(body: Incoming, lease: Lease, silence: Duration) -> Self {
        let patience = Patience::default();
        let streaming = Streaming { first: None, body, conn: None, lease, silence, patience, held: None };
        Self(Kind::Endpoint(Box::new(streaming)))
    }

    /// One whose connection is driven by whoever reads it; the first piece may be there already.
    pub(super) fn driven(
        (first, body): (Option<Piece>, Incoming),
        mut conn: Box<Conn>,
        lease: Lease,
        silence: Duration,
    ) -> Self {
        let patience = std::mem::take(&mut conn.patience);
        let conn = Some(conn);
        Self(Kind::Endpoint(Box::new(Streaming { first, body, conn, lease, silence, patience, held: None })))
    }

    /// One that is read off its connection, which is given back at once if all of it has come.
    pub(super) fn read(head: Head, mut wire: Box<Wire>, lease: Lease, silence: Duration) -> Response<Self> {
        let Head { response, framing, is_kept } = head;
        if let Some(bytes) = wire.whole(&framing) {
            give_back(wire, &Framing::Length(0), is_kept, &lease);
            return response.map(|()| Self(Kind::Whole((!bytes.is_empty()).then_some(bytes))));
        }
        let reading = Reading { wire: Some(wire), framing, is_kept, lease, silence, held: None };
        response.map(|()| Self(Kind::Wire(Box::new(reading))))
    }

    /// Keeps something until the answer was read to its end.
    pub(crate) fn hold(&mut self, held: Box<dyn Send>) {
        match &mut self.0 {
            Kind::Whole(_) => drop(held),
            Kind::Endpoint(streaming) => streaming.held = Some(held),
            Kind::Wire(reading) => reading.held = Some(held),
        }
    }
}

impl Streaming {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(first.map_err(Into::into)));
        }
        let mut polled = Pin::new(&mut self.body).poll_frame(cx);
        if polled.is_pending()
            && let Some(conn) = &mut self.conn
        {
            conn.drive(cx);
            polled = Pin::new(&mut self.body).poll_frame(cx);
        }
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
                self.patience.stop();
                if self.body.is_end_stream() {
                    self.finish(cx);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.conn = None;
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(None) => {
                self.finish(cx);
                Poll::Ready(None)
            }
            Poll::Pending if self.patience.ends(self.silence, cx) => {
                self.conn = None;
                Poll::Ready(Some(Err("the endpoint stopped sending".into())))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn finish(&mut self, cx: &mut Context<'_>) {
        if let Some(mut conn) = self.conn.take() {
            conn.patience = std::mem::take(&mut self.patience);
            keep(conn, &self.lease.0, cx);
        }
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        // Servers do not ask a body that said its length for its end.
        if self.body.is_end_stream() {
            self.finish(&mut Context::from_waker(Waker::noop()));
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.get_mut().0 {
            Kind::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Endpoint(streaming) => streaming.poll_frame(cx),
            Kind::Wire(reading) => reading.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Whole(bytes) => bytes.is_none(),
            Kind::Endpoint(streaming) => streaming.first.is_none() && streaming.body.is_end_stream(),
            Kind::Wire(reading) => reading.wire.is_none() && is_done(&reading.framing),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Kind::Endpoint(streaming) => {
                let first = streaming.first.as_ref().and_then(|piece| piece.as_ref().ok()?.data_ref());
                let first = first.map_or(0, |bytes| bytes.len() as u64);
                let rest = streaming.body.size_hint();
                let mut sum = SizeHint::new();
                sum.set_lower(rest.lower() + first);
                if let Some(upper) = rest.upper() {
                    sum.set_upper(upper + first);
                }
                sum
            }
            Kind::Wire(reading) => match &reading.framing {
                Framing::Length(left) => SizeHint::with_exact(*left),
                _ => SizeHint::default(),
            },
        }
    }
}
