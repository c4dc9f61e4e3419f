//! The machine's side: verifies the cluster, applies, keeps what it was told for starts without a server.

use super::certificates::{CLIENT, first_serving, obtain, subject};
use super::{
    AGAIN_PATH, AUTHORITIES_PATH, Admission, Application, Cluster, PATH, SETTINGS_PATH, servers, skew,
};
use crate::certificates::{self, Issued};
use crate::identity::{Identity, Shown, content, load_pair, save_pair};
use crate::{Error, Token, files};
use arc_swap::ArcSwap;
use base::trust::Trust;
use client::Client;
use client::https::{Https, Target};
use client::servers::Servers;
use http::{Method, Uri};
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::Notify;

/// The largest bundle of authorities.
const AUTHORITY_BYTES: usize = 256 << 10;

/// A machine that wants to be a node.
pub struct Seeking<'a> {
    /// A server, such as `https://192.0.2.1:6443`.
    pub server: &'a str,
    /// What it shows; needed once, and again when its certificate has expired.
    pub token: Option<&'a Token>,
    /// knarr's data, `/var/lib/knarr`.
    pub data_dir: &'a Path,
    /// The Node's name.
    pub node_name: &'a str,
    /// knarr's version.
    pub version: &'a str,
}

/// The authorities that are known, as PEM.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) server: String,
    pub(super) client: String,
}

/// A machine that is a node.
pub struct Joined {
    /// What all nodes have in common.
    pub cluster: Cluster,
    /// Speaks to the server as the node.
    pub client: Client,
    /// The Node's name.
    pub node_name: String,
    pub(super) authorities: ArcSwap<Known>,
    /// By whom servers are verified, and who speaks to the kubelet.
    pub(super) trusted: Arc<Trust>,
    pub(super) clients: Arc<Trust>,
    /// Has the node's certificates looked at.
    pub(super) renewal: Arc<Notify>,
    pub(super) folder: PathBuf,
    pub(super) shown: Arc<Shown>,
    pub(super) tls: Arc<ClientConfig>,
    pub(super) version: String,
    /// The server's URL, as it was named.
    pub(super) named: String,
    /// The cluster's servers, as far as they are known.
    pub servers: Servers,
    /// The server did not answer: this is what it told the last time.
    pub is_remembered: bool,
}

fn client_file(folder: &Path) -> PathBuf {
    folder.join("client-kubelet.pem")
}

pub(super) fn authority_file(folder: &Path) -> PathBuf {
    folder.join("server-ca.crt")
}

fn cluster_file(folder: &Path) -> PathBuf {
    folder.join("cluster.json")
}

impl Joined {
    pub(super) fn client_file(&self) -> PathBuf {
        client_file(&self.folder)
    }

    pub(super) fn serving_file(&self) -> PathBuf {
        self.folder.join("serving-kubelet.pem")
    }

    /// What the kubelet shows until [`super::keep`] has one signed.
    pub fn serving(&self) -> Result<Identity, Error> {
        first_serving(&self.serving_file(), &self.node_name)
    }

    /// By whom those are verified who speak to the kubelet; follows what comes in the authorities' place.
    pub fn client_authorities(&self) -> Arc<Trust> {
        self.clients.clone()
    }

    /// How this node speaks to other nodes: as itself, verifying them by the servers' authority. Follows renewals by
    /// itself.
    pub fn peer_client(&self) -> Arc<ClientConfig> {
        let mut tls = ClientConfig::clone(&self.tls);
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(tls)
    }

