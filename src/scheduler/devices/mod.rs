//! Claims of devices (KEP-4381): which of a pod's claims have devices already, and which devices the others
//! would get on a node.
//!
//! [`Devices::of`] looks at the claims once a decision, [`Devices::refusal`] at one node; what was found there is
//! kept until the pod has its node. `allocator.rs` searches, `pools.rs` says what there is, `ledger.rs` what of it
//! is given away, `stock.rs` follows the API, and `writing.rs` tells the API.

mod allocator;
mod capacity;
mod constraints;
mod extended;
mod ledger;
mod outcome;
mod pools;
mod provided;
mod requests;
mod selectors;
mod stock;
#[cfg(test)]
pub(crate) mod tests;
mod writing;

pub(crate) use provided::{Provided, provides};
pub(crate) use stock::{DeviceCaches, Stock};
pub(crate) use writing::{bound, clear, have_to_be_bound, reserve, unreserve};

use crate::intern::{Text, Texts};
use crate::nodes::{Facts, NodeSelector};
use allocator::{Failure, Matches, Search};
use api::Object;
use api::core::ContainerExtendedResourceRequest;
use api::meta::Condition;
use api::resource::{AllocatedDeviceStatus, AllocationResult, DeviceRequest, ResourceClaim};
use api::slim::Pod;
use extended::{Extended, Variant};
use jiff::{SignedDuration, Timestamp};
use ledger::{Ledger, results};
use requests::{Asked, Classes, path};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// The most that an alternative of a request counts, were it the first.
const FIRST_ALTERNATIVE: usize = 8;

const NONE_LEFT: &[&str] = &["cannot allocate all claims"];
const ELSEWHERE: &[&str] = &["resourceclaim not available on the node"];
const LEFT_OVER: &[&str] = &["cannot schedule extended resource claim"];
const INVALID: &[&str] = &["invalid resource pools were encountered"];

/// Why a pod with claims is not even tried.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Blocked {
    /// A claim is not there yet: nothing is told, it is waited for.
    Waiting,
    /// No node can help.
    Unfit(String),
}

pub(crate) type Finder<'a> = &'a dyn Fn(&str) -> Option<Arc<ResourceClaim>>;

/// A claim of the pod.
#[derive(Debug)]
struct PodClaim {
    claim: Arc<ResourceClaim>,
    /// From where the devices that it has can be used, were that not everywhere.
    nodes: Option<NodeSelector>,
    /// What it asks for, before it has devices.
    asked: Option<Asked>,
    /// It has devices, and was not usable on some node.
    unavailable: Cell<bool>,
}

/// What the claims would get on a node.
#[derive(Default)]
struct Fitting {
    /// Of those that ask for something, in order.
    allocations: Vec<AllocationResult>,
    /// What devices stand for there; the last allocation is of that.
    extended: Option<Rc<Variant>>,
}

/// The same, or why they cannot have it.
type Found = Result<Fitting, &'static [&'static str]>;

/// All that a pod's claims are looked up in.
pub(crate) struct Known<'a> {
    pub(crate) stock: &'a Stock,
    /// Finds a claim of the pod's namespace by its name.
    pub(crate) claims: Finder<'a>,
    pub(crate) classes: Classes<'a>,
}

/// How long devices may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// To be bound by others (`bindingTimeout`).
    pub(crate) binding: Duration,
    /// To be looked for on a node (`filterTimeout`).
    pub(crate) search: Option<Duration>,
}

/// The claims of a pod, while a decision on it is made.
pub(crate) struct Devices {
    claims: Vec<PodClaim>,
    extended: Option<Extended>,
    /// A claim for the pod's resources that was made in an attempt which failed.
    left_over: Option<Arc<ResourceClaim>>,
    stock: Stock,
    limits: Limits,
    matches: Matches,
    found: RefCell<HashMap<Text, Found>>,
    broken: RefCell<Option<String>>,
}

/// A claim that is to be reserved for a pod, and what it gets before.
#[derive(Clone, Debug)]
pub(crate) struct Reserved {
    pub(crate) claim: Arc<ResourceClaim>,
    pub(crate) allocation: Option<Arc<AllocationResult>>,
    /// Which containers use which of its requests, where it stands for resources and is still to be made.
    pub(crate) mappings: Vec<ContainerExtendedResourceRequest>,
}

