//! Owns the API: every read and write of the cluster's state goes through this room's pipeline —
//! authenticate, authorize, admit, validate, store — whether it comes over TLS or from within the
//! process. Nothing else opens the store.
//!
//! It must never do a controller's work: it answers requests and keeps no loops about objects. Start
//! reading at [`Server::handle`], then `registry/`, whose verbs serve every kind of the table.

mod aggregation;
mod auth;
mod caller;
mod catalogue;
mod conversion;
mod documents;
mod egress;
mod flow;
mod http;
mod metrics;
mod migration;
mod registry;
mod rules;
mod sealing;
mod services;
mod strategies;
mod streams;
mod trust;

pub use aggregation::Extension;
pub use auth::{ServerToken, ServiceAccountKeys, User};
pub use http::tls::ServingCertificate;
pub use migration::{Brought, State, bring, state_of};
pub use sealing::{Learn, Sealing};
pub use store::{Aside, Remote, SEALING, Vault};
pub use strategies::AddressPool;

use ::http::{Request, Response};
use api::egress::Egress;
use api::status::Refusal;
use auth::Identity;
use base::{Body, Phase, Restart, Shutdown, Supervisor};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What the API server needs to know.
pub struct Config {
    /// Where it listens.
    pub listen: Vec<SocketAddr>,
    /// Where the state is kept.
    pub storage: Storage,
    /// What of it lies sealed.
    pub sealing: Arc<Sealing>,
    /// How often what is older is forgotten.
    pub compaction_interval: Duration,
    /// How many bytes of changes are kept for watches.
    pub watch_history_bytes: usize,
    /// The certificate it shows, which may be renewed while it runs.
    pub certificate: ServingCertificate,
    /// The authorities that client certificates are verified against.
    pub client_authorities: Arc<base::trust::Trust>,
    /// Signs and verifies service account tokens.
    pub service_account_keys: ServiceAccountKeys,
    /// The token by which machines join.
    pub server_token: ServerToken,
    /// What is reached through the tunnels of nodes.
    pub egress: Egress,
    /// How kubelets are reached.
    pub kubelet_client: Arc<rustls::ClientConfig>,
    /// What is shown to servers behind APIServices, which trust it to say who asks.
    pub front_proxy: Arc<dyn rustls::client::ResolvesClientCert>,
    /// Where cluster addresses of services come from.
    pub service_addresses: Vec<AddressPool>,
    /// Where node ports of services come from.
    pub node_ports: std::ops::RangeInclusive<u16>,
    /// `gitVersion` of `/version`.
    pub version: String,
}

/// Where the state is kept.
#[derive(Clone, Debug)]
pub enum Storage {
    /// In a database of this server's own.
    File(PathBuf),
    /// In an etcd that servers share.
    Etcd(Remote),
}

/// Why the API server does not start. To be told to the person who started it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database cannot be used.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A state cannot be brought from one place to another.
    #[error("{0}")]
    Migration(String),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}{}", hint(source))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The certificates do not fit each other.
    #[error("the API server's certificates cannot be used: {0}")]
    Tls(String),
}

fn hint(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            "; another process uses the port: stop it (`ss -ltnp` shows which), or choose another with --https-listen-port"
        }
        std::io::ErrorKind::AddrNotAvailable => "; the machine has no such address: see --bind-address",
        _ => "",
    }
}

/// Moves the database of a server that is stopped aside, to its name with this behind it; none where there is none, or
/// where the state is not in a database of its own.
pub fn set_aside(storage: &Storage, suffix: &str) -> Result<Option<Aside>, Error> {
    match storage {
        Storage::File(path) => Ok(store::set_aside(&store::Config::new(path), suffix)?),
        Storage::Etcd(_) => Ok(None),
    }
}

/// The answer of another room to a request: an object, or why there is none.
pub fn answer(result: Result<serde_json::Value, Refusal>) -> Response<Body> {
    match result {
        Ok(value) => http::answer::json(::http::StatusCode::OK, &value),
        Err(refusal) => http::answer::refused(&refusal),
    }
}

