//! Roles and their bindings.

use super::page::Page;
use super::words::{array, names};
use crate::commands::auth::{Rule, list_of};
use serde_json::Value;

/// A Role or ClusterRole: what it allows, each thing once.
pub(super) fn role(page: &mut Page, object: &Value) {
    page.cluster_head(object);
    page.title(0, "PolicyRule");
    let rules: Vec<Rule> = array(&object["rules"]).iter().map(Rule::read).collect();
    let row = |rule: &Rule| {
        let [urls, names, verbs] = [&rule.urls, &rule.names, &rule.verbs].map(|words| list_of(words));
        format!("{}\t{urls}\t{names}\t{verbs}", rule.resource())
    };
    let header = "Resources\tNon-Resource URLs\tResource Names\tVerbs";
    page.table(1, header, Rule::compact(&rules).iter().map(row));
}

/// A RoleBinding or ClusterRoleBinding.
pub(super) fn binding(page: &mut Page, object: &Value) {
    page.cluster_head(object);
    page.title(0, "Role");
    page.all(1, &object["roleRef"], &[("Kind", "kind"), ("Name", "name")]);
    page.title(0, "Subjects");
    let row = |subject: &Value| names(subject, ["kind", "name", "namespace"]).join("\t");
    page.table(1, "Kind\tName\tNamespace", array(&object["subjects"]).iter().map(row));
}
