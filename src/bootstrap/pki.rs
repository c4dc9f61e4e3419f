//! The cluster's authorities and certificates under `<data>/server/tls`.

use crate::authority::Authority;
use crate::certificates::{self, Issued, Subject};
use crate::identity::{Identity, Shown, content, load, paths, save};
use crate::rotation::{self, Authorities, Change, Files};
use crate::{Config, Error, files, signing};
use arc_swap::ArcSwap;
use base::trust::Trust;
use base::{Phase, Restart, Supervisor, clock};
use rustls::client::ResolvesClientCert;
use rustls::crypto::ring as provider;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{Mutex, MutexGuard, watch};

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
    /// The keys of service accounts' tokens: P-256 or RSA, PKCS#8. The first signs.
    pub service_account_keys: Vec<Vec<u8>>,
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

/// Changes the authorities of a server that is stopped; gives their files. Its certificates are issued again when it
/// starts.
pub fn change_authorities(data_dir: &Path, change: &Change) -> Result<Files, Error> {
    let folder = data_dir.join("server/tls");
    let all = Authorities::prepare(&folder)?;
    all.changed(change).map_err(Error::Setting)
}

/// Lays what [`change_authorities`] gave.
pub fn lay_authorities(data_dir: &Path, files: &Files) -> Result<(), Error> {
    rotation::lay(&data_dir.join("server/tls"), files)?;
    forget_certificates(data_dir).map(drop)
}

/// The files of authorities in a folder, or in `tls` below it, of which there have to be some.
pub fn authorities_in(folder: &Path) -> Result<Files, Error> {
    let below = folder.join("tls");
    let folder = if below.is_dir() { below.as_path() } else { folder };
    let mut all = Files::new();
    for name in rotation::names().into_iter().filter(|name| name != rotation::PAST) {
        let path = folder.join(&name);
        let Some(text) = files::read(&path)? else { continue };
        if name.ends_with(".key") {
            files::check_private(&path)?;
        }
        all.insert(name, text);
    }
    if all.is_empty() {
        return Err(Error::Setting(format!(
            "{} has none of the files server-ca.crt, client-ca.crt, request-header-ca.crt with their keys, and service.key",
            folder.display()
        )));
    }
    Ok(all)
}

