//! `kubectl exec`, over WebSocket (`v5.channel.k8s.io`, KEP-4006): every message begins with the number
//! of its channel.

use crate::args::Exec;
use crate::error::Error;
use crate::output;
use crate::pods;
use crate::session::{Session, escape, refused};
use crate::terminal::{self, Raw};
use bytes::Bytes;
use client::https::Target;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use http::{Request, header};
use rustls::pki_types::ServerName;
use serde_json::Value;
use std::io::Write;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::signal::unix::{SignalKind, signal};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::{self, Message};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// How much of standard input goes into one message.
const CHUNK: usize = 32 << 10;

trait Io: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Io for T {}
type Socket = WebSocketStream<Box<dyn Io>>;

pub(crate) async fn run(session: &Session, args: &Exec) -> Result<(), Error> {
    let pod = pods::of(session, &args.target).await?.remove(0);
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    if matches!(phase, "Succeeded" | "Failed") {
        return Err(Error::plain(format!(
            "cannot exec into a container in a completed pod; current phase is {phase}"
        )));
    }
    let container = pods::container(&pod, &args.container, !args.quiet)?;
    let raw = if args.tty && args.stdin { Raw::enter() } else { None };
    let tty = args.tty && (raw.is_some() || !args.stdin);
    if args.tty && !tty {
        eprintln!("Unable to use a TTY - input is not a terminal or the right kind of file");
    }
    let socket = connect(&session.target(), &path(args, &pod, &container, tty)).await?;
    let status = talk(socket, args.stdin, tty).await;
    drop(raw);
    ended(&status?)
}

fn path(args: &Exec, pod: &Value, container: &str, tty: bool) -> String {
    let metadata = &pod["metadata"];
    let mut path = format!(
        "/api/v1/namespaces/{}/pods/{}/exec?container={}&stdin={}&stdout=true&stderr={}&tty={tty}",
        metadata["namespace"].as_str().unwrap_or_default(),
        metadata["name"].as_str().unwrap_or_default(),
        escape(container),
        args.stdin,
        !tty,
    );
    args.command.iter().for_each(|word| path.push_str(&format!("&command={}", escape(word))));
    path
}

/// A connection of its own: an upgraded one cannot be shared.
async fn connect(target: &Target, path: &str) -> Result<Socket, Error> {
    let unreached = |error: &dyn std::fmt::Display| {
        Error::from(client::Error::Transport(format!("{}: {error}", target.server)))
    };
    let host = target.server.host().unwrap_or_default().trim_matches(['[', ']']);
    let wire = target.wire().await?;
    let stream: Box<dyn Io> = match &target.tls {
        None => Box::new(wire),
        Some(tls) => {
            let mut tls = rustls::ClientConfig::clone(tls);
            tls.alpn_protocols = vec![b"http/1.1".to_vec()];
            let name = target.server_name.as_deref().unwrap_or(host).to_owned();
            let name = ServerName::try_from(name).map_err(|e| unreached(&e))?;
            let connector = tokio_rustls::TlsConnector::from(Arc::new(tls));
            Box::new(connector.connect(name, wire).await.map_err(|e| unreached(&e))?)
        }
    };
    let answer = tokio_tungstenite::client_async(request(target, path)?, stream).await;
    match answer {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::Error::Http(response)) => {
            let code = response.status();
            Err(refused(code, response.body().as_deref().unwrap_or_default()).into())
        }
        Err(error) => Err(unreached(&error)),
    }
}

fn request(target: &Target, path: &str) -> Result<Request<()>, Error> {
    let base = target.server.to_string();
    let base = base.trim_end_matches('/').replacen("http", "ws", 1);
    let authority = target.server.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    let mut request = Request::builder()
        .uri(format!("{base}{path}"))
        .header(header::HOST, authority)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_KEY, generate_key())
        .header(header::SEC_WEBSOCKET_PROTOCOL, "v5.channel.k8s.io");
    if let Some(headers) = request.headers_mut() {
        target.authorize(headers)?;
    }
    request.body(()).map_err(|error| Error::plain(error.to_string()))
}

