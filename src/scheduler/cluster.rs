//! The picture of the cluster that decisions are made from, kept current change by change.

use crate::resources::Resources;
use crate::wanted::{Key, Wanted};
use api::Object;
use api::core::{Node, Taint};
use api::slim::Pod;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// A node, and the pods that are on it or about to be.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    /// `None` while only pods of the node are known.
    pub(crate) node: Option<Arc<Node>>,
    pub(crate) allocatable: Resources,
    pub(crate) requested: Resources,
    pub(crate) guessed: [i64; 2],
    pub(crate) pods: BTreeMap<Key, Arc<Wanted>>,
}

impl Place {
    pub(crate) fn taints(&self) -> &[Taint] {
        let spec = self.node.as_ref().and_then(|node| node.spec.as_ref());
        spec.and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
    }

    /// The node's value of a topology key.
    pub(crate) fn domain(&self, key: &str) -> Option<&str> {
        self.node.as_ref()?.labels().get(key).map(String::as_str)
    }

    pub(crate) fn add(&mut self, wanted: Arc<Wanted>) {
        self.remove(&wanted.key);
        self.requested.add(&wanted.requests);
        self.guessed.iter_mut().zip(wanted.guessed).for_each(|(own, more)| *own += more);
        self.pods.insert(wanted.key.clone(), wanted);
    }

    pub(crate) fn remove(&mut self, key: &Key) -> bool {
        let Some(wanted) = self.pods.remove(key) else { return false };
        self.requested.subtract(&wanted.requests);
        self.guessed.iter_mut().zip(wanted.guessed).for_each(|(own, less)| *own -= less);
        true
    }
}

/// All nodes with their pods, and the labels of namespaces.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cluster {
    places: BTreeMap<Arc<str>, Place>,
    /// Where each pod is.
    at: HashMap<Key, Arc<str>>,
    /// The pods with wishes about other pods: few, and the only ones a new pod must be compared with.
    social: HashSet<Key>,
    /// Per controller's uid, how many of its pods are on which node.
    siblings: HashMap<Box<str>, HashMap<Arc<str>, i64>>,
    namespaces: HashMap<String, BTreeMap<String, String>>,
}

impl Cluster {
    /// The nodes that exist.
    pub(crate) fn places(&self) -> impl Iterator<Item = (&str, &Place)> {
        self.places.iter().filter(|(_, place)| place.node.is_some()).map(|(name, place)| (&**name, place))
    }

    pub(crate) fn place(&self, node: &str) -> Option<&Place> {
        self.places.get(node)
    }

    pub(crate) fn namespace(&self, name: &str) -> &BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        self.namespaces.get(name).unwrap_or(&NONE)
    }

    /// The same cluster with one node's pods otherwise, to see what that would change.
    pub(crate) fn with_place(&self, place: &Place) -> Self {
        let mut other = self.clone();
        if let Some(node) = &place.node {
            other.places.insert(node.name().into(), place.clone());
        }
        other
    }

    pub(crate) fn put_namespace(&mut self, name: &str, labels: Option<BTreeMap<String, String>>) {
        match labels {
            Some(labels) => drop(self.namespaces.insert(name.to_owned(), labels)),
            None => drop(self.namespaces.remove(name)),
        }
    }

    pub(crate) fn put_node(&mut self, node: Arc<Node>) {
        let place = self.places.entry(node.name().into()).or_default();
        let allocatable = node.status.iter().flat_map(|status| status.allocatable.iter().flatten());
        place.allocatable = Resources::of(allocatable.map(|(name, amount)| (&**name, &*amount.0)));
        place.node = Some(node);
    }

    /// Pods may outlive the node they are on for a while.
    pub(crate) fn remove_node(&mut self, name: &str) {
        if let Some(place) = self.places.get_mut(name) {
            place.node = None;
            if place.pods.is_empty() {
                self.places.remove(name);
            }
        }
    }

    /// A pod is on a node, or is assumed to be while it is being bound.
    pub(crate) fn put_pod(&mut self, node: &str, wanted: Arc<Wanted>) {
        self.remove_pod(&wanted.key);
        // One text for all pods of the node.
        let node = self.places.get_key_value(node).map_or_else(|| node.into(), |(name, _)| name.clone());
        self.at.insert(wanted.key.clone(), node.clone());
        if wanted.is_social() {
            self.social.insert(wanted.key.clone());
        }
        if let Some(owner) = wanted.pod.controller() {
            let nodes = self.siblings.entry(owner.uid.into()).or_default();
            *nodes.entry(node.clone()).or_default() += 1;
        }
        self.places.entry(node).or_default().add(wanted);
    }

    /// Whether the pod was on a node.
    pub(crate) fn remove_pod(&mut self, key: &Key) -> bool {
        let Some(node) = self.at.remove(key) else { return false };
        self.social.remove(key);
        let Some(place) = self.places.get_mut(&node) else { return false };
        let owner = place.pods.get(key).and_then(|wanted| wanted.pod.controller());
        if let Some(owner) = owner
            && let Some(nodes) = self.siblings.get_mut(owner.uid)
        {
            let left = nodes.get_mut(&node).map(|count| {
                *count -= 1;
                *count
            });
            if left == Some(0) {
                nodes.remove(&node);
            }
            if nodes.is_empty() {
                self.siblings.remove(owner.uid);
            }
        }
        let removed = place.remove(key);
        if place.node.is_none() && place.pods.is_empty() {
            self.places.remove(&node);
        }
        removed
    }

    /// The pods with wishes about other pods, and where they are.
    pub(crate) fn social(&self) -> impl Iterator<Item = (&Wanted, &Place)> {
        self.social.iter().filter_map(|key| {
            let place = self.places.get(self.at.get(key)?)?;
            Some((&**place.pods.get(key)?, place))
        })
    }

    /// On which nodes how many pods of a controller are.
    pub(crate) fn siblings(&self, controller_uid: &str) -> Option<&HashMap<Arc<str>, i64>> {
        self.siblings.get(controller_uid)
    }

    /// The pod that is known on a node, to see whether a change matters.
    pub(crate) fn pod(&self, key: &Key) -> Option<&Arc<Pod>> {
        let place = self.places.get(self.at.get(key)?)?;
        place.pods.get(key).map(|wanted| &wanted.pod)
    }
}
