//! Role-based access control (rbac.authorization.k8s.io/v1): who is bound to which rules, compiled
//! from the stored roles and bindings whenever one of them changes.

use super::{Attributes, User};
use crate::registry::{Followed, Records};
use api::rbac::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject};
use arc_swap::ArcSwap;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::sync::Arc;

const GROUP: &str = "rbac.authorization.k8s.io";

type Rules = Arc<[PolicyRule]>;

/// Rules, and the namespace they are good for; "" for all.
struct Grant {
    namespace: String,
    rules: Rules,
}

#[derive(Default)]
struct Policy {
    /// The last change of a role or binding that is in the policy; `None` before it was compiled.
    revision: Option<u64>,
    users: HashMap<String, Vec<Grant>>,
    groups: HashMap<String, Vec<Grant>>,
}

/// Answers from a policy that is compiled anew when roles or bindings have changed.
pub(super) struct Rbac {
    records: Records,
    policy: ArcSwap<Policy>,
}

const PLURALS: [&str; 4] = ["clusterroles", "clusterrolebindings", "roles", "rolebindings"];

impl Rbac {
    pub(super) fn new(records: Records) -> Self {
        Self { records, policy: ArcSwap::default() }
    }

    pub(super) fn allows(&self, user: &User, attributes: &Attributes<'_>) -> bool {
        let policy = self.current();
        let mut grants = policy
            .grants(user)
            .filter(|grant| grant.namespace.is_empty() || grant.namespace == attributes.namespace);
        grants.any(|grant| grant.rules.iter().any(|rule| covers(rule, attributes)))
    }

    pub(super) fn rules(&self, user: &User, namespace: &str) -> Vec<PolicyRule> {
        let policy = self.current();
        let grants =
            policy.grants(user).filter(|grant| grant.namespace.is_empty() || grant.namespace == namespace);
        grants.flat_map(|grant| grant.rules.iter().cloned()).collect()
    }

    fn current(&self) -> Arc<Policy> {
        let policy = self.policy.load_full();
        let revision = self.records.changed(Followed::Access);
        if policy.revision == Some(revision) {
            return policy;
        }
        let fresh = Arc::new(Policy { revision: Some(revision), ..Policy::compile(&self.records) });
        self.policy.store(fresh.clone());
        fresh
    }
}

fn all<T: DeserializeOwned>(records: &Records, plural: &str) -> Vec<T> {
    let snapshot = records.snapshot();
    let prefix = format!("{plural}.{GROUP}/");
    let decoded =
        snapshot.range(&prefix, None).filter_map(|record| serde_json::from_slice(&record.value).ok());
    decoded.collect()
}

impl Policy {
    fn compile(records: &Records) -> Self {
        let cluster_roles: HashMap<String, Rules> = all::<ClusterRole>(records, PLURALS[0])
            .into_iter()
            .map(|role| (role.metadata.name.unwrap_or_default(), role.rules.unwrap_or_default().into()))
            .collect();
        let roles: HashMap<(String, String), Rules> = all::<Role>(records, PLURALS[2])
            .into_iter()
            .map(|role| {
                let key =
                    (role.metadata.namespace.unwrap_or_default(), role.metadata.name.unwrap_or_default());
                (key, role.rules.unwrap_or_default().into())
            })
            .collect();
        let find = |namespace: &str, role: &RoleRef| match role.kind.as_str() {
            "ClusterRole" => cluster_roles.get(&role.name).cloned(),
            _ => roles.get(&(namespace.to_owned(), role.name.clone())).cloned(),
        };
        let mut policy = Self::default();
        for binding in all::<ClusterRoleBinding>(records, PLURALS[1]) {
            policy.bind("", find("", &binding.role_ref), binding.subjects);
        }
        for binding in all::<RoleBinding>(records, PLURALS[3]) {
            let namespace = binding.metadata.namespace.unwrap_or_default();
            policy.bind(&namespace, find(&namespace, &binding.role_ref), binding.subjects);
        }
        policy
    }

