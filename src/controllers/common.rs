//! What the controllers share: running a queue, claiming children, waiting for the own writes.

use api::meta::{DeleteOptions, LabelSelector, OwnerReference, Preconditions, Time};
use api::selector::Labels;
use api::slim::Pod;
use api::{Meta, Object, Whole, owner_reference};
use base::{Phase, Restart, Supervisor, clock};
use client::{Cache, Caches, Client, Error, Next, Patch, Queue, Recorder};
use futures_util::future::join_all;
use serde_json::json;
use std::hash::Hash;
use std::sync::Arc;
use tokio::sync::watch;

/// What every controller is given.
#[derive(Clone)]
pub(crate) struct Room {
    pub(crate) client: Client,
    pub(crate) caches: Caches,
    pub(crate) supervisor: Supervisor,
}

impl Room {
    /// A recorder that signs as this controller.
    pub(crate) fn recorder(&self, component: &str) -> Recorder {
        Recorder::new(self.client.clone(), &self.supervisor, component, "")
    }

    /// Works on a queue's keys until shutdown.
    pub(crate) fn work<K, F, Fut>(&self, name: &str, queue: &Queue<K>, workers: usize, work: F)
    where
        K: Hash + Eq + Clone + Send + std::fmt::Debug + 'static,
        F: Fn(K) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<Next, Error>> + Send + 'static,
    {
        let queue = queue.clone();
        self.supervisor.run(name, Phase::Work, Restart::OnFailure, move |shutdown| {
            let (queue, work) = (queue.clone(), work.clone());
            async move {
                queue.work(shutdown, workers, work).await;
                Ok::<(), Error>(())
            }
        });
    }
}

impl Room {
    /// Does something whenever a value changes, until shutdown.
    pub(crate) fn follow<T: Send + Sync + 'static>(
        &self,
        name: &str,
        value: watch::Receiver<T>,
        then: impl Fn() + Clone + Send + 'static,
    ) {
        self.supervisor.run(name, Phase::Work, Restart::OnFailure, move |shutdown| {
            let (mut value, then) = (value.clone(), then.clone());
            async move {
                loop {
                    tokio::select! {
                        changed = value.changed() => match changed {
                            Ok(()) => then(),
                            Err(_) => return Ok::<(), Error>(()),
                        },
                        () = shutdown.requested() => return Ok(()),
                    }
                }
            }
        });
    }

    /// Forgets when this process leads no longer: since when something is so is not known of what others saw.
    pub(crate) fn forget_afterwards(&self, name: &str, forget: impl Fn() + Clone + Send + 'static) {
        self.supervisor.run(name, Phase::Work, Restart::OnFailure, move |shutdown| {
            let forget = forget.clone();
            async move {
                shutdown.requested().await;
                forget();
                Ok::<(), Error>(())
            }
        });
    }
}

/// The namespace and name of an object to look at.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Key {
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    pub(crate) fn of<T: Object>(object: &T) -> Self {
        Self::new(object.namespace(), object.name())
    }
}

/// Looks at an object whenever it changes.
pub(crate) fn watch_self<T: Object>(cache: &Cache<T>, queue: &Queue<Key>) {
    let queue = queue.clone();
    cache.on_change(move |change| queue.add(Key::of(&**change.object())));
}

/// Looks at the controlling owner of kind `owner` whenever one of its children changes, and for a
/// child without an owner at those that `adopters` names.
pub(crate) fn watch_children<T: Object>(
    cache: &Cache<T>,
    queue: &Queue<Key>,
    owner: &'static str,
    adopters: impl Fn(&T) -> Vec<Key> + Send + Sync + 'static,
) {
    let queue = queue.clone();
    cache.on_change(move |change| {
        for object in [&change.old, &change.new].into_iter().flatten() {
            match object.controller() {
                Some(reference) if reference.kind == owner => {
                    queue.add(Key::new(object.namespace(), reference.name));
                }
                Some(_) => {}
                None => adopters(object).into_iter().for_each(|key| queue.add(key)),
            }
        }
    });
}

/// The workloads whose selectors match an object that nobody controls.
pub(crate) fn adopters<'a, T: Object>(
    candidates: impl Iterator<Item = &'a Arc<T>>,
    selector: impl Fn(&T) -> Option<&LabelSelector>,
    child: &impl Object,
) -> Vec<Key> {
    let matching = candidates.filter(|candidate| Labels::of(selector(candidate)).selects(child));
    matching.map(|candidate| Key::of(&**candidate)).collect()
}

