//! The end of a pod on this node: its containers are stopped, then what it held is given back, then its
//! last traces go.

use super::mirror::delete_now;
use super::state::State;
use super::worker::{Turn, Worker};
use super::{Pods, remove_rest, sandbox, spec, stop};
use crate::{Error, files};
use api::Object;
use base::clock;
use jiff::{SignedDuration, Timestamp};
use std::path::Path;
use std::time::Duration;

impl Worker {
    /// Stops the pod with what is left of its grace; with less if a second deletion asks for haste.
    pub(super) async fn terminate(&mut self, grace_s: i64, since: Timestamp) -> Result<Turn, Error> {
        self.probes.stop();
        self.report().await?;
        let total = Duration::from_secs(grace_s.max(0).unsigned_abs());
        let used = clock::between(since, clock::now());
        let mut wanted = self.inbox.wanted.subscribe();
        let hastier = wanted.wait_for(|wanted| spec::grace_s(&wanted.pod) < grace_s);
        let stopped = tokio::select! {
            stopped = stop::everything(&self.context, &self.pod, &self.observed, total.saturating_sub(used)) => stopped,
            _ = hastier => return Ok(Turn::Again),
        };
        if let Err(error) = stopped {
            self.context.recorder.warning(&*self.pod, "FailedKillPod", format!("error killing pod: {error}"));
            return Err(error);
        }
        self.look().await?;
        Ok(if self.observed.is_stopped() {
            Turn::Again
        } else {
            Turn::Wait(Some(clock::now() + SignedDuration::from_secs(1)))
        })
    }

    /// Nothing runs any more: gives back what the pod held, and lets it go if it is being deleted.
    pub(super) async fn clean_up(&mut self) -> Result<Turn, Error> {
        // Whoever hears of its end may count on what it held.
        self.let_go();
        self.report().await?;
        self.give_back().await?;
        if !self.exists {
            if self.is_static() {
                self.drop_mirror().await?;
            }
            self.state = State::Finished;
            return Ok(Turn::Again);
        }
        if !self.pod.is_deleting() {
            return Ok(Turn::Wait(None));
        }
        delete_now(&self.context, &self.pod).await?;
        // Finalizers may keep the object; there is nothing left for this node to do about it.
        self.state = State::Finished;
        Ok(Turn::Again)
    }

    /// Lets others have what the pod held of the node.
    fn let_go(&self) {
        let uid = self.pod.uid();
        self.context.affinity.release(uid);
        self.context.devices.let_go(uid);
        self.pods.give_back(uid);
    }

    /// Gives back what the pod held, once: nothing of it starts again.
    async fn give_back(&mut self) -> Result<(), Error> {
        if self.inbox.is_cleaned() {
            return Ok(());
        }
        let uid = self.pod.uid();
        if let Err(error) = remove_rest(&self.context, uid).await {
            // Of a pod that was this node's nothing can run any more but what the runtime has lost.
            if self.pod.spec.is_some() {
                self.context.cgroups.kill(uid);
            }
            return Err(error);
        }
        self.context.cgroups.stop_slice(&self.pod).await;
        self.let_go();
        self.pods.cleaned(&self.inbox);
        Ok(())
    }

    /// Removes the last traces: containers, sandboxes, logs.
    pub(super) async fn finish(&mut self) -> Result<Turn, Error> {
        stop::remove(&self.context, &self.observed).await?;
        self.give_back().await?;
        for record in &self.observed.containers {
            self.forget_log(&record.id)?;
        }
        let root = &self.context.config.log_dir;
        let folder = sandbox::log_folder(root, self.pod.namespace(), self.pod.name(), self.pod.uid());
        self.forget_links(&folder)?;
        Pods::forget_checkpoint(&self.context, self.pod.uid());
        files::remove_folder(&folder)?;
        Ok(Turn::Done)
    }

    /// Removes the links to logs of containers that were forgotten before their logs.
    fn forget_links(&self, folder: &Path) -> Result<(), Error> {
        let prefix = format!("{}_{}_", self.pod.name(), self.pod.namespace());
        let entries =
            std::fs::read_dir(&self.context.config.container_log_dir).into_iter().flatten().flatten();
        for link in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix)) {
            if std::fs::read_link(link.path()).is_ok_and(|target| target.starts_with(folder)) {
                files::remove(&link.path())?;
            }
        }
        Ok(())
    }

    /// Removes the log of a container that is being forgotten, and the link to it.
    pub(super) fn forget_log(&self, id: &str) -> Result<(), Error> {
        let Some(record) = self.observed.containers.iter().find(|record| record.id == id) else {
            return Ok(());
        };
        crate::logs::remove_all(record.log_path.as_ref())?;
        let name = format!("{}_{}_{}-{id}.log", self.pod.name(), self.pod.namespace(), record.name);
        files::remove(&self.context.config.container_log_dir.join(name))
    }
}
