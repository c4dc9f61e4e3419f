//! Admission webhooks and policies.

use super::{Generation, PLAIN, Strategy, default, items_mut};
use crate::registry::{Composer, Purpose, compile, environment, made_by};
use api::validate::{
    At, Rule, c_identifier, dns_subdomain, label_selector, path_segment, qualified_name, rfc1035_label,
};
use cel::Type;
use serde_json::{Value, json};
use std::collections::HashSet;

pub(super) const WEBHOOKS: Strategy = Strategy {
    default: |object| {
        let mutates = object["kind"] == "MutatingWebhookConfiguration";
        for hook in items_mut(object, "webhooks") {
            default(hook, "failurePolicy", "Fail");
            match_defaults(hook);
            default(hook, "timeoutSeconds", 10);
            if mutates {
                default(hook, "reinvocationPolicy", "Never");
            }
            items_mut(hook, "rules").for_each(|rule| default(rule, "scope", "*"));
            if let Some(service) = hook.pointer_mut("/clientConfig/service") {
                default(service, "port", 443);
            }
        }
    },
    validate: |object| {
        let mut seen = HashSet::new();
        object.get("webhooks").each(|hook| {
            webhook(hook);
            review_versions(&hook.get("admissionReviewVersions"), "must specify one of v1, v1beta1");
            if !hook.get("name").empty() {
                hook.get("name").unique(&mut seen);
            }
        });
    },
    generation: Generation::Counted,
    ..PLAIN
};

fn match_defaults(object: &mut Value) {
    default(object, "matchPolicy", "Equivalent");
    default(object, "namespaceSelector", json!({}));
    default(object, "objectSelector", json!({}));
}

fn match_resources_defaults(spec: &mut Value, field: &str) {
    let Some(resources) = spec.get_mut(field) else { return };
    match_defaults(resources);
    for list in ["resourceRules", "excludeResourceRules"] {
        items_mut(resources, list).for_each(|rule| default(rule, "scope", "*"));
    }
}

/// A domain of three parts at least.
fn fully_qualified(at: &At) {
    if !at.need() {
        return;
    }
    let problems = dns_subdomain(at.text());
    if !problems.is_empty() {
        at.invalid(problems.join(","));
    } else if at.text().split('.').count() < 3 {
        at.invalid("should be a domain with at least three segments separated by dots");
    }
}

fn webhook(hook: &At) {
    fully_qualified(&hook.get("name"));
    hook.get("rules").each(rule);
    hook.get("failurePolicy").one_of_if_set(&["Fail", "Ignore"]);
    hook.get("matchPolicy").one_of_if_set(&["Equivalent", "Exact"]);
    let effects = hook.get("sideEffects");
    if effects.present() {
        effects.one_of(&["None", "NoneOnDryRun"]);
    } else {
        effects.required("must specify one of None, NoneOnDryRun");
    }
    let timeout = hook.get("timeoutSeconds");
    if timeout.present() && !(1..=30).contains(&timeout.int()) {
        timeout.invalid("the timeout value must be between 1 and 30 seconds");
    }
    label_selector(&hook.get("namespaceSelector"));
    label_selector(&hook.get("objectSelector"));
    hook.get("reinvocationPolicy").one_of_if_set(&["IfNeeded", "Never"]);
    client_config(&hook.get("clientConfig"));
    match_conditions(&hook.get("matchConditions"), false);
}

/// Where a webhook is.
pub(super) fn client_config(at: &At) {
    let (url, service) = (at.get("url"), at.get("service"));
    if url.present() == service.present() {
        at.required("exactly one of url or service is required");
    } else if url.present() {
        webhook_url(&url);
    } else {
        webhook_service(&service);
    }
}

