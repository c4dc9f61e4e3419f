//! An authority of the cluster as its files have it: the certificate that signs, those that vouch for it up to a root,
//! its key, and what was in its place before.

use crate::certificates::{self, Issued, Subject};
use crate::pki::pem_of;
use crate::{keys, signing};
use base::hex;
use base::trust::Trust;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use serde::{Deserialize, Serialize};
use std::time::{Duration, SystemTime};
use x509_parser::prelude::{FromDer, X509Certificate};

/// More certificates than that are in no file of an authority.
const CERTIFICATES: usize = 16;

/// One certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cert {
    der: CertificateDer<'static>,
}

impl Cert {
    /// All certificates of a PEM text.
    pub(crate) fn all(pem: &str) -> Result<Vec<Self>, String> {
        let all: Vec<Self> = CertificateDer::pem_slice_iter(pem.as_bytes())
            .take(CERTIFICATES + 1)
            .map(|der| der.map(|der| Self { der }).map_err(|error| error.to_string()))
            .collect::<Result<_, _>>()?;
        match all.len() {
            0 => return Err("there is no certificate in it".to_owned()),
            1..=CERTIFICATES => {}
            _ => return Err(format!("there are more than {CERTIFICATES} certificates in it")),
        }
        for one in &all {
            one.read()?;
        }
        Ok(all)
    }

    fn read(&self) -> Result<X509Certificate<'_>, String> {
        let read = X509Certificate::from_der(&self.der);
        read.map(|(_, certificate)| certificate)
            .map_err(|error| format!("a certificate in it cannot be read: {error}"))
    }

    /// As PEM, always the same text.
    pub(crate) fn pem(&self) -> String {
        pem_of("CERTIFICATE", &self.der)
    }

    fn signs(&self, other: &Self) -> bool {
        let (Ok(own), Ok(other)) = (self.read(), other.read()) else { return false };
        own.subject().as_raw() == other.issuer().as_raw()
            && other.verify_signature(Some(own.public_key())).is_ok()
    }

    fn is_root(&self) -> bool {
        self.signs(self)
    }

    fn has_key_of(&self, other: &Self) -> bool {
        let (Ok(own), Ok(other)) = (self.read(), other.read()) else { return false };
        own.public_key().raw == other.public_key().raw
    }

    fn name(&self) -> String {
        self.read().map(|read| format!("\"{}\"", read.subject())).unwrap_or_default()
    }

    /// Why it is no authority.
    fn check(&self) -> Result<(), String> {
        let read = self.read()?;
        let is_authority = read.basic_constraints().ok().flatten().is_some_and(|found| found.value.ca);
        if !is_authority {
            return Err(format!("{} is no authority's certificate (it lacks CA:TRUE)", self.name()));
        }
        let usage = read.key_usage().map_err(|error| error.to_string())?;
        if usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
            return Err(format!(
                "{} may not sign certificates (its key usage lacks keyCertSign)",
                self.name()
            ));
        }
        Ok(())
    }

    /// Why it is not valid at a time.
    fn check_validity(&self, now: SystemTime) -> Result<(), String> {
        let read = self.read()?;
        let at = |time: x509_parser::time::ASN1Time| {
            SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
        };
        let (from, until) = (read.validity().not_before, read.validity().not_after);
        if at(from) > now {
            return Err(format!("{} is valid from {from} on only", self.name()));
        }
        if at(until) <= now {
            return Err(format!("{} has expired on {until}", self.name()));
        }
        Ok(())
    }
}

/// What was in an authority's place before, and is trusted for as long as what it signed can be about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Former {
    /// Its certificate and those up to its root, as PEM.
    pub(crate) certificates: String,
    /// By which it vouches for the one that came after it, as PEM; none where it had expired.
    pub(crate) bridge: Option<String>,
    /// Until when it is trusted, in seconds since the epoch.
    pub(crate) until_s: i64,
}

