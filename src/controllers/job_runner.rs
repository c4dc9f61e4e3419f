//! Carries out what `job.rs` plans, and deletes Jobs some time after they ended.

use crate::common::{self, Claim, Key, Room, claim, count, now, seconds_between, unless_gone};
use crate::job::{self, Backoff, FINALIZER, Plan, is_tracked, spec};
use crate::job_index::NewPod;
use crate::pod_control::PodControl;
use crate::pods;
use api::batch::{Job, JobStatus};
use api::core::{Container, EnvVar, EnvVarSource, ObjectFieldSelector};
use api::meta::{DeleteOptions, LabelSelector};
use api::selector::Labels;
use api::slim::{IGNORED_FAILURES, INDEX_FAILURES, JOB_INDEX, Pod};
use api::{Object, core, owner_reference};
use client::{Cache, Error, Next, Patch, Queue};
use futures_util::future::join_all;
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";
/// Of a name that is made unique, the part that is kept (`generateName`): 63 without five random letters.
const LONGEST_PREFIX: usize = 58;

#[derive(Clone)]
struct Jobs {
    jobs: Cache<Job>,
    control: PodControl,
    /// By the Jobs' uids.
    backoffs: Arc<Mutex<HashMap<String, Backoff>>>,
}

pub(crate) fn start(room: &Room) {
    let control = PodControl::new(room, "job-controller");
    let controller = Jobs { jobs: room.caches.of(), control, backoffs: Arc::default() };
    let queue = Queue::new("job");
    common::watch_self(&controller.jobs, &queue);
    let backoffs = controller.backoffs.clone();
    controller.jobs.on_change(move |change| {
        if change.new.is_none() {
            backoffs.lock().unwrap_or_else(PoisonError::into_inner).remove(change.object().uid());
        }
    });
    let jobs = controller.jobs.clone();
    common::watch_children(&controller.control.pods, &queue, "Job", move |pod: &Pod| {
        let jobs = jobs.snapshot();
        common::adopters(jobs.in_namespace(pod.namespace()), |job| spec(job).selector.as_ref(), pod)
    });
    room.work("job controller", &queue, 8, move |key| controller.clone().sync(key));
}

/// The pods that are this Job's: its selector, or the label the server gives its pods.
fn selector(job: &Job) -> Labels {
    let own = BTreeMap::from([("batch.kubernetes.io/controller-uid".to_owned(), job.uid().to_owned())]);
    let own = LabelSelector { match_labels: Some(own), ..LabelSelector::default() };
    Labels::of(Some(spec(job).selector.as_ref().unwrap_or(&own)))
}

impl Jobs {
    async fn sync(self, key: Key) -> Result<Next, Error> {
        self.control.pods.synced().await;
        self.jobs.synced().await;
        let Some(job) = self.jobs.get(&key.namespace, &key.name) else {
            return self.let_go(&key, None).await.map(|()| Next::Done);
        };
        if spec(&job).managed_by.as_deref().is_some_and(|by| by != "kubernetes.io/job-controller") {
            return Ok(Next::Done);
        }
        // Pods of an earlier Job of this name.
        self.let_go(&key, Some(job.uid())).await?;
        if let Some(ended) = job::finished_at(&job) {
            self.backoffs().remove(job.uid());
            return self.expire(&job, ended).await;
        }
        let owned = self.claim(&job).await?;
        let known = self.backoffs().get(job.uid()).cloned();
        let plan = job::plan(&job, &owned, known.as_ref(), now().0);
        let look_again_s = plan.look_again_s;
        self.carry_out(&job, plan).await?;
        let seconds = look_again_s.and_then(|seconds| u64::try_from(seconds).ok());
        Ok(seconds.map_or(Next::Done, |seconds| Next::After(Duration::from_secs(seconds))))
    }

    fn backoffs(&self) -> MutexGuard<'_, HashMap<String, Backoff>> {
        self.backoffs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn claim(&self, job: &Job) -> Result<Vec<Arc<Pod>>, Error> {
        let (snapshot, selector) = (self.control.pods.snapshot(), selector(job));
        let mut owned = Vec::new();
        for pod in snapshot.in_namespace(job.namespace()) {
            match claim(job, || selector.selects(&**pod), &**pod) {
                Claim::Owned => owned.push(pod.clone()),
                Claim::Adopt if pods::is_active(pod) => {
                    let patch = json!({"metadata": {"uid": pod.uid(), "finalizers": [FINALIZER],
                        "ownerReferences": [owner_reference(job)]}});
                    let adopted = self
                        .control
                        .client
                        .patch(pod.namespace(), pod.name(), &Patch::Strategic(patch))
                        .await?;
                    owned.push(Arc::new(adopted));
                }
                Claim::Release => {
                    self.untrack(pod).await?;
                    drop(common::release(&self.control.client, job.uid(), &**pod).await?);
                }
                Claim::Adopt | Claim::Foreign => {}
            }
        }
        Ok(owned)
    }

