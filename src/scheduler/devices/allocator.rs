//! Finds devices on one node for claims: the first that fit, and others where those lead nowhere (KEP-4381,
//! structured parameters).

use super::capacity;
use super::constraints::Constraint;
use super::ledger::{Amounts, Ledger, add, amount};
use super::pools::{Health, Inventory, Pool, Unit};
use super::requests::{Asked, Count, Request, path};
use super::selectors::Programs;
use crate::nodes::Facts;
use api::quantity::Amount;
use api::resource::{DeviceCounterConsumption, DeviceTaint, DeviceToleration};
use api::taints::{covers, of_device, of_request};
use base::clock::{self, Instant};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// How many devices a claim may have (`AllocationResultsMaxSize`).
const MOST_DEVICES: usize = 32;
/// How many devices are tried on a node, one after the other, before the search is given up however long it may
/// take: nothing else is decided meanwhile.
const MOST_STEPS: usize = 1_000_000;
/// After how many of them the clock is looked at.
const STEPS_PER_LOOK: usize = 64;

/// Which devices which requests mean; that is the same for all nodes.
pub(super) type Matches = RefCell<HashMap<(Arc<str>, [usize; 3]), bool>>;

/// All that devices are looked for in.
pub(super) struct Search<'a> {
    pub(super) inventory: &'a Inventory,
    pub(super) ledger: &'a Ledger,
    pub(super) programs: &'a Programs,
    pub(super) matches: &'a Matches,
    pub(super) claims: &'a [&'a Asked],
    /// How long it may take.
    pub(super) limit: Option<Duration>,
}

/// A device for a request.
#[derive(Debug)]
pub(super) struct Given<'a> {
    pub(super) unit: &'a Unit,
    pub(super) request: &'a Request,
    /// What it takes of a device that is shared.
    pub(super) share: Option<Amounts>,
    counted: bool,
}

/// What a claim gets, and which alternative of each request.
#[derive(Debug, Default)]
pub(super) struct Gain<'a> {
    pub(super) devices: Vec<Given<'a>>,
    pub(super) chosen: Vec<usize>,
}

/// Why a node has nothing to give.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Not enough fits.
    Impossible,
    /// The same, and drivers told something that contradicts itself.
    InvalidPools,
    /// The search itself went wrong: no other node is asked either.
    Broken(String),
}

/// Why a branch of the search ends early.
enum Stop {
    /// A claim would get too many devices.
    TooMany,
    Broken(String),
}

#[derive(Clone, Copy)]
struct At {
    claim: usize,
    request: usize,
    alternative: usize,
    device: usize,
}

impl At {
    fn request(self) -> [usize; 3] {
        [self.claim, self.request, self.alternative]
    }
}

/// The state of a search.
struct Attempt<'a> {
    of: &'a Search<'a>,
    node: &'a Facts,
    /// What the node can use, in order, with the number of the pool.
    units: Vec<(usize, &'a Unit)>,
    pools: Vec<&'a Pool>,
    /// The devices of requests for all there are.
    everything: BTreeMap<[usize; 3], Vec<(usize, &'a Unit)>>,
    constraints: Vec<Vec<Constraint<'a>>>,
    /// Which claims have a device for themselves.
    taken: HashMap<&'a str, Vec<usize>>,
    sharing: HashMap<&'a str, Amounts>,
    /// Counters that are left, by pool and set.
    left: HashMap<usize, BTreeMap<String, Amounts>>,
    gains: Vec<Gain<'a>>,
    steps: usize,
    end: Option<Instant>,
}

impl<'a> Search<'a> {
    /// What each claim gets on a node.
    pub(super) fn on(&'a self, node: &'a Facts) -> Result<Vec<Gain<'a>>, Failure> {
        let pools = self.inventory.pools_for(node);
        let usable = pools.iter().enumerate().filter(|(_, pool)| pool.health == Health::Usable);
        let units = usable.flat_map(|(ix, pool)| pool.units_for(node).map(move |unit| (ix, unit)));
        let constraints = self.claims.iter().map(|asked| {
            let devices = asked.claim.spec.devices.iter();
            let all = devices.flat_map(|devices| devices.constraints.iter().flatten());
            all.filter_map(Constraint::of).collect()
        });
        let gain = |asked: &&Asked| Gain { devices: Vec::new(), chosen: vec![0; asked.requests.len()] };
        let mut attempt = Attempt {
            of: self,
            node,
            units: units.collect(),
            everything: BTreeMap::new(),
            constraints: constraints.collect(),
            taken: HashMap::new(),
            sharing: HashMap::new(),
            left: HashMap::new(),
            gains: self.claims.iter().map(gain).collect(),
            steps: 0,
            end: self.limit.and_then(|limit| clock::instant().checked_add(limit)),
            pools,
        };
        let found = attempt.prepare().and_then(|()| attempt.claim(0));
        match found {
            Ok(true) => Ok(attempt.gains),
            Err(Stop::Broken(why)) => Err(Failure::Broken(why)),
            Ok(false) | Err(Stop::TooMany) => {
                let invalid = attempt.pools.iter().any(|pool| pool.health == Health::Invalid);
                Err(if invalid { Failure::InvalidPools } else { Failure::Impossible })
            }
        }
    }
}