/// See the module's comment.
#[derive(Clone)]
pub(crate) struct Authority {
    /// What signs: one certificate, and its key.
    pub(crate) issuer: Issued,
    own: Vec<Cert>,
    text: String,
    /// Those before that are trusted now, each with its whole chain, and by which they vouch for what came after.
    former: Vec<Vec<Cert>>,
    bridges: Vec<Cert>,
}

impl Authority {
    /// Reads what the files have, with what was before.
    pub(crate) fn read(text: &str, key: &str, former: &[Former], now: SystemTime) -> Result<Self, String> {
        let own = Cert::all(text)?;
        let pkcs8 = keys::first(key)?;
        own[0].check()?;
        let public = own[0].read()?.public_key().subject_public_key.data.to_vec();
        if keys::public(&keys::all(&pkcs8)?[0])? != public {
            return Err(format!("its key is not that of {}, the first certificate", own[0].name()));
        }
        let now_s = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let trusted: Vec<&Former> =
            former.iter().filter(|one| u64::try_from(one.until_s).is_ok_and(|until| now_s < until)).collect();
        let bridges = trusted.iter().filter_map(|one| one.bridge.as_ref()).map(|text| Cert::all(text));
        let former = trusted.iter().map(|one| Cert::all(&one.certificates));
        let authority = Self {
            issuer: Issued { certificate: own[0].pem(), key: pkcs8 },
            former: former.collect::<Result<_, _>>()?,
            bridges: bridges.collect::<Result<Vec<_>, _>>()?.concat(),
            own,
            text: text.to_owned(),
        };
        authority.root()?;
        Ok(authority)
    }

    /// The certificate at the end of the chain.
    fn root(&self) -> Result<&Cert, String> {
        root_of(&self.own)
    }

    /// Whether what it signs is believed now by who trusts its root alone.
    pub(crate) fn check_now(&self, now: SystemTime) -> Result<(), String> {
        self.own[0].check_validity(now)?;
        let subject = Subject {
            name: "trial".to_owned(),
            alternatives: vec!["trial".to_owned()],
            ..Subject::default()
        };
        let trial = certificates::issue(&subject, &self.issuer)?;
        let chain = Cert::all(&trial.certificate)?;
        let root = self.root()?;
        root.check_validity(now)?;
        let others: Vec<CertificateDer<'static>> = self.own.iter().map(|one| one.der.clone()).collect();
        let name = ServerName::try_from("trial").map_err(|error| error.to_string())?;
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Trust::new(std::slice::from_ref(&root.der))?
            .verify_server_cert(&chain[0].der, &others, &name, &[], UnixTime::since_unix_epoch(since))
            .map(drop)
            .map_err(|error| format!("what {} signs would not be trusted: {error}", self.own[0].name()))
    }

    /// What stands behind a certificate of it where that is shown: whoever trusts a former authority, or the root
    /// alone, finds the way.
    pub(crate) fn chain(&self) -> String {
        pems(self.own.iter().chain(self.steps().filter(|one| !one.is_root())))
    }

    /// What leads from this one to the roots of former ones.
    fn steps(&self) -> impl Iterator<Item = &Cert> {
        self.bridges.iter().chain(self.former.iter().flatten())
    }

    /// The same without what has to be trusted anyway.
    pub(crate) fn links(&self) -> String {
        pems(self.own.iter().chain(self.steps()).filter(|one| !one.is_root()))
    }

    /// What others verify by: all of the file, and the former ones.
    pub(crate) fn bundle(&self) -> String {
        if self.former.is_empty() {
            self.text.clone()
        } else {
            pems(self.own.iter().chain(self.former.iter().flatten()))
        }
    }

    /// What it signed and what former ones did; not what others have that are of the same root.
    fn issuers(&self) -> impl Iterator<Item = &Cert> {
        self.own.iter().take(1).chain(self.former.iter().filter_map(|one| one.first()))
    }

