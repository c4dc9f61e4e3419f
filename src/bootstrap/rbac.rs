//! The default roles and bindings: reads `manifests/rbac.yaml`, and says what an existing one lacks.

use serde::Deserialize;
use serde_json::{Map, Value, json};

/// The file, whose head explains its form.
const DEFAULTS: &str = include_str!("../../manifests/rbac.yaml");
const API: &str = "rbac.authorization.k8s.io";
const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    cluster_roles: Vec<Role>,
    roles: Vec<Role>,
    cluster_role_bindings: Vec<Binding>,
    controllers: Vec<String>,
    role_bindings: Vec<Binding>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Role {
    name: String,
    namespace: Option<String>,
    aggregate_to: Option<String>,
    aggregates: Option<String>,
    #[serde(default)]
    rules: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Binding {
    name: String,
    namespace: Option<String>,
    role: Option<String>,
    #[serde(default)]
    subjects: Vec<String>,
}

/// The objects, by kind: cluster roles, roles, cluster role bindings, role bindings.
pub(crate) struct Defaults {
    pub(crate) cluster_roles: Vec<Value>,
    pub(crate) roles: Vec<Value>,
    pub(crate) cluster_role_bindings: Vec<Value>,
    pub(crate) role_bindings: Vec<Value>,
}

pub(crate) fn defaults() -> Result<Defaults, String> {
    let file: File = serde_yaml::from_str(DEFAULTS).map_err(|error| error.to_string())?;
    let controllers = file.controllers.iter().map(|role| {
        let account = role.rsplit(':').next().unwrap_or(role);
        let subjects =
            vec![format!("account:kube-system/{account}"), "user:system:kube-controller-manager".to_owned()];
        Binding { name: role.clone(), namespace: None, role: None, subjects }
    });
    let bindings: Vec<Binding> = controllers.collect();
    let all_bindings = file.cluster_role_bindings.iter().chain(&bindings);
    Ok(Defaults {
        cluster_roles: file.cluster_roles.iter().map(|role| role_object(role, &file.cluster_roles)).collect(),
        roles: file.roles.iter().map(|role| role_object(role, &[])).collect(),
        cluster_role_bindings: all_bindings.map(binding_object).collect(),
        role_bindings: file.role_bindings.iter().map(binding_object).collect(),
    })
}

fn metadata(name: &str, namespace: Option<&String>) -> Value {
    let mut metadata = json!({
        "name": name,
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "annotations": {AUTO_UPDATE: "true"},
    });
    if let Some(namespace) = namespace {
        metadata["namespace"] = json!(namespace);
    }
    metadata
}

fn role_object(role: &Role, all: &[Role]) -> Value {
    let kind = if role.namespace.is_some() { "Role" } else { "ClusterRole" };
    let mut object = json!({
        "apiVersion": format!("{API}/v1"), "kind": kind,
        "metadata": metadata(&role.name, role.namespace.as_ref()),
        "rules": rules_of(role, all),
    });
    if let Some(to) = &role.aggregate_to {
        object["metadata"]["labels"][format!("{API}/aggregate-to-{to}")] = json!("true");
    }
    if let Some(from) = &role.aggregates {
        let labels = json!({format!("{API}/aggregate-to-{from}"): "true"});
        object["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": labels}]});
    }
    object
}

/// A role's own rules, or those of all that add to it, in the order of their names and each once.
fn rules_of(role: &Role, all: &[Role]) -> Vec<Value> {
    let Some(sum) = &role.aggregates else {
        return role.rules.iter().map(|rule| rule_object(rule)).collect();
    };
    let mut parts: Vec<&Role> = all.iter().filter(|part| part.aggregate_to.as_ref() == Some(sum)).collect();
    parts.sort_by_key(|part| &part.name);
    let mut rules: Vec<Value> = Vec::new();
    for rule in parts.iter().flat_map(|part| rules_of(part, all)) {
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    }
    rules
}

fn rule_object(rule: &str) -> Value {
    let columns: Vec<Vec<&str>> = rule.split_whitespace().map(|column| column.split(',').collect()).collect();
    match &columns[..] {
        [verbs, resources, groups, names @ ..] => {
            let groups: Vec<&str> =
                groups.iter().map(|group| if *group == "core" { "" } else { group }).collect();
            let mut rule = json!({"verbs": verbs, "resources": resources, "apiGroups": groups});
            if let [names] = names {
                rule["resourceNames"] = json!(names);
            }
            rule
        }
        [verbs, urls] => json!({"verbs": verbs, "nonResourceURLs": urls}),
        _ => Value::Null,
    }
}

fn binding_object(binding: &Binding) -> Value {
    let (kind, role_kind) = match binding.namespace {
        Some(_) => ("RoleBinding", "Role"),
        None => ("ClusterRoleBinding", "ClusterRole"),
    };
    let subjects: Vec<Value> = binding.subjects.iter().map(|subject| subject_object(subject)).collect();
    json!({
        "apiVersion": format!("{API}/v1"), "kind": kind,
        "metadata": metadata(&binding.name, binding.namespace.as_ref()),
        "roleRef": {"apiGroup": API, "kind": role_kind, "name": binding.role.as_ref().unwrap_or(&binding.name)},
        "subjects": subjects,
    })
}

fn subject_object(subject: &str) -> Value {
    match subject.split_once(':') {
        Some(("account", account)) => {
            let (namespace, name) = account.split_once('/').unwrap_or(("kube-system", account));
            json!({"kind": "ServiceAccount", "namespace": namespace, "name": name})
        }
        Some(("group", name)) => json!({"apiGroup": API, "kind": "Group", "name": name}),
        Some((_, name)) => json!({"apiGroup": API, "kind": "User", "name": name}),
        None => Value::Null,
    }
}

