//! A machine that is shut down ends its pods first, in order of their priority, with the time that the settings give
//! them (KEP-2000, KEP-2712).

mod logind;
mod plan;

use crate::pods::{Pods, Verdict, spec};
use crate::{Context, Error, enforcement};
use api::Object;
use base::{Shutdown, clock};
use logind::{Lock, News};
use plan::{Group, grace_s, graces, groups, total_s};
use std::sync::Arc;
use std::time::Duration;

/// The node's condition and its refusals, in Kubernetes' words.
pub(crate) const TROUBLE: &str = "node is shutting down";
pub(crate) const REFUSAL: (&str, &str) = ("NodeShutdown", "Pod was rejected as the node is shutting down.");
const REASON: &str = "Terminated";
const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";

/// Waits for a shutdown of the machine, until asked to stop; ends at once where pods are given no time.
pub(crate) async fn run(context: Arc<Context>, pods: Pods, shutdown: Shutdown) -> Result<(), Error> {
    let graces = graces(context.config.kubelet());
    if graces.is_empty() {
        return Ok(());
    }
    logind::allow(total_s(&graces).unsigned_abs()).await?;
    let node = enforcement::reference(&context.config.node_name);
    let mut lock = Some(Lock::take()?);
    let mut news = News::follow()?;
    tracing::info!(seconds = total_s(&graces), "pods are given time when the machine is shut down");
    loop {
        let begins = tokio::select! {
            begins = news.next() => begins?,
            () = shutdown.requested() => return Ok(()),
        };
        let what = if begins { "event" } else { "cancellation" };
        tracing::info!(begins, "the machine is shut down");
        context.recorder.normal(&node, "NodeShutdown", format!("Shutdown manager detected shutdown {what}"));
        context.shutting_down.send_replace(begins);
        if begins {
            for group in groups(&graces, pods.active()) {
                end(&pods, &group).await;
            }
            // Nothing holds the shutdown up any more.
            lock = None;
        } else if lock.is_none() {
            lock = Some(Lock::take()?);
        }
    }
}

/// Ends the pods of a group, and waits for them for as long as they may take.
async fn end(pods: &Pods, group: &Group) {
    for pod in &group.pods {
        tracing::info!(pod = spec::described(pod), "ends with the machine");
        let grace_s = Some(grace_s(group, pod));
        let verdict = Verdict { grace_s, ..Verdict::new(REASON, MESSAGE).disrupting(MESSAGE) };
        if !pods.evict(pod.uid(), verdict) {
            tracing::debug!(pod = spec::described(pod), "was gone before");
        }
    }
    let all = async {
        for pod in &group.pods {
            pods.cleaned_up(pod.uid()).await;
        }
    };
    let limit = Duration::from_secs(group.grace_s.unsigned_abs());
    tokio::select! {
        () = all => {}
        () = clock::sleep(limit) => tracing::warn!("pods take longer to end than they may"),
    }
}
