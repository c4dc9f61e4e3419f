//! What the server has, from its aggregated discovery (KEP-3352), and how what a person types is found
//! in it: plural, singular, short name, kind, each with or without version and group.

mod legacy;

use crate::error::Error;
use crate::line;
use crate::session::{Call, Session};
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// As one, in the version of Kubernetes 1.30 or that of 1.26; or as servers before that publish it.
const ACCEPT: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";

/// How many signs may be wrong in a kind that is suggested, and how many signs there have to be for each: of four that
/// are nearly another four, one is a quarter.
const NEAR: usize = 2;
const SIGNS_FOR_EACH: usize = 5;

/// One resource of the server, in its preferred version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Resource {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) short_names: Vec<String>,
    pub(crate) categories: Vec<String>,
    pub(crate) verbs: Vec<String>,
    pub(crate) namespaced: bool,
    /// It is of the group's preferred version.
    pub(crate) preferred: bool,
}

impl Resource {
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// As kubectl prints it: `deployment.apps`.
    pub(crate) fn shown(&self) -> String {
        if self.group.is_empty() {
            self.singular.clone()
        } else {
            format!("{}.{}", self.singular, self.group)
        }
    }

    /// As the server names it in messages: `deployments.apps`.
    pub(crate) fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// The collection's path, in one namespace or with "" in all.
    pub(crate) fn path(&self, namespace: &str) -> String {
        let root = if self.group.is_empty() { "/api" } else { "/apis" };
        let place = if self.namespaced && !namespace.is_empty() {
            format!("namespaces/{namespace}/")
        } else {
            String::new()
        };
        format!("{root}/{}/{place}{}", self.api_version(), self.plural)
    }

    /// One object's path.
    pub(crate) fn object(&self, namespace: &str, name: &str) -> String {
        format!("{}/{name}", self.path(namespace))
    }

    pub(crate) fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|known| known == verb)
    }

    /// Short names are as they are written, others in letters of either size.
    fn is_called(&self, word: &str) -> bool {
        let lower = word.to_lowercase();
        self.plural == lower
            || self.singular == lower
            || self.kind.to_lowercase() == lower
            || self.short_names.iter().any(|name| name == word)
    }
}

/// All resources, in the server's order.
pub(crate) struct Discovery(pub(crate) Vec<Resource>);

impl Discovery {
    pub(crate) async fn fetch(session: &Session) -> Result<Self, Error> {
        let ask = |path: &'static str| {
            session.send(
                Call { method: Method::GET, path, content_type: crate::session::JSON, accept: ACCEPT },
                None,
            )
        };
        let (core, groups) = tokio::try_join!(ask("/api"), ask("/apis"))?;
        let mut resources = Vec::new();
        for part in [&core, &groups] {
            match part["kind"] == "APIGroupDiscoveryList" {
                true => resources.extend(read(part)),
                false => resources.extend(legacy::fetch(session, part).await?),
            }
        }
        if resources.is_empty() {
            return Err(Error::plain(
                "the server publishes no resources: it may be no API server of Kubernetes",
            ));
        }
        Ok(Self(resources))
    }

    /// The resource that a person named: `po`, `deployments.apps`, `deploy.v1.apps`, `Pod`.
    pub(crate) fn find(&self, word: &str) -> Result<&Resource, Error> {
        let (name, rest) = word.split_once('.').unwrap_or((word, ""));
        let lower = name.to_lowercase();
        let called =
            |resource: &&Resource| resource.is_called(name) && (resource.preferred || !rest.is_empty());
        let fits = |resource: &&Resource| {
            rest.is_empty()
                || resource.group == rest
                || format!("{}.{}", resource.version, resource.group) == rest
                || resource.group.starts_with(&format!("{rest}."))
        };
        let mut found: Vec<&Resource> = self.0.iter().filter(called).filter(fits).collect();
        // Whole names before short ones, so that a custom resource's short name hides no built-in kind.
        found.sort_by_key(|resource| {
            (!resource.preferred, resource.plural != lower && resource.singular != lower)
        });
        found.first().copied().ok_or_else(|| {
            // What scripts look for is a line of its own.
            let near = self.near(word).map(|near| format!("\nDid you mean {near:?}?"));
            Error::plain(format!(
                "the server doesn't have a resource type {name:?}{}",
                near.unwrap_or_default()
            ))
        })
    }

    /// What may have been meant by a word that names no resource: one of this name in another group, or one of nearly
    /// this name.
    fn near(&self, word: &str) -> Option<String> {
        let name = word.split('.').next().unwrap_or(word);
        if let Some(same) = self.0.iter().find(|resource| resource.preferred && resource.is_called(name)) {
            return Some(same.qualified());
        }
        let word = word.to_lowercase();
        let far = |resource: &Resource| {
            let names = [&resource.plural, &resource.singular, &resource.kind.to_lowercase()];
            names.into_iter().map(|known| line::distance(known, &word)).min().unwrap_or(usize::MAX)
        };
        let near = self.0.iter().filter(|resource| resource.preferred).map(|one| (far(one), one));
        let (far, nearest) = near.min_by_key(|(far, _)| *far)?;
        (far <= NEAR.min(word.len() / SIGNS_FOR_EACH)).then(|| nearest.plural.clone())
    }

    /// The resource of an object's apiVersion and kind.
    pub(crate) fn of_kind(&self, api_version: &str, kind: &str) -> Option<&Resource> {
        self.0.iter().find(|resource| resource.kind == kind && resource.api_version() == api_version)
    }

    /// The resources of a category such as `all`.
    pub(crate) fn category(&self, name: &str) -> Vec<&Resource> {
        let listed = |resource: &&Resource| {
            resource.preferred
                && resource.can("list")
                && resource.categories.iter().any(|known| known == name)
        };
        self.0.iter().filter(listed).collect()
    }
}

