//! Signs what others ask for: makes certificates of PKCS#10 requests as Kubernetes' signers do.
//!
//! Certificates are put together from what the request and the authority are made of, because a subject may be
//! in several groups, and the crate that issues our own certificates knows one.

use crate::certificates::Issued;
use rcgen::{
    KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, SigningKey,
};
use ring::rand::{SecureRandom, SystemRandom};
use std::time::{Duration, SystemTime};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

/// The longest life of a certificate (kube-controller-manager's `--cluster-signing-duration`).
const LIFE: Duration = Duration::from_secs(365 * 24 * 3600);
/// No certificate is asked for that lives shorter.
const LEAST_LIFE: Duration = Duration::from_secs(600);
/// Certificates are valid from before they were made; those that live shorter than `SHORT` also end by as much
/// later.
const BACKDATE: Duration = Duration::from_secs(300);
const SHORT: Duration = Duration::from_secs(8 * 3600);

pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const OID: u8 = 0x06;
const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;

/// The bits of KeyUsage (RFC 5280, 4.2.1.3).
const KEY_USAGES: [(&str, u16); 10] = [
    ("signing", 0),
    ("digital signature", 0),
    ("content commitment", 1),
    ("key encipherment", 2),
    ("data encipherment", 3),
    ("key agreement", 4),
    ("cert sign", 5),
    ("crl sign", 6),
    ("encipher only", 7),
    ("decipher only", 8),
];
/// The object identifiers of ExtendedKeyUsage (RFC 5280, 4.2.1.12), without their tags.
const EXTENDED_USAGES: [(&str, &[u8]); 13] = [
    ("any", &[0x55, 0x1d, 0x25, 0x00]),
    ("server auth", &[0x2b, 6, 1, 5, 5, 7, 3, 1]),
    ("client auth", &[0x2b, 6, 1, 5, 5, 7, 3, 2]),
    ("code signing", &[0x2b, 6, 1, 5, 5, 7, 3, 3]),
    ("email protection", &[0x2b, 6, 1, 5, 5, 7, 3, 4]),
    ("s/mime", &[0x2b, 6, 1, 5, 5, 7, 3, 4]),
    ("ipsec end system", &[0x2b, 6, 1, 5, 5, 7, 3, 5]),
    ("ipsec tunnel", &[0x2b, 6, 1, 5, 5, 7, 3, 6]),
    ("ipsec user", &[0x2b, 6, 1, 5, 5, 7, 3, 7]),
    ("timestamping", &[0x2b, 6, 1, 5, 5, 7, 3, 8]),
    ("ocsp signing", &[0x2b, 6, 1, 5, 5, 7, 3, 9]),
    ("microsoft sgc", &[0x2b, 6, 1, 4, 1, 0x82, 0x37, 10, 3, 3]),
    ("netscape sgc", &[0x60, 0x86, 0x48, 1, 0x86, 0xf8, 0x42, 4, 1]),
];

/// A value with its tag and length (X.690).
pub(crate) fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = content.len().to_be_bytes();
    let significant = &length[length.iter().take_while(|byte| **byte == 0).count()..];
    let mut out = vec![tag];
    match content.len() {
        short @ 0..128 => out.push(u8::try_from(short).unwrap_or(u8::MAX)),
        _ => {
            out.push(0x80 | u8::try_from(significant.len()).unwrap_or(u8::MAX));
            out.extend(significant);
        }
    }
    out.extend(content);
    out
}

/// What a certificate says beside who signed it.
struct Content {
    /// Whom it names (a `Name`).
    subject: Vec<u8>,
    /// Their public key (a `SubjectPublicKeyInfo`).
    public_key: Vec<u8>,
    validity: Vec<u8>,
    extensions: Vec<u8>,
}

