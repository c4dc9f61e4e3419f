//! Lets storage go that is being deleted, once nobody uses it: claims, volumes and attribute classes.

use crate::common::{Key, Room, unless_gone, watch_self};
use crate::pods::node_name;
use crate::storage::{claim_names, volume_phase};
use api::core::{PersistentVolume, PersistentVolumeClaim};
use api::slim::Pod;
use api::storage::VolumeAttributesClass;
use api::{Object, Whole};
use client::{Cache, Client, Error, Next, Queue};
use http::Method;
use serde_json::json;

const CLAIM: &str = "kubernetes.io/pvc-protection";
const VOLUME: &str = "kubernetes.io/pv-protection";
const CLASS: &str = "kubernetes.io/vac-protection";

#[derive(Clone)]
struct Protection {
    client: Client,
    claims: Cache<PersistentVolumeClaim>,
    volumes: Cache<PersistentVolume>,
    classes: Cache<VolumeAttributesClass>,
    pods: Cache<Pod>,
}

pub(crate) fn start(room: &Room) {
    let protection = Protection {
        client: room.client.clone(),
        claims: room.caches.of(),
        volumes: room.caches.of(),
        classes: room.caches.of(),
        pods: room.caches.of(),
    };
    let (claims, volumes) = (Queue::new("claim protection"), Queue::new("volume protection"));
    let classes = Queue::new("attributes class protection");
    watch_self(&protection.claims, &claims);
    watch_self(&protection.volumes, &volumes);
    watch_self(&protection.classes, &classes);
    let freed = claims.clone();
    protection.pods.on_change(move |change| {
        if change.new.is_none() {
            claims_of(change.object()).into_iter().for_each(|key| freed.add(key));
        }
    });
    let named = classes.clone();
    protection.claims.on_change(move |change| {
        let names = change.old.iter().flat_map(|claim| classes_of_claim(claim));
        names.for_each(|name| named.add(Key::new("", &name)));
    });
    let named = classes.clone();
    protection.volumes.on_change(move |change| {
        let names = change.old.iter().filter_map(|volume| class_of_volume(volume));
        names.for_each(|name| named.add(Key::new("", name)));
    });
    let own = protection.clone();
    room.work("claim protection", &claims, 1, move |key| own.clone().claim(key));
    let own = protection.clone();
    room.work("volume protection", &volumes, 1, move |key| own.clone().volume(key));
    room.work("attributes class protection", &classes, 1, move |key| protection.clone().class(key));
}

/// The claims that a pod uses. One that is on no node uses none: it will not be started with a claim that
/// is going.
fn claims_of(pod: &Pod) -> Vec<Key> {
    if node_name(pod).is_empty() {
        return Vec::new();
    }
    claim_names(pod).map(|name| Key::new(pod.namespace(), &name)).collect()
}

fn classes_of_claim(claim: &PersistentVolumeClaim) -> Vec<String> {
    let spec = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.clone());
    let status = claim.status.as_ref();
    let current = status.and_then(|status| status.current_volume_attributes_class_name.clone());
    let modifying = status.and_then(|status| status.modify_volume_status.as_ref());
    let target = modifying.and_then(|status| status.target_volume_attributes_class_name.clone());
    [spec, current, target].into_iter().flatten().collect()
}

fn class_of_volume(volume: &PersistentVolume) -> Option<&str> {
    volume.spec.as_ref()?.volume_attributes_class_name.as_deref()
}

impl Protection {
    async fn claim(self, key: Key) -> Result<Next, Error> {
        self.pods.synced().await;
        let Some(claim) = self.claims.get(&key.namespace, &key.name) else { return Ok(Next::Done) };
        let pods = self.pods.snapshot();
        let used = || pods.in_namespace(&key.namespace).any(|pod| claims_of(pod).contains(&key));
        self.let_go(&*claim, CLAIM, used).await
    }

    async fn volume(self, key: Key) -> Result<Next, Error> {
        let Some(volume) = self.volumes.get("", &key.name) else { return Ok(Next::Done) };
        self.let_go(&*volume, VOLUME, || volume_phase(&volume) == "Bound").await
    }

    async fn class(self, key: Key) -> Result<Next, Error> {
        self.claims.synced().await;
        self.volumes.synced().await;
        let Some(class) = self.classes.get("", &key.name) else { return Ok(Next::Done) };
        let (claims, volumes) = (self.claims.snapshot(), self.volumes.snapshot());
        let used = || {
            claims.iter().any(|claim| classes_of_claim(claim).contains(&key.name))
                || volumes.iter().any(|volume| class_of_volume(volume) == Some(&key.name))
        };
        self.let_go(&*class, CLASS, used).await
    }

    /// Removes a finalizer from what is being deleted and not used, and gives it back to what is not.
    async fn let_go<T: Whole>(
        &self,
        object: &T,
        finalizer: &str,
        used: impl FnOnce() -> bool,
    ) -> Result<Next, Error> {
        let finalizers = object.meta().finalizers.as_deref().unwrap_or_default();
        let has = finalizers.iter().any(|own| own == finalizer);
        if has != object.is_deleting() || (has && used()) {
            return Ok(Next::Done);
        }
        let mut kept: Vec<&str> = finalizers.iter().map(String::as_str).collect();
        if has {
            kept.retain(|own| *own != finalizer);
        } else {
            kept.push(finalizer);
        }
        let mut body = object.to_value().map_err(|error| Error::Decode(error.to_string()))?;
        body["metadata"]["finalizers"] = json!(kept);
        let path = format!("{}/{}", client::path_of::<T>(object.namespace()), object.name());
        unless_gone(self.client.send(Method::PUT, &path, Some(&body)).await.map(drop)).map(|()| Next::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_use_claims_by_name_and_of_their_own() {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n"},
            "spec": {"containers": [], "nodeName": "a", "volumes": [
                {"name": "data", "persistentVolumeClaim": {"claimName": "c"}},
                {"name": "scratch", "ephemeral": {"volumeClaimTemplate": {}}},
                {"name": "config", "configMap": {"name": "m"}}]}});
        let claims =
            |pod: &serde_json::Value| claims_of(&Pod::from_json(pod.to_string().as_bytes()).unwrap());
        assert_eq!(claims(&pod), [Key::new("n", "c"), Key::new("n", "p-scratch")]);
        pod["spec"]["nodeName"] = json!(null);
        assert_eq!(claims(&pod), []);
    }
}
