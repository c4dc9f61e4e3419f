//! Requests of pods for certificates (KEP-4317).

use super::certificates::signer_name;
use super::{PLAIN, Strategy, items};
use api::validate::{At, Error, dns_subdomain, qualified_name};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use serde_json::Value;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo, X509Certificate};

/// Kubernetes' limits.
const MOST_UID_BYTES: usize = 128;
const MOST_KEY_BYTES: usize = 10 * 1024;
const MOST_CHAIN_BYTES: usize = 100 * 1024;
const HOUR_S: i64 = 3600;
const DAY_S: i64 = 24 * HOUR_S;
const LONGEST_S: i64 = 91 * DAY_S;
/// How far a certificate's beginning may be from now, and its renewal from both of its ends.
const NEAR_S: i64 = 5 * 60;
const MARGIN_S: i64 = 10 * 60;

pub(super) const REQUEST: Strategy = Strategy {
    default: |request| {
        if let Some(spec) = request.get_mut("spec") {
            super::default(spec, "maxExpirationSeconds", DAY_S);
        }
    },
    validate_new: |request| {
        let spec = request.get("spec");
        names(&spec);
        if lifetime(&spec) {
            keys(&spec);
        }
    },
    validate_update: |new, old| {
        new.get("spec").unchanged_type(&old["spec"], "api.certificates.v1beta1.PodCertificateRequestSpec")
    },
    validate_status: |new, old| {
        let before = new.errors();
        conditions(&new.get("status.conditions"));
        if new.errors() == before {
            outcome(new, old);
        }
    },
    ..PLAIN
};

fn names(spec: &At) {
    signer_name(&spec.get("signerName"));
    let annotations = spec.get("unverifiedUserAnnotations");
    annotations.entries(|key, _| {
        for problem in qualified_name(&key.to_ascii_lowercase()) {
            annotations.invalid_as(key, problem);
        }
    });
    for (name, uid) in
        [("podName", "podUID"), ("serviceAccountName", "serviceAccountUID"), ("nodeName", "nodeUID")]
    {
        spec.get(name).named(dns_subdomain);
        let uid = spec.get(uid);
        if uid.empty() {
            uid.invalid_as("", "must not be empty");
        }
        uid.no_longer_than(MOST_UID_BYTES);
    }
}

fn lifetime(spec: &At) -> bool {
    let lifetime = spec.get("maxExpirationSeconds");
    if !lifetime.present() {
        lifetime.required("must be set");
        return false;
    }
    let domain = spec.get("signerName").text().split('/').next().unwrap_or_default();
    let own = domain == "kubernetes.io" || domain.ends_with(".kubernetes.io");
    let most = if own { DAY_S } else { LONGEST_S };
    if !(HOUR_S..=most).contains(&lifetime.int()) {
        lifetime.invalid(format!("must be in the range [{HOUR_S}, {most}]"));
    }
    true
}

fn bytes(at: &At) -> Vec<u8> {
    STANDARD.decode(at.text()).unwrap_or_default()
}

fn keys(spec: &At) {
    let (stub, key, proof) =
        (spec.get("stubPKCS10Request"), spec.get("pkixPublicKey"), spec.get("proofOfPossession"));
    match (stub.empty(), key.empty(), proof.empty()) {
        (false, true, true) => stub_request(&stub),
        (true, false, false) => bare_key(&key, &proof, spec.get("podUID").text()),
        _ => {
            spec.wrong("exactly one of (stubPKCS10Request) or (pkixPublicKey, proofOfPossession) must be set")
        }
    }
}

/// What is wrong with a key: what to show of it, if anything, and why.
fn key_problem(key: &SubjectPublicKeyInfo) -> Option<(Option<String>, &'static str)> {
    match key.algorithm.algorithm.to_id_string().as_str() {
        "1.3.101.112" => None,
        "1.2.840.10045.2.1" => {
            let curve = key.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
            let curve = curve.map(|curve| curve.to_id_string()).unwrap_or_default();
            let known = matches!(curve.as_str(), "1.2.840.10045.3.1.7" | "1.3.132.0.34" | "1.3.132.0.35");
            let why = "elliptic public keys must use curve P256, P384, or P521";
            (!known).then(|| (Some("curve P-224".to_owned()), why))
        }
        "1.2.840.113549.1.1.1" => {
            let bits = key.parsed().map_or(0, |key| key.key_size());
            let why = "RSA keys must have modulus size 3072 or 4096";
            (!matches!(bits, 3072 | 4096)).then(|| (Some(format!("{bits}-bit modulus")), why))
        }
        _ => Some((None, "unknown public key type; supported types are Ed25519, ECDSA, and RSA")),
    }
}

