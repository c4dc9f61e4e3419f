//! TLS towards servers: whom to trust, and what to show.

use crate::trust::Trust;
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::sync::{Arc, LazyLock};

/// Where distributions keep the authorities that everybody trusts; the first that is there counts.
const SYSTEM_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The machine's own authorities in PEM, for servers with a public certificate; empty where it has none.
pub fn system_authorities() -> Vec<u8> {
    SYSTEM_BUNDLES.iter().find_map(|path| std::fs::read(path).ok()).unwrap_or_default()
}

/// A certificate with its chain, and its key.
pub type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// A certificate with its chain, and its key, from PEM.
pub fn identity(chain: &[u8], key: &[u8]) -> Result<Identity, String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| error.to_string())?;
    Ok((chain.map_err(|error| error.to_string())?, key))
}

/// A configuration that trusts the authorities of a bundle in PEM, of which some may not be readable, or without one
/// any server; and that shows who asks.
pub fn client(trusted: Option<&[u8]>, shown: Option<Identity>) -> Result<ClientConfig, String> {
    let text = |error: Error| error.to_string();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(text)?;
    let builder = match trusted {
        Some(bundle) => {
            let mut roots = RootCertStore::empty();
            let (added, _) =
                roots.add_parsable_certificates(CertificateDer::pem_slice_iter(bundle).flatten());
            if added == 0 {
                return Err(
                    "no authority is trusted: the bundle has no certificate that can be read".to_owned()
                );
            }
            builder.with_root_certificates(roots)
        }
        None => builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate)),
    };
    match shown {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(text),
        None => Ok(builder.with_no_client_auth()),
    }
}

/// A configuration that trusts authorities which may be replaced while it is in use, and shows nothing.
pub fn client_trusting(trust: Arc<Trust>) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?.dangerous();
    Ok(builder.with_custom_certificate_verifier(trust).with_no_client_auth())
}

/// Who has no certificate to show.
pub fn shows_nothing() -> Arc<dyn ResolvesClientCert> {
    unverified().client_auth_cert_resolver.clone()
}

/// A configuration that accepts any certificate: for programs in pods, whose certificates are of their own
/// making, where the API documents that they are reached and not who they are. Nothing secret may be sent.
pub fn unverified() -> Arc<ClientConfig> {
    static CONFIG: LazyLock<Arc<ClientConfig>> =
        LazyLock::new(|| Arc::new(client(None, None).expect("nothing is read that could be wrong")));
    CONFIG.clone()
}

/// A configuration that accepts any certificate like [`unverified`], and shows what another one shows: for who asked
/// that the other end be not verified. What is shown proves who asks and cannot be used by the other end.
pub fn unverified_showing(other: &ClientConfig) -> Arc<ClientConfig> {
    let mut config = (*unverified()).clone();
    config.client_auth_cert_resolver = other.client_auth_cert_resolver.clone();
    // Sessions with those that were not verified are not taken up by who verifies, or the other way round.
    config.resumption = rustls::client::Resumption::disabled();
    Arc::new(config)
}

#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
