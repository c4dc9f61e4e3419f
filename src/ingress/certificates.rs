//! Which certificate is shown to whom: by the name a client asks for (SNI), from Secrets, swapped whole.

use crate::plan::{Named, Shown};
use crate::rules::Host;
use api::core::Secret;
use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::collections::HashMap;
use std::sync::Arc;

/// The longest chain that is taken.
const CHAIN: usize = 16;

/// What is shown on one port.
#[derive(Default)]
struct Names {
    exact: HashMap<String, Arc<CertifiedKey>>,
    below: HashMap<String, (bool, Arc<CertifiedKey>)>,
    any: Option<Arc<CertifiedKey>>,
}

/// All certificates. The first one for a name counts.
pub(crate) struct Certificates {
    ports: HashMap<u16, Names>,
    default: Arc<CertifiedKey>,
}

impl Certificates {
    pub(crate) fn new(default: Arc<CertifiedKey>) -> Self {
        Self { ports: HashMap::new(), default }
    }

    /// The one that is shown where no other is.
    pub(crate) fn default_key(&self) -> Arc<CertifiedKey> {
        self.default.clone()
    }

    pub(crate) fn add(&mut self, shown: &Shown, key: &Arc<CertifiedKey>) {
        let names = self.ports.entry(shown.port).or_default();
        match &shown.host {
            Host::Exact(host) => {
                names.exact.entry(host.clone()).or_insert_with(|| key.clone());
            }
            Host::Below { suffix, one_label } => {
                names.below.entry(suffix.clone()).or_insert_with(|| (*one_label, key.clone()));
            }
            Host::Any => {
                names.any.get_or_insert_with(|| key.clone());
            }
        }
    }

    fn find(&self, port: u16, name: Option<&str>) -> &Arc<CertifiedKey> {
        let Some(names) = self.ports.get(&port) else { return &self.default };
        let below = |name: &str| {
            let mut dots = name.match_indices('.').zip(1..);
            dots.find_map(|((at, _), labels)| {
                let (one_label, key) = names.below.get(&name[at + 1..])?;
                (!one_label || labels == 1).then_some(key)
            })
        };
        let named = name.and_then(|name| names.exact.get(name).or_else(|| below(name)));
        named.or(names.any.as_ref()).unwrap_or(&self.default)
    }
}

/// A Secret's certificate and key, which have to belong together.
pub(crate) fn read(secret: &Secret) -> Result<CertifiedKey, String> {
    let part = |name: &str| {
        let data = secret.data.as_ref().and_then(|data| data.get(name));
        data.map(|bytes| bytes.0.as_slice())
            .filter(|bytes| !bytes.is_empty())
            .ok_or(format!("it has no {name}"))
    };
    let (chain, key) = base::tls::identity(part("tls.crt")?, part("tls.key")?)?;
    if chain.is_empty() || chain.len() > CHAIN {
        return Err(format!("tls.crt holds {} certificates", chain.len()));
    }
    let provider = rustls::crypto::ring::default_provider();
    CertifiedKey::from_der(chain, key, &provider).map_err(|error| error.to_string())
}

/// A certificate of the proxy's own making, for names that have none.
pub(crate) fn self_signed() -> Result<CertifiedKey, String> {
    let made = rcgen::generate_simple_self_signed(vec!["ingress.knarr.local".to_owned()]);
    let rcgen::CertifiedKey { cert, signing_key } = made.map_err(|error| error.to_string())?;
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(signing_key.serialize_der()).into();
    let provider = rustls::crypto::ring::default_provider();
    CertifiedKey::from_der(vec![cert.der().clone()], key, &provider).map_err(|error| error.to_string())
}

/// Chooses on one port.
struct Resolver {
    port: u16,
    all: Arc<ArcSwap<Certificates>>,
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "certificates of port {}", self.port)
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls gives names in lower case.
        Some(self.all.load().find(self.port, hello.server_name()).clone())
    }
}

/// How TLS is spoken on a port.
pub(crate) fn server_config(
    port: u16,
    all: Arc<ArcSwap<Certificates>>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Resolver { port, all }));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = rustls::crypto::ring::Ticketer::new()?;
    Ok(Arc::new(config))
}

/// Secrets' certificates as they were read, so that each is read once.
#[derive(Default)]
pub(crate) struct Keys(HashMap<Named, (u64, Result<Arc<CertifiedKey>, String>)>);

impl Keys {
    /// The certificate of a Secret at a revision.
    pub(crate) fn of(
        &mut self,
        named: &Named,
        revision: u64,
        secret: &Secret,
    ) -> Result<Arc<CertifiedKey>, String> {
        let known = self.0.get(named).filter(|(known, _)| *known == revision);
        if let Some((_, key)) = known {
            return key.clone();
        }
        let key = read(secret).map(Arc::new);
        self.0.insert(named.clone(), (revision, key.clone()));
        key
    }

    /// Forgets those that nobody asks for.
    pub(crate) fn retain(&mut self, wanted: impl Fn(&Named) -> bool) {
        self.0.retain(|named, _| wanted(named));
    }
}