/// Makes a certificate of a request (PKCS#10 in DER) for these usages, as PEM without a chain.
pub(crate) fn sign(
    authority: &Issued,
    request: &[u8],
    usages: &[String],
    life_s: Option<i32>,
    now: SystemTime,
) -> Result<String, String> {
    of_request(authority, request, usages, |signer| validity(life_s, signer, now))
}

/// The same for the cluster's own certificates, which are valid from one moment to another.
pub(crate) fn sign_own(
    authority: &Issued,
    request: &[u8],
    usages: &[String],
    (from, until): (SystemTime, SystemTime),
) -> Result<String, String> {
    of_request(authority, request, usages, |signer| {
        let ends = ends_of(signer);
        if from >= ends {
            return Err("the authority has expired".to_owned());
        }
        Ok(tlv(SEQUENCE, &[&time(from)?, &time(until.min(ends))?]))
    })
}

fn of_request(
    authority: &Issued,
    request: &[u8],
    usages: &[String],
    validity: impl FnOnce(&X509Certificate<'_>) -> Result<Vec<u8>, String>,
) -> Result<String, String> {
    let (_, request) = X509CertificationRequest::from_der(request)
        .map_err(|error| format!("unable to parse certificate request: {error}"))?;
    request
        .verify_signature()
        .map_err(|error| format!("unable to verify certificate request signature: {error}"))?;
    let info = &request.certification_request_info;
    made(authority, |signer| {
        Ok(Content {
            subject: info.subject.as_raw().to_vec(),
            public_key: info.subject_pki.raw.to_vec(),
            validity: validity(signer)?,
            extensions: extensions(&request, usages, signer)?,
        })
    })
}

/// Vouches for another authority (PEM): who trusts this one trusts that one by the certificate that is made, too.
pub(crate) fn vouch(authority: &Issued, other: &str, now: SystemTime) -> Result<String, String> {
    const BACK: Duration = Duration::from_secs(24 * 3600);
    /// Key identifier, key usage, basic constraints: the last numbers of their object identifiers below 2.5.29.
    const KEPT: [u8; 3] = [14, 15, 19];
    let (_, pem) = x509_parser::pem::parse_x509_pem(other.as_bytes()).map_err(text)?;
    let (_, other) = X509Certificate::from_der(&pem.contents).map_err(text)?;
    made(authority, |signer| {
        let ends = ends_of(signer).min(ends_of(&other));
        let mut all = Vec::new();
        for one in other.extensions() {
            if let Some(number) = KEPT.into_iter().find(|number| one.oid.as_bytes() == [0x55, 0x1d, *number])
            {
                all.extend(extension(number, one.critical, one.value));
            }
        }
        all.extend(key_of_signer(signer));
        Ok(Content {
            subject: other.subject().as_raw().to_vec(),
            public_key: other.public_key().raw.to_vec(),
            validity: tlv(SEQUENCE, &[&time((now - BACK).min(ends))?, &time(ends)?]),
            extensions: tlv(0xa3, &[&tlv(SEQUENCE, &[&all])]),
        })
    })
}

/// Signs what an authority says of somebody.
fn made(
    authority: &Issued,
    content: impl FnOnce(&X509Certificate<'_>) -> Result<Content, String>,
) -> Result<String, String> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(authority.certificate.as_bytes()).map_err(text)?;
    let (_, signer) = X509Certificate::from_der(&pem.contents).map_err(text)?;
    let key = KeyPair::from_pem(&authority.key).map_err(text)?;
    let algorithm = algorithm(&key)?;
    let content = content(&signer)?;
    let body = tlv(
        SEQUENCE,
        &[
            // Version 3.
            &[0xa0, 3, 2, 1, 2],
            &serial()?,
            &algorithm,
            signer.subject().as_raw(),
            &content.validity,
            &content.subject,
            &content.public_key,
            &content.extensions,
        ],
    );
    let signature = key.sign(&body).map_err(text)?;
    let whole = tlv(SEQUENCE, &[&body, &algorithm, &tlv(BIT_STRING, &[&[0], &signature])]);
    Ok(crate::pki::pem_of("CERTIFICATE", &whole))
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// How the authority's key signs.
fn algorithm(key: &KeyPair) -> Result<Vec<u8>, String> {
    let known: [(_, &[u8], &[u8]); 4] = [
        (&PKCS_ECDSA_P256_SHA256, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2], &[]),
        (&PKCS_ECDSA_P384_SHA384, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3], &[]),
        (&PKCS_ED25519, &[0x2b, 0x65, 0x70], &[]),
        (&PKCS_RSA_SHA256, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11], &[5, 0]),
    ];
    let found = known.iter().find(|(algorithm, ..)| key.is_compatible(algorithm));
    let (_, oid, parameters) = found.ok_or("the authority's key is of an unknown kind")?;
    Ok(tlv(SEQUENCE, &[&tlv(OID, &[oid]), parameters]))
}

