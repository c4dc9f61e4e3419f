//! Carries out what `statefulset.rs` plans.

use crate::common::{self, Key, Room, slow_start};
use crate::history::{History, Versioned};
use crate::stateful_pods::{claim_name, claim_templates, claims, ordinal, spec};
use crate::statefulset::{Action, Plan, Step, Version, View, plan, surplus};
use api::Object;
use api::apps::{StatefulSet, StatefulSetStatus};
use api::core::{self, PersistentVolumeClaim};
use api::slim::{ControllerRevision, Pod};
use client::{Cache, Client, Error, Next, Patch, Queue, Recorder};
use std::sync::Arc;
use std::time::Duration;

/// How many sets are worked on at once.
const WORKERS: usize = 5;

#[derive(Clone)]
struct StatefulSets {
    client: Client,
    sets: Cache<StatefulSet>,
    pods: Cache<Pod>,
    claims: Cache<PersistentVolumeClaim>,
    history: History,
    recorder: Recorder,
}

pub(crate) fn start(room: &Room) {
    let controller = StatefulSets {
        client: room.client.clone(),
        sets: room.caches.of(),
        pods: room.caches.of(),
        claims: room.caches.of(),
        history: History::new(room),
        recorder: room.recorder("statefulset-controller"),
    };
    let queue = Queue::new("statefulset");
    common::watch_self(&controller.sets, &queue);
    let sets = controller.sets.clone();
    common::watch_children(&controller.pods, &queue, "StatefulSet", move |pod: &Pod| adopters(&sets, pod));
    let sets = controller.sets.clone();
    controller.history.watch_orphans(&queue, move |revision| adopters(&sets, revision));
    let (waiting, sets) = (queue.clone(), controller.sets.clone());
    // A new pod waits for its claim of an earlier time to go.
    controller.claims.on_change(move |change| {
        let Some(gone) = change.old.as_ref().filter(|_| change.new.is_none()) else { return };
        let snapshot = sets.snapshot();
        let of_claim = snapshot.in_namespace(gone.namespace()).filter(|set| has_claim(set, gone.name()));
        of_claim.for_each(|set| waiting.add(Key::of(&**set)));
    });
    room.work("statefulset controller", &queue, WORKERS, move |key| controller.clone().sync(key));
}

fn adopters(sets: &Cache<StatefulSet>, child: &impl Object) -> Vec<Key> {
    let sets = sets.snapshot();
    common::adopters(sets.in_namespace(child.namespace()), |set| Some(&spec(set).selector), child)
}

fn has_claim(set: &StatefulSet, name: &str) -> bool {
    let number = name.rsplit('-').next().and_then(|number| number.parse().ok());
    let mut templates = claim_templates(set).iter();
    number.is_some_and(|number| templates.any(|template| claim_name(set, template, number) == name))
}

impl StatefulSets {
    async fn sync(self, key: Key) -> Result<Next, Error> {
        self.pods.synced().await;
        self.claims.synced().await;
        self.history.revisions.synced().await;
        let Some(set) = self.sets.get(&key.namespace, &key.name) else { return Ok(Next::Done) };
        let revisions = self.history.of(&*set).await?;
        let pods = self.claim(&set).await?;
        let (current, update, collisions) = self.versions(&set, &revisions).await?;
        let Plan { phases, ordered, mut status, look_again_s } = self.plan(&set, &current, &update, &pods);
        status.collision_count = Some(collisions);
        let outcome = self.carry_out(&set, phases, ordered).await;
        self.write_status(&set, status).await?;
        outcome?;
        self.history.delete(surplus(&set, &revisions, [&current.name, &update.name], &pods)).await?;
        Ok(look_again_s.map_or(Next::Done, |seconds| Next::After(Duration::from_secs(seconds))))
    }

    /// The templates that pods have and will have, and how many names for them were taken. They stay what they
    /// are where the set is on its way out.
    async fn versions(
        &self,
        set: &StatefulSet,
        revisions: &[Arc<ControllerRevision>],
    ) -> Result<(Version, Version, i32), Error> {
        let status = set.status.clone().unwrap_or_default();
        let current = status.current_revision.unwrap_or_default();
        if set.is_deleting() {
            let named = |name| Version { name, template: set.template().clone() };
            return Ok((named(current), named(status.update_revision.unwrap_or_default()), set.collisions()));
        }
        let (update, collisions) = self.history.current(set, revisions).await?;
        let current = revisions.iter().find(|revision| revision.name() == current).unwrap_or(&update);
        Ok((version(set, current), version(set, &update), collisions))
    }

    fn plan(&self, set: &StatefulSet, current: &Version, update: &Version, pods: &[Arc<Pod>]) -> Plan {
        let find = &|name: &str| self.claims.get(set.namespace(), name);
        plan(&View { set, current, update, pods, find, now: common::now().0 })
    }

