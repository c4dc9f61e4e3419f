//! Which certificate is shown to whom: by the name a client asks for (SNI), from Secrets, swapped whole.

use crate::plan::{Named, Shown};
use crate::table::HostMap;
use api::core::Secret;
use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::collections::HashMap;
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

/// The longest chain that is taken.
const CHAIN: usize = 16;

/// All certificates. The first one for a name counts.
pub(crate) struct Certificates {
    ports: HashMap<u16, HostMap<Arc<CertifiedKey>>>,
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
        self.ports.entry(shown.port).or_default().entry(&shown.host, || key.clone());
    }

    fn find(&self, port: u16, name: Option<&str>) -> &Arc<CertifiedKey> {
        self.ports.get(&port).and_then(|names| names.find(name)).unwrap_or(&self.default)
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
pub(crate) struct Tls {
    /// With HTTP within.
    pub(crate) http: TlsAcceptor,
    /// With whatever client and endpoint agree on.
    pub(crate) any: TlsAcceptor,
}

impl Tls {
    pub(crate) fn new(port: u16, all: Arc<ArcSwap<Certificates>>) -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut any = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Resolver { port, all }));
        any.ticketer = rustls::crypto::ring::Ticketer::new()?;
        let mut http = any.clone();
        http.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { http: Arc::new(http).into(), any: Arc::new(any).into() })
    }
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
