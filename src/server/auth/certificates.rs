//! Client certificates: the common name is the user, organisations are the groups (RFC 5280 subjects,
//! as Kubernetes reads them).

use super::User;
use base::trust::Trust;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use x509_parser::prelude::{FromDer, X509Certificate};

/// What tells a user's certificate or token from another one.
pub(super) const CREDENTIAL: &str = "authentication.kubernetes.io/credential-id";

/// The certificates that a client showed when it connected, its own first, and whom they name once that
/// was verified: a signature costs more than most requests.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    chain: Vec<CertificateDer<'static>>,
    known: Mutex<Option<Known>>,
}

#[derive(Clone, Debug)]
struct Known {
    user: User,
    /// When the first certificate of the chain ends, in seconds since the epoch.
    until_s: i64,
    /// By which authorities it was verified.
    by: u64,
}

impl Shown {
    pub(crate) fn new(chain: Vec<CertificateDer<'static>>) -> Self {
        Self { chain, known: Mutex::default() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.chain.is_empty()
    }
}

/// Verifies client certificates against the cluster's authorities, whichever those are.
pub(crate) struct CertificateAuthenticator(Arc<Trust>);

impl CertificateAuthenticator {
    pub(crate) fn new(authorities: Arc<Trust>) -> Self {
        Self(authorities)
    }

    /// The user whom the client's first certificate names, if its chain is good now.
    pub(crate) fn authenticate(&self, shown: &Shown) -> Option<User> {
        let now = base::clock::now().as_second();
        let mut known = shown.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref().is_none_or(|known| known.by != self.0.changes()) {
            *known = self.verify(&shown.chain, now);
        }
        known.as_ref().filter(|known| now <= known.until_s).map(|known| known.user.clone())
    }

    fn verify(&self, chain: &[CertificateDer<'static>], now_s: i64) -> Option<Known> {
        let (own, intermediates) = chain.split_first()?;
        let by = self.0.changes();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now_s).ok()?));
        if let Err(error) = self.0.verify_client_cert(own, intermediates, now) {
            tracing::debug!(%error, "a client certificate is not trusted");
            return None;
        }
        let ends = |certificate: &CertificateDer<'_>| {
            let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
            Some(certificate.validity().not_after.timestamp())
        };
        let until_s = chain.iter().map(ends).min().flatten()?;
        let (_, certificate) = X509Certificate::from_der(own).ok()?;
        let subject = certificate.subject();
        let name = subject.iter_common_name().next()?.as_str().ok()?;
        let groups: Vec<&str> = subject.iter_organization().filter_map(|group| group.as_str().ok()).collect();
        let extra = vec![(CREDENTIAL.to_owned(), vec![format!("X509SHA256={}", base::hex::sha256(own))])];
        Some(Known { user: User { extra, ..User::new(name, &groups) }, until_s, by })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

    fn authority() -> CertifiedIssuer<'static, KeyPair> {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap()
    }

    fn shown(authority: &CertifiedIssuer<'static, KeyPair>) -> Shown {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, "jane");
        parameters.distinguished_name.push(DnType::OrganizationName, "dev");
        let certificate = parameters.signed_by(&KeyPair::generate().unwrap(), authority).unwrap();
        Shown::new(vec![certificate.der().clone()])
    }

    #[test]
    fn a_certificate_is_verified_once_and_ends_all_the_same() {
        let (own, foreign) = (authority(), authority());
        let trust = Arc::new(Trust::new(std::slice::from_ref(own.der())).unwrap());
        let authenticator = CertificateAuthenticator::new(trust.clone());
        assert_eq!(authenticator.authenticate(&shown(&foreign)), None);
        let client = shown(&own);
        let user = authenticator.authenticate(&client).unwrap();
        assert_eq!((user.name.as_str(), user.is_in("dev")), ("jane", true));
        // Other authorities are asked at once, and so are those of before when they are back.
        trust.replace(std::slice::from_ref(foreign.der())).unwrap();
        assert_eq!(authenticator.authenticate(&client), None);
        trust.replace(&[own.der().clone(), foreign.der().clone()]).unwrap();
        assert!(authenticator.authenticate(&client).is_some());
        client.known.lock().unwrap().as_mut().unwrap().until_s = base::clock::now().as_second() - 1;
        assert_eq!(authenticator.authenticate(&client), None);
    }
}
