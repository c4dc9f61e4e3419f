//! exec, attach and port-forward: the runtime serves the streams over SPDY on a local URL. What the
//! caller speaks is passed on as it is, or translated where the caller speaks WebSocket.

use super::route::{Exec, Of, Streams};
use super::{Refusal, Service, channels, ports, text, websocket};
use crate::pods::observe::{Container, Life, Observed, Observer};
use crate::protocols::runtime::v1 as cri;
use api::Object;
use base::{Body, Phase, full_body};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response, StatusCode, Uri, header};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::net::TcpStream;

/// How long `run` waits for its command.
const RUN: Duration = Duration::from_secs(60);
/// Names the subprotocols of Kubernetes' streams.
pub(super) const PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");

fn unavailable(error: impl std::fmt::Display) -> Refusal {
    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

/// The pod's state in the runtime.
pub(super) async fn observe(service: &Service, namespace: &str, name: &str) -> Result<Observed, Refusal> {
    let missing = || (StatusCode::NOT_FOUND, "pod does not exist".to_owned());
    let pod = service.pods.find(namespace, name).ok_or_else(missing)?;
    Observer::default().observe(&service.context.runtime, pod.uid()).await.map_err(unavailable)
}

async fn running(service: &Service, of: &Of) -> Result<Container, Refusal> {
    let observed = observe(service, &of.namespace, &of.pod).await?;
    let found = observed.latest(&of.container).filter(|container| container.life == Life::Running);
    found.cloned().ok_or_else(|| (StatusCode::NOT_FOUND, format!("container not found ({:?})", of.container)))
}

/// Runs a command in a container with the caller's streams.
pub(super) async fn exec(
    service: &Service,
    of: &Of,
    exec: &Exec,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let id = running(service, of).await?.id;
    let streams = exec.streams;
    let ask = cri::ExecRequest {
        container_id: id,
        cmd: exec.command.clone(),
        tty: streams.tty,
        stdin: streams.stdin,
        stdout: streams.stdout,
        // A terminal has one stream for both.
        stderr: streams.stderr && !streams.tty,
    };
    let url = service.context.runtime.exec(ask).await.map_err(unavailable)?.url;
    stream(service, &url, streams, request).await
}

/// Attaches to a container's first process.
pub(super) async fn attach(
    service: &Service,
    of: &Of,
    streams: Streams,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let id = running(service, of).await?.id;
    let pod = service.pods.find(&of.namespace, &of.pod);
    let wanted = pod.and_then(|pod| crate::pods::spec::container(&pod, &of.container));
    // The container decides whether it has a terminal, whatever the caller thinks.
    let tty = wanted.is_some_and(|(_, container)| container.tty == Some(true));
    let streams = Streams { tty, ..streams };
    let ask = cri::AttachRequest {
        container_id: id,
        stdin: streams.stdin,
        tty,
        stdout: streams.stdout,
        stderr: streams.stderr && !tty,
    };
    let url = service.context.runtime.attach(ask).await.map_err(unavailable)?.url;
    stream(service, &url, streams, request).await
}

/// Forwards ports of a pod.
pub(super) async fn port_forward(
    service: &Service,
    (namespace, pod): (&str, &str),
    numbers: Vec<i32>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let observed = observe(service, namespace, pod).await?;
    let sandbox =
        observed.sandbox().ok_or_else(|| (StatusCode::NOT_FOUND, "pod is not running".to_owned()))?;
    let ask = cri::PortForwardRequest { pod_sandbox_id: sandbox.id.clone(), port: numbers.clone() };
    let url = service.context.runtime.port_forward(ask).await.map_err(unavailable)?.url;
    if !websocket::is_asked(request.headers()) {
        return pass_on(service, &url, request).await;
    }
    let dialects = channels::of_ports();
    let ours: Vec<&str> = dialects.iter().map(|dialect| dialect.protocol).collect();
    let Some(answer) = websocket::accept(request.headers(), &[&[websocket::TUNNEL], &ours[..]].concat())
    else {
        return Err(unknown_subprotocol());
    };
    let dialect = dialects.into_iter().find(|dialect| dialect.protocol == answer.protocol);
    let numbers: Vec<u16> = numbers.into_iter().filter_map(|port| u16::try_from(port).ok()).collect();
    if dialect.is_some() && numbers.is_empty() {
        return Err((StatusCode::BAD_REQUEST, "query parameter \"port\" is required".to_owned()));
    }
    let (backend, _) = connect(&url, spdy_headers("portforward.k8s.io")).await?;
    service.context.supervisor.detached("port forward", Phase::Front, async move {
        let Ok(upgraded) = hyper::upgrade::on(request).await else { return };
        let (caller, backend) = (TokioIo::new(upgraded), TokioIo::new(backend));
        let forwarded = match dialect {
            Some(dialect) => ports::forward(caller, backend, &numbers, dialect).await,
            None => websocket::tunnel(caller, backend).await,
        };
        if let Err(error) = forwarded {
            tracing::debug!(%error, "port forward");
        }
    });
    Ok(answer.response)
}

fn unknown_subprotocol() -> Refusal {
    (StatusCode::BAD_REQUEST, "no known subprotocol of WebSocket was offered".to_owned())
}

/// Runs a command without streams and answers with what it printed.
pub(super) async fn run(service: &Service, of: &Of, command: &[String]) -> Result<Response<Body>, Refusal> {
    let id = running(service, of).await?.id;
    let answer = service.context.runtime.exec_sync(&id, command, RUN).await.map_err(unavailable)?;
    let output = [answer.stdout, answer.stderr].concat();
    Ok(text(StatusCode::OK, String::from_utf8_lossy(&output)))
}

async fn stream(
    service: &Service,
    url: &str,
    streams: Streams,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    if !websocket::is_asked(request.headers()) {
        return pass_on(service, url, request).await;
    }
    let ours = channels::DIALECTS.map(|dialect| dialect.protocol);
    let Some(answer) = websocket::accept(request.headers(), &ours) else {
        return Err(unknown_subprotocol());
    };
    let (backend, _) = connect(url, spdy_headers(channels::V4)).await?;
    let spoken = channels::DIALECTS.into_iter().find(|dialect| dialect.protocol == answer.protocol);
    let dialect = spoken.ok_or_else(|| unavailable("a dialect that was not offered"))?;
    service.context.supervisor.detached("terminal", Phase::Front, async move {
        if let Ok(upgraded) = hyper::upgrade::on(request).await
            && let Err(error) =
                channels::translate(TokioIo::new(upgraded), TokioIo::new(backend), streams, dialect).await
        {
            tracing::debug!(%error, "terminal");
        }
    });
    Ok(answer.response)
}

fn spdy_headers(protocol: &'static str) -> HeaderMap {
    let value = http::HeaderValue::from_static;
    HeaderMap::from_iter([
        (header::CONNECTION, value("Upgrade")),
        (header::UPGRADE, value("SPDY/3.1")),
        (PROTOCOL, value(protocol)),
    ])
}

/// Passes the caller's own upgrade on to the runtime, and then every byte.
async fn pass_on(
    service: &Service,
    url: &str,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    if !request.headers().contains_key(header::UPGRADE) {
        return Err((StatusCode::BAD_REQUEST, "Upgrade request required".to_owned()));
    }
    let mut headers = request.headers().clone();
    headers.remove(header::HOST);
    headers.remove(header::CONTENT_LENGTH);
    let (backend, answered) = connect(url, headers).await?;
    service.context.supervisor.detached("stream", Phase::Front, async move {
        if let Ok(caller) = hyper::upgrade::on(request).await {
            let (mut caller, mut backend) = (TokioIo::new(caller), TokioIo::new(backend));
            if let Err(error) = tokio::io::copy_bidirectional(&mut caller, &mut backend).await {
                tracing::debug!(%error, "stream");
            }
        }
    });
    let mut response = Response::new(full_body(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = answered;
    Ok(response)
}

/// Upgrades a connection to the runtime's streaming server; returns it with the answer's headers.
async fn connect(url: &str, headers: HeaderMap) -> Result<(Upgraded, HeaderMap), Refusal> {
    let url: Uri = url.parse().map_err(unavailable)?;
    let authority = url.authority().ok_or_else(|| unavailable("the runtime gave no streaming address"))?;
    let stream = TcpStream::connect(authority.as_str()).await.map_err(unavailable)?;
    stream.set_nodelay(true).map_err(unavailable)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(unavailable)?;
    let mut request = Request::post(url.path_and_query().map_or("/", |path| path.as_str()))
        .header(header::HOST, authority.as_str())
        .body(Empty::<Bytes>::new())
        .map_err(unavailable)?;
    request.headers_mut().extend(headers);
    let connection = connection.with_upgrades();
    let (response, driven) = tokio::join!(sender.send_request(request), connection);
    driven.map_err(unavailable)?;
    let response = response.map_err(unavailable)?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err((
            StatusCode::BAD_GATEWAY,
            format!("the runtime refused to stream: {}", response.status()),
        ));
    }
    let headers = response.headers().clone();
    let upgraded = hyper::upgrade::on(response).await.map_err(unavailable)?;
    Ok((upgraded, headers))
}
