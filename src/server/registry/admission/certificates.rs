//! CertificateApproval, CertificateSigning, ClusterTrustBundleAttest and CertificateSubjectRestriction:
//! who may speak for a signer, and what nobody may ask of one.

use super::{CREATE, Request, STEP as PLAIN, Step, UPDATE, Verdict, text};
use crate::auth::Attributes;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

const API_CLIENT: &str = "kubernetes.io/kube-apiserver-client";

pub(super) const APPROVAL: Step = Step {
    name: "CertificateApproval",
    targets: &["certificatesigningrequests.certificates.k8s.io/approval"],
    operations: UPDATE,
    validate: |request, object| {
        let signer = text(&request.old["spec"], "signerName");
        let why = format!("user not permitted to approve requests with signerName {signer:?}");
        needs(request, object, ("approve", signer), why)
    },
    ..PLAIN
};

pub(super) const SIGNING: Step = Step {
    name: "CertificateSigning",
    targets: &["certificatesigningrequests.certificates.k8s.io/status"],
    operations: UPDATE,
    validate: |request, object| {
        let (new, old) = (&object["status"], &request.old["status"]);
        if new["certificate"] == old["certificate"] && new["conditions"] == old["conditions"] {
            return Ok(());
        }
        let signer = text(&request.old["spec"], "signerName");
        let why = format!("user not permitted to sign requests with signerName {signer:?}");
        needs(request, object, ("sign", signer), why)
    },
    ..PLAIN
};

pub(super) const ATTESTING: Step = Step {
    name: "ClusterTrustBundleAttest",
    targets: &["clustertrustbundles.certificates.k8s.io"],
    validate: |request, object| {
        let signer = text(&object["spec"], "signerName");
        let same = !request.creates() && object["spec"] == request.old["spec"];
        if signer.is_empty() || same {
            return Ok(());
        }
        let why = format!("user not permitted to attest for signerName {signer:?}");
        needs(request, object, ("attest", signer), why)
    },
    ..PLAIN
};

pub(super) const SUBJECT: Step = Step {
    name: "CertificateSubjectRestriction",
    targets: &["certificatesigningrequests.certificates.k8s.io"],
    operations: CREATE,
    validate: |request, object| {
        if object["spec"]["signerName"] != API_CLIENT {
            return Ok(());
        }
        let Some(subject) = subject_of(object) else {
            return Err(
                request.forbidden(object, "failed to parse CSR: PEM block type must be CERTIFICATE REQUEST")
            );
        };
        if subject.groups.iter().any(|group| group == "system:masters") {
            let why = format!("use of {API_CLIENT} signer with system:masters group is not allowed");
            return Err(request.forbidden(object, why));
        }
        Ok(())
    },
    ..PLAIN
};

/// A signing request says who asked, whatever its writer says. In Kubernetes this is the strategy's.
pub(super) const REQUESTER: Step = Step {
    name: "requester of a certificate",
    targets: &["certificatesigningrequests.certificates.k8s.io"],
    operations: CREATE,
    admit: |request, object| {
        let user = request.user.to_value();
        for field in ["username", "groups", "uid", "extra"] {
            match &user[field] {
                Value::Null => drop(object["spec"].as_object_mut().and_then(|spec| spec.remove(field))),
                stated => object["spec"][field] = stated.clone(),
            }
        }
        Ok(())
    },
    ..PLAIN
};

/// The verb on the signer itself, or on all signers of its domain.
fn needs(request: &Request, object: &Value, (verb, signer): (&str, &str), why: String) -> Verdict {
    let domain = signer.split('/').next().unwrap_or_default();
    let wild = format!("{domain}/*");
    let allowed = [signer, &wild].into_iter().any(|name| {
        let attributes = Attributes {
            verb,
            group: "certificates.k8s.io",
            resource: "signers",
            name,
            ..Attributes::default()
        };
        request.view.allows(request.user, &attributes)
    });
    if allowed { Ok(()) } else { Err(request.forbidden(object, why)) }
}

/// Whom a signing request is about.
pub(super) struct Subject {
    pub(super) name: String,
    pub(super) groups: Vec<String>,
}

/// Reads `spec.request`: base64 of PEM of PKCS#10.
pub(super) fn subject_of(object: &Value) -> Option<Subject> {
    let pem = STANDARD.decode(text(&object["spec"], "request")).ok()?;
    let (_, block) = x509_parser::pem::parse_x509_pem(&pem).ok()?;
    let (_, request) = X509CertificationRequest::from_der(&block.contents).ok()?;
    let subject = &request.certification_request_info.subject;
    let text = |value: &x509_parser::x509::AttributeTypeAndValue| value.as_str().map(str::to_owned).ok();
    Some(Subject {
        name: subject.iter_common_name().next().and_then(text).unwrap_or_default(),
        groups: subject.iter_organization().filter_map(text).collect(),
    })
}
