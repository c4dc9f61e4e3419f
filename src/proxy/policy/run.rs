//! Carries it out: follows policies and, once there are some, namespaces and pods.

use super::inbox::{Announced, Inbox, Work};
use super::installed::Installed;
use super::remembered::Remembered;
use super::render::{self, Parts};
use super::rules::Rules;
use super::state::{Difference, Known, Name, State};
use crate::Error;
use api::core::{Namespace, Pod};
use api::networking::NetworkPolicy;
use api::{Object, slim};
use base::{Phase, Restart, Shutdown, Supervisor, clock};
use client::{Cache, Caches};
use net::nft::{self, Transaction};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::oneshot;

/// The longest pause between two changes; otherwise as long as the last one took.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How long a pod's start waits for the table to have it, before the kubelet tries again.
const ADMIT_LIMIT: Duration = Duration::from_secs(20);

/// So many chains and sets may be there that nothing leads to, before they are removed: they may be
/// wanted again, and removing them is a process.
const UNUSED: usize = 32;

/// Isolates pods.
#[derive(Clone)]
pub struct Policies {
    inbox: Arc<Inbox>,
    remembered: Arc<Remembered>,
}

fn name_of(pod: &Pod) -> Name {
    (pod.namespace().to_owned(), pod.name().to_owned())
}

impl Policies {
    /// Completes when all policies hold for a pod of this node that has just got these addresses. To be
    /// awaited before a container of it runs; that policies cannot be applied now is for another try.
    pub fn admit(
        &self,
        pod: &Pod,
        addresses: &[IpAddr],
    ) -> impl Future<Output = Result<(), String>> + Send + use<> {
        let (done, told) = oneshot::channel();
        let on_host = pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
        if !on_host {
            let name = name_of(pod);
            let pod = self.remembered.add(&name, Known::announced(pod, addresses.iter().copied().collect()));
            self.inbox.note(|work| work.announced.push(Announced { name, pod, done }));
        }
        async move {
            if on_host {
                return Ok(());
            }
            match tokio::time::timeout(ADMIT_LIMIT, told).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) => Err("network policies could not be applied to the pod".to_owned()),
                Err(_) => Err(format!("network policies were not applied to the pod within {ADMIT_LIMIT:?}")),
            }
        }
    }
}

impl Policies {
    /// Tells once which pods of this node are there already, with what is known of them without the API. Until then
    /// holds what an earlier run left in the kernel.
    pub fn recall(&self, pods: Vec<(Pod, Vec<IpAddr>)>) {
        for (pod, addresses) in pods {
            self.remembered.add(&name_of(&pod), Known::announced(&pod, addresses.into_iter().collect()));
        }
        self.remembered.end_recall();
    }
}

#[derive(Clone)]
struct Engine {
    node_name: Arc<str>,
    caches: Caches,
    policies: Cache<NetworkPolicy>,
    /// Those of administrators.
    installed: Arc<Installed>,
    answered_here: Arc<[IpAddr]>,
    /// Followed from the first policy on.
    others: Arc<OnceLock<(Cache<Namespace>, Cache<slim::Pod>)>>,
    /// The kernel has the table; without policies there is none.
    is_there: Arc<AtomicBool>,
    inbox: Arc<Inbox>,
    remembered: Arc<Remembered>,
}

/// Keeps the kernel's network policies as the API has them, once [`Policies::recall`] was called. At `answered_here` this process answers the cluster's DNS.
pub fn start_policies(
    node_name: &str,
    answered_here: &[IpAddr],
    caches: &Caches,
    supervisor: &Supervisor,
) -> Policies {
    let inbox = Arc::<Inbox>::default();
    let engine = Engine {
        node_name: node_name.into(),
        caches: caches.clone(),
        policies: caches.of(),
        installed: Arc::new(Installed::new(caches, &inbox)),
        answered_here: answered_here.into(),
        others: Arc::default(),
        is_there: Arc::default(),
        inbox: inbox.clone(),
        remembered: Arc::default(),
    };
    engine.policies.on_change(move |_| inbox.note(|work| work.policies = true));
    let policies = Policies { inbox: engine.inbox.clone(), remembered: engine.remembered.clone() };
    supervisor.run("network policies", Phase::Work, Restart::OnFailure, move |shutdown| {
        engine.clone().run(shutdown)
    });
    policies
}

