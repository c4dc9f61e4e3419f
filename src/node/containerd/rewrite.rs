//! Mirrors that have images under other names, which containerd cannot ask for: it asks knarr on the loopback
//! interface, and knarr asks the mirror under the name that the rules of `registries.yaml` make.
//!
//! Every such endpoint has an address of its own in 127.0.0.0/8, so that containerd can have a user for it, and a
//! path that only containerd is told. Nothing else is changed: users, tokens and digests are containerd's to check.

use super::loopback::{self, Place, plain};
use crate::Error;
use base::https::{Connector, Pool};
use base::{Body, BodyError, Phase, Shutdown, Supervisor};
use futures_util::future::try_join_all;
use http::header::{CONNECTION, HOST, HeaderValue, LOCATION};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use regex::Regex;
use rustls::ClientConfig;
use std::convert::Infallible;
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

/// Who asks mirrors under other names.
pub(crate) struct Rewriter {
    pub(crate) place: Place,
    routes: Vec<Arc<(Route, Pool)>>,
    listeners: Vec<TcpListener>,
}

impl Rewriter {
    /// Takes the addresses: those of an earlier life, if they are free.
    pub(crate) async fn bind(routes: Vec<Route>, file: &Path) -> Result<Self, Error> {
        let (place, listeners) = loopback::bind(routes.len(), file, "mirrors with rewrite").await?;
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
                let serving = serve(stream, route.clone(), self.place.clone());
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

async fn serve(stream: TcpStream, route: Arc<(Route, Pool)>, place: Place) {
    let answered = |request| {
        let (route, place) = (route.clone(), place.clone());
        async move { answer(&route, &place, request).await }
    };
    loopback::serve(stream, answered).await;
}

async fn answer((route, pool): &(Route, Pool), place: &Place, request: Request<Incoming>) -> Response<Body> {
    let asked = request.uri().path_and_query().map_or("", |it| it.as_str());
    let (Some(rest), true) = (place.below(asked), [Method::GET, Method::HEAD].contains(request.method()))
    else {
        return plain(StatusCode::NOT_FOUND, "there is nothing here");
    };
    let url = match rest.strip_prefix(AS_IT_IS) {
        Some(path) => format!("{}{path}", route.origin()),
        None => route.url(rest),
    };
    match forward(pool, &url, request).await {
        Ok(mut response) => {
            let location = response.headers().get(LOCATION).and_then(|it| it.to_str().ok());
            if let Some(path) = location.filter(|location| location.starts_with('/')) {
                let own = HeaderValue::try_from(place.path(&format!("{AS_IT_IS}{path}")));
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
}
