//! Issues certificates, and judges whether one that is there will still do.

use crate::{Error, signing};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType,
};
use std::net::IpAddr;
use std::time::{Duration, SystemTime};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long authorities live.
const AUTHORITY_LIFE: Duration = DAY.saturating_mul(3650);
/// How long other certificates live.
pub(crate) const LEAF_LIFE: Duration = DAY.saturating_mul(365);
/// A certificate with less left is renewed: time enough to notice where renewing fails.
pub(crate) const RENEWAL: Duration = DAY.saturating_mul(120);
/// Authorities are valid from before they were made, because small machines' clocks go back.
const CLOCK_SLACK: Duration = DAY;

/// What a certificate proves, and to whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Subject {
    /// The common name: to the API server, the user.
    pub(crate) name: String,
    /// The organisation: to the API server, the group.
    pub(crate) group: Option<String>,
    /// The names and addresses it is shown under; none for clients.
    pub(crate) alternatives: Vec<String>,
}

/// A certificate and its key, as PEM.
#[derive(Clone)]
pub(crate) struct Issued {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

pub(crate) fn wall_clock() -> SystemTime {
    base::clock::now().into()
}

fn key() -> Result<KeyPair, rcgen::Error> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
}

/// A new authority.
pub(crate) fn issue_authority(name: &str) -> Result<Issued, rcgen::Error> {
    let key = key()?;
    let mut params = CertificateParams::default();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = (wall_clock() - CLOCK_SLACK).into();
    params.not_after = (wall_clock() + AUTHORITY_LIFE).into();
    let certificate = params.self_signed(&key)?;
    Ok(Issued { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// A new certificate by this authority. What else others need to trust it is not part of it.
pub(crate) fn issue(subject: &Subject, authority: &Issued) -> Result<Issued, String> {
    let (request, key) = request(subject).map_err(|error| error.to_string())?;
    let (_, request) =
        x509_parser::pem::parse_x509_pem(request.as_bytes()).map_err(|error| error.to_string())?;
    let purpose = if subject.alternatives.is_empty() { "client auth" } else { "server auth" };
    let usages = ["digital signature", purpose].map(str::to_owned);
    let validity = (wall_clock() - CLOCK_SLACK, wall_clock() + LEAF_LIFE);
    let certificate = signing::sign_own(authority, &request.contents, &usages, validity)?;
    Ok(Issued { certificate, key })
}

fn params(subject: &Subject) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, subject.name.as_str());
    if let Some(group) = &subject.group {
        params.distinguished_name.push(DnType::OrganizationName, group.as_str());
    }
    for name in &subject.alternatives {
        params.subject_alt_names.push(match name.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(name.as_str().try_into()?),
        });
    }
    let serving = !subject.alternatives.is_empty();
    params.extended_key_usages =
        vec![if serving { ExtendedKeyUsagePurpose::ServerAuth } else { ExtendedKeyUsagePurpose::ClientAuth }];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params.not_before = (wall_clock() - CLOCK_SLACK).into();
    params.not_after = (wall_clock() + LEAF_LIFE).into();
    Ok(params)
}

/// A key, and a request for a certificate of it (PKCS#10), both as PEM.
pub(crate) fn request(subject: &Subject) -> Result<(String, String), rcgen::Error> {
    let key = key()?;
    let mut wanted = CertificateParams::default();
    let full = params(subject)?;
    wanted.distinguished_name = full.distinguished_name;
    wanted.subject_alt_names = full.subject_alt_names;
    Ok((wanted.serialize_request(&key)?.pem()?, key.serialize_pem()))
}

/// A certificate that nobody vouches for.
pub(crate) fn issue_to_itself(subject: &Subject) -> Result<Issued, rcgen::Error> {
    let key = key()?;
    let mut params = params(subject)?;
    params.use_authority_key_identifier_extension = false;
    Ok(Issued { certificate: params.self_signed(&key)?.pem(), key: key.serialize_pem() })
}

