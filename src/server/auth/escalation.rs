//! Nobody gives away rights they do not have themselves: who writes a role needs all its rules or the
//! verb `escalate`; who binds one needs all its rules or the verb `bind`.

use super::{Attributes, Authorizer, User};
use crate::registry::{Records, read};
use api::kinds::Kind;
use api::rbac::PolicyRule;
use api::status::Refusal;
use serde_json::Value;

/// Refuses a role or binding that would give its writer's rights away and more.
pub(crate) fn check(
    authorizer: &Authorizer,
    records: &Records,
    user: &User,
    kind: &Kind,
    object: &Value,
) -> Result<(), Refusal> {
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let binding = kind.kind.ends_with("Binding");
    let (rules, special) = if binding {
        let role = &object["roleRef"];
        let role_name = role["name"].as_str().unwrap_or_default();
        let resource = if role["kind"] == "ClusterRole" { "clusterroles" } else { "roles" };
        let rules = rules_of(records, resource, namespace, role_name);
        (
            rules,
            Attributes {
                verb: "bind",
                group: kind.group,
                resource,
                namespace,
                name: role_name,
                ..Attributes::default()
            },
        )
    } else {
        let rules = serde_json::from_value(object["rules"].clone()).unwrap_or_default();
        (
            rules,
            Attributes {
                verb: "escalate",
                group: kind.group,
                resource: kind.plural,
                namespace,
                name,
                ..Attributes::default()
            },
        )
    };
    if authorizer.allows(user, &special) || rules.iter().all(|rule| holds(authorizer, user, namespace, rule))
    {
        return Ok(());
    }
    let why = format!(
        "user {:?} (groups={:?}) is attempting to grant RBAC permissions not currently held",
        user.name, user.groups
    );
    Err(Refusal::forbidden(kind, name, &why))
}

fn rules_of(records: &Records, resource: &str, namespace: &str, name: &str) -> Vec<PolicyRule> {
    let place = if resource == "roles" { format!("{namespace}/{name}") } else { name.to_owned() };
    let key = format!("{resource}.rbac.authorization.k8s.io/{place}");
    let snapshot = records.snapshot();
    let object = snapshot.get(&key).map(|record| read(record)).unwrap_or_default();
    serde_json::from_value(object["rules"].clone()).unwrap_or_default()
}

/// Whether a user has every right that a rule gives.
fn holds(authorizer: &Authorizer, user: &User, namespace: &str, rule: &PolicyRule) -> bool {
    let any = [String::new()];
    let list = |texts: &Option<Vec<String>>| texts.clone().unwrap_or_default();
    let urls = list(&rule.non_resource_urls);
    let names =
        Some(list(&rule.resource_names)).filter(|names| !names.is_empty()).unwrap_or_else(|| any.to_vec());
    rule.verbs.iter().all(|verb| {
        let by_url = urls
            .iter()
            .all(|path| authorizer.allows(user, &Attributes { verb, path, ..Attributes::default() }));
        let by_resource = list(&rule.api_groups).iter().all(|group| {
            list(&rule.resources).iter().all(|resource| {
                let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
                names.iter().all(|name| {
                    authorizer.allows(
                        user,
                        &Attributes {
                            verb,
                            group,
                            resource,
                            subresource,
                            namespace,
                            name,
                            ..Attributes::default()
                        },
                    )
                })
            })
        });
        by_url && by_resource
    })
}
