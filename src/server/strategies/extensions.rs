//! Definitions of custom resources, and services of aggregated APIs.

use super::admission::{client_config, review_versions};
use super::{Changes, Generation, PLAIN, Strategy, default, default_zero, items, text};
use crate::rules::check_definition;
use api::custom::CLEANUP;
use api::custom::{selectable, violations};
use api::validate::{At, Error, Rule, dns_subdomain, path_segment, rfc1035_label};
use serde_json::{Value, json};
use std::collections::HashSet;

/// Limits (`apiextensions/validation`, `apiregistration/validation`).
const LONGEST_WARNING: usize = 256;
const HIGHEST_GROUP: i64 = 20_000;
const HIGHEST_VERSION: i64 = 1_000;

pub(super) const DEFINITION: Strategy = Strategy {
    default: |definition| {
        let Some(spec) = definition.get_mut("spec") else { return };
        let kind = text(&spec["names"], "kind").to_owned();
        if let Some(names) = spec.get_mut("names").filter(|_| !kind.is_empty()) {
            default_zero(names, "singular", kind.to_ascii_lowercase());
            default_zero(names, "listKind", format!("{kind}List"));
        }
        default(spec, "conversion", json!({"strategy": "None"}));
        if let Some(service) = spec.pointer_mut("/conversion/webhook/clientConfig/service") {
            default(service, "port", 443);
        }
        let stored = items(spec, "versions").iter().find(|version| version["storage"] == true);
        let stored = stored.map(|version| version["name"].clone());
        if let Some(stored) = stored.filter(|_| items(&definition["status"], "storedVersions").is_empty()) {
            definition["status"]["storedVersions"] = json!([stored]);
        }
    },
    prepare_create: |definition| {
        // The names that were accepted are the server's to say.
        default(&mut definition["status"], "acceptedNames", json!({"kind": "", "plural": ""}));
        if items(&definition["status"], "conditions").is_empty() {
            definition["status"]["conditions"] = Value::Null;
        }
    },
    prepare_update: |definition, _| {
        let mut versions = items(&definition["spec"], "versions").iter();
        let stored = versions.find(|version| version["storage"] == true);
        let Some(name) = stored.map(|version| version["name"].clone()) else { return };
        if let Some(all) = definition["status"]["storedVersions"].as_array_mut()
            && !all.contains(&name)
        {
            all.push(name);
        }
    },
    validate: |definition| {
        let (name, spec) = (definition.get("metadata.name"), definition.get("spec"));
        let wanted = format!("{}.{}", spec.get("names.plural").text(), spec.get("group").text());
        if !name.text().is_empty() && name.text() != wanted {
            name.invalid_as(name.text(), "must be spec.names.plural+\".\"+spec.group");
        }
        definition_spec(definition);
        never_preserves(definition);
    },
    validate_update: |new, old| {
        definition_spec(new);
        if old["spec"]["preserveUnknownFields"] != true {
            never_preserves(new);
        }
        let (spec, before) = (new.get("spec"), &old["spec"]);
        let mut conditions = items(&old["status"], "conditions").iter();
        if conditions.any(|one| one["type"] == "Established" && one["status"] == "True") {
            spec.unchanged_fields(before, &["scope", "names.kind"]);
        }
        spec.unchanged_fields(before, &["group", "names.plural"]);
    },
    validate_status: |new, _| kind_names(&new.get("status.acceptedNames")),
    changes: Changes::Only,
    generation: Generation::Counted,
    status_at_creation: true,
    mark_deleted: |definition| {
        // Without objects there is nothing to clean up.
        let conditions = items(&definition["status"], "conditions");
        if !conditions.iter().any(|one| one["type"] == "Established" && one["status"] == "True") {
            return;
        }
        let finalizers = &mut definition["metadata"]["finalizers"];
        match finalizers.as_array_mut() {
            Some(all) if all.iter().any(|own| own == CLEANUP) => {}
            Some(all) => all.push(json!(CLEANUP)),
            None => *finalizers = json!([CLEANUP]),
        }
        crate::registry::set_condition(
            definition,
            json!({"type": "Terminating", "status": "True",
            "reason": "InstanceDeletionPending",
            "message": "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon"}),
        );
    },
    ..PLAIN
};

