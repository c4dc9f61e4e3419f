//! Signing requests and bundles of trusted certificates.

use super::{Changes, PLAIN, Strategy, items};
use api::validate::{At, Error, any_text, dns_label, dns_subdomain};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use std::collections::HashSet;

const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

pub(super) const REQUEST: Strategy = Strategy {
    name_rule: any_text,
    validate: request,
    validate_update: |new, old| conditions(new, old),
    // What is asked for never changes, and a verdict leaves the certificate as it is.
    narrow: |_, new, old| {
        let verdicts = new["status"]["conditions"].clone();
        new["spec"] = old["spec"].clone();
        new["status"] = old["status"].clone();
        if verdicts.is_null() {
            new["status"].as_object_mut().and_then(|status| status.remove("conditions"));
        } else {
            new["status"]["conditions"] = verdicts;
        }
        date_conditions(new, old);
    },
    validate_door: |_, new, old| {
        request(new);
        conditions(new, old);
    },
    prepare_status: |new, old| {
        keep_verdicts(new, old);
        date_conditions(new, old);
    },
    prepare_update: |new, old| new["spec"] = old["spec"].clone(),
    validate_status: |new, old| {
        conditions(new, old);
        for kind in ["Approved", "Denied"] {
            let count = |list: &[Value]| list.iter().filter(|one| one["type"] == kind).count();
            let status = new.get("status");
            if count(items(status.value(), "conditions")) > count(items(&old["status"], "conditions")) {
                let why = format!("updates may not add a condition of type {kind:?}");
                status.get("conditions").forbidden(why);
            }
        }
        let certificate = new.get("status.certificate");
        if !old["status"]["certificate"].is_null() && *certificate.value() != old["status"]["certificate"] {
            certificate.forbidden("updates may not modify existing certificate content");
        }
    },
    status_meta: true,
    ..PLAIN
};

fn request(object: &At) {
    let spec = object.get("spec");
    let request = spec.get("request");
    let bytes = STANDARD.decode(request.text()).unwrap_or_default();
    if !String::from_utf8_lossy(&bytes).contains("-----BEGIN CERTIFICATE REQUEST-----") {
        request.invalid("PEM block type must be CERTIFICATE REQUEST");
    }
    let usages = spec.get("usages");
    usages.need();
    usages.each(|usage| usage.one_of(&USAGES));
    let mut seen = HashSet::new();
    usages.each(|usage| usage.unique(&mut seen));
    let signer = spec.get("signerName");
    if signer.is("kubernetes.io/legacy-unknown") {
        signer.invalid("the legacy signerName is not allowed via this API version");
    } else {
        signer_name(&signer);
    }
    let lifetime = spec.get("expirationSeconds");
    if lifetime.present() && lifetime.int() < 600 {
        lifetime.invalid("may not specify a duration less than 600 seconds (10 minutes)");
    }
    verdicts(&object.get("status.conditions"));
}

fn verdicts(list: &At) {
    let mut seen: HashSet<&str> = HashSet::new();
    list.each(|condition| {
        let (kind, status) = (condition.get("type"), condition.get("status"));
        kind.need();
        let fixed = matches!(kind.text(), "Approved" | "Denied" | "Failed");
        if status.need() {
            status.one_of(if fixed { &["True"] } else { &["False", "True", "Unknown"] });
        }
        let other = match kind.text() {
            "Approved" => "Denied",
            "Denied" => "Approved",
            _ => "",
        };
        if !other.is_empty() && seen.contains(other) {
            list.invalid_as(kind.text(), "Approved and Denied conditions are mutually exclusive");
        }
        kind.unique(&mut seen);
    });
}

/// Who signs does not judge: verdicts stay as they were.
fn keep_verdicts(new: &mut Value, old: &Value) {
    let of = |list: &[Value], kind: &str| -> Vec<usize> {
        let all = list.iter().enumerate();
        all.filter(|(_, one)| one["type"] == kind).map(|(index, _)| index).collect()
    };
    for kind in ["Approved", "Denied"] {
        let before = items(&old["status"], "conditions");
        let (now, then) = (of(items(&new["status"], "conditions"), kind), of(before, kind));
        if now.len() == then.len() {
            for (at, from) in now.into_iter().zip(then) {
                new["status"]["conditions"][at] = before[from].clone();
            }
        }
    }
}

