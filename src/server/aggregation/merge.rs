//! Documents of this server and of others as one: pure functions over what both say.

use api::kinds::version_order;
use serde_json::{Value, json};
use std::cmp::Reverse;

/// `groupPriorityMinimum` and `versionPriority`.
pub(super) type Priority = (i32, i32);

/// A version with what a document says of it.
type Version = (String, Value);

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn taken(value: &mut Value) -> Vec<Value> {
    value.as_array_mut().map(std::mem::take).unwrap_or_default()
}

/// Adds versions to groups, in place of those of the same name, and puts all in the order of their priorities:
/// the highest of its versions is a group's own; equal ones are told apart by name.
fn merged(
    groups: &mut Vec<(String, Vec<Version>)>,
    others: impl Iterator<Item = (String, String, Value)>,
    priority: impl Fn(&str, &str) -> Priority,
) {
    for (group, version, entry) in others {
        let place = groups.iter().position(|(name, _)| *name == group).unwrap_or_else(|| {
            groups.push((group, Vec::new()));
            groups.len() - 1
        });
        let versions = &mut groups[place].1;
        versions.retain(|(name, _)| *name != version);
        versions.push((version, entry));
    }
    for (group, versions) in &mut *groups {
        versions.sort_by(|(a, _), (b, _)| {
            let of_version = |version: &str| Reverse(priority(group, version).1);
            of_version(a).cmp(&of_version(b)).then_with(|| version_order(a, b))
        });
    }
    groups.sort_by_cached_key(|(group, versions)| {
        let highest = versions.iter().map(|(version, _)| priority(group, version).0).max();
        (Reverse(highest), group.clone())
    });
}

/// An APIGroupList with more versions.
pub(super) fn groups(
    mut own: Value,
    others: impl Iterator<Item = (String, String)>,
    priority: impl Fn(&str, &str) -> Priority,
) -> Value {
    let entry = |group: &str, version: &str| json!({"groupVersion": format!("{group}/{version}"), "version": version});
    let mut groups: Vec<(String, Vec<Version>)> = taken(&mut own["groups"])
        .into_iter()
        .map(|mut group| {
            let versions = taken(&mut group["versions"]).into_iter();
            (text(&group["name"]), versions.map(|version| (text(&version["version"]), version)).collect())
        })
        .collect();
    let others = others.map(|(group, version)| {
        let entry = entry(&group, &version);
        (group, version, entry)
    });
    merged(&mut groups, others, priority);
    let groups = groups.into_iter().map(|(name, versions)| {
        let versions: Vec<Value> = versions.into_iter().map(|(_, version)| version).collect();
        json!({"name": name, "preferredVersion": versions[0], "versions": versions})
    });
    own["groups"] = groups.collect();
    own
}

/// An APIGroupDiscoveryList with more versions.
pub(super) fn aggregated(
    mut own: Value,
    others: impl Iterator<Item = (String, String, Value)>,
    priority: impl Fn(&str, &str) -> Priority,
) -> Value {
    let mut groups: Vec<(String, Vec<Version>)> = taken(&mut own["items"])
        .into_iter()
        .map(|mut group| {
            let versions = taken(&mut group["versions"]).into_iter();
            let name = text(&group["metadata"]["name"]);
            (name, versions.map(|version| (text(&version["version"]), version)).collect())
        })
        .collect();
    merged(&mut groups, others, priority);
    let items = groups.into_iter().map(|(name, versions)| {
        let versions: Vec<Value> = versions.into_iter().map(|(_, version)| version).collect();
        json!({"metadata": {"name": name}, "versions": versions})
    });
    own["items"] = items.collect();
    own
}

/// The resources of an APIResourceList as aggregated discovery tells them.
pub(super) fn resources(list: &[Value]) -> Result<Vec<Value>, String> {
    let (doors, own): (Vec<&Value>, Vec<&Value>) =
        list.iter().partition(|entry| entry["name"].as_str().is_some_and(|name| name.contains('/')));
    let mut resources: Vec<Value> = own.into_iter().map(resource).collect();
    for door in doors {
        let (parent, name) = door["name"].as_str().and_then(|name| name.split_once('/')).unwrap_or_default();
        let place = resources.iter().position(|own| own["resource"] == parent).unwrap_or_else(|| {
            let nothing = json!({"group": "", "version": "", "kind": ""});
            resources.push(json!({"resource": parent, "scope": scope(door), "responseKind": nothing}));
            resources.len() - 1
        });
        let resource = &mut resources[place];
        if resource["scope"] != scope(door) {
            return Err(format!("scopes of {parent} and its {name} do not match"));
        }
        if !resource["subresources"].is_array() {
            resource["subresources"] = json!([]);
        }
        let entry = json!({"subresource": name, "responseKind": kind(door), "verbs": door["verbs"]});
        resource["subresources"].as_array_mut().into_iter().for_each(|all| all.push(entry.clone()));
    }
    Ok(resources)
}