    /// A client that asks for the node's certificate anew where the last one proves nothing any more: the machine is
    /// known by its password.
    pub(super) async fn ticketed(&self) -> Result<Client, Error> {
        let server: Uri =
            self.named.parse().map_err(|_| Error::Join(format!("{:?} is no URL", self.named)))?;
        let mut tls = ClientConfig::clone(&self.tls);
        tls.client_auth_cert_resolver = base::tls::shows_nothing();
        let servers = servers::known(&server, &self.node_name, &Arc::new(tls), &self.folder)?;
        let client = |token| {
            let target = Target { token, ..Target::new(server.clone()) };
            Client::new(Arc::new(Https::to_any(&servers, target)))
        };
        let application = Application {
            node: self.node_name.clone(),
            password: password(&self.folder.with_file_name("password"))?,
            version: self.version.clone(),
        };
        let failed = |source| Error::Object { what: "a new certificate of this node".to_owned(), source };
        let admitted = client(None).send(Method::POST, AGAIN_PATH, Some(&json!(application))).await;
        let admission: Admission = serde_json::from_slice(&admitted.map_err(failed)?).map_err(|error| {
            Error::Join(format!("the server gave an answer that cannot be read: {error}"))
        })?;
        Ok(client(Some(admission.ticket)))
    }

    /// Renews a certificate that proves nothing any more, if it is such. True where that was so and no server could be
    /// asked.
    async fn heal(&self) -> Result<bool, Error> {
        let lapsed = load_pair(&self.client_file())?.and_then(|present| certificates::lapsed(&present));
        let Some(reason) = lapsed else { return Ok(false) };
        tracing::info!(reason, "this node's certificate is asked for anew");
        match self.renew_lapsed().await {
            Err(Error::Object { source: client::Error::Transport(why), .. }) => {
                tracing::debug!(why, "no server can be asked for a certificate");
                Ok(true)
            }
            other => other.map(|()| false),
        }
    }
}

impl Joined {
    /// Asks the servers that it was told of while it was a node, as the one that is named does not answer.
    async fn asks_others(&mut self) -> bool {
        if self.servers.told().is_empty() {
            return false;
        }
        match self.client.read::<Cluster>(SETTINGS_PATH).await {
            Ok(cluster) => {
                self.cluster = cluster;
                true
            }
            Err(error) => {
                tracing::debug!(%error, "no other server answers either");
                false
            }
        }
    }
}

/// Joins, or goes on as the node that the machine is already.
pub async fn join(seeking: &Seeking<'_>) -> Result<Joined, Error> {
    let server = address(seeking.server)?;
    let folder = seeking.data_dir.join("agent/tls");
    files::private_folder(&seeking.data_dir.join("agent"))?;
    files::private_folder(&folder)?;
    let Some(mut known) = remembered(seeking, &server, &folder)? else {
        return apply(seeking, &server, folder).await;
    };
    if let Err(error) = known.heal().await {
        // It may be another cluster's, or its Node is gone.
        tracing::info!(%error, "the machine is not known by its password");
        return apply(seeking, &server, folder).await;
    }
    // The one that is named: whoever names another cluster's means that one.
    let named = client_of(&server, known.tls.clone(), None);
    let why = match named.read::<Cluster>(SETTINGS_PATH).await {
        Ok(cluster) => {
            skew::check(seeking.version, &cluster.version).map_err(Error::Join)?;
            known.follow(&cluster)?;
            known.cluster = cluster;
            keep_cluster(&folder, &known.cluster)?;
            return Ok(known);
        }
        Err(error) => error,
    };
    let away = matches!(why, client::Error::Transport(_));
    if away && known.asks_others().await {
        skew::check(seeking.version, &known.cluster.version).map_err(Error::Join)?;
        return Ok(known);
    }
    match seeking.token {
        // The cluster may be another one now.
        Some(_) => match apply(seeking, &server, folder).await {
            Err(Error::Unreached { .. }) if away => {}
            other => return other,
        },
        None if away => {}
        None => return Err(Error::Join(format!("{}: {why}", seeking.server))),
    }
    known.is_remembered = true;
    Ok(known)
}

/// The URL of a server.
fn address(text: &str) -> Result<Uri, Error> {
    let wrong = || Error::Join(format!("--join {text:?} has to be a URL such as https://192.0.2.1:6443"));
    let uri: Uri = text.trim_end_matches('/').parse().map_err(|_| wrong())?;
    let is_plain = matches!(uri.path(), "" | "/") && uri.query().is_none();
    let whole = uri.scheme_str() == Some("https") && uri.host().is_some() && is_plain;
    if whole { Ok(uri) } else { Err(wrong()) }
}

