//! Feeds the garbage collector's graph from a watch of the metadata of every kind, and carries out what
//! it decides.

use crate::common::{Room, unless_gone};
use crate::garbage::{Action, FOREGROUND, Graph, Item, ORPHAN, Uid, plan};
use crate::kinds::{CustomKinds, kind_of};
use api::kinds::{KINDS, Kind};
use api::meta::{OwnerReference, Status};
use base::{Body, Phase, Restart, Shutdown, Supervisor, full_body};
use client::{Client, Error, Next, Queue};
use http::{Method, Request, header};
use http_body_util::BodyExt;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use tokio::sync::watch;

/// Metadata alone: the server need not send, nor we read, anything else.
const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
const METADATA_LIST: &str =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
/// The largest refusal that is read.
const REFUSAL_BYTES: usize = 1 << 20;
/// The largest list of metadata.
const LIST_BYTES: usize = 256 << 20;
/// The longest line of a watch.
const LINE_BYTES: usize = 8 << 20;

#[derive(Clone)]
struct Collector {
    client: Client,
    graph: Arc<Mutex<Graph>>,
    queue: Queue<Uid>,
    /// How many kinds of the table have not been listed yet: before that, absence means nothing.
    unlisted: Arc<watch::Sender<usize>>,
    customs: CustomKinds,
    /// The paths of the custom kinds that are followed.
    followed: Arc<Mutex<HashSet<String>>>,
}

pub(crate) fn start(room: &Room) {
    let watched = watched();
    let collector = Collector {
        client: room.client.clone(),
        graph: Arc::default(),
        queue: Queue::new("garbage"),
        unlisted: Arc::new(watch::channel(watched.len()).0),
        customs: CustomKinds::new(room),
        followed: Arc::default(),
    };
    for kind in watched {
        let collector = collector.clone();
        // The first list of each kind counts once, also if the feed fails and starts again later.
        let once = Arc::new(Once::new());
        let name = format!("metadata of {}", kind.resource());
        room.supervisor.run(&name, Phase::Work, Restart::OnFailure, move |shutdown| {
            let (once, unlisted) = (once.clone(), collector.unlisted.clone());
            let listed = move || once.call_once(|| unlisted.send_modify(|left| *left -= 1));
            collector.clone().feed(kind, listed, shutdown)
        });
    }
    let (adding, supervisor) = (collector.clone(), room.supervisor.clone());
    collector.customs.definitions.on_change(move |change| {
        if let Some(kind) = change.new.as_ref().and_then(|definition| kind_of(definition)) {
            adding.follow_custom(kind, &supervisor);
        }
    });
    let queue = collector.queue.clone();
    room.work("garbage collector", &queue, 16, move |uid| collector.clone().sync(uid));
}

/// One kind for each place where objects are stored.
fn watched() -> Vec<&'static Kind> {
    let mut seen = HashSet::new();
    // Events own nothing and nobody owns them: they expire.
    let watched = KINDS.iter().filter(|kind| kind.stored() && kind.plural != "events");
    watched.filter(|kind| seen.insert(kind.storage_prefix())).collect()
}

#[derive(serde::Deserialize)]
struct Object {
    metadata: Meta,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Meta {
    name: Box<str>,
    namespace: Box<str>,
    uid: Uid,
    resource_version: Box<str>,
    owner_references: Box<[OwnerReference]>,
    finalizers: Box<[Box<str>]>,
    deletion_timestamp: Option<IgnoredAny>,
}

#[derive(serde::Deserialize)]
struct List {
    metadata: Meta,
    items: Vec<Object>,
}

#[derive(serde::Deserialize)]
struct Line<'a> {
    r#type: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

impl Collector {
    /// Follows a custom kind, unless that is done already, for as long as it is served.
    fn follow_custom(&self, kind: &'static Kind, supervisor: &Supervisor) {
        if !self.followed().insert(kind.path("")) {
            return;
        }
        let collector = self.clone();
        let name = format!("metadata of {}", kind.resource());
        supervisor.run(&name, Phase::Work, Restart::OnFailure, move |shutdown| {
            let collector = collector.clone();
            async move {
                match collector.clone().feed(kind, || {}, shutdown).await {
                    Err(error) if error.is_not_found() => {
                        collector.forget(kind);
                        Ok(())
                    }
                    other => other,
                }
            }
        });
    }

    fn followed(&self) -> MutexGuard<'_, HashSet<String>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A custom kind is no longer served: its objects are gone.
    fn forget(&self, kind: &'static Kind) {
        self.followed().remove(&kind.path(""));
        let mut graph = self.graph();
        let gone = graph.of_kind(kind);
        let look = gone.iter().flat_map(|uid| graph.remove(uid)).collect();
        drop(graph);
        self.look(look);
    }

