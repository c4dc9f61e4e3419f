//! Empties namespaces that are being deleted, whatever kinds are in them, and then lets them go.

use crate::common::{Room, count, now, unless_gone};
use crate::kinds::CustomKinds;
use api::core::{Namespace, NamespaceCondition, NamespaceStatus};
use api::kinds::{KINDS, Kind};
use api::slim::Pod;
use api::{Object, Whole as _};
use client::{Cache, Client, Error, Next, Queue};
use http::Method;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

/// The finalizer in `spec.finalizers` that this controller removes.
const FINALIZER: &str = "kubernetes";
/// How soon to look again at what is left; pods that end are noticed at once.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

#[derive(Clone)]
struct Namespaces {
    client: Client,
    namespaces: Cache<Namespace>,
    customs: CustomKinds,
}

pub(crate) fn start(room: &Room) {
    let queue = Queue::new("namespace");
    let customs = CustomKinds::new(room);
    let controller = Namespaces { client: room.client.clone(), namespaces: room.caches.of(), customs };
    let changed = queue.clone();
    controller.namespaces.on_change(move |change| {
        if let Some(namespace) = change.new.as_ref().filter(|namespace| namespace.is_deleting()) {
            changed.add(namespace.name().to_owned());
        }
    });
    let (gone, namespaces) = (queue.clone(), controller.namespaces.clone());
    room.caches.of::<Pod>().on_change(move |change| {
        let namespace = change.object().namespace();
        if change.new.is_none() && namespaces.get("", namespace).is_some_and(|it| it.is_deleting()) {
            gone.add(namespace.to_owned());
        }
    });
    room.work("namespace controller", &queue, 4, move |name| controller.clone().sync(name));
}

/// What is left in a namespace: per resource how many objects, and per finalizer how many hold on.
#[derive(Debug, Default, PartialEq, Eq)]
struct Remaining {
    resources: BTreeMap<String, usize>,
    finalizers: BTreeMap<String, usize>,
}

/// Pods as [`resource`] names them.
const PODS: &str = "pods.";

/// A resource in messages: the group follows the dot also where it is empty.
fn resource(kind: &Kind) -> String {
    format!("{}.{}", kind.plural, kind.group)
}

/// The kinds that live in namespaces, each store of objects once.
fn pods_first(customs: Vec<&'static Kind>) -> Vec<&'static Kind> {
    let mut seen = HashSet::new();
    let namespaced = KINDS.iter().chain(customs).filter(|kind| kind.namespaced && kind.stored());
    let mut kinds: Vec<_> = namespaced.filter(|kind| seen.insert(kind.storage_prefix())).collect();
    kinds.sort_by_key(|kind| resource(kind) != PODS);
    kinds
}

impl Namespaces {
    async fn sync(self, name: String) -> Result<Next, Error> {
        let Some(namespace) = self.namespaces.get("", &name) else { return Ok(Next::Done) };
        let finalizers =
            namespace.spec.as_ref().and_then(|spec| spec.finalizers.as_deref()).unwrap_or_default();
        if !namespace.is_deleting() || !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
            return Ok(Next::Done);
        }
        let mut namespace = Namespace::clone(&namespace);
        if phase(&namespace) != Some("Terminating") {
            namespace.status.get_or_insert_default().phase = Some("Terminating".to_owned());
            namespace = self.client.update_status(&namespace).await?;
        }
        let remaining = self.empty(&name).await?;
        if remaining.resources.is_empty() {
            return self.finalize(namespace).await.map(|()| Next::Done);
        }
        let status = with_conditions(namespace.status.clone().unwrap_or_default(), &remaining);
        if namespace.status.as_ref() != Some(&status) {
            namespace.status = Some(status);
            self.client.update_status(&namespace).await?;
        }
        Ok(Next::After(LOOK_AGAIN))
    }

    /// Deletes everything once, and says what stayed. While pods are left nothing else is touched: they
    /// may need policies and settings until their end (KEP-5080).
    async fn empty(&self, namespace: &str) -> Result<Remaining, Error> {
        let mut remaining = Remaining::default();
        for kind in pods_first(self.customs.all()) {
            if remaining.resources.contains_key(PODS) {
                break;
            }
            if self.list(kind, namespace).await?.is_empty() {
                continue;
            }
            unless_gone(self.delete_all(kind, namespace).await)?;
            for item in self.list(kind, namespace).await? {
                *remaining.resources.entry(resource(kind)).or_default() += 1;
                let finalizers = item["metadata"]["finalizers"].as_array().into_iter().flatten();
                for finalizer in finalizers.filter_map(Value::as_str) {
                    *remaining.finalizers.entry(finalizer.to_owned()).or_default() += 1;
                }
            }
        }
        Ok(remaining)
    }

    async fn list(&self, kind: &Kind, namespace: &str) -> Result<Vec<Value>, Error> {
        let body = match self.client.send(Method::GET, &kind.path(namespace), None).await {
            // The definition of a custom kind went, and its objects before it.
            Err(error) if kind.custom && error.is_not_found() => return Ok(Vec::new()),
            answered => answered?,
        };
        let mut list: Value =
            serde_json::from_slice(&body).map_err(|error| Error::Decode(error.to_string()))?;
        Ok(list["items"].as_array_mut().map(std::mem::take).unwrap_or_default())
    }

    async fn delete_all(&self, kind: &Kind, namespace: &str) -> Result<(), Error> {
        let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"});
        if kind.verbs.contains(&"deletecollection") {
            return self.client.send(Method::DELETE, &kind.path(namespace), Some(&options)).await.map(drop);
        }
        for item in self.list(kind, namespace).await? {
            let name = item["metadata"]["name"].as_str().unwrap_or_default();
            let path = format!("{}/{name}", kind.path(namespace));
            let deleted = self.client.send(Method::DELETE, &path, Some(&options)).await;
            unless_gone(deleted.map(drop))?;
        }
        Ok(())
    }

    async fn finalize(&self, mut namespace: Namespace) -> Result<(), Error> {
        if let Some(finalizers) = namespace.spec.as_mut().and_then(|spec| spec.finalizers.as_mut()) {
            finalizers.retain(|finalizer| finalizer != FINALIZER);
        }
        let path = format!("/api/v1/namespaces/{}/finalize", namespace.name());
        let body = namespace.to_value().map_err(|error| Error::Decode(error.to_string()))?;
        unless_gone(self.client.send(Method::PUT, &path, Some(&body)).await.map(drop))
    }
}