/// A running API server. Cheap to clone; every clone is the same server.
#[derive(Clone)]
pub struct Server(Arc<Inner>);

struct Inner {
    sealing: Arc<Sealing>,
    authenticator: auth::Authenticator,
    authorizer: Arc<auth::Authorizer>,
    registry: registry::Registry,
    backends: streams::Backends,
    aggregation: Arc<aggregation::Aggregation>,
    documents: documents::Documents,
    health: http::health::Health,
    metrics: metrics::Metrics,
    flow: Arc<flow::Flow>,
    /// What other rooms of this process answer, by its path.
    answers: Mutex<HashMap<&'static str, (Access, Extension)>>,
    /// Asked for when nothing new comes in from outside.
    front: Shutdown,
}

/// Who is answered at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Whom a role lets ask, as everywhere.
    Authorized,
    /// Everybody, also who shows nothing.
    Anybody,
}

/// Fills in what a pod leaves out and tells what is wrong with it, as it happens to one that is created: for
/// nodes, whose own pods are run before any API server sees them.
pub fn complete_pod(mut pod: serde_json::Value) -> Result<serde_json::Value, String> {
    let kind = api::kinds::by_kind("v1", "Pod").ok_or("there are no pods")?;
    let strategy = strategies::Strategies::of(kind);
    (strategy.default)(&mut pod);
    match strategy.check_new(kind, &pod).as_slice() {
        [] => Ok(pod),
        errors => {
            let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
            Err(format!("invalid pod: [{}]", all.join(", ")))
        }
    }
}

impl Server {
    /// Opens the store and starts to listen.
    pub async fn start(config: Config, supervisor: &Supervisor) -> Result<Self, Error> {
        let mut listeners = Vec::new();
        for address in &config.listen {
            let listener = tokio::net::TcpListener::bind(address).await;
            listeners.push(listener.map_err(|source| Error::Listen { address: *address, source })?);
        }
        let tls = http::tls::server_config(&config.certificate).map_err(Error::Tls)?;
        let certificates = auth::CertificateAuthenticator::new(config.client_authorities);
        let usual = |path: PathBuf| store::Config {
            history_bytes: config.watch_history_bytes,
            upkeep_interval: config.compaction_interval,
            sealer: config.sealing.clone(),
            ..store::Config::new(path)
        };
        let records = match config.storage {
            Storage::File(path) => registry::Records::open(usual(path), supervisor).await?,
            Storage::Etcd(remote) => {
                registry::Records::share(&remote, &usual(PathBuf::new()), supervisor).await?
            }
        };
        let tunnels = streams::Tunnels::new(supervisor.clone());
        let records = records.reached_by(egress::Ways::new(config.egress, tunnels.clone()));
        let keys = Arc::new(config.service_account_keys);
        let strategies = strategies::Strategies::new(&records, config.service_addresses, config.node_ports);
        strategies.repair().await;
        let authorizer = Arc::new(auth::Authorizer::new(records.clone()));
        let health = http::health::Health::new(records.clone(), supervisor.shutdown(Phase::Front));
        let expiring = records.clone();
        supervisor.run("event expiry", Phase::Work, Restart::OnFailure, move |shutdown| {
            registry::expiry::run(expiring.clone(), shutdown)
        });
        let flow = Arc::new(flow::Flow::new(records.clone(), supervisor));
        flow.run();
        let ways = records.ways().clone();
        let exchange = Arc::new(streams::Exchange::new(config.kubelet_client, ways, supervisor.clone()));
        let aggregation =
            Arc::new(aggregation::Aggregation::new(records.clone(), config.front_proxy, exchange.clone()));
        let keeping = aggregation.clone();
        supervisor.run("documents of other API servers", Phase::Work, Restart::OnFailure, move |shutdown| {
            keeping.clone().keep(shutdown)
        });
        let tokens = auth::TokenAuthenticator::new(keys.clone(), records.clone(), config.server_token);
        let authenticator = auth::Authenticator::new(certificates, tokens);
        let (access, running) = (authorizer.clone(), supervisor.clone());
        let registry = registry::Registry::new(records, strategies, keys, access, running);
        let server = Self(Arc::new(Inner {
            sealing: config.sealing,
            aggregation: aggregation.clone(),
            authenticator,
            authorizer,
            backends: streams::Backends::new(exchange, tunnels),
            documents: documents::Documents::new(config.version, aggregation),
            registry,
            health,
            metrics: metrics::Metrics::default(),
            flow,
            answers: Mutex::default(),
            front: supervisor.shutdown(Phase::Front),
        }));
        for listener in listeners {
            http::listen::serve(server.clone(), listener, tls.clone(), supervisor);
        }
        Ok(server)
    }

