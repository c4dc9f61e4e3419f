//! One look at a container: HTTP, TCP, gRPC, or a command in it. Used by probes and lifecycle hooks.

use crate::cri::Runtime;
use crate::protocols::grpc::health::v1 as health;
use api::IntOrString;
use api::core::{Container, ExecAction, GRPCAction, HTTPGetAction, TCPSocketAction};
use base::https::{dial_error, host_port};
use bytes::Bytes;
use health::health_client::HealthClient;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// What a check found. The text is what an event says.
pub(crate) enum Found {
    Success,
    /// It works, but somebody should know this.
    Warning(String),
    Failure(String),
}

/// How much of an answer's body goes into a message.
const BODY_BYTES: usize = 10 << 10;
/// Redirects within one host.
const REDIRECTS: usize = 10;

/// A check: what the API calls a handler.
#[derive(Clone, Copy)]
pub(crate) enum Check<'a> {
    Exec(&'a ExecAction),
    Http(&'a HTTPGetAction),
    Tcp(&'a TCPSocketAction),
    Grpc(&'a GRPCAction),
}

/// Where to look.
pub(crate) struct Target<'a> {
    pub(crate) runtime: &'a Runtime,
    pub(crate) container: &'a Container,
    pub(crate) id: &'a str,
    pub(crate) ip: &'a str,
}

impl Check<'_> {
    /// Looks, for at most `limit`.
    pub(crate) async fn run(self, target: &Target<'_>, limit: Duration) -> Found {
        match self {
            // What a hollow node says it runs cannot be asked, and is well.
            _ if target.runtime.is_hollow() => Found::Success,
            Self::Exec(exec) => run_exec(target, exec.command.as_deref().unwrap_or_default(), limit).await,
            Self::Http(action) => run_http(target, action, limit).await,
            Self::Tcp(action) => {
                let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(target.ip);
                match port_number(&action.port, target.container) {
                    Some(port) => run_tcp(host, port, limit).await,
                    None => Found::Failure(format!("couldn't find port: {:?}", action.port)),
                }
            }
            Self::Grpc(action) => run_grpc(target, action, limit).await,
        }
    }
}

async fn run_exec(target: &Target<'_>, command: &[String], limit: Duration) -> Found {
    match target.runtime.exec_sync(target.id, command, limit).await {
        Ok(answer) if answer.exit_code == 0 => Found::Success,
        Ok(answer) => {
            let output = [answer.stdout, answer.stderr].concat();
            Found::Failure(String::from_utf8_lossy(&output[..output.len().min(BODY_BYTES)]).into_owned())
        }
        Err(error) => Found::Failure(format!("command timed out or could not run: {error}")),
    }
}

/// A port by number, or by its name in the container.
pub(crate) fn port_number(port: &IntOrString, container: &Container) -> Option<u16> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_ref() == Some(name));
            named.map(|port| port.container_port).or_else(|| name.parse().ok())?
        }
    };
    u16::try_from(number).ok().filter(|number| *number > 0)
}

async fn run_tcp(host: &str, port: u16, limit: Duration) -> Found {
    let address = host_port(host, port);
    match tokio::time::timeout(limit, TcpStream::connect(&address)).await {
        Ok(Ok(_)) => Found::Success,
        Ok(Err(error)) => Found::Failure(dial_error(&address, &error)),
        Err(_) => Found::Failure(format!("dial tcp {address}: i/o timeout")),
    }
}

