//! Preparing a pod's claims, and taking them back.

use super::claims::{Claim, Device, claim_name, standing};
use super::lock;
use crate::pods::spec;
use crate::protocols::dra;
use crate::{Context, Error};
use api::Object;
use api::core::Pod;
use api::resource::ResourceClaim;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The names of a pod's claims, and whether they were made for it.
fn names(pod: &Pod) -> Result<Vec<(String, bool)>, Error> {
    let mut names = Vec::new();
    for claim in spec::spec(pod).resource_claims.iter().flatten() {
        names.extend(claim_name(pod, claim).map_err(Error::Volume)?);
    }
    names.extend(standing(pod).map(|standing| (standing.resource_claim_name.clone(), false)));
    Ok(names)
}

/// Why a claim is not ready for a pod.
fn refusal(pod: &Pod, claim: &ResourceClaim, made_for_it: bool) -> Option<String> {
    let (name, namespace) = (claim.name(), pod.namespace());
    if made_for_it && claim.controller().is_none_or(|owner| owner.uid != pod.uid()) {
        return Some(format!(
            "ResourceClaim {namespace}/{name} was not created for pod {namespace}/{} (pod is not owner)",
            pod.name()
        ));
    }
    let status = claim.status.as_ref();
    let reserved = status.and_then(|status| status.reserved_for.as_ref());
    if !reserved.is_some_and(|users| users.iter().any(|user| user.uid == pod.uid())) {
        let (pod, uid) = (pod.name(), pod.uid());
        return Some(format!(
            "pod {pod} ({uid}) is not allowed to use ResourceClaim {name} ({})",
            claim.uid()
        ));
    }
    let allocated = status.is_some_and(|status| status.allocation.is_some());
    (!allocated).then(|| format!("ResourceClaim {name}: not allocated"))
}

/// The drivers of the devices that a claim was given.
fn drivers(claim: &ResourceClaim) -> BTreeSet<String> {
    let allocation = claim.status.as_ref().and_then(|status| status.allocation.as_ref());
    let devices = allocation.and_then(|allocation| allocation.devices.as_ref());
    let results = devices.and_then(|devices| devices.results.as_ref());
    results.into_iter().flatten().map(|result| result.driver.clone()).collect()
}

/// Has the drivers prepare what was allocated for a pod. Nothing is noted before everything that this node can
/// check is right, so that a pod that cannot run can go.
pub(crate) async fn prepare(context: &Context, pod: &Pod) -> Result<(), Error> {
    let names = names(pod)?;
    if names.is_empty() || !context.machine.is_there() {
        return Ok(());
    }
    let _turn = context.dra.turn.lock().await;
    let mut claims = Vec::new();
    for (name, made_for_it) in names {
        let found = context.client.get::<ResourceClaim>(pod.namespace(), &name).await;
        let claim = found.map_err(|error| Error::Volume(format!("fetch ResourceClaim {name}: {error}")))?;
        if let Some(why) = refusal(pod, &claim, made_for_it) {
            return Err(Error::Volume(why));
        }
        drivers(&claim).iter().try_for_each(|driver| context.dra.driver(driver).map(drop))?;
        claims.push(claim);
    }
    let batches = note(context, pod, &claims)?;
    for (driver, batch) in batches {
        ask(context, &driver, batch).await?;
    }
    let mut known = lock(&context.dra.claims);
    for claim in &claims {
        let key = (pod.namespace().to_owned(), claim.name().to_owned());
        if let Some(known) = known.0.get_mut(&key) {
            known.prepared = true;
        }
    }
    known.write(&context.config.kubelet_dir)
}

/// Notes that a pod uses claims; gives what each driver has to prepare.
fn note(
    context: &Context,
    pod: &Pod,
    claims: &[ResourceClaim],
) -> Result<BTreeMap<String, Vec<dra::Claim>>, Error> {
    let mut known = lock(&context.dra.claims);
    let mut batches: BTreeMap<String, Vec<dra::Claim>> = BTreeMap::new();
    for claim in claims {
        let place = (pod.namespace(), claim.name());
        let drivers = drivers(claim);
        let noted = known.add(place, claim.uid(), pod.uid(), &drivers).map_err(Error::Volume)?;
        if noted.prepared {
            continue;
        }
        let asked = dra::Claim {
            namespace: pod.namespace().to_owned(),
            uid: claim.uid().to_owned(),
            name: claim.name().to_owned(),
        };
        for driver in drivers {
            batches.entry(driver).or_default().push(asked.clone());
        }
    }
    known.write(&context.config.kubelet_dir)?;
    Ok(batches)
}

