//! In which versions servers store objects, and the migration to others.

use super::{Changes, PLAIN, Strategy, items};
use api::validate::{At, conditions, dns_subdomain, qualified_name, rfc1035_label};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};

pub(super) const STORAGE_VERSION: Strategy = Strategy {
    name_rule: name,
    prepare_create: |version| version["status"] = json!({}),
    validate_status: |new, _| {
        let status = new.get("status");
        servers(&status.get("storageVersions"));
        common(&status);
        told(&status);
    },
    changes: Changes::Only,
    ..PLAIN
};

/// `<group>.<resource>`.
fn name(name: &str) -> Vec<String> {
    let Some((group, resource)) = name.rsplit_once('.') else {
        return vec!["name must be in the form of <group>.<resource>".to_owned()];
    };
    let of = |what: &str, problems: Vec<String>| {
        problems.into_iter().map(|problem| format!("the {what} segment {problem}")).collect::<Vec<_>>()
    };
    [of("group", dns_subdomain(group)), of("resource", rfc1035_label(resource))].concat()
}

fn servers(list: &At) {
    let mut seen = HashSet::new();
    list.each(|server| {
        let id = server.get("apiServerID");
        id.unique(&mut seen);
        id.named(dns_subdomain);
        let (own, decodable) = (server.get("encodingVersion"), server.get("decodableVersions"));
        version(&own);
        decodable.each(version);
        let known = |wanted: &str| decodable.items().iter().any(|one| one == wanted);
        if !known(own.text()) {
            decodable.invalid(format!("decodableVersions must include encodingVersion {}", own.text()));
        }
        server.get("servedVersions").each(|served| {
            version(served);
            if !known(served.text()) {
                let all: Vec<&str> = decodable.items().iter().filter_map(Value::as_str).collect();
                served.invalid(format!(
                    "individual served version : {} must be included in decodableVersions : [{}]",
                    served.text(),
                    all.join(" ")
                ));
            }
        });
    });
}

/// `group/version`, or a version alone.
fn version(at: &At) {
    const RULE: &str = "an apiVersion is a DNS-1035 label, which must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyVersion')";
    let part = |what: &str, text: &str, rule: fn(&str) -> Vec<String>| -> Vec<String> {
        let problems = if text.is_empty() { vec!["must be non-empty".to_owned()] } else { rule(text) };
        problems.into_iter().map(|problem| format!("{what} part: {problem}")).collect()
    };
    let problems = match at.text().split('/').collect::<Vec<_>>().as_slice() {
        [version] => part("version", version, rfc1035_label),
        [group, version] => {
            [part("group", group, dns_subdomain), part("version", version, rfc1035_label)].concat()
        }
        _ => vec![RULE.to_owned()],
    };
    if !problems.is_empty() {
        at.invalid_as(at.text(), problems.join(","));
    }
}

/// The version in which all servers agree to store.
fn common(status: &At) {
    let told = status.get("commonEncodingVersion");
    let mut versions = items(status.value(), "storageVersions")
        .iter()
        .map(|server| server["encodingVersion"].as_str().unwrap_or_default());
    let first = versions.next();
    let actual = first.filter(|first| versions.all(|version| version == *first));
    match (actual, told.present()) {
        (None, true) => told.invalid("should be nil if servers do not agree on the same encoding version, or if there is no server reporting the supported versions yet"),
        (Some(actual), false) => told.invalid(format!("the common encoding version is {actual}")),
        (Some(actual), true) if told.text() != actual => {
            told.invalid(format!("the actual common encoding version is {actual}"));
        }
        _ => {}
    }
}

fn told(status: &At) {
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for (index, condition) in items(status.value(), "conditions").iter().enumerate() {
        // Kubernetes leaves `conditions` out of the path.
        let item = status.index(index);
        let item = item.with(condition);
        let (kind, state) = (item.get("type"), item.get("status"));
        if let Some(before) = seen.insert(kind.text(), index) {
            kind.invalid(format!(
                "the type of the condition is not unique, it also appears in conditions[{before}]"
            ));
        }
        kind.named(qualified_name);
        state.named(qualified_name);
        item.get("reason").need();
        item.get("message").need();
    }
}

pub(super) const MIGRATION: Strategy = Strategy {
    validate: |migration| {
        let resource = migration.get("spec.resource");
        let (name, group) = (resource.get("resource"), resource.get("group"));
        if name.need_because("resource is required to be set") {
            name.named(rfc1035_label);
        }
        group.named_if_set(dns_subdomain);
    },
    validate_update: |new, old| {
        let (spec, before) = (new.get("spec"), &old["spec"]);
        if spec.value() != before {
            let text = |field: &str| spec.value()["resource"][field].as_str().unwrap_or_default().to_owned();
            let shown = json!({"Resource": {"group": text("group"), "resource": text("resource")}});
            spec.invalid_as(shown, "field is immutable");
        }
    },
    validate_status: |new, old| {
        let status = new.get("status");
        let version = status.get("resourceVersion");
        let well_formed =
            version.text().bytes().all(|byte| byte.is_ascii_digit()) && !version.text().starts_with('0');
        if !version.empty() && !well_formed {
            version.invalid(format!("resource version is not well formed: {}", version.text()));
        }
        let list = status.get("conditions");
        conditions(&list);
        let before = old["status"]["resourceVersion"].as_str().unwrap_or_default();
        if !before.is_empty() && before != version.text() {
            version.invalid_as(version.text(), "field is immutable");
        }
        outcomes(&list, items(&old["status"], "conditions"));
    },
    ..PLAIN
};

fn is_true(list: &[Value], kind: &str) -> bool {
    list.iter().any(|one| one["type"] == kind && one["status"] == "True")
}

/// Conditions as Kubernetes prints them: their fields in the order of the type.
fn shown(conditions: &[Value]) -> String {
    const FIELDS: [&str; 6] =
        ["type", "status", "observedGeneration", "lastTransitionTime", "reason", "message"];
    let one = |condition: &Value| {
        let there = FIELDS.iter().filter(|field| !condition[**field].is_null());
        let fields: Vec<String> = there.map(|field| format!("\"{field}\":{}", condition[*field])).collect();
        format!("{{{}}}", fields.join(","))
    };
    format!("[{}]", conditions.iter().map(one).collect::<Vec<_>>().join(","))
}

fn outcomes(list: &At, old: &[Value]) {
    let told = |detail: &str| list.wrong(format!("{}: {detail}", shown(list.items())));
    let now = |kind: &str| is_true(list.items(), kind);
    if now("Succeeded") && now("Failed") {
        told("Both success and failed conditions cannot be true at the same time");
    }
    if is_true(old, "Succeeded") && !now("Succeeded") {
        told("Success condition cannot be set to false once it is true");
    }
    if is_true(old, "Failed") && !now("Failed") {
        told("Failed condition cannot be set to false once it is true");
    }
}
