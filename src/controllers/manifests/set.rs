//! A file's objects in the cluster.

use super::parent::{self, GroupKind, MANAGER, NAMESPACE, PART_OF, Parent, Source};
use api::core::ConfigMap;
use api::meta::{DeleteOptions, Preconditions};
use client::{Client, Error, Kinds, escape};
use http::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// What an object is found by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Member {
    kind: GroupKind,
    namespace: String,
    name: String,
}

pub(super) struct Set<'a> {
    client: &'a Client,
    name: &'a str,
    id: String,
}

impl<'a> Set<'a> {
    pub(super) fn new(client: &'a Client, name: &'a str) -> Self {
        Self { client, name, id: parent::id(name) }
    }

    /// Brings the objects of a file, and takes away what it had before; gives what went wrong.
    pub(super) async fn bring(
        &self,
        source: &Source<'_>,
        objects: Result<Vec<Value>, String>,
    ) -> Result<(ConfigMap, Vec<String>), Error> {
        let before = parent::read(self.client, self.name).await?;
        let begun = before.clone().unwrap_or_default();
        let objects = match objects {
            Ok(objects) => objects,
            Err(why) => {
                let failures = vec![why];
                return self.keep(source, begun, failures).await;
            }
        };
        let kinds = Kinds::new(self.client);
        let mut after = Parent::default();
        let mut places = Vec::new();
        for object in objects {
            after.kinds.insert(group_kind(&object));
            let found = place(&kinds, &object).await;
            after.namespaces.extend(found.as_ref().ok().map(|place| place.namespace.clone()));
            places.push((object, found));
        }
        after.namespaces.retain(|namespace| !namespace.is_empty() && namespace != NAMESPACE);
        // Before the first of them: an end in the middle must leave nothing that nobody finds.
        let mut both = begun.clone();
        both.kinds.extend(after.kinds.iter().cloned());
        both.namespaces.extend(after.namespaces.iter().cloned());
        parent::write(self.client, self.name, source, (&both, &[])).await?;
        let (mut wanted, mut failures) = (BTreeSet::new(), Vec::new());
        for (object, place) in places {
            let namespace = place.as_ref().map_or("", |place| &place.namespace);
            wanted.insert(member(&object, namespace));
            if let Err(why) = self.apply(object, place).await {
                failures.push(why);
            }
        }
        if before.is_some() && begun.applied != source.digest {
            let (stayed, errors) = self.prune(&kinds, &both.kinds, &wanted).await;
            after.kinds.extend(stayed);
            failures.extend(errors);
        }
        if failures.is_empty() {
            source.digest.clone_into(&mut after.applied);
        }
        self.keep(source, after, failures).await
    }

    async fn keep(
        &self,
        source: &Source<'_>,
        parent: Parent,
        failures: Vec<String>,
    ) -> Result<(ConfigMap, Vec<String>), Error> {
        let map = parent::write(self.client, self.name, source, (&parent, &failures)).await?;
        Ok((map, failures))
    }

    async fn apply(&self, mut object: Value, place: Result<Place, String>) -> Result<(), String> {
        let place = place?;
        let what =
            format!("{} {}", group_kind(&object), object["metadata"]["name"].as_str().unwrap_or_default());
        let metadata = &mut object["metadata"];
        if !place.namespace.is_empty() {
            metadata["namespace"] = place.namespace.clone().into();
        }
        if !metadata["labels"].is_object() {
            metadata["labels"] = json!({});
        }
        metadata["labels"][PART_OF] = self.id.clone().into();
        for field in ["managedFields", "resourceVersion", "uid", "creationTimestamp"] {
            metadata.as_object_mut().map(|metadata| metadata.remove(field));
        }
        let applied = self.client.apply_at(&place.path, MANAGER, &object).await;
        applied.map(drop).map_err(|error| format!("{what}: {error}"))
    }

