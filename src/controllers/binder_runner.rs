//! Binds claims and volumes as `binder.rs` plans it, write by write.
//!
//! One worker for each side: a volume that two claims want goes to the one that is looked at first, and the
//! other sees it taken. Two sides that write the same object find out by its resourceVersion.

use crate::binder::{self, About, Plan, Told, World, Write};
use crate::common::{Key, Room, watch_self};
use crate::pods::{is_finished, node_name};
use crate::storage::{self, BIND_COMPLETED, class_of_claim, volume_name, volume_phase, volume_spec};
use api::Object;
use api::core::{PersistentVolume, PersistentVolumeClaim};
use api::slim::Pod;
use api::storage::StorageClass;
use client::{Cache, Client, Error, Next, Queue, Recorder};
use std::sync::Arc;

/// A binding takes four writes, and assigning a class and asking a provisioner two.
const STEPS: usize = 8;

#[derive(Clone)]
struct Binder {
    client: Client,
    claims: Cache<PersistentVolumeClaim>,
    volumes: Cache<PersistentVolume>,
    classes: Cache<StorageClass>,
    pods: Cache<Pod>,
    recorder: Recorder,
}

pub(crate) fn start(room: &Room) {
    let binder = Binder {
        client: room.client.clone(),
        claims: room.caches.of(),
        volumes: room.caches.of(),
        classes: room.caches.of(),
        pods: room.caches.of(),
        recorder: room.recorder("persistentvolume-controller"),
    };
    let (claims, volumes) = (Queue::new("claim binding"), Queue::new("volume binding"));
    watch_self(&binder.claims, &claims);
    watch_self(&binder.volumes, &volumes);
    let named = volumes.clone();
    binder.claims.on_change(move |change| {
        let name = volume_name(change.object());
        if !name.is_empty() {
            named.add(Key::new("", name));
        }
    });
    let (wake, all) = (claims.clone(), binder.claims.clone());
    binder.volumes.on_change(move |change| {
        let sides = [&change.old, &change.new].into_iter().flatten();
        sides.filter_map(|volume| referred(volume)).for_each(|key| wake.add(key));
        let Some(free) = change.new.as_ref().filter(|volume| volume_spec(volume).claim_ref.is_none()) else {
            return;
        };
        all.snapshot().iter().filter(|claim| may_take(claim, free)).for_each(|claim| {
            wake.add(Key::of(&**claim));
        });
    });
    let (wake, all) = (claims.clone(), binder.claims.clone());
    binder.classes.on_change(move |change| {
        let Some(class) = &change.new else { return };
        let of_class = |claim: &PersistentVolumeClaim| {
            storage::has_no_class(claim) || class_of_claim(claim) == class.name()
        };
        all.snapshot().iter().filter(|claim| is_unbound(claim) && of_class(claim)).for_each(|claim| {
            wake.add(Key::of(&**claim));
        });
    });
    let (wake, all) = (claims.clone(), binder.claims.clone());
    binder.pods.on_change(move |change| {
        let pod = change.object();
        if change.old.is_some() && change.new.is_some() {
            return;
        }
        for name in storage::claim_names(pod) {
            if all.get(pod.namespace(), &name).is_some_and(|claim| is_unbound(&claim)) {
                wake.add(Key::new(pod.namespace(), &name));
            }
        }
    });
    let own = binder.clone();
    room.work("claim binder", &claims, 1, move |key| own.clone().claim(key));
    room.work("volume binder", &volumes, 1, move |key| binder.clone().volume(key));
}

fn is_unbound(claim: &PersistentVolumeClaim) -> bool {
    !claim.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(BIND_COMPLETED))
}

/// The claim that a volume refers to.
fn referred(volume: &PersistentVolume) -> Option<Key> {
    let reference = volume_spec(volume).claim_ref.as_ref()?;
    Some(Key::new(reference.namespace.as_deref()?, reference.name.as_deref()?))
}

/// The claim may get a volume that is free.
fn may_take(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    match volume_name(claim) {
        "" => is_unbound(claim) && class_of_claim(claim) == storage::class_of_volume(volume),
        name => name == volume.name(),
    }
}

