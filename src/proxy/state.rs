//! What all objects together want of the kernel, and what changes there when one of them does; pure.

use crate::model::{Chain, Elements, Endpoint, Front, Key, Served, Value, elements};
use crate::plan::Planned;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

/// Who wants a front. Of several the first has it whole: services in the order of their names, then pods.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Owner {
    /// `NAMESPACE/NAME`.
    Service(Arc<str>),
    /// `NAMESPACE/NAME`.
    Pod(Arc<str>),
}

impl Owner {
    pub(crate) fn service(namespace: &str, name: &str) -> Self {
        Self::Service(format!("{namespace}/{name}").into())
    }

    pub(crate) fn pod(namespace: &str, name: &str) -> Self {
        Self::Pod(format!("{namespace}/{name}").into())
    }
}

/// What leads from one state of the kernel to another.
#[derive(Debug, Default)]
pub(crate) struct Difference {
    /// What was there before and what is to be there, of elements that were looked at.
    elements: BTreeMap<Key, (Option<Value>, Option<Value>)>,
    /// Endpoints that a front which remembers its clients no longer has.
    pub(crate) gone: BTreeSet<(Front, Endpoint)>,
    /// Fronts of UDP whose flows may lead elsewhere now.
    pub(crate) flows: BTreeSet<Front>,
}

impl Difference {
    fn note(&mut self, before: Elements, after: Elements) {
        for (key, value) in before {
            self.elements.entry(key).or_insert((Some(value), None)).1 = None;
        }
        for (key, value) in after {
            self.elements.entry(key).or_insert((None, Some(value))).1 = Some(value);
        }
    }

    /// What is taken away, before anything is added.
    pub(crate) fn deleted(&self) -> impl Iterator<Item = Key> {
        let changed = self.elements.iter().filter(|(_, (before, after))| before != after);
        changed.filter(|(_, (before, _))| before.is_some()).map(|(key, _)| *key)
    }

    pub(crate) fn added(&self) -> impl Iterator<Item = (Key, Value)> {
        let changed = self.elements.iter().filter(|(_, (before, after))| before != after);
        changed.filter_map(|(key, (_, after))| Some((*key, (*after)?)))
    }

    /// The chains that what is added leads to.
    pub(crate) fn chains(&self) -> BTreeSet<(crate::family::Family, Chain)> {
        self.added().filter_map(|(key, value)| Some((key.family(), value.chain()?))).collect()
    }
}

/// What all objects want.
#[derive(Default)]
pub(crate) struct State {
    plans: HashMap<Owner, Planned>,
    /// Who wants a front, in their order.
    claims: HashMap<Front, Vec<Owner>>,
    /// How many objects have a pod of this node among their endpoints.
    here: HashMap<IpAddr, usize>,
}

impl State {
    pub(crate) fn owners(&self) -> impl Iterator<Item = &Owner> {
        self.plans.keys()
    }

    pub(crate) fn plans(&self) -> impl Iterator<Item = (&Owner, &Planned)> {
        self.plans.iter()
    }

    fn served(&self, front: Front) -> Option<(&Owner, &Served)> {
        let owner = self.claims.get(&front)?.first()?;
        Some((owner, self.plans.get(owner)?.fronts.get(&front)?))
    }

    /// To which endpoints flows of a front may go on; none if it has no endpoint, whose end ends no flow.
    pub(crate) fn serving(&self, front: Front) -> Option<&BTreeSet<Endpoint>> {
        let owner = self.claims.get(&front)?.first()?;
        self.plans.get(owner)?.serving.get(&front).filter(|endpoints| !endpoints.is_empty())
    }

    /// Everything, as the kernel is to have it.
    pub(crate) fn elements(&self) -> Elements {
        let fronts = self.claims.keys().filter_map(|front| Some((*front, self.served(*front)?.1)));
        let mut all: Elements = fronts.flat_map(|(front, served)| elements(front, served)).collect();
        all.extend(self.here.keys().map(|address| (Key::Hairpin(*address), Value::Present)));
        all
    }

    /// Puts what an object wants in place of what it wanted; an empty plan is none.
    pub(crate) fn replace(&mut self, owner: &Owner, planned: Planned, difference: &mut Difference) {
        let old = self.plans.remove(owner).unwrap_or_default();
        if old == planned {
            if planned != Planned::default() {
                self.plans.insert(owner.clone(), planned);
            }
            return;
        }
        // What nobody but this object touched it is that changes.
        let fronts: BTreeSet<Front> = old.fronts.keys().chain(planned.fronts.keys()).copied().collect();
        let changed = |front: &Front| {
            old.fronts.get(front) != planned.fronts.get(front)
                || old.serving.get(front) != planned.serving.get(front)
        };
        let fronts: Vec<Front> = fronts.into_iter().filter(changed).collect();
        let here = (old.here.clone(), planned.here.clone());
        self.plans.insert(owner.clone(), old);
        let before: Vec<Option<Served>> =
            fronts.iter().map(|front| self.served(*front).map(|it| it.1.clone())).collect();
        for front in &fronts {
            self.claim(*front, owner, planned.fronts.contains_key(front));
        }
        self.plans.remove(owner);
        if planned != Planned::default() {
            self.plans.insert(owner.clone(), planned);
        }
        for (front, before) in fronts.into_iter().zip(before) {
            self.note_front(front, before.as_ref(), difference);
        }
        self.note_here(&here.0, &here.1, difference);
    }

    fn claim(&mut self, front: Front, owner: &Owner, wanted: bool) {
        let claims = self.claims.entry(front).or_default();
        match (claims.binary_search(owner), wanted) {
            (Err(at), true) => claims.insert(at, owner.clone()),
            (Ok(at), false) => drop(claims.remove(at)),
            _ => {}
        }
        if claims.is_empty() {
            self.claims.remove(&front);
        }
    }

    fn note_front(&self, front: Front, before: Option<&Served>, difference: &mut Difference) {
        let after = self.served(front).map(|(_, served)| served);
        let of = |served: Option<&Served>| served.map(|served| elements(front, served)).unwrap_or_default();
        difference.note(of(before), of(after));
        if let Some(before) = before.filter(|before| before.sticky_s.is_some()) {
            let still: BTreeSet<Endpoint> = after.into_iter().flat_map(Served::endpoints).collect();
            let gone = before.endpoints().filter(|endpoint| !still.contains(endpoint));
            difference.gone.extend(gone.map(|endpoint| (front, endpoint)));
        }
        if front.protocol() == crate::model::Protocol::Udp && self.serving(front).is_some() {
            difference.flows.insert(front);
        }
    }

    fn note_here(&mut self, old: &BTreeSet<IpAddr>, new: &BTreeSet<IpAddr>, difference: &mut Difference) {
        let present = |address: &IpAddr| Elements::from([(Key::Hairpin(*address), Value::Present)]);
        for address in new.difference(old) {
            let count = self.here.entry(*address).or_default();
            *count += 1;
            if *count == 1 {
                difference.note(Elements::new(), present(address));
            }
        }
        for address in old.difference(new) {
            if let Some(count) = self.here.get_mut(address) {
                *count -= 1;
                if *count == 0 {
                    self.here.remove(address);
                    difference.note(present(address), Elements::new());
                }
            }
        }
    }
}
