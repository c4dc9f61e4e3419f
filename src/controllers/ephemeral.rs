//! Makes the claims of pods' generic ephemeral volumes, which go with their pods.

use crate::common::{Key, Room};
use api::core::{PersistentVolumeClaim, Pod as WholePod, Volume};
use api::meta::ObjectMeta;
use api::slim::Pod;
use api::{Object, owner_reference};
use client::{Cache, Client, Error, Next, Queue, Recorder};

#[derive(Clone)]
struct Ephemeral {
    client: Client,
    pods: Cache<Pod>,
    claims: Cache<PersistentVolumeClaim>,
    recorder: Recorder,
}

pub(crate) fn start(room: &Room) {
    let controller = Ephemeral {
        client: room.client.clone(),
        pods: room.caches.of(),
        claims: room.caches.of(),
        recorder: room.recorder("ephemeral_volume"),
    };
    let queue = Queue::new("ephemeral volumes");
    let new = queue.clone();
    controller.pods.on_change(move |change| {
        if let (None, Some(pod)) = (&change.old, &change.new)
            && has_own_claims(pod)
        {
            new.add(Key::of(&**pod));
        }
    });
    let gone = queue.clone();
    controller.claims.on_change(move |change| {
        let owner = change.object().controller().filter(|owner| owner.kind == "Pod");
        if let (None, Some(owner)) = (&change.new, owner) {
            gone.add(Key::new(change.object().namespace(), owner.name));
        }
    });
    room.work("ephemeral volume controller", &queue, 2, move |key| controller.clone().sync(key));
}

fn has_own_claims(pod: &Pod) -> bool {
    pod.spec.iter().flat_map(|spec| &spec.volumes).any(|volume| volume.ephemeral.is_some())
}

/// The claim of a pod's volume, if it is to have one of its own.
fn claim_of(pod: &WholePod, volume: &Volume) -> Option<PersistentVolumeClaim> {
    let template = volume.ephemeral.as_ref()?.volume_claim_template.as_ref()?;
    let meta = template.metadata.clone().unwrap_or_default();
    Some(PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(format!("{}-{}", pod.name(), volume.name)),
            namespace: pod.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: meta.annotations,
            owner_references: Some(vec![owner_reference(pod)]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec.clone()),
        status: None,
    })
}

impl Ephemeral {
    async fn sync(self, key: Key) -> Result<Next, Error> {
        self.claims.synced().await;
        let pod = self.pods.get(&key.namespace, &key.name);
        if pod.is_none_or(|pod| pod.is_deleting() || !has_own_claims(&pod)) {
            return Ok(Next::Done);
        }
        // The cache does not hold the templates.
        let pod: WholePod = match self.client.get(&key.namespace, &key.name).await {
            Err(error) if error.is_not_found() => return Ok(Next::Done),
            other => other?,
        };
        let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        for volume in volumes.filter(|_| !pod.is_deleting()) {
            let Some(claim) = claim_of(&pod, volume) else { continue };
            if let Err((why, error)) = self.ensure(&pod, &claim).await {
                let about = format!("ephemeral volume {}: {why}", volume.name);
                self.recorder.warning(&pod, "FailedBinding", about);
                return Err(error);
            }
        }
        Ok(Next::Done)
    }

    /// Makes a claim that is not there; one that is has to be this pod's.
    async fn ensure(&self, pod: &WholePod, claim: &PersistentVolumeClaim) -> Result<(), (String, Error)> {
        let (namespace, name) = (claim.namespace(), claim.name());
        if let Some(found) = self.claims.get(namespace, name) {
            if found.controller().is_some_and(|owner| owner.uid == pod.uid()) {
                return Ok(());
            }
            let pod = pod.name();
            let why = format!(
                "PVC {namespace}/{name} was not created for pod {namespace}/{pod} (pod is not owner)"
            );
            return Err((why.clone(), Error::Transport(why)));
        }
        match self.client.create(claim).await {
            Ok(made) => self.claims.reached(made.revision()).await,
            Err(error) => return Err((format!("create PVC {name}: {error}"), error)),
        }
        Ok(())
    }
}