impl Engine {
    async fn run(self, shutdown: Shutdown) -> Result<(), Error> {
        tokio::select! {
            result = self.follow() => result,
            result = self.removed() => result,
            () = shutdown.requested() => Ok(()),
        }
    }

    /// Fails when somebody removes the table.
    async fn removed(&self) -> Result<(), Error> {
        loop {
            net::removed(&[render::TABLE]).await?;
            if self.is_there.load(Ordering::Relaxed) {
                return Err(Error::Removed("network policies"));
            }
        }
    }

    /// Begins with the whole table: what an earlier run left holds until then.
    async fn follow(&self) -> Result<(), Error> {
        self.policies.synced().await;
        self.installed.synced().await;
        self.remembered.recalled().await;
        let mut held = Held { node_name: self.node_name.clone(), ..Held::default() };
        self.inbox.note(|work| work.policies = true);
        loop {
            self.inbox.woken().await;
            let begin = clock::instant();
            let work = self.inbox.take();
            self.sync(&mut held, work).await?;
            clock::sleep(begin.elapsed().min(LONGEST_PAUSE)).await;
        }
    }

    async fn sync(&self, held: &mut Held, work: Work) -> Result<(), Error> {
        let mut difference = Difference::new();
        if work.policies {
            let snapshot = self.policies.snapshot();
            let mut rules = Rules::of(snapshot.iter().map(Arc::as_ref));
            self.installed.administer(&mut rules).await;
            if !held.is_active && !rules.is_empty() {
                self.fill(&mut held.state, &mut difference).await;
            }
            held.set_rules(rules, &mut difference);
        }
        if let Some((namespaces, pods)) = self.others.get().filter(|_| held.is_active) {
            for name in &work.namespaces {
                held.state.set_namespace(name, namespaces.get("", name), &mut difference);
            }
            for (name, gone) in &work.pods {
                if let Some(uid) = gone {
                    self.remembered.forget(name, uid);
                    held.state.remove_pod(name, uid, &mut difference);
                }
                let Some(pod) = pods.get(&name.0, &name.1) else { continue };
                self.remembered.settle(name, pod.uid(), &Known::addresses_of(&pod));
                held.set_pod(name, &pod, &mut difference);
            }
        }
        for announced in &work.announced {
            held.announce(announced, &mut difference);
        }
        // Said before it goes and after it has come, so that its end is never taken for somebody else's doing.
        self.is_there.fetch_and(held.is_active, Ordering::Relaxed);
        held.apply(&difference).await?;
        self.is_there.store(held.is_active, Ordering::Relaxed);
        for Announced { done, .. } in work.announced {
            if done.send(()).is_err() {
                tracing::debug!("a pod's start no longer waits for its policies");
            }
        }
        held.clean().await;
        Ok(())
    }

    /// Puts namespaces and pods into the state, which from now on are followed.
    async fn fill(&self, state: &mut State, difference: &mut Difference) {
        let (namespaces, pods) = self.others.get_or_init(|| {
            let (namespaces, pods) = (self.caches.of::<Namespace>(), self.caches.of::<slim::Pod>());
            let inbox = self.inbox.clone();
            namespaces.on_change(move |change| {
                let name = change.object().name().to_owned();
                inbox.note(|work| {
                    work.namespaces.insert(name);
                });
            });
            let inbox = self.inbox.clone();
            pods.on_change(move |change| {
                let pod = change.object();
                let name = (pod.namespace().to_owned(), pod.name().to_owned());
                let replaced = change
                    .old
                    .as_ref()
                    .filter(|old| change.new.as_ref().is_none_or(|new| new.uid() != old.uid()));
                let gone = replaced.map(|old| old.uid().to_owned());
                inbox.note(|work| {
                    let known = work.pods.entry(name).or_default();
                    *known = gone.or(known.take());
                });
            });
            (namespaces, pods)
        });
        tokio::join!(namespaces.synced(), pods.synced());
        for namespace in namespaces.snapshot().iter() {
            state.set_namespace(namespace.name(), Some(namespace.clone()), difference);
        }
        let dns = ("kube-system".to_owned(), "the cluster's DNS".to_owned());
        state.set_pod(&dns, Known::dns(self.answered_here.iter().copied()), difference);
        for pod in pods.snapshot().iter() {
            if let Some(known) = Known::of(pod, &self.node_name) {
                state.set_pod(&(pod.namespace().to_owned(), pod.name().to_owned()), known, difference);
            }
        }
        for (name, told) in self.remembered.all() {
            match self.recollect(&name, told, pods, state) {
                Ok(known) => state.set_pod(&name, known, difference),
                Err(uid) => self.remembered.forget(&name, &uid),
            }
        }
    }

