//! Mirrors that have images under other names, which containerd cannot ask for: it asks knarr on the loopback
//! interface, and knarr asks the mirror under the name that the rules of `registries.yaml` make.
//!
//! Every such endpoint has an address of its own in 127.0.0.0/8, so that containerd can have a user for it, and a
//! path that only containerd is told. Nothing else is changed: users, tokens and digests are containerd's to check.

use crate::{Error, files};
use base::https::{Connector, Pool};
use base::{Body, BodyError, Phase, Shutdown, Supervisor, full_body, hex, random};
use futures_util::future::try_join_all;
use http::header::{CONNECTION, HOST, HeaderValue, LOCATION};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use regex::Regex;
use rustls::ClientConfig;
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};

/// What lies between a repository's name and what of it is asked for.
const KINDS: [&str; 4] = ["/manifests/", "/blobs/", "/referrers/", "/tags/"];
/// The path below which nothing is rewritten: where a mirror said itself to look.
const AS_IT_IS: &str = "as-it-is";

/// An endpoint, and what becomes of names on the way to it: the first rule that changes one counts.
pub(crate) struct Route {
    /// Scheme, host, port and the path before a name.
    pub(crate) endpoint: String,
    pub(crate) rules: Vec<(Regex, String)>,
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

impl Route {
    /// The URL for a path after the endpoint's own, `NAME/manifests/…`.
    fn url(&self, rest: &str) -> String {
        let (endpoint, at) = (&self.endpoint, KINDS.iter().filter_map(|kind| rest.rfind(kind)).max());
        let Some((name, what)) = at.map(|at| rest.split_at(at)) else { return format!("{endpoint}/{rest}") };
        let renamed = self.rules.iter().find_map(|(pattern, name_of)| {
            let renamed = pattern.replace_all(name, name_of);
            (renamed != name).then(|| renamed.into_owned())
        });
        format!("{endpoint}/{}{what}", renamed.as_deref().unwrap_or(name))
    }

    /// The endpoint without its path.
    fn origin(&self) -> &str {
        let host = self.endpoint.find("://").map_or(0, |at| at + 3);
        let end = self.endpoint[host..].find('/').map_or(self.endpoint.len(), |at| host + at);
        &self.endpoint[..end]
    }
}

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
}

fn address(number: usize) -> Ipv4Addr {
    // 127.0.0.1 is everybody's.
    let low = u16::try_from(number + 2).unwrap_or(u16::MAX).to_be_bytes();
    Ipv4Addr::new(127, 0, low[0], low[1])
}

/// Who asks mirrors under other names.
pub(crate) struct Rewriter {
    pub(crate) place: Place,
    routes: Vec<Arc<(Route, Pool)>>,
    listeners: Vec<TcpListener>,
}