/// Whose child an object is, from the point of view of one controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// Its own.
    Owned,
    /// Nobody's, and it matches: take it.
    Adopt,
    /// Its own, and it no longer matches: let go.
    Release,
    /// None of its business.
    Foreign,
}

/// Decides by owner reference (`metadata.ownerReferences[].controller`) and whether the child is such as the
/// owner selects.
pub(crate) fn claim<O: Object>(owner: &O, matches: impl Fn() -> bool, child: &impl Object) -> Claim {
    match child.controller() {
        Some(reference) if reference.uid != owner.uid() => Claim::Foreign,
        Some(_) if matches() => Claim::Owned,
        Some(_) if owner.is_deleting() => Claim::Foreign,
        Some(_) => Claim::Release,
        None if !owner.is_deleting() && !child.is_deleting() && matches() => Claim::Adopt,
        None => Claim::Foreign,
    }
}

/// Whether one of an object's owners is this one (`metadata.ownerReferences`).
pub(crate) fn owned_by<T: Object>(object: &impl Whole, owner: &T) -> bool {
    let owners = object.meta().owner_references.iter().flatten();
    owners.into_iter().any(|reference| reference.uid == owner.uid() && reference.kind == T::KIND)
}

/// The children of `owner` in its namespace, after taking what `matches` and is `free` to be taken, and letting
/// go what no longer matches.
pub(crate) async fn claim_all<O: Object, T: Object>(
    client: &Client,
    owner: &O,
    children: &Cache<T>,
    matches: impl Fn(&T) -> bool,
    free: impl Fn(&T) -> bool,
) -> Result<Vec<Arc<T>>, Error> {
    let snapshot = children.snapshot();
    let mut owned = Vec::new();
    for child in snapshot.in_namespace(owner.namespace()) {
        match claim(owner, || matches(child), &**child) {
            Claim::Owned => owned.push(child.clone()),
            Claim::Adopt if free(child) => {
                owned.push(Arc::new(adopt(client, &owner_reference(owner), &**child).await?));
            }
            Claim::Release => drop(release(client, owner.uid(), &**child).await?),
            Claim::Adopt | Claim::Foreign => {}
        }
    }
    Ok(owned)
}

/// Makes `owner` the controller of an object nobody controls, unless it was replaced meanwhile.
pub(crate) async fn adopt<T: Object>(client: &Client, owner: &OwnerReference, child: &T) -> Result<T, Error> {
    let patch = json!({"metadata": {"uid": child.uid(), "ownerReferences": [owner]}});
    client.patch(child.namespace(), child.name(), &Patch::Strategic(patch)).await
}

/// Removes the reference to an owner.
pub(crate) async fn release<T: Object>(client: &Client, owner_uid: &str, child: &T) -> Result<T, Error> {
    let drop = json!([{"$patch": "delete", "uid": owner_uid}]);
    let patch = json!({"metadata": {"uid": child.uid(), "ownerReferences": drop}});
    client.patch(child.namespace(), child.name(), &Patch::Strategic(patch)).await
}

/// For the deletion of this very object, not of another that has its name by now.
pub(crate) fn this(object: &impl Object) -> DeleteOptions {
    let preconditions = Preconditions { uid: Some(object.uid().to_owned()), ..Preconditions::default() };
    DeleteOptions { preconditions: Some(preconditions), ..DeleteOptions::default() }
}

/// Deletes this very object, if it is still there.
pub(crate) async fn delete_this<T: Object>(client: &Client, object: &T) -> Result<(), Error> {
    unless_gone(client.delete::<T>(object.namespace(), object.name(), &this(object)).await)
}

/// Deletes an object, if it is still there, and waits until the cache shows it.
pub(crate) async fn delete_seen<T: Object>(
    client: &Client,
    cache: &Cache<T>,
    object: &T,
) -> Result<(), Error> {
    let key = Key::of(object);
    unless_gone(client.delete::<T>(&key.namespace, &key.name, &Default::default()).await)?;
    deletion_seen(cache, &key, object.uid()).await;
    Ok(())
}

