//! A small HTTP server for questions that have a short answer.

use crate::{Body, Phase, Supervisor, clock};
use http::{Method, Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// What answers a method and a path.
pub type Answer = Arc<dyn Fn(&Method, &str) -> Response<Body> + Send + Sync>;

/// So many connections at once; a balancer's probe is one, and short.
const CONNECTIONS: usize = 64;
/// How long a request's head may take, and how large it may be.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
const HEAD_BYTES: usize = 8 * 1024;
/// How long a connection may last, idle or not.
const LIFE_LIMIT: Duration = Duration::from_secs(300);
/// After the listener had an error, such as too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers whom `admits` admits, until it is dropped. `name` is that of its tasks.
pub async fn serve(
    listener: TcpListener,
    name: &'static str,
    admits: impl Fn(IpAddr) -> bool,
    answer: Answer,
    supervisor: Supervisor,
) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        match listener.accept().await {
            Ok((stream, client)) => {
                let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
                if !admits(client.ip()) {
                    continue;
                }
                let answer = answer.clone();
                supervisor.detached(name, Phase::Front, async move {
                    converse(stream, name, answer).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::debug!(name, %error, "a listener for questions");
                clock::sleep(PAUSE).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, name: &str, answer: Answer) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = answer(request.method(), request.uri().path());
        async { Ok::<_, Infallible>(response) }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT).max_buf_size(HEAD_BYTES);
    let served = tokio::time::timeout(LIFE_LIMIT, http.serve_connection(TokioIo::new(stream), service)).await;
    if let Ok(Err(error)) = served {
        tracing::debug!(name, %error, "a connection with a question broke");
    }
}