fn serial() -> Result<Vec<u8>, String> {
    let mut number = [0; 16];
    SystemRandom::new().fill(&mut number).map_err(|_| "no entropy".to_owned())?;
    // Positive and without leading zeros.
    number[0] = number[0] & 0x7f | 0x40;
    Ok(tlv(0x02, &[&number]))
}

fn validity(life_s: Option<i32>, signer: &X509Certificate<'_>, now: SystemTime) -> Result<Vec<u8>, String> {
    let asked = life_s.map(|life_s| Duration::from_secs(u64::try_from(life_s).unwrap_or(0)));
    let life = asked.map_or(LIFE, |asked| asked.clamp(LEAST_LIFE, LIFE));
    let ends = ends_of(signer);
    if now >= ends {
        return Err("the signer has expired".to_owned());
    }
    let until = if life < SHORT { now + life } else { now + life - BACKDATE };
    Ok(tlv(SEQUENCE, &[&time(now - BACKDATE)?, &time(until.min(ends))?]))
}

fn ends_of(certificate: &X509Certificate<'_>) -> SystemTime {
    let ends = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::from_secs(ends)
}

/// `UTCTime` until 2049 and `GeneralizedTime` from then on (RFC 5280, 4.1.2.5).
fn time(at: SystemTime) -> Result<Vec<u8>, String> {
    let at = jiff::Timestamp::try_from(at).map_err(text)?;
    let late = at >= jiff::Timestamp::from_second(2_524_608_000).map_err(text)?;
    let (tag, format) = if late { (0x18, "%Y%m%d%H%M%SZ") } else { (0x17, "%y%m%d%H%M%SZ") };
    Ok(tlv(tag, &[at.strftime(format).to_string().as_bytes()]))
}

/// An extension whose object identifier is 2.5.29 and this number.
fn extension(number: u8, critical: bool, value: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if critical { &[1, 1, 0xff] } else { &[] };
    tlv(SEQUENCE, &[&tlv(OID, &[&[0x55, 0x1d, number]]), critical, &tlv(OCTET_STRING, &[value])])
}

/// By which key it is signed.
fn key_of_signer(signer: &X509Certificate<'_>) -> Vec<u8> {
    own_key(signer).map(|key| extension(35, false, &tlv(SEQUENCE, &[&tlv(0x80, &[key])]))).unwrap_or_default()
}

fn extensions(
    request: &X509CertificationRequest<'_>,
    usages: &[String],
    signer: &X509Certificate<'_>,
) -> Result<Vec<u8>, String> {
    let (key_usage, extended_usage) = usages_of(usages)?;
    let mut all = Vec::new();
    if let Some(key_usage) = key_usage {
        all.extend(extension(15, true, &key_usage));
    }
    if let Some(extended_usage) = extended_usage {
        all.extend(extension(37, false, &extended_usage));
    }
    all.extend(extension(19, true, &[SEQUENCE, 0]));
    all.extend(key_of_signer(signer));
    let names = names(request);
    if !names.is_empty() {
        let nameless = request.certification_request_info.subject.iter().next().is_none();
        all.extend(extension(17, nameless, &tlv(SEQUENCE, &[&names])));
    }
    Ok(tlv(0xa3, &[&tlv(SEQUENCE, &[&all])]))
}

