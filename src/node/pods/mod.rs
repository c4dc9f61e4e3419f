//! The pods of this node: a worker for each, told of changes in the API, in the runtime, and in what
//! volumes are made from.

mod act;
pub(crate) mod admission;
#[cfg(test)]
mod alone_tests;
mod calls;
pub(crate) mod checks;
mod conditions;
mod container;
mod ending;
pub(crate) mod env;
mod env_file;
mod holdings;
mod hooks;
mod inbox;
pub(crate) mod ledger;
pub(crate) mod manifests;
mod mirror;
mod mount_status;
mod mounting;
pub(crate) mod observe;
pub(crate) mod plan;
mod policy;
mod probes;
mod report;
mod reporting;
mod reset;
pub(crate) mod resize;
mod resources;
mod restarts;
pub(crate) mod sandbox;
pub(crate) mod signals;
pub(crate) mod spec;
mod start;
mod state;
mod status;
mod stop;
#[cfg(test)]
mod tests;
pub(crate) mod users;
mod whole;
mod worker;

pub(crate) use admission::runner::run as run_admission;
pub(crate) use container::log_path;
pub(crate) use status::{Verdict, seconds as status_seconds};

use crate::checkpoint::Checkpoint;
use crate::containerd::events::Events;
use crate::protocols::runtime::v1 as cri;
use crate::{Context, Error, dra, volumes};
use admission::runner::Question;
use api::Object;
use api::core::{ConfigMap, PersistentVolumeClaim, Pod, Secret};
use api::meta::ObjectMeta;
use base::{Phase, Shutdown, clock};
use client::{Cache, Change};
use inbox::{Inbox, Wanted};
use ledger::{Given, Ledger};
use mirror::{FullName, is_mirror};
use observe::{Observed, names};
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::task::AbortHandle;
use worker::Worker;

/// Without an event stream the runtime is asked this often, while pods run.
const RELIST: Duration = Duration::from_secs(2);

/// How long a start waits for the API server.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many ends are kept for those who do not know yet that they are theirs.
const UNCLAIMED: usize = 1000;

/// A worker, as others reach it.
struct Member {
    inbox: Arc<Inbox>,
    task: AbortHandle,
}

#[derive(Default)]
struct Registry {
    workers: HashMap<String, Member>,
    /// Which pod a container or sandbox belongs to.
    owners: HashMap<String, String>,
    /// What ended before it was known whose it is: a process may be faster than the look that finds it.
    unclaimed: VecDeque<String>,
    /// Objects that are watched for volumes already: kind, namespace, name.
    watched: HashSet<(&'static str, String, String)>,
    ledger: Ledger,
    /// What admission has to answer, and who waits for it to be asked.
    questions: VecDeque<Question>,
    asked: Arc<Notify>,
    /// Wakes those who wait for a pod to give back what it holds, or to be gone.
    given_back: Arc<Notify>,
    /// The node's own pods, once its manifests were read.
    statics: Option<HashMap<FullName, Arc<Pod>>>,
    /// Their copies in the API.
    mirrors: HashMap<FullName, Arc<Pod>>,
}

impl Registry {
    fn ask(&mut self, question: Question) {
        self.questions.push_back(question);
        self.asked.notify_one();
    }

    /// Notes the containers and sandboxes of a pod; gives those that have ended since they were looked at.
    fn own(&mut self, uid: &str, ids: &[&str]) -> Vec<String> {
        self.owners.retain(|_, owner| owner != uid);
        self.owners.extend(ids.iter().map(|id| ((*id).to_owned(), uid.to_owned())));
        let ended = self.unclaimed.iter().filter(|ended| ids.contains(&ended.as_str())).cloned().collect();
        self.unclaimed.retain(|ended| !ids.contains(&ended.as_str()));
        ended
    }

