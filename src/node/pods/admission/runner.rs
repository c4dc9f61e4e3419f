//! Answers, one after the other, whether this node takes a pod and whether it gives a pod what it asks for by now.

use super::{Abilities, Rejection, View, admit, resize};
use crate::checkpoint::Checkpoint;
use crate::pods::Pods;
use crate::pods::inbox::{Inbox, Pending};
use crate::pods::ledger::{Given, Holding};
use crate::pods::resize::lagging;
use crate::pods::spec;
use crate::pods::status::Verdict;
use crate::{Context, Error, affinity, eviction, shutdown};
use api::Object;
use api::core::{Node, NodeStatus, Pod};
use api::demand::Amounts;
use api::meta::ObjectMeta;
use base::{Shutdown, clock};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// How often a pod that waits for more resources is looked at, if no other pod gives any back.
const RETRY: Duration = Duration::from_secs(180);
/// How long a start waits for the Node that a pod's terms are about.
const NODE: Duration = Duration::from_secs(5);

/// What is to be answered.
pub(crate) enum Question {
    /// Whether the node takes the pod of this worker.
    Admit(Arc<Inbox>, oneshot::Sender<Option<Verdict>>),
    /// Whether a pod gets what it asks for by now.
    Resize(String),
}

/// Answers until asked to stop.
pub(crate) async fn run(context: Arc<Context>, pods: Pods, shutdown: Shutdown) -> Result<(), Error> {
    let runner = Runner { context, pods };
    loop {
        let asked = runner.pods.asked();
        if let Some(question) = runner.pods.next_question() {
            tokio::select! {
                answered = runner.answer(question) => answered?,
                () = shutdown.requested() => return Ok(()),
            }
            continue;
        }
        tokio::select! {
            () = asked.notified() => {}
            () = clock::sleep(RETRY), if runner.pods.has_pending() => runner.pods.ask_again(),
            () = shutdown.requested() => return Ok(()),
        }
    }
}

struct Runner {
    context: Arc<Context>,
    pods: Pods,
}

impl Runner {
    async fn answer(&self, question: Question) -> Result<(), Error> {
        match question {
            Question::Admit(inbox, answer) => {
                let verdict = self.admit(&inbox).await?;
                if answer.send(verdict).is_err() {
                    tracing::debug!("a pod was gone before it was admitted");
                }
            }
            Question::Resize(uid) => self.resize(&uid).await?,
        }
        Ok(())
    }

    async fn admit(&self, inbox: &Arc<Inbox>) -> Result<Option<Verdict>, Error> {
        let told = inbox.wanted.borrow().told.clone();
        if spec::has_ended(&told) {
            return Ok(None);
        }
        if let Some(known) = Checkpoint::read(&self.context.config, told.uid()) {
            self.enter(inbox, &known.given.apply(&told));
            return Ok(None);
        }
        let wanted = Holding::of(&told);
        // What is being deleted holds what it has until it has ended.
        if !told.is_deleting()
            && let Err(rejection) = self.take(&wanted).await
        {
            let Rejection { reason, message } = rejection;
            let verdict = Verdict::rejection(reason.clone(), &message);
            self.context.recorder.warning(&*told, &reason, message);
            return Ok(Some(verdict));
        }
        self.remember(&told, &Given::of(&told));
        self.enter(inbox, &told);
        Ok(None)
    }

    /// Decides, and makes room where a critical pod needs it.
    async fn take(&self, wanted: &Holding) -> Result<(), Rejection> {
        if *self.context.shutting_down.borrow() {
            let (reason, message) = shutdown::REFUSAL;
            return Err(Rejection { reason: reason.to_owned(), message: message.to_owned() });
        }
        let refusal = eviction::refusal(&wanted.pod, &self.context.pressures.borrow());
        if let Some(message) = refusal {
            return Err(Rejection { reason: eviction::REASON.to_owned(), message });
        }
        let node = self.node().await;
        let others = self.pods.holdings_without(wanted.pod.uid());
        let allocatable = self.allocatable(&node);
        let victims = admit(&self.view(&node, &allocatable, &others).await, wanted)?;
        for uid in &victims {
            self.pods.preempt(&self.context, uid);
        }
        for uid in &victims {
            self.pods.given_back(uid).await;
        }
        affinity::admit(&self.context, &wanted.pod).await
    }

