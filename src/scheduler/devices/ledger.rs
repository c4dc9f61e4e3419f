//! Which devices are given to claims: those that the API tells, and those that are being written.

use super::extended;
use api::Object;
use api::quantity::{self, Amount};
use api::resource::{AllocationResult, DeviceRequestAllocationResult, ResourceClaim};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// How much of each capacity.
pub(super) type Amounts = BTreeMap<String, Amount>;

/// Driver, pool and name of a device in one text; neither a driver nor a device has a slash in its name.
pub(super) fn device_id(driver: &str, pool: &str, device: &str) -> Arc<str> {
    format!("{driver}/{pool}/{device}").into()
}

/// What a claim has.
#[derive(Debug, Default)]
struct Entry {
    told: Option<Arc<AllocationResult>>,
    /// Decided, and not told by the API yet.
    pending: Option<Arc<AllocationResult>>,
}

impl Entry {
    fn current(&self) -> Option<&Arc<AllocationResult>> {
        self.told.as_ref().or(self.pending.as_ref())
    }
}

/// What is given away, counted change by change.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// By the claims' UIDs.
    claims: HashMap<String, Entry>,
    /// Devices that one claim has for itself.
    whole: HashMap<Arc<str>, usize>,
    /// Devices that several claims share: how many, and what they take.
    shared: HashMap<Arc<str>, (usize, Amounts)>,
    /// The claims that stand for resources of pods: the pod's UID, the claim's name.
    extended: BTreeSet<(String, String)>,
}

/// The devices of a claim.
pub(super) fn results(allocation: &AllocationResult) -> impl Iterator<Item = &DeviceRequestAllocationResult> {
    allocation.devices.iter().flat_map(|devices| devices.results.iter().flatten())
}

pub(super) fn amount(quantity: &api::Quantity) -> Amount {
    quantity::parse(&quantity.0).unwrap_or(Amount::units(0))
}

/// Adds to amounts, or takes away.
pub(super) fn add<'a>(to: &mut Amounts, more: impl Iterator<Item = (&'a String, Amount)>, sign: i64) {
    for (name, amount) in more {
        let own = to.entry(name.clone()).or_insert(Amount::units(0));
        *own = if sign > 0 { own.plus(amount) } else { own.minus(amount) };
    }
}

impl Ledger {
    fn change(&mut self, uid: &str, change: impl FnOnce(&mut Entry)) {
        let entry = self.claims.entry(uid.to_owned()).or_default();
        let before = entry.current().cloned();
        change(entry);
        let after = entry.current().cloned();
        if entry.told.is_none() && entry.pending.is_none() {
            self.claims.remove(uid);
        }
        before.iter().for_each(|allocation| self.count(allocation, -1));
        after.iter().for_each(|allocation| self.count(allocation, 1));
    }

    fn count(&mut self, allocation: &AllocationResult, sign: i64) {
        // Who only looks after a device takes nothing of it.
        for result in results(allocation).filter(|result| result.admin_access != Some(true)) {
            let id = device_id(&result.driver, &result.pool, &result.device);
            let left = if result.share_id.is_some() {
                let (claims, taken) = self.shared.entry(id.clone()).or_default();
                let consumed = result.consumed_capacity.iter().flatten();
                add(taken, consumed.map(|(name, quantity)| (name, amount(quantity))), sign);
                *claims = claims.saturating_add_signed(if sign > 0 { 1 } else { -1 });
                *claims
            } else {
                let claims = self.whole.entry(id.clone()).or_default();
                *claims = claims.saturating_add_signed(if sign > 0 { 1 } else { -1 });
                *claims
            };
            if left == 0 && result.share_id.is_some() {
                self.shared.remove(&id);
            } else if left == 0 {
                self.whole.remove(&id);
            }
        }
    }

    /// What the API tells of a claim; nothing once it is gone.
    pub(crate) fn tell(&mut self, claim: &ResourceClaim, is_there: bool) {
        let allocation = claim.status.as_ref().and_then(|status| status.allocation.clone());
        let told = allocation.filter(|_| is_there).map(Arc::new);
        self.change(claim.uid(), |entry| entry.told = told);
        if let Some(owner) = extended::owner(claim) {
            let own = (owner.to_owned(), claim.name().to_owned());
            if is_there {
                self.extended.insert(own)
            } else {
                self.extended.remove(&own)
            };
        }
    }

    /// Keeps what a claim is to get from others.
    pub(crate) fn assume(&mut self, uid: &str, allocation: Arc<AllocationResult>) {
        self.change(uid, |entry| entry.pending = Some(allocation));
    }

    /// It is written, or never will be.
    pub(crate) fn settle(&mut self, uid: &str) {
        self.change(uid, |entry| entry.pending = None);
    }

    /// The name of a claim that stands for resources of a pod.
    pub(super) fn extended(&self, pod_uid: &str) -> Option<String> {
        let (uid, name) = self.extended.range((pod_uid.to_owned(), String::new())..).next()?;
        (uid == pod_uid).then(|| name.clone())
    }

    pub(super) fn is_pending(&self, uid: &str) -> bool {
        self.claims.get(uid).is_some_and(|entry| entry.pending.is_some())
    }

    /// Somebody has the device for himself.
    pub(super) fn is_taken(&self, id: &str) -> bool {
        self.whole.contains_key(id)
    }

    /// What is taken of a device that is shared, were it.
    pub(super) fn shared(&self, id: &str) -> Option<&Amounts> {
        self.shared.get(id).map(|(_, taken)| taken)
    }

    /// Somebody has the device, or a share of it.
    pub(super) fn is_used(&self, id: &str) -> bool {
        self.is_taken(id) || self.shared.contains_key(id)
    }
}
