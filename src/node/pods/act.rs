//! Carrying out what was planned for a pod.

use super::inbox::Wanted;
use super::observe::{Life, Observed};
use super::plan::{self, Action};
use super::start::Start;
use super::users::{self, Range};
use super::worker::{RETRY, Worker};
use super::{sandbox, spec, stop};
use crate::protocols::runtime::v1 as cri;
use crate::stats::counters;
use crate::volumes::Volumes;
use crate::{Error, files};
use api::Object;
use base::clock;
use jiff::{SignedDuration, Timestamp};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Whether carrying out actions changed anything.
pub(super) enum Acted {
    Nothing,
    Something,
    Interrupted,
}

impl Worker {
    /// Carries out a plan, until the pod is to go.
    pub(super) async fn act_unless_going(&mut self, actions: &[Action]) -> Result<Acted, Error> {
        let inbox = self.inbox.clone();
        let mut wanted = inbox.wanted.subscribe();
        let going = async {
            let going = wanted.wait_for(Wanted::is_going).await.is_ok();
            inbox.calls.quiet().await;
            going
        };
        let acted = tokio::select! {
            biased;
            _ = going => None,
            acted = self.act(actions) => Some(acted),
        };
        match acted {
            Some(acted) => acted,
            None => {
                self.inbox.dirty.store(true, Ordering::SeqCst);
                Ok(Acted::Interrupted)
            }
        }
    }

    async fn act(&mut self, actions: &[Action]) -> Result<Acted, Error> {
        let mut acted = Acted::Nothing;
        for (i, action) in actions.iter().enumerate() {
            if !self.one(action).await? {
                continue;
            }
            acted = Acted::Something;
            // The next may have to pull an image: what has started is not kept secret until then.
            if matches!(action, Action::Start { .. }) && i + 1 < actions.len() {
                self.look().await?;
                self.follow_probes();
                self.report().await?;
            }
        }
        Ok(acted)
    }

    /// Carries out one action; returns whether the runtime's state changed.
    async fn one(&mut self, action: &Action) -> Result<bool, Error> {
        match action {
            Action::CreateSandbox { attempt } => self.create_sandbox(*attempt).await?,
            Action::Start { kind, name, restarts, after } => self.start(*kind, name, *restarts, *after).await,
            Action::Stop { kind, name, id, why, message } => {
                let Some((_, container)) = spec::container(&self.pod, name) else { return Ok(false) };
                let Some(record) = self.observed.containers.iter().find(|record| record.id == *id).cloned()
                else {
                    return Ok(false);
                };
                let grace = stop::grace(&self.pod, &container, *why);
                let ip = self.observed.address(&self.pod, &self.context.addresses());
                let how = (grace, message.clone(), ip.as_str());
                stop::container(&self.context, &self.pod, (*kind, &container), &record, how).await?;
            }
            Action::BackOff { kind, name, message } => {
                let failure = ("CrashLoopBackOff".to_owned(), message.clone());
                if self.failures.insert(name.clone(), failure.clone()) != Some(failure) {
                    let text = format!(
                        "Back-off restarting failed container {name} in pod {}",
                        spec::described(&self.pod)
                    );
                    self.context.warn_container(&self.pod, (*kind, name), "BackOff", text);
                }
                return Ok(false);
            }
            Action::Resize => {
                self.resize().await?;
                return Ok(self.resize_error.is_none());
            }
            Action::Reset { ids } => self.start_over(ids).await?,
            Action::Forget { id } => {
                self.forget_log(id)?;
                let request = cri::RemoveContainerRequest { container_id: id.clone() };
                self.context.runtime.remove_container(request).await?;
            }
            Action::ForgetSandbox { id } => {
                let sandboxes =
                    self.observed.sandboxes.iter().filter(|sandbox| sandbox.id == *id).cloned().collect();
                stop::remove(&self.context, &Observed { sandboxes, containers: Vec::new() }).await?;
            }
        }
        Ok(true)
    }

    /// Kills and removes containers for all to start over; their logs stay.
    async fn start_over(&self, ids: &[String]) -> Result<(), Error> {
        let ip = self.observed.address(&self.pod, &self.context.addresses());
        for record in ids.iter().filter_map(|id| self.observed.containers.iter().find(|it| it.id == *id)) {
            if record.life != Life::Exited
                && let Some((kind, container)) = spec::container(&self.pod, &record.name)
            {
                let how = (Duration::ZERO, "killing".to_owned(), ip.as_str());
                stop::container(&self.context, &self.pod, (kind, &container), record, how).await?;
            }
            let request = cri::RemoveContainerRequest { container_id: record.id.clone() };
            self.context.runtime.remove_container(request).await?;
        }
        Ok(())
    }