    fn bind(&mut self, namespace: &str, rules: Option<Rules>, subjects: Option<Vec<Subject>>) {
        let Some(rules) = rules else { return };
        for subject in subjects.unwrap_or_default() {
            let grant = Grant { namespace: namespace.to_owned(), rules: rules.clone() };
            match subject.kind.as_str() {
                "Group" => self.groups.entry(subject.name).or_default().push(grant),
                "ServiceAccount" => {
                    let home = subject.namespace.unwrap_or_else(|| namespace.to_owned());
                    let user = format!("system:serviceaccount:{home}:{}", subject.name);
                    self.users.entry(user).or_default().push(grant);
                }
                _ => self.users.entry(subject.name).or_default().push(grant),
            }
        }
    }

    fn grants<'a>(&'a self, user: &'a User) -> impl Iterator<Item = &'a Grant> {
        let own = self.users.get(&user.name).into_iter().flatten();
        own.chain(user.groups.iter().filter_map(|group| self.groups.get(group)).flatten())
    }
}

fn lists(list: Option<&Vec<String>>, wanted: &str) -> bool {
    list.is_some_and(|list| list.iter().any(|one| one == "*" || one == wanted))
}

/// Whether a rule allows this.
pub(super) fn covers(rule: &PolicyRule, attributes: &Attributes<'_>) -> bool {
    if !lists(Some(&rule.verbs), attributes.verb) {
        return false;
    }
    if !attributes.path.is_empty() {
        return rule.non_resource_urls.iter().flatten().any(|url| match url.strip_suffix('*') {
            Some(prefix) => attributes.path.starts_with(prefix),
            None => url == attributes.path,
        });
    }
    let resource = match attributes.subresource {
        "" => attributes.resource.to_owned(),
        subresource => format!("{}/{subresource}", attributes.resource),
    };
    let resources = rule.resources.iter().flatten().any(|one| {
        one == "*"
            || *one == resource
            || one.strip_prefix("*/").is_some_and(|sub| !sub.is_empty() && sub == attributes.subresource)
    });
    let names = rule
        .resource_names
        .as_ref()
        .is_none_or(|names| names.is_empty() || names.iter().any(|name| name == attributes.name));
    resources && names && lists(rule.api_groups.as_ref(), attributes.group)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(groups: &[&str], resources: &[&str], names: &[&str], verbs: &[&str]) -> PolicyRule {
        let texts = |texts: &[&str]| Some(texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        PolicyRule {
            api_groups: texts(groups),
            resources: texts(resources),
            resource_names: texts(names),
            verbs: texts(verbs).unwrap(),
            non_resource_urls: None,
        }
    }

    #[test]
    fn rules_cover_what_they_name_and_nothing_else() {
        let get_log = Attributes {
            verb: "get",
            resource: "pods",
            subresource: "log",
            namespace: "web",
            name: "a",
            ..Attributes::default()
        };
        assert!(covers(&rule(&[""], &["pods/log"], &[], &["get"]), &get_log));
        assert!(covers(&rule(&["*"], &["*/log"], &["a"], &["*"]), &get_log));
        assert!(
            !covers(&rule(&[""], &["pods"], &[], &["get"]), &get_log),
            "a resource does not include its subresources"
        );
        assert!(!covers(&rule(&["apps"], &["*"], &[], &["get"]), &get_log));
        assert!(!covers(&rule(&[""], &["pods/log"], &["b"], &["get"]), &get_log));
        let path = Attributes { verb: "get", path: "/metrics/x", ..Attributes::default() };
        let urls = |url: &str| PolicyRule {
            verbs: vec!["get".into()],
            non_resource_urls: Some(vec![url.into()]),
            ..PolicyRule::default()
        };
        assert!(covers(&urls("/metrics/*"), &path));
        assert!(!covers(&urls("/metrics"), &path));
        assert!(!covers(&rule(&["*"], &["*"], &[], &["*"]), &path));
    }
}