/// Says when conditions were written, where their writer does not.
fn date_conditions(new: &mut Value, old: &Value) {
    let now = crate::registry::timestamp();
    let before = items(&old["status"], "conditions").to_vec();
    for condition in super::items_mut(&mut new["status"], "conditions") {
        if condition["lastUpdateTime"].is_null() {
            condition["lastUpdateTime"] = Value::from(now.as_str());
        }
        if condition["lastTransitionTime"].is_null() {
            let same = before.iter().find(|one| {
                one["type"] == condition["type"]
                    && one["status"] == condition["status"]
                    && !one["lastTransitionTime"].is_null()
            });
            let then = same.map(|one| one["lastTransitionTime"].clone());
            condition["lastTransitionTime"] = then.unwrap_or_else(|| Value::from(now.as_str()));
        }
    }
}

/// Verdicts are not taken back.
fn conditions(new: &At, old: &Value) {
    let status = new.get("status");
    let count = |list: &[Value], kind: &str| list.iter().filter(|one| one["type"] == kind).count();
    let (now, before) = (items(status.value(), "conditions"), items(&old["status"], "conditions"));
    for kind in ["Approved", "Denied", "Failed"] {
        if count(now, kind) < count(before, kind) {
            status
                .get("conditions")
                .forbidden(format!("updates may not remove a condition of type {kind:?}"));
        }
    }
}

const MOST_BUNDLE_BYTES: usize = 1 << 20;

pub(super) const TRUST_BUNDLE: Strategy = Strategy {
    name_rule: |name| dns_subdomain(name.rsplit(':').next().unwrap_or_default()),
    validate: |bundle| {
        let signer = bundle.get("spec.signerName");
        if !signer.empty() {
            signer_name(&signer);
            let (name, prefix) = (bundle.get("metadata.name"), signer.text().replace('/', ":"));
            if !name.text().starts_with(&format!("{prefix}:")) {
                name.invalid(format!(
                    "ClusterTrustBundle for signerName {} must be named with prefix {prefix}:",
                    signer.text()
                ));
            }
        } else if bundle.get("metadata.name").text().contains(':') {
            bundle
                .get("metadata.name")
                .invalid("ClusterTrustBundle without signer name must not have \":\" in its name");
        }
    },
    validate_new: trusted,
    validate_update: |new, old| {
        if *new.get("spec.trustBundle").value() != old["spec"]["trustBundle"] {
            trusted(new);
        }
        new.get("spec").unchanged_fields(&old["spec"], &["signerName"]);
    },
    changes: Changes::After,
    ..PLAIN
};

fn trusted(bundle: &At) {
    let text = bundle.get("spec.trustBundle");
    if text.text().len() > MOST_BUNDLE_BYTES {
        return text.report(|path| Error::too_long(path, MOST_BUNDLE_BYTES));
    }
    if !text.text().contains("-----BEGIN CERTIFICATE-----") {
        text.invalid_as("<value omitted>", "at least one trust anchor must be provided");
    }
}

/// The name of a signer: a domain and a path.
pub(super) fn signer_name(at: &At) {
    if !at.need() {
        return;
    }
    let parts: Vec<&str> = at.text().split('/').collect();
    let [domain, path] = parts.as_slice() else {
        return at.invalid("must be a fully qualified domain and path of the form 'example.com/signer-name'");
    };
    let labels = |text: &str, rule: fn(&str) -> Vec<String>| {
        let wrong = text.split('.').map(|label| (label, rule(label)));
        for (label, problems) in wrong.filter(|(_, problems)| !problems.is_empty()).take(1) {
            for problem in problems {
                at.invalid_as(text, format!("validating label {label:?}: {problem}"));
            }
        }
    };
    if domain.len() > 253 {
        at.report(|path| Error::too_long(path, 253));
    }
    labels(domain, dns_label);
    if !domain.contains('.') {
        at.invalid_as(*domain, "should be a domain with at least two segments separated by dots");
    }
    labels(path, dns_subdomain);
    if at.text().len() > 253 + 1 + 253 + 1 + 63 {
        at.report(|path| Error::too_long(path, 253 + 1 + 253 + 1 + 63));
    }
}
