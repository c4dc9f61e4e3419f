//! A pod's volumes in its worker's turn: made before its containers, refreshed when what they are made
//! from changes, and told of while they are not ready.

use super::inbox::Wanted;
use super::spec;
use super::status::Verdict;
use super::worker::{RETRY, Worker};
use crate::{Error, dra, volumes};
use api::Object;
use base::clock::{self, Instant};
use jiff::SignedDuration;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long Kubernetes waits for volumes before it says which it waits for.
const PATIENCE: Duration = Duration::from_secs(2 * 60 + 3);

/// Why a pod goes whose volume a driver has no room for.
const NO_ROOM: &str = "VolumeAttachmentLimitExceeded";

/// What became of an attempt to make the volumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mounting {
    /// Containers may start.
    Done,
    /// They have to wait.
    Waits,
    /// The pod is to go.
    Interrupted,
}

/// Since when volumes have been waited for, as far as the pod was told.
#[derive(Debug, Default)]
pub(super) struct Waiting(Option<Instant>);

impl Waiting {
    /// Whether the pod is to be told that its volumes are waited for.
    fn is_long(&mut self) -> bool {
        let since = *self.0.get_or_insert_with(clock::instant);
        let is_long = since.elapsed() >= PATIENCE;
        if is_long {
            self.0 = Some(clock::instant());
        }
        is_long
    }
}

impl Worker {
    /// Has the devices prepared that the pod claims.
    pub(super) async fn prepare_devices(&self) -> Result<(), Error> {
        dra::prepare(&self.context, &self.pod).await.inspect_err(|error| {
            let message = format!("Failed to prepare dynamic resources: prepare dynamic resources: {error}");
            self.context.recorder.warning(&*self.pod, "FailedPrepareDynamicResources", message);
        })
    }

    /// Makes or refreshes the volumes.
    pub(super) async fn update_volumes(&mut self) -> Mounting {
        let renew = self.volumes.as_ref().and_then(volumes::Volumes::renew);
        let is_due = renew.is_some_and(|at| at <= clock::now());
        if !self.inbox.stale.swap(false, Ordering::SeqCst) && !is_due && self.volumes.is_some() {
            return Mounting::Done;
        }
        self.pods.watch_sources(&self.context, &self.pod);
        let mut wanted = self.inbox.wanted.subscribe();
        let (made, troubles) = tokio::select! {
            biased;
            _ = wanted.wait_for(Wanted::is_going) => return Mounting::Interrupted,
            made = volumes::prepare(&self.context, &self.pod, self.volumes.as_ref()) => made,
        };
        if volumes::are_complete(&made, &self.pod) {
            self.context.stats.mounted(self.pod.uid(), &made);
            self.volumes = Some(made);
        }
        if troubles.is_empty() {
            self.mounting.reset();
            self.waiting = Waiting::default();
            return Mounting::Done;
        }
        let is_long = self.waiting.is_long();
        if let Some(why) = volumes::rejection(&troubles).filter(|_| is_long && self.volumes.is_none()) {
            self.context.recorder.warning(&*self.pod, NO_ROOM, why.clone());
            self.verdict = Some(Verdict::rejection(NO_ROOM.to_owned(), &why));
            return Mounting::Interrupted;
        }
        for (reason, message) in volumes::events(&troubles, is_long) {
            tracing::debug!(pod = spec::described(&self.pod), reason, message, "a volume is not ready");
            self.context.recorder.warning(&*self.pod, reason, message);
        }
        self.inbox.stale.store(true, Ordering::SeqCst);
        let delay = SignedDuration::try_from(self.mounting.next_delay()).unwrap_or(RETRY);
        self.retry_later(delay);
        if self.volumes.is_some() { Mounting::Done } else { Mounting::Waits }
    }
}
