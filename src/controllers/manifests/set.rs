//! A file's objects in the cluster.

use super::parent::{self, GroupKind, MANAGER, NAMESPACE, PART_OF, Parent, Source};
use api::core::ConfigMap;
use api::meta::{DeleteOptions, Preconditions};
use client::{Client, Error, escape};
use http::Method;
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap};

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
        let mut kinds = Kinds { client: self.client, known: HashMap::new() };
        let mut after = Parent::default();
        let mut places = Vec::new();
        for object in objects {
            after.kinds.insert(group_kind(&object));
            let place = kinds.place(&object).await;
            after.namespaces.extend(place.as_ref().ok().map(|place| place.namespace.clone()));
            places.push((object, place));
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
            let (stayed, errors) = self.prune(&mut kinds, &both.kinds, &wanted).await;
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
        kinds: &mut Kinds<'_>,
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
        kinds: &mut Kinds<'_>,
        kind: &GroupKind,
        wanted: &BTreeSet<Member>,
    ) -> Result<(), Error> {
        // A kind that is gone took its objects along.
        let Some(collection) = kinds.collection(kind).await? else { return Ok(()) };
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
        let mut kinds = Kinds { client: self.client, known: HashMap::new() };
        for kind in &parent.kinds {
            self.prune_kind(&mut kinds, kind, &BTreeSet::new()).await?;
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

/// Where the objects of a kind are.
#[derive(Clone)]
struct Collection {
    /// `/apis/apps/v1`.
    root: String,
    plural: String,
    namespaced: bool,
}

impl Collection {
    fn path(&self, namespace: &str) -> String {
        let place = if namespace.is_empty() { String::new() } else { format!("namespaces/{namespace}/") };
        format!("{}/{place}{}", self.root, self.plural)
    }
}

/// The kinds that the server has, as it says itself.
struct Kinds<'a> {
    client: &'a Client,
    known: HashMap<String, Value>,
}

impl Kinds<'_> {
    /// The resources below a root; nothing if there is no such version.
    async fn resources(&mut self, root: &str) -> Result<&Value, Error> {
        if !self.known.contains_key(root) {
            let list = match self.client.read(root).await {
                Err(error) if error.is_not_found() => Value::Null,
                list => list?,
            };
            self.known.insert(root.to_owned(), list);
        }
        Ok(&self.known[root])
    }

    async fn find(&mut self, root: &str, kind: &str) -> Result<Option<Collection>, Error> {
        let list = self.resources(root).await?;
        let of = |resource: &&Value| {
            resource["kind"] == kind && resource["name"].as_str().is_some_and(|name| !name.contains('/'))
        };
        let found = list["resources"].as_array().into_iter().flatten().find(of);
        Ok(found.map(|resource| Collection {
            root: root.to_owned(),
            plural: resource["name"].as_str().unwrap_or_default().to_owned(),
            namespaced: resource["namespaced"] == true,
        }))
    }

    /// Where an object goes; an error says what is missing for it.
    async fn place(&mut self, object: &Value) -> Result<Place, String> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
        let root = if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") };
        let found = self.find(&root, &kind).await.map_err(|error| format!("{version} {kind}: {error}"))?;
        let collection = found.ok_or_else(|| format!("there is no kind {kind:?} in version {version:?}"))?;
        let namespace = match text(&object["metadata"]["namespace"]) {
            _ if !collection.namespaced => String::new(),
            given if given.is_empty() => "default".to_owned(),
            given => given,
        };
        let name = escape(&text(&object["metadata"]["name"]));
        Ok(Place { path: format!("{}/{name}", collection.path(&namespace)), namespace })
    }

    /// Where a kind is in the version that its group prefers; `None` if it is gone.
    async fn collection(&mut self, kind: &GroupKind) -> Result<Option<Collection>, Error> {
        let Some((kind, group)) = kind.split_once('.') else { return self.find("/api/v1", kind).await };
        let group = self.resources(&format!("/apis/{group}")).await?;
        let Some(version) = group["preferredVersion"]["groupVersion"].as_str() else { return Ok(None) };
        let root = format!("/apis/{version}");
        self.find(&root, kind).await
    }
}