impl<'a> Attempt<'a> {
    fn asked(&self, at: At) -> &'a Request {
        &self.of.claims[at.claim].requests[at.request][at.alternative]
    }

    /// What is told of a request that cannot be met anywhere.
    fn whose(&self, at: At) -> String {
        let name = self.asked(at).name.rsplit('/').next().unwrap_or_default();
        format!("claim {}, request {name}", path(&self.of.claims[at.claim].claim))
    }

    /// Finds what requests for all devices mean, and refuses what is too much in any case.
    fn prepare(&mut self) -> Result<(), Stop> {
        for (claim, asked) in self.of.claims.iter().enumerate() {
            let mut least = 0;
            for (request, alternatives) in asked.requests.iter().enumerate() {
                let mut fewest = usize::MAX;
                for alternative in 0..alternatives.len() {
                    let at = At { claim, request, alternative, device: 0 };
                    if self.asked(at).count == Count::All {
                        let all = self.all_for(at)?;
                        self.everything.insert(at.request(), all);
                    }
                    fewest = fewest.min(self.number(at));
                }
                least = fewest.saturating_add(least);
            }
            if least > MOST_DEVICES {
                return Err(Stop::Broken(format!(
                    "claim {}: number of requested devices {least} exceeds the claim limit of {MOST_DEVICES}",
                    path(&asked.claim)
                )));
            }
        }
        Ok(())
    }

    fn all_for(&self, at: At) -> Result<Vec<(usize, &'a Unit)>, Stop> {
        let unfit = |health: &Health| match health {
            Health::Usable => None,
            Health::Incomplete => Some("being updated"),
            Health::Invalid => Some("invalid"),
        };
        let mut unusable = self.pools.iter().filter_map(|pool| Some((unfit(&pool.health)?, &pool.name)));
        if let Some((why, pool)) = unusable.next() {
            let whose = self.whose(at);
            let why = format!("{whose}: asks for all devices, but resource pool {pool} is currently {why}");
            return Err(Stop::Broken(why));
        }
        let mut all = Vec::new();
        for (pool, unit) in &self.units {
            if self.means(at, unit)? && self.share(self.asked(at), unit).is_some() {
                all.push((*pool, *unit));
            }
        }
        Ok(all)
    }

    /// How many devices a request is for.
    fn number(&self, at: At) -> usize {
        match self.asked(at).count {
            Count::All => self.everything.get(&at.request()).map_or(0, Vec::len),
            Count::Exactly(number) => number,
        }
    }

    fn claim(&mut self, claim: usize) -> Result<bool, Stop> {
        if claim == self.of.claims.len() {
            return Ok(true);
        }
        match self.request(claim, 0) {
            Err(Stop::TooMany) => Ok(false),
            other => other,
        }
    }

    fn request(&mut self, claim: usize, request: usize) -> Result<bool, Stop> {
        let Some(alternatives) = self.of.claims[claim].requests.get(request) else {
            return self.claim(claim + 1);
        };
        let mut too_many = true;
        for alternative in 0..alternatives.len() {
            match self.device(At { claim, request, alternative, device: 0 }, 0) {
                Err(Stop::TooMany) => {}
                Ok(false) => too_many = false,
                Ok(true) => {
                    self.gains[claim].chosen[request] = alternative;
                    return Ok(true);
                }
                broken => return broken,
            }
        }
        if too_many { Err(Stop::TooMany) } else { Ok(false) }
    }

    /// Finds one device after the other, the next at `start` or later.
    fn device(&mut self, at: At, start: usize) -> Result<bool, Stop> {
        let number = self.number(at);
        if at.device >= number && (number > 0 || self.asked(at).count != Count::All) {
            return self.request(at.claim, at.request + 1);
        }
        if self.gains[at.claim].devices.len() + number.saturating_sub(at.device) > MOST_DEVICES {
            return Err(Stop::TooMany);
        }
        let next = At { device: at.device + 1, ..at };
        if self.asked(at).count == Count::All {
            let all = self.everything.get(&at.request());
            let Some((pool, unit)) = all.and_then(|all| all.get(at.device)).copied() else {
                return Ok(false);
            };
            return self.tried(at, (pool, unit), true, |attempt| attempt.device(next, 0));
        }
        for ix in start..self.units.len() {
            let (pool, unit) = self.units[ix];
            if self.is_free(at, unit)
                && self.means(at, unit)?
                && self.tried(at, (pool, unit), false, |attempt| attempt.device(next, ix + 1))?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Gives a device and goes on; takes it back where that leads nowhere.
    fn tried(
        &mut self,
        at: At,
        (pool, unit): (usize, &'a Unit),
        must: bool,
        go_on: impl FnOnce(&mut Self) -> Result<bool, Stop>,
    ) -> Result<bool, Stop> {
        let is_late = |end| self.steps.is_multiple_of(STEPS_PER_LOOK) && clock::instant() >= end;
        let is_over = self.steps >= MOST_STEPS || self.end.is_some_and(is_late);
        self.steps += 1;
        if is_over {
            let node = &self.node.name;
            return Err(Stop::Broken(format!("node {}: timed out trying to allocate devices", &**node)));
        }
        if !self.give(at, (pool, unit), must)? {
            return Ok(false);
        }
        let outcome = go_on(self);
        if !matches!(outcome, Ok(true)) {
            self.take_back(at, pool);
        }
        outcome
    }

    fn is_free(&self, at: At, unit: &Unit) -> bool {
        let claims = self.taken.get(&*unit.id).map(Vec::as_slice).unwrap_or_default();
        if self.asked(at).admin {
            unit.is_shareable() || !claims.contains(&at.claim)
        } else {
            claims.is_empty() && !self.of.ledger.is_taken(&unit.id)
        }
    }

    /// Whether the class and the request mean a device.
    fn means(&self, at: At, unit: &Unit) -> Result<bool, Stop> {
        let key = (unit.id.clone(), at.request());
        if let Some(known) = self.of.matches.borrow().get(&key) {
            return Ok(*known);
        }
        let (request, device) = (self.asked(at), (&*unit.slice.spec.driver, unit.device()));
        let class = request.class.spec.selectors.as_deref().unwrap_or_default();
        let named = request.class.metadata.name.as_deref().unwrap_or_default();
        let programs = self.of.programs;
        let claim = || format!("claim {}", path(&self.of.claims[at.claim].claim));
        let meant = programs
            .mean(class, device, &format!("class {named}"))
            .and_then(|meant| Ok(meant && programs.mean(&request.selectors, device, &claim())?))
            .map_err(Stop::Broken)?;
        self.of.matches.borrow_mut().insert(key, meant);
        Ok(meant)
    }

    /// What a request takes of a device, were that left.
    fn share(&self, request: &Request, unit: &Unit) -> Option<Amounts> {
        let consumed = capacity::consumed(request.capacity.as_ref(), unit.device())?;
        let taken = [self.of.ledger.shared(&unit.id), self.sharing.get(&*unit.id)];
        capacity::fits(&consumed, unit.device(), &taken).then_some(consumed)
    }

    fn give(&mut self, at: At, (pool, unit): (usize, &'a Unit), must: bool) -> Result<bool, Stop> {
        let (request, device) = (self.asked(at), unit.device());
        if !self.is_free(at, unit) || is_tainted(device.taints.as_deref(), &request.tolerations) {
            return Ok(false);
        }
        let Some(share) = self.share(request, unit) else { return Ok(false) };
        let is_shared = self.of.ledger.shared(&unit.id).is_some() || self.sharing.contains_key(&*unit.id);
        let counters = device.consumes_counters.as_deref().unwrap_or_default();
        let is_counted_already = unit.is_shareable() && is_shared;
        let counted = !counters.is_empty() && !is_counted_already;
        if counted && !self.has_counters(pool, counters) {
            return Ok(false);
        }
        if !self.constrained(at, unit) {
            let whose = self.whose(at);
            let why = "because a claim constraint would not be satisfied";
            return if must {
                Err(Stop::Broken(format!("{whose}: cannot add device {} {why}", unit.id)))
            } else {
                Ok(false)
            };
        }
        if counted {
            self.count(pool, counters, -1);
        }
        let share = unit.is_shareable().then_some(share);
        match &share {
            Some(share) => {
                let all = self.sharing.entry(&unit.id).or_default();
                add(all, share.iter().map(|(name, amount)| (name, *amount)), 1);
            }
            None => self.taken.entry(&unit.id).or_default().push(at.claim),
        }
        self.gains[at.claim].devices.push(Given { unit, request, share, counted });
        Ok(true)
    }

    fn take_back(&mut self, at: At, pool: usize) {
        let Some(given) = self.gains[at.claim].devices.pop() else { return };
        self.constraints[at.claim].iter_mut().for_each(|constraint| constraint.remove(given.request));
        if given.counted {
            self.count(pool, given.unit.device().consumes_counters.as_deref().unwrap_or_default(), 1);
        }
        match &given.share {
            Some(share) => {
                let all = self.sharing.entry(&given.unit.id).or_default();
                add(all, share.iter().map(|(name, amount)| (name, *amount)), -1);
                let elsewhere = self.gains.iter().flat_map(|gain| &gain.devices);
                if elsewhere.into_iter().all(|other| other.unit.id != given.unit.id) {
                    self.sharing.remove(&*given.unit.id);
                }
            }
            None => {
                if let Some(claims) = self.taken.get_mut(&*given.unit.id) {
                    claims.pop();
                }
            }
        }
    }

    /// Takes a device in at all constraints, or at none.
    fn constrained(&mut self, at: At, unit: &'a Unit) -> bool {
        let request = self.asked(at);
        let constraints = &mut self.constraints[at.claim];
        let refusing = constraints.iter_mut().position(|constraint| !constraint.add(request, unit));
        for constraint in constraints.iter_mut().take(refusing.unwrap_or(0)) {
            constraint.remove(request);
        }
        refusing.is_none()
    }

    /// What is left of a pool's counters.
    fn counters(&mut self, ix: usize) -> &mut BTreeMap<String, Amounts> {
        let (pool, ledger) = (self.pools[ix], self.of.ledger);
        self.left.entry(ix).or_insert_with(|| {
            let mut left: BTreeMap<String, Amounts> =
                pool.counters.iter().map(|(set, amounts)| (set.clone(), amounts.clone())).collect();
            for unit in pool.units.iter().filter(|unit| ledger.is_used(&unit.id)) {
                let consumed = unit.device().consumes_counters.as_deref().unwrap_or_default();
                consumed.iter().for_each(|consumed| change(&mut left, consumed, -1));
            }
            left
        })
    }

    fn has_counters(&mut self, pool: usize, wanted: &[DeviceCounterConsumption]) -> bool {
        let left = self.counters(pool);
        wanted.iter().all(|consumed| {
            let set = left.get(&consumed.counter_set);
            consumed.counters.iter().all(|(name, counter)| {
                let left = set.and_then(|set| set.get(name)).copied().unwrap_or(Amount::units(0));
                amount(&counter.value) <= left
            })
        })
    }

    fn count(&mut self, pool: usize, consumed: &[DeviceCounterConsumption], sign: i64) {
        let left = self.counters(pool);
        consumed.iter().for_each(|consumed| change(left, consumed, sign));
    }
}

fn change(left: &mut BTreeMap<String, Amounts>, consumed: &DeviceCounterConsumption, sign: i64) {
    if let Some(set) = left.get_mut(&consumed.counter_set) {
        add(set, consumed.counters.iter().map(|(name, counter)| (name, amount(&counter.value))), sign);
    }
}

/// A taint keeps the device from being given away.
fn is_tainted(taints: Option<&[DeviceTaint]>, tolerations: &[DeviceToleration]) -> bool {
    let keeps = |taint: &&DeviceTaint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute");
    let tolerates = |taint: &DeviceTaint| {
        let taint = of_device(taint);
        tolerations.iter().any(|toleration| covers(&of_request(toleration), &taint))
    };
    taints.unwrap_or_default().iter().filter(keeps).any(|taint| !tolerates(taint))
}
