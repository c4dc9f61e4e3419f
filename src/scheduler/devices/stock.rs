//! Claims, classes and slices, as the scheduler sees them in the shared caches.

use super::extended::Extended;
use super::ledger::Ledger;
use super::pools::Inventory;
use super::selectors::Programs;
use super::{Blocked, Devices, Known, Limits};
use crate::ask::Wanted;
use crate::cluster::Cluster;
use crate::intern::Texts;
use api::Object;
use api::resource::{DeviceClass, ResourceClaim, ResourceSlice};
use api::slim::Pod;
use client::{Cache, Caches};
use std::sync::{Arc, Mutex, PoisonError};

/// What there is and what of it is given away; a copy shares the latter.
#[derive(Clone, Default)]
pub(crate) struct Stock {
    pub(super) inventory: Arc<Inventory>,
    pub(super) ledger: Arc<Mutex<Ledger>>,
    pub(super) programs: Arc<Programs>,
    /// The revision of the slices that it is of.
    at: Option<u64>,
}

impl Stock {
    /// The same with what slices tell now.
    pub(super) fn with<'a>(
        &self,
        slices: impl Iterator<Item = &'a Arc<ResourceSlice>>,
        texts: &mut Texts,
    ) -> Self {
        Self { inventory: Arc::new(Inventory::of(slices, texts)), ..self.clone() }
    }
}

/// The caches of devices.
pub(crate) struct DeviceCaches {
    pub(crate) claims: Cache<ResourceClaim>,
    pub(crate) classes: Cache<DeviceClass>,
    pub(crate) slices: Cache<ResourceSlice>,
    stock: Mutex<Stock>,
}

impl DeviceCaches {
    pub(crate) fn new(caches: &Caches) -> Self {
        let own =
            Self { claims: caches.of(), classes: caches.of(), slices: caches.of(), stock: Mutex::default() };
        let stock = own.current();
        own.claims.on_change(move |change| {
            stock.ledger().tell(change.object(), change.new.is_some());
        });
        own
    }

    pub(crate) async fn synced(&self) {
        self.claims.synced().await;
        self.classes.synced().await;
        self.slices.synced().await;
    }

    fn current(&self) -> Stock {
        self.stock.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What there is now.
    fn stock(&self, texts: &mut Texts) -> Stock {
        let slices = self.slices.snapshot();
        let mut stock = self.stock.lock().unwrap_or_else(PoisonError::into_inner);
        let at = Some(slices.revision());
        if stock.at != at {
            *stock = Stock { at, ..stock.with(slices.iter(), texts) };
        }
        stock.clone()
    }

    /// What a pod's claims ask for, or why it is not tried.
    pub(crate) fn of(
        &self,
        wanted: &Wanted,
        limits: &Limits,
        cluster: &mut Cluster,
    ) -> Result<Option<Devices>, Blocked> {
        let extended = Extended::of(&wanted.pod, &wanted.ask.requests, &cluster.provided);
        if !super::has_any(&wanted.pod) && extended.is_none() {
            return Ok(None);
        }
        let claims = |name: &str| self.claims.get(wanted.pod.namespace(), name);
        let classes = |name: &str| self.classes.get("", name);
        let stock = &self.stock(&mut cluster.texts);
        let known = Known { stock, claims: &claims, classes: &classes };
        Devices::of(&wanted.pod, extended, &known, limits, &mut cluster.texts)
    }

    /// The claim that was made for the resources of a pod.
    pub(super) fn extended(&self, pod: &Pod) -> Option<Arc<ResourceClaim>> {
        let name = self.current().ledger().extended(pod.uid())?;
        self.claims.get(pod.namespace(), &name)
    }

    /// What a claim was to get is written, or never will be.
    pub(crate) fn settle(&self, uid: &str) {
        self.current().ledger().settle(uid);
    }
}
