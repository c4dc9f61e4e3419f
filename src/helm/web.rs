//! Requests to repositories and registries: bounded in size, time and redirections, with credentials for those alone
//! who they are meant for.

use crate::Error;
use base::https::{Connector, chain};
use base::{BodyError, full_body};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::BodyExt;
use std::sync::Arc;
use std::time::Duration;

/// How often a server may send elsewhere.
const REDIRECTIONS: usize = 5;

/// A user and a password.
#[derive(Clone)]
pub(crate) struct Login {
    pub(crate) user: String,
    pub(crate) password: String,
}

impl Login {
    pub(crate) fn header(&self) -> String {
        format!("Basic {}", STANDARD.encode(format!("{}:{}", self.user, self.password)))
    }
}

/// How others are reached for one chart.
pub(crate) struct Web {
    /// Verifies servers.
    pub(crate) tls: Arc<rustls::ClientConfig>,
    /// How long one request may take, with all of its answer.
    pub(crate) limit: Duration,
    /// For the host of the chart's repository.
    pub(crate) login: Option<Login>,
    /// Shown to hosts as well that the repository's leads to.
    pub(crate) passes_login: bool,
    /// Whose host the login is for.
    pub(crate) own_host: String,
    /// Registries are spoken to in the clear.
    pub(crate) plain_http: bool,
}

/// An answer with a body that was read.
pub(crate) type Answer = Response<Bytes>;

/// The host and port of an address, or "".
pub(crate) fn host_of(address: &str) -> String {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or_default().to_ascii_lowercase()
}

/// An address that may be relative to a repository's.
pub(crate) fn relative(repository: &str, address: &str) -> String {
    if address.contains("://") {
        return address.to_owned();
    }
    if let Some(path) = address.strip_prefix('/') {
        let (scheme, rest) = repository.split_once("://").unwrap_or(("https", repository));
        let host = rest.split('/').next().unwrap_or_default();
        return format!("{scheme}://{host}/{path}");
    }
    format!("{}/{address}", repository.trim_end_matches('/'))
}

impl Web {
    /// The body that an address answers with.
    pub(crate) async fn get(&self, address: &str, bytes: usize) -> Result<Bytes, Error> {
        let login = self.login.as_ref().filter(|_| self.is_trusted(address)).map(Login::header);
        let headers = login.iter().map(|login| (header::AUTHORIZATION, login.as_str()));
        let answer = self.ask(address, &headers.collect::<Vec<_>>(), bytes).await?;
        if !answer.status().is_success() {
            return Err(failed(address, format!("the server answers {}", answer.status())));
        }
        Ok(answer.into_body())
    }

    /// Whether the login is for the host of an address.
    pub(crate) fn is_trusted(&self, address: &str) -> bool {
        self.passes_login || host_of(address) == self.own_host
    }

    /// What an address answers, after redirections. Elsewhere no credentials are shown.
    pub(crate) async fn ask(
        &self,
        address: &str,
        headers: &[(header::HeaderName, &str)],
        bytes: usize,
    ) -> Result<Answer, Error> {
        let asking = self.follow(address, headers, bytes);
        match tokio::time::timeout(self.limit, asking).await {
            Ok(answer) => answer,
            Err(_) => Err(failed(address, format!("no whole answer within {:?}", self.limit))),
        }
    }

    async fn follow(
        &self,
        address: &str,
        headers: &[(header::HeaderName, &str)],
        bytes: usize,
    ) -> Result<Answer, Error> {
        let mut at = address.to_owned();
        for _ in 0..=REDIRECTIONS {
            let known = host_of(&at) == host_of(address) || self.passes_login;
            let answer = self.once(&at, headers, (known, bytes)).await?;
            let Some(next) =
                answer.headers().get(header::LOCATION).filter(|_| answer.status().is_redirection())
            else {
                return Ok(answer);
            };
            let next = next
                .to_str()
                .map_err(|_| failed(&at, "it sends elsewhere without saying where".to_owned()))?;
            let base = at.rsplit_once('/').map_or(at.as_str(), |(base, _)| base).to_owned();
            let next = relative(&base, next);
            if at.starts_with("https://") && !next.starts_with("https://") {
                return Err(failed(&at, "it sends to where nothing is encrypted".to_owned()));
            }
            at = next;
        }
        Err(failed(address, format!("it sends elsewhere more than {REDIRECTIONS} times")))
    }

    async fn once(
        &self,
        address: &str,
        headers: &[(header::HeaderName, &str)],
        (known, bytes): (bool, usize),
    ) -> Result<Answer, Error> {
        let uri: Uri =
            address.parse().map_err(|error| failed(address, format!("that is no address: {error}")))?;
        let tls = match uri.scheme_str() {
            Some("https") => Some(self.tls.clone()),
            Some("http") => None,
            _ => return Err(failed(address, "the address is neither https:// nor http://".to_owned())),
        };
        let host = uri.authority().map(|authority| authority.as_str().to_owned()).unwrap_or_default();
        let mut request = Request::get(uri)
            .header(header::HOST, host)
            .header(header::USER_AGENT, "knarr")
            .body(full_body(""))
            .map_err(|error| failed(address, error.to_string()))?;
        for (name, value) in headers.iter().filter(|(name, _)| known || *name != header::AUTHORIZATION) {
            let mut value = HeaderValue::try_from(*value).map_err(|_| {
                failed(address, "the credentials have characters no header may have".to_owned())
            })?;
            value.set_sensitive(true);
            request.headers_mut().insert(name.clone(), value);
        }
        let pool = Connector { tls, ..Connector::default() }.pool();
        let answer = pool.request(request).await.map_err(|error| failed(address, chain(&error)))?;
        let (parts, body) = answer.into_parts();
        if parts.status.is_redirection() {
            return Ok(Response::from_parts(parts, Bytes::new()));
        }
        // What refuses need not be read whole.
        let bytes = if parts.status == StatusCode::OK { bytes } else { 1 << 20 };
        let body = body.map_err(|error| -> BodyError { Box::new(error) }).boxed_unsync();
        let body = base::collect(body, bytes).await.map_err(|error| failed(address, error.to_string()))?;
        Ok(Response::from_parts(parts, body))
    }
}

/// An error that shows an address without what may be secret in it.
pub(crate) fn failed(address: &str, why: String) -> Error {
    let plain = address.split(['?', '#']).next().unwrap_or_default();
    let from = match plain.split_once("://") {
        Some((scheme, rest)) => {
            let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
            let host = host.rsplit('@').next().unwrap_or_default();
            format!("{scheme}://{host}/{path}")
        }
        None => plain.to_owned(),
    };
    Error::Fetch { from, why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_may_be_relative() {
        assert_eq!(relative("https://a/b", "c/d.tgz"), "https://a/b/c/d.tgz");
        assert_eq!(relative("https://a/b", "/d.tgz"), "https://a/d.tgz");
        assert_eq!(relative("https://a/b", "http://x/y"), "http://x/y");
        assert_eq!(host_of("https://A:8443/x"), "a:8443");
    }

    #[test]
    fn errors_show_no_secrets() {
        let shown = failed("https://user:secret@host/x?token=secret", "no".to_owned()).to_string();
        assert!(!shown.contains("secret") && shown.contains("https://host/x"), "{shown}");
    }
}
