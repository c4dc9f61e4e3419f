//! One request handed on to another server, and its answer handed back. An upgraded connection is tunnelled
//! byte for byte, as its two ends speak to each other and not to this server.

use crate::egress::{Ways, Whither};
use crate::trust;
use base::https::{Connector, Stream, host_port};
use base::{Body, BodyError, Phase, Supervisor};
use http::{HeaderMap, HeaderName, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// How long a client may take to read the rest of a stream that ended.
pub(super) const ENDING_LIMIT: Duration = Duration::from_secs(10);
/// Headers of one hop, which are not handed on unless the connection is upgraded.
const HOP_HEADERS: [HeaderName; 8] = [
    header::CONNECTION,
    header::UPGRADE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("keep-alive"),
];

/// How a server is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Security {
    Plain,
    /// With this server's certificate, by the verified one of a kubelet.
    Kubelet,
    /// The same, by whatever certificate the kubelet has: who asked for a log said so.
    UnverifiedKubelet,
    /// By whatever certificate there is.
    Unverified,
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Destination {
    pub(super) security: Security,
    pub(super) whither: Whither,
    pub(super) address: String,
    pub(super) port: u16,
    pub(super) path_and_query: String,
}

impl Destination {
    /// `ADDRESS:PORT`, as a URL has it.
    pub(super) fn host(&self) -> String {
        host_port(&self.address, self.port)
    }
}

/// Makes connections and hands requests on.
pub(crate) struct Exchange {
    kubelets: Arc<rustls::ClientConfig>,
    unverified_kubelets: Arc<rustls::ClientConfig>,
    unverified: Arc<rustls::ClientConfig>,
    ways: Ways,
    supervisor: Supervisor,
}

impl Exchange {
    pub(crate) fn new(kubelets: Arc<rustls::ClientConfig>, ways: Ways, supervisor: Supervisor) -> Self {
        let unverified_kubelets = base::tls::unverified_showing(&kubelets);
        Self { kubelets, unverified_kubelets, unverified: base::tls::unverified(), ways, supervisor }
    }

    /// Sends a request with its headers as [`outgoing`] left them. An error is what went wrong, in Go's
    /// words.
    pub(super) async fn send(
        &self,
        to: &Destination,
        request: Request<Body>,
    ) -> Result<Response<Body>, String> {
        let wire = self.dial(to).await;
        let told = |error: BodyError| format!("{}{}", trust::go_error(&*error), self.ways.hint(&to.whither));
        self.over(wire.map_err(told)?, &to.path_and_query, request).await
    }

    async fn dial(&self, to: &Destination) -> Result<Stream, BodyError> {
        let Some(far) = self.ways.through(&to.whither) else {
            return self.connector(to).dial(&to.address, to.port).await;
        };
        let named = match to.whither {
            // A node may not know the address by which it is known.
            Whither::Kubelet(_) => format!("kubelet:{}", to.port),
            _ => to.host(),
        };
        self.connector(to).over(far.connect(&named).await?, &to.address).await
    }

    /// Sends a request over a connection that is used for it alone.
    pub(crate) async fn over(
        &self,
        wire: Stream,
        path_and_query: &str,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let handshake = hyper::client::conn::http1::handshake(wire).await;
        let (mut sender, connection) = handshake.map_err(|error| text(&error))?;
        self.supervisor.detached("connection to a server behind", Phase::Work, async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "connection to a server behind ended");
            }
        });
        let upgrade = request.extensions_mut().remove::<OnUpgrade>();
        let (mut parts, body) = request.into_parts();
        parts.version = http::Version::HTTP_11;
        parts.uri = path_and_query.parse().map_err(|error: http::uri::InvalidUri| text(&error))?;
        parts.extensions.clear();
        let sent = sender.send_request(Request::from_parts(parts, body)).await;
        let mut answer = sent.map_err(|error| text(&error))?;
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS
            && let Some(upgrade) = upgrade
        {
            let backend = hyper::upgrade::on(&mut answer);
            self.supervisor.detached("stream", Phase::Front, tunnel(upgrade, backend));
            let mut response = Response::new(base::full_body(""));
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            *response.headers_mut() = answer.headers().clone();
            return Ok(response);
        }
        let (mut parts, body) = answer.into_parts();
        strip(&mut parts.headers);
        let body = body.map_err(|error| -> BodyError { Box::new(error) });
        // The connection lives as long as its answer's body.
        let response = Response::from_parts(parts, body.boxed_unsync());
        Ok(crate::http::answer::holding(response, sender))
    }

    /// Works on a stream until it ends.
    pub(super) fn stream(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.supervisor.detached(name, Phase::Front, work);
    }

    fn connector(&self, to: &Destination) -> Connector {
        let tls = match &to.security {
            Security::Plain => None,
            Security::Kubelet => Some(self.kubelets.clone()),
            Security::UnverifiedKubelet => Some(self.unverified_kubelets.clone()),
            Security::Unverified => Some(self.unverified.clone()),
        };
        Connector { tls, ..Connector::default() }
    }
}

