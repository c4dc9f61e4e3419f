//! Keys and certificates that charts make for their own webhooks. Certificates are of elliptic curves.

use super::{Answer, fixed, int, strings_of, text};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, SanType,
};
use std::net::IpAddr;
use std::time::{Duration, SystemTime};
use template::{Failure, Function, Value, sprint};

pub(super) const FUNCTIONS: &[(&str, Function)] = &[
    ("genPrivateKey", fixed(1, |_, a| gen_private_key(&text(a, 0)?))),
    ("genCA", fixed(2, |_, a| authority(a, &new_key()?))),
    ("genCAWithKey", fixed(3, |_, a| authority(a, &given_key(&text(a, 2)?)?))),
    ("genSelfSignedCert", fixed(4, |_, a| leaf(a, None, &new_key()?))),
    ("genSelfSignedCertWithKey", fixed(5, |_, a| leaf(a, None, &given_key(&text(a, 4)?)?))),
    ("genSignedCert", fixed(5, |_, a| leaf(a, Some(&a[4]), &new_key()?))),
    ("genSignedCertWithKey", fixed(6, |_, a| leaf(a, Some(&a[4]), &given_key(&text(a, 5)?)?))),
    ("buildCustomCert", fixed(2, |_, a| custom(&text(a, 0)?, &text(a, 1)?))),
];

/// How long RSA keys are (Sprig's length).
const RSA_BITS: usize = 4096;

fn failed(error: rcgen::Error) -> Failure {
    Failure::Said(format!("error creating certificate: {error}"))
}

fn new_key() -> Result<KeyPair, Failure> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)
}

fn given_key(pem: &str) -> Result<KeyPair, Failure> {
    KeyPair::from_pem(pem).map_err(|error| Failure::Said(format!("parsing private key: {error}")))
}

fn gen_private_key(kind: &str) -> Answer {
    let key = match kind {
        "ecdsa" => new_key()?,
        "ed25519" => KeyPair::generate_for(&PKCS_ED25519).map_err(failed)?,
        "rsa" | "" => return Ok(Value::text(super::rsa::private_key(RSA_BITS))),
        "dsa" => return Err("genPrivateKey makes no \"dsa\" keys: nobody takes them any more".into()),
        _ => return Err(format!("Unknown type {kind}").into()),
    };
    Ok(Value::text(key.serialize_pem()))
}

fn pair(certificate: &str, key: &str) -> Value {
    Value::map([("Cert", Value::text(certificate)), ("Key", Value::text(key))])
}

/// What every certificate has: a common name, and how many days it lives.
fn params(args: &[Value], days: usize) -> Result<CertificateParams, Failure> {
    let (name, days) = (text(args, 0)?, int(args, days)?);
    let mut params = CertificateParams::default();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, &*name);
    let now: SystemTime = base::clock::now().into();
    let life = Duration::from_secs(u64::try_from(days).unwrap_or(0).min(36_500) * 24 * 3600);
    params.not_before = now.into();
    params.not_after = (now + life).into();
    Ok(params)
}

fn authority(args: &[Value], key: &KeyPair) -> Answer {
    let mut params = params(args, 1)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
        KeyUsagePurpose::KeyCertSign,
    ];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.self_signed(key).map_err(failed)?;
    Ok(pair(&certificate.pem(), &key.serialize_pem()))
}

fn leaf(args: &[Value], by: Option<&Value>, key: &KeyPair) -> Answer {
    let mut params = params(args, 3)?;
    for address in strings_of(&args[1]) {
        let parsed: IpAddr =
            address.parse().map_err(|_| Failure::Said(format!("unable to parse IP {address}")))?;
        params.subject_alt_names.push(SanType::IpAddress(parsed));
    }
    for name in strings_of(&args[2]) {
        let name = (&*name).try_into().map_err(failed)?;
        params.subject_alt_names.push(SanType::DnsName(name));
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = match by {
        None => params.self_signed(key).map_err(failed)?,
        Some(by) => {
            let part = |name: &str| match by {
                Value::Map(map) => map.get(name).map(|part| sprint(&part)).unwrap_or_default(),
                _ => String::new(),
            };
            let issuer = Issuer::from_ca_cert_pem(&part("Cert"), given_key(&part("Key"))?).map_err(failed)?;
            params.use_authority_key_identifier_extension = true;
            params.signed_by(key, &issuer).map_err(failed)?
        }
    };
    Ok(pair(&certificate.pem(), &key.serialize_pem()))
}

fn custom(certificate: &str, key: &str) -> Answer {
    let read = |what: &str, text: &str| {
        let bytes = STANDARD.decode(text).map_err(|_| format!("unable to decode base64 {what}"))?;
        String::from_utf8(bytes).map_err(|_| format!("{what} is no PEM"))
    };
    Ok(pair(&read("certificate", certificate)?, &read("private key", key)?))
}