/// A claim that keeps its pod from getting devices.
#[derive(Clone, Debug)]
pub(crate) enum Obstacle {
    /// It has some that do not do, and nobody uses it.
    Allocated(Arc<ResourceClaim>),
    /// It was made in an attempt that failed.
    LeftOver(Arc<ResourceClaim>),
}

/// The names of a pod's claims, and whether each was made for the pod; none where one is not made yet.
fn names(pod: &Pod) -> Option<Vec<(&str, bool)>> {
    let wanted = pod.spec.as_ref().and_then(|spec| spec.resource_claims.as_deref()).unwrap_or_default();
    let made = pod.status.as_ref().and_then(|status| status.resource_claim_statuses.as_deref());
    let mut names = Vec::with_capacity(wanted.len());
    for claim in wanted {
        match &claim.resource_claim_name {
            Some(name) => names.push((&**name, false)),
            None => {
                let status = made.unwrap_or_default().iter().find(|status| status.name == claim.name)?;
                // One without a name is not needed after all.
                names.extend(status.resource_claim_name.as_deref().map(|name| (name, true)));
            }
        }
    }
    Some(names)
}

/// Whether a pod uses a claim of its namespace.
pub(crate) fn uses(pod: &Pod, claim: &ResourceClaim) -> bool {
    pod.namespace() == claim.namespace()
        && names(pod).is_some_and(|names| names.iter().any(|(name, _)| *name == claim.name()))
}

/// Whether a claim stands for resources of a pod.
pub(crate) fn stands_for(claim: &ResourceClaim, pod: &Pod) -> bool {
    extended::owner(claim) == Some(pod.uid())
}

/// The pod has claims of devices.
pub(crate) fn has_any(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.resource_claims.as_deref()).is_some_and(|all| !all.is_empty())
}

pub(crate) fn allocation(claim: &ResourceClaim) -> Option<&AllocationResult> {
    claim.status.as_ref()?.allocation.as_ref()
}

fn is_reserved_for(claim: &ResourceClaim, pod: &Pod) -> bool {
    let consumers = claim.status.iter().flat_map(|status| status.reserved_for.iter().flatten());
    consumers.into_iter().any(|consumer| consumer.uid == pod.uid())
}

impl Devices {
    /// What a pod's claims ask for; nothing where it has none.
    pub(crate) fn of(
        pod: &Pod,
        extended: Option<Extended>,
        known: &Known<'_>,
        limits: &Limits,
        texts: &mut Texts,
    ) -> Result<Option<Self>, Blocked> {
        let mut claims = Vec::new();
        for (name, is_own) in names(pod).ok_or(Blocked::Waiting)? {
            let claim = (known.claims)(name).filter(|claim| !claim.is_deleting()).ok_or(Blocked::Waiting)?;
            if is_own && claim.controller().is_none_or(|owner| owner.uid != pod.uid()) {
                return Err(Blocked::Waiting);
            }
            claims.push(claim);
        }
        let ledger = known.stock.ledger();
        let claims = claims.into_iter().map(|claim| pod_claim(claim, &ledger, known.classes, texts));
        let claims: Vec<PodClaim> = claims.collect::<Result<_, _>>().map_err(Blocked::Unfit)?;
        let left_over = extended.as_ref().and_then(|_| ledger.extended(pod.uid()));
        drop(ledger);
        let devices = Self {
            claims,
            extended,
            left_over: left_over.and_then(|name| (known.claims)(&name)),
            stock: known.stock.clone(),
            limits: limits.clone(),
            matches: Matches::default(),
            found: RefCell::default(),
            broken: RefCell::default(),
        };
        Ok(Some(devices).filter(|devices| !devices.claims.is_empty() || devices.extended.is_some()))
    }

