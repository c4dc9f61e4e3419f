//! TLS towards servers that objects name with the authorities to trust (`caBundle`), verified as Go does it.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A configuration that trusts the authorities of a bundle in PEM; of an empty one the system's.
pub(crate) fn trusting(bundle: &[u8]) -> Result<Arc<ClientConfig>, String> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder =
        builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?.dangerous();
    Ok(Arc::new(builder.with_custom_certificate_verifier(verifier(bundle)?).with_no_client_auth()))
}

/// The same that shows a certificate, over HTTP/2 where the server has it; without a bundle it trusts
/// everybody.
pub(crate) fn showing(
    shown: Arc<dyn ResolvesClientCert>,
    bundle: Option<&[u8]>,
) -> Result<ClientConfig, String> {
    let mut config = match bundle {
        Some(bundle) => ClientConfig::clone(&*trusting(bundle)?),
        None => ClientConfig::clone(&base::tls::unverified()),
    };
    config.client_auth_cert_resolver = shown;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn verifier(bundle: &[u8]) -> Result<Arc<Verifier>, String> {
    let pem = if bundle.is_empty() { base::tls::system_authorities() } else { bundle.to_vec() };
    let trusted: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&pem).flatten().collect();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(trusted.iter().cloned());
    if added == 0 {
        return Err("unable to load root certificates: unable to parse bytes as PEM block".to_owned());
    }
    let provider = Arc::new(ring::default_provider());
    let chains = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
    let chains = chains.map_err(|error| error.to_string())?;
    // Only small bundles pin certificates of servers.
    let pinned = if bundle.is_empty() { Vec::new() } else { trusted };
    Ok(Arc::new(Verifier { chains, pinned }))
}

/// Verifies chains, and takes a certificate that is in the bundle itself even if it is an authority's: what
/// `openssl req -x509` makes is both.
#[derive(Debug)]
struct Verifier {
    chains: Arc<WebPkiServerVerifier>,
    pinned: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.chains.verify_server_cert(end_entity, intermediates, name, ocsp, now) {
            Err(Error::InvalidCertificate(CertificateError::Other(_)))
                if self.pinned.contains(end_entity) =>
            {
                check_validity(end_entity, now)?;
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

fn check_validity(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let parsed = X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let validity = parsed.1.validity();
    let [not_before, not_after] = [validity.not_before, validity.not_after].map(|time| {
        UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0)))
    });
    if now > not_after {
        return Err(CertificateError::ExpiredContext { time: now, not_after }.into());
    }
    if now < not_before {
        return Err(CertificateError::NotValidYetContext { time: now, not_before }.into());
    }
    Ok(())
}

/// Why a server did not answer, in Go's words.
pub(crate) fn go_error(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let inner = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    match inner.and_then(|inner| inner.downcast_ref::<Error>()).or(cause.downcast_ref()) {
        Some(tls) => handshake_error(tls),
        None if cause.to_string().contains("closed before message completed") => "EOF".to_owned(),
        None => cause.to_string(),
    }
}

/// A failed handshake in Go's words.
fn handshake_error(error: &Error) -> String {
    let Error::InvalidCertificate(why) = error else { return format!("tls: {error}") };
    let why = match why {
        CertificateError::ExpiredContext { time, not_after } => outside(*time, "after", *not_after),
        CertificateError::NotValidYetContext { time, not_before } => outside(*time, "before", *not_before),
        CertificateError::UnknownIssuer | CertificateError::BadSignature | CertificateError::Other(_) => {
            "certificate signed by unknown authority".to_owned()
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            let (kind, wanted) = match expected {
                ServerName::IpAddress(_) => ("IpAddress", expected.to_str()),
                _ => ("DnsName", expected.to_str()),
            };
            let own = presented.iter().filter_map(|name| name.strip_prefix(kind));
            let own: Vec<&str> = own.map(|name| name.trim_matches(['(', ')', '"'])).collect();
            match (own.as_slice(), kind) {
                ([], "DnsName") => {
                    format!("certificate is not valid for any names, but wanted to match {wanted}")
                }
                ([], _) => {
                    format!("cannot validate certificate for {wanted} because it doesn't contain any IP SANs")
                }
                (own, _) => format!("certificate is valid for {}, not {wanted}", own.join(", ")),
            }
        }
        other => other.to_string(),
    };
    format!("tls: failed to verify certificate: x509: {why}")
}

fn outside(now: UnixTime, side: &str, end: UnixTime) -> String {
    let [now, end] = [now, end].map(|time| {
        let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX)
    });
    format!("certificate has expired or is not yet valid: current time {now} is {side} {end}")
}