fn tell(at: &At, (shown, why): (Option<String>, &str)) {
    match shown {
        Some(shown) => at.invalid_as(shown, why),
        None => at.wrong(why),
    }
}

/// The algorithm of a request's own signature.
fn algorithm(request: &X509CertificationRequest) -> Option<&'static dyn VerificationAlgorithm> {
    let key = &request.certification_request_info.subject_pki;
    let curve = key.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
    let p384 = curve.is_some_and(|curve| curve.to_id_string() == "1.3.132.0.34");
    Some(match request.signature_algorithm.algorithm.to_id_string().as_str() {
        "1.3.101.112" => &signature::ED25519,
        "1.2.840.10045.4.3.2" if p384 => &signature::ECDSA_P384_SHA256_ASN1,
        "1.2.840.10045.4.3.2" => &signature::ECDSA_P256_SHA256_ASN1,
        "1.2.840.10045.4.3.3" if p384 => &signature::ECDSA_P384_SHA384_ASN1,
        "1.2.840.10045.4.3.3" => &signature::ECDSA_P256_SHA384_ASN1,
        "1.2.840.113549.1.1.11" => &signature::RSA_PKCS1_2048_8192_SHA256,
        "1.2.840.113549.1.1.12" => &signature::RSA_PKCS1_2048_8192_SHA384,
        "1.2.840.113549.1.1.13" => &signature::RSA_PKCS1_2048_8192_SHA512,
        _ => return None,
    })
}

fn stub_request(at: &At) {
    let der = bytes(at);
    if der.len() > MOST_KEY_BYTES {
        return at.report(|path| Error::too_long(path, MOST_KEY_BYTES));
    }
    let Ok((_, request)) = X509CertificationRequest::from_der(&der) else {
        return at.wrong("must be a valid PKCS#10 CSR");
    };
    let info = &request.certification_request_info;
    if let Some(problem) = key_problem(&info.subject_pki) {
        return tell(at, problem);
    }
    let key = &info.subject_pki.subject_public_key.data;
    let signed = algorithm(&request).is_some_and(|algorithm| {
        UnparsedPublicKey::new(algorithm, key).verify(info.raw, &request.signature_value.data).is_ok()
    });
    if !signed {
        at.wrong("invalid signature");
    }
}

fn bare_key(at: &At, proof: &At, pod_uid: &str) {
    for part in [at, proof] {
        if bytes(part).len() > MOST_KEY_BYTES {
            return part.report(|path| Error::too_long(path, MOST_KEY_BYTES));
        }
    }
    let der = bytes(at);
    let Ok((_, key)) = SubjectPublicKeyInfo::from_der(&der) else {
        return at.invalid("must be a valid PKIX-serialized public key");
    };
    if let Some(problem) = key_problem(&key) {
        return tell(at, problem);
    }
    let curve = key.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
    let algorithm: &dyn VerificationAlgorithm = match key.algorithm.algorithm.to_id_string().as_str() {
        "1.3.101.112" => &signature::ED25519,
        "1.2.840.113549.1.1.1" => &signature::RSA_PSS_2048_8192_SHA256,
        _ if curve.is_some_and(|curve| curve.to_id_string() == "1.3.132.0.34") => {
            &signature::ECDSA_P384_SHA256_ASN1
        }
        _ => &signature::ECDSA_P256_SHA256_ASN1,
    };
    let own = UnparsedPublicKey::new(algorithm, &key.subject_public_key.data);
    if own.verify(pod_uid.as_bytes(), &bytes(proof)).is_err() {
        proof.wrong("could not verify proof-of-possession signature");
    }
}

const KINDS: [&str; 3] = ["Issued", "Denied", "Failed"];

fn conditions(list: &At) {
    let mut known = 0;
    for (index, condition) in list.items().iter().enumerate() {
        let place = format!("[{index}]");
        // Kubernetes writes a dot before the index here.
        let at = list.view(&place, condition);
        let (kind, status) = (at.get("type"), at.get("status"));
        if !KINDS.contains(&kind.text()) {
            kind.one_of(&KINDS);
            continue;
        }
        known += 1;
        if known > 1 {
            kind.invalid(
                "There may be at most one condition with type \"Issued\", \"Denied\", or \"Failed\"",
            );
        }
        if !status.is("True") {
            status.one_of(&["True"]);
        }
    }
    api::validate::conditions(list);
}

fn has(object: &Value, kind: &str) -> bool {
    items(&object["status"], "conditions").iter().any(|one| one["type"] == kind && one["status"] == "True")
}