/// The existing role or binding with what the default has and it lacks, or none if it lacks nothing or
/// its owner switched this off (annotation `autoupdate: "false"`).
pub(crate) fn reconciled(existing: &Value, default: &Value) -> Option<Value> {
    if existing["metadata"]["annotations"][AUTO_UPDATE] == "false" {
        return None;
    }
    let mut merged = existing.clone();
    for part in ["labels", "annotations"] {
        let wanted = default["metadata"][part].as_object().into_iter().flatten();
        let metadata = &mut merged["metadata"];
        if metadata[part].is_null() {
            metadata[part] = Value::Object(Map::new());
        }
        for (key, value) in wanted {
            if metadata[part][key].is_null() {
                metadata[part][key] = value.clone();
            }
        }
    }
    add_missing(&mut merged, default, "rules", covered);
    add_missing(&mut merged, default, "subjects", |have, subject| have.contains(subject));
    (merged != *existing).then_some(merged)
}

fn add_missing(merged: &mut Value, default: &Value, field: &str, has: fn(&[Value], &Value) -> bool) {
    let mut items = merged[field].as_array().cloned().unwrap_or_default();
    let wanted = default[field].as_array().into_iter().flatten();
    let missing: Vec<Value> = wanted.filter(|item| !has(&items, item)).cloned().collect();
    if !missing.is_empty() {
        items.extend(missing);
        merged[field] = Value::Array(items);
    }
}

/// Whether the rules together allow everything that `rule` does.
fn covered(rules: &[Value], rule: &Value) -> bool {
    let empty = [json!("")];
    let each = |field: &str| match rule[field].as_array() {
        Some(values) => values.clone(),
        None => empty.to_vec(),
    };
    let (verbs, urls) = (each("verbs"), each("nonResourceURLs"));
    let (groups, resources, names) = (each("apiGroups"), each("resources"), each("resourceNames"));
    if rule["nonResourceURLs"].is_array() {
        return verbs.iter().all(|verb| {
            urls.iter().all(|url| {
                rules.iter().any(|has| lists(has, "verbs", verb) && lists(has, "nonResourceURLs", url))
            })
        });
    }
    let allows = |verb: &Value, group: &Value, resource: &Value, name: &Value| {
        rules.iter().any(|has| {
            let named =
                has["resourceNames"].as_array().is_none_or(|names| names.is_empty() || names.contains(name));
            named
                && lists(has, "verbs", verb)
                && lists(has, "apiGroups", group)
                && lists(has, "resources", resource)
        })
    };
    verbs.iter().all(|verb| {
        groups.iter().all(|group| {
            resources.iter().all(|resource| names.iter().all(|name| allows(verb, group, resource, name)))
        })
    })
}

fn lists(rule: &Value, field: &str, value: &Value) -> bool {
    rule[field].as_array().is_some_and(|values| values.contains(value) || values.contains(&json!("*")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find<'a>(objects: &'a [Value], name: &str) -> &'a Value {
        objects.iter().find(|object| object["metadata"]["name"] == name).unwrap()
    }

    #[test]
    fn the_file_gives_kubernetes_objects() {
        let all = defaults().unwrap();
        let everything = [&all.cluster_roles, &all.roles, &all.cluster_role_bindings, &all.role_bindings];
        // Kubernetes', three roles and bindings of knarr's own, two roles and a binding for metrics, one of each for ingress,
        // and for machines that join three roles and four bindings, and a role and a binding in kube-system and in kube-public.
        assert_eq!(everything.map(Vec::len), [78, 9, 59, 9]);
        let admin = find(&all.cluster_roles, "cluster-admin");
        assert_eq!(
            admin["rules"],
            json!([{"verbs": ["*"], "resources": ["*"], "apiGroups": ["*"]}, {"verbs": ["*"], "nonResourceURLs": ["*"]}])
        );
        let reader = find(&all.role_bindings, "system::extension-apiserver-authentication-reader");
        assert_eq!(reader["roleRef"]["name"], "extension-apiserver-authentication-reader");
        assert!(everything.iter().all(|objects| objects.iter().all(|object| {
            let text = object.to_string();
            !text.contains("null") && object["metadata"]["name"].is_string()
        })));
    }

    #[test]
    fn admin_is_the_sum_of_what_adds_to_it() {
        let all = defaults().unwrap();
        let rules = |name: &str| find(&all.cluster_roles, name)["rules"].as_array().unwrap().len();
        let [admin, edit, view] =
            ["system:aggregate-to-admin", "system:aggregate-to-edit", "system:aggregate-to-view"].map(rules);
        let view = view + rules("system:aggregated-metrics-reader");
        assert_eq!(["view", "edit", "admin"].map(rules), [view, edit + view, admin + edit + view]);
    }

    #[test]
    fn what_is_missing_is_added_and_the_rest_stays() {
        let all = defaults().unwrap();
        let default = find(&all.cluster_roles, "system:basic-user");
        assert_eq!(reconciled(default, default), None);
        let mut changed = default.clone();
        changed["rules"] = json!([{"verbs": ["get"], "resources": ["pods"], "apiGroups": [""]}]);
        let mended = reconciled(&changed, default).unwrap();
        assert_eq!(mended["rules"].as_array().unwrap().len(), 3);
        changed["rules"] = json!([{"verbs": ["*"], "resources": ["*"], "apiGroups": ["*"]}]);
        assert_eq!(reconciled(&changed, default), None);
        changed["rules"] = Value::Null;
        changed["metadata"]["annotations"] = json!({AUTO_UPDATE: "false"});
        assert_eq!(reconciled(&changed, default), None);
    }
}