fn read(list: &Value) -> Vec<Resource> {
    let items = |value: &Value, field: &str| value[field].as_array().cloned().unwrap_or_default();
    let mut all = Vec::new();
    for group in items(list, "items") {
        for (index, version) in items(&group, "versions").iter().enumerate() {
            for resource in items(version, "resources") {
                let mut read = resource_of(&resource, &group["metadata"]["name"], &version["version"]);
                read.preferred = index == 0
                    || !all
                        .iter()
                        .any(|known: &Resource| known.group == read.group && known.plural == read.plural);
                all.push(read);
            }
        }
    }
    all
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(text).collect()
}

fn resource_of(resource: &Value, group: &Value, version: &Value) -> Resource {
    let kind = text(&resource["responseKind"]["kind"]);
    let singular = text(&resource["singularResource"]);
    Resource {
        group: text(group),
        version: text(version),
        plural: text(&resource["resource"]),
        singular: if singular.is_empty() { kind.to_lowercase() } else { singular },
        short_names: texts(&resource["shortNames"]),
        categories: texts(&resource["categories"]),
        verbs: texts(&resource["verbs"]),
        namespaced: resource["scope"] == "Namespaced",
        preferred: false,
        kind,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn discovery() -> Discovery {
        let resource = |plural: &str, singular: &str, kind: &str, short: &[&str]| {
            json!({"resource": plural, "singularResource": singular, "scope": "Namespaced", "shortNames": short,
                "responseKind": {"kind": kind}, "verbs": ["get", "list"], "categories": ["all"]})
        };
        let group = |name: &str, version: &str, resources: Value| json!({"metadata": {"name": name}, "versions": [{"version": version, "resources": resources}]});
        let mut all = read(
            &json!({"items": [group("", "v1", json!([resource("pods", "pod", "Pod", &["po"]), resource("events", "event", "Event", &["ev"])]))]}),
        );
        all.extend(read(&json!({"items": [
            group("apps", "v1", json!([resource("deployments", "deployment", "Deployment", &["deploy"])])),
            group("events.k8s.io", "v1", json!([resource("events", "event", "Event", &["ev"])])),
            group("example.org", "v1", json!([resource("podlikes", "podlike", "PodLike", &["pod"])])),
        ]})));
        Discovery(all)
    }

    #[test]
    fn words_find_their_resource() {
        let all = discovery();
        let found = |word: &str| all.find(word).map(|resource| resource.qualified()).unwrap_or_default();
        for word in ["po", "pod", "pods", "Pod", "PODS", "pods.v1.", "po."] {
            assert_eq!(found(word), "pods", "{word}");
        }
        for word in ["deploy", "deployment.apps", "deployments.v1.apps", "deploy.apps"] {
            assert_eq!(found(word), "deployments.apps", "{word}");
        }
        assert_eq!(found("events"), "events");
        assert_eq!(found("events.events.k8s.io"), "events.events.k8s.io");
        let said = |word: &str| all.find(word).unwrap_err().to_string();
        for word in ["nonsense", "nope", "pood", "PO", "DEPLOY", "Deploy.apps", "pods.v1"] {
            let sentence = format!(
                "error: the server doesn't have a resource type {:?}",
                word.split('.').next().unwrap()
            );
            assert_eq!(said(word).lines().next(), Some(&*sentence), "{word}");
        }
        for word in ["nonsense", "nope", "pood"] {
            assert_eq!(said(word).lines().count(), 1, "{word}");
        }
        for (word, near) in [
            ("depoyment", "deployments"),
            ("Deploymnets", "deployments"),
            ("pods.x", "pods"),
            ("deploy.v1.app", "deployments.apps"),
        ] {
            let name = word.split('.').next().unwrap();
            let sentence =
                format!("error: the server doesn't have a resource type {name:?}\nDid you mean {near:?}?");
            assert_eq!(said(word), sentence, "{word}");
        }
    }

    #[test]
    fn paths_and_names() {
        let all = discovery();
        let deployment = all.of_kind("apps/v1", "Deployment").unwrap();
        assert_eq!(deployment.object("web", "a"), "/apis/apps/v1/namespaces/web/deployments/a");
        assert_eq!(deployment.shown(), "deployment.apps");
        assert_eq!(all.find("po").unwrap().path(""), "/api/v1/pods");
    }
}
