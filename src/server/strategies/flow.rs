//! Flow schemas and priority levels.

use super::{Generation, PLAIN, Strategy, default, default_zero};
use crate::flow::mandatory::{EXEMPT, LEVELS, SCHEMAS};
use api::validate::{At, Error, dns_label, dns_subdomain};
use serde_json::{Value, json};
use std::collections::HashSet;

const HIGHEST_PRECEDENCE: i64 = 10_000;
const MOST_QUEUES: i64 = 10_000_000;
const VERBS: [&str; 9] =
    ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

pub(super) const SCHEMA: Strategy = Strategy {
    default: |schema| {
        if let Some(spec) = schema.get_mut("spec") {
            default_zero(spec, "matchingPrecedence", 1000);
        }
    },
    validate: |schema| {
        let spec = schema.get("spec");
        let precedence = spec.get("matchingPrecedence");
        if precedence.int() <= 0 {
            precedence.invalid("must be a positive value");
        }
        if precedence.int() > HIGHEST_PRECEDENCE {
            precedence.invalid(format!("must not be greater than {HIGHEST_PRECEDENCE}"));
        }
        if precedence.int() == 1 && !schema.get("metadata.name").is("exempt") {
            precedence.invalid("only the schema named 'exempt' may have matchingPrecedence 1");
        }
        spec.on("distinguisherMethod", |method| {
            if !["ByNamespace", "ByUser"].iter().any(|word| method.get("type").is(word)) {
                let known = ["ByNamespace", "ByUser"];
                method.get("type").report(|path| {
                    Error::not_supported(path, Value::Null, &known)
                        .of_type(method.value(), "api.flowcontrol.v1.FlowDistinguisherMethod")
                });
            }
        });
        let level = spec.get("priorityLevelConfiguration.name");
        if level.need_because("must reference a priority level") {
            level.named(dns_subdomain);
        }
        spec.get("rules").each(rule);
        let name = schema.get("metadata.name");
        if let Some((name, _)) = SCHEMAS.iter().find(|(own, fixed)| name.is(own) && spec.value() != fixed) {
            changed(&spec, "FlowSchemaSpec", name, "");
        }
    },
    validate_status: |new, _| conditions(&new.get("status.conditions")),
    generation: Generation::Counted,
    ..PLAIN
};

/// Refuses another specification than the one that an object of this name has.
fn changed(spec: &At, of: &str, name: &str, free: &str) {
    let why = format!("spec of '{name}'{free} must equal the fixed value");
    let ty = format!("api.flowcontrol.v1.{of}");
    spec.report(|path| Error::invalid(path, Value::Null, why.clone()).of_type(spec.value(), &ty));
}

fn conditions(list: &At) {
    let mut seen = HashSet::new();
    list.each(|condition| {
        condition.get("type").unique(&mut seen);
        condition.get("type").need();
    });
}

fn rule(rule: &At) {
    let subjects = rule.get("subjects");
    subjects.need_because("subjects must contain at least one value");
    subjects.each(subject);
    let (resources, urls) = (rule.get("resourceRules"), rule.get("nonResourceRules"));
    if resources.empty() && urls.empty() {
        rule.required("at least one of resourceRules and nonResourceRules has to be non-empty");
    }
    resources.each(|one| {
        verbs(&one.get("verbs"));
        wildcard(&one.get("apiGroups"), "resource rules must supply at least one api group", "api groups");
        wildcard(&one.get("resources"), "resource rules must supply at least one resource", "resources");
        let spaces = one.get("namespaces");
        if spaces.empty() && !one.get("clusterScope").yes() {
            spaces.required("resource rules that are not cluster scoped must supply at least one namespace");
        } else if has_all(&spaces) {
            alone(&spaces, "namespaces");
        } else {
            spaces.each(|space| {
                for problem in dns_label(space.text()) {
                    space.invalid(format!(
                        "each member of this list must be '*' or a DNS-1123 label; {problem}"
                    ));
                }
            });
        }
    });
    urls.each(|one| {
        verbs(&one.get("verbs"));
        let paths = one.get("nonResourceURLs");
        if !paths.need_because("nonResourceURLs must contain at least one value") {
            return;
        }
        if has_all(&paths) {
            alone(&paths, "non-resource URLs");
        } else {
            paths.each(url_path);
        }
    });
}

fn has_all(list: &At) -> bool {
    list.items().iter().any(|item| item == "*")
}

fn alone(list: &At, what: &str) {
    if list.items().len() > 1 {
        list.invalid(format!("if '*' is present, must not specify other {what}"));
    }
}

fn wildcard(list: &At, missing: &str, what: &str) {
    if list.need_because(missing) && has_all(list) {
        alone(list, what);
    }
}

fn verbs(list: &At) {
    if !list.need_because("verbs must contain at least one value") {
        return;
    }
    if has_all(list) {
        alone(list, "verbs");
    } else if !list.items().iter().all(|verb| VERBS.iter().any(|known| verb == known)) {
        list.report(|path| Error::not_supported(path, list.value().clone(), &VERBS));
    }
}

fn url_path(at: &At) {
    let text = at.text();
    let stars = text.matches('*').count();
    let problem = if text.is_empty() {
        "must not be empty"
    } else if text == "/" {
        return;
    } else if !text.starts_with('/') {
        "must start with slash"
    } else if text.contains(' ') {
        "must not contain white-space"
    } else if text.contains("//") {
        "must not contain double slash"
    } else if stars > 1 || (stars == 1 && !text.ends_with("/*")) {
        "wildcard can only do suffix matching"
    } else {
        return;
    };
    at.invalid_as(text, problem);
}

