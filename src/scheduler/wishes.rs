//! Which pods mean which: terms of affinity and of spreading, each with counts per value of its
//! topology key that follow every pod and node. Nothing is counted anew for a decision.

use crate::intern::{Handle, PerText, Pool, Text, Texts};
use crate::nodes::{Facts, NodeSelector, Tolerations};
use api::core::PodAffinityTerm;
use api::selector::Labels;
use api::slim::Map;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Pods that nobody can tell apart by a selector.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Group {
    pub(crate) namespace: Text,
    pub(crate) labels: Map,
    /// They are being deleted: spreading no longer counts them.
    pub(crate) leaving: bool,
}

/// Which pods are meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PodTerm {
    selector: Labels,
    namespaces: Box<[Text]>,
    namespace_selector: Option<Labels>,
}

impl PodTerm {
    pub(crate) fn of(term: &PodAffinityTerm, own_namespace: &Text, texts: &mut Texts) -> Self {
        let mut namespaces: Vec<_> = term.namespaces.iter().flatten().map(|name| texts.of(name)).collect();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.push(own_namespace.clone());
        }
        Self {
            selector: Labels::of(term.label_selector.as_ref()),
            namespaces: namespaces.into(),
            namespace_selector: term.namespace_selector.as_ref().map(|selector| Labels::of(Some(selector))),
        }
    }

    /// Pods of one namespace.
    pub(crate) fn within(namespace: Text, selector: Labels) -> Self {
        Self { selector, namespaces: [namespace].into(), namespace_selector: None }
    }

    /// Whether it means this pod.
    pub(crate) fn means(&self, group: &Group, namespaces: &Namespaces) -> bool {
        let by_selector = || {
            let labels = namespaces.get(&*group.namespace);
            let label = |key: &str| labels.and_then(|labels| labels.get(key)).map(String::as_str);
            self.namespace_selector.as_ref().is_some_and(|selector| selector.matches_with(label))
        };
        (self.namespaces.contains(&group.namespace) || by_selector())
            && self.selector.matches_with(|key| group.labels.get(key))
    }
}

/// The labels of namespaces.
pub(crate) type Namespaces = HashMap<String, BTreeMap<String, String>>;

/// The nodes that count for spreading.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Scope {
    /// Labels that have to be there.
    pub(crate) keys: Box<[Text]>,
    pub(crate) nodes: NodeSelector,
    /// Taints have to be tolerated by these, were there any.
    pub(crate) tolerations: Option<Tolerations>,
}

impl Scope {
    fn holds(&self, node: &Facts) -> bool {
        self.keys.iter().all(|key| node.label(key).is_some())
            && self.nodes.selects(node)
            && self.tolerations.as_ref().is_none_or(|own| node.untolerated(&own.0).is_none())
    }
}

/// Pods that all of some terms mean, by the value of a topology key of their nodes.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Wish {
    pub(crate) who: Arc<[PodTerm]>,
    pub(crate) key: Text,
    /// For spreading: the nodes that count.
    pub(crate) scope: Option<Arc<Scope>>,
}

