//! Deletes pods whose devices are tainted with `NoExecute` in their driver's ResourceSlices, unless their claims
//! tolerate it, or no longer (KEP-5055).

use crate::common::{self, Key, Room, watch_self};
use crate::pods::{is_active, node_name};
use api::Object;
use api::core::{Taint, Toleration};
use api::resource::{Device, DeviceRequestAllocationResult, ResourceClaim, ResourceSlice, ResourceSliceSpec};
use api::slim::Pod;
use api::taints::{covers, of_device, of_request};
use base::clock;
use client::{Cache, Client, Error, Next, Queue, Recorder};
use jiff::{SignedDuration, Timestamp};
use std::sync::Arc;

const EFFECT: &str = "NoExecute";

#[derive(Clone)]
struct Evictor {
    client: Client,
    claims: Cache<ResourceClaim>,
    slices: Cache<ResourceSlice>,
    pods: Cache<Pod>,
    recorder: Recorder,
}

pub(crate) fn start(room: &Room) {
    let evictor = Evictor {
        client: room.client.clone(),
        claims: room.caches.of(),
        slices: room.caches.of(),
        pods: room.caches.of(),
        recorder: room.recorder("device-taint-eviction"),
    };
    let queue = Queue::new("device taints");
    watch_self(&evictor.claims, &queue);
    let (tainted, claims) = (queue.clone(), evictor.claims.clone());
    evictor.slices.on_change(move |change| {
        let pool = &change.object().spec;
        let claims = claims.snapshot();
        let using = claims.iter().filter(|claim| {
            devices(claim).iter().any(|device| device.driver == pool.driver && device.pool == pool.pool.name)
        });
        using.for_each(|claim| tainted.add(Key::of(&**claim)));
    });
    let (bound, claims) = (queue.clone(), evictor.claims.clone());
    evictor.pods.on_change(move |change| {
        let is_bound = |pod: &Arc<Pod>| !node_name(pod).is_empty();
        let Some(pod) = change.new.as_ref().filter(|pod| is_bound(pod)) else { return };
        let has_claims = pod.spec.as_ref().is_some_and(|spec| spec.resource_claims.is_some());
        if has_claims && !change.old.as_ref().is_some_and(is_bound) {
            let claims = claims.snapshot();
            let own =
                claims.in_namespace(pod.namespace()).filter(|claim| consumers(claim).contains(&pod.uid()));
            own.for_each(|claim| bound.add(Key::of(&**claim)));
        }
    });
    room.work("device taint eviction", &queue, 2, move |key| evictor.clone().sync(key));
}

fn devices(claim: &ResourceClaim) -> &[DeviceRequestAllocationResult] {
    let allocation = claim.status.as_ref().and_then(|status| status.allocation.as_ref());
    let devices = allocation.and_then(|allocation| allocation.devices.as_ref());
    devices.and_then(|devices| devices.results.as_deref()).unwrap_or_default()
}

/// The uids of those for whom a claim is reserved.
fn consumers(claim: &ResourceClaim) -> Vec<&str> {
    let reserved = claim.status.iter().flat_map(|status| status.reserved_for.iter().flatten());
    reserved.map(|consumer| consumer.uid.as_str()).collect()
}

/// A device as the latest generation of its pool has it.
fn device<'a>(slices: &'a [&ResourceSliceSpec], of: &DeviceRequestAllocationResult) -> Option<&'a Device> {
    let pool = slices.iter().filter(|slice| slice.driver == of.driver && slice.pool.name == of.pool);
    let latest = pool.clone().map(|slice| slice.pool.generation).max()?;
    let current = pool.filter(|slice| slice.pool.generation == latest);
    current.flat_map(|slice| slice.devices.iter().flatten()).find(|device| device.name == of.device)
}

/// When the pods of a device have to leave by a taint, if ever: the shortest toleration counts, unless one is for
/// ever. Only a toleration of this very effect is one.
fn leaves(taint: &Taint, tolerations: &[Toleration], noticed: Timestamp) -> Option<Timestamp> {
    let covering = tolerations
        .iter()
        .filter(|toleration| toleration.effect.as_deref() == Some(EFFECT) && covers(toleration, taint));
    let limits: Option<Vec<i64>> = covering.map(|toleration| toleration.toleration_seconds).collect();
    let limit_s = limits?.into_iter().min().unwrap_or(0).max(0);
    let since = taint.time_added.as_ref().map_or(noticed, |time| time.0);
    since.checked_add(SignedDuration::from_secs(limit_s)).ok()
}