    async fn create_sandbox(&mut self, attempt: u32) -> Result<(), Error> {
        if !self.observed.is_stopped() {
            let message = "Pod sandbox changed, it will be killed and re-created.".to_owned();
            self.context.recorder.normal(&*self.pod, "SandboxChanged", message);
        }
        let grace = Duration::from_secs(spec::grace_s(&self.pod).unsigned_abs());
        if !self.observed.sandboxes.is_empty() {
            stop::everything(&self.context, &self.pod, &self.observed, grace).await?;
        }
        self.prepare_devices().await?;
        let rules = self.context.rules(&self.pod, None);
        self.context.cgroups.make_slices(&self.pod, &rules).await?;
        self.context.cgroups.make(&self.pod, &rules)?;
        let parent = self.context.cgroups.parent(&self.pod);
        let ran = match self.runtime_handler().await {
            Ok((runtime_handler, users)) => {
                let config =
                    sandbox::config(&self.pod, &self.context.config, attempt, (parent, users), &rules);
                self.context.machine.change(|| files::make_folder(config.log_directory.as_ref(), 0o755))?;
                let request = cri::RunPodSandboxRequest { config: Some(config), runtime_handler };
                counters::STARTED_PODS.count(&[]);
                let run = self.context.runtime.run_pod_sandbox(request);
                self.context.starts.pass(self.inbox.calls.make(run)).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = ran {
            counters::STARTED_PODS_ERRORS.count(&[]);
            let message = format!("Failed to create pod sandbox: {error}");
            self.context.recorder.warning(&*self.pod, "FailedCreatePodSandBox", message);
            return Err(error);
        }
        Ok(())
    }

    /// The runtime's name of the pod's RuntimeClass, and the pod's own ids where it wants some.
    async fn runtime_handler(&self) -> Result<(String, Option<Range>), Error> {
        let handler = self.context.handler(&self.pod).await?;
        if !spec::has_own_users(&self.pod) {
            return Ok((handler, None));
        }
        if self.context.abilities().await.of(&handler).user_namespaces {
            let range = users::assign(&self.context, self.pod.uid())?;
            return Ok((handler, Some(range)));
        }
        let who = match handler.as_str() {
            "" => "runtime".to_owned(),
            handler => format!("RuntimeClass handler {handler:?}"),
        };
        let text = format!("can't set `spec.hostUsers: false`, {who} does not support user namespaces");
        Err(Error::Container("CreatePodSandboxError", text))
    }

    async fn start(&mut self, kind: spec::Kind, name: &str, restarts: u32, after: Option<Timestamp>) {
        let Some((_, container)) = spec::container(&self.pod, name) else { return };
        if let Some(after) = after {
            self.restarts.started(&plan::key(&container), after, clock::now());
        }
        let none = Volumes::default();
        let start = Start {
            context: &self.context,
            pod: &self.pod,
            kind,
            container: &container,
            restarts,
            observed: &self.observed,
            calls: &self.inbox.calls,
            volumes: self.volumes.as_ref().unwrap_or(&none),
        };
        match start.run().await {
            Ok(()) => {
                self.failures.remove(name);
                self.has_given(name);
            }
            Err(error) => {
                let reason =
                    if let Error::Container(reason, _) = &error { reason } else { "RunContainerError" };
                self.failures.insert(name.to_owned(), (reason.to_owned(), error.to_string()));
                self.retry_later(self.retry_after(reason));
            }
        }
    }

    /// A container was started with what it was given.
    fn has_given(&mut self, name: &str) {
        if self.lagging.remove(name).is_some()
            && let Err(error) = self.save_lagging()
        {
            tracing::warn!(pod = spec::described(&self.pod), %error, "cannot remember a resize");
        }
    }

    /// A failed pull is soon looked at again, to say that it is waited for, and then when it is due.
    fn retry_after(&self, reason: &str) -> SignedDuration {
        match reason {
            "ErrImagePull" | "RegistryUnavailable" | "SignatureValidationFailed" => {
                SignedDuration::from_secs(1)
            }
            "ImagePullBackOff" => {
                let due = self.context.images.due(self.pod.uid());
                let left = due.map(|due| due.saturating_duration_since(clock::instant()));
                left.and_then(|left| SignedDuration::try_from(left).ok()).unwrap_or(RETRY)
            }
            _ => RETRY,
        }
    }
}