    /// The pod whose container or sandbox has ended, as far as that is known yet.
    fn ended(&mut self, id: &str) -> Option<String> {
        let owner = self.owners.get(id).cloned();
        if owner.is_none() {
            self.unclaimed.truncate(UNCLAIMED - 1);
            self.unclaimed.push_front(id.to_owned());
        }
        owner
    }
}

/// The workers. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Pods(Arc<Mutex<Registry>>);

impl Pods {
    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a pod of this node, and starts its worker if it has none.
    fn tell(&self, context: &Arc<Context>, pod: &Arc<Pod>, exists: bool) {
        let mut registry = self.lock();
        // A worker that panicked has ended: its pod gets another.
        let alive = registry.workers.get(pod.uid()).filter(|member| !member.task.is_finished());
        if let Some(inbox) = alive.map(|member| &member.inbox) {
            let before = inbox.wanted.borrow().told.clone();
            if before.metadata.labels != pod.metadata.labels
                || before.metadata.annotations != pod.metadata.annotations
            {
                inbox.stale.store(true, std::sync::atomic::Ordering::SeqCst);
            }
            let inbox = inbox.clone();
            let given = registry.ledger.apply(pod);
            let is_new = before.metadata.generation != pod.metadata.generation;
            if !Arc::ptr_eq(&given, pod) && (is_new || Given::of(&before) != Given::of(pod)) {
                registry.ask(Question::Resize(pod.uid().to_owned()));
            }
            inbox.tell(pod.clone(), given, exists);
            return;
        }
        if exists {
            self.spawn(&mut registry, context, Wanted::new(pod.clone(), exists));
        }
    }

    fn spawn(&self, registry: &mut Registry, context: &Arc<Context>, wanted: Wanted) {
        let uid = wanted.pod.uid().to_owned();
        let exists = wanted.exists;
        let inbox = Arc::new(Inbox::new(wanted));
        // What only the runtime knows is on its way out.
        let admission = exists.then(|| {
            let (answer, admission) = oneshot::channel();
            registry.ask(Question::Admit(inbox.clone(), answer));
            admission
        });
        let worker = Worker::new(context.clone(), self.clone(), inbox.clone(), admission);
        let task = context.supervisor.detached("pod", Phase::Work, worker.run());
        registry.workers.insert(uid, Member { inbox, task });
    }

    /// Lets go of a pod whose worker is done.
    fn forget(&self, uid: &str, inbox: &Arc<Inbox>) {
        let mut registry = self.lock();
        if registry.workers.get(uid).is_some_and(|known| Arc::ptr_eq(&known.inbox, inbox)) {
            registry.workers.remove(uid);
        }
        registry.owners.retain(|_, owner| owner != uid);
        registry.given_back.notify_waiters();
        drop(registry);
        self.give_back(uid);
    }

    /// Notes which containers and sandboxes are a pod's.
    fn own(&self, context: &Arc<Context>, uid: &str, observed: &Observed) {
        let sandboxes = observed.sandboxes.iter().map(|sandbox| sandbox.id.as_str());
        let ids: Vec<&str> = sandboxes.chain(observed.containers.iter().map(|it| it.id.as_str())).collect();
        let mut registry = self.lock();
        let missed = registry.own(uid, &ids);
        let Some(inbox) = registry.workers.get(uid).map(|member| member.inbox.clone()) else { return };
        missed.into_iter().for_each(|id| tell_of_end(context, inbox.clone(), id));
    }

    /// The worker of a container or sandbox that has ended.
    fn ended(&self, id: &str) -> Option<Arc<Inbox>> {
        let mut registry = self.lock();
        let owner = registry.ended(id)?;
        registry.workers.get(&owner).map(|member| member.inbox.clone())
    }

    fn all(&self) -> Vec<Arc<Inbox>> {
        self.lock().workers.values().map(|member| member.inbox.clone()).collect()
    }

