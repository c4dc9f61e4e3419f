//! Logs over a WebSocket (`binary.k8s.io`, `base64.binary.k8s.io`). Kubelets know none for them: their answer
//! is put into messages here.

use super::Backends;
use super::exchange::{Destination, ENDING_LIMIT, outgoing};
use api::status::Refusal;
use base::{Body, websocket};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderValue, Request, Response, header};
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::{Error, Message};

/// Pieces of the log as text, for who cannot read binary messages.
const TEXT: &str = "base64.binary.k8s.io";
/// The subprotocols in the order in which they are chosen.
const PROTOCOLS: [&str; 3] = ["binary.k8s.io", TEXT, ""];

impl Backends {
    /// Asks for a log and hands its pieces on as messages.
    pub(super) async fn log_messages(
        &self,
        to: &Destination,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, Refusal> {
        let accepted = websocket::accept(request.headers(), &PROTOCOLS);
        let upgrade = request.extensions_mut().remove::<OnUpgrade>();
        let (Some(accepted), Some(upgrade)) = (accepted, upgrade) else {
            return Err(Refusal::bad_request("no known subprotocol of WebSocket was offered".to_owned()));
        };
        outgoing(request.headers_mut(), false);
        request.headers_mut().extend(HeaderValue::try_from(to.host()).map(|host| (header::HOST, host)));
        let answer = self.exchange.send(to, request).await;
        let answer = answer.map_err(|why| Refusal::internal(format!("error dialing backend: {why}")))?;
        if !answer.status().is_success() {
            return Ok(answer);
        }
        let as_text = accepted.protocol == TEXT;
        self.exchange.stream("log", async move {
            if let Err(error) = send(upgrade, answer.into_body(), as_text).await {
                tracing::debug!(%error, "a log was not read to its end");
            }
        });
        Ok(accepted.response)
    }
}

/// Sends until the log ends or the client leaves. The first message is empty: it tells that the log was found.
async fn send(upgrade: OnUpgrade, mut body: Body, as_text: bool) -> Result<(), Error> {
    let io = |error: &dyn std::fmt::Display| Error::Io(std::io::Error::other(error.to_string()));
    let stream = TokioIo::new(upgrade.await.map_err(|error| io(&error))?);
    let (mut sink, mut heard) = websocket::open(stream).await.split();
    let message = |bytes: Bytes| {
        if as_text { Message::text(STANDARD.encode(bytes)) } else { Message::Binary(bytes) }
    };
    sink.send(message(Bytes::new())).await?;
    let sending = async {
        while let Some(frame) = body.frame().await {
            if let Ok(piece) = frame.map_err(|error| io(&error))?.into_data() {
                sink.send(message(piece)).await?;
            }
        }
        sink.close().await
    };
    // Nothing that a reader of logs says is of interest but that it leaves.
    let leaving = async { while heard.next().await.is_some_and(|message| message.is_ok()) {} };
    tokio::select! {
        sent = sending => sent?,
        () = leaving => return Ok(()),
    }
    let mut socket = sink.reunite(heard).map_err(|error| io(&error))?;
    let ending = async {
        while socket.next().await.is_some_and(|message| message.is_ok()) {}
        socket.get_mut().shutdown().await
    };
    tokio::time::timeout(ENDING_LIMIT, ending).await.map_err(|late| io(&late))?.map_err(Error::Io)
}
