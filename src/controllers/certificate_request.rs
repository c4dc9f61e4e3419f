//! What a request for a certificate (PKCS#10) asks for, and whether Kubernetes' signers sign the like.

use crate::certificates::{API_CLIENT, KUBELET_CLIENT, KUBELET_SERVING};
use jiff::Timestamp;
use std::collections::BTreeSet;
use std::net::IpAddr;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::AttributeTypeAndValue;

/// Its subject, its alternative names, and how many there are of other kinds.
#[derive(Default)]
pub(crate) struct Asked {
    pub(crate) name: String,
    groups: Vec<String>,
    pub(crate) dns: Vec<String>,
    pub(crate) addresses: Vec<IpAddr>,
    unreadable: usize,
    emails: usize,
    uris: usize,
}

/// The request's bytes, out of PEM.
pub(crate) fn der(pem: &[u8]) -> Result<Vec<u8>, String> {
    let block = x509_parser::pem::parse_x509_pem(pem).map(|(_, block)| block);
    let block = block.ok().filter(|block| block.label == "CERTIFICATE REQUEST");
    Ok(block.ok_or("PEM block type must be CERTIFICATE REQUEST")?.contents)
}

/// When a certificate in PEM expires.
pub(crate) fn expires(pem: &[u8]) -> Option<Timestamp> {
    let (_, block) = x509_parser::pem::parse_x509_pem(pem).ok()?;
    let (_, certificate) = X509Certificate::from_der(&block.contents).ok()?;
    Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
}

impl Asked {
    pub(crate) fn of(pem: &[u8]) -> Result<Self, String> {
        let der = der(pem)?;
        let (_, request) = X509CertificationRequest::from_der(&der).map_err(|error| error.to_string())?;
        let subject = &request.certification_request_info.subject;
        let text = |value: &AttributeTypeAndValue<'_>| value.as_str().map(str::to_owned).ok();
        let mut asked = Self {
            // Of several the last counts, as Go reads subjects.
            name: subject.iter_common_name().filter_map(text).last().unwrap_or_default(),
            groups: subject.iter_organization().filter_map(text).collect(),
            ..Self::default()
        };
        for extension in request.requested_extensions().into_iter().flatten() {
            if let ParsedExtension::SubjectAlternativeName(names) = extension {
                names.general_names.iter().for_each(|name| asked.count(name));
            }
        }
        Ok(asked)
    }

    fn count(&mut self, name: &GeneralName<'_>) {
        match name {
            GeneralName::DNSName(name) => self.dns.push((*name).to_owned()),
            GeneralName::IPAddress(bytes) => match address(bytes) {
                Some(address) => self.addresses.push(address),
                None => self.unreadable += 1,
            },
            GeneralName::RFC822Name(_) => self.emails += 1,
            GeneralName::URI(_) => self.uris += 1,
            _ => {}
        }
    }

    /// Whether a signer signs this for these usages; an error says why not.
    pub(crate) fn fits(&self, signer: &str, usages: &[String]) -> Result<(), String> {
        match signer {
            API_CLIENT => client_usages(usages),
            KUBELET_CLIENT => self.kubelet(usages, "client auth", || {
                refuse(!self.dns.is_empty(), "DNS subjectAltNames are not allowed")?;
                refuse(self.emails > 0, "Email subjectAltNames are not allowed")?;
                let addresses = self.addresses.len() + self.unreadable;
                refuse(addresses > 0, "IP subjectAltNames are not allowed")
            }),
            KUBELET_SERVING => self.kubelet(usages, "server auth", || {
                let none = self.dns.is_empty() && self.addresses.is_empty();
                refuse(self.unreadable > 0, "IP subjectAltName cannot be read")?;
                refuse(none, "DNS or IP subjectAltName is required")?;
                refuse(self.emails > 0, "Email subjectAltNames are not allowed")
            }),
            _ => Ok(()),
        }
    }

    fn kubelet(
        &self,
        usages: &[String],
        purpose: &str,
        names: impl FnOnce() -> Result<(), String>,
    ) -> Result<(), String> {
        refuse(self.groups != ["system:nodes"], "subject organization is not system:nodes")?;
        names()?;
        refuse(self.uris > 0, "URI subjectAltNames are not allowed")?;
        let mut all = ["digital signature", "key encipherment", purpose];
        all.sort_unstable();
        let mut asked: BTreeSet<&str> = usages.iter().map(String::as_str).collect();
        // Keys that are not RSA's encipher no keys.
        asked.insert("key encipherment");
        let fit = asked.iter().eq(all.iter());
        refuse(!fit, &format!("usages did not match [{}]", all.join(" ")))?;
        let node = self.name.starts_with("system:node:");
        refuse(!node, "subject common name does not begin with system:node:")
    }
}

/// An address of four bytes or of sixteen.
fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

fn refuse(wrong: bool, why: &str) -> Result<(), String> {
    if wrong { Err(why.to_owned()) } else { Ok(()) }
}

fn client_usages(usages: &[String]) -> Result<(), String> {
    const ALLOWED: [&str; 3] = ["digital signature", "key encipherment", "client auth"];
    if let Some(wrong) = usages.iter().find(|usage| !ALLOWED.contains(&usage.as_str())) {
        return Err(format!("invalid usage for client certificate: {wrong}"));
    }
    let missing = !usages.iter().any(|usage| usage == "client auth");
    refuse(missing, "missing required usage for client certificate: client auth")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Made with `openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj …`.
    pub(crate) const KUBELET: &str = include_str!("testdata/kubelet.csr");
    pub(crate) const PLAIN: &str = include_str!("testdata/plain.csr");
    const SERVING: &str = include_str!("testdata/serving.csr");

    #[test]
    fn signers_sign_what_is_theirs() {
        let fits = |pem: &str, signer: &str, usages: &[&str]| {
            let usages: Vec<_> = usages.iter().map(|usage| (*usage).to_owned()).collect();
            Asked::of(pem.as_bytes()).unwrap().fits(signer, &usages).err().unwrap_or_default()
        };
        let (client, server) = (["digital signature", "client auth"], ["digital signature", "server auth"]);
        let with_key = |purpose: &'static str| ["key encipherment", "digital signature", purpose];
        assert_eq!(fits(KUBELET, KUBELET_CLIENT, &client), "");
        assert_eq!(fits(KUBELET, KUBELET_CLIENT, &with_key("client auth")), "");
        assert_eq!(fits(SERVING, KUBELET_SERVING, &server), "");
        assert_eq!(fits(PLAIN, API_CLIENT, &with_key("client auth")), "");
        assert_eq!(
            fits(PLAIN, API_CLIENT, &["digital signature"]),
            "missing required usage for client certificate: client auth"
        );
        assert_eq!(fits(PLAIN, KUBELET_CLIENT, &client), "subject organization is not system:nodes");
        assert_eq!(fits(SERVING, KUBELET_CLIENT, &client), "DNS subjectAltNames are not allowed");
        assert_eq!(fits(KUBELET, KUBELET_SERVING, &server), "DNS or IP subjectAltName is required");
        assert_eq!(
            fits(SERVING, KUBELET_SERVING, &client),
            "usages did not match [digital signature key encipherment server auth]"
        );
        assert!(Asked::of(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").is_err());
    }
}