/// Why a certificate that is there has to be issued again, or none if it will do.
pub(crate) fn stale(present: &Issued, subject: &Subject, authority: &str) -> Option<&'static str> {
    let Ok(issuer) = Facts::of(authority) else { return Some("its authority cannot be read") };
    let facts = match Facts::of_pair(present) {
        Ok(facts) => facts,
        Err(why) => return Some(why),
    };
    let mut wanted: Vec<String> = subject.alternatives.iter().map(|name| name.to_lowercase()).collect();
    wanted.sort();
    wanted.dedup();
    if !is_signed_by(&present.certificate, authority) {
        return Some("the authority changed");
    }
    if facts.names != wanted || facts.subject != subject.name {
        return Some("its names changed");
    }
    if facts.begins > wall_clock() {
        return Some("it is not valid yet: the clock went back");
    }
    // A new one would not live longer than the authority.
    let could_live = issuer.expires > facts.expires;
    (facts.expires < wall_clock() + RENEWAL && could_live).then_some("it expires soon")
}

/// Whether the first certificate of a PEM text is signed by the first of another.
fn is_signed_by(pem: &str, authority: &str) -> bool {
    let first = |pem: &str| Some(x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?.1);
    let (Some(own), Some(signer)) = (first(pem), first(authority)) else { return false };
    let (Ok(own), Ok(signer)) = (own.parse_x509(), signer.parse_x509()) else { return false };
    own.verify_signature(Some(signer.public_key())).is_ok()
}

/// Why a certificate that is there proves nothing of a subject, at any time.
pub(crate) fn unusable(present: &Issued, subject: &Subject) -> Option<&'static str> {
    match Facts::of_pair(present) {
        Err(why) => Some(why),
        Ok(facts) => (facts.subject != subject.name).then_some("it is another node's"),
    }
}

/// Why a certificate proves nothing at this time.
pub(crate) fn lapsed(present: &Issued) -> Option<&'static str> {
    let facts = Facts::of(&present.certificate).ok()?;
    if facts.begins > wall_clock() {
        return Some("it is not valid yet: the clock went back");
    }
    (facts.expires <= wall_clock()).then_some("it has expired")
}

/// Whom a certificate names, and when it ends.
pub(crate) fn named(pem: &str) -> Result<(String, SystemTime), String> {
    Facts::of(pem).map(|facts| (facts.subject, facts.expires))
}

/// What is compared.
struct Facts {
    subject: String,
    names: Vec<String>,
    begins: SystemTime,
    expires: SystemTime,
    public_key: Vec<u8>,
}

impl Facts {
    /// Of a certificate that is there with its key.
    fn of_pair(present: &Issued) -> Result<Self, &'static str> {
        let facts = Self::of(&present.certificate).map_err(|_| "it cannot be read")?;
        let key = KeyPair::from_pem(&present.key).map_err(|_| "its key cannot be read")?;
        if key.public_key_raw() == facts.public_key { Ok(facts) } else { Err("its key is another one") }
    }

    /// Of the first certificate of a PEM text.
    fn of(pem: &str) -> Result<Self, String> {
        let (_, block) =
            x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|error| error.to_string())?;
        let (_, certificate) =
            X509Certificate::from_der(&block.contents).map_err(|error| error.to_string())?;
        let at = |time: x509_parser::time::ASN1Time| {
            SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
        };
        let mut facts = Self {
            subject: certificate
                .subject()
                .iter_common_name()
                .next()
                .and_then(|name| name.as_str().ok())
                .unwrap_or_default()
                .to_owned(),
            names: Vec::new(),
            begins: at(certificate.validity().not_before),
            expires: at(certificate.validity().not_after),
            public_key: certificate.public_key().subject_public_key.data.to_vec(),
        };
        for extension in certificate.extensions() {
            if let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() {
                facts.names.extend(names.general_names.iter().filter_map(name_of));
            }
        }
        facts.names.sort();
        facts.names.dedup();
        Ok(facts)
    }
}

fn name_of(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(name.to_lowercase()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => Some(IpAddr::from(<[u8; 4]>::try_from(*bytes).ok()?).to_string()),
            16 => Some(IpAddr::from(<[u8; 16]>::try_from(*bytes).ok()?).to_string()),
            _ => None,
        },
        _ => None,
    }
}

/// Refuses names that no certificate can carry, before anything is made.
pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'*'))
    };
    if name.parse::<IpAddr>().is_ok() || (name.len() <= 253 && name.split('.').all(label)) {
        return Ok(());
    }
    Err(Error::Setting(format!("{name:?} is neither a DNS name nor an address (--tls-san)")))
}