    async fn view<'a>(&'a self, node: &'a Node, allocatable: &'a Amounts, others: &'a [Holding]) -> View<'a> {
        let abilities = Abilities {
            apparmor: self.context.machine.apparmor,
            supplemental_groups_policy: self.context.abilities().await.supplemental_groups_policy,
            unsafe_sysctls: &self.context.config.kubelet().allowed_unsafe_sysctls,
        };
        View { node, allocatable, others, abilities }
    }

    fn enter(&self, inbox: &Arc<Inbox>, given: &Arc<Pod>) {
        self.pods.enter(given.uid(), Holding::of(given));
        self.pods.renew(inbox);
    }

    /// Writes down what a pod was given, and what its containers have until they follow. Where that fails, a
    /// restart has to ask again.
    fn remember(&self, told: &Pod, given: &Given) {
        let remembered = Checkpoint::change(&self.context, told.uid(), |before| {
            let mut actuated = before.as_ref().map(|kept| kept.actuated.clone()).unwrap_or_default();
            if let Some(before) = &before {
                for (name, had) in lagging(&before.given, given) {
                    actuated.entry(name).or_insert(had);
                }
            }
            Some(Checkpoint { pod: told.clone(), given: given.clone(), actuated })
        });
        if let Err(error) = remembered {
            tracing::warn!(pod = spec::described(told), %error, "cannot write down what it was given");
        }
    }

    /// The Node, or what it will be where it is not known yet.
    async fn node(&self) -> Arc<Node> {
        let name = &self.context.config.node_name;
        let known = async {
            loop {
                let changed = self.context.node.changed();
                if let Some(node) = self.context.node.get("", name) {
                    return node;
                }
                changed.await;
            }
        };
        tokio::time::timeout(NODE, known).await.unwrap_or_else(|_| {
            let labels = crate::registration::labels(&self.context.config);
            let metadata =
                ObjectMeta { name: Some(name.clone()), labels: Some(labels), ..Default::default() };
            Arc::new(Node { metadata, ..Default::default() })
        })
    }

    /// What pods may have: of the machine, as it says itself, and of others' resources as the Node says.
    fn allocatable(&self, node: &Node) -> Amounts {
        let told = node.status.as_ref().and_then(|status: &NodeStatus| status.allocatable.as_ref());
        let own = self.context.machine.capacity.allocatable.iter();
        let all = told.into_iter().flatten().chain(own);
        let parsed = all.filter_map(|(name, text)| Some((name.clone(), api::quantity::parse(&text.0).ok()?)));
        parsed.collect()
    }

    /// Gives a pod what it asks for by now, if that fits; says otherwise that it waits.
    async fn resize(&self, uid: &str) -> Result<(), Error> {
        let Some((inbox, told)) = self.pods.unmet(uid) else { return Ok(()) };
        let wanted = Holding::of(&told);
        let node = self.node().await;
        let others = self.pods.holdings_without(uid);
        let allocatable = self.allocatable(&node);
        let generation = told.metadata.generation;
        let view = self.view(&node, &allocatable, &others).await;
        let never = affinity::forbids_resize(self.context.config.kubelet(), &self.pods.given(&told), &told);
        let fits =
            resize(&view, &wanted).map_err(|rejection| ("Deferred", "ResizeDeferred", rejection.message));
        match never.map_or(fits, |why| Err(("Infeasible", "ResizeInfeasible", why))) {
            Ok(()) => {
                self.remember(&told, &Given::of(&told));
                let message = Pending::message("started", &told, None);
                self.context.recorder.normal(&*told, "ResizeStarted", message);
                inbox.wanted.send_modify(|wanted| wanted.pending = None);
                self.enter(&inbox, &told);
                inbox.wake.notify_one();
            }
            Err((reason, event, message)) => {
                let pending = Pending { reason, message, generation };
                if inbox.wanted.borrow().pending.as_ref() != Some(&pending) {
                    let message = Pending::message(reason, &told, Some(&pending.message));
                    self.context.recorder.warning(&*told, event, message);
                }
                inbox.wanted.send_modify(|wanted| wanted.pending = Some(pending));
                inbox.wake.notify_one();
            }
        }
        Ok(())
    }
}