    /// Has the workers of these pods look at what they report.
    pub(crate) fn wake(&self, uids: &HashSet<String>) {
        let all = self.all().into_iter().filter(|inbox| uids.contains(inbox.wanted.borrow().pod.uid()));
        all.for_each(|inbox| inbox.wake.notify_one());
    }

    /// The pods that have workers.
    pub(crate) fn list(&self) -> Vec<Arc<Pod>> {
        self.all().iter().map(|inbox| inbox.wanted.borrow().pod.clone()).collect()
    }

    /// The pod of this name.
    pub(crate) fn find(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        let all = self.list();
        let mut fits = all.into_iter().filter(|pod| pod.namespace() == namespace && pod.name() == name);
        fits.next()
    }

    /// Watches the ConfigMaps and Secrets that a pod's volumes are made from.
    fn watch_sources(&self, context: &Arc<Context>, pod: &Pod) {
        let watched = volumes::watched(pod);
        self.watch_kind::<ConfigMap>(context, (pod, &watched), |watched| &watched.config_maps);
        self.watch_kind::<Secret>(context, (pod, &watched), |watched| &watched.secrets);
        self.watch_kind::<PersistentVolumeClaim>(context, (pod, &watched), |watched| &watched.claims);
        if watched.bundles && self.watches("ClusterTrustBundle", "", "") {
            let pods = self.clone();
            volumes::trust_bundles(context)
                .on_change(move |_| pods.sources_changed(|_, watched| watched.bundles));
        }
        if watched.certificates && self.watches("PodCertificateRequest", "", "") {
            let pods = self.clone();
            volumes::certificate_requests(context)
                .on_change(move |_| pods.sources_changed(|_, watched| watched.certificates));
        }
    }

    /// Notes that objects are watched; false if they are already.
    fn watches(&self, kind: &'static str, namespace: &str, name: &str) -> bool {
        self.lock().watched.insert((kind, namespace.to_owned(), name.to_owned()))
    }

    /// Watches the objects of one kind that a pod's volumes are made from, by their names.
    fn watch_kind<T: Object>(
        &self,
        context: &Arc<Context>,
        (pod, watched): (&Pod, &volumes::Watched),
        of: fn(&volumes::Watched) -> &BTreeSet<String>,
    ) {
        for name in of(watched).clone() {
            if !self.watches(T::KIND, pod.namespace(), &name) {
                continue;
            }
            let cache = context.caches.selected::<T>(pod.namespace(), &format!("metadata.name={name}"));
            let (pods, namespace) = (self.clone(), pod.namespace().to_owned());
            cache.on_change(move |_| {
                pods.sources_changed(|pod, watched| {
                    pod.namespace() == namespace && of(watched).contains(&name)
                });
            });
        }
    }

    /// Wakes the pods that wait for their volumes.
    pub(crate) fn wake_waiting(&self) {
        let all = self.all();
        let waiting = all.iter().filter(|inbox| inbox.stale.load(std::sync::atomic::Ordering::SeqCst));
        waiting.for_each(|inbox| inbox.wake.notify_one());
    }