/// Problems with a text, as one.
fn joined(at: &At, rule: Rule, prefix: &str) {
    let problems = rule(&at.text().to_ascii_lowercase());
    let exact = if prefix.is_empty() { rule(at.text()) } else { problems };
    if !exact.is_empty() {
        at.invalid_as(at.text(), format!("{prefix}{}", exact.join(",")));
    }
}

fn definition_spec(definition: &At) {
    let spec = definition.get("spec");
    let group = spec.get("group");
    if group.need() {
        let before = group.errors();
        joined(&group, dns_subdomain, "");
        if group.errors() == before && !group.text().contains('.') {
            group.invalid("should be a domain with at least one dot");
        }
    }
    spec.get("scope").need_one_of(&["Cluster", "Namespaced"]);
    let versions = spec.get("versions");
    versions.each(|version| {
        version.get("schema.openAPIV3Schema").need_present();
    });
    let all = versions.items();
    let same: Vec<&str> = PARTS.into_iter().filter(|part| is_same(all, part)).collect();
    versions.each(|one| version(one, &same));
    let mut names = HashSet::new();
    let show = |detail: &str| {
        versions.report(|path| match versions.items() {
            [] => Error::invalid(path, versions.value().clone(), detail),
            _ => Error::invalid(path, Value::Null, detail).of_type(&without(all, &same), VERSIONS),
        });
    };
    if !all.iter().all(|version| names.insert(text(version, "name"))) {
        show("must contain unique version names");
    }
    if all.iter().filter(|version| version["storage"] == true).count() != 1 {
        show("must have exactly one version marked as storage version");
    }
    if let Some(first) = all.first().filter(|first| !text(first, "name").is_empty()) {
        joined(&spec.view("version", &first["name"]), rfc1035_label, "");
    }
    let own = spec.get("names");
    for field in ["plural", "singular", "kind", "listKind"] {
        own.get(field).need();
    }
    kind_names(&own);
    // What all versions have in common is the definition's.
    for part in &same {
        match *part {
            "schema" => schema(&spec.view("validation", &all[0]["schema"]), all),
            "subresources" => subresources(&spec.view("subresources", &all[0]["subresources"])),
            "additionalPrinterColumns" => {
                spec.view("additionalPrinterColumns", &all[0]["additionalPrinterColumns"]).each(column);
            }
            _ => selectable_fields(
                &spec.view("selectableFields", &all[0]["selectableFields"]),
                same.contains(&"schema").then_some(&all[0]),
                "may only be set when validations.schema is included",
            ),
        }
    }
    let strategy = spec.get("conversion.strategy");
    if spec.get("preserveUnknownFields").yes() && strategy.present() && !strategy.is("None") {
        strategy.invalid("must be None if spec.preserveUnknownFields is true");
    }
    conversion(&spec.get("conversion"));
    kind_names(&definition.get("status.acceptedNames"));
    stored_versions(&definition.get("status.storedVersions"), all);
    approval(definition, text(spec.value(), "group"));
}

const VERSIONS: &str = "apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinitionVersion";

/// The parts of a version that its definition has if all versions have the same.
const PARTS: [&str; 4] = ["schema", "subresources", "additionalPrinterColumns", "selectableFields"];

fn is_same(versions: &[Value], part: &str) -> bool {
    versions.first().is_some_and(|first| {
        !first[part].is_null() && versions.iter().all(|version| version[part] == first[part])
    })
}

fn without(versions: &[Value], parts: &[&str]) -> Value {
    let bare = versions.iter().map(|version| {
        let mut version = version.clone();
        parts.iter().for_each(|part| version[*part] = Value::Null);
        version
    });
    bare.collect()
}

/// Unknown fields are kept where a schema says so, no longer everywhere.
fn never_preserves(definition: &At) {
    let preserve = definition.get("spec.preserveUnknownFields");
    if preserve.yes() {
        preserve.invalid(
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead",
        );
    }
}

/// Fields that a field selector may name; they are fields of a version's schema.
fn selectable_fields(fields: &At, version: Option<&Value>, missing: &str) {
    let schema = version.map(|version| &version["schema"]["openAPIV3Schema"]);
    match schema.filter(|schema| !schema.is_null()) {
        _ if fields.empty() => {}
        Some(schema) => selectable(fields, schema),
        None => fields.invalid_as("", missing),
    }
}