/// The value of an extension, if there is one.
type Value = Option<Vec<u8>>;

/// The values of KeyUsage and ExtendedKeyUsage.
fn usages_of(usages: &[String]) -> Result<(Value, Value), String> {
    let known = |usage: &&String| {
        !KEY_USAGES.iter().any(|(name, _)| name == usage)
            && !EXTENDED_USAGES.iter().any(|(name, _)| name == usage)
    };
    let unknown: Vec<_> = usages.iter().filter(known).collect();
    if !unknown.is_empty() {
        return Err(format!("unrecognized usage values: {unknown:?}"));
    }
    let asked = |name: &str| usages.iter().any(|usage| usage == name);
    let bits =
        KEY_USAGES.iter().filter(|(name, _)| asked(name)).fold(0_u16, |bits, (_, bit)| bits | 0x8000 >> bit);
    // The bit string ends with the last bit that is set.
    let bytes = bits.to_be_bytes();
    let used = if bytes[1] == 0 { &bytes[..1] } else { &bytes[..] };
    let unused = u8::try_from(bits.trailing_zeros() % 8).unwrap_or(0);
    let key_usage = (bits != 0).then(|| tlv(BIT_STRING, &[&[unused], used]));
    let mut purposes: Vec<Vec<u8>> = Vec::new();
    for (_, oid) in EXTENDED_USAGES.iter().filter(|(name, _)| asked(name)) {
        let purpose = tlv(OID, &[oid]);
        if !purposes.contains(&purpose) {
            purposes.push(purpose);
        }
    }
    let extended = (!purposes.is_empty()).then(|| tlv(SEQUENCE, &[&purposes.concat()]));
    Ok((key_usage, extended))
}

fn own_key<'a>(signer: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    signer.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(key) => Some(key.0),
        _ => None,
    })
}

