//! What all objects together want of the kernel, and what changes there when one of them does; pure.

use crate::model::{Chain, Endpoint, Endpoints, Front, Key, Served, Value, elements};
use crate::plan::Planned;
use crate::stale::Stale;
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
    /// Everything is loaded anew: what changes is not asked for.
    is_all: bool,
    pub(crate) stale: Stale,
}

impl Difference {
    /// For who does not ask which elements change.
    pub(crate) fn of_all() -> Self {
        Self { is_all: true, ..Self::default() }
    }

    /// Notes what elements were there and which are to be.
    fn note(&mut self, elements: impl FnOnce() -> [Vec<(Key, Value)>; 2]) {
        if self.is_all {
            return;
        }
        let [before, after] = elements();
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
    claims: HashMap<Front, Box<[Owner]>>,
    /// How many objects have a pod of this node among their endpoints.
    here: HashMap<IpAddr, usize>,
    /// Who is asked for its health, at which port, and how many endpoints it has here.
    health: BTreeMap<Owner, (u16, u32)>,
    /// The sums of what plans say.
    no_local: (u32, u32),
}

impl State {
    pub(crate) fn owners(&self) -> impl Iterator<Item = &Owner> {
        self.plans.keys()
    }

    pub(crate) fn health(&self) -> &BTreeMap<Owner, (u16, u32)> {
        &self.health
    }

    /// Ports without an endpoint here that need one, of all services.
    pub(crate) fn no_local(&self) -> (u32, u32) {
        self.no_local
    }

    fn served(&self, front: Front) -> Option<(&Owner, &Served)> {
        let owner = self.claims.get(&front)?.first()?;
        Some((owner, self.plans.get(owner)?.fronts.get(&front)?))
    }

    /// Whether somebody is sent from a front to an endpoint.
    pub(crate) fn has(&self, front: Front, endpoint: Endpoint) -> bool {
        self.served(front).is_some_and(|(_, served)| served.endpoints().any(|one| one == endpoint))
    }

    /// To which endpoints flows of a front may go on; none if it has no endpoint, whose end ends no flow.
    pub(crate) fn serving(&self, front: Front) -> Option<&Endpoints> {
        let owner = self.claims.get(&front)?.first()?;
        self.plans.get(owner)?.serving.get(&front).filter(|endpoints| !endpoints.is_empty())
    }

    /// Tells of everything, as the kernel is to have it, in an order that is always the same.
    pub(crate) fn each(&self, mut tell: impl FnMut(Key, Value)) {
        let mut fronts: Vec<Front> = self.claims.keys().copied().collect();
        fronts.sort_unstable();
        for front in fronts {
            let served = self.served(front).map(|(_, served)| elements(front, served));
            served.into_iter().flatten().for_each(|(key, value)| tell(key, value));
        }
        let mut here: Vec<IpAddr> = self.here.keys().copied().collect();
        here.sort_unstable();
        here.into_iter().for_each(|address| tell(Key::Hairpin(address), Value::Present));
    }

    /// Puts what an object wants in place of what it wanted; an empty plan is none.
    pub(crate) fn replace(&mut self, owner: &Owner, planned: Planned, difference: &mut Difference) {
        let nothing = Planned::default();
        let old = self.plans.get(owner).unwrap_or(&nothing);
        if *old == planned {
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
        let before: Vec<Option<Served>> =
            fronts.iter().map(|front| self.served(*front).map(|it| it.1.clone())).collect();
        self.count(owner, &planned);
        for front in &fronts {
            self.claim(*front, owner, planned.fronts.contains_key(front));
        }
        if planned == nothing {
            self.plans.remove(owner);
        } else {
            self.plans.insert(owner.clone(), planned);
        }
        for (front, before) in fronts.into_iter().zip(before) {
            self.note_front(front, before.as_ref(), difference);
        }
        self.note_here(&here.0, &here.1, difference);
    }

    /// Before `planned` is in place of what there was.
    fn count(&mut self, owner: &Owner, planned: &Planned) {
        let old = self.plans.get(owner).map_or((0, 0), |old| old.no_local);
        let (internal, external) = self.no_local;
        self.no_local = (internal - old.0 + planned.no_local.0, external - old.1 + planned.no_local.1);
        match planned.health {
            Some(health) => drop(self.health.insert(owner.clone(), health)),
            None => drop(self.health.remove(owner)),
        }
    }

    fn claim(&mut self, front: Front, owner: &Owner, wanted: bool) {
        let mut claims = self.claims.remove(&front).unwrap_or_default().into_vec();
        match (claims.binary_search(owner), wanted) {
            (Err(at), true) => claims.insert(at, owner.clone()),
            (Ok(at), false) => drop(claims.remove(at)),
            _ => {}
        }
        if !claims.is_empty() {
            self.claims.insert(front, claims.into());
        }
    }

    fn note_front(&self, front: Front, before: Option<&Served>, difference: &mut Difference) {
        let after = self.served(front).map(|(_, served)| served);
        let of = |served: Option<&Served>| served.map(|served| elements(front, served)).unwrap_or_default();
        difference.note(|| [of(before), of(after)]);
        if let Some(before) = before.filter(|before| before.sticky_s.is_some()) {
            let still: BTreeSet<Endpoint> = after.into_iter().flat_map(Served::endpoints).collect();
            let gone = before.endpoints().filter(|endpoint| !still.contains(endpoint));
            difference.stale.gone.extend(gone.map(|endpoint| (front, endpoint)));
        }
        if front.protocol() == crate::model::Protocol::Udp && self.serving(front).is_some() {
            difference.stale.flows.insert(front);
        }
    }

    /// Both are in order.
    fn note_here(&mut self, old: &[IpAddr], new: &[IpAddr], difference: &mut Difference) {
        let present = |address: &IpAddr| vec![(Key::Hairpin(*address), Value::Present)];
        for address in new.iter().filter(|address| old.binary_search(address).is_err()) {
            let count = self.here.entry(*address).or_default();
            *count += 1;
            if *count == 1 {
                difference.note(|| [Vec::new(), present(address)]);
            }
        }
        for address in old.iter().filter(|address| new.binary_search(address).is_err()) {
            if let Some(count) = self.here.get_mut(address) {
                *count -= 1;
                if *count == 0 {
                    self.here.remove(address);
                    difference.note(|| [present(address), Vec::new()]);
                }
            }
        }
    }
}