/// Removes what concerns one hop alone, also what `Connection` names.
pub(crate) fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    named.iter().chain(&HOP_HEADERS).for_each(|name| drop(headers.remove(name)));
}

/// The headers that are handed on. What the client proves to this server is not for those behind it.
pub(crate) fn outgoing(headers: &mut HeaderMap, upgrade: bool) {
    if !upgrade {
        strip(headers);
    }
    let own: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("impersonate-")).cloned().collect();
    own.iter().chain(&[header::AUTHORIZATION]).for_each(|name| drop(headers.remove(name)));
}

async fn tunnel(front: OnUpgrade, back: OnUpgrade) {
    let (front, back) = match tokio::try_join!(front, back) {
        Ok(both) => both,
        Err(error) => return tracing::debug!(%error, "an upgrade did not come about"),
    };
    let (mut front, mut back) = (TokioIo::new(front), TokioIo::new(back));
    if let Err(error) = tokio::io::copy_bidirectional(&mut front, &mut back).await {
        tracing::debug!(%error, "a stream was cut");
    }
    // What came before the cut is still to arrive.
    let ending = async { tokio::join!(front.shutdown(), back.shutdown()) };
    if tokio::time::timeout(ENDING_LIMIT, ending).await.is_err() {
        tracing::debug!("a stream's client does not read its end");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};
    use rustls::ServerConfig;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::server::WebPkiClientVerifier;
    use tokio::io::AsyncReadExt;

    /// A certificate of its own making, as PEM, with its key.
    fn own(name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    /// A kubelet that takes clients with this certificate alone.
    fn kubelet(shown: &str) -> tokio_rustls::TlsAcceptor {
        use rustls::pki_types::pem::PemObject;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut clients = rustls::RootCertStore::empty();
        clients.add(CertificateDer::from_pem_slice(shown.as_bytes()).unwrap()).unwrap();
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(clients), provider.clone());
        let (certificate, key) = own("kubelet");
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.unwrap().with_client_cert_verifier(clients.build().unwrap());
        tokio_rustls::TlsAcceptor::from(Arc::new(builder.with_single_cert(vec![certificate], key).unwrap()))
    }

    #[tokio::test]
    async fn a_kubelet_is_verified_unless_a_log_is_wanted_anyhow() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let ((shown, key), (authority, _)) = (own("kube-apiserver"), own("authority"));
        let acceptor = kubelet(&shown);
        let serving = async {
            loop {
                let Ok(mut stream) = acceptor.accept(listener.accept().await.unwrap().0).await else {
                    continue;
                };
                let mut head = [0; 1024];
                let mut read = 0;
                while !head[..read].ends_with(b"\r\n\r\n") {
                    read += stream.read(&mut head[read..]).await.unwrap();
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await.unwrap();
                stream.flush().await.unwrap();
            }
        };
        let shown = base::tls::identity(shown.as_bytes(), key.as_bytes()).unwrap();
        let kubelets = Arc::new(base::tls::client(Some(authority.as_bytes()), Some(shown)).unwrap());
        let exchange = Exchange::new(kubelets, Ways::default(), Supervisor::new());
        let ask = async |security: Security| {
            let to = Destination {
                security,
                whither: Whither::Kubelet("n".to_owned()),
                address: "127.0.0.1".to_owned(),
                port,
                path_and_query: "/containerLogs/a/b/c".to_owned(),
            };
            let answer = exchange.send(&to, Request::new(base::full_body(""))).await?;
            base::collect(answer.into_body(), 100).await.map_err(|error| error.to_string())
        };
        let asking = async { (ask(Security::Kubelet).await, ask(Security::UnverifiedKubelet).await) };
        let (verified, anyhow) = tokio::select! {
            answers = asking => answers,
            () = serving => unreachable!(),
        };
        assert!(verified.unwrap_err().contains("certificate"));
        assert_eq!(anyhow.unwrap(), "hi");
    }

    #[test]
    fn headers_of_one_hop_and_proofs_are_not_handed_on() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "x-own, close"),
            ("x-own", "1"),
            ("keep-alive", "5"),
            ("authorization", "Bearer secret"),
            ("impersonate-user", "a"),
            ("impersonate-extra-b", "c"),
            ("cookie", "d=e"),
            ("accept", "*/*"),
        ] {
            headers.insert(HeaderName::from_static(name), value.parse().unwrap());
        }
        outgoing(&mut headers, false);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "cookie"]);
    }
}