impl Rewriter {
    /// Takes the addresses: those of an earlier life, if they are free.
    pub(crate) async fn bind(routes: Vec<Route>, file: &Path) -> Result<Self, Error> {
        let before: Option<Place> =
            std::fs::read(file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let secret = before.as_ref().map_or_else(|| hex::of(&random::bytes::<16>()), |it| it.secret.clone());
        let known = before.as_ref().map_or(0, |it| it.port);
        let bound = match listen(known, routes.len()).await {
            Err(_) if known != 0 => listen(0, routes.len()).await,
            bound => bound,
        };
        let (port, listeners) = bound.map_err(|error| {
            Error::Setup(format!("no address on the loopback interface for mirrors with rewrite: {error}"))
        })?;
        let place = Place { port, secret };
        if before.as_ref() != Some(&place) {
            let bytes = serde_json::to_vec(&place).map_err(|error| files::at(file)(error.into()))?;
            files::write(file, &bytes, 0o600)?;
        }
        let with_pool = |route: Route| {
            let pool = Connector { tls: route.tls.clone(), ..Connector::default() }.pool();
            Arc::new((route, pool))
        };
        Ok(Self { place, routes: routes.into_iter().map(with_pool).collect(), listeners })
    }

    /// Answers until asked to stop.
    pub(crate) async fn run(&self, supervisor: Supervisor, shutdown: Shutdown) -> Result<(), Error> {
        let all = self.listeners.iter().zip(&self.routes).map(|(listener, route)| async {
            loop {
                let (stream, _) = listener.accept().await?;
                let serving = serve(stream, route.clone(), self.place.secret.clone());
                supervisor.detached("mirror", Phase::Ground, serving);
            }
        });
        tokio::select! {
            failed = try_join_all(all) => failed.map(|_: Vec<Infallible>| ()).map_err(|error: std::io::Error| {
                Error::Setup(format!("mirrors with rewrite: {error}"))
            }),
            () = shutdown.requested() => Ok(()),
        }
    }
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

async fn serve(stream: TcpStream, route: Arc<(Route, Pool)>, secret: String) {
    let service = service_fn(|request| {
        let (route, secret) = (route.clone(), secret.clone());
        async move { Ok::<_, Infallible>(answer(&route, &secret, request).await) }
    });
    if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection for a mirror with rewrite");
    }
}

fn plain(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(full_body(text));
    *response.status_mut() = status;
    response
}

async fn answer((route, pool): &(Route, Pool), secret: &str, request: Request<Incoming>) -> Response<Body> {
    let asked = request.uri().path_and_query().map_or("", |it| it.as_str());
    let rest = asked.strip_prefix('/').and_then(|rest| rest.strip_prefix(secret)?.strip_prefix('/'));
    let (Some(rest), true) = (rest, [Method::GET, Method::HEAD].contains(request.method())) else {
        return plain(StatusCode::NOT_FOUND, "there is nothing here".to_owned());
    };
    let url = match rest.strip_prefix(AS_IT_IS) {
        Some(path) => format!("{}{path}", route.origin()),
        None => route.url(rest),
    };
    match forward(pool, &url, request).await {
        Ok(mut response) => {
            let location = response.headers().get(LOCATION).and_then(|it| it.to_str().ok());
            if let Some(path) = location.filter(|location| location.starts_with('/')) {
                let own = HeaderValue::try_from(format!("/{secret}/{AS_IT_IS}{path}"));
                own.into_iter().for_each(|own| drop(response.headers_mut().insert(LOCATION, own)));
            }
            response
        }
        Err(error) => plain(StatusCode::BAD_GATEWAY, format!("{url}: {error}")),
    }
}

async fn forward(
    pool: &Pool,
    url: &str,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, BodyError> {
    *request.uri_mut() = url.parse::<Uri>()?;
    *request.version_mut() = http::Version::HTTP_11;
    request.headers_mut().remove(HOST);
    request.headers_mut().remove(CONNECTION);
    let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
    let response = pool.request(request).await.map_err(|error| base::https::chain(&error))?;
    Ok(response.map(|body| body.map_err(Into::into).boxed_unsync()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(rules: &[(&str, &str)]) -> Route {
        let rules = rules.iter().map(|(from, to)| (Regex::new(from).unwrap(), (*to).to_owned())).collect();
        Route { endpoint: "https://mirror.io:5000/v2".to_owned(), rules, tls: None }
    }

    #[test]
    fn names_are_rewritten_and_what_is_asked_of_them_is_not() {
        let route = route(&[("^rancher/(.*)", "mirrorproject/rancher-images/$1"), ("^(.*)$", "all/$1")]);
        for (asked, url) in [
            (
                "rancher/k3s/manifests/v1?ns=docker.io",
                "mirrorproject/rancher-images/k3s/manifests/v1?ns=docker.io",
            ),
            ("library/busybox/blobs/sha256:00", "all/library/busybox/blobs/sha256:00"),
            ("a/manifests/manifests/v1", "all/a/manifests/manifests/v1"),
            ("", ""),
        ] {
            assert_eq!(route.url(asked), format!("https://mirror.io:5000/v2/{url}"));
        }
        assert_eq!(route.origin(), "https://mirror.io:5000");
    }

    #[tokio::test]
    async fn addresses_are_the_same_after_a_restart() {
        let file = std::env::temp_dir().join(format!("knarr-rewrite-{}", std::process::id()));
        let routes = || vec![route(&[]), route(&[])];
        let first = Rewriter::bind(routes(), &file).await.unwrap().place;
        let second = Rewriter::bind(routes(), &file).await.unwrap();
        assert_eq!(second.place, first);
        assert!(first.url(1).starts_with("http://127.0.0.3:"));
        // Somebody else has the port.
        let third = Rewriter::bind(routes(), &file).await.unwrap().place;
        assert_ne!(third.host(0), first.host(0));
        files::remove(&file).unwrap();
    }
}
