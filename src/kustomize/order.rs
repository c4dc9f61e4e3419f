//! In what order objects come: as they were read, or by kind so that what others need is there first.

use crate::error::{Error, Result};
use crate::kustomization::{LegacyOrder, Order};
use crate::resource::{Gvk, Id};
use crate::set::Set;
use std::cmp::Ordering;

const FIRST: [&str; 22] = [
    "Namespace",
    "ResourceQuota",
    "StorageClass",
    "CustomResourceDefinition",
    "ServiceAccount",
    "PodSecurityPolicy",
    "Role",
    "ClusterRole",
    "RoleBinding",
    "ClusterRoleBinding",
    "ConfigMap",
    "Secret",
    "Endpoints",
    "Service",
    "LimitRange",
    "PriorityClass",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "Deployment",
    "StatefulSet",
    "CronJob",
    "PodDisruptionBudget",
];
const LAST: [&str; 2] = ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"];

/// Orders as a kustomization says.
pub(crate) fn apply(set: &mut Set, order: &Order) -> Result<()> {
    match (order.order.as_str(), &order.legacy_sort_options) {
        ("legacy", None) => legacy(set),
        ("legacy", Some(LegacyOrder { order_first, order_last })) => by_kind(set, order_first, order_last),
        ("fifo", None) => {}
        ("fifo", Some(_)) => {
            return Err(Error::new(
                "the field 'sortOptions.legacySortOptions' is set but the selected sort order is 'fifo', not 'legacy'",
            ));
        }
        _ => return Err(Error::new("the field 'sortOptions.order' must be one of [fifo, legacy]")),
    }
    Ok(())
}

/// Namespaces first, webhooks last.
pub(crate) fn legacy(set: &mut Set) {
    by_kind(set, &FIRST, &LAST);
}

fn by_kind(set: &mut Set, first: &[impl AsRef<str>], last: &[impl AsRef<str>]) {
    let rank = |kind: &str| rank(kind, first, last);
    set.all.sort_by_cached_key(|resource| {
        let id = resource.id();
        let namespaces = id.gvk.kind == "Namespace" && id.gvk.group.is_empty();
        // Kubernetes' own Namespaces come before others of that name.
        (rank(&id.gvk.kind), !namespaces, words(&id.gvk), full(&id))
    });
}

fn rank(kind: &str, first: &[impl AsRef<str>], last: &[impl AsRef<str>]) -> isize {
    let signed = |at: usize| isize::try_from(at).unwrap_or(isize::MAX);
    match (place_in(last, kind), place_in(first, kind)) {
        (Some(at), _) => 1 + signed(at),
        (None, Some(at)) => signed(at) - signed(first.len()),
        (None, None) => 0,
    }
}

fn place_in(list: &[impl AsRef<str>], kind: &str) -> Option<usize> {
    list.iter().rposition(|one| one.as_ref() == kind)
}

/// Kinds that are not told apart by rank are by these words, in which `~` stands for nothing and so comes last.
fn words(gvk: &Gvk) -> String {
    let or = |text: &str, instead: &str| if text.is_empty() { instead.to_owned() } else { text.to_owned() };
    format!("{}_{}_{}", or(&gvk.group, "~G"), or(&gvk.version, "~V"), or(&gvk.kind, "~K"))
}

fn full(id: &Id) -> String {
    let or = |text: &str, instead: &str| if text.is_empty() { instead.to_owned() } else { text.to_owned() };
    format!("{}|{}|{}", id.gvk, or(&id.namespace, "~X"), or(&id.name, "~N"))
}

/// The order of kinds in configurations.
pub(crate) fn compare(one: &Gvk, other: &Gvk) -> Ordering {
    let key = |gvk: &Gvk| (rank(&gvk.kind, &FIRST, &LAST), words(gvk));
    key(one).cmp(&key(other))
}