    fn graph(&self) -> MutexGuard<'_, Graph> {
        self.graph.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self, uids: Vec<Uid>) {
        uids.into_iter().for_each(|uid| self.queue.add(uid));
    }

    /// Keeps one kind's part of the graph current, until shutdown or an error; `listed` is called when it is
    /// complete.
    async fn feed(
        self,
        kind: &'static Kind,
        listed: impl FnOnce() + Send,
        shutdown: Shutdown,
    ) -> Result<(), Error> {
        let following = async {
            let mut revision = self.list(kind).await?;
            listed();
            loop {
                match self.follow(kind, &mut revision).await {
                    Err(error) if error.is_gone() => revision = self.list(kind).await?,
                    other => other?,
                }
            }
        };
        tokio::select! {
            result = following => result,
            () = shutdown.requested() => Ok(()),
        }
    }

    async fn list(&self, kind: &'static Kind) -> Result<String, Error> {
        let list = self.metadata(&kind.path("")).await?;
        let mut graph = self.graph();
        let mut gone: HashSet<Uid> = graph.of_kind(kind).into_iter().collect();
        let mut look = Vec::new();
        for object in list.items {
            gone.remove(&object.metadata.uid);
            look.extend(graph.put(item(kind, object.metadata)));
        }
        gone.iter().for_each(|uid| look.extend(graph.remove(uid)));
        drop(graph);
        self.look(look);
        Ok(list.metadata.resource_version.into())
    }

    async fn metadata(&self, path: &str) -> Result<List, Error> {
        let answer = self.ask(Method::GET, path, METADATA_LIST, None).await?;
        let body =
            base::collect(answer, LIST_BYTES).await.map_err(|error| Error::Transport(error.to_string()))?;
        serde_json::from_slice(&body).map_err(|error| Error::Decode(error.to_string()))
    }

    /// The dependents of an object as the server knows them. The graph may not have heard of all of them
    /// yet, and one that is overlooked when its owner goes is garbage later.
    async fn dependents(&self, owner: &Item) -> Result<Vec<Item>, Error> {
        let mut found = Vec::new();
        let all = watched().into_iter().chain(self.customs.all());
        for kind in all.filter(|kind| kind.namespaced || !owner.kind.namespaced) {
            let namespace = if kind.namespaced { &*owner.namespace } else { "" };
            let all = match self.metadata(&kind.path(namespace)).await {
                // A custom kind that went meanwhile has no objects.
                Err(error) if kind.custom && error.is_not_found() => continue,
                other => other?.items.into_iter().map(|object| item(kind, object.metadata)),
            };
            found.extend(all.filter(|item| item.owners.iter().any(|one| *one.uid == *owner.uid)));
        }
        Ok(found)
    }

