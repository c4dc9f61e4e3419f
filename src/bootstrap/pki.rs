//! The cluster's authorities and certificates under `<data>/server/tls`.

use crate::certificates::{self, Issued, RENEWAL, Subject};
use crate::identity::{Identity, Shown, content, load, paths, save};
use crate::{Config, Error, files, signing};
use arc_swap::ArcSwap;
use base::{Phase, Restart, Supervisor, clock};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use rustls::RootCertStore;
use rustls::client::ResolvesClientCert;
use rustls::crypto::ring as provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;

/// How often certificates are looked at again: a sleeping machine's monotonic clock stands still.
pub(crate) const LOOK: Duration = Duration::from_secs(12 * 3600);
/// How long it may take to issue all of them.
const ROTATION_LIMIT: Duration = Duration::from_secs(20);

/// Who passes on what others ask for.
pub(crate) const AUTH_PROXY: &str = "system:auth-proxy";

/// Certificates that were issued while running.
pub struct Renewed {
    /// The API's own.
    pub serving: Identity,
    /// The kubelet's own.
    pub kubelet_serving: Identity,
    /// The administrator's, for the kubeconfig.
    pub admin: Identity,
}

/// The certificates that are issued again, by their files.
const LEAVES: [&str; 8] = [
    "client-kube-apiserver",
    "client-auth-proxy",
    "client-scheduler",
    "client-controller",
    "client-kubelet",
    "client-admin",
    "serving-kube-apiserver",
    "serving-kubelet",
];

/// A certificate of a server or an agent, as its file has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its file.
    pub path: PathBuf,
    /// Whom it names.
    pub subject: String,
    /// When it ends; or why it cannot be read.
    pub ends: Result<SystemTime, String>,
}

/// The certificates below a data folder, authorities too.
pub fn certificates(data_dir: &Path) -> Result<Vec<Kept>, Error> {
    let mut all = Vec::new();
    for folder in ["server/tls", "agent/tls"].map(|name| data_dir.join(name)) {
        let entries = match std::fs::read_dir(&folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            entries => entries.map_err(files::failed("read", &folder))?,
        };
        for entry in entries {
            let path = entry.map_err(files::failed("read", &folder))?.path();
            let is_one = path.extension().is_some_and(|ending| ending == "crt" || ending == "pem");
            let text = files::read(&path)?.filter(|text| is_one && text.contains("BEGIN CERTIFICATE"));
            let Some(text) = text else { continue };
            let (subject, ends) = match certificates::named(&text) {
                Ok((subject, ends)) => (subject, Ok(ends)),
                Err(why) => (String::new(), Err(why)),
            };
            all.push(Kept { path, subject, ends });
        }
    }
    all.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(all)
}

/// Has all certificates of a server that is stopped be issued again at its next start; gives how many. The authorities
/// stay.
pub fn forget_certificates(data_dir: &Path) -> Result<usize, Error> {
    let folder = data_dir.join("server/tls");
    let mut count = 0;
    for name in LEAVES {
        let (certificate, key) = paths(&folder, name);
        count += usize::from(certificate.exists());
        files::remove(&certificate)?;
        files::remove(&key)?;
    }
    Ok(count)
}

/// Every authority, certificate and key of the cluster, ready to be used.
pub struct Pki {
    /// Has all certificates issued again: how often that was asked for.
    rotations: watch::Sender<u64>,
    /// How often it was done.
    rotated: watch::Sender<u64>,
    folder: PathBuf,
    config: Config,
    names: ArcSwap<Names>,
    server_authority: Issued,
    client_authority: Issued,
    request_header_authority: Issued,
    server_authority_der: Vec<CertificateDer<'static>>,
    client_authority_der: Vec<CertificateDer<'static>>,
    service_account_key: Vec<u8>,
    to_kubelets: Arc<Shown>,
    to_extensions: Arc<Shown>,
}

/// Who certificates are for.
struct Names {
    node: String,
    api: Vec<String>,
    kubelet: Vec<String>,
}