    async fn carry_out(&self, job: &Job, mut plan: Plan) -> Result<(), Error> {
        // Why pods end is told before they are gone: they are what tells it.
        let told_first = plan.create.is_empty();
        if told_first {
            self.write_status(job, &plan.status).await?;
        }
        if plan.forget_deleted {
            let forgotten = join_all(plan.delete.iter().map(|pod| self.untrack(pod))).await;
            forgotten.into_iter().collect::<Result<(), Error>>()?;
        }
        self.control.delete(job, &plan.delete).await?;
        let wanted = plan.create.len();
        let pods = plan.create.into_iter().map(|new| new_pod(job, new));
        let (created, refused) = self.control.make(job, pods).await;
        let missing = count(wanted - created.len());
        plan.status.active = plan.status.active.map(|active| active - missing).filter(|active| *active > 0);
        if !told_first {
            self.write_status(job, &plan.status).await?;
        }
        self.backoffs().insert(job.uid().to_owned(), plan.backoff);
        for (warning, reason, message) in plan.events {
            match warning {
                true => self.control.recorder.warning(job, &reason, message),
                false => self.control.recorder.normal(job, &reason, message),
            }
        }
        let untracked = join_all(plan.untrack.iter().map(|pod| self.untrack(pod))).await;
        untracked.into_iter().collect::<Result<(), Error>>()?;
        refused.map_or(Ok(()), Err)
    }

    async fn untrack(&self, pod: &Pod) -> Result<(), Error> {
        if !is_tracked(pod) {
            return Ok(());
        }
        let patch =
            json!({"metadata": {"uid": pod.uid(), "$deleteFromPrimitiveList/finalizers": [FINALIZER]}});
        let patch = Patch::Strategic(patch);
        match self.control.client.patch::<Pod>(pod.namespace(), pod.name(), &patch).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => other.map(drop),
        }
    }

    async fn write_status(&self, job: &Job, status: &JobStatus) -> Result<(), Error> {
        if job.status.as_ref() == Some(status) {
            return Ok(());
        }
        let changed = Job { status: Some(status.clone()), ..job.clone() };
        let written = self.control.client.update_status(&changed).await?;
        self.jobs.reached(written.revision()).await;
        Ok(())
    }

    /// Takes the finalizer from pods whose Job, by this name but not this uid, is gone.
    async fn let_go(&self, key: &Key, uid: Option<&str>) -> Result<(), Error> {
        let snapshot = self.control.pods.snapshot();
        let lost = snapshot.in_namespace(&key.namespace).filter(|pod| {
            let owner = pod.controller().filter(|owner| owner.kind == "Job" && owner.name == key.name);
            is_tracked(pod) && owner.is_some_and(|owner| Some(owner.uid) != uid)
        });
        for pod in lost {
            self.untrack(pod).await?;
        }
        Ok(())
    }

    /// A Job that has ended goes after its `ttlSecondsAfterFinished`.
    async fn expire(&self, job: &Job, ended: jiff::Timestamp) -> Result<Next, Error> {
        let snapshot = self.control.pods.snapshot();
        let own = |pod: &&Arc<Pod>| pod.controller().is_some_and(|owner| owner.uid == job.uid());
        for pod in snapshot.in_namespace(job.namespace()).filter(own) {
            self.untrack(pod).await?;
        }
        let Some(ttl_s) = spec(job).ttl_seconds_after_finished.filter(|_| !job.is_deleting()) else {
            return Ok(Next::Done);
        };
        let left_s = i64::from(ttl_s) - seconds_between(ended, now().0);
        if let Some(left_s) = u64::try_from(left_s).ok().filter(|left_s| *left_s > 0) {
            return Ok(Next::After(Duration::from_secs(left_s)));
        }
        let options =
            DeleteOptions { propagation_policy: Some("Foreground".to_owned()), ..common::this(job) };
        unless_gone(self.control.client.delete::<Job>(job.namespace(), job.name(), &options).await)?;
        Ok(Next::Done)
    }
}

fn new_pod(job: &Job, new: NewPod) -> core::Pod {
    let parent = new.index.map_or_else(|| job.name().to_owned(), |index| indexed_name(job.name(), index));
    let mut pod = pods::from_template(&spec(job).template, job.namespace(), &parent, owner_reference(job));
    pod.metadata.finalizers.get_or_insert_default().push(FINALIZER.to_owned());
    let Some(index) = new.index else { return pod };
    pod.metadata.labels.get_or_insert_default().insert(JOB_INDEX.to_owned(), index.to_string());
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(JOB_INDEX.to_owned(), index.to_string());
    if let Some(failures) = new.failures {
        annotations.insert(INDEX_FAILURES.to_owned(), failures.counted.to_string());
        if failures.ignored > 0 {
            annotations.insert(IGNORED_FAILURES.to_owned(), failures.ignored.to_string());
        }
    }
    if let Some(spec) = &mut pod.spec {
        spec.hostname = Some(format!("{}-{index}", job.name()));
        spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()).for_each(tell_index);
    }
    pod
}

/// What an index's pods are called, short enough that the server keeps the index when it makes it unique.
fn indexed_name(job: &str, index: i32) -> String {
    let index = format!("-{index}");
    let room = LONGEST_PREFIX.saturating_sub(index.len() + 1);
    format!("{}{index}", &job[..job.len().min(room)])
}

/// Gives a container its index in its environment.
fn tell_index(container: &mut Container) {
    let variables = container.env.get_or_insert_default();
    if variables.iter().any(|variable| variable.name == INDEX_VARIABLE) {
        return;
    }
    let field = ObjectFieldSelector {
        field_path: format!("metadata.labels['{JOB_INDEX}']"),
        ..ObjectFieldSelector::default()
    };
    variables.push(EnvVar {
        name: INDEX_VARIABLE.to_owned(),
        value: None,
        value_from: Some(EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() }),
    });
}
