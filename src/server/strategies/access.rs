//! Roles and bindings.

use super::{PLAIN, Strategy, default_zero, items_mut, text};
use api::validate::{At, dns_subdomain, label_selector, path_segment};
use serde_json::Value;

pub(super) const ROLE: Strategy = Strategy {
    name_rule: path_segment,
    validate: |role| {
        let namespaced = role.get("kind").is("Role");
        role.get("rules").each(|rule| policy_rule(rule, namespaced));
        role.on("aggregationRule", |aggregation| {
            let selectors = aggregation.get("clusterRoleSelectors");
            selectors.need_because("at least one clusterRoleSelector required if aggregationRule is non-nil");
            selectors.each(|selector| {
                let before = selector.errors();
                label_selector(selector);
                if selector.errors() != before {
                    selector.invalid_as(Value::Null, "invalid label selector.");
                }
            });
        });
    },
    ..PLAIN
};

fn policy_rule(rule: &At, namespaced: bool) {
    rule.get("verbs").need_because("verbs must contain at least one value");
    let urls = rule.get("nonResourceURLs");
    let (groups, resources) = (rule.get("apiGroups"), rule.get("resources"));
    if !urls.empty() {
        if namespaced {
            urls.invalid("namespaced rules cannot apply to non-resource URLs");
        }
        if !groups.empty() || !resources.empty() || !rule.get("resourceNames").empty() {
            urls.invalid("rules cannot apply to both regular resources and non-resource URLs");
        }
        return;
    }
    groups.need_because("resource rules must supply at least one api group");
    resources.need_because("resource rules must supply at least one resource");
}

const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) const BINDING: Strategy = Strategy {
    name_rule: path_segment,
    default: |binding| {
        if let Some(role) = binding.get_mut("roleRef") {
            default_zero(role, "apiGroup", GROUP);
        }
        for subject in items_mut(binding, "subjects") {
            if matches!(text(subject, "kind"), "User" | "Group") {
                default_zero(subject, "apiGroup", GROUP);
            }
        }
    },
    validate: |binding| {
        let namespaced = binding.get("kind").is("RoleBinding");
        let role = binding.get("roleRef");
        role.get("apiGroup").one_of(&[GROUP]);
        role.get("kind").one_of(if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] });
        role.get("name").need_named(path_segment);
        binding.get("subjects").each(|one| subject(one, namespaced));
    },
    validate_update: |new, old| {
        if *new.get("roleRef").value() != old["roleRef"] {
            new.get("roleRef").invalid_type("api.rbac.v1.RoleRef", "cannot change roleRef");
        }
    },
    ..PLAIN
};

fn subject(subject: &At, namespaced: bool) {
    let (name, group) = (subject.get("name"), subject.get("apiGroup"));
    name.need();
    match subject.get("kind").text() {
        "ServiceAccount" => {
            name.named_if_set(dns_subdomain);
            if !group.empty() {
                group.one_of(&[""]);
            }
            if !namespaced {
                subject.get("namespace").need();
            }
        }
        "User" | "Group" => group.one_of(&[GROUP]),
        _ => subject.get("kind").one_of(&["ServiceAccount", "User", "Group"]),
    }
}
