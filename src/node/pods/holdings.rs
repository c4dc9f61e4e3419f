//! What admission asks of the workers' registry, and tells it.

use super::admission::runner::Question;
use super::inbox::Inbox;
use super::ledger::{Given, Holding};
use super::status::Verdict;
use super::{Member, Pods, Registry};
use crate::Context;
use crate::checkpoint::Checkpoint;
use api::Object;
use api::core::Pod;
use client::Cache;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::Notify;

impl Pods {
    /// Is told when a question comes.
    pub(super) fn asked(&self) -> Arc<Notify> {
        self.lock().asked.clone()
    }

    pub(super) fn next_question(&self) -> Option<Question> {
        self.lock().questions.pop_front()
    }

    /// Whether some pod waits for other resources.
    pub(super) fn has_pending(&self) -> bool {
        self.all().iter().any(|inbox| inbox.wanted.borrow().pending.is_some())
    }

    /// Asks again for all pods that wait for other resources: first those that want less, then by priority.
    pub(super) fn ask_again(&self) {
        let mut waiting: Vec<Arc<Pod>> = Vec::new();
        for inbox in self.all() {
            let wanted = inbox.wanted.borrow();
            waiting.extend(wanted.pending.as_ref().map(|_| wanted.told.clone()));
        }
        waiting.sort_by_key(|pod| std::cmp::Reverse(super::spec::spec(pod).priority.unwrap_or(0)));
        let mut registry = self.lock();
        waiting.iter().for_each(|pod| registry.ask(Question::Resize(pod.uid().to_owned())));
    }

    /// What the other pods hold. What was deleted without waiting for its end does not count: whoever comes in its
    /// place was promised it.
    pub(super) fn holdings_without(&self, uid: &str) -> Vec<Holding> {
        let registry = self.lock();
        let mut others = registry.ledger.without(uid);
        let is_deleted = |member: &super::Member| !member.inbox.wanted.borrow().exists;
        others.retain(|other| !registry.workers.get(other.pod.uid()).is_some_and(is_deleted));
        others
    }

    /// Notes what a pod holds.
    pub(super) fn enter(&self, uid: &str, holding: Holding) {
        self.lock().ledger.enter(uid, holding);
    }

    /// Lets a worker see what its pod holds by now.
    pub(super) fn renew(&self, inbox: &Inbox) {
        let registry = self.lock();
        inbox.wanted.send_modify(|wanted| wanted.pod = registry.ledger.apply(&wanted.told));
    }

    /// The pod with what it was given.
    pub(super) fn given(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        self.lock().ledger.apply(pod)
    }

    /// A pod that was given something else than it asks for by now.
    pub(super) fn unmet(&self, uid: &str) -> Option<(Arc<Inbox>, Arc<Pod>)> {
        let registry = self.lock();
        let inbox = registry.workers.get(uid)?.inbox.clone();
        let told = inbox.wanted.borrow().told.clone();
        let holding = registry.ledger.get(uid)?;
        (Given::of(&holding.pod) != Given::of(&told)).then_some((inbox, told))
    }

    /// Nothing of a pod runs any more: others may have what it held.
    pub(super) fn give_back(&self, uid: &str) {
        let mut registry = self.lock();
        if registry.ledger.give_back(uid) {
            registry.given_back.notify_waiters();
            drop(registry);
            self.ask_again();
        }
    }

    /// Completes when a pod holds nothing.
    pub(crate) async fn given_back(&self, uid: &str) {
        self.until(|registry| registry.ledger.get(uid).is_none()).await;
    }

    /// Notes that nothing of a pod is left on the machine.
    pub(super) fn cleaned(&self, inbox: &Inbox) {
        inbox.cleaned.store(true, Ordering::SeqCst);
        self.lock().given_back.notify_waiters();
    }

    /// Completes when nothing of a pod is left on the machine: its volumes and cgroups are gone too, and what they took.
    pub(crate) async fn cleaned_up(&self, uid: &str) {
        let is_left = |member: &Member| !member.inbox.is_cleaned();
        self.until(|registry| !registry.workers.get(uid).is_some_and(is_left)).await;
    }

    /// Completes when nobody works on a pod any more.
    pub(super) async fn worker_gone(&self, uid: &str) {
        self.until(|registry| !registry.workers.contains_key(uid)).await;
    }

    async fn until(&self, holds: impl Fn(&Registry) -> bool) {
        let changes = self.lock().given_back.clone();
        loop {
            let changed = changes.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if holds(&self.lock()) {
                return;
            }
            changed.await;
        }
    }

    /// Ends what was remembered of pods that the API server has no more.
    pub(super) fn end_unknown(&self, context: &Arc<Context>, cache: &Cache<Pod>) {
        let snapshot = cache.snapshot();
        let known = |pod: &Pod| snapshot.iter().any(|known| known.uid() == pod.uid());
        for pod in self.list() {
            if !super::admission::is_static(&pod) && !known(&pod) {
                self.tell(context, &pod, false);
            }
        }
    }

    /// Takes back what an earlier life gave to pods that there are no more.
    pub(super) fn release_unknown(&self, context: &Context) {
        // Asked for first: whoever gets something meanwhile has a worker by then.
        let mut holders = context.affinity.holders();
        holders.extend(context.devices.users());
        let known: HashSet<String> = self.list().iter().map(|pod| pod.uid().to_owned()).collect();
        for uid in holders.difference(&known) {
            context.affinity.release(uid);
            context.devices.let_go(uid);
        }
    }

    /// The pods that nothing has told to end yet.
    pub(crate) fn active(&self) -> Vec<Arc<Pod>> {
        let all = self.all().into_iter().map(|inbox| inbox.wanted.borrow().clone());
        all.filter(|wanted| !wanted.is_going()).map(|wanted| wanted.pod).collect()
    }

    /// Ends a pod for this reason, whatever it would do by itself; whether there is such a pod.
    pub(crate) fn evict(&self, uid: &str, verdict: Verdict) -> bool {
        let inbox = self.lock().workers.get(uid).map(|member| member.inbox.clone());
        if let Some(inbox) = &inbox {
            inbox.wanted.send_modify(|wanted| wanted.verdict = wanted.verdict.take().or(Some(verdict)));
            inbox.wake.notify_one();
        }
        inbox.is_some()
    }

    /// Ends a pod to make room for a critical one.
    pub(super) fn preempt(&self, context: &Context, uid: &str) {
        let message = "Preempted in order to admit critical pod";
        if let Some(pod) = self.list().into_iter().find(|pod| pod.uid() == uid) {
            context.recorder.warning(&*pod, "Preempting", message.to_owned());
        }
        let disruption = "Pod was preempted by Kubelet to accommodate a critical pod.";
        let verdict = Verdict::new("Preempting", message).disrupting(disruption);
        if !self.evict(uid, verdict) {
            tracing::debug!(uid, "a pod was gone before it was preempted");
        }
    }

    /// Forgets a pod that is gone for good.
    pub(super) fn forget_checkpoint(context: &Context, uid: &str) {
        let forget = || Checkpoint::remove(&context.config, uid).and(context.provisions.remove(uid));
        if let Err(error) = context.machine.change(forget) {
            tracing::warn!(uid, %error, "cannot forget a pod");
        }
    }
}