/// Errors of an answer that has to speak of every claim that was asked about.
fn check<T>(
    verb: &str,
    asked: &[dra::Claim],
    answers: &HashMap<String, T>,
    error: impl Fn(&T) -> &str,
) -> Result<(), Error> {
    for (uid, answer) in answers {
        let Some(claim) = asked.iter().find(|claim| claim.uid == *uid) else {
            return Err(Error::Volume(format!("{verb} returned result for unknown claim UID {uid}")));
        };
        let error = error(answer);
        if !error.is_empty() {
            return Err(Error::Volume(format!("{verb} failed for ResourceClaim {}: {error}", claim.name)));
        }
    }
    match asked.len().saturating_sub(answers.len()) {
        0 => Ok(()),
        missing => Err(Error::Volume(format!("{verb} skipped {missing} ResourceClaims"))),
    }
}

async fn ask(context: &Context, driver: &str, asked: Vec<dra::Claim>) -> Result<(), Error> {
    let answer = context.dra.driver(driver)?.prepare(asked.clone()).await?;
    check("NodePrepareResources", &asked, &answer.claims, |answer| &answer.error)?;
    let mut known = lock(&context.dra.claims);
    for claim in asked {
        let devices = answer.claims.get(&claim.uid).map(|answer| answer.devices.clone()).unwrap_or_default();
        let devices = devices.into_iter().map(|device| Device {
            pool: device.pool_name,
            name: device.device_name,
            requests: device.request_names,
            cdi: device.cdi_device_ids,
            share: device.share_id,
        });
        if let Some(known) = known.0.get_mut(&(claim.namespace, claim.name)) {
            known.devices.insert(driver.to_owned(), devices.collect());
        }
    }
    Ok(())
}

/// Has the drivers take back what a pod that has ended was the last to use.
pub(crate) async fn unprepare(context: &Context, uid: &str) -> Result<(), Error> {
    let used = |claims: &BTreeMap<_, Claim>| claims.values().any(|claim| claim.pods.contains(uid));
    if !used(&lock(&context.dra.claims).0) {
        return Ok(());
    }
    let _turn = context.dra.turn.lock().await;
    let last = {
        let mut known = lock(&context.dra.claims);
        let last = known.let_go(uid);
        // A driver may be away for longer than this process lives.
        known.write(&context.config.kubelet_dir)?;
        last
    };
    let mut batches: BTreeMap<String, Vec<dra::Claim>> = BTreeMap::new();
    for ((namespace, name), claim) in &last {
        let asked = dra::Claim { namespace: namespace.clone(), uid: claim.uid.clone(), name: name.clone() };
        for driver in claim.devices.keys() {
            batches.entry(driver.clone()).or_default().push(asked.clone());
        }
    }
    for (driver, asked) in batches {
        let answer = context.dra.driver(&driver)?.unprepare(asked.clone()).await?;
        check("NodeUnprepareResources", &asked, &answer.claims, |answer| &answer.error)?;
    }
    let mut known = lock(&context.dra.claims);
    last.iter().for_each(|(key, _)| drop(known.0.remove(key)));
    known.write(&context.config.kubelet_dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn claims_are_for_those_that_they_are_reserved_for() {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}})).unwrap();
        let of = |status: serde_json::Value| {
            let claim = json!({"metadata": {"name": "c", "uid": "cu"}, "spec": {}, "status": status});
            refusal(&pod, &serde_json::from_value(claim).unwrap(), false)
        };
        let user = json!([{"resource": "pods", "name": "p", "uid": "u"}]);
        assert_eq!(of(json!({})).unwrap(), "pod p (u) is not allowed to use ResourceClaim c (cu)");
        assert_eq!(of(json!({"reservedFor": user})).unwrap(), "ResourceClaim c: not allocated");
        assert_eq!(of(json!({"reservedFor": user, "allocation": {}})), None);
    }

    #[test]
    fn every_claim_is_answered() {
        let claim =
            |uid: &str| dra::Claim { uid: uid.to_owned(), name: format!("c-{uid}"), ..Default::default() };
        let asked = [claim("1"), claim("2")];
        let said = |answers: &[(&str, &str)]| {
            let answers =
                answers.iter().map(|(uid, error)| ((*uid).to_owned(), (*error).to_owned())).collect();
            check("V", &asked, &answers, String::as_str).map_err(|error| error.to_string())
        };
        assert_eq!(said(&[("1", ""), ("2", "")]), Ok(()));
        assert_eq!(said(&[("1", "")]), Err("V skipped 1 ResourceClaims".to_owned()));
        assert_eq!(said(&[("1", "no")]), Err("V failed for ResourceClaim c-1: no".to_owned()));
        assert_eq!(said(&[("9", "")]), Err("V returned result for unknown claim UID 9".to_owned()));
    }
}