impl Wish {
    pub(crate) fn means(&self, group: &Group, namespaces: &Namespaces) -> bool {
        // A constraint that selects everything counts nobody, as in Kubernetes.
        let counts = self.scope.is_none()
            || (!group.leaving && !self.who.iter().all(|term| term.selector.is_everything()));
        counts && self.who.iter().all(|term| term.means(group, namespaces))
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Domain {
    nodes: usize,
    pods: i64,
}

/// Pods per domain; for spreading also the domains without any.
#[derive(Debug, Default)]
pub(crate) struct Domains {
    all: PerText<Domain>,
    /// How many domains have so many pods.
    levels: BTreeMap<i64, usize>,
}

impl Domains {
    pub(crate) fn get(&self, domain: &Text) -> i64 {
        self.all.get(domain).map_or(0, |domain| domain.pods)
    }

    /// The fewest pods that a domain has.
    pub(crate) fn least(&self) -> i64 {
        self.levels.first_key_value().map_or(0, |(pods, _)| *pods)
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    fn change(&mut self, name: &Text, nodes: isize, pods: i64) {
        let domain = self.all.entry(name.clone()).or_default();
        let before = *domain;
        domain.nodes = domain.nodes.saturating_add_signed(nodes);
        domain.pods += pods;
        let after = *domain;
        let is_there = |domain: Domain| domain.nodes > 0 || domain.pods != 0;
        if is_there(before) {
            self.level(before.pods, -1);
        }
        if is_there(after) {
            self.level(after.pods, 1);
        } else {
            self.all.remove(name);
        }
    }

    fn level(&mut self, pods: i64, domains: isize) {
        let count = self.levels.entry(pods).or_default();
        *count = count.saturating_add_signed(domains);
        if *count == 0 {
            self.levels.remove(&pods);
        }
    }
}

/// Amounts per domain, without zeros.
#[derive(Debug, Default)]
pub(crate) struct Tally(PerText<i64>);

impl Tally {
    pub(crate) fn get(&self, domain: &Text) -> i64 {
        self.0.get(domain).copied().unwrap_or(0)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn add(&mut self, domain: &Text, amount: i64) {
        let own = self.0.entry(domain.clone()).or_default();
        *own += amount;
        if *own == 0 {
            self.0.remove(domain);
        }
    }
}

/// The counts of a wish.
#[derive(Debug)]
pub(crate) struct Counts {
    pub(crate) key: Text,
    scope: Option<Arc<Scope>>,
    /// Pods that are meant.
    pub(crate) meant: Domains,
    /// Pods that will not be near those meant.
    pub(crate) against: Tally,
    /// Pods that have to be near those meant.
    pub(crate) needed: Tally,
    /// The weights of pods that would rather be near those meant, or not.
    pub(crate) liked: Tally,
}

impl Counts {
    fn none(wish: &Wish) -> Self {
        Self {
            key: wish.key.clone(),
            scope: wish.scope.clone(),
            meant: Domains::default(),
            against: Tally::default(),
            needed: Tally::default(),
            liked: Tally::default(),
        }
    }

    /// The node's domain, were the node to count.
    fn domain<'a>(&self, node: &'a Facts) -> Option<&'a Text> {
        let value = node.label(&self.key)?;
        self.scope.as_ref().is_none_or(|scope| scope.holds(node)).then_some(value)
    }
}

/// The wishes that the pods of one ask have about others.
#[derive(Debug, Default)]
pub(crate) struct Social {
    /// Required affinity: pods that all terms mean, per topology.
    pub(crate) near: Box<[Handle<Wish>]>,
    /// The same term by term.
    needed: Box<[Handle<Wish>]>,
    pub(crate) far: Box<[Handle<Wish>]>,
    pub(crate) preferred: Box<[(i64, Handle<Wish>)]>,
    pub(crate) spread: Box<[Handle<Wish>]>,
}

/// All groups of pods and all wishes about them.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    pub(crate) pool: Pool<Wish, Counts>,
    /// Per group, the wishes that mean it.
    groups: Pool<Group, Vec<usize>>,
    pub(crate) namespaces: Namespaces,
}

impl Wishes {
    pub(crate) fn group(&mut self, group: Group) -> Handle<Group> {
        if let Some(known) = self.groups.find(&group) {
            return known;
        }
        self.groups.sweep();
        let meant_by = self.pool.iter().filter(|(wish, _)| wish.means(&group, &self.namespaces));
        let meant_by = meant_by.map(|(_, ix)| ix).collect();
        self.groups.add(group, meant_by)
    }

    /// A wish, counted from the pods and nodes that are there were it new.
    pub(crate) fn wish<'a, P: Iterator<Item = usize>>(
        &mut self,
        wish: Wish,
        nodes: impl Iterator<Item = (&'a Facts, P)>,
    ) -> Handle<Wish> {
        if let Some(known) = self.pool.find(&wish) {
            return known;
        }
        self.forget_unused();
        let counts = Counts::none(&wish);
        let handle = self.pool.add(wish, counts);
        self.count(&handle, nodes);
        handle
    }