    /// Why the claims cannot be had on a node.
    pub(crate) fn refusal(&self, node: &Facts) -> Option<&'static [&'static str]> {
        if self.broken.borrow().is_some() {
            return Some(NONE_LEFT);
        }
        if let Some(known) = self.found.borrow().get(&node.name) {
            return known.as_ref().err().copied();
        }
        let found = self.look(node);
        let refusal = found.as_ref().err().copied();
        self.found.borrow_mut().insert(node.name.clone(), found);
        refusal
    }

    fn look(&self, node: &Facts) -> Found {
        if self.left_over.is_some() {
            return Err(LEFT_OVER);
        }
        let extended = self.extended.as_ref().and_then(|extended| extended.on(node));
        let (own, matches) = match &extended {
            Some(variant) => (Some(&variant.asked), &variant.matches),
            None => (None, &self.matches),
        };
        let asked: Vec<&Asked> =
            self.claims.iter().filter_map(|claim| claim.asked.as_ref()).chain(own).collect();
        let allocations = if asked.is_empty() { Vec::new() } else { self.search(&asked, matches, node)? };
        let now = base::clock::now();
        let is_elsewhere = |claim: &&PodClaim| {
            claim.nodes.as_ref().is_some_and(|nodes| !nodes.selects(node))
                || is_unusable(&claim.claim, self.limits.binding, now)
        };
        let unavailable =
            self.claims.iter().filter(is_elsewhere).inspect(|claim| claim.unavailable.set(true));
        if unavailable.count() > 0 { Err(ELSEWHERE) } else { Ok(Fitting { allocations, extended }) }
    }

    fn search(
        &self,
        asked: &[&Asked],
        matches: &Matches,
        node: &Facts,
    ) -> Result<Vec<AllocationResult>, &'static [&'static str]> {
        let ledger = self.stock.ledger();
        let search = Search {
            inventory: &self.stock.inventory,
            ledger: &ledger,
            programs: &self.stock.programs,
            matches,
            claims: asked,
            limit: self.limits.search,
        };
        match search.on(node) {
            Ok(gains) => {
                let results = asked.iter().zip(&gains);
                Ok(results.map(|(asked, gain)| outcome::allocation(asked, gain, &node.name)).collect())
            }
            Err(Failure::Impossible) => Err(NONE_LEFT),
            Err(Failure::InvalidPools) => Err(INVALID),
            Err(Failure::Broken(why)) => {
                *self.broken.borrow_mut() = Some(why);
                Err(NONE_LEFT)
            }
        }
    }

    /// What went wrong for all nodes.
    pub(crate) fn broken(&self) -> Option<String> {
        let why = self.broken.borrow();
        why.as_ref().map(|why| format!("running \"DynamicResources\" filter plugin: {why}"))
    }

    /// Nodes can differ in which alternatives they have.
    pub(crate) fn has_choice(&self) -> bool {
        self.claims.iter().any(|claim| claim.asked.as_ref().is_some_and(Asked::has_choice))
    }

    /// How good the alternatives are that a node has.
    pub(crate) fn score(&self, node: &Facts) -> i64 {
        let found = self.found.borrow();
        let Some(Ok(found)) = found.get(&node.name) else { return 0 };
        let asked = self.claims.iter().filter_map(|claim| claim.asked.as_ref());
        asked.zip(&found.allocations).map(|(asked, allocation)| alternatives(asked, allocation)).sum()
    }

    /// Keeps for the pod what was found on its node, and says what is to be written.
    pub(crate) fn reserve(&self, node: &Facts, pod: &Pod) -> Vec<Reserved> {
        let mut found = self.found.borrow_mut();
        let found = found.remove(&node.name).and_then(Result::ok).unwrap_or_default();
        let mut allocations = found.allocations.into_iter().map(Arc::new);
        let mut ledger = self.stock.ledger();
        let mut all = Vec::new();
        for PodClaim { claim, asked, .. } in &self.claims {
            let allocation = asked.as_ref().and_then(|_| allocations.next());
            if let Some(allocation) = &allocation {
                ledger.assume(claim.uid(), allocation.clone());
            }
            if !is_reserved_for(claim, pod) || allocation.is_some() || binds(claim) {
                all.push(Reserved { claim: claim.clone(), allocation, mappings: Vec::new() });
            }
        }
        if let (Some(extended), Some(allocation)) = (found.extended, allocations.next()) {
            let claim = extended.asked.claim.clone();
            ledger.assume(claim.uid(), allocation.clone());
            let mappings = extended.mappings.clone();
            all.push(Reserved { claim, allocation: Some(allocation), mappings });
        }
        all
    }

    /// A claim that is in the way, and that nobody else uses.
    pub(crate) fn obstacle(&self, pod: &Pod) -> Option<Obstacle> {
        let is_idle = |claim: &&PodClaim| {
            let consumers = claim.claim.status.iter().flat_map(|status| status.reserved_for.iter().flatten());
            claim.unavailable.get() && consumers.into_iter().all(|consumer| consumer.uid == pod.uid())
        };
        let idle = self.claims.iter().find(is_idle).map(|claim| Obstacle::Allocated(claim.claim.clone()));
        idle.or_else(|| self.left_over.clone().map(Obstacle::LeftOver))
    }
}