impl Pki {
    /// Reads what is there, and makes what is missing, expires soon or names others.
    pub fn prepare(config: &Config) -> Result<Self, Error> {
        let names = Names::of(config)?;
        let folder = config.data_dir.join("server/tls");
        files::private_folder(&config.data_dir.join("server"))?;
        files::private_folder(&folder)?;
        let server_authority = authority(&folder, "server-ca", "knarr-server-ca")?;
        let client_authority = authority(&folder, "client-ca", "knarr-client-ca")?;
        let request_header_authority = authority(&folder, "request-header-ca", "knarr-request-header-ca")?;
        let to_kubelets = leaf(&folder, "client-kube-apiserver", &api_server(), &client_authority)?;
        let shown = Shown::new(&folder, &to_kubelets)?;
        let to_extensions = leaf(&folder, "client-auth-proxy", &auth_proxy(), &request_header_authority)?;
        let pki = Self {
            rotations: watch::Sender::new(0),
            rotated: watch::Sender::new(0),
            server_authority_der: certificates_of(&folder, "server-ca", &server_authority)?,
            client_authority_der: certificates_of(&folder, "client-ca", &client_authority)?,
            service_account_key: service_account_key(&folder)?,
            to_kubelets: Arc::new(shown),
            to_extensions: Arc::new(Shown::new(&folder, &to_extensions)?),
            config: config.clone(),
            names: ArcSwap::from_pointee(names),
            server_authority,
            client_authority,
            request_header_authority,
            folder,
        };
        pki.renew()?;
        Ok(pki)
    }

    /// The authority of servers, as PEM: what clients and pods verify the API by.
    pub fn server_ca_pem(&self) -> &str {
        &self.server_authority.certificate
    }

    /// The authority of clients, as PEM.
    pub fn client_ca_pem(&self) -> &str {
        &self.client_authority.certificate
    }

    /// The authority of proxies that vouch for their users (API aggregation), as PEM.
    pub fn request_header_ca_pem(&self) -> &str {
        &self.request_header_authority.certificate
    }

