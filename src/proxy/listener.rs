//! A small HTTP server for questions that have a short answer.

use crate::Error;
use base::{Body, Phase, Supervisor};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// What answers a path.
pub(crate) type Answer = Arc<dyn Fn(&str) -> Response<Body> + Send + Sync>;

/// So many connections at once; a balancer's probe is one, and short.
const CONNECTIONS: usize = 64;
/// How long a request's head may take.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// How long a connection may last, idle or not.
const LIFE_LIMIT: Duration = Duration::from_secs(300);
/// After the listener had an error, such as too many open files.
const PAUSE: Duration = Duration::from_millis(100);

pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })
}

/// Answers until it is dropped.
pub(crate) async fn serve(listener: TcpListener, answer: Answer, supervisor: Supervisor) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
                let answer = answer.clone();
                supervisor.detached("proxy health", Phase::Front, async move {
                    converse(stream, answer).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "a listener of the proxy's");
                base::clock::sleep(PAUSE).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, answer: Answer) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = answer(request.uri().path());
        async { Ok::<_, Infallible>(response) }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT);
    let served = tokio::time::timeout(LIFE_LIMIT, http.serve_connection(TokioIo::new(stream), service)).await;
    if let Ok(Err(error)) = served {
        tracing::debug!(%error, "a connection to the proxy's health");
    }
}
