//! Deletes what has lost its owner, and holds back or lets go of owners until their dependents have
//! followed (`metadata.ownerReferences`, the `foregroundDeletion` and `orphan` finalizers).
//!
//! The graph holds the metadata of every object of every kind; who owns what is decided here by uid
//! alone, and an owner that the graph does not know is asked for before anything is deleted.

use api::kinds::Kind;
use api::meta::OwnerReference;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

pub(crate) const FOREGROUND: &str = "foregroundDeletion";
pub(crate) const ORPHAN: &str = "orphan";

pub(crate) type Uid = Arc<str>;

/// What the graph keeps of an object, in as little memory as it takes: it is kept of every object.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) kind: &'static Kind,
    pub(crate) namespace: Box<str>,
    pub(crate) name: Box<str>,
    pub(crate) uid: Uid,
    pub(crate) revision: Box<str>,
    pub(crate) owners: Box<[OwnerReference]>,
    pub(crate) finalizers: Box<[Box<str>]>,
    pub(crate) deleting: bool,
}

impl Item {
    fn holds(&self, finalizer: &str) -> bool {
        self.finalizers.iter().any(|one| **one == *finalizer)
    }

    /// It stays until its dependents are gone.
    fn waits_for_dependents(&self) -> bool {
        self.deleting && self.holds(FOREGROUND)
    }
}

/// All objects, and who depends on whom.
#[derive(Default)]
pub(crate) struct Graph {
    /// Boxed, because a table is half empty after it has grown.
    items: HashMap<Uid, Box<Item>>,
    dependents: HashMap<Uid, BTreeSet<Uid>>,
}