    /// Wakes the pods whose volumes are made from what changed.
    fn sources_changed(&self, uses: impl Fn(&Pod, &volumes::Watched) -> bool) {
        for inbox in self.all() {
            let pod = inbox.wanted.borrow().pod.clone();
            if uses(&pod, &volumes::watched(&pod)) {
                inbox.volumes_changed();
            }
        }
    }
}

fn is_mine(pod: &Pod, node: &str) -> bool {
    spec::spec(pod).node_name.as_deref() == Some(node)
}

/// Follows the pods of this node in the cache, after what an earlier life left behind was taken over.
pub(crate) async fn run(
    context: Arc<Context>,
    pods: Pods,
    cache: Cache<Pod>,
    shutdown: Shutdown,
) -> Result<(), Error> {
    if let Some(manifests) = &context.config.manifests {
        pods.set_static(&context, manifests::read(manifests, &context.config.node_name));
    }
    tokio::select! {
        () = cache.synced() => {}
        // Nothing can be asked: what ran before goes on from what is remembered of it.
        () = clock::sleep(PATIENCE) => {
            run_remembered(&context, &pods);
            tokio::select! {
                () = cache.synced() => {}
                () = shutdown.requested() => return Ok(()),
            }
        }
    }
    pods.end_unknown(&context, &cache);
    take_over(&context, &pods, &cache).await?;
    if context.config.manifests.is_none() {
        pods.set_static(&context, Vec::new());
    }
    follow_api(&context, &pods, &cache);
    pods.release_unknown(&context);
    shutdown.requested().await;
    Ok(())
}

/// Wakes workers by what the runtime tells, until asked to stop.
pub(crate) async fn run_runtime(context: Arc<Context>, pods: Pods, shutdown: Shutdown) -> Result<(), Error> {
    loop {
        tokio::select! {
            ended = follow_runtime(&context, &pods) => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "no event stream from the runtime");
                }
            }
            () = shutdown.requested() => return Ok(()),
        }
        // Events may have been missed while there was no stream.
        pods.all().iter().for_each(|inbox| inbox.runtime_changed());
        tokio::select! {
            () = clock::sleep(RELIST) => {}
            () = shutdown.requested() => return Ok(()),
        }
    }
}

/// Tells workers what the API server says of their pods: first of all of them, the oldest first.
fn follow_api(context: &Arc<Context>, pods: &Pods, cache: &Cache<Pod>) {
    let (following, registry) = (context.clone(), pods.clone());
    let node = context.config.node_name.clone();
    let mut known: Vec<Arc<Pod>> =
        cache.snapshot().iter().filter(|pod| is_mine(pod, &node) && !is_mirror(pod)).cloned().collect();
    known.sort_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|at| at.0));
    known.iter().for_each(|pod| pods.tell(context, pod, true));
    cache.on_change(move |change: &Change<Pod>| {
        let pod = change.object();
        if is_mirror(pod) {
            registry.tell_mirror(&following, pod, change.new.is_some());
        } else if is_mine(pod, &node) {
            registry.tell(&following, pod, change.new.is_some());
        }
    });
}

/// Runs the pods that were taken before, while there is no API server to ask about them.
fn run_remembered(context: &Arc<Context>, pods: &Pods) {
    let known = Checkpoint::all(&context.config);
    tracing::warn!(
        pods = known.len(),
        "the API server does not answer; running the pods that are remembered"
    );
    let own = |pod: &Pod| is_mine(pod, &context.config.node_name) && !admission::is_static(pod);
    for pod in known.into_iter().map(|kept| Arc::new(kept.pod)).filter(|pod| own(pod)) {
        pods.tell(context, &pod, true);
    }
}

/// Wakes all workers whenever the API server is back: they have to tell what happened meanwhile.
pub(crate) async fn run_returns(context: Arc<Context>, pods: Pods, shutdown: Shutdown) -> Result<(), Error> {
    loop {
        tokio::select! {
            () = context.reach.back() => pods.all().iter().for_each(|inbox| inbox.wake.notify_one()),
            () = shutdown.requested() => return Ok(()),
        }
    }
}

/// Wakes the workers of containers that end, for as long as the runtime tells.
async fn follow_runtime(context: &Arc<Context>, pods: &Pods) -> Result<(), Error> {
    let mut events = Events::subscribe(&context.runtime).await?;
    pods.all().iter().for_each(|inbox| inbox.runtime_changed());
    loop {
        let ended = events.next().await?;
        if let Some(inbox) = pods.ended(&ended.id) {
            tell_of_end(context, inbox, ended.id);
        }
    }
}

/// Wakes a worker once the runtime shows that its container has ended.
fn tell_of_end(context: &Arc<Context>, inbox: Arc<Inbox>, id: String) {
    let of = context.clone();
    context.supervisor.detached("container end", Phase::Work, async move {
        Worker::settle(&of, &id).await;
        inbox.runtime_changed();
    });
}

