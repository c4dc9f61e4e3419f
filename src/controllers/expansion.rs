//! Tells who waits for a claim to grow: the resizers of CSI drivers do it, since Kubernetes' own are gone.

use crate::common::{Key, Room};
use crate::storage::{claim_phase, requested, storage, volume_name, volume_spec};
use api::Object;
use api::core::{PersistentVolume, PersistentVolumeClaim};
use client::{Cache, Error, Next, Queue, Recorder};

#[derive(Clone)]
struct Expansion {
    claims: Cache<PersistentVolumeClaim>,
    volumes: Cache<PersistentVolume>,
    recorder: Recorder,
}

pub(crate) fn start(room: &Room) {
    let controller = Expansion {
        claims: room.caches.of(),
        volumes: room.caches.of(),
        recorder: room.recorder("volume_expand"),
    };
    let queue = Queue::new("expansion");
    let wanted = queue.clone();
    controller.claims.on_change(move |change| {
        let Some(claim) = change.new.as_ref().filter(|claim| wants_more(claim)) else { return };
        if change.old.as_ref().is_none_or(|before| requested(before) < requested(claim)) {
            wanted.add(Key::of(&**claim));
        }
    });
    room.work("expansion", &queue, 1, move |key| controller.clone().sync(key));
}

/// The claim is bound and asks for more than it has.
fn wants_more(claim: &PersistentVolumeClaim) -> bool {
    let has = storage(claim.status.as_ref().and_then(|status| status.capacity.as_ref()));
    claim_phase(claim) == "Bound" && requested(claim) > has
}

impl Expansion {
    async fn sync(self, key: Key) -> Result<Next, Error> {
        self.volumes.synced().await;
        let claim = self.claims.get(&key.namespace, &key.name).filter(|claim| wants_more(claim));
        let Some(claim) = claim else { return Ok(Next::Done) };
        let volume = self.volumes.get("", volume_name(&claim));
        let reference = volume.as_ref().and_then(|volume| volume_spec(volume).claim_ref.as_ref());
        if reference.and_then(|reference| reference.uid.as_deref()) == Some(claim.uid()) {
            let about = "waiting for an external controller to expand this PVC".to_owned();
            self.recorder.normal(&*claim, "ExternalExpanding", about);
        }
        Ok(Next::Done)
    }
}
