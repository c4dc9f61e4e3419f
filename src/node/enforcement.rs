//! What the machine's own cgroups are limited to: pods together to what is left for them, and the cgroups of
//! the rest to what is reserved for it (`enforceNodeAllocatable`).

use crate::settings::KubeletConfiguration;
use crate::{Context, Error};
use api::core::Node;
use api::meta::ObjectMeta;
use base::{Shutdown, clock};
use std::sync::Arc;
use std::time::Duration;

/// Pods that are there may use more than the new limit: until some have ended, it cannot be written.
const RETRY: Duration = Duration::from_secs(60);

const DONE: &str = "NodeAllocatableEnforced";
const FAILED: &str = "FailedNodeAllocatableEnforcement";

/// The node as its kubelet's events refer to it before it is registered.
pub(crate) fn reference(name: &str) -> Node {
    let name = Some(name.to_owned());
    Node {
        metadata: ObjectMeta { name: name.clone(), uid: name, ..Default::default() },
        ..Default::default()
    }
}

/// Limits the cgroups of what is reserved. One that is not there is for a person.
pub(crate) fn limit_reserved(context: &Context) -> Result<(), Error> {
    let (kubelet, capacity) = (context.config.kubelet(), &context.machine.capacity);
    let is = |what: &str| kubelet.enforces(what) || kubelet.enforces(&format!("{what}-compressible"));
    let all = [
        ("system", is("system-reserved"), &kubelet.system_reserved_cgroup, &capacity.system),
        ("kube", is("kube-reserved"), &kubelet.kube_reserved_cgroup, &capacity.kube),
    ];
    for (what, _, cgroup, limits) in all.iter().filter(|(_, enforced, ..)| *enforced) {
        let written = context.machine.change(|| context.cgroups.enforce_existing(cgroup, limits));
        written.map_err(|error| {
            Error::Setup(format!("Failed to enforce {what} Reserved Cgroup Limits on {cgroup:?}: {error}"))
        })?;
        let message = format!("Updated limits on {what} reserved cgroup {cgroup}");
        context.recorder.normal(&reference(&context.config.node_name), DONE, message);
    }
    Ok(())
}

/// Limits what pods use together, as soon as that can be done.
pub(crate) async fn run(context: Arc<Context>, shutdown: Shutdown) -> Result<(), Error> {
    let node = reference(&context.config.node_name);
    loop {
        let limits = &context.machine.capacity.pods;
        match context.machine.change(|| context.cgroups.enforce(limits)) {
            Ok(()) => {
                context.recorder.normal(&node, DONE, "Updated Node Allocatable limit across pods".to_owned());
                return Ok(());
            }
            Err(error) => {
                let message = format!("Failed to update Node Allocatable Limits [\"kubepods\"]: {error}");
                context.recorder.warning(&node, FAILED, message);
            }
        }
        tokio::select! {
            () = clock::sleep(RETRY) => {}
            () = shutdown.requested() => return Ok(()),
        }
    }
}

/// Has the kernel end other processes before this one. Without the capability for it, it may not be asked to.
pub(crate) fn protect(kubelet: &KubeletConfiguration) {
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", kubelet.oom_score_adj.to_string()) {
        tracing::debug!(score = kubelet.oom_score_adj, %error, "the score for running out of memory stays");
    }
}
