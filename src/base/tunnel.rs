//! Connections back through one that was made outwards: who cannot be reached makes a connection to who wants to reach
//! it, and the two change roles on it. Within is HTTP/2: each connection is a `CONNECT` (RFC 9113, section 8.5), so
//! that many share it, each with its own flow control.

use crate::https::{Connector, dial_error};
use crate::{Body, BodyError, Phase, Supervisor, full_body};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;

/// Where servers take tunnels.
pub const PATH: &str = "/v1-knarr/tunnel";
/// What `Upgrade` names.
pub const PROTOCOL: &str = "knarr-tunnel";
/// The header by which a server says which one it is, as it may be known by several addresses.
pub const SERVER: &str = "knarr-server";
/// The header by which the near end says why there is no connection.
const WHY: &str = "knarr-why";

/// How often the other end is asked whether it is there, and how long it may take.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_LIMIT: Duration = Duration::from_secs(5);
/// Connections at a time through one tunnel.
const CONNECTIONS: u32 = 500;
const WINDOW_BYTES: u32 = 1 << 20;
/// How long a connection at the far end may take to be made.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long the near end tries: less, so that it is heard why there is none.
const NEAR_LIMIT: Duration = Duration::from_secs(9);

/// The far end of a tunnel, towards which connections are made.
#[derive(Clone)]
pub struct Far(SendRequest<Body>);

/// A connection through a tunnel.
pub type Through = TokioIo<Upgraded>;

/// Whether a request wants to become a tunnel.
pub fn is_asked(headers: &HeaderMap) -> bool {
    headers
        .get(header::UPGRADE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(PROTOCOL.as_bytes()))
}

/// Answers a request that wants to become a tunnel, as a server that is known so.
pub fn accepted(server: &HeaderValue) -> Response<Body> {
    let mut response = Response::new(full_body(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static(PROTOCOL));
    response.headers_mut().insert(SERVER, server.clone());
    response
}

impl Far {
    /// Takes over a connection once it was upgraded; the future drives it, and ends with it.
    pub async fn of(
        upgrade: OnUpgrade,
    ) -> Result<(Self, impl Future<Output = Result<(), BodyError>> + Send), BodyError> {
        let upgraded = upgrade.await?;
        let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_LIMIT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES * 4)
            .handshake(upgraded)
            .await?;
        Ok((Self(sender), async move { Ok(connection.await?) }))
    }

    /// Whether the tunnel is of use still.
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// Makes a connection to what the far end knows by this name, `HOST:PORT`.
    pub async fn connect(&self, to: &str) -> Result<Through, BodyError> {
        let request = Request::builder().method(Method::CONNECT).uri(to).body(full_body(""))?;
        let mut sender = self.0.clone();
        let connecting = async {
            sender.ready().await?;
            let answer = sender.send_request(request).await?;
            match answer.status() {
                StatusCode::OK => Ok(TokioIo::new(hyper::upgrade::on(answer).await?)),
                StatusCode::FORBIDDEN => {
                    Err(format!("dial tcp {to}: the tunnel's other end lets nobody through to there").into())
                }
                failed => {
                    let why = answer.headers().get(WHY).and_then(|why| why.to_str().ok());
                    Err(why
                        .map_or_else(
                            || format!("dial tcp {to}: the tunnel's end answers {failed}"),
                            str::to_owned,
                        )
                        .into())
                }
            }
        };
        let connected = tokio::time::timeout(CONNECT_LIMIT, connecting).await;
        connected.unwrap_or_else(|_| Err(format!("dial tcp {to}: i/o timeout").into()))
    }
}

/// Which names the near end of a tunnel lets the far one connect to, and where those are.
pub type Allowed = Arc<dyn Fn(&str) -> Option<SocketAddr> + Send + Sync>;

/// The near end of a tunnel, from which connections are made that are asked for at the far one.
pub struct Near {
    upgraded: Upgraded,
    /// What the server calls itself, if it says so.
    pub server: Option<String>,
}

/// Makes a tunnel to a server.
pub async fn open(
    connector: &Connector,
    (host, port): (&str, u16),
    supervisor: &Supervisor,
) -> Result<Near, BodyError> {
    let stream = connector.dial(host, port).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
    supervisor.detached("tunnel", Phase::Work, async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a tunnel's connection ended");
        }
    });
    let request = Request::builder()
        .uri(PATH)
        .header(header::HOST, crate::https::host_port(host, port))
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, PROTOCOL)
        .body(full_body(""))?;
    let answer = tokio::time::timeout(CONNECT_LIMIT, sender.send_request(request)).await??;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(format!("the server answers {} instead of a tunnel", answer.status()).into());
    }
    let server = answer.headers().get(SERVER).and_then(|name| name.to_str().ok()).map(str::to_owned);
    Ok(Near { upgraded: hyper::upgrade::on(answer).await?, server })
}

