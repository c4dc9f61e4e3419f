//! Client certificates: the common name is the user, organisations are the groups (RFC 5280 subjects,
//! as Kubernetes reads them).

use super::User;
use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use std::sync::Arc;
use std::time::Duration;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Verifies client certificates against the cluster's authorities.
pub(crate) struct CertificateAuthenticator(Arc<dyn ClientCertVerifier>);

impl CertificateAuthenticator {
    pub(crate) fn new(authorities: &[CertificateDer<'static>]) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots.add(authority.clone()).map_err(|error| error.to_string())?;
        }
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
        Ok(Self(verifier.map_err(|error| error.to_string())?))
    }

    /// The user whom the chain's first certificate names, if the chain is good now.
    pub(crate) fn authenticate(&self, chain: &[CertificateDer<'static>]) -> Option<User> {
        let (own, intermediates) = chain.split_first()?;
        let now = UnixTime::since_unix_epoch(Duration::from_secs(
            u64::try_from(base::clock::now().as_second()).ok()?,
        ));
        if let Err(error) = self.0.verify_client_cert(own, intermediates, now) {
            tracing::debug!(%error, "a client certificate is not trusted");
            return None;
        }
        let (_, certificate) = X509Certificate::from_der(own).ok()?;
        let subject = certificate.subject();
        let name = subject.iter_common_name().next()?.as_str().ok()?;
        let groups: Vec<&str> = subject.iter_organization().filter_map(|group| group.as_str().ok()).collect();
        Some(User::new(name, &groups))
    }
}