/// Carries input and output until the command ends; what the server says of its end.
async fn talk(socket: Socket, stdin: bool, tty: bool) -> Result<Value, Error> {
    let (sink, source) = socket.split();
    tokio::select! {
        status = receive(source) => status,
        error = send(sink, stdin, tty) => Err(error),
    }
}

async fn receive(mut source: SplitStream<Socket>) -> Result<Value, Error> {
    let broken = |error: tungstenite::Error| Error::plain(format!("the connection broke: {error}"));
    while let Some(message) = source.next().await {
        let data = match message.map_err(broken)? {
            Message::Binary(data) => data,
            Message::Text(text) => Bytes::from(text),
            Message::Close(_) => break,
            _ => continue,
        };
        match data.split_first() {
            Some((&STDOUT, bytes)) => output::write(bytes)?,
            Some((&STDERR, bytes)) => {
                let mut err = std::io::stderr().lock();
                err.write_all(bytes).and_then(|()| err.flush()).map_err(|_| Error::Said(1))?;
            }
            Some((&ERROR, bytes)) => {
                return serde_json::from_slice(bytes)
                    .map_err(|_| Error::plain(String::from_utf8_lossy(bytes).into_owned()));
            }
            _ => {}
        }
    }
    Err(Error::plain("the server closed the connection before the command ended"))
}

/// Sends input and terminal sizes; never returns but with an error.
async fn send(mut sink: SplitSink<Socket, Message>, stdin: bool, tty: bool) -> Error {
    let result = async {
        let mut input = tokio::io::stdin();
        let mut open = stdin;
        let mut buffer = vec![0; CHUNK];
        let mut resized =
            signal(SignalKind::window_change()).map_err(|error| Error::plain(error.to_string()))?;
        if tty {
            resize(&mut sink).await?;
        }
        loop {
            tokio::select! {
                read = input.read(&mut buffer), if open => match read {
                    Ok(0) | Err(_) => {
                        open = false;
                        message(&mut sink, CLOSE, &[STDIN]).await?;
                    }
                    Ok(count) => message(&mut sink, STDIN, &buffer[..count]).await?,
                },
                _ = resized.recv(), if tty => resize(&mut sink).await?,
                else => std::future::pending::<()>().await,
            }
        }
    };
    let ended: Result<std::convert::Infallible, Error> = result.await;
    match ended {
        Err(error) => error,
        Ok(never) => match never {},
    }
}

async fn resize(sink: &mut SplitSink<Socket, Message>) -> Result<(), Error> {
    match terminal::size() {
        Some(size) => message(sink, RESIZE, size.as_bytes()).await,
        None => Ok(()),
    }
}

async fn message(sink: &mut SplitSink<Socket, Message>, channel: u8, data: &[u8]) -> Result<(), Error> {
    let mut bytes = Vec::with_capacity(data.len() + 1);
    bytes.push(channel);
    bytes.extend_from_slice(data);
    match sink.send(Message::Binary(bytes.into())).await {
        Ok(()) => Ok(()),
        // The command ended; how, the other direction says.
        Err(_) => std::future::pending().await,
    }
}

/// The command's exit code is kubectl's.
fn ended(status: &Value) -> Result<(), Error> {
    if status["status"] == "Success" {
        return Ok(());
    }
    let causes = status["details"]["causes"].as_array();
    let code = causes.into_iter().flatten().find(|cause| cause["reason"] == "ExitCode");
    match code.and_then(|cause| cause["message"].as_str()).and_then(|code| code.parse::<u8>().ok()) {
        Some(code) => {
            eprintln!("command terminated with exit code {code}");
            Err(Error::Said(code))
        }
        None => Err(Error::plain(status["message"].as_str().unwrap_or("the command could not be run"))),
    }
}
