//! How others reach the worker of a pod: what is wanted of it, and that something changed.

use super::calls::Calls;
use super::spec;
use super::status::Verdict;
use api::Object;
use api::core::Pod;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{Notify, watch};

/// What is wanted of a worker.
#[derive(Clone)]
pub(crate) struct Wanted {
    /// The pod with the resources that it was given.
    pub(crate) pod: Arc<Pod>,
    /// As it was told last.
    pub(crate) told: Arc<Pod>,
    pub(crate) exists: bool,
    /// Why it has not been given what it asks for by now.
    pub(crate) pending: Option<Pending>,
    /// It has to end, and this is why.
    pub(crate) verdict: Option<Verdict>,
}

/// A resize that waits (KEP-1287).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pending {
    /// `Deferred` until others give something back, `Infeasible` for as long as the node is what it is.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) generation: Option<i64>,
}

impl Pending {
    /// An event's message about a resize: what is asked for, as JSON.
    pub(crate) fn message(what: &str, pod: &Pod, error: Option<&str>) -> String {
        let list = |containers: &[api::core::Container]| -> Vec<Value> {
            let entry = |it: &api::core::Container| json!({"name": it.name, "resources": it.resources});
            containers.iter().map(entry).collect()
        };
        let mut summary = json!({"containers": list(&spec::spec(pod).containers)});
        let init = list(spec::init_containers(pod));
        if !init.is_empty() {
            summary["initContainers"] = init.into();
        }
        summary["generation"] = pod.metadata.generation.into();
        if let Some(error) = error {
            summary["error"] = error.into();
        }
        format!("Pod resize {what}: {summary}")
    }
}

impl Wanted {
    pub(crate) fn new(pod: Arc<Pod>, exists: bool) -> Self {
        Self { told: pod.clone(), pod, exists, pending: None, verdict: None }
    }

    pub(super) fn is_going(&self) -> bool {
        !self.exists || self.pod.is_deleting() || self.verdict.is_some()
    }
}

/// How others reach a worker.
pub(crate) struct Inbox {
    pub(crate) wanted: watch::Sender<Wanted>,
    pub(crate) wake: Arc<Notify>,
    /// What the worker asks of the runtime.
    pub(super) calls: Calls,
    /// The runtime's state changed.
    pub(crate) dirty: AtomicBool,
    /// Something the volumes are made from changed.
    pub(crate) stale: AtomicBool,
    /// Nothing of the pod is left on the machine.
    pub(super) cleaned: AtomicBool,
}

impl Inbox {
    pub(crate) fn new(wanted: Wanted) -> Self {
        Self {
            wanted: watch::channel(wanted).0,
            wake: Arc::default(),
            calls: Calls::default(),
            dirty: AtomicBool::new(true),
            stale: AtomicBool::new(true),
            cleaned: AtomicBool::new(false),
        }
    }

    /// Tells the worker what its pod is by now: as it was told, and with what it was given.
    pub(crate) fn tell(&self, told: Arc<Pod>, pod: Arc<Pod>, exists: bool) {
        self.wanted.send_modify(|wanted| {
            if Arc::ptr_eq(&told, &pod) {
                wanted.pending = None;
            }
            (wanted.told, wanted.pod, wanted.exists) = (told, pod, exists);
        });
        self.wake.notify_one();
    }

    pub(super) fn is_cleaned(&self) -> bool {
        self.cleaned.load(Ordering::SeqCst)
    }

    /// Tells the worker that the runtime's state changed.
    pub(crate) fn runtime_changed(&self) {
        self.dirty.store(true, Ordering::SeqCst);
        self.wake.notify_one();
    }

    /// Tells the worker that its volumes may be out of date.
    pub(crate) fn volumes_changed(&self) {
        self.stale.store(true, Ordering::SeqCst);
        self.wake.notify_one();
    }
}