    async fn claim(&self, set: &StatefulSet) -> Result<Vec<Arc<Pod>>, Error> {
        let selector = set.selector();
        let matches = |pod: &Pod| selector.selects(pod) && ordinal(set, pod).is_some();
        common::claim_all(&self.client, set, &self.pods, matches, |_| true).await
    }

    async fn carry_out(&self, set: &StatefulSet, phases: Vec<Vec<Step>>, ordered: bool) -> Result<(), Error> {
        for phase in phases {
            if ordered {
                for step in phase {
                    self.take(set, step).await?;
                }
            } else if let (_, Some(failure)) =
                slow_start(phase.into_iter(), |step| self.take(set, step)).await
            {
                return Err(failure);
            }
        }
        Ok(())
    }

    async fn take(&self, set: &StatefulSet, step: Step) -> Result<(), Error> {
        for action in step {
            match action {
                Action::Create(pod, ordinal) => self.create(set, &pod, ordinal).await?,
                Action::Claims(pod, ordinal) => self.make_claims(set, pod.name(), ordinal).await?,
                Action::Own(pod, claim) => {
                    let owned = self.client.update(&*claim).await;
                    let owned = owned.inspect_err(|error| self.tell(set, "Update", &pod, Some(error)))?;
                    self.claims.reached(owned.revision()).await;
                }
                Action::Update(pod, patch) => {
                    let place = (pod.namespace(), pod.name());
                    let patched = match patch.map(Patch::Strategic) {
                        Some(patch) => self.client.patch::<Pod>(place.0, place.1, &patch).await.map(drop),
                        None => Ok(()),
                    };
                    self.tell(set, "Update", pod.name(), patched.as_ref().err());
                    patched?;
                }
                Action::Delete(pod) => {
                    let deleted = common::delete_this(&self.client, &*pod).await;
                    self.tell(set, "Delete", pod.name(), deleted.as_ref().err());
                    deleted?;
                    common::deletion_seen(&self.pods, &Key::of(&*pod), pod.uid()).await;
                }
            }
        }
        Ok(())
    }

    async fn create(&self, set: &StatefulSet, pod: &core::Pod, ordinal: i32) -> Result<(), Error> {
        let claims = self.make_claims(set, pod.name(), ordinal).await;
        let created = match claims {
            Ok(()) => self.client.create(pod).await,
            Err(error) => Err(error),
        };
        match created {
            Ok(created) => {
                self.tell(set, "Create", pod.name(), None);
                self.pods.reached(created.revision()).await;
                Ok(())
            }
            Err(error) => {
                if !error.is_already_exists() {
                    self.tell(set, "Create", pod.name(), Some(&error));
                }
                Err(error)
            }
        }
    }

    /// Makes the claims of a pod that are not there; one that is on its way out has to be gone first.
    async fn make_claims(&self, set: &StatefulSet, pod: &str, ordinal: i32) -> Result<(), Error> {
        let mut failure = None;
        for claim in claims(set, ordinal) {
            let name = claim.name();
            match self.claims.get(set.namespace(), name) {
                Some(found) if found.is_deleting() => {
                    failure = Some(Error::Unready(format!("pvc {name} is being deleted")));
                }
                Some(_) => {}
                None => match self.client.create(&claim).await {
                    Ok(created) => {
                        let message =
                            format!("Create Claim {name} Pod {pod} in StatefulSet {} success", set.name());
                        self.recorder.normal(set, "SuccessfulCreate", message);
                        self.claims.reached(created.revision()).await;
                    }
                    Err(error) if error.is_already_exists() => {}
                    Err(error) => {
                        let message = format!(
                            "Create Claim {name} for Pod {pod} in StatefulSet {} failed error: {error}",
                            set.name()
                        );
                        self.recorder.warning(set, "FailedCreate", message);
                        failure = Some(error);
                    }
                },
            }
        }
        failure.map_or(Ok(()), Err)
    }

    fn tell(&self, set: &StatefulSet, verb: &str, pod: &str, failure: Option<&Error>) {
        let what = format!("{verb} Pod {pod} in StatefulSet {}", set.name());
        match failure {
            None => {
                self.recorder.normal(set, &format!("Successful{verb}"), format!("{what} successful"));
            }
            Some(error) => {
                let message = format!("{what} failed error: {error}");
                self.recorder.warning(set, &format!("Failed{verb}"), message);
            }
        }
    }

    async fn write_status(&self, set: &StatefulSet, status: StatefulSetStatus) -> Result<(), Error> {
        if set.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let changed = StatefulSet { status: Some(status), ..set.clone() };
        match self.client.update_status(&changed).await {
            Err(error) if error.is_not_found() => {}
            other => self.sets.reached(other?.revision()).await,
        }
        Ok(())
    }
}

fn version(set: &StatefulSet, revision: &ControllerRevision) -> Version {
    let template = revision.template().unwrap_or_else(|| set.template().clone());
    Version { name: revision.name().to_owned(), template }
}