/// Every authority, certificate and key of the cluster, ready to be used.
pub struct Pki {
    /// Has all certificates issued again: how often that was asked for.
    rotations: watch::Sender<u64>,
    /// How often it was done.
    rotated: watch::Sender<u64>,
    turn: Mutex<()>,
    folder: PathBuf,
    config: Config,
    names: ArcSwap<Names>,
    authorities: ArcSwap<Authorities>,
    /// By whom servers and kubelets are verified, and clients.
    servers: Arc<Trust>,
    clients: Arc<Trust>,
    /// What clients and pods verify the API by.
    server_bundle: watch::Sender<String>,
    to_kubelets: Arc<Shown>,
    to_peers: Arc<Shown>,
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
        let all = Authorities::prepare(&folder)?;
        rotation::warn(&all, certificates::wall_clock());
        let to_kubelets = leaf(&folder, "client-kube-apiserver", &api_server(), &all.client)?;
        let shown = Shown::new(&folder, &to_kubelets)?;
        let to_extensions = leaf(&folder, "client-auth-proxy", &auth_proxy(), &all.request_header)?;
        let to_peers = leaf(&folder, "client-kubelet", &kubelet(&names.node), &all.client)?;
        let trust =
            |authority: &Authority| Trust::new(&authority.anchors()).map_err(|why| content(&folder, why));
        let pki = Self {
            turn: Mutex::new(()),
            rotations: watch::Sender::new(0),
            rotated: watch::Sender::new(0),
            servers: Arc::new(trust(&all.server)?),
            clients: Arc::new(trust(&all.client)?),
            server_bundle: watch::Sender::new(all.server.bundle()),
            to_kubelets: Arc::new(shown),
            to_peers: Arc::new(Shown::new(&folder, &to_peers)?),
            to_extensions: Arc::new(Shown::new(&folder, &to_extensions)?),
            config: config.clone(),
            names: ArcSwap::from_pointee(names),
            authorities: ArcSwap::from_pointee(all),
            folder,
        };
        pki.renew()?;
        Ok(pki)
    }

    /// The authority of servers, as PEM: what clients and pods verify the API by.
    pub fn server_ca_pem(&self) -> String {
        self.server_bundle.borrow().clone()
    }

    /// The same, as it changes.
    pub fn follow_server_ca(&self) -> watch::Receiver<String> {
        self.server_bundle.subscribe()
    }

    /// The authority of clients, as PEM: what it signed, and what those before it did.
    pub fn client_ca_pem(&self) -> String {
        self.authorities.load().client.anchors_pem()
    }

    /// The authority of proxies that vouch for their users (API aggregation), as PEM.
    pub fn request_header_ca_pem(&self) -> String {
        self.authorities.load().request_header.anchors_pem()
    }

    /// By whom client certificates are verified; follows what comes in the authorities' place.
    pub fn client_authorities(&self) -> Arc<Trust> {
        self.clients.clone()
    }

    /// The keys of service account tokens: P-256 or RSA, PKCS#8. The first signs, all verify.
    pub fn service_account_keys(&self) -> Vec<Vec<u8>> {
        self.authorities.load().service_keys.clone()
    }

    /// The files that there are to be after a change of authorities; an error says what is wrong with it.
    pub fn changed(&self, change: &Change) -> Result<Files, String> {
        self.authorities.load().changed(change)
    }

    /// One change of authorities at a time: to be held from the look at what there is until it is something else.
    pub async fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Whether these are other files than this server has, of the same cluster and a later time.
    pub fn is_news(&self, files: &Files) -> bool {
        Authorities::of(files.clone()).is_ok_and(|other| other.comes_after(&self.authorities.load()))
    }

    /// Goes on with other authorities, and returns when all certificates are theirs. Where other servers have to hear of
    /// them as well, they are trusted for so long before they sign anything.
    pub async fn adopt(&self, files: &Files, spread: Duration) -> Result<(), Error> {
        let next = Authorities::of(files.clone());
        let next = next.map_err(|(name, why)| content(&self.folder.join(name), why))?;
        if !spread.is_zero() {
            let both = self.authorities.load().trusting(&next);
            self.trust(&[&both, &next])?;
            self.authorities.store(Arc::new(both));
            self.rotate().await?;
            clock::sleep(spread).await;
        }
        rotation::lay(&self.folder, files)?;
        self.trust(&[&next])?;
        let bundle = next.server.bundle();
        self.authorities.store(Arc::new(next));
        crate::server_token(&self.config.data_dir, &bundle, None)?;
        // It is told with the certificates: former authorities are in it, by which what is shown until then is verified.
        self.server_bundle.send_replace(bundle);
        self.rotate().await
    }

    fn trust(&self, all: &[&Authorities]) -> Result<(), Error> {
        let unread = |why| content(&self.folder, why);
        let of = |authority: fn(&Authorities) -> &Authority| -> Vec<_> {
            all.iter().flat_map(|one| authority(one).anchors()).collect()
        };
        self.servers.replace(&of(|one| &one.server)).map_err(unread)?;
        self.clients.replace(&of(|one| &one.client)).map_err(unread)
    }

    /// What the API server shows.
    pub fn serving(&self) -> Result<Identity, Error> {
        let alternatives = self.names.load().api.clone();
        let subject = Subject { name: "kube-apiserver".to_owned(), group: None, alternatives };
        leaf(&self.folder, "serving-kube-apiserver", &subject, &self.authorities.load().server)
    }

    /// What the kubelet shows.
    pub fn kubelet_serving(&self) -> Result<Identity, Error> {
        let names = self.names.load();
        let subject = Subject {
            name: format!("system:node:{}", names.node),
            group: Some("system:nodes".to_owned()),
            alternatives: names.kubelet.clone(),
        };
        leaf(&self.folder, "serving-kubelet", &subject, &self.authorities.load().server)
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
        let subject = kubelet(&self.names.load().node);
        leaf(&self.folder, "client-kubelet", &subject, &self.authorities.load().client)
    }

    fn client(&self, file: &str, user: &str, group: Option<&str>) -> Result<Identity, Error> {
        let subject =
            Subject { name: user.to_owned(), group: group.map(str::to_owned), ..Subject::default() };
        leaf(&self.folder, file, &subject, &self.authorities.load().client)
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

    /// How this machine's node speaks to other nodes: as itself, verifying them by the servers' authority. Follows
    /// renewals by itself.
    pub fn peer_client(&self) -> Result<Arc<rustls::ClientConfig>, Error> {
        self.config_showing(self.to_peers.clone())
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
        let all = self.authorities.load();
        let authority = match signer {
            "kubernetes.io/kubelet-serving" => &all.server,
            _ => &all.client,
        };
        let signed = signing::sign(&authority.issuer, request, usages, life_s, certificates::wall_clock())?;
        Ok(signed + &authority.links())
    }

    fn config_showing(&self, shown: Arc<Shown>) -> Result<Arc<rustls::ClientConfig>, Error> {
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(provider::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| content(&self.folder, error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(self.servers.clone())
            .with_client_cert_resolver(shown);
        Ok(Arc::new(config))
    }

    /// Issues again whatever expires soon, and shows the API server's own new certificates from then on.
    fn renew(&self) -> Result<Renewed, Error> {
        let all = self.authorities.load_full();
        let to_kubelets = leaf(&self.folder, "client-kube-apiserver", &api_server(), &all.client)?;
        self.to_kubelets.show(&self.folder, &to_kubelets)?;
        let to_extensions = leaf(&self.folder, "client-auth-proxy", &auth_proxy(), &all.request_header)?;
        self.to_extensions.show(&self.folder, &to_extensions)?;
        self.scheduler()?;
        self.controller_manager()?;
        self.to_peers.show(&self.folder, &self.kubelet()?)?;
        Ok(Renewed {
            serving: self.serving()?,
            kubelet_serving: self.kubelet_serving()?,
            admin: self.admin()?,
            service_account_keys: all.service_keys.clone(),
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
                        () = clock::sleep_unless_set(LOOK) => {}
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

fn auth_proxy() -> Subject {
    Subject { name: AUTH_PROXY.to_owned(), ..Subject::default() }
}

fn kubelet(node: &str) -> Subject {
    Subject {
        name: format!("system:node:{node}"),
        group: Some("system:nodes".to_owned()),
        ..Subject::default()
    }
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

/// A certificate that will do: the one that is there, or a new one.
fn leaf(folder: &Path, file: &str, subject: &Subject, authority: &Authority) -> Result<Identity, Error> {
    let (path, _) = paths(folder, file);
    if let Some(present) = load(folder, file)? {
        match certificates::stale(&present, subject, &authority.issuer.certificate) {
            None => return Identity::read(&path, &present),
            Some(reason) => tracing::info!(file, reason, "issuing a certificate again"),
        }
    }
    let issued = certificates::issue(subject, &authority.issuer)
        .map_err(|reason| Error::Issue { name: file.to_owned(), reason })?;
    let issued = Issued { certificate: issued.certificate + &authority.chain(), key: issued.key };
    save(folder, file, &issued)?;
    Identity::read(&path, &issued)
}

pub(crate) fn pem_of(label: &str, der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
