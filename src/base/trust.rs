//! Whom to trust, exchanged under configurations in use: authorities change while connections are made.

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

#[derive(Clone, Debug)]
struct Verifiers {
    servers: Arc<WebPkiServerVerifier>,
    clients: Arc<dyn ClientCertVerifier>,
}

impl Verifiers {
    fn of(anchors: &[CertificateDer<'_>]) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for anchor in anchors {
            roots.add(anchor.clone().into_owned()).map_err(|error| error.to_string())?;
        }
        let (roots, provider) = (Arc::new(roots), Arc::new(ring::default_provider()));
        let servers = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone()).build();
        let clients = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
        Ok(Self {
            servers: servers.map_err(|error| error.to_string())?,
            clients: clients.map_err(|error| error.to_string())?,
        })
    }
}

/// Authorities that servers or clients are verified by. Clients that show nothing are let in as nobody.
#[derive(Debug)]
pub struct Trust {
    verifiers: RwLock<Verifiers>,
    changes: AtomicU64,
}

impl Trust {
    /// Trusts these alone.
    pub fn new(anchors: &[CertificateDer<'_>]) -> Result<Self, String> {
        Ok(Self { verifiers: RwLock::new(Verifiers::of(anchors)?), changes: AtomicU64::new(0) })
    }

    /// Trusts these alone from now on.
    pub fn replace(&self, anchors: &[CertificateDer<'_>]) -> Result<(), String> {
        *self.verifiers.write().unwrap_or_else(PoisonError::into_inner) = Verifiers::of(anchors)?;
        self.changes.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// How often others were trusted: what was verified before may not be good any more.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    fn now(&self) -> Verifiers {
        self.verifiers.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.now().servers.verify_server_cert(end_entity, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ServerCertVerifier::verify_tls12_signature(&*self.now().servers, message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ServerCertVerifier::verify_tls13_signature(&*self.now().servers, message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ServerCertVerifier::supported_verify_schemes(&*self.now().servers)
    }
}

impl ClientCertVerifier for Trust {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// No hints: clients have one certificate, and hints could not be exchanged.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.now().clients.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.now().clients.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.now().clients.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.now().clients.supported_verify_schemes()
    }
}