fn kind_names(names: &At) {
    let check = |at: &At, prefix: &str| {
        if !at.text().is_empty() {
            joined(at, rfc1035_label, prefix);
        }
    };
    const MIXED: &str = "may have mixed case, but should otherwise match: ";
    for (field, prefix) in [("plural", ""), ("singular", ""), ("kind", MIXED), ("listKind", MIXED)] {
        check(&names.get(field), prefix);
    }
    names.get("shortNames").each(|name| joined(name, rfc1035_label, ""));
    let (kind, list) = (names.get("kind"), names.get("listKind"));
    if !kind.text().is_empty() && kind.text() == list.text() {
        list.invalid("kind and listKind may not be the same");
    }
    names.get("categories").each(|name| joined(name, rfc1035_label, ""));
}

fn version(at: &At, same: &[&str]) {
    joined(&at.get("name"), rfc1035_label, "");
    at.on("deprecationWarning", |warning| {
        if !at.get("deprecated").yes() {
            return warning.invalid("can only be set for deprecated versions");
        }
        if warning.text().len() > LONGEST_WARNING {
            warning.invalid("must be <= 256 characters long");
        }
        if warning.text().is_empty() {
            warning.invalid("must not be an empty string");
        }
        let hidden = |sign: char| sign != ' ' && (sign.is_control() || sign.is_whitespace());
        if let Some(index) = warning.text().find(hidden) {
            warning.invalid(format!(
                "must only contain printable UTF-8 characters; non-printable character found at index {index}"
            ));
        }
    });
    if !same.contains(&"schema") {
        schema(&at.get("schema"), std::slice::from_ref(at.value()));
    }
    if !same.contains(&"subresources") {
        subresources(&at.get("subresources"));
    }
    if !same.contains(&"additionalPrinterColumns") {
        at.get("additionalPrinterColumns").each(column);
    }
    if !same.contains(&"selectableFields") {
        selectable_fields(
            &at.get("selectableFields"),
            (!same.contains(&"schema")).then_some(at.value()),
            "may only be set when `version.schema.openAPIV3Schema` is not included",
        );
    }
}

fn schema(at: &At, versions: &[Value]) {
    let status = versions.iter().any(|version| !version["subresources"]["status"].is_null());
    let schema = at.get("openAPIV3Schema");
    let before = schema.errors();
    violations(&schema, status);
    // Rules are about objects that the schema describes: of one that is wrong nothing is known.
    if schema.errors() == before {
        check_definition(&schema);
    }
}

fn subresources(at: &At) {
    at.on("scale", |scale| {
        for (field, place) in [("specReplicasPath", ".spec."), ("statusReplicasPath", ".status.")] {
            let path = scale.get(field);
            if path.need() && !path.text().starts_with(place) {
                path.invalid(format!("should be a json path under {}", place.trim_end_matches('.')));
            }
        }
        let labels = scale.get("labelSelectorPath");
        let known = [".spec.", ".status."].iter().any(|place| labels.text().starts_with(place));
        if !labels.text().is_empty() && !known {
            labels.invalid("should be a json path under either .spec or .status");
        }
    });
}

fn column(at: &At) {
    const FORMATS: [&str; 8] = ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
    at.get("name").need();
    let of_type = at.get("type");
    let said = of_type.need_because("must be one of boolean,date,integer,number,string");
    if said && !["boolean", "date", "integer", "number", "string"].contains(&of_type.text()) {
        of_type.invalid("must be one of boolean,date,integer,number,string");
    }
    let format = at.get("format");
    if !format.text().is_empty() && !FORMATS.contains(&format.text()) {
        format.invalid(format!("must be one of {}", FORMATS.join(",")));
    }
    let path = at.view("JSONPath", at.get("jsonPath").value());
    if path.need() && !path.text().starts_with('.') {
        path.invalid("must be a simple json path starting with .");
    }
}