fn webhook_url(at: &At) {
    const FORM: &str = "; desired format: https://host[/path]";
    let (scheme, rest) = at.text().split_once("://").unwrap_or(("", at.text()));
    if scheme != "https" {
        at.invalid_as(scheme, format!("'https' is the only allowed URL scheme{FORM}"));
    }
    let host = if scheme.is_empty() { "" } else { rest.split(['/', '?', '#']).next().unwrap_or_default() };
    let (user, host) = host.rsplit_once('@').map_or((None, host), |(user, host)| (Some(user), host));
    if host.is_empty() {
        at.invalid_as("", format!("host must be specified{FORM}"));
    }
    if let Some(user) = user {
        at.invalid_as(user, "user information is not permitted in the URL");
    }
    let (before, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    if !fragment.is_empty() {
        at.invalid_as(fragment, "fragments are not permitted in the URL");
    }
    if let Some((_, query)) = before.split_once('?').filter(|(_, query)| !query.is_empty()) {
        at.invalid_as(query, "query parameters are not permitted in the URL");
    }
}

fn webhook_service(at: &At) {
    // Kubernetes tells the one when it means the other.
    if at.get("namespace").empty() {
        at.get("name").required("");
    }
    if at.get("name").empty() {
        at.get("namespace").required("");
    }
    let port = at.get("port");
    if !(1..=65535).contains(&port.int()) {
        port.invalid_as(port.int(), "port is not valid: must be between 1 and 65535, inclusive");
    }
    let path = at.get("path");
    match path.text() {
        "" | "/" => {}
        "//" => path.invalid("segment[0] may not be empty"),
        text => {
            if !text.starts_with('/') {
                path.invalid("must start with a '/'");
            }
            let plain = text.get(1..).unwrap_or_default();
            let plain = plain.strip_suffix('/').unwrap_or(plain);
            for (index, step) in plain.split('/').enumerate() {
                if step.is_empty() {
                    path.invalid(format!("segment[{index}] may not be empty"));
                } else {
                    dns_subdomain(step)
                        .into_iter()
                        .for_each(|problem| path.invalid(format!("segment[{index}]: {problem}")));
                }
            }
        }
    }
}

/// The versions of reviews that a webhook understands; `missing` is said where there are none.
pub(super) fn review_versions(list: &At, missing: &str) {
    if !list.need_because(missing) {
        return;
    }
    let mut seen = HashSet::new();
    list.each(|version| {
        if seen.insert(version.text()) {
            version.named(rfc1035_label);
        } else {
            version.invalid("duplicate version");
        }
    });
    if !list.items().iter().any(|one| one == "v1" || one == "v1beta1") {
        list.invalid("must include at least one of v1, v1beta1");
    }
}

fn all_alone(list: &At, what: &str) {
    if list.items().len() > 1 && list.items().iter().any(|item| item == "*") {
        list.invalid(format!("if '*' is present, must not specify other {what}"));
    }
}

fn rule(rule: &At) {
    let operations = rule.get("operations");
    operations.need();
    all_alone(&operations, "operations");
    operations.each(|one| one.one_of(&["*", "CONNECT", "CREATE", "DELETE", "UPDATE"]));
    let (groups, versions) = (rule.get("apiGroups"), rule.get("apiVersions"));
    groups.need();
    all_alone(&groups, "API groups");
    versions.need();
    all_alone(&versions, "API versions");
    versions.each(|version| {
        version.need();
    });
    resources(&rule.get("resources"));
    rule.get("scope").one_of_if_set(&["*", "Cluster", "Namespaced"]);
}

fn resources(list: &At) {
    list.need();
    let (mut whole, mut under): (HashSet<&str>, HashSet<&str>) = (HashSet::new(), HashSet::new());
    let (mut every, mut star, mut plain) = (false, false, false);
    list.each(|item| {
        let text = item.text();
        every |= text == "*/*";
        star |= text == "*";
        let Some((resource, sub)) = text.split_once('/') else {
            if text.is_empty() {
                item.required("");
            } else {
                plain = text != "*";
            }
            return;
        };
        if text == "*/*" {
            return;
        }
        if whole.contains(resource) {
            item.invalid(format!("if '{resource}/*' is present, must not specify {text}"));
        }
        if under.contains(sub) {
            item.invalid(format!("if '*/{sub}' is present, must not specify {text}"));
        }
        if sub == "*" {
            whole.insert(resource);
        }
        if resource == "*" {
            under.insert(sub);
        }
    });
    if list.items().len() > 1 && every {
        list.invalid("if '*/*' is present, must not specify other resources");
    }
    if star && plain {
        list.invalid("if '*' is present, must not specify other resources without subresources");
    }
}

const MOST_CONDITIONS: usize = 64;

fn match_conditions(list: &At, has_params: bool) {
    list.no_more_than(MOST_CONDITIONS);
    let (mut seen, mut environment) = (HashSet::new(), environment(true));
    if has_params {
        environment = environment.variable("params", Type::Dyn);
    }
    list.each(|condition| {
        let at = condition.get("expression");
        expression(&at, "");
        let text = at.text().trim();
        if let Some(why) = compile(&environment, text, &[Type::Bool]).err().filter(|_| !text.is_empty()) {
            at.invalid_as(text, why);
        }
        let name = condition.get("name");
        if name.need() {
            name.named(qualified_name);
            name.unique(&mut seen);
        }
    });
}

/// An expression has to be there.
fn expression(at: &At, why: &str) {
    if at.text().trim().is_empty() {
        at.required(why);
    }
}

fn match_resources(at: &At) {
    at.get("matchPolicy").one_of_if_set(&["Equivalent", "Exact"]);
    label_selector(&at.get("namespaceSelector"));
    label_selector(&at.get("objectSelector"));
    for field in ["resourceRules", "excludeResourceRules"] {
        at.get(field).each(|named| {
            let mut seen = HashSet::new();
            named.get("resourceNames").each(|name| {
                name.named(path_segment);
                name.unique(&mut seen);
            });
            rule(named);
        });
    }
}

fn param_kind(at: &At) {
    let (version, kind) = (at.get("apiVersion"), at.get("kind"));
    if version.need() {
        let joined = |text: &str, rule: Rule| {
            let problems = rule(text);
            if !problems.is_empty() {
                version.invalid_as(text, problems.join(","));
            }
        };
        match version.text().matches('/').count() {
            0 => joined(version.text(), rfc1035_label),
            1 => {
                let (group, number) = version.text().split_once('/').unwrap_or_default();
                if !group.is_empty() {
                    joined(group, dns_subdomain);
                }
                if number.is_empty() {
                    version.invalid("version must be specified");
                } else {
                    joined(number, rfc1035_label);
                }
            }
            _ => version.invalid(format!("unexpected GroupVersion string: {}", version.text())),
        }
    }
    if kind.need() {
        let problems = rfc1035_label(&kind.text().to_ascii_lowercase());
        if !problems.is_empty() {
            kind.invalid(format!("may have mixed case, but should otherwise match: {}", problems.join(",")));
        }
    }
}

/// Checks what both kinds of policies have; gives what compiles their other expressions.
fn policy(spec: &At) -> Composer {
    spec.get("failurePolicy").one_of_if_set(&["Fail", "Ignore"]);
    spec.on("paramKind", param_kind);
    let constraints = spec.get("matchConstraints");
    if constraints.present() {
        match_resources(&constraints);
        constraints.get("resourceRules").need();
    } else {
        constraints.required("");
    }
    let has_params = spec.get("paramKind").present();
    match_conditions(&spec.get("matchConditions"), has_params);
    let mut composer = Composer::new(has_params);
    spec.get("variables").each(|variable| {
        let name = variable.get("name");
        if name.text().trim().is_empty() {
            name.required("name is not specified");
        } else if !c_identifier(name.text()).is_empty() {
            name.invalid("must be a valid CEL identifier");
        }
        let at = variable.get("expression");
        compiled(&at, "expression is not specified", |source| composer.variable(name.text(), source));
    });
    composer
}

/// An expression has to be there, and to compile.
fn compiled(at: &At, why: &str, compile: impl FnOnce(&str) -> Result<cel::Program, String>) {
    expression(at, why);
    if !at.text().trim().is_empty()
        && let Err(problem) = compile(at.text())
    {
        at.invalid(problem);
    }
}

fn policy_defaults(policy: &mut Value) {
    if let Some(spec) = policy.get_mut("spec") {
        default(spec, "failurePolicy", "Fail");
        match_resources_defaults(spec, "matchConstraints");
    }
}

pub(super) const VALIDATING_POLICY: Strategy = Strategy {
    default: policy_defaults,
    validate: |object| {
        let spec = object.get("spec");
        let composer = policy(&spec);
        let (validations, annotations) = (spec.get("validations"), spec.get("auditAnnotations"));
        if validations.empty() && annotations.empty() {
            let why = "validations or auditAnnotations must contain at least one item";
            validations.required(why);
            annotations.required(why);
        }
        validations.each(|at| validation(at, &composer));
        if annotations.items().len() > 20 {
            annotations.invalid("must not have more than 20 auditAnnotations");
        }
        let mut seen = HashSet::new();
        annotations.each(|annotation| {
            let (key, name) = (annotation.get("key"), object.get("metadata.name").text());
            if name.is_empty() {
                key.invalid("requires metadata.name be non-empty");
            } else {
                key.named_as(&format!("{name}/{}", key.text()), qualified_name);
            }
            let value = annotation.get("valueExpression");
            compiled(&value, "valueExpression is not specified", |source| {
                composer.compile(Purpose::Decides, source.trim(), &[Type::String, Type::Null])
            });
            key.unique(&mut seen);
        });
    },
    validate_status: |new, _| api::validate::conditions(&new.get("status.conditions")),
    generation: Generation::Counted,
    ..PLAIN
};

fn validation(at: &At, composer: &Composer) {
    compiled(&at.get("expression"), "expression is not specified", |source| {
        composer.compile(Purpose::Decides, source, &[Type::Bool])
    });
    let filled = |field: &At| {
        if field.present() && !field.empty() && field.text().trim().is_empty() {
            field.invalid("must be non-empty if specified");
        }
    };
    let words = at.get("messageExpression");
    filled(&words);
    if let Some(Err(problem)) = Some(words.text())
        .filter(|source| !source.trim().is_empty())
        .map(|source| composer.compile(Purpose::Tells, source, &[Type::String]))
    {
        words.invalid(problem);
    }
    let message = at.get("message");
    filled(&message);
    if message.text().trim().contains(['\n', '\r']) {
        message.invalid("must not contain line breaks");
    }
    at.get("reason").one_of_if_set(&["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"]);
}

fn binding(spec: &At) {
    spec.get("policyName").need_named(dns_subdomain);
    spec.on("paramRef", |reference| {
        let (name, selector) = (reference.get("name"), reference.get("selector"));
        let both = "name and selector are mutually exclusive";
        name.named_if_set(path_segment);
        if !name.empty() && selector.present() {
            name.forbidden(both);
        }
        label_selector(&selector);
        if !name.empty() && selector.present() {
            selector.forbidden(both);
        }
        if name.empty() && !selector.present() {
            reference.required("one of name or selector must be specified");
        }
        reference.get("parameterNotFoundAction").need_one_of(&["Deny", "Allow"]);
    });
    spec.on("matchResources", match_resources);
}

pub(super) const VALIDATING_BINDING: Strategy = Strategy {
    default: |object| {
        if let Some(spec) = object.get_mut("spec") {
            match_resources_defaults(spec, "matchResources");
        }
    },
    validate: |object| {
        binding(&object.get("spec"));
        let spec = object.get("spec");
        let actions = spec.get("validationActions");
        let mut seen = HashSet::new();
        actions.each(|action| {
            action.one_of(&["Audit", "Deny", "Warn"]);
            action.unique(&mut seen);
        });
        if seen.contains("Deny") && seen.contains("Warn") {
            actions.invalid("must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)");
        }
        actions.need_because("at least one validation action is required");
    },
    generation: Generation::Counted,
    ..PLAIN
};

/// Types of patches, and the fields that they are in.
const PATCHES: [(&str, &str); 2] = [("ApplyConfiguration", "applyConfiguration"), ("JSONPatch", "jsonPatch")];

pub(super) const MUTATING_POLICY: Strategy = Strategy {
    default: policy_defaults,
    validate: |object| {
        let spec = object.get("spec");
        let composer = policy(&spec);
        let mutations = spec.get("mutations");
        mutations.need_because("mutations must contain at least one item");
        mutations.each(|mutation| {
            let kind = mutation.get("patchType");
            kind.need_one_of(&["ApplyConfiguration", "JSONPatch"]);
            for (name, field) in PATCHES {
                let patch = mutation.get(field);
                if kind.is(name) && !patch.present() {
                    patch.required(&format!("must be specified when patchType is {name}"));
                } else if kind.is(name) {
                    let source = patch.get("expression");
                    compiled(&source, "", |_| {
                        composer.compile(Purpose::Changes, source.text().trim(), &[made_by(name)])
                    });
                } else if patch.present() && !kind.empty() {
                    let why = format!("must not be specified when patchType is {}", kind.text());
                    patch.invalid_as(format!("{{{field}}}"), why);
                }
            }
        });
        let again = spec.get("reinvocationPolicy");
        if again.need() {
            again.one_of(&["IfNeeded", "Never"]);
        }
    },
    generation: Generation::Counted,
    ..PLAIN
};

pub(super) const MUTATING_BINDING: Strategy = Strategy {
    default: |object| {
        if let Some(spec) = object.get_mut("spec") {
            match_resources_defaults(spec, "matchResources");
        }
    },
    validate: |object| binding(&object.get("spec")),
    generation: Generation::Counted,
    ..PLAIN
};
