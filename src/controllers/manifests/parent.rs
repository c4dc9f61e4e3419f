//! The ConfigMap that stands for a file: what it is known by as an ApplySet, where it lies and how it went.

use api::Object;
use api::core::ConfigMap;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use client::{Client, Error, ListSelector};
use serde_json::json;
use std::collections::BTreeSet;
use std::path::Path;

pub(super) const NAMESPACE: &str = "kube-system";
/// Who the API knows this by.
pub(super) const MANAGER: &str = "knarr-manifests";
/// Whose member an object is.
pub(super) const PART_OF: &str = "applyset.kubernetes.io/part-of";
const ID: &str = "applyset.kubernetes.io/id";
const TOOLING: &str = "applyset.kubernetes.io/tooling";
const KINDS: &str = "applyset.kubernetes.io/contains-group-kinds";
const NAMESPACES: &str = "applyset.kubernetes.io/additional-namespaces";
/// The server in whose folder the file lies.
const SERVER: &str = "knarr.io/manifests-of";
const PREFIX: &str = "manifest-";

/// A kind and its group, as ApplySets write them: `Deployment.apps`, `Service`.
pub(super) type GroupKind = String;

/// Where the objects of a set come from.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) path: &'a Path,
    pub(super) digest: &'a str,
    pub(super) server: &'a str,
}

/// What is kept of a set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Parent {
    pub(super) kinds: BTreeSet<GroupKind>,
    pub(super) namespaces: BTreeSet<String>,
    /// The file that was applied whole; nothing if none was.
    pub(super) applied: String,
    pub(super) server: String,
}

/// The ConfigMap's name.
pub(super) fn name(set: &str) -> String {
    format!("{PREFIX}{set}")
}

/// What members are labelled with: a digest of the parent's name, namespace, kind and group (KEP-3659).
pub(super) fn id(set: &str) -> String {
    let parent = format!("{}.{NAMESPACE}.ConfigMap.", name(set));
    let digest = ring::digest::digest(&ring::digest::SHA256, parent.as_bytes());
    format!("applyset-{}-v1", URL_SAFE_NO_PAD.encode(digest))
}

/// What is kept of a set; `None` before it is first applied.
pub(super) async fn read(client: &Client, set: &str) -> Result<Option<Parent>, Error> {
    match client.get::<ConfigMap>(NAMESPACE, &name(set)).await {
        Ok(map) => Ok(Some(of(&map))),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

fn of(map: &ConfigMap) -> Parent {
    let words = |name: &str| -> BTreeSet<String> {
        let text = map.annotations().get(name).map(String::as_str).unwrap_or_default();
        text.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect()
    };
    let applied = map.data.as_ref().and_then(|data| data.get("applied")).cloned().unwrap_or_default();
    let server = map.labels().get(SERVER).cloned().unwrap_or_default();
    Parent { kinds: words(KINDS), namespaces: words(NAMESPACES), applied, server }
}

/// Keeps it. `failures` says why not all of the file is applied.
pub(super) async fn write(
    client: &Client,
    set: &str,
    source: &Source<'_>,
    (parent, failures): (&Parent, &[String]),
) -> Result<ConfigMap, Error> {
    let joined = |words: &BTreeSet<String>| words.iter().map(String::as_str).collect::<Vec<_>>().join(",");
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {
            "name": name(set), "namespace": NAMESPACE,
            "labels": {ID: id(set), SERVER: source.server},
            "annotations": {
                TOOLING: concat!("knarr/v", env!("CARGO_PKG_VERSION")),
                KINDS: joined(&parent.kinds), NAMESPACES: joined(&parent.namespaces),
            },
        },
        "data": {
            "source": source.path.display().to_string(), "applied": parent.applied,
            "failures": failures.join("\n"),
        },
    });
    client.apply(NAMESPACE, &name(set), MANAGER, &map).await
}

/// The sets that lie in a server's folder.
pub(super) async fn of_server(client: &Client, server: &str) -> Result<Vec<String>, Error> {
    let selector = ListSelector { labels: format!("{SERVER}={server}"), ..ListSelector::default() };
    let maps: Vec<ConfigMap> = client.list(NAMESPACE, &selector).await?;
    Ok(maps.iter().filter_map(|map| Some(map.name().strip_prefix(PREFIX)?.to_owned())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_labelled_as_the_enhancement_says() {
        let id = id("web.yaml");
        assert_eq!(id, "applyset-xtj7p47P85x0G9ALW3JNdsUGYNgmEazCpejZXQANShc-v1");
    }
}