/// When the pods of a claim have to leave, if ever: at the earliest for any of its devices.
fn plan(claim: &ResourceClaim, slices: &[&ResourceSliceSpec], noticed: Timestamp) -> Option<Timestamp> {
    let of_device = |allocated: &DeviceRequestAllocationResult| {
        let tolerations: Vec<_> = allocated.tolerations.iter().flatten().map(of_request).collect();
        let taints = device(slices, allocated).into_iter().flat_map(|device| device.taints.iter().flatten());
        let evicting = taints.map(of_device).filter(|taint| taint.effect == EFFECT);
        evicting.filter_map(|taint| leaves(&taint, &tolerations, noticed)).min()
    };
    devices(claim).iter().filter_map(of_device).min()
}

impl Evictor {
    async fn sync(self, key: Key) -> Result<Next, Error> {
        self.slices.synced().await;
        self.pods.synced().await;
        let Some(claim) = self.claims.get(&key.namespace, &key.name) else { return Ok(Next::Done) };
        let slices = self.slices.snapshot();
        let specs: Vec<&ResourceSliceSpec> = slices.iter().map(|slice| &slice.spec).collect();
        let now = clock::now();
        let Some(at) = plan(&claim, &specs, now) else { return Ok(Next::Done) };
        if at > now {
            return Ok(Next::After(clock::between(now, at)));
        }
        let (pods, uids) = (self.pods.snapshot(), consumers(&claim));
        let using = pods.in_namespace(&key.namespace).filter(|pod| uids.contains(&pod.uid()));
        for pod in using.filter(|pod| is_active(pod) && !node_name(pod).is_empty()) {
            self.recorder.normal(&**pod, "DeviceTaintManagerEviction", "Marking for deletion".to_owned());
            let why = "Device Taint manager: deleting due to NoExecute taint";
            let why = ("DeletionByDeviceTaintManager", why);
            common::disrupt(&self.client, pod, Some(why), None).await?;
            common::delete_this(&self.client, &**pod).await?;
        }
        Ok(Next::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worlds::at;
    use serde_json::json;

    /// `taint DEVICE EFFECT [GENERATION]`, added at 0; `has DEVICE`; `tolerates EFFECT [SECONDS]`. The pool has two
    /// devices, and it is looked after ten seconds.
    fn told(input: &str) -> String {
        let (mut slices, mut results, mut tolerations) = (Vec::new(), Vec::new(), Vec::new());
        for line in input.lines().filter(|line| !line.starts_with('#')) {
            let words: Vec<_> = line.split(' ').collect();
            let number = words.get(3).or(words.get(2)).and_then(|word| word.parse::<i64>().ok());
            let effect = |word: &str| Some(word.to_owned()).filter(|effect| effect != "any");
            match words[0] {
                "taint" => {
                    let taint =
                        json!([{"key": "broken", "effect": words[2], "timeAdded": at(0).to_string()}]);
                    let devices = ["one", "two"].map(|name| match name == words[1] {
                        true => json!({"name": name, "taints": taint}),
                        false => json!({"name": name}),
                    });
                    slices.push(json!({"driver": "gpu.test", "nodeName": "n", "devices": devices,
                        "pool": {"name": "n", "generation": number.unwrap_or(1), "resourceSliceCount": 1}}));
                }
                "has" => results
                    .push(json!({"request": "r", "driver": "gpu.test", "pool": "n", "device": words[1]})),
                _ => tolerations
                    .push(json!({"key": "broken", "operator": "Exists", "effect": effect(words[1]),
                    "tolerationSeconds": number})),
            }
        }
        results.iter_mut().for_each(|result| result["tolerations"] = json!(tolerations));
        let claim = json!({"metadata": {"name": "c"}, "spec": {},
            "status": {"allocation": {"devices": {"results": results}}}});
        let slices: Vec<ResourceSliceSpec> =
            slices.into_iter().map(|slice| serde_json::from_value(slice).unwrap()).collect();
        let leaves =
            plan(&serde_json::from_value(claim).unwrap(), &slices.iter().collect::<Vec<_>>(), at(10));
        leaves.map_or("stay\n".to_owned(), |leaves| {
            format!("leave at {}\n", leaves.as_second() - at(0).as_second())
        })
    }

    #[test]
    fn pods_leave_with_their_devices() {
        crate::golden::check("device_evictions.txt", told);
    }
}