fn subject(at: &At) {
    const KINDS: [(&str, &str); 3] =
        [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];
    let kind = at.get("kind");
    let Some((name, field)) = KINDS.iter().find(|(name, _)| kind.is(name)) else {
        return kind.one_of(&["Group", "ServiceAccount", "User"]);
    };
    let own = at.get(field);
    if !own.present() {
        own.required(&format!("{field} is required when subject kind is '{name}'"));
    } else if *field == "serviceAccount" {
        if own.get("name").need() && !own.get("name").is("*") {
            own.get("name").named(dns_subdomain);
        }
        let space = own.get("namespace");
        if space.need_because("must specify namespace for service account") {
            space.named(dns_label);
        }
    } else {
        own.get("name").need();
    }
    // Others are told in the order user, service account, group.
    for (other, field) in [KINDS[1], KINDS[0], KINDS[2]] {
        if other != *name {
            at.get(field).never(&format!("{field} is forbidden when subject kind is not '{other}'"));
        }
    }
}

pub(super) const LEVEL: Strategy = Strategy {
    default: |level| {
        let Some(spec) = level.get_mut("spec") else { return };
        if let Some(exempt) = spec.get_mut("exempt") {
            default(exempt, "nominalConcurrencyShares", 0);
            default(exempt, "lendablePercent", 0);
        }
        if let Some(limited) = spec.get_mut("limited") {
            default(limited, "nominalConcurrencyShares", 30);
            default(limited, "lendablePercent", 0);
            if let Some(queuing) = limited.pointer_mut("/limitResponse/queuing") {
                for (field, value) in [("handSize", 8), ("queues", 64), ("queueLengthLimit", 50)] {
                    default_zero(queuing, field, value);
                }
            }
        }
    },
    prepare_create: |level| level["status"] = json!({}),
    validate: |level| {
        let spec = level.get("spec");
        let kind = spec.get("type");
        if level.get("metadata.name").is("exempt") != kind.is("Exempt") {
            kind.invalid_as(kind.text(), "must be 'Exempt' if and only if `name` is 'exempt'");
        }
        match kind.text() {
            "Exempt" => {
                spec.get("limited").never("must be nil if the type is not Limited");
                spec.on("exempt", shares);
            }
            "Limited" => {
                spec.get("exempt").never("must be nil if the type is Limited");
                let limited = spec.get("limited");
                if limited.present() {
                    self::limited(&limited);
                } else {
                    limited.required("must not be empty when type is Limited");
                }
            }
            _ => kind.one_of(&["Exempt", "Limited"]),
        }
        let name = level.get("metadata.name");
        if let Some((name, fixed)) = LEVELS.iter().find(|(own, _)| name.is(own)) {
            let is_free = |field: &str| *name == EXEMPT && field == EXEMPT;
            let kept = |spec: &Value| -> Vec<(String, Value)> {
                let fields = spec.as_object().cloned().unwrap_or_default().into_iter();
                fields.filter(|(field, _)| !is_free(field)).collect()
            };
            if kept(spec.value()) != kept(fixed) {
                let free = if *name == EXEMPT { " except the 'spec.exempt' field" } else { "" };
                changed(&spec, "PriorityLevelConfigurationSpec", name, free);
            }
        }
    },
    validate_status: |new, _| conditions(&new.get("status.conditions")),
    generation: Generation::Counted,
    ..PLAIN
};

fn nominal(at: &At) {
    if at.get("nominalConcurrencyShares").int() < 0 {
        at.get("nominalConcurrencyShares").invalid("must be a non-negative integer");
    }
}

fn shares(at: &At) {
    nominal(at);
    at.get("lendablePercent").within_if_set(0, 100);
}

fn limited(at: &At) {
    nominal(at);
    let response = at.get("limitResponse");
    let queuing = response.get("queuing");
    match response.get("type").text() {
        "Reject" => queuing.never("must be nil if limited.limitResponse.type is not Limited"),
        "Queue" if queuing.present() => self::queuing(&queuing),
        "Queue" => queuing.required("must not be empty if limited.limitResponse.type is Limited"),
        _ => response.get("type").one_of(&["Queue", "Reject"]),
    }
    at.get("lendablePercent").within_if_set(0, 100);
    if at.get("borrowingLimitPercent").int() < 0 {
        at.get("borrowingLimitPercent").invalid("if specified, must be a non-negative integer");
    }
}

/// How many bits choose a hand of so many queues among all.
fn entropy_bits(queues: i64, hand: i64) -> u32 {
    let log: f64 = (0..hand).map(|dealt| ((queues - dealt) as f64).log2()).sum();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small number of bits")]
    let bits = log.ceil() as u32;
    bits
}

const MOST_BITS: u32 = 60;

fn queuing(at: &At) {
    let (length, queues, hand) = (at.get("queueLengthLimit"), at.get("queues"), at.get("handSize"));
    if length.int() <= 0 {
        length.invalid("must be positive");
    }
    if queues.int() <= 0 {
        queues.invalid("must be positive");
    } else if queues.int() > MOST_QUEUES {
        queues.invalid(format!("must not be greater than {MOST_QUEUES}"));
    }
    if hand.int() <= 0 {
        hand.invalid("must be positive");
    } else if hand.int() > queues.int() {
        hand.invalid(format!("should not be greater than queues ({})", queues.int()));
    } else if entropy_bits(queues.int(), hand.int()) > MOST_BITS {
        hand.invalid(format!(
            "required entropy bits of deckSize {} and handSize {} should not be greater than {MOST_BITS}",
            queues.int(),
            hand.int()
        ));
    }
}