/// What an earlier start left, if the machine is a node by it still.
fn remembered(seeking: &Seeking<'_>, server: &Uri, folder: &Path) -> Result<Option<Joined>, Error> {
    let (authority, cluster) = (files::read(&authority_file(folder))?, files::read(&cluster_file(folder))?);
    let identity = load_pair(&client_file(folder))?;
    let (Some(authority), Some(cluster), Some(identity)) = (authority, cluster, identity) else {
        return Ok(None);
    };
    let Ok(cluster) = serde_json::from_str::<Cluster>(&cluster) else { return Ok(None) };
    let own = subject(seeking.node_name, Vec::new());
    if let Some(reason) = certificates::unusable(&identity, &own) {
        tracing::info!(reason, "this node's certificate is asked for anew");
        return Ok(None);
    }
    joined(seeking, server, folder.to_owned(), (authority, cluster, &identity)).map(Some)
}

fn joined(
    seeking: &Seeking<'_>,
    server: &Uri,
    folder: PathBuf,
    (authority, cluster, identity): (String, Cluster, &Issued),
) -> Result<Joined, Error> {
    let identity = Identity::read(&client_file(&folder), identity)?;
    let shown = Arc::new(Shown::new(&folder, &identity)?);
    let (trusted, clients) = (trust(&authority, &folder)?, trust(&cluster.client_authority, &folder)?);
    let mut tls = trusting(trusted.clone(), &folder)?;
    tls.client_auth_cert_resolver = shown.clone();
    let tls = Arc::new(tls);
    let node_name = seeking.node_name.to_owned();
    let servers = servers::known(server, &node_name, &tls, &folder)?;
    let target = Target::new(server.clone());
    let client = Client::new(Arc::new(Https::to_any(&servers, target)));
    let known = Known { server: authority, client: cluster.client_authority.clone() };
    Ok(Joined {
        cluster,
        client,
        node_name,
        authorities: ArcSwap::from_pointee(known),
        trusted,
        clients,
        renewal: Arc::new(Notify::new()),
        folder,
        shown,
        tls,
        named: server.to_string(),
        version: seeking.version.to_owned(),
        servers,
        is_remembered: false,
    })
}

/// Trusts the authorities of a bundle in PEM.
pub(super) fn anchors(bundle: &str, folder: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bundle.as_bytes()).collect();
    all.map_err(|error| content(&authority_file(folder), error.to_string()))
}

fn trust(bundle: &str, folder: &Path) -> Result<Arc<Trust>, Error> {
    let trust = Trust::new(&anchors(bundle, folder)?);
    trust.map(Arc::new).map_err(|why| content(&authority_file(folder), why))
}