/// One thing to do about an object.
#[derive(Debug)]
pub(crate) enum Action {
    /// Ask the server whether these owners exist, then plan again.
    Verify(Vec<OwnerReference>),
    /// Delete it with this propagation policy.
    Delete(&'static str),
    /// Remove the references to these owners.
    Disown(Vec<String>),
    /// Remove the references of all its dependents to it, then its `orphan` finalizer.
    Orphan,
    /// Its dependents are gone: remove this finalizer.
    Finalize(&'static str),
    /// Look at these dependents.
    Follow(Vec<Uid>),
}

impl Graph {
    /// Takes in an object; returns what to look at.
    pub(crate) fn put(&mut self, item: Item) -> Vec<Uid> {
        let uid = item.uid.clone();
        if let Some(old) = self.items.remove(&uid) {
            self.unlink(&old.owners, &uid);
        }
        for owner in &item.owners {
            self.dependents.entry(owner.uid.as_str().into()).or_default().insert(uid.clone());
        }
        let worth_it = !item.owners.is_empty() || item.deleting;
        self.items.insert(uid.clone(), Box::new(item));
        if worth_it { vec![uid] } else { Vec::new() }
    }

    /// An object is gone: its dependents may have to follow, its owners may have waited for it.
    pub(crate) fn remove(&mut self, uid: &str) -> Vec<Uid> {
        let Some(item) = self.items.remove(uid) else { return Vec::new() };
        self.unlink(&item.owners, uid);
        let mut look: Vec<Uid> = self.dependents.get(uid).into_iter().flatten().cloned().collect();
        look.extend(item.owners.iter().map(|owner| Uid::from(owner.uid.as_str())));
        look
    }

    fn unlink(&mut self, owners: &[OwnerReference], uid: &str) {
        for owner in owners {
            if let Some(dependents) = self.dependents.get_mut(owner.uid.as_str()) {
                dependents.remove(uid);
                if dependents.is_empty() {
                    self.dependents.remove(owner.uid.as_str());
                }
            }
        }
    }

    pub(crate) fn get(&self, uid: &str) -> Option<&Item> {
        self.items.get(uid).map(|item| &**item)
    }

    /// The objects of a kind, to find out which a new list no longer has.
    pub(crate) fn of_kind(&self, kind: &'static Kind) -> Vec<Uid> {
        let same = self.items.values().filter(|item| std::ptr::eq(item.kind, kind));
        same.map(|item| item.uid.clone()).collect()
    }

    fn dependents_of(&self, uid: &str) -> Vec<Uid> {
        self.dependents.get(uid).into_iter().flatten().cloned().collect()
    }
}

/// The kind of an `apiVersion` and `kind`, if it is served.
pub(crate) type ByKind<'a> = &'a dyn Fn(&str, &str) -> Option<&'static Kind>;

/// What is known of an owner.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    Solid,
    Absent,
    /// It is going, and waits for its dependents.
    Waiting,
    Unknown,
}

/// What to do about one object. `verified` says of owners that the graph does not know whether the
/// server does.
pub(crate) fn plan(
    graph: &Graph,
    uid: &str,
    verified: &HashMap<String, bool>,
    kinds: ByKind<'_>,
) -> Option<Action> {
    let item = graph.get(uid)?;
    if item.deleting {
        return plan_deleting(graph, item);
    }
    let states: Vec<_> =
        item.owners.iter().map(|owner| (owner, state(graph, item, (owner, kinds), verified))).collect();
    let of =
        |wanted: Owner| states.iter().filter(move |(_, state)| *state == wanted).map(|(owner, _)| *owner);
    if of(Owner::Unknown).next().is_some() {
        return Some(Action::Verify(of(Owner::Unknown).cloned().collect()));
    }
    let lost: Vec<String> =
        of(Owner::Absent).chain(of(Owner::Waiting)).map(|owner| owner.uid.clone()).collect();
    if lost.is_empty() {
        return None;
    }
    if of(Owner::Solid).next().is_some() {
        return Some(Action::Disown(lost));
    }
    let waited_for = of(Owner::Waiting).next().is_some();
    Some(Action::Delete(match () {
        () if waited_for && !graph.dependents_of(uid).is_empty() => "Foreground",
        () if item.holds(ORPHAN) => "Orphan",
        () if item.holds(FOREGROUND) => "Foreground",
        () => "Background",
    }))
}

fn plan_deleting(graph: &Graph, item: &Item) -> Option<Action> {
    if item.holds(ORPHAN) {
        return Some(Action::Orphan);
    }
    if !item.holds(FOREGROUND) {
        return None;
    }
    let dependents = graph.dependents_of(&item.uid);
    let blocks = |uid: &Uid| {
        let owners = graph.get(uid).map(|dependent| &dependent.owners);
        let blocking =
            |owner: &OwnerReference| *owner.uid == *item.uid && owner.block_owner_deletion == Some(true);
        owners.is_some_and(|owners| owners.iter().any(blocking))
    };
    Some(if dependents.iter().any(blocks) {
        Action::Follow(dependents)
    } else {
        Action::Finalize(FOREGROUND)
    })
}

fn state(
    graph: &Graph,
    item: &Item,
    (owner, kinds): (&OwnerReference, ByKind<'_>),
    verified: &HashMap<String, bool>,
) -> Owner {
    let Some(kind) = kinds(&owner.api_version, &owner.kind) else {
        // A kind that is not served cannot be asked for: nothing is deleted on a guess.
        return Owner::Solid;
    };
    if kind.namespaced && !item.kind.namespaced {
        // Such a reference can never be resolved: it is refused, not acted upon.
        return Owner::Solid;
    }
    match graph.get(&owner.uid) {
        // An owner must be of the same namespace or of none.
        Some(found) if found.kind.namespaced && found.namespace != item.namespace => Owner::Absent,
        Some(found) if found.waits_for_dependents() => Owner::Waiting,
        Some(_) => Owner::Solid,
        None => match verified.get(&owner.uid) {
            Some(true) => Owner::Solid,
            Some(false) => Owner::Absent,
            None => Owner::Unknown,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `name`, flags (`deleting`, `foreground`, `orphan`), and `<owner` for each owner.
    fn item(text: &str) -> Item {
        let mut words = text.split(' ');
        let name = words.next().unwrap();
        let (owners, flags): (Vec<_>, Vec<_>) = words.partition(|word| word.starts_with('<'));
        let reference = |owner: &str| OwnerReference {
            api_version: "apps/v1".into(),
            kind: "ReplicaSet".into(),
            name: owner.into(),
            uid: owner.into(),
            controller: None,
            block_owner_deletion: Some(true),
        };
        let finalizers = [("foreground", FOREGROUND), ("orphan", ORPHAN)];
        Item {
            kind: api::kinds::by_kind("apps/v1", "ReplicaSet").unwrap(),
            namespace: name.split_once('/').map_or("ns", |(namespace, _)| namespace).into(),
            name: name.into(),
            uid: name.into(),
            revision: "1".into(),
            owners: owners.iter().map(|owner| reference(&owner[1..])).collect(),
            finalizers: finalizers
                .iter()
                .filter(|(flag, _)| flags.contains(flag))
                .map(|(_, it)| (*it).into())
                .collect(),
            deleting: flags.contains(&"deleting"),
        }
    }

    fn graph(items: &[&str]) -> Graph {
        let mut graph = Graph::default();
        items.iter().for_each(|text| drop(graph.put(item(text))));
        graph
    }

    fn decide(items: &[&str], uid: &str) -> String {
        let verified = HashMap::from([("lost".to_owned(), false), ("late".to_owned(), true)]);
        match plan(&graph(items), uid, &verified, &api::kinds::by_kind) {
            None => "leave".to_owned(),
            Some(Action::Verify(owners)) => format!("verify {}", owners[0].name),
            Some(other) => format!("{other:?}"),
        }
    }

    /// An item a line, and `? name` for what is to become of it.
    #[test]
    fn objects_follow_their_owners() {
        crate::golden::check("garbage.txt", |input| {
            let lines: Vec<&str> = input.lines().filter(|line| !line.starts_with('#')).collect();
            let (asked, items): (Vec<&str>, Vec<&str>) =
                lines.into_iter().partition(|line| line.starts_with('?'));
            asked.iter().map(|line| format!("{line}: {}\n", decide(&items, &line[2..]))).collect()
        });
    }

    #[test]
    fn the_graph_says_what_to_look_at() {
        let mut graph = graph(&["web", "set <web", "pod <set"]);
        assert_eq!(graph.remove("set"), ["pod".into(), "web".into()]);
        assert_eq!(graph.put(item("pod")), [""; 0].map(Uid::from));
        assert_eq!(graph.remove("set"), [""; 0].map(Uid::from));
    }
}
