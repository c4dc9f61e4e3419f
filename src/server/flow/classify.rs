//! Which flow schema a request belongs to (`FlowSchema.spec`). Pure.

use crate::auth::{Attributes, User};
use api::flowcontrol::{
    FlowSchemaSpec, NonResourcePolicyRule, PolicyRulesWithSubjects, ResourcePolicyRule, Subject,
};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Whether a schema takes a request.
pub(super) fn matches(spec: &FlowSchemaSpec, user: &User, attributes: &Attributes<'_>) -> bool {
    spec.rules.iter().flatten().any(|rule| rule_matches(rule, user, attributes))
}

fn rule_matches(rule: &PolicyRulesWithSubjects, user: &User, attributes: &Attributes<'_>) -> bool {
    rule.subjects.iter().any(|subject| subject_matches(subject, user))
        && if attributes.path.is_empty() {
            rule.resource_rules.iter().flatten().any(|rule| covers_resource(rule, attributes))
        } else {
            rule.non_resource_rules.iter().flatten().any(|rule| covers_path(rule, attributes))
        }
}

fn subject_matches(subject: &Subject, user: &User) -> bool {
    let named = |own: &str, wanted: &str| wanted == "*" || own == wanted;
    match (&subject.user, &subject.group, &subject.service_account) {
        (Some(wanted), ..) if subject.kind == "User" => named(&user.name, &wanted.name),
        (_, Some(wanted), _) if subject.kind == "Group" => wanted.name == "*" || user.is_in(&wanted.name),
        (.., Some(wanted)) if subject.kind == "ServiceAccount" => {
            let account = user.name.strip_prefix("system:serviceaccount:");
            let account = account.and_then(|account| account.split_once(':'));
            account.is_some_and(|(space, name)| space == wanted.namespace && named(name, &wanted.name))
        }
        _ => false,
    }
}

fn lists(list: &[String], wanted: &str) -> bool {
    list.iter().any(|one| one == "*" || one == wanted)
}

fn covers_resource(rule: &ResourcePolicyRule, attributes: &Attributes<'_>) -> bool {
    let is_resource = |one: &String| match one.split_once('/') {
        Some((resource, subresource)) => {
            resource == attributes.resource && subresource == attributes.subresource
        }
        None => one == "*" || (attributes.subresource.is_empty() && one == attributes.resource),
    };
    lists(&rule.verbs, attributes.verb)
        && rule.resources.iter().any(is_resource)
        && lists(&rule.api_groups, attributes.group)
        && match attributes.namespace {
            "" => rule.cluster_scope == Some(true),
            namespace => lists(rule.namespaces.as_deref().unwrap_or_default(), namespace),
        }
}

fn covers_path(rule: &NonResourcePolicyRule, attributes: &Attributes<'_>) -> bool {
    let is_path = |one: &String| {
        let prefix = one.trim_end_matches('*').trim_end_matches('/');
        one == "*"
            || one == attributes.path
            || attributes.path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'))
    };
    lists(&rule.verbs, attributes.verb) && rule.non_resource_urls.iter().any(is_path)
}

/// The flow within its schema, by which queues are dealt.
pub(super) fn flow(name: &str, spec: &FlowSchemaSpec, user: &User, attributes: &Attributes<'_>) -> u64 {
    let distinguisher = match spec.distinguisher_method.as_ref().map(|method| method.type_.as_str()) {
        Some("ByUser") => user.name.as_str(),
        Some("ByNamespace") => attributes.namespace,
        _ => "",
    };
    let mut hasher = DefaultHasher::new();
    (name, distinguisher).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(rule: Value) -> FlowSchemaSpec {
        serde_json::from_value(json!({"matchingPrecedence": 1, "rules": [rule],
            "priorityLevelConfiguration": {"name": "a"}, "distinguisherMethod": {"type": "ByNamespace"}}))
        .unwrap()
    }

    fn asks<'a>(verb: &'a str, namespace: &'a str, resource: &'a str) -> Attributes<'a> {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        Attributes { verb, namespace, resource, subresource, ..Attributes::default() }
    }

    #[test]
    fn subjects_are_users_groups_and_accounts() {
        let anything = json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"]}]);
        let takes = |subject: Value, user: &User| {
            let spec = spec(json!({"subjects": [subject], "resourceRules": anything}));
            matches(&spec, user, &asks("get", "a", "pods"))
        };
        let account = User::new("system:serviceaccount:web:db", &["system:serviceaccounts"]);
        let of = |namespace: &str, name: &str| json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": namespace, "name": name}});
        assert!(takes(of("web", "*"), &account) && takes(of("web", "db"), &account));
        assert!(!takes(of("we", "*"), &account) && !takes(of("web", "d"), &account));
        assert!(takes(json!({"kind": "Group", "group": {"name": "system:authenticated"}}), &account));
        assert!(!takes(json!({"kind": "Group", "group": {"name": "others"}}), &account));
        assert!(takes(json!({"kind": "User", "user": {"name": "*"}}), &account));
        assert!(!takes(json!({"kind": "User", "user": {"name": "db"}}), &account));
    }

    #[test]
    fn rules_name_verbs_resources_and_namespaces() {
        let somebody = json!([{"kind": "User", "user": {"name": "*"}}]);
        let rule = |namespaces: Value, cluster: bool| {
            spec(json!({"subjects": somebody, "resourceRules": [{"verbs": ["get", "list"], "apiGroups": [""],
                "resources": ["pods", "nodes/status"], "namespaces": namespaces, "clusterScope": cluster}]}))
        };
        let takes = |spec: &FlowSchemaSpec, attributes: Attributes<'_>| {
            matches(spec, &User::new("me", &[]), &attributes)
        };
        let web = rule(json!(["web"]), false);
        assert!(takes(&web, asks("get", "web", "pods")));
        assert!(!takes(&web, asks("get", "web", "pods/log")) && !takes(&web, asks("get", "db", "pods")));
        assert!(!takes(&web, asks("watch", "web", "pods")) && !takes(&web, asks("list", "", "pods")));
        assert!(takes(&rule(json!([]), true), asks("get", "", "nodes/status")));
        assert!(!takes(&rule(json!(["*"]), false), asks("list", "", "pods")));
    }

    #[test]
    fn paths_match_whole_parts() {
        let somebody = json!([{"kind": "Group", "group": {"name": "*"}}]);
        let takes = |url: &str, path: &str| {
            let rule = json!({"verbs": ["get"], "nonResourceURLs": [url]});
            let spec = spec(json!({"subjects": somebody, "nonResourceRules": [rule]}));
            matches(&spec, &User::new("me", &[]), &Attributes { verb: "get", path, ..Attributes::default() })
        };
        assert!(
            takes("*", "/version") && takes("/healthz", "/healthz") && takes("/healthz", "/healthz/etcd")
        );
        assert!(takes("/healthz/*", "/healthz/etcd") && !takes("/healthz", "/healthzz"));
        assert!(!takes("/livez", "/healthz"));
    }

    #[test]
    fn flows_are_told_apart_as_the_schema_says() {
        let spec = spec(json!({"subjects": []}));
        let of = |user: &str, namespace: &str| {
            flow("a", &spec, &User::new(user, &[]), &asks("get", namespace, "pods"))
        };
        assert_eq!(of("me", "web"), of("you", "web"));
        assert_ne!(of("me", "web"), of("me", "db"));
    }
}