    /// The authorities that client certificates are verified against.
    pub fn client_authorities(&self) -> Vec<CertificateDer<'static>> {
        self.client_authority_der.clone()
    }

    /// The key that signs service account tokens: P-256, PKCS#8.
    pub fn service_account_key(&self) -> &[u8] {
        &self.service_account_key
    }

    /// What the API server shows.
    pub fn serving(&self) -> Result<Identity, Error> {
        let alternatives = self.names.load().api.clone();
        let subject = Subject { name: "kube-apiserver".to_owned(), group: None, alternatives };
        leaf(&self.folder, "serving-kube-apiserver", &subject, &self.server_authority)
    }

    /// What the kubelet shows.
    pub fn kubelet_serving(&self) -> Result<Identity, Error> {
        let names = self.names.load();
        let subject = Subject {
            name: format!("system:node:{}", names.node),
            group: Some("system:nodes".to_owned()),
            alternatives: names.kubelet.clone(),
        };
        leaf(&self.folder, "serving-kubelet", &subject, &self.server_authority)
    }

    /// The administrator: `system:admin` in `system:masters`.
    pub fn admin(&self) -> Result<Identity, Error> {
        self.client("client-admin", "system:admin", Some("system:masters"))
    }

    /// `system:kube-scheduler`.
    pub fn scheduler(&self) -> Result<Identity, Error> {
        self.client("client-scheduler", "system:kube-scheduler", None)
    }

    /// `system:kube-controller-manager`.
    pub fn controller_manager(&self) -> Result<Identity, Error> {
        self.client("client-controller", "system:kube-controller-manager", None)
    }

    /// This machine's kubelet: `system:node:<name>` in `system:nodes`.
    pub fn kubelet(&self) -> Result<Identity, Error> {
        let user = format!("system:node:{}", self.names.load().node);
        self.client("client-kubelet", &user, Some("system:nodes"))
    }

    fn client(&self, file: &str, user: &str, group: Option<&str>) -> Result<Identity, Error> {
        let subject =
            Subject { name: user.to_owned(), group: group.map(str::to_owned), ..Subject::default() };
        leaf(&self.folder, file, &subject, &self.client_authority)
    }

    /// Speaks to this cluster's API server as this identity.
    pub fn client_config(&self, identity: &Identity) -> Result<Arc<rustls::ClientConfig>, Error> {
        let shown = Shown::new(&self.folder, identity)?;
        self.config_showing(Arc::new(shown))
    }

    /// How the API server reaches kubelets: as `system:kube-apiserver`, verifying them by the servers'
    /// authority. Follows renewals by itself.
    pub fn kubelet_client(&self) -> Result<Arc<rustls::ClientConfig>, Error> {
        self.config_showing(self.to_kubelets.clone())
    }

    /// What the API server shows to those behind APIServices: `system:auth-proxy`, by the authority that they
    /// find in `extension-apiserver-authentication`. Follows renewals by itself.
    pub fn front_proxy(&self) -> Arc<dyn ResolvesClientCert> {
        self.to_extensions.clone()
    }

    /// Signs a certificate request (PKCS#10 in DER) as the signer of this name; the answer is PEM.
    pub fn sign(
        &self,
        signer: &str,
        request: &[u8],
        usages: &[String],
        life_s: Option<i32>,
    ) -> Result<String, String> {
        let authority = match signer {
            "kubernetes.io/kubelet-serving" => &self.server_authority,
            _ => &self.client_authority,
        };
        signing::sign(authority, request, usages, life_s, certificates::wall_clock())
    }

    fn config_showing(&self, shown: Arc<Shown>) -> Result<Arc<rustls::ClientConfig>, Error> {
        let bad = |error: rustls::Error| content(&self.folder, error.to_string());
        let mut roots = RootCertStore::empty();
        for authority in &self.server_authority_der {
            roots.add(authority.clone()).map_err(bad)?;
        }
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(provider::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(bad)?
            .with_root_certificates(roots)
            .with_client_cert_resolver(shown);
        Ok(Arc::new(config))
    }

    /// How the kubelet verifies who speaks to it.
    pub fn client_verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, Error> {
        verifier_of(self.client_authority.certificate.as_bytes(), &self.folder)
    }

    /// Issues again whatever expires soon, and shows the API server's own new certificates from then on.
    fn renew(&self) -> Result<Renewed, Error> {
        let to_kubelets = leaf(&self.folder, "client-kube-apiserver", &api_server(), &self.client_authority)?;
        self.to_kubelets.show(&self.folder, &to_kubelets)?;
        let to_extensions =
            leaf(&self.folder, "client-auth-proxy", &auth_proxy(), &self.request_header_authority)?;
        self.to_extensions.show(&self.folder, &to_extensions)?;
        self.scheduler()?;
        self.controller_manager()?;
        self.kubelet()?;
        Ok(Renewed {
            serving: self.serving()?,
            kubelet_serving: self.kubelet_serving()?,
            admin: self.admin()?,
        })
    }

    /// Issues all certificates again, whenever they expire, and returns when the new ones are shown.
    pub async fn rotate(&self) -> Result<(), Error> {
        let mut turn = 0;
        self.rotations.send_modify(|asked| {
            *asked += 1;
            turn = *asked;
        });
        let mut rotated = self.rotated.subscribe();
        let done = tokio::time::timeout(ROTATION_LIMIT, rotated.wait_for(|done| *done >= turn)).await;
        match done {
            Ok(Ok(_)) => Ok(()),
            _ => {
                Err(Error::Setting("the certificates were not issued again in time: see the log".to_owned()))
            }
        }
    }

    /// The machine is reached by other addresses from now on.
    fn rename(&self, node_ips: &[IpAddr]) -> Result<(), Error> {
        let names = Names::of(&Config { node_ips: node_ips.to_vec(), ..self.config.clone() })?;
        self.names.store(Arc::new(names));
        Ok(())
    }

    /// Renews certificates while knarr runs, long before they expire and when the machine's addresses change, and
    /// hands them to `renewed`, which is also called when nothing changed.
    pub fn keep_renewed(
        self: Arc<Self>,
        addresses: watch::Receiver<Vec<IpAddr>>,
        supervisor: &Supervisor,
        renewed: impl Fn(Renewed) -> Result<(), String> + Send + Sync + 'static,
    ) {
        let renewed = Arc::new(renewed);
        supervisor.run("certificate renewal", Phase::Work, Restart::OnFailure, move |shutdown| {
            let (pki, renewed, mut addresses) = (self.clone(), renewed.clone(), addresses.clone());
            let mut rotations = self.rotations.subscribe();
            async move {
                let (text, mut are_followed) = (|error: Error| error.to_string(), true);
                loop {
                    tokio::select! {
                        () = shutdown.requested() => return Ok::<(), String>(()),
                        () = clock::sleep(LOOK) => {}
                        changed = addresses.changed(), if are_followed => are_followed = changed.is_ok(),
                        _ = rotations.changed() => {}
                    }
                    let asked = *rotations.borrow_and_update();
                    if *pki.rotated.borrow() < asked {
                        forget_certificates(&pki.config.data_dir).map_err(text)?;
                    }
                    pki.rename(&addresses.borrow_and_update().clone()).map_err(text)?;
                    renewed(pki.renew().map_err(text)?)?;
                    pki.rotated.send_replace(asked);
                }
            }
        });
    }
}