fn pod_claim(
    claim: Arc<ResourceClaim>,
    ledger: &Ledger,
    classes: Classes<'_>,
    texts: &mut Texts,
) -> Result<PodClaim, String> {
    let (nodes, asked) = match allocation(&claim) {
        Some(has) => (has.node_selector.as_ref().map(|nodes| NodeSelector::of(nodes, texts)), None),
        None if ledger.is_pending(claim.uid()) => {
            return Err(format!("resource claim {} is in the process of being allocated", path(&claim)));
        }
        None => (None, Some(Asked::of(&claim, classes)?)),
    };
    Ok(PodClaim { claim, nodes, asked, unavailable: Cell::new(false) })
}

fn alternatives(asked: &Asked, allocation: &AllocationResult) -> i64 {
    let has = |name: &str| results(allocation).any(|result| result.request == name);
    let requests: &[DeviceRequest] =
        asked.claim.spec.devices.as_ref().and_then(|devices| devices.requests.as_deref()).unwrap_or_default();
    let points = requests.iter().flat_map(|request| {
        let several = request.first_available.iter().flatten().enumerate();
        several.filter(|(_, one)| has(&format!("{}/{}", request.name, one.name)))
    });
    points.map(|(at, _)| i64::try_from(FIRST_ALTERNATIVE.saturating_sub(at)).unwrap_or(0)).sum()
}

/// Some of its devices have to be bound by others before a pod may use them.
fn binds(claim: &ResourceClaim) -> bool {
    allocation(claim)
        .into_iter()
        .flat_map(results)
        .any(|result| result.binding_conditions.as_ref().is_some_and(|all| !all.is_empty()))
}

/// How far the devices of a claim are.
#[derive(Debug, PartialEq, Eq)]
enum Binding {
    Ready,
    Pending,
    Failed(String),
}

fn binding(claim: &ResourceClaim) -> Binding {
    let Some(allocation) = allocation(claim) else { return Binding::Pending };
    let mut all = Binding::Ready;
    for result in results(allocation).filter(|result| result.binding_conditions.is_some()) {
        let told = claim.status.iter().flat_map(|status| status.devices.iter().flatten());
        let is_it = |told: &&AllocatedDeviceStatus| {
            (&told.driver, &told.pool, &told.device) == (&result.driver, &result.pool, &result.device)
        };
        let conditions = told.into_iter().find(is_it).and_then(|told| told.conditions.as_deref());
        let conditions = conditions.unwrap_or_default();
        let holds = |name: &String| conditions.iter().find(|it| it.type_ == *name && it.status == "True");
        if let Some(failed) = result.binding_failure_conditions.iter().flatten().find_map(holds) {
            let Condition { reason, message, .. } = failed;
            let claim = claim.name();
            return Binding::Failed(format!(
                "device binding failed: claim={claim}, reason={reason}, message={message:?}"
            ));
        }
        if !result.binding_conditions.iter().flatten().all(|name| holds(name).is_some()) {
            all = Binding::Pending;
        }
    }
    all
}

/// When the devices of a claim have taken too long, were that ever.
fn overdue(claim: &ResourceClaim, limit: Duration) -> Option<Timestamp> {
    let since = allocation(claim)?.allocation_timestamp.as_ref().filter(|_| binds(claim))?;
    since.0.checked_add(SignedDuration::try_from(limit).unwrap_or(SignedDuration::MAX)).ok()
}

/// It has devices that will not be bound any more.
fn is_unusable(claim: &ResourceClaim, limit: Duration, now: Timestamp) -> bool {
    allocation(claim).is_some()
        && match binding(claim) {
            Binding::Ready => false,
            Binding::Failed(_) => true,
            Binding::Pending => overdue(claim, limit).is_some_and(|end| end < now),
        }
}

impl Stock {
    fn ledger(&self) -> std::sync::MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