    /// The whole state, with all that any server acknowledged before.
    pub async fn state(&self) -> Result<State, String> {
        let records = self.0.registry.records();
        records.catch_up().await.map_err(|refusal| refusal.message)?;
        Ok(State::of(records.snapshot()))
    }

    /// Writes everything again that the configuration of sealing is about, so that it lies as that says; gives how many
    /// objects.
    pub async fn write_sealed(&self) -> Result<usize, String> {
        registry::write_again(self.0.registry.records(), |key| self.0.sealing.is_about(key)).await
    }

    /// Answers one request from within the process, as this user.
    pub async fn call(&self, user: &User, request: Request<Body>) -> Response<Body> {
        self.handle(Identity::Trusted(user.clone()), request).await
    }

    /// Serves a group version, `VERSION.GROUP`, from within this process as long as its APIService names no
    /// service. Requests come authorized.
    pub fn extend(&self, name: &str, extension: Extension) {
        self.0.aggregation.extend(name, extension);
    }

    /// Has requests for a path that is no resource's answered by another room of this process.
    pub fn answer_at(&self, path: &'static str, access: Access, answer: Extension) {
        self.0.answers.lock().unwrap_or_else(PoisonError::into_inner).insert(path, (access, answer));
    }

    /// Signs service account tokens by the first of these keys (P-256 or RSA, PKCS#8) from now on, and believes those
    /// that any of them signed.
    pub fn renew_service_account_keys(&self, keys: &[Vec<u8>]) -> Result<(), String> {
        self.0.registry.keys().renew(keys)
    }

    /// A ticket by which a node that was let in asks for its first certificate: it is that node's for a few minutes.
    pub fn node_ticket(&self, node: &str) -> Result<String, String> {
        self.0.registry.keys().ticket(node)
    }

    /// Whether the service behind an APIService answers; an error is the message of its condition
    /// `Available`.
    pub async fn check_extension(&self, name: &str) -> Result<(), String> {
        self.0.aggregation.check(name).await
    }

    /// Makes the token that a Secret holds for a service account, given by its name and uid.
    pub fn service_account_token(
        &self,
        namespace: &str,
        account: (&str, &str),
        secret: &str,
    ) -> Result<String, String> {
        self.0.registry.keys().issue_legacy(namespace, account, secret)
    }

    /// The Secrets, by namespace and name, whose tokens were used and whose labels do not say so, once there are
    /// any.
    pub async fn used_tokens(&self) -> Vec<(String, String)> {
        self.0.authenticator.used().take().await
    }

    /// What is to be warned of in a ValidatingAdmissionPolicy: fields, and what is wrong there for the kinds
    /// that it is for.
    pub async fn check_policy(&self, policy: serde_json::Value) -> Vec<(String, String)> {
        let server = self.clone();
        let checking = tokio::task::spawn_blocking(move || {
            registry::policy_warnings(server.0.registry.records(), &policy)
        });
        checking.await.unwrap_or_default()
    }
}