fn outcome(new: &At, old: &Value) {
    let status = new.get("status");
    let same = *status.value() == old["status"];
    let mut rest = status.value().clone();
    rest.as_object_mut().and_then(|fields| fields.remove("conditions"));
    let empty = rest.as_object().is_none_or(serde_json::Map::is_empty);
    if KINDS.iter().any(|kind| has(old, kind)) {
        if !same {
            status.wrong("immutable after PodCertificateRequest is issued, denied, or failed");
        }
    } else if has(new.value(), "Denied") || has(new.value(), "Failed") {
        if !empty {
            status.wrong(
                "non-condition status fields must be empty when denying or failing the PodCertificateRequest",
            );
        }
    } else if has(new.value(), "Issued") {
        issued(&status, new);
    } else if !same {
        status.wrong("status is immutable unless transitioning to \"Issued\", \"Denied\", or \"Failed\"");
    }
}

fn issued(status: &At, new: &At) {
    let chain = status.get("certificateChain");
    if chain.text().len() > MOST_CHAIN_BYTES {
        return chain.report(|path| Error::too_long(path, MOST_CHAIN_BYTES));
    }
    let told = |why: &str| chain.invalid_as(chain.text(), why);
    let blocks: Vec<Pem> = Pem::iter_from_buffer(chain.text().as_bytes()).flatten().collect();
    let Some(leaf) = blocks.first() else {
        return told("issued certificate chain must contain at least one certificate");
    };
    if leaf.label != "CERTIFICATE" {
        return told("issued certificate chain must consist entirely of CERTIFICATE PEM blocks");
    }
    let Ok((_, certificate)) = X509Certificate::from_der(&leaf.contents) else {
        return told("leaf certificate does not parse as valid X.509");
    };
    if wanted_key(&new.get("spec")).is_none_or(|key| key != certificate.public_key().raw) {
        return told("leaf certificate was not issued to the requested public key");
    }
    let before = status.errors();
    times(status, &certificate, new.get("spec.maxExpirationSeconds").int());
    if status.errors() != before {
        return;
    }
    for block in &blocks[1..] {
        if block.label != "CERTIFICATE" {
            return told("issued certificate chain must consist entirely of CERTFICATE PEM blocks");
        }
        if X509Certificate::from_der(&block.contents).is_err() {
            return told("intermediate certificate does not parse as valid X.509");
        }
    }
}

/// The key that was asked for, as DER.
fn wanted_key(spec: &At) -> Option<Vec<u8>> {
    let stub = spec.get("stubPKCS10Request");
    if stub.empty() {
        return Some(bytes(&spec.get("pkixPublicKey")));
    }
    let der = bytes(&stub);
    let (_, request) = X509CertificationRequest::from_der(&der).ok()?;
    Some(request.certification_request_info.subject_pki.raw.to_vec())
}

fn seconds(at: &At) -> Option<i64> {
    at.text().parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_second)
}

fn times(status: &At, certificate: &X509Certificate, most_s: i64) {
    let (from, to, renewal) = (status.get("notBefore"), status.get("notAfter"), status.get("beginRefreshAt"));
    let consistent = "must be present and consistent with the issued certificate";
    let parsed = (seconds(&from), seconds(&to), seconds(&renewal));
    if parsed.0.is_none() {
        from.required(consistent);
    }
    if parsed.1.is_none() {
        to.required(consistent);
    }
    if parsed.2.is_none() {
        renewal.required("must be present and in the range [notbefore+10min, notafter-10min]");
    }
    let (Some(begins), Some(ends), Some(renewed)) = parsed else { return };
    let validity = certificate.validity();
    let (not_before, not_after) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    if begins != not_before {
        return from.invalid("must be set to the NotBefore time encoded in the leaf certificate");
    }
    if (begins - base::clock::now().as_second()).abs() > NEAR_S {
        return from.invalid("must be set to within 5 minutes of kube-apiserver's current time");
    }
    if ends != not_after {
        return to.invalid("must be set to the NotAfter time encoded in the leaf certificate");
    }
    let (chain, lifetime) = (status.get("certificateChain"), not_after - not_before);
    if lifetime < HOUR_S {
        return chain.invalid_as(lifetime, "leaf certificate lifetime must be >= 1 hour");
    }
    if lifetime > most_s {
        return chain.invalid_as(
            lifetime,
            format!("leaf certificate lifetime must be <= spec.maxExpirationSeconds ({most_s})"),
        );
    }
    if renewed < begins + MARGIN_S {
        renewal.invalid("must be at least 10 minutes after status.notBefore");
    } else if renewed > ends - MARGIN_S {
        renewal.invalid("must be at least 10 minutes before status.notAfter");
    }
}