/// Verifies clients by the authorities of a bundle in PEM, of which `from` tells where it came from.
pub(crate) fn verifier_of(bundle: &[u8], from: &Path) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(bundle) {
        let authority = authority.map_err(|error| content(from, error.to_string()))?;
        roots.add(authority).map_err(|error| content(from, error.to_string()))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(provider::default_provider()))
        .allow_unauthenticated()
        .build()
        .map_err(|error| content(from, error.to_string()))
}

fn auth_proxy() -> Subject {
    Subject { name: AUTH_PROXY.to_owned(), ..Subject::default() }
}

fn api_server() -> Subject {
    Subject {
        name: "system:kube-apiserver".to_owned(),
        group: Some("system:masters".to_owned()),
        ..Subject::default()
    }
}

impl Names {
    fn of(config: &Config) -> Result<Self, Error> {
        let domain = &config.cluster_domain;
        let mut api: Vec<String> =
            ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"]
                .map(str::to_owned)
                .into();
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let addresses = loopback.iter().chain([&config.service_ip]).chain(&config.node_ips);
        api.push(format!("kubernetes.default.svc.{domain}"));
        api.extend(addresses.map(IpAddr::to_string));
        api.extend([config.hostname.clone(), config.node_name.clone()]);
        api.extend(config.tls_sans.iter().cloned());
        let mut kubelet = vec![config.node_name.clone(), config.hostname.clone(), "localhost".to_owned()];
        kubelet.extend(loopback.iter().chain(&config.node_ips).map(IpAddr::to_string));
        for names in [&mut api, &mut kubelet] {
            names.retain(|name| !name.is_empty());
            names.sort();
            names.dedup();
            names.iter().try_for_each(|name| certificates::check_name(name))?;
        }
        Ok(Self { node: config.node_name.clone(), api, kubelet })
    }
}

/// An authority, made once. Half of one is never replaced: everything it signed would be worthless.
fn authority(folder: &Path, file: &str, name: &str) -> Result<Issued, Error> {
    let (certificate, _) = paths(folder, file);
    if let Some(issued) = load(folder, file)? {
        let ends =
            certificates::expires(&issued.certificate).map_err(|error| content(&certificate, error))?;
        if ends < certificates::wall_clock() + RENEWAL {
            tracing::warn!(file, "this authority expires soon");
        }
        return Ok(issued);
    }
    if certificate.exists() {
        return Err(content(&certificate, "its key is missing".to_owned()));
    }
    let issued = certificates::issue_authority(name).map_err(|error| unissued(file, &error))?;
    save(folder, file, &issued)?;
    Ok(issued)
}

/// A certificate that will do: the one that is there, or a new one.
fn leaf(folder: &Path, file: &str, subject: &Subject, authority: &Issued) -> Result<Identity, Error> {
    let (path, _) = paths(folder, file);
    if let Some(present) = load(folder, file)? {
        match certificates::stale(&present, subject, authority) {
            None => return Identity::read(&path, &present),
            Some(reason) => tracing::info!(file, reason, "issuing a certificate again"),
        }
    }
    let issued = certificates::issue(subject, authority).map_err(|error| unissued(file, &error))?;
    save(folder, file, &issued)?;
    Identity::read(&path, &issued)
}

fn unissued(file: &str, error: &rcgen::Error) -> Error {
    Error::Issue { name: file.to_owned(), reason: error.to_string() }
}

fn certificates_of(
    folder: &Path,
    file: &str,
    issued: &Issued,
) -> Result<Vec<CertificateDer<'static>>, Error> {
    Ok(Identity::read(&paths(folder, file).0, issued)?.chain())
}

fn service_account_key(folder: &Path) -> Result<Vec<u8>, Error> {
    let path = folder.join("service.key");
    if let Some(pem) = files::read(&path)? {
        let key = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes());
        let key = key.map_err(|error| content(&path, error.to_string()))?;
        return Ok(key.secret_pkcs8_der().to_vec());
    }
    let pair = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
    let pair =
        pair.map_err(|_| Error::Issue { name: "service.key".to_owned(), reason: "no entropy".to_owned() })?;
    let label = "PRIVATE KEY";
    files::write(&path, &pem_of(label, pair.as_ref()), files::PRIVATE)?;
    Ok(pair.as_ref().to_vec())
}

pub(crate) fn pem_of(label: &str, der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
