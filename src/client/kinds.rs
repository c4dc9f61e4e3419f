//! Which kinds the server has, and where their objects are, as it says itself: for work on objects of any kind.

use crate::request::{Client, Error, escape};
use serde_json::Value;
use std::collections::HashMap;
use tokio::sync::Mutex;

/// The objects of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collection {
    /// `/api/v1`, `/apis/apps/v1`.
    root: String,
    plural: String,
    /// Whether they live in namespaces.
    pub namespaced: bool,
}

impl Collection {
    /// Their path, in one namespace or (with "", or where they are in none) all of them.
    pub fn path(&self, namespace: &str) -> String {
        if self.namespaced && !namespace.is_empty() {
            format!("{}/namespaces/{}/{}", self.root, escape(namespace), self.plural)
        } else {
            format!("{}/{}", self.root, self.plural)
        }
    }
}

/// What was asked so far. Kinds come and go: it is meant for one piece of work.
pub struct Kinds {
    client: Client,
    /// By `apiVersion`: kinds and their collections.
    known: Mutex<HashMap<String, Vec<(String, Collection)>>>,
}

impl Kinds {
    /// Nothing was asked yet.
    pub fn new(client: &Client) -> Self {
        Self { client: client.clone(), known: Mutex::default() }
    }

    /// Where the objects of a kind are; `None` if the server has no such kind now.
    pub async fn of(&self, api_version: &str, kind: &str) -> Result<Option<Collection>, Error> {
        let find = |known: &HashMap<String, Vec<(String, Collection)>>| {
            let (_, collection) = known.get(api_version)?.iter().find(|(own, _)| own == kind)?;
            Some(collection.clone())
        };
        let mut known = self.known.lock().await;
        if let Some(found) = find(&known) {
            return Ok(Some(found));
        }
        let root = if api_version.contains('/') { "/apis" } else { "/api" };
        let root = format!("{root}/{api_version}");
        let Some(list) = self.read(&root).await? else { return Ok(None) };
        known.insert(api_version.to_owned(), collections(&root, &list));
        Ok(find(&known))
    }

    /// The same in the version that a group prefers.
    pub async fn of_group(&self, group: &str, kind: &str) -> Result<Option<Collection>, Error> {
        if group.is_empty() {
            return self.of("v1", kind).await;
        }
        let found = self.read(&format!("/apis/{group}")).await?.unwrap_or_default();
        match found["preferredVersion"]["groupVersion"].as_str() {
            Some(version) => self.of(version, kind).await,
            None => Ok(None),
        }
    }

    async fn read(&self, path: &str) -> Result<Option<Value>, Error> {
        match self.client.read(path).await {
            Err(error) if error.is_not_found() => Ok(None),
            other => other.map(Some),
        }
    }
}

/// What a list of resources says, without subresources.
fn collections(root: &str, list: &Value) -> Vec<(String, Collection)> {
    let resources = list["resources"].as_array().into_iter().flatten();
    let named = resources.filter_map(|one| Some((one, one["kind"].as_str()?, one["name"].as_str()?)));
    named
        .filter(|(_, _, name)| !name.contains('/'))
        .map(|(one, kind, name)| {
            let namespaced = one["namespaced"] == true;
            (kind.to_owned(), Collection { root: root.to_owned(), plural: name.to_owned(), namespaced })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn objects_are_where_the_server_says() {
        let list = json!({"resources": [
            {"name": "deployments", "kind": "Deployment", "namespaced": true},
            {"name": "deployments/scale", "kind": "Scale", "namespaced": true},
            {"name": "nodes", "kind": "Node", "namespaced": false},
        ]});
        let found = collections("/apis/apps/v1", &list);
        assert_eq!(found.iter().map(|(kind, _)| kind.as_str()).collect::<Vec<_>>(), ["Deployment", "Node"]);
        let path = |at: usize, namespace: &str| found[at].1.path(namespace);
        assert_eq!(path(0, "a b"), "/apis/apps/v1/namespaces/a%20b/deployments");
        assert_eq!(path(0, ""), "/apis/apps/v1/deployments");
        assert_eq!(path(1, "ignored"), "/apis/apps/v1/nodes");
    }
}
