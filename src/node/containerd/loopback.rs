//! Where containerd asks knarr instead of a registry: addresses of their own in 127.0.0.0/8 and a path that only
//! containerd is told, in files that only root reads. Whoever else on the machine connects finds nothing there.

use crate::{Error, files};
use base::{Body, full_body, hex, random};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

/// A request's head that takes longer is not containerd's; also how long a kept connection may say nothing.
const HEAD_LIMIT: Duration = Duration::from_secs(90);

/// Where containerd asks: kept over restarts, since its configuration names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    port: u16,
    secret: String,
}

impl Place {
    /// Host and port for an endpoint by its number.
    pub(crate) fn host(&self, number: usize) -> String {
        format!("{}:{}", address(number), self.port)
    }

    /// The URL for an endpoint by its number.
    pub(crate) fn url(&self, number: usize) -> String {
        format!("http://{}/{}", self.host(number), self.secret)
    }

    /// The path of what lies below the one that containerd is told.
    pub(crate) fn path(&self, below: &str) -> String {
        format!("/{}/{below}", self.secret)
    }

    /// What of a path lies below the one that containerd was told.
    pub(crate) fn below<'a>(&self, path: &'a str) -> Option<&'a str> {
        path.strip_prefix('/')?.strip_prefix(self.secret.as_str())?.strip_prefix('/')
    }
}

fn address(number: usize) -> Ipv4Addr {
    // 127.0.0.1 is everybody's.
    let low = u16::try_from(number + 2).unwrap_or(u16::MAX).to_be_bytes();
    Ipv4Addr::new(127, 0, low[0], low[1])
}

/// Takes so many addresses for something: those of an earlier life, which the file has, if they are free.
pub(crate) async fn bind(count: usize, file: &Path, what: &str) -> Result<(Place, Vec<TcpListener>), Error> {
    let before: Option<Place> =
        std::fs::read(file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let secret = before.as_ref().map_or_else(|| hex::of(&random::bytes::<16>()), |it| it.secret.clone());
    let known = before.as_ref().map_or(0, |it| it.port);
    let bound = match listen(known, count).await {
        Err(_) if known != 0 => listen(0, count).await,
        bound => bound,
    };
    let (port, listeners) = bound
        .map_err(|error| Error::Setup(format!("no address on the loopback interface for {what}: {error}")))?;
    let place = Place { port, secret };
    if before.as_ref() != Some(&place) {
        let bytes = serde_json::to_vec(&place).map_err(|error| files::at(file)(error.into()))?;
        files::write(file, &bytes, 0o600)?;
    }
    Ok((place, listeners))
}

/// So many addresses with one port, any where it is 0.
async fn listen(mut port: u16, count: usize) -> std::io::Result<(u16, Vec<TcpListener>)> {
    let mut listeners = Vec::new();
    for number in 0..count {
        let listener = TcpListener::bind((address(number), port)).await?;
        port = listener.local_addr()?.port();
        listeners.push(listener);
    }
    Ok((port, listeners))
}

/// Answers the requests of one connection.
pub(crate) async fn serve<F, Fut>(stream: TcpStream, answer: F)
where
    F: Fn(Request<Incoming>) -> Fut,
    Fut: Future<Output = Response<Body>>,
{
    let service = service_fn(|request| {
        let answered = answer(request);
        async move { Ok::<_, Infallible>(answered.await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection of containerd's");
    }
}

/// An answer in plain text.
pub(crate) fn plain(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(full_body(text.into()));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_are_the_same_after_a_restart() {
        let file = std::env::temp_dir().join(format!("knarr-loopback-{}", std::process::id()));
        let first = bind(2, &file, "a test").await.unwrap().0;
        let second = bind(2, &file, "a test").await.unwrap();
        assert_eq!(second.0, first);
        assert!(first.url(1).starts_with("http://127.0.0.3:"));
        // Somebody else has the port.
        let third = bind(2, &file, "a test").await.unwrap().0;
        assert_ne!(third.host(0), first.host(0));
        files::remove(&file).unwrap();
    }

    #[test]
    fn only_who_was_told_the_path_is_answered() {
        let place = Place { port: 1, secret: "abc".to_owned() };
        assert_eq!(place.below("/abc/a/manifests/1"), Some("a/manifests/1"));
        assert_eq!(place.below("/abcd/a/manifests/1"), None);
        assert_eq!(place.below("/a/manifests/1"), None);
    }
}
