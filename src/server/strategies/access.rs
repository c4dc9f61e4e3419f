//! Roles and bindings.

use super::{Errors, PLAIN, Strategy, default, items, items_mut, names, text};
use api::validate::{Error, Path, path_segment};
use serde_json::Value;

pub(super) const ROLE: Strategy = Strategy {
    name_rule: path_segment,
    validate: |role, errors| {
        for (index, rule) in items(role, "rules").iter().enumerate() {
            let path = Path::new("rules").index(index);
            if items(rule, "verbs").is_empty() {
                errors.push(Error::required(&path.child("verbs"), "verbs must contain at least one value"));
            }
            if !items(rule, "nonResourceURLs").is_empty() {
                continue;
            }
            for field in ["apiGroups", "resources"] {
                if items(rule, field).is_empty() {
                    let detail = format!(
                        "resource rules must supply at least one {}",
                        if field == "apiGroups" { "api group" } else { "resource" }
                    );
                    errors.push(Error::required(&path.child(field), &detail));
                }
            }
        }
    },
    ..PLAIN
};

const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) const BINDING: Strategy = Strategy {
    name_rule: path_segment,
    default: |binding| {
        if let Some(role) = binding.get_mut("roleRef") {
            default(role, "apiGroup", GROUP);
        }
        for subject in items_mut(binding, "subjects") {
            if matches!(text(subject, "kind"), "User" | "Group") {
                default(subject, "apiGroup", GROUP);
            }
        }
    },
    validate: validate_binding,
    validate_update: |new, old, errors| {
        if new["roleRef"] != old["roleRef"] {
            errors.push(Error::invalid(
                &Path::new("roleRef"),
                new["roleRef"].clone(),
                "cannot change roleRef",
            ));
        }
    },
    ..PLAIN
};

fn validate_binding(binding: &Value, errors: &mut Errors) {
    let role = Path::new("roleRef");
    let supported: &[&str] =
        if binding["kind"] == "ClusterRoleBinding" { &["ClusterRole"] } else { &["Role", "ClusterRole"] };
    names::one_of(&binding["roleRef"]["kind"], &role.child("kind"), supported, errors);
    if text(&binding["roleRef"], "name").is_empty() {
        errors.push(Error::required(&role.child("name"), ""));
    }
    for (index, subject) in items(binding, "subjects").iter().enumerate() {
        let path = Path::new("subjects").index(index);
        names::one_of(&subject["kind"], &path.child("kind"), &["ServiceAccount", "User", "Group"], errors);
        if text(subject, "name").is_empty() {
            errors.push(Error::required(&path.child("name"), ""));
        }
        let homeless = text(subject, "kind") == "ServiceAccount" && text(subject, "namespace").is_empty();
        if homeless && binding["kind"] == "ClusterRoleBinding" {
            errors.push(Error::required(&path.child("namespace"), ""));
        }
    }
}