/// Completes once the cache shows that an object is gone or going: what a controller waits for after
/// it deleted something, so that it does not count it again.
pub(crate) async fn deletion_seen<T: Object>(cache: &Cache<T>, key: &Key, uid: &str) {
    cache.deletion_seen(&key.namespace, &key.name, uid).await;
}

/// Does `work` on each item in batches that double, and stops after a batch in which one fails, so that a quota
/// that refuses all costs one request and not hundreds. Gives what succeeded, and the last failure.
pub(crate) async fn slow_start<T, R, Fut>(
    items: impl Iterator<Item = T>,
    work: impl Fn(T) -> Fut,
) -> (Vec<R>, Option<Error>)
where
    Fut: Future<Output = Result<R, Error>>,
{
    let (mut items, mut batch, mut done) = (items.peekable(), 1, Vec::new());
    while items.peek().is_some() {
        let mut failure = None;
        for outcome in join_all(items.by_ref().take(batch).map(&work)).await {
            match outcome {
                Ok(result) => done.push(result),
                Err(error) => failure = Some(error),
            }
        }
        if failure.is_some() {
            return (done, failure);
        }
        batch *= 2;
    }
    (done, None)
}

/// Notes in a pod's status why the cluster, not its owner, ends it (`DisruptionTarget`), if that is to be noted,
/// and its phase, if nobody else will.
pub(crate) async fn disrupt(
    client: &Client,
    pod: &Pod,
    why: Option<(&str, &str)>,
    phase: Option<&str>,
) -> Result<(), Error> {
    let mut status = json!({});
    if let Some((reason, message)) = why {
        let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message,
            "lastTransitionTime": now()});
        status["conditions"] = json!([condition]);
    }
    if let Some(phase) = phase {
        status["phase"] = json!(phase);
    }
    let patch = Patch::Strategic(json!({"metadata": {"uid": pod.uid()}, "status": status}));
    unless_gone(client.patch_status::<Pod>(pod.namespace(), pod.name(), &patch).await.map(drop))
}

/// The namespace is going: what is refused there is no longer needed.
pub(crate) fn is_namespace_going(error: &Error) -> bool {
    let Error::Api(status) = error else { return false };
    let causes = status.details.iter().flat_map(|details| details.causes.iter().flatten());
    causes.into_iter().any(|cause| cause.reason.as_deref() == Some("NamespaceTerminating"))
}

/// What was asked for, or none if there is none.
pub(crate) fn if_there<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Err(error) if error.is_not_found() => Ok(None),
        there => there.map(Some),
    }
}

/// An answer that what was to be removed is gone already is as good.
pub(crate) fn unless_gone(result: Result<(), Error>) -> Result<(), Error> {
    if_there(result).map(|_| ())
}

/// The time as API objects have it, in whole seconds.
pub(crate) fn now() -> Time {
    Time(clock::whole_seconds(clock::now()))
}

/// The seconds from one time to another, negative if `until` is earlier.
pub(crate) fn seconds_between(since: jiff::Timestamp, until: jiff::Timestamp) -> i64 {
    until.as_second() - since.as_second()
}

/// `metadata.creationTimestamp`, or the beginning of time before the server gave one.
pub(crate) fn created(meta: &impl Meta) -> jiff::Timestamp {
    meta.created().map_or(jiff::Timestamp::MIN, |time| time.0)
}

/// An absolute number, or a percentage of `total` (`maxSurge`, `maxUnavailable`).
pub(crate) fn share_of(value: &api::IntOrString, total: i32, round_up: bool) -> i32 {
    match value {
        api::IntOrString::Int(number) => *number,
        api::IntOrString::String(text) => {
            let percent: i64 = text.strip_suffix('%').and_then(|text| text.parse().ok()).unwrap_or(0);
            let scaled = percent * i64::from(total) + if round_up { 99 } else { 0 };
            i32::try_from(scaled / 100).unwrap_or(i32::MAX)
        }
    }
}

/// A number of things as the API has it.
pub(crate) fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// A number of things where the API leaves out a zero.
pub(crate) fn nonzero(number: usize) -> Option<i32> {
    (number > 0).then(|| count(number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::IntOrString::{Int, String};

    #[test]
    fn shares_round_as_the_field_says() {
        let quarter = String("25%".to_owned());
        let shares =
            [share_of(&quarter, 10, true), share_of(&quarter, 10, false), share_of(&Int(7), 3, true)];
        assert_eq!(shares, [3, 2, 7]);
    }
}