    /// Deletes members that are not wanted. Gives the kinds of which some may be left, and why.
    async fn prune(
        &self,
        kinds: &Kinds,
        of: &BTreeSet<GroupKind>,
        wanted: &BTreeSet<Member>,
    ) -> (BTreeSet<GroupKind>, Vec<String>) {
        let (mut stayed, mut failures) = (BTreeSet::new(), Vec::new());
        for kind in of {
            if let Err(error) = self.prune_kind(kinds, kind, wanted).await {
                failures.push(format!("{kind}: {error}"));
                stayed.insert(kind.clone());
            }
        }
        (stayed, failures)
    }

    async fn prune_kind(
        &self,
        kinds: &Kinds,
        kind: &GroupKind,
        wanted: &BTreeSet<Member>,
    ) -> Result<(), Error> {
        // A kind that is gone took its objects along.
        let (name, group) = kind.split_once('.').unwrap_or((kind, ""));
        let Some(collection) = kinds.of_group(group, name).await? else { return Ok(()) };
        let selector = escape(&format!("{PART_OF}={}", self.id));
        let list: Value =
            self.client.read(&format!("{}?labelSelector={selector}", collection.path(""))).await?;
        for item in list["items"].as_array().into_iter().flatten() {
            let text = |field: &str| item["metadata"][field].as_str().unwrap_or_default().to_owned();
            let (namespace, name) = (text("namespace"), text("name"));
            let member = Member { kind: kind.clone(), namespace, name };
            if wanted.contains(&member) {
                continue;
            }
            let path = format!("{}/{}", collection.path(&member.namespace), escape(&member.name));
            let preconditions = Some(Preconditions { uid: Some(text("uid")), ..Preconditions::default() });
            let options = DeleteOptions {
                preconditions,
                propagation_policy: Some("Background".to_owned()),
                ..DeleteOptions::default()
            };
            let options = json!(options);
            match self.client.send(Method::DELETE, &path, Some(&options)).await {
                Err(error) if !error.is_not_found() && !error.is_conflict() => return Err(error),
                _ => tracing::info!(?member, "what a manifest no longer has is deleted"),
            }
        }
        Ok(())
    }

    /// Takes away all that a file brought, and what is kept of it, if it was last this server's.
    pub(super) async fn remove(&self, server: &str) -> Result<(), Error> {
        let Some(parent) = parent::read(self.client, self.name).await? else { return Ok(()) };
        if parent.server != server {
            return Ok(());
        }
        let kinds = Kinds::new(self.client);
        for kind in &parent.kinds {
            self.prune_kind(&kinds, kind, &BTreeSet::new()).await?;
        }
        let options = DeleteOptions::default();
        match self.client.delete::<ConfigMap>(NAMESPACE, &parent::name(self.name), &options).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}

fn group_kind(object: &Value) -> GroupKind {
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    match text("apiVersion").split_once('/') {
        Some((group, _)) => format!("{}.{group}", text("kind")),
        None => text("kind").to_owned(),
    }
}

fn member(object: &Value, namespace: &str) -> Member {
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    Member { kind: group_kind(object), namespace: namespace.to_owned(), name }
}

/// Where an object is.
struct Place {
    /// Empty for what is in none.
    namespace: String,
    path: String,
}

/// Where an object goes; an error says what is missing for it.
async fn place(kinds: &Kinds, object: &Value) -> Result<Place, String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
    let found = kinds.of(&version, &kind).await.map_err(|error| format!("{version} {kind}: {error}"))?;
    let collection = found.ok_or_else(|| format!("there is no kind {kind:?} in version {version:?}"))?;
    let namespace = match text(&object["metadata"]["namespace"]) {
        _ if !collection.namespaced => String::new(),
        given if given.is_empty() => "default".to_owned(),
        given => given,
    };
    let name = escape(&text(&object["metadata"]["name"]));
    Ok(Place { path: format!("{}/{name}", collection.path(&namespace)), namespace })
}