    /// Follows one watch to its end.
    async fn follow(&self, kind: &'static Kind, revision: &mut String) -> Result<(), Error> {
        let path = format!("{}?watch=1&allowWatchBookmarks=true&resourceVersion={revision}", kind.path(""));
        let mut body = self.ask(Method::GET, &path, METADATA, None).await?;
        let mut pending = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Error::Transport(error.to_string()))?;
            pending.extend_from_slice(frame.data_ref().map(|data| &data[..]).unwrap_or_default());
            while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                let rest = pending.split_off(end + 1);
                let line = std::mem::replace(&mut pending, rest);
                self.event(kind, &line, revision)?;
            }
            if pending.len() > LINE_BYTES {
                return Err(Error::Decode("a watch event is larger than any object may be".to_owned()));
            }
        }
        Ok(())
    }

    fn event(&self, kind: &'static Kind, line: &[u8], revision: &mut String) -> Result<(), Error> {
        let unreadable = |error: serde_json::Error| Error::Decode(error.to_string());
        let line: Line<'_> = serde_json::from_slice(line).map_err(unreadable)?;
        if line.r#type == "ERROR" {
            let status: Status = serde_json::from_str(line.object.get()).map_err(unreadable)?;
            return Err(Error::Api(Box::new(status)));
        }
        let Object { metadata } = serde_json::from_str(line.object.get()).map_err(unreadable)?;
        metadata.resource_version.as_ref().clone_into(revision);
        let look = match line.r#type {
            "DELETED" => self.graph().remove(&metadata.uid),
            "ADDED" | "MODIFIED" => self.graph().put(item(kind, metadata)),
            _ => Vec::new(),
        };
        self.look(look);
        Ok(())
    }

    async fn sync(self, uid: Uid) -> Result<Next, Error> {
        let mut listed = self.unlisted.subscribe();
        if listed.wait_for(|left| *left == 0).await.is_err() {
            return Ok(Next::Done);
        }
        let mut verified = HashMap::new();
        loop {
            let (item, action) = {
                let graph = self.graph();
                let by_kind = |version: &str, kind: &str| self.customs.by_kind(version, kind);
                (graph.get(&uid).cloned(), plan(&graph, &uid, &verified, &by_kind))
            };
            let (Some(item), Some(action)) = (item, action) else { return Ok(Next::Done) };
            match action {
                Action::Verify(owners) => {
                    for owner in owners {
                        let exists = self.exists(&item, &owner).await?;
                        verified.insert(owner.uid, exists);
                    }
                }
                other => return self.carry_out(&item, other).await.map(|()| Next::Done),
            }
        }
    }

    /// Asks the server for an owner that the graph does not know.
    async fn exists(&self, item: &Item, owner: &OwnerReference) -> Result<bool, Error> {
        let Some(kind) = self.customs.by_kind(&owner.api_version, &owner.kind) else { return Ok(true) };
        let namespace = if kind.namespaced { &*item.namespace } else { "" };
        let path = format!("{}/{}", kind.path(namespace), owner.name);
        match self.client.read::<Object>(&path).await {
            Err(error) if error.is_not_found() => Ok(false),
            other => Ok(*other?.metadata.uid == *owner.uid),
        }
    }

    async fn carry_out(&self, item: &Item, action: Action) -> Result<(), Error> {
        match action {
            Action::Verify(_) => Ok(()),
            Action::Follow(dependents) => {
                self.look(dependents);
                Ok(())
            }
            Action::Delete(policy) => {
                let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": policy,
                    "preconditions": {"uid": &*item.uid, "resourceVersion": item.revision}});
                tracing::debug!(
                    kind = item.kind.kind,
                    name = item.name,
                    policy,
                    "deleting what lost its owner"
                );
                unless_gone(self.client.send(Method::DELETE, &path_of(item), Some(&options)).await.map(drop))
            }
            Action::Disown(uids) => self.disown(item, &uids).await,
            Action::Finalize(finalizer) => self.finalize(item, finalizer).await,
            Action::Orphan => {
                for dependent in self.dependents(item).await? {
                    self.disown(&dependent, &[item.uid.to_string()]).await?;
                }
                self.finalize(item, ORPHAN).await
            }
        }
    }

    async fn disown(&self, item: &Item, uids: &[String]) -> Result<(), Error> {
        let kept: Vec<_> = item.owners.iter().filter(|owner| !uids.contains(&owner.uid)).collect();
        self.patch(item, json!({"ownerReferences": kept})).await
    }

    async fn finalize(&self, item: &Item, finalizer: &str) -> Result<(), Error> {
        debug_assert!([FOREGROUND, ORPHAN].contains(&finalizer));
        let kept: Vec<_> = item.finalizers.iter().filter(|one| ***one != *finalizer).collect();
        self.patch(item, json!({"finalizers": kept})).await
    }

    /// Changes an object's metadata, unless it has changed since.
    async fn patch(&self, item: &Item, mut metadata: Value) -> Result<(), Error> {
        metadata["resourceVersion"] = json!(item.revision);
        metadata["uid"] = json!(&*item.uid);
        let patch = json!({"metadata": metadata});
        unless_gone(self.ask(Method::PATCH, &path_of(item), METADATA, Some(patch)).await.map(drop))
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        accept: &str,
        patch: Option<Value>,
    ) -> Result<Body, Error> {
        let body = patch.map(|patch| patch.to_string()).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::ACCEPT, accept)
            .header(header::CONTENT_TYPE, "application/merge-patch+json")
            .body(full_body(body))
            .map_err(|error| Error::Transport(error.to_string()))?;
        let answer = self.client.raw(request).await?;
        let code = answer.status();
        if code.is_success() {
            return Ok(answer.into_body());
        }
        let body = base::collect(answer.into_body(), REFUSAL_BYTES).await;
        let body = body.map_err(|error| Error::Transport(error.to_string()))?;
        let status = serde_json::from_slice(&body).unwrap_or_else(|_| Status {
            code: Some(i32::from(code.as_u16())),
            message: Some(String::from_utf8_lossy(&body).into_owned()),
            ..Status::default()
        });
        Err(Error::Api(Box::new(status)))
    }
}

fn path_of(item: &Item) -> String {
    format!("{}/{}", item.kind.path(&item.namespace), item.name)
}

fn item(kind: &'static Kind, meta: Meta) -> Item {
    Item {
        kind,
        namespace: meta.namespace,
        name: meta.name,
        uid: meta.uid,
        revision: meta.resource_version,
        owners: meta.owner_references,
        finalizers: meta.finalizers,
        deleting: meta.deletion_timestamp.is_some(),
    }
}
