//! Drivers of the Container Storage Interface on this node: registered by their sockets, asked to stage,
//! publish and grow volumes and to take them back. What they were asked for is written beside the volumes,
//! where Kubernetes writes it, and is all that is known of them after a restart.

mod allocatable;
mod attach;
mod block;
mod call;
mod claimed;
mod data;
mod driver;
mod expand;
mod info;
mod publish;
mod request;
mod stage;
mod take_down;
mod usage;

use crate::plugins::{Plugin, connect};
use crate::protocols::csi::v1::node_client::NodeClient;
use crate::{Context, Error};
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

pub(crate) use allocatable::run as run_allocatable;
pub(crate) use attach::{InUse, run as run_in_use};
pub(crate) use block::device;
pub(crate) use driver::Driver;
pub(crate) use info::run as run_node_info;
pub(crate) use publish::{inline, persistent};
pub(crate) use take_down::{release_unused, take_down};
pub(crate) use usage::{Published, Told, ask_drivers, run_volume_health};

/// What is known of the drivers of this node.
#[derive(Default)]
pub(crate) struct Csi {
    drivers: Mutex<HashMap<String, Arc<Driver>>>,
    /// Where volumes were staged and published since this process runs.
    done: Mutex<HashSet<PathBuf>>,
    turns: crate::turns::Turns,
    pub(crate) usages: usage::Usages,
    pub(crate) in_use: InUse,
    /// Drivers come and go.
    registered: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Csi {
    /// The driver of this name, if it is registered.
    pub(crate) fn driver(&self, name: &str) -> Result<Arc<Driver>, Error> {
        lock(&self.drivers).get(name).cloned().ok_or_else(|| {
            Error::Volume(format!("driver name {name} not found in the list of registered CSI drivers"))
        })
    }

    fn is_done(&self, path: &std::path::Path) -> bool {
        lock(&self.done).contains(path)
    }

    /// Whether a volume was put into its place in a pod.
    fn is_published(&self, volume: &str, uid: &str) -> bool {
        let has = |path: &PathBuf, part: &str| path.iter().any(|own| own == part);
        lock(&self.done).iter().any(|path| has(path, volume) && has(path, uid))
    }

    fn note_done(&self, path: &std::path::Path) {
        lock(&self.done).insert(path.to_owned());
    }

    fn note_undone(&self, path: &std::path::Path) {
        lock(&self.done).remove(path);
    }
}

/// Why versions of CSI are none that this node speaks: it speaks all of 1.
fn refusal(plugin: &Plugin) -> Option<String> {
    let (name, versions) = (&plugin.name, &plugin.versions);
    let is_known = |version: &String| version.trim_start_matches('v').split('.').next() == Some("1");
    if versions.is_empty() {
        Some(format!(
            "kubernetes.io/csi: RegisterPlugin for CSI driver {name:?} failed. Plugin returned an empty list for supported versions"
        ))
    } else if versions.iter().any(is_known) {
        None
    } else {
        Some(format!(
            "kubernetes.io/csi: RegisterPlugin for CSI driver {name:?} failed. None of the versions specified {versions:?} are supported. err=None of the versions are supported"
        ))
    }
}

/// Takes a driver: asks it about this node, and tells the cluster.
pub(crate) async fn register(context: &Arc<Context>, plugin: &Plugin) -> Result<(), Error> {
    if let Some(why) = refusal(plugin) {
        return Err(Error::Volume(why));
    }
    let client = NodeClient::new(connect(&plugin.endpoint)?);
    let driver = Arc::new(Driver::new(client));
    let about = driver.info().await?;
    info::install(context, &plugin.name, &about).await?;
    lock(&context.csi.drivers).insert(plugin.name.clone(), driver);
    context.csi.registered.notify_one();
    // Pods may wait for it.
    context.csi.in_use.wake();
    Ok(())
}

/// Takes a driver away; its volumes stay.
pub(crate) async fn deregister(context: &Arc<Context>, plugin: &Plugin) -> Result<(), Error> {
    lock(&context.csi.drivers).remove(&plugin.name);
    context.csi.registered.notify_one();
    info::uninstall(context, &plugin.name).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_of_version_one_are_taken() {
        let of = |versions: &[&str]| {
            let versions = versions.iter().map(|version| (*version).to_owned()).collect();
            let plugin =
                Plugin { kind: String::new(), name: "d".to_owned(), endpoint: "/s".into(), versions };
            refusal(&plugin)
        };
        assert_eq!((of(&["1.0.0"]), of(&["0.3.0", "v1.9.0"])), (None, None));
        assert!(of(&[]).unwrap().contains("empty list"));
        assert!(of(&["2.0.0"]).unwrap().contains("None of the versions specified [\"2.0.0\"] are supported"));
    }
}