fn scope(entry: &Value) -> &'static str {
    if entry["namespaced"] == true { "Namespaced" } else { "Cluster" }
}

fn kind(entry: &Value) -> Value {
    let text = |field: &str| entry[field].as_str().unwrap_or_default();
    json!({"group": text("group"), "version": text("version"), "kind": text("kind")})
}

fn resource(entry: &Value) -> Value {
    let mut resource = json!({"resource": entry["name"], "responseKind": kind(entry), "scope": scope(entry),
        "singularResource": entry["singularName"].as_str().unwrap_or_default(), "verbs": entry["verbs"]});
    for field in ["shortNames", "categories"] {
        if entry[field].is_array() {
            resource[field] = entry[field].clone();
        }
    }
    resource
}

#[cfg(test)]
mod tests {
    use super::*;

    fn priority(group: &str, version: &str) -> Priority {
        match (group, version) {
            ("apps", _) => (17800, 15),
            ("low.example", _) => (5, 1),
            (_, "v2") => (2000, 10),
            _ => (1000, 100),
        }
    }

    #[test]
    fn groups_stand_in_the_order_of_their_priorities() {
        let version = |group: &str, version: &str| json!({"groupVersion": format!("{group}/{version}"), "version": version});
        let apps = json!({"name": "apps", "versions": [version("apps", "v1")], "preferredVersion": version("apps", "v1")});
        let own = json!({"kind": "APIGroupList", "groups": [apps]});
        let others = [
            ("b.example", "v1beta1"),
            ("low.example", "v1"),
            ("b.example", "v1"),
            ("a.example", "v1"),
            ("a.example", "v2"),
        ];
        let others = others.map(|(group, version)| (group.to_owned(), version.to_owned()));
        let merged = groups(own, others.into_iter(), priority);
        let told: Vec<String> = merged["groups"]
            .as_array()
            .unwrap()
            .iter()
            .map(|group| {
                let versions: Vec<String> =
                    group["versions"].as_array().unwrap().iter().map(|own| text(&own["version"])).collect();
                format!(
                    "{} {} {}",
                    text(&group["name"]),
                    versions.join(","),
                    text(&group["preferredVersion"]["version"])
                )
            })
            .collect();
        assert_eq!(
            told,
            ["apps v1 v1", "a.example v1,v2 v1", "b.example v1,v1beta1 v1", "low.example v1 v1"]
        );
    }

    #[test]
    fn others_stand_in_for_own_versions() {
        let own = json!({"items": [{"metadata": {"name": "apps"}, "versions": [{"version": "v1", "freshness": "Current"}]}]});
        let stale = json!({"version": "v1", "freshness": "Stale"});
        let others = [("apps".to_owned(), "v1".to_owned(), stale.clone())];
        let merged = aggregated(own, others.into_iter(), priority);
        assert_eq!(merged["items"], json!([{"metadata": {"name": "apps"}, "versions": [stale]}]));
    }

    #[test]
    fn old_discovery_is_told_as_new() {
        let list = [
            json!({"name": "fruits/peel", "namespaced": true, "kind": "Peel", "group": "other", "version": "v2", "verbs": ["create"]}),
            json!({"name": "fruits", "singularName": "fruit", "namespaced": true, "kind": "Fruit", "verbs": ["get"], "shortNames": ["fr"]}),
            json!({"name": "lone/status", "namespaced": false, "kind": "Lone", "verbs": ["get"]}),
        ];
        assert_eq!(
            json!(resources(&list).unwrap()),
            json!([
                {"resource": "fruits", "singularResource": "fruit", "scope": "Namespaced", "verbs": ["get"], "shortNames": ["fr"],
                    "responseKind": {"group": "", "version": "", "kind": "Fruit"},
                    "subresources": [{"subresource": "peel", "verbs": ["create"],
                        "responseKind": {"group": "other", "version": "v2", "kind": "Peel"}}]},
                {"resource": "lone", "scope": "Cluster", "responseKind": {"group": "", "version": "", "kind": ""},
                    "subresources": [{"subresource": "status", "verbs": ["get"],
                        "responseKind": {"group": "", "version": "", "kind": "Lone"}}]},
            ])
        );
    }
}