async fn run_http(target: &Target<'_>, action: &HTTPGetAction, limit: Duration) -> Found {
    let Some(port) = port_number(&action.port, target.container) else {
        return Found::Failure(format!("couldn't find port: {:?}", action.port));
    };
    let scheme = action.scheme.as_deref().unwrap_or("HTTP").to_ascii_lowercase();
    let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(target.ip);
    let path = action.path.as_deref().unwrap_or("/");
    let url = format!("{scheme}://{}/{}", host_port(host, port), path.trim_start_matches('/'));
    match tokio::time::timeout(limit, follow(&url, action)).await {
        Ok(found) => found.unwrap_or_else(|reason| Found::Failure(format!("Get {url:?}: {reason}"))),
        Err(_) => Found::Failure(format!(
            "Get {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        )),
    }
}

/// Gets a page, following redirects within its host; one that leads away is a success with a warning.
async fn follow(url: &str, action: &HTTPGetAction) -> Result<Found, String> {
    let mut at: Uri = url.parse().map_err(|error: http::uri::InvalidUri| error.to_string())?;
    for _ in 0..REDIRECTS {
        let response = get(&at, action).await?;
        let status = response.status();
        let location = response.headers().get(http::header::LOCATION).and_then(|value| value.to_str().ok());
        if let Some(location) = location.filter(|_| status.is_redirection()) {
            let next = resolve(&at, location)?;
            if next.host() != at.host() {
                return Ok(Found::Warning(format!(
                    "Probe terminated redirects, Response body: {}",
                    body(response).await
                )));
            }
            at = next;
            continue;
        }
        if status.as_u16() >= 200 && status.as_u16() < 400 {
            return Ok(Found::Success);
        }
        return Ok(Found::Failure(format!("HTTP probe failed with statuscode: {}", status.as_u16())));
    }
    Err(format!("stopped after {REDIRECTS} redirects"))
}

async fn body(response: Response<Incoming>) -> String {
    let bytes = Limited::new(response.into_body(), BODY_BYTES).collect().await.map(|body| body.to_bytes());
    bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn resolve(base: &Uri, location: &str) -> Result<Uri, String> {
    let invalid = |error: http::uri::InvalidUri| error.to_string();
    if location.contains("://") {
        return location.parse().map_err(invalid);
    }
    let authority = base.authority().map_or("", |authority| authority.as_str());
    let scheme = base.scheme_str().unwrap_or("http");
    format!("{scheme}://{authority}/{}", location.trim_start_matches('/')).parse().map_err(invalid)
}

/// Sends one GET with the action's headers.
pub(crate) async fn get(url: &Uri, action: &HTTPGetAction) -> Result<Response<Incoming>, String> {
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    let https = url.scheme_str() == Some("https");
    let address = host_port(host, url.port_u16().unwrap_or(if https { 443 } else { 80 }));
    let stream = TcpStream::connect(&address).await.map_err(|error| dial_error(&address, &error))?;
    let mut request = Request::builder().uri(url.path_and_query().map_or("/", |path| path.as_str()));
    let own = action.http_headers.as_deref().unwrap_or_default();
    let named = |name: &str| own.iter().any(|header| header.name.eq_ignore_ascii_case(name));
    for (name, value) in [
        ("host", address.as_str()),
        ("user-agent", "kube-probe/1.36"),
        ("accept", "*/*"),
        ("connection", "close"),
    ] {
        if !named(name) {
            request = request.header(name, value);
        }
    }
    for header in own.iter().filter(|header| !header.value.is_empty()) {
        request = request.header(&header.name, &header.value);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    if !https {
        return send(stream, request).await;
    }
    let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    let connector = tokio_rustls::TlsConnector::from(base::tls::unverified());
    send(connector.connect(name, stream).await.map_err(|error| error.to_string())?, request).await
}

async fn send<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<Response<Incoming>, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let text = |error: hyper::Error| error.to_string();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
    // The connection is driven for as long as the headers take; the body, if wanted, is buffered with it.
    let response = sender.send_request(request);
    tokio::pin!(connection, response);
    tokio::select! {
        response = &mut response => response.map_err(text),
        ended = &mut connection => {
            ended.map_err(text)?;
            response.await.map_err(text)
        }
    }
}

async fn run_grpc(target: &Target<'_>, action: &GRPCAction, limit: Duration) -> Found {
    let service = action.service.clone().unwrap_or_default();
    let address = host_port(target.ip, u16::try_from(action.port).unwrap_or(0));
    let look = async {
        let endpoint = tonic::transport::Endpoint::try_from(format!("http://{address}"))?;
        let channel = endpoint.connect().await?;
        Ok::<_, tonic::transport::Error>(
            HealthClient::new(channel).check(health::HealthCheckRequest { service: service.clone() }).await,
        )
    };
    let timed_out = || {
        format!(
            "timeout: failed to connect service {address:?} within {}s: context deadline exceeded",
            limit.as_secs()
        )
    };
    match tokio::time::timeout(limit, look).await {
        Err(_) => Found::Failure(timed_out()),
        Ok(Err(error)) => Found::Failure(format!("error: connect to {address:?} failed: {error}")),
        Ok(Ok(Err(status))) if status.code() == tonic::Code::Unimplemented => Found::Failure(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health)"
                .to_owned(),
        ),
        Ok(Ok(Err(status))) => {
            Found::Failure(format!("error: health rpc probe failed: {}", status.message()))
        }
        Ok(Ok(Ok(answer))) => match answer.into_inner().status() {
            health::health_check_response::ServingStatus::Serving => Found::Success,
            other => Found::Failure(format!("service unhealthy (responded with {:?})", other.as_str_name())),
        },
    }
}