fn conversion(at: &At) {
    let (strategy, webhook) = (at.get("strategy"), at.get("webhook"));
    strategy.need_one_of(&["None", "Webhook"]);
    let client = at.view("webhookClientConfig", webhook.get("clientConfig").value());
    let versions = at.view("conversionReviewVersions", webhook.get("conversionReviewVersions").value());
    if !strategy.is("Webhook") {
        const UNUSED: &str = "should not be set when strategy is not set to Webhook";
        client.never(UNUSED);
        if !versions.empty() {
            versions.forbidden(UNUSED);
        }
        return;
    }
    if client.present() {
        client_config(&client);
    } else {
        client.required("required when strategy is set to Webhook");
    }
    review_versions(&versions, "");
}

fn stored_versions(stored: &At, versions: &[Value]) {
    if stored.empty() {
        return stored.invalid_as(stored.value().clone(), "must have at least one stored version");
    }
    for version in versions.iter().filter(|version| version["storage"] == true) {
        if !stored.items().contains(&version["name"]) {
            stored.invalid(format!("must have the storage version {}", text(version, "name")));
        }
    }
    stored.each(|name| {
        if !versions.iter().any(|version| version["name"] == *name.value()) {
            let name_text = name.text();
            name.invalid(format!(
                "missing from spec.versions; {name_text} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {name_text} and removes {name_text} from status.storedVersions"
            ));
        }
    });
}

/// Groups of the project are for APIs that it has approved.
fn approval(definition: &At, group: &str) {
    let protected = ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|domain| group == *domain || group.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.')));
    let annotations = definition.get("metadata.annotations");
    let approved = annotations.key("api-approved.kubernetes.io");
    let value = annotations.value()["api-approved.kubernetes.io"].as_str().unwrap_or_default();
    if !protected || value.starts_with("unapproved") || value.starts_with("http") {
        return;
    }
    if value.is_empty() {
        approved.required(
            "protected groups must have approval annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111",
        );
    } else {
        approved.invalid_as(
            value,
            "protected groups must have approval annotation \"api-approved.kubernetes.io\" with either a URL or a reason starting with \"unapproved\", see https://github.com/kubernetes/enhancements/pull/1111",
        );
    }
}

pub(super) const API_SERVICE: Strategy = Strategy {
    name_rule: path_segment,
    default: |service| {
        if let Some(service) = service.pointer_mut("/spec/service") {
            default(service, "port", 443);
        }
    },
    validate: |object| {
        let (name, spec) = (object.get("metadata.name"), object.get("spec"));
        let (group, version) = (spec.get("group"), spec.get("version"));
        let wanted = format!("{}.{}", version.text(), group.text());
        if name.text() != wanted && path_segment(name.text()).is_empty() && !name.text().is_empty() {
            name.invalid_as(name.text(), format!("must be `spec.version+\".\"+spec.group`: {wanted:?}"));
        }
        if group.text().is_empty() && version.text() != "v1" {
            group.required("only v1 may have an empty group and it better be legacy kube");
        }
        group.named_if_set(dns_subdomain);
        version.named_as(version.text(), rfc1035_label);
        for (field, most) in [("groupPriorityMinimum", HIGHEST_GROUP), ("versionPriority", HIGHEST_VERSION)] {
            let priority = spec.get(field);
            if !(1..=most).contains(&priority.int()) {
                priority.invalid_as(priority.int(), format!("must be positive and less than {most}"));
            }
        }
        let (service, bundle, careless) =
            (spec.get("service"), spec.get("caBundle"), spec.get("insecureSkipTLSVerify"));
        if !service.present() {
            if !bundle.empty() {
                let bytes = bundle.text().trim_end_matches('=').len() * 3 / 4;
                bundle.invalid_as(format!("{bytes} bytes"), "local APIServices may not have a caBundle");
            }
            if careless.yes() {
                careless.invalid("local APIServices may not have insecureSkipTLSVerify");
            }
            return;
        }
        service.get("namespace").need();
        service.get("name").need();
        let port = service.get("port");
        if !(1..=65535).contains(&port.int()) {
            port.invalid("port is not valid: must be between 1 and 65535, inclusive");
        }
        if careless.yes() && !bundle.empty() {
            careless.invalid("may not be true if caBundle is present");
        }
    },
    validate_status: |new, _| {
        new.get("status.conditions").each(|one| one.get("status").one_of(&["False", "True", "Unknown"]));
    },
    ..PLAIN
};
