//! What the controllers share: running a queue, claiming children, waiting for the own writes.

use api::meta::{LabelSelector, OwnerReference, Time};
use api::selector::Labels;
use api::slim::Pod;
use api::{Meta, Object};
use base::{Phase, Restart, Supervisor, clock};
use client::{Cache, Caches, Client, Error, Next, Patch, Queue, Recorder};
use futures_util::future::join_all;
use serde_json::json;
use std::hash::Hash;
use std::sync::Arc;

/// The first batch of creations; each that succeeds doubles the next, so that a quota that refuses all
/// costs one request and not hundreds.
const FIRST_BATCH: usize = 1;

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

/// Decides by owner reference and selector (`metadata.ownerReferences[].controller`).
pub(crate) fn claim<O: Object>(owner: &O, selector: &Labels, child: &impl Object) -> Claim {
    let matches = selector.selects(child);
    match child.controller() {
        Some(reference) if reference.uid != owner.uid() => Claim::Foreign,
        Some(_) if matches => Claim::Owned,
        Some(_) if owner.is_deleting() => Claim::Foreign,
        Some(_) => Claim::Release,
        None if matches && !owner.is_deleting() && !child.is_deleting() => Claim::Adopt,
        None => Claim::Foreign,
    }
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

/// Makes the objects with the numbers below `wanted` in batches that double, up to the first batch of which
/// one is refused. Gives those that were made and a refusal.
pub(crate) async fn slow_start<T, F>(wanted: usize, make: impl Fn(usize) -> F) -> (Vec<T>, Option<Error>)
where
    F: Future<Output = Result<T, Error>>,
{
    let (mut made, mut refused) = (Vec::new(), None);
    let (mut start, mut batch) = (0, FIRST_BATCH);
    while start < wanted && refused.is_none() {
        let end = wanted.min(start + batch);
        for outcome in join_all((start..end).map(&make)).await {
            match outcome {
                Ok(object) => made.push(object),
                Err(error) => refused = Some(error),
            }
        }
        (start, batch) = (end, batch * 2);
    }
    (made, refused)
}

/// Completes once the cache shows that an object is gone or going: what a controller waits for after
/// it deleted something, so that it does not count it again.
pub(crate) async fn deletion_seen<T: Object>(cache: &Cache<T>, key: &Key, uid: &str) {
    cache.deletion_seen(&key.namespace, &key.name, uid).await;
}

/// Notes in a pod's status why the cluster, not its owner, ends it (`DisruptionTarget`).
pub(crate) async fn disrupt(
    client: &Client,
    pod: &Pod,
    reason: &str,
    message: &str,
    phase: Option<&str>,
) -> Result<(), Error> {
    let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message,
        "lastTransitionTime": now()});
    let mut status = json!({"conditions": [condition]});
    if let Some(phase) = phase {
        status["phase"] = json!(phase);
    }
    let patch = Patch::Strategic(json!({"status": status}));
    unless_gone(client.patch_status::<Pod>(pod.namespace(), pod.name(), &patch).await.map(drop))
}

/// The namespace is going: what is refused there is no longer needed.
pub(crate) fn is_namespace_going(error: &Error) -> bool {
    let Error::Api(status) = error else { return false };
    let causes = status.details.iter().flat_map(|details| details.causes.iter().flatten());
    causes.into_iter().any(|cause| cause.reason.as_deref() == Some("NamespaceTerminating"))
}

/// An answer that what was to be removed is gone already is as good.
pub(crate) fn unless_gone(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}

/// The time as API objects have it, in whole seconds.
pub(crate) fn now() -> Time {
    Time(whole_seconds(clock::now()))
}

pub(crate) fn whole_seconds(time: jiff::Timestamp) -> jiff::Timestamp {
    jiff::Timestamp::from_second(time.as_second()).unwrap_or(time)
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