    /// Counts a wish's pods from those that are there.
    fn count<'a, P: Iterator<Item = usize>>(
        &mut self,
        wish: &Handle<Wish>,
        nodes: impl Iterator<Item = (&'a Facts, P)>,
    ) {
        let groups = self.groups.iter().filter(|(group, _)| wish.means(group, &self.namespaces));
        let groups: Vec<usize> = groups.map(|(_, ix)| ix).collect();
        let mut is_meant = vec![false; self.groups.states.capacity()];
        for group in groups {
            is_meant[group] = true;
            self.groups.states[group].push(wish.ix);
        }
        let counts = &mut self.pool.states[wish.ix];
        let counted = isize::from(counts.scope.is_some());
        for (node, pods) in nodes {
            let Some(domain) = counts.domain(node) else { continue };
            let count = pods.filter(|group| is_meant[*group]).count();
            counts.meant.change(domain, counted, i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// The labels of a namespace are others: what selects namespaces is counted anew.
    pub(crate) fn put_namespace<'a, P: Iterator<Item = usize>, N: Iterator<Item = (&'a Facts, P)>>(
        &mut self,
        name: &str,
        labels: Option<BTreeMap<String, String>>,
        nodes: impl Fn() -> N,
    ) {
        let before = match labels {
            Some(labels) if self.namespaces.get(name) == Some(&labels) => return,
            Some(labels) => self.namespaces.insert(name.to_owned(), labels),
            None => self.namespaces.remove(name),
        };
        let selecting = |wish: &Wish| wish.who.iter().any(|term| term.namespace_selector.is_some());
        let affected: Vec<Handle<Wish>> = self.pool.handles().filter(|wish| selecting(wish)).collect();
        tracing::trace!(
            namespace = name,
            known = before.is_some(),
            affected = affected.len(),
            "labels changed"
        );
        for wish in affected {
            for (_, meant_by) in &mut self.groups.states {
                meant_by.retain(|ix| *ix != wish.ix);
            }
            self.pool.states[wish.ix].meant = Domains::default();
            self.count(&wish, nodes());
        }
    }

    fn forget_unused(&mut self) {
        let freed = self.pool.sweep();
        if !freed.is_empty() {
            for (_, meant_by) in &mut self.groups.states {
                meant_by.retain(|wish| !freed.contains(wish));
            }
        }
    }

    /// The counts of a wish.
    pub(crate) fn counts(&self, wish: usize) -> &Counts {
        &self.pool.states[wish]
    }

    /// The wishes that mean a group.
    pub(crate) fn about(&self, group: &Handle<Group>) -> &[usize] {
        &self.groups.states[group.ix]
    }

    /// A pod came to a node (1), or left it (-1).
    pub(crate) fn count_pod(&mut self, node: &Facts, group: usize, social: &Social, sign: i64) {
        let counts = &mut self.pool.states;
        for wish in &self.groups.states[group] {
            if let Some(domain) = counts[*wish].domain(node) {
                counts[*wish].meant.change(domain, 0, sign);
            }
        }
        let held = [(&social.far, true), (&social.needed, false)];
        for (wishes, against) in held {
            for wish in wishes {
                let own = &mut counts[wish.ix];
                if let Some(domain) = node.label(&own.key) {
                    if against { &mut own.against } else { &mut own.needed }.add(domain, sign);
                }
            }
        }
        for (weight, wish) in &social.preferred {
            let own = &mut counts[wish.ix];
            if let Some(domain) = node.label(&own.key) {
                own.liked.add(domain, sign * weight);
            }
        }
    }

    /// A node came (1), or went (-1), apart from its pods.
    pub(crate) fn count_node(&mut self, node: &Facts, sign: isize) {
        for (_, counts) in &mut self.pool.states {
            if counts.scope.is_some()
                && let Some(domain) = counts.domain(node)
            {
                counts.meant.change(domain, sign, 0);
            }
        }
    }
}

/// The wishes of required affinity in their two forms.
pub(crate) fn near(terms: &[(PodTerm, Text)]) -> (Vec<Wish>, Vec<Wish>) {
    let all: Arc<[PodTerm]> = terms.iter().map(|(term, _)| term.clone()).collect();
    let together = terms.iter().map(|(_, key)| wish(all.clone(), key)).collect();
    (together, terms.iter().map(|(term, key)| wish([term.clone()].into(), key)).collect())
}

/// What one term means.
pub(crate) fn single(term: &PodTerm, key: &Text) -> Wish {
    wish([term.clone()].into(), key)
}

fn wish(who: Arc<[PodTerm]>, key: &Text) -> Wish {
    Wish { who, key: key.clone(), scope: None }
}

impl Social {
    pub(crate) fn new(
        (near, needed): (Vec<Handle<Wish>>, Vec<Handle<Wish>>),
        far: Vec<Handle<Wish>>,
        preferred: Vec<(i64, Handle<Wish>)>,
        spread: Vec<Handle<Wish>>,
    ) -> Self {
        Self {
            near: near.into(),
            needed: needed.into(),
            far: far.into(),
            preferred: preferred.into(),
            spread: spread.into(),
        }
    }
}