/// The alternative names that are asked for and that a certificate may carry.
fn names(request: &X509CertificationRequest<'_>) -> Vec<u8> {
    let mut names = Vec::new();
    for extension in request.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(asked) = extension else { continue };
        for name in &asked.general_names {
            match name {
                GeneralName::RFC822Name(name) => names.extend(tlv(0x81, &[name.as_bytes()])),
                GeneralName::DNSName(name) => names.extend(tlv(0x82, &[name.as_bytes()])),
                GeneralName::URI(name) => names.extend(tlv(0x86, &[name.as_bytes()])),
                GeneralName::IPAddress(address) => names.extend(tlv(0x87, &[address])),
                _ => {}
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificates::issue_authority;
    use rcgen::{CertificateParams, DnType, DnValue, SanType};
    use x509_parser::prelude::Pem;

    fn request(groups: &[&str], san: Vec<SanType>) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name.remove(DnType::CommonName);
        params.distinguished_name.push(DnType::CommonName, "mary");
        // The crate knows one group: the second comes under the number of its type.
        let types = [DnType::OrganizationName, DnType::CustomDnType(vec![2, 5, 4, 10])];
        for (kind, group) in types.into_iter().zip(groups) {
            params.distinguished_name.push(kind, DnValue::Utf8String((*group).to_owned()));
        }
        params.subject_alt_names = san;
        let key = KeyPair::generate().unwrap();
        params.serialize_request(&key).unwrap().der().to_vec()
    }

    fn usages(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(base::clock::now().as_second().unsigned_abs())
    }

    fn show(pem: &str, authority: &Issued, now: SystemTime) -> String {
        let pem = Pem::iter_from_buffer(pem.as_bytes()).next().unwrap().unwrap();
        let certificate = pem.parse_x509().unwrap();
        let signer = Pem::iter_from_buffer(authority.certificate.as_bytes()).next().unwrap().unwrap();
        certificate.verify_signature(Some(signer.parse_x509().unwrap().public_key())).unwrap();
        let second = |at: x509_parser::time::ASN1Time| {
            at.timestamp()
                - i64::try_from(now.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()).unwrap()
        };
        let usage = certificate.key_usage().unwrap().map(|it| it.value.to_string());
        let extended = certificate.extended_key_usage().unwrap().unwrap().value;
        let names = certificate.subject_alternative_name().unwrap().map(|it| it.value.general_names.len());
        let constraints = certificate.basic_constraints().unwrap().unwrap();
        format!(
            "{} by {} from {} to {}, {:?} server {} client {}, names {names:?}, ca {} critical {}",
            certificate.subject(),
            certificate.issuer(),
            second(certificate.validity().not_before),
            second(certificate.validity().not_after),
            usage.unwrap_or_default(),
            extended.server_auth,
            extended.client_auth,
            constraints.value.ca,
            constraints.critical,
        )
    }

    #[test]
    fn certificates_say_what_was_asked_for() {
        let authority = issue_authority("ca").unwrap();
        let now = now();
        let plain = request(&["cats", "dogs"], Vec::new());
        let signed =
            sign(&authority, &plain, &usages(&["client auth", "digital signature"]), Some(3600), now)
                .unwrap();
        assert_eq!(
            show(&signed, &authority, now),
            "CN=mary, O=cats, O=dogs by CN=ca from -300 to 3600, \"Digital Signature\" server false client true, names None, \
             ca false critical true"
        );
        let named = request(
            &[],
            vec![SanType::DnsName("a.b".try_into().unwrap()), SanType::IpAddress([10, 0, 0, 1].into())],
        );
        let asked = usages(&["server auth", "signing", "key encipherment", "decipher only"]);
        let signed = sign(&authority, &named, &asked, None, now).unwrap();
        assert_eq!(
            show(&signed, &authority, now),
            "CN=mary by CN=ca from -300 to 31535700, \"Digital Signature, Key Encipherment, Decipher Only\" server true \
             client false, names Some(2), ca false critical true"
        );
    }

    #[test]
    fn lives_are_those_asked_for_within_limits() {
        let authority = issue_authority("ca").unwrap();
        let now = now();
        let ends = |life_s: Option<i32>, at: SystemTime| {
            let signed = sign(&authority, &request(&[], Vec::new()), &usages(&["client auth"]), life_s, at);
            signed.map(|pem| {
                show(&pem, &authority, now).split(' ').nth(6).unwrap().trim_end_matches(',').to_owned()
            })
        };
        assert_eq!(ends(Some(1), now).unwrap(), "600");
        assert_eq!(ends(Some(8 * 3600), now).unwrap(), "28500");
        assert_eq!(ends(Some(i32::MAX), now).unwrap(), "31535700");
        let late = now + Duration::from_secs(3650 * 24 * 3600 - 1000);
        assert_eq!(ends(None, late).unwrap(), "315360000");
        assert_eq!(ends(None, late + Duration::from_secs(2000)).unwrap_err(), "the signer has expired");
    }

    #[test]
    fn what_cannot_be_signed_is_refused() {
        let authority = issue_authority("ca").unwrap();
        let now = now();
        let plain = request(&[], Vec::new());
        let refused = sign(&authority, &plain, &usages(&["dancing"]), None, now).unwrap_err();
        assert_eq!(refused, "unrecognized usage values: [\"dancing\"]");
        let mut forged = plain.clone();
        *forged.last_mut().unwrap() ^= 1;
        let refused = sign(&authority, &forged, &usages(&["any"]), None, now).unwrap_err();
        assert!(refused.starts_with("unable to verify certificate request signature"), "{refused}");
        assert!(sign(&authority, b"no", &[], None, now).unwrap_err().starts_with("unable to parse"));
    }
}