    /// The same as trust anchors.
    pub(crate) fn anchors(&self) -> Vec<CertificateDer<'static>> {
        self.issuers().map(|one| one.der.clone()).collect()
    }

    /// The same as PEM.
    pub(crate) fn anchors_pem(&self) -> String {
        if self.own.len() == 1 && self.former.is_empty() { self.text.clone() } else { pems(self.issuers()) }
    }

    /// Whether it signs by the same key as another.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.own[0] == other.own[0]
    }

    /// Whether who trusts this one, or its root, trusts another by the certificates of that one's file.
    pub(crate) fn leads_to(&self, other: &Self) -> bool {
        let is_known = |one: &Cert| self.own.iter().any(|own| own.has_key_of(one) || own.signs(one));
        let mut reached = vec![&other.own[0]];
        for _ in 0..=CERTIFICATES {
            if reached.iter().any(|one| is_known(one)) {
                return true;
            }
            let more: Vec<&Cert> = other
                .own
                .iter()
                .filter(|one| {
                    // Another certificate of the same key vouches as well.
                    reached.iter().any(|known| one.signs(known) || one.has_key_of(known))
                        && !reached.contains(one)
                })
                .collect();
            if more.is_empty() {
                return false;
            }
            reached.extend(more);
        }
        false
    }

    /// What is kept of it when another comes in its place.
    pub(crate) fn become_former(&self, next: &Self, now: SystemTime, until_s: i64) -> Former {
        let bridge = signing::vouch(&self.issuer, &next.issuer.certificate, now);
        let bridge =
            bridge.map_err(|why| tracing::warn!(why, "the former authority cannot vouch for the new one"));
        Former { certificates: pems(self.own.iter()), bridge: bridge.ok(), until_s }
    }

    /// By which it is known whether another cluster's is meant.
    pub(crate) fn fingerprint(&self) -> String {
        hex::sha256(&self.own[0].der)
    }
}

/// The first certificate that is its own issuer on the way up from the first one.
fn root_of(all: &[Cert]) -> Result<&Cert, String> {
    let mut at = &all[0];
    for _ in 0..=all.len() {
        if at.is_root() {
            return Ok(at);
        }
        let Some(next) = all.iter().find(|one| *one != at && one.signs(at)) else { break };
        next.check()?;
        at = next;
    }
    Err(format!(
        "the certificate that signed {} is not in it: it has to have the whole chain, up to the root",
        at.name()
    ))
}

fn pems<'a>(all: impl Iterator<Item = &'a Cert>) -> String {
    let mut seen: Vec<&Cert> = Vec::new();
    all.for_each(|one| {
        if !seen.contains(&one) {
            seen.push(one);
        }
    });
    seen.iter().map(|one| one.pem()).collect()
}

/// The digest by which tokens name the cluster of a bundle: of the text of an authority that is its own root, else of
/// the root's certificate (k3s does it so).
pub(crate) fn digest(bundle: &str) -> String {
    let Ok(all) = Cert::all(bundle) else { return hex::sha256(bundle.as_bytes()) };
    match root_of(&all) {
        _ if all.len() == 1 => hex::sha256(bundle.as_bytes()),
        Ok(root) if *root != all[0] => hex::sha256(&root.der),
        _ => hex::sha256(all[0].pem().as_bytes()),
    }
}

/// What of a bundle (PEM) a digest vouches for; none where it names something else. What comes with it is to be
/// asked for again, of who was verified by this.
pub(crate) fn vouched(bundle: &str, sha256: &str) -> Option<String> {
    if hex::sha256(bundle.as_bytes()) == sha256 {
        return Some(bundle.to_owned());
    }
    let is_named =
        |one: &Cert| hex::sha256(&one.der) == sha256 || hex::sha256(one.pem().as_bytes()) == sha256;
    Cert::all(bundle).ok()?.into_iter().find(is_named).map(|one| one.pem())
}

#[cfg(test)]
#[path = "authority_tests.rs"]
mod tests;