impl Binder {
    async fn claim(self, key: Key) -> Result<Next, Error> {
        self.volumes.synced().await;
        self.classes.synced().await;
        self.pods.synced().await;
        for _ in 0..STEPS {
            let Some(claim) = self.claims.get(&key.namespace, &key.name) else { break };
            let (volumes, classes) = (self.volumes.snapshot(), self.classes.snapshot());
            let unscheduled = if is_unbound(&claim) { self.unscheduled(&key) } else { Vec::new() };
            let world =
                World { volumes: volumes.iter().collect(), classes: classes.iter().collect(), unscheduled };
            let plan = binder::plan_claim(&claim, &world);
            if !self.carry_out(plan, Some(&claim), None).await? {
                break;
            }
        }
        Ok(Next::Done)
    }

    /// The pods that use a claim and have no node.
    fn unscheduled(&self, key: &Key) -> Vec<String> {
        let pods = self.pods.snapshot();
        let waiting = pods.in_namespace(&key.namespace).filter(|pod| {
            node_name(pod).is_empty()
                && !is_finished(pod)
                && storage::claim_names(pod).any(|name| name == key.name)
        });
        waiting.map(|pod| pod.name().to_owned()).collect()
    }

    async fn volume(self, key: Key) -> Result<Next, Error> {
        self.claims.synced().await;
        for _ in 0..STEPS {
            let Some(volume) = self.volumes.get("", &key.name) else { break };
            let claim = self.claim_of(&volume).await?;
            let plan = binder::plan_volume(&volume, claim.as_deref());
            if !self.carry_out(plan, claim.as_deref(), Some(&volume)).await? {
                break;
            }
        }
        Ok(Next::Done)
    }

    /// The claim that a volume refers to. Before the volume is given up the API is asked: the cache of claims
    /// may be behind that of volumes.
    async fn claim_of(&self, volume: &PersistentVolume) -> Result<Option<Arc<PersistentVolumeClaim>>, Error> {
        let (Some(key), Some(reference)) = (referred(volume), &volume_spec(volume).claim_ref) else {
            return Ok(None);
        };
        let uid = reference.uid.as_deref().unwrap_or_default();
        let is_meant = |claim: &PersistentVolumeClaim| claim.uid() == uid;
        let cached = self.claims.get(&key.namespace, &key.name);
        let known = cached.as_ref().is_some_and(|claim| is_meant(claim));
        if known || uid.is_empty() || matches!(volume_phase(volume), "Released" | "Failed") {
            return Ok(cached.filter(|claim| is_meant(claim)));
        }
        match self.client.get::<PersistentVolumeClaim>(&key.namespace, &key.name).await {
            Ok(claim) => Ok(Some(Arc::new(claim)).filter(|claim| is_meant(claim))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes, waits until the caches show it, and tells. True if there was something to write.
    async fn carry_out(
        &self,
        plan: Plan,
        claim: Option<&PersistentVolumeClaim>,
        volume: Option<&PersistentVolume>,
    ) -> Result<bool, Error> {
        let wrote = plan.write.is_some();
        if let Some(write) = plan.write {
            Box::pin(self.write(write)).await?;
        }
        for told in plan.told {
            match told.about {
                About::Claim => self.tell(claim, told),
                About::Volume => self.tell(volume, told),
            }
        }
        Ok(wrote)
    }

    fn tell<T: Object>(&self, about: Option<&T>, told: Told) {
        match about {
            Some(about) if told.warning => self.recorder.warning(about, told.reason, told.message),
            Some(about) => self.recorder.normal(about, told.reason, told.message),
            None => {}
        }
    }

    async fn write(&self, write: Write) -> Result<(), Error> {
        match write {
            Write::Claim(claim) => self.claims.reached(self.client.update(&*claim).await?.revision()).await,
            Write::ClaimStatus(claim) => {
                self.claims.reached(self.client.update_status(&*claim).await?.revision()).await;
            }
            Write::Volume(volume) => {
                self.volumes.reached(self.client.update(&*volume).await?.revision()).await;
            }
            Write::VolumeStatus(volume) => {
                self.volumes.reached(self.client.update_status(&*volume).await?.revision()).await;
            }
        }
        Ok(())
    }
}