fn phase(namespace: &Namespace) -> Option<&str> {
    namespace.status.as_ref()?.phase.as_deref()
}

/// The conditions by which a person sees what a namespace waits for.
fn with_conditions(mut status: NamespaceStatus, remaining: &Remaining) -> NamespaceStatus {
    let resources =
        list_of(&remaining.resources, |resource, count| format!("{resource} has {count} resource instances"));
    let finalizers = list_of(&remaining.finalizers, |finalizer, count| {
        format!("{finalizer} in {count} resource instances")
    });
    let held = !remaining.finalizers.is_empty();
    let finalizers = if held {
        (
            "True",
            "SomeFinalizersRemain",
            format!("Some content in the namespace has finalizers remaining: {finalizers}"),
        )
    } else {
        ("False", "ContentHasNoFinalizers", "All content-preserving finalizers finished".to_owned())
    };
    let conditions = [
        (
            "NamespaceDeletionDiscoveryFailure",
            ("False", "ResourcesDiscovered", "All resources successfully discovered".to_owned()),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            ("False", "ParsedGroupVersions", "All legacy kube types successfully parsed".to_owned()),
        ),
        (
            "NamespaceDeletionContentFailure",
            (
                "False",
                "ContentDeleted",
                "All content successfully deleted, may be waiting on finalization".to_owned(),
            ),
        ),
        (
            "NamespaceContentRemaining",
            ("True", "SomeResourcesRemain", format!("Some resources are remaining: {resources}")),
        ),
        ("NamespaceFinalizersRemaining", finalizers),
    ];
    let list = status.conditions.get_or_insert_default();
    for (kind, (value, reason, message)) in conditions {
        set_condition(list, kind, value, reason, message);
    }
    status
}

fn list_of(counts: &BTreeMap<String, usize>, item: impl Fn(&str, i32) -> String) -> String {
    counts.iter().map(|(name, number)| item(name, count(*number))).collect::<Vec<_>>().join(", ")
}

fn set_condition(
    list: &mut Vec<NamespaceCondition>,
    kind: &str,
    status: &str,
    reason: &str,
    message: String,
) {
    let old = list.iter().position(|condition| condition.type_ == kind).map(|at| list.remove(at));
    let same = old.filter(|old| old.status == status).and_then(|old| old.last_transition_time);
    list.push(NamespaceCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: Some(same.unwrap_or_else(now)),
    });
    // The order of the types is fixed, so that an unchanged status compares equal.
    list.sort_by(|a, b| a.type_.cmp(&b.type_));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_say_what_is_left() {
        let mut remaining = Remaining::default();
        remaining.resources.insert("pods.".to_owned(), 2);
        remaining.finalizers.insert("example.com/hold".to_owned(), 1);
        let status = with_conditions(NamespaceStatus::default(), &remaining);
        let said: Vec<_> =
            status.conditions.iter().flatten().filter(|condition| condition.status == "True").collect();
        assert_eq!(
            said[0].message.as_deref(),
            Some("Some resources are remaining: pods. has 2 resource instances")
        );
        assert_eq!(
            said[1].message.as_deref(),
            Some(
                "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances"
            )
        );
        assert_eq!(with_conditions(status.clone(), &remaining), status);
    }
}