/// Trusts these authorities alone, also as they change.
fn trusting(trust: Arc<Trust>, folder: &Path) -> Result<ClientConfig, Error> {
    let config = base::tls::client_trusting(trust).map_err(|why| content(&authority_file(folder), why));
    let mut config = config?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn client_of(server: &Uri, tls: Arc<ClientConfig>, token: Option<String>) -> Client {
    let target = Target { tls: Some(tls), token, ..Target::new(server.clone()) };
    Client::new(Arc::new(Https::new(target)))
}

/// Joins by the token.
async fn apply(seeking: &Seeking<'_>, server: &Uri, folder: PathBuf) -> Result<Joined, Error> {
    let Some(token) = seeking.token else {
        return Err(Error::Join(
            "this machine is no node yet: name a token with --token-file or KNARR_TOKEN (`knarr token create` on a server prints one)".to_owned(),
        ));
    };
    let unreached = |error: client::Error| match error {
        client::Error::Transport(why) => Error::Unreached { server: seeking.server.to_owned(), why },
        other => Error::Join(format!("{}: {other}", seeking.server)),
    };
    let authority = authority_of(server, token).await.map_err(|error| match error {
        Ok(error) => unreached(error),
        Err(why) => Error::Join(why),
    })?;
    let tls = Arc::new(trusting(trust(&authority, &folder)?, &folder)?);
    let application = Application {
        node: seeking.node_name.to_owned(),
        password: password(&seeking.data_dir.join("agent/password"))?,
        version: seeking.version.to_owned(),
    };
    let stranger = client_of(server, tls.clone(), Some(token.credentials().to_owned()));
    let admitted = stranger.send(Method::POST, PATH, Some(&json!(application))).await;
    let admitted = admitted.map_err(|error| match error.code() {
        401 => Error::Join(format!("{} does not know the token: it is wrong or has expired", seeking.server)),
        403 if error.reason() == "Forbidden" && error.to_string().contains("cannot post path") => {
            Error::Join(format!("the token is none by which machines join {}", seeking.server))
        }
        _ => match error {
            client::Error::Transport(why) => unverified(seeking.server, &why),
            other => Error::Join(other.to_string()),
        },
    })?;
    let admission: Admission = serde_json::from_slice(&admitted).map_err(|error| {
        Error::Join(format!("{} gave an answer that cannot be read: {error}", seeking.server))
    })?;
    let ticketed = client_of(server, tls, Some(admission.ticket));
    let issued = obtain(&ticketed, &CLIENT, &subject(seeking.node_name, Vec::new())).await?;
    // What the token vouches for is enough to verify by; all that is to be trusted the server says now that it is known.
    let told = &admission.cluster.server_authority;
    let authority = if told.is_empty() { authority } else { told.clone() };
    files::write(&authority_file(&folder), &authority, files::PRIVATE)?;
    save_pair(&client_file(&folder), &issued)?;
    keep_cluster(&folder, &admission.cluster)?;
    joined(seeking, server, folder, (authority, admission.cluster, &issued))
}

/// Why a server that answered a moment ago is not spoken to.
fn unverified(server: &str, why: &str) -> Error {
    if why.contains("not valid for name") {
        return Error::Join(format!(
            "{server} shows a certificate that does not name this host: start the server with --tls-san, or join by one of the names in it ({why})"
        ));
    }
    Error::Unreached { server: server.to_owned(), why: why.to_owned() }
}

/// The authority that a server says it has, if it is the one that the token names. Nothing is sent before.
async fn authority_of(server: &Uri, token: &Token) -> Result<String, Result<client::Error, String>> {
    let asked = client_of(server, base::tls::unverified(), None);
    let told = asked.send(Method::GET, AUTHORITIES_PATH, None).await.map_err(Ok)?;
    let authority = String::from_utf8(told.to_vec()).unwrap_or_default();
    let vouched = token.vouched(&authority).filter(|_| told.len() <= AUTHORITY_BYTES);
    vouched.ok_or_else(|| {
        Err(format!(
            "{server} is not the cluster of this token: its authority is another one. Either the token is of another cluster or of a time before its authorities were replaced, or somebody stands in between"
        ))
    })
}

/// By what the machine is known again, made at its first application.
fn password(path: &Path) -> Result<String, Error> {
    if let Some(known) = files::read(path)? {
        return Ok(known.trim().to_owned());
    }
    let fresh = crate::token::generate_secret();
    files::write(path, &format!("{fresh}\n"), files::PRIVATE)?;
    Ok(fresh)
}

pub(super) fn keep_cluster(folder: &Path, cluster: &Cluster) -> Result<(), Error> {
    let path = cluster_file(folder);
    let text = json!(cluster).to_string();
    // A disk wears by what is written to it.
    if files::read(&path)?.as_deref() == Some(text.as_str()) {
        return Ok(());
    }
    files::write(&path, &text, files::PRIVATE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_urls() {
        for fine in ["https://192.0.2.1:6443", "https://server/", "https://[2001:db8::1]:6443"] {
            assert!(address(fine).is_ok(), "{fine}");
        }
        for wrong in ["192.0.2.1:6443", "http://server", "https://server/path", "server", ""] {
            assert!(address(wrong).unwrap_err().to_string().contains("has to be a URL"), "{wrong}");
        }
    }

    #[test]
    fn a_certificate_of_another_name_has_a_hint() {
        let hint = unverified("https://a", "invalid peer certificate: certificate not valid for name \"a\"");
        assert!(hint.to_string().contains("--tls-san"));
        assert!(matches!(unverified("https://a", "refused"), Error::Unreached { .. }));
    }
}
