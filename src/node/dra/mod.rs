//! Claimed devices on this node (KEP-4381): drivers prepare what the scheduler has allocated before a pod's
//! sandbox is made, and take it back when the pod has ended. What they gave is kept in a file, since only they
//! know it and a restart must not ask them for what is in use.

mod call;
mod cdi;
mod claims;
mod health;
mod prepare;
mod slices;

use crate::plugins::{Plugin, connect};
use crate::protocols::podresources as told;
use crate::{Context, Error};
use api::Object;
use api::core::{Container, Pod};
use call::Driver;
use claims::Claims;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

pub(crate) use cdi::edits;
pub(crate) use health::{add_health, run_health};
pub(crate) use prepare::{prepare, unprepare};
pub(crate) use slices::wipe_unserved;

/// What is known of drivers and claims of devices.
#[derive(Default)]
pub(crate) struct Dra {
    /// By name, the newest last: one that is updated may serve beside the old one for a while.
    drivers: Mutex<HashMap<String, Vec<Arc<Driver>>>>,
    claims: Mutex<Claims>,
    health: Mutex<health::Health>,
    /// Pods whose devices are no longer as they were.
    touched: watch::Sender<BTreeSet<String>>,
    /// One pod after the other: they may share claims.
    turn: tokio::sync::Mutex<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Dra {
    /// Reads what an earlier life has kept.
    pub(crate) fn recover(&self, kubelet_dir: &Path) -> Result<(), Error> {
        *lock(&self.claims) = Claims::read(kubelet_dir)?;
        Ok(())
    }

    fn driver(&self, name: &str) -> Result<Arc<Driver>, Error> {
        let found = lock(&self.drivers).get(name).and_then(|all| all.last().cloned());
        found.ok_or_else(|| Error::Volume(format!("DRA driver {name} is not registered")))
    }

    /// Takes those of a driver away that serve at an endpoint; gives whether none is left.
    fn remove(&self, plugin: &Plugin) -> bool {
        let mut drivers = lock(&self.drivers);
        let Some(all) = drivers.get_mut(&plugin.name) else { return true };
        all.extract_if(.., |own| own.endpoint == plugin.endpoint).for_each(|own| own.end());
        let is_empty = all.is_empty();
        if is_empty {
            drivers.remove(&plugin.name);
        }
        is_empty
    }

    /// The pods for which claims are prepared.
    pub(crate) fn pods(&self) -> BTreeSet<String> {
        lock(&self.claims).0.values().flat_map(|claim| claim.pods.iter().cloned()).collect()
    }

    /// The CDI devices of a container.
    pub(crate) fn devices(&self, pod: &Pod, container: &Container) -> Result<Vec<String>, Error> {
        claims::devices(&lock(&self.claims), pod, container)
    }
}

/// What a container's claims were given, as it is told to others.
pub(crate) fn told(dra: &Dra, pod: &Pod, container: &Container) -> Vec<told::DynamicResource> {
    let known = lock(&dra.claims);
    let names: BTreeSet<String> =
        claims::wanted(pod, container).unwrap_or_default().into_iter().map(|(name, _)| name).collect();
    let device = |driver: &str, device: &claims::Device| told::ClaimResource {
        cdi_devices: device.cdi.iter().map(|name| told::CdiDevice { name: name.clone() }).collect(),
        driver_name: driver.to_owned(),
        pool_name: device.pool.clone(),
        device_name: device.name.clone(),
        share_id: device.share.clone(),
    };
    let claim = |name: String| {
        let claim = known.0.get(&(pod.namespace().to_owned(), name.clone()))?;
        let drivers = claim.devices.iter();
        let all = drivers.flat_map(|(driver, all)| all.iter().map(move |own| device(driver, own)));
        Some(told::DynamicResource {
            claim_name: name,
            claim_namespace: pod.namespace().to_owned(),
            claim_resources: all.collect(),
        })
    };
    names.into_iter().filter_map(claim).collect()
}

/// Takes a driver.
pub(crate) fn register(context: &Arc<Context>, plugin: &Plugin) -> Result<(), Error> {
    let driver = Arc::new(Driver::new(plugin, connect(&plugin.endpoint)?)?);
    // Its socket may be a new one at the old place.
    context.dra.remove(plugin);
    lock(&context.dra.drivers).entry(plugin.name.clone()).or_default().push(driver.clone());
    health::follow(context, &driver);
    Ok(())
}

/// Takes a driver away. With the last of its name its slices go too, unless one comes back soon.
pub(crate) fn deregister(context: &Arc<Context>, plugin: &Plugin) {
    if context.dra.remove(plugin) {
        slices::wipe_later(context, &plugin.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use claims::{Claim, Device};
    use serde_json::json;

    pub(super) fn plugin(endpoint: &str) -> Plugin {
        Plugin {
            kind: "DRAPlugin".to_owned(),
            name: "d".to_owned(),
            endpoint: endpoint.into(),
            versions: vec!["v1.DRAPlugin".to_owned()],
        }
    }

    /// Registers a driver that nobody asks anything.
    pub(super) fn add(dra: &Dra, plugin: &Plugin) -> Arc<Driver> {
        let driver = Arc::new(Driver::new(plugin, connect(&plugin.endpoint).unwrap()).unwrap());
        lock(&dra.drivers).entry(plugin.name.clone()).or_default().push(driver.clone());
        driver
    }

    #[tokio::test]
    async fn a_driver_that_is_updated_stays() {
        let dra = Dra::default();
        let [old, new] = ["/old", "/new"].map(|endpoint| add(&dra, &plugin(endpoint)));
        assert!(!dra.remove(&plugin("/old")) && old.has_ended() && !new.has_ended());
        old.gone().await;
        assert_eq!(dra.driver("d").unwrap().endpoint, plugin("/new").endpoint);
        assert!(dra.remove(&plugin("/new")));
        assert!(dra.driver("d").is_err());
    }

    #[test]
    fn a_containers_claims_are_told_with_all_their_devices() {
        let dra = Dra::default();
        let device = |name: &str, share: Option<&str>| Device {
            pool: "p".to_owned(),
            name: name.to_owned(),
            cdi: vec![format!("test/gpu={name}")],
            share: share.map(str::to_owned),
            ..Device::default()
        };
        let devices = [("d".to_owned(), vec![device("one", None), device("two", Some("s"))])].into();
        let claim = Claim { uid: "u".to_owned(), prepared: true, devices, ..Claim::default() };
        lock(&dra.claims).0.insert(("n".to_owned(), "c".to_owned()), claim);
        let spec = json!({
            "resourceClaims": [{"name": "gpu", "resourceClaimName": "c"}, {"name": "other", "resourceClaimName": "x"}],
            "containers": [
                {"name": "a", "resources": {"claims": [{"name": "gpu", "request": "r"}, {"name": "other"}]}},
                {"name": "b"},
            ],
        });
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec}))
                .unwrap();
        let containers = &crate::pods::spec::spec(&pod).containers;
        let all = told(&dra, &pod, &containers[0]);
        assert_eq!((all.len(), all[0].claim_name.as_str(), all[0].claim_namespace.as_str()), (1, "c", "n"));
        let names: Vec<(&str, &str, Option<&str>)> = all[0]
            .claim_resources
            .iter()
            .map(|it| (it.driver_name.as_str(), it.cdi_devices[0].name.as_str(), it.share_id.as_deref()))
            .collect();
        assert_eq!(names, [("d", "test/gpu=one", None), ("d", "test/gpu=two", Some("s"))]);
        assert_eq!(told(&dra, &pod, &containers[1]), []);
    }
}
