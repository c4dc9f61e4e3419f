//! CertificateSigningRequests: who asks for what.

use super::page::Page;
use super::words::{array, labels, number, shown};
use api::kinds::human_duration;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use std::net::IpAddr;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::der_parser::oid::Oid;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{
    OID_X509_COMMON_NAME, OID_X509_COUNTRY_NAME, OID_X509_LOCALITY_NAME, OID_X509_ORGANIZATION_NAME,
    OID_X509_ORGANIZATIONAL_UNIT, OID_X509_POSTAL_CODE, OID_X509_SERIALNUMBER,
    OID_X509_STATE_OR_PROVINCE_NAME, OID_X509_STREET_ADDRESS,
};
use x509_parser::prelude::FromDer;

/// What of a subject there may be several of.
const SEVERAL: [(&str, Oid<'static>); 7] = [
    ("Organization", OID_X509_ORGANIZATION_NAME),
    ("Organizational Unit", OID_X509_ORGANIZATIONAL_UNIT),
    ("Country", OID_X509_COUNTRY_NAME),
    ("Locality", OID_X509_LOCALITY_NAME),
    ("Province", OID_X509_STATE_OR_PROVINCE_NAME),
    ("StreetAddress", OID_X509_STREET_ADDRESS),
    ("PostalCode", OID_X509_POSTAL_CODE),
];

/// Fails where the request cannot be read.
pub(super) fn write(page: &mut Page, object: &Value) -> Result<(), String> {
    let (metadata, spec) = (&object["metadata"], &object["spec"]);
    let pem = STANDARD.decode(shown(&spec["request"])).unwrap_or_default();
    let block = x509_parser::pem::parse_x509_pem(&pem).map(|(_, block)| block);
    let block = block.ok().filter(|block| block.label == "CERTIFICATE REQUEST");
    let der = block.ok_or("PEM block type must be CERTIFICATE REQUEST")?.contents;
    let (_, request) = X509CertificationRequest::from_der(&der).map_err(|error| error.to_string())?;
    page.field(0, "Name", shown(&metadata["name"]));
    page.field(0, "Labels", labels(&metadata["labels"]));
    page.field(0, "Annotations", labels(&metadata["annotations"]));
    page.created(object);
    page.field(0, "Requesting User", shown(&spec["username"]));
    page.some(0, "Signer", &spec["signerName"]);
    if spec["expirationSeconds"].is_number() {
        page.field(0, "Requested Duration", human_duration(number(&spec["expirationSeconds"])));
    }
    page.field(0, "Status", status(&object["status"]));
    subject(page, &request);
    alternatives(page, &request);
    Ok(())
}

fn status(status: &Value) -> String {
    let has = |kind: &str| array(&status["conditions"]).iter().any(|condition| condition["type"] == kind);
    let mut text = match (has("Denied"), has("Approved")) {
        (true, _) => "Denied",
        (false, true) => "Approved",
        (false, false) => "Pending",
    }
    .to_owned();
    if has("Failed") {
        text.push_str(",Failed");
    }
    if !shown(&status["certificate"]).is_empty() {
        text.push_str(",Issued");
    }
    text
}

fn subject(page: &mut Page, request: &X509CertificationRequest<'_>) {
    let subject = &request.certification_request_info.subject;
    let all = |oid: &Oid<'_>| -> Vec<String> {
        subject.iter_by_oid(oid).filter_map(|value| value.as_str().ok().map(str::to_owned)).collect()
    };
    page.title(0, "Subject");
    // Of several the last counts, as Go reads subjects.
    for (title, oid) in [("Common Name", OID_X509_COMMON_NAME), ("Serial Number", OID_X509_SERIALNUMBER)] {
        page.line(0, format_args!("\t{title}:\t{}", all(&oid).pop().unwrap_or_default()));
    }
    SEVERAL.iter().for_each(|(title, oid)| several(page, title, &all(oid)));
}

fn several(page: &mut Page, title: &str, values: &[String]) {
    if !values.is_empty() {
        page.line(0, format_args!("\t{title}:\t{}", values.join("\n\t\t")));
    }
}

fn alternatives(page: &mut Page, request: &X509CertificationRequest<'_>) {
    let [mut dns, mut emails, mut uris, mut addresses] = [(); 4].map(|()| Vec::new());
    for extension in request.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
        for name in &names.general_names {
            match name {
                GeneralName::DNSName(name) => dns.push((*name).to_owned()),
                GeneralName::RFC822Name(name) => emails.push((*name).to_owned()),
                GeneralName::URI(uri) => uris.push((*uri).to_owned()),
                GeneralName::IPAddress(bytes) => addresses.extend(address(bytes)),
                _ => {}
            }
        }
    }
    if dns.len() + emails.len() + uris.len() + addresses.len() > 0 {
        page.title(0, "Subject Alternative Names");
    }
    for (title, values) in
        [("DNS Names", dns), ("Email Addresses", emails), ("URIs", uris), ("IP Addresses", addresses)]
    {
        several(page, title, &values);
    }
}

fn address(bytes: &[u8]) -> Option<String> {
    let address = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        _ => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
    };
    Some(address.to_string())
}