    /// What is known of a pod of which the API has not all; its uid where there is no such pod any more, or the API
    /// has all by now.
    fn recollect(
        &self,
        name: &Name,
        told: Known,
        pods: &Cache<slim::Pod>,
        state: &State,
    ) -> Result<Known, String> {
        let Some(pod) = pods.get(&name.0, &name.1) else {
            let is_free = told.addresses.iter().all(|address| !state.has_owner(*address));
            return if is_free { Ok(told) } else { Err(told.uid) };
        };
        match Known::of(&pod, &self.node_name) {
            Some(known) if known.uid == told.uid && !told.addresses.is_subset(&known.addresses) => {
                Ok(Known { addresses: told.addresses, told: told.told, ..known })
            }
            _ => Err(told.uid),
        }
    }
}

/// What the kernel holds.
#[derive(Default)]
pub(super) struct Held {
    node_name: Arc<str>,
    state: State,
    /// There are policies, and everything that they are about is followed.
    is_active: bool,
    /// The table is as it was written.
    pub(super) is_loaded: bool,
    parts: Parts,
    channel: nft::Channel,
    changed_rules: bool,
}

impl Held {
    pub(super) fn set_rules(&mut self, rules: Rules, difference: &mut Difference) {
        let was_active = std::mem::replace(&mut self.is_active, !rules.is_empty());
        self.changed_rules = true;
        // With the first policy the table comes, and with the last one it goes.
        self.is_loaded &= was_active == self.is_active;
        if self.is_active {
            self.state.set_rules(rules, difference);
        } else {
            // Nobody asks for pods any more; the next policy finds them anew.
            self.state = State::default();
            difference.clear();
        }
    }

    fn set_pod(&mut self, name: &Name, pod: &slim::Pod, difference: &mut Difference) {
        match Known::of(pod, &self.node_name) {
            Some(known) => self.state.set_pod(name, known, difference),
            None => self.state.remove_pod(name, pod.uid(), difference),
        }
    }

    fn announce(&mut self, announced: &Announced, difference: &mut Difference) {
        let Announced { name, pod, .. } = announced;
        if self.is_active && !self.state.has_pod(name, &pod.uid, &pod.addresses) {
            self.state.set_pod(name, pod.clone(), difference);
        }
    }

    async fn apply(&mut self, difference: &Difference) -> Result<(), Error> {
        if !self.is_loaded {
            nft::apply(&render::everything(&self.state)).await?;
            self.parts = if self.is_active { Parts::of(&self.state) } else { Parts::default() };
            self.is_loaded = true;
            tracing::info!(active = self.is_active, "network policies are in the kernel");
            return Ok(());
        }
        let missing = Parts::of(&self.state).beyond(&self.parts);
        let changes = render::changes(difference);
        if missing.is_empty() {
            return Ok(changes.apply(&self.channel).await?);
        }
        let mut transaction = Transaction::default();
        missing.write(&self.state.rules, &mut transaction);
        changes.write(&mut transaction);
        nft::apply(&transaction).await?;
        self.parts.add(missing);
        Ok(())
    }

    /// Removes what nothing leads to any more, in a transaction of its own: to older kernels a chain is
    /// in use until the element is gone that led to it. What cannot be removed now may be later.
    async fn clean(&mut self) {
        let wanted = Parts::of(&self.state);
        let unused = self.parts.beyond(&wanted);
        if !self.is_active || unused.is_empty() || (!self.changed_rules && unused.len() < UNUSED) {
            return;
        }
        self.changed_rules = false;
        let mut transaction = Transaction::default();
        unused.remove(&mut transaction);
        match nft::apply(&transaction).await {
            Ok(()) => self.parts = wanted,
            Err(error) => tracing::debug!(%error, "unused chains of network policies stay for now"),
        }
    }
}