/// Gives workers to pods that the runtime has and the API server has not, so that they are stopped and
/// removed; removes cgroups and folders of pods that neither has.
async fn take_over(context: &Arc<Context>, pods: &Pods, cache: &Cache<Pod>) -> Result<(), Error> {
    let snapshot = cache.snapshot();
    let known: HashSet<&str> = snapshot.iter().map(|pod| pod.uid()).collect();
    let sandboxes = context.runtime.list_pod_sandbox(cri::ListPodSandboxRequest::default()).await?.items;
    let mut running: HashSet<String> = HashSet::new();
    for sandbox in &sandboxes {
        let Some(pod) = from_sandbox(sandbox) else { continue };
        running.insert(pod.uid().to_owned());
        if !known.contains(pod.uid()) && !pods.lock().workers.contains_key(pod.uid()) {
            tracing::info!(
                pod = spec::described(&pod),
                "stopping a pod that was deleted while this node was away"
            );
            pods.spawn(&mut pods.lock(), context, Wanted::new(Arc::new(pod), false));
        }
    }
    let folders = std::fs::read_dir(context.config.kubelet_dir.join("pods"));
    let folders =
        folders.into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let remembered = Checkpoint::uids(&context.config).into_iter().chain(context.dra.pods());
    for uid in folders.chain(context.cgroups.uids()).chain(remembered) {
        let is_worked_on = pods.lock().workers.contains_key(&uid);
        if known.contains(uid.as_str()) || running.contains(&uid) || is_worked_on {
            continue;
        }
        // What is still in use, say by another runtime's pod of the same class, is no reason to run none.
        Pods::forget_checkpoint(context, &uid);
        if let Err(error) = remove_rest(context, &uid).await {
            tracing::warn!(uid, %error, "cannot remove what is left of a pod; will try again");
            let metadata = ObjectMeta { uid: Some(uid), ..ObjectMeta::default() };
            let rest = Arc::new(Pod { metadata, ..Pod::default() });
            pods.spawn(&mut pods.lock(), context, Wanted::new(rest, false));
        }
    }
    Ok(())
}

/// Removes what is left of a pod of which nothing runs.
async fn remove_rest(context: &Context, uid: &str) -> Result<(), Error> {
    volumes::take_down(context, uid).await?;
    dra::unprepare(context, uid).await?;
    context.cgroups.remove(uid)
}

/// As much of a pod as its sandbox' labels tell.
fn from_sandbox(sandbox: &cri::PodSandbox) -> Option<Pod> {
    let label = |name: &str| sandbox.labels.get(name).cloned();
    let grace = sandbox.annotations.get(names::GRACE).and_then(|text| text.parse().ok());
    Some(Pod {
        metadata: ObjectMeta {
            name: Some(label(names::POD)?),
            namespace: Some(label(names::NAMESPACE)?),
            uid: Some(label(names::UID)?),
            ..Default::default()
        },
        spec: Some(api::core::PodSpec { termination_grace_period_seconds: grace, ..Default::default() }),
        status: None,
    })
}

#[cfg(test)]
mod ends {
    use super::*;

    #[test]
    fn an_end_before_the_first_look_is_not_lost() {
        let mut registry = Registry::default();
        assert_eq!(registry.ended("quick"), None);
        assert_eq!(registry.ended("of another runtime"), None);
        assert_eq!(registry.own("pod", &["sandbox", "quick"]), ["quick"]);
        // Told once.
        assert_eq!(registry.own("pod", &["sandbox", "quick"]), [""; 0]);
        assert_eq!(registry.ended("sandbox").as_deref(), Some("pod"));
        (0..2 * UNCLAIMED).for_each(|id| drop(registry.ended(&id.to_string())));
        assert_eq!(registry.unclaimed.len(), UNCLAIMED);
    }
}