impl Near {
    /// Serves connections that come back through it until it ends.
    pub async fn serve(self, allowed: Allowed, supervisor: &Supervisor) -> Result<(), BodyError> {
        let own = supervisor.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let (allowed, supervisor) = (allowed.clone(), own.clone());
            async move { Ok::<_, Infallible>(answered(request, &allowed, &supervisor).await) }
        });
        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_LIMIT)
            .max_concurrent_streams(CONNECTIONS)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES * 4)
            .serve_connection(self.upgraded, service)
            .await?;
        Ok(())
    }
}

/// Connects to what is asked for, if that is allowed.
async fn answered(request: Request<Incoming>, allowed: &Allowed, supervisor: &Supervisor) -> Response<Body> {
    let code = |code: StatusCode| {
        let mut response = Response::new(full_body(""));
        *response.status_mut() = code;
        response
    };
    let asked = request.uri().authority().filter(|_| request.method() == Method::CONNECT);
    let Some(to) = asked.and_then(|asked| allowed(asked.as_str())) else {
        return code(StatusCode::FORBIDDEN);
    };
    let connecting = tokio::time::timeout(NEAR_LIMIT, TcpStream::connect(to)).await;
    let mut near = match connecting.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(near) => near,
        Err(error) => {
            let mut failed = code(StatusCode::BAD_GATEWAY);
            let why = HeaderValue::try_from(dial_error(&to.to_string(), &error));
            failed.headers_mut().extend(why.map(|why| (HeaderName::from_static(WHY), why)));
            return failed;
        }
    };
    let upgrade = hyper::upgrade::on(request);
    supervisor.detached("connection through a tunnel", Phase::Front, async move {
        match upgrade.await {
            Ok(far) => {
                if let Err(error) = tokio::io::copy_bidirectional(&mut TokioIo::new(far), &mut near).await {
                    tracing::debug!(%error, "a connection through a tunnel was cut");
                }
            }
            Err(error) => tracing::debug!(%error, "a connection through a tunnel did not come about"),
        }
    });
    code(StatusCode::OK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// A server that takes one tunnel, and what the near end allows.
    async fn tunnel(supervisor: &Supervisor, allowed: Allowed) -> Far {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let own = supervisor.clone();
        supervisor.detached("near end", Phase::Work, async move {
            let near = open(&Connector::default(), ("127.0.0.1", port), &own).await.unwrap();
            assert_eq!(near.server.as_deref(), Some("one"));
            let ended = near.serve(allowed, &own).await;
            tracing::debug!(?ended, "the tunnel ended");
        });
        let (stream, _) = listener.accept().await.unwrap();
        let (tell, told) = tokio::sync::mpsc::channel(1);
        let service = service_fn(move |mut request: Request<Incoming>| {
            let tell = tell.clone();
            async move {
                assert!(is_asked(request.headers()) && request.uri().path() == PATH);
                tell.send(request.extensions_mut().remove::<OnUpgrade>().unwrap()).await.unwrap();
                Ok::<_, Infallible>(accepted(&HeaderValue::from_static("one")))
            }
        });
        supervisor.detached("server", Phase::Work, async move {
            let http = hyper::server::conn::http1::Builder::new();
            drop(http.serve_connection(TokioIo::new(stream), service).with_upgrades().await);
        });
        let mut told = told;
        let (far, driving) = Far::of(told.recv().await.unwrap()).await.unwrap();
        supervisor.detached("far end", Phase::Work, async move { drop(driving.await) });
        far
    }

    #[tokio::test]
    async fn connections_come_back_through_one_that_was_made_outwards() {
        let supervisor = Supervisor::new();
        let echo = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = echo.local_addr().unwrap();
        let far = tunnel(
            &supervisor,
            Arc::new(move |name| match name {
                "kubelet:10250" => Some(to),
                "closed:1" => Some(([127, 0, 0, 1], 1).into()),
                _ => None,
            }),
        )
        .await;
        supervisor.detached("echo", Phase::Work, async move {
            while let Ok((mut stream, _)) = echo.accept().await {
                let mut buffer = vec![0; 1 << 16];
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    stream.write_all(&buffer[..count]).await.unwrap();
                }
            }
        });
        let mut through = far.connect("kubelet:10250").await.unwrap();
        let sent = vec![7; 3 << 20];
        let (mut read, mut write) = tokio::io::split(&mut through);
        let mut received = vec![0; sent.len()];
        let (wrote, got) = tokio::join!(write.write_all(&sent), read.read_exact(&mut received));
        wrote.unwrap();
        assert_eq!((got.unwrap(), received == sent), (sent.len(), true));
        let refused = far.connect("elsewhere:22").await.err().unwrap().to_string();
        assert_eq!(refused, "dial tcp elsewhere:22: the tunnel's other end lets nobody through to there");
        let closed = far.connect("closed:1").await.err().unwrap().to_string();
        assert_eq!(closed, "dial tcp 127.0.0.1:1: connect: connection refused");
        assert!(!far.is_closed());
        supervisor.drain().await;
    }
}
