//! One decision: where a pod goes, or in Kubernetes' words why it goes nowhere.

use crate::ask::{Spread, Wanted};
use crate::claims::Claims;
use crate::cluster::{Cluster, Placed};
use crate::devices::Devices;
use crate::intern::{Handle, Text};
use crate::plugins::node::Taints;
use crate::plugins::pods::{self, Preference};
use crate::plugins::resources::Counted;
use crate::plugins::spread::{self, Preferred, Required};
use crate::plugins::{BEST, Filter, PLUGINS, PluginSet, Question, Reason, Refusal, Scale, resources};
use crate::profile::Profile;
use crate::wishes::Wish;
use crate::world::World;
use std::collections::{BTreeMap, HashSet};

/// In a large cluster not every node is looked at: this many that fit are enough to choose from.
const ENOUGH_NODES: usize = 100;

/// What a decision is about.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) profile: &'a Profile,
    pub(crate) wanted: &'a Wanted,
    /// Constraints that the profile gives to pods that have none of their own.
    pub(crate) defaults: &'a [(Spread, Handle<Wish>)],
    /// What its claims of storage ask for, were there any.
    pub(crate) claims: Option<&'a Claims>,
    /// The same of devices.
    pub(crate) devices: Option<&'a Devices>,
    pub(crate) world: &'a dyn World,
}

/// What has to be known of a pod before nodes are looked at (`preFilter`).
pub(crate) struct Cycle<'a> {
    pub(crate) profile: &'a Profile,
    pub(crate) wanted: &'a Wanted,
    pub(crate) requests: Vec<Counted>,
    pub(crate) spread: Vec<Required>,
    /// Nobody is there yet whom its affinity means but it itself: it may be the first.
    pub(crate) first_of_its_kind: bool,
    /// Wishes of pods that are there, some of which will not have this one near.
    pub(crate) refusing: Vec<usize>,
    pub(crate) preferred: Vec<(i64, usize, Preference)>,
    pub(crate) preferred_spread: Vec<Preferred>,
    /// Nodes have to have all topologies of preferred constraints to be compared by them.
    pub(crate) whole_topologies: bool,
    pub(crate) images_known: bool,
    pub(crate) claims: Option<&'a Claims>,
    pub(crate) devices: Option<&'a Devices>,
    pub(crate) world: &'a dyn World,
    pub(crate) taints: Taints,
    filters: Vec<(usize, &'static Filter)>,
}

impl<'a> Cycle<'a> {
    pub(crate) fn new(cluster: &Cluster, subject: Subject<'a>) -> Self {
        let Subject { profile, wanted, .. } = subject;
        let (social, namespaces) = (cluster.social(&wanted.ask), &cluster.wishes.namespaces);
        let about = cluster.wishes.about(&wanted.group).iter().copied();
        let nobody = social.near.iter().all(|wish| cluster.wishes.counts(wish.ix).meant.is_empty());
        let mut cycle = Self {
            profile,
            wanted,
            requests: resources::counted(&wanted.ask.requests, &cluster.provided, &profile.args.fit),
            spread: required(cluster, subject),
            first_of_its_kind: nobody && social.near.iter().all(|wish| wish.means(&wanted.group, namespaces)),
            refusing: about.filter(|wish| !cluster.wishes.counts(*wish).against.is_empty()).collect(),
            preferred: Vec::new(),
            preferred_spread: Vec::new(),
            whole_topologies: subject.defaults.is_empty() || !profile.args.system_spread,
            images_known: false,
            claims: subject.claims,
            devices: subject.devices,
            world: subject.world,
            taints: Taints::default(),
            filters: Vec::new(),
        };
        let filters =
            profile.filters.iter().filter_map(|plugin| Some((*plugin, PLUGINS[*plugin].filter.as_ref()?)));
        cycle.filters = filters.filter(|(_, filter)| (filter.applies)(&cycle)).collect();
        cycle
    }

    /// What scores need beyond that (`preScore`).
    fn prepare_scores(&mut self, cluster: &Cluster, subject: Subject<'_>, fitting: &[usize]) {
        self.preferred = pods::preferences(cluster, self.wanted, &self.profile.args);
        self.preferred_spread = preferred(cluster, subject, fitting);
        let mut images = self.wanted.ask.images.iter();
        self.images_known = images.any(|image| cluster.spread_of_image(image) > 0);
    }

    /// Whether what the pods of a node take decides alone whether this pod can be there: nothing that looks
    /// at pods has a say, nobody else is to come there, and the node itself would do.
    pub(crate) fn amounts_decide(&self, cluster: &Cluster, place: usize) -> bool {
        let fit = crate::profile::plugin("NodeResourcesFit");
        let question = Question { cluster, cycle: self, place: cluster.place(place) };
        let mut others = self.filters.iter().filter(|(plugin, _)| *plugin != fit);
        self.filters.iter().any(|(plugin, _)| *plugin == fit)
            && question.place.nominated.is_empty()
            && others.all(|(_, filter)| !filter.looks_at_pods && (filter.refuse)(&question).is_none())
    }

    /// The first filter that refuses a node, as things are.
    fn refusal(&self, cluster: &Cluster, place: usize) -> Option<(usize, Refusal)> {
        let question = Question { cluster, cycle: self, place: cluster.place(place) };
        self.filters.iter().find_map(|(plugin, filter)| Some((*plugin, (filter.refuse)(&question)?)))
    }
}

/// The constraints of a pod, its own or else those by default, with what they count.
fn constraints<'a>(
    cluster: &'a Cluster,
    subject: Subject<'a>,
) -> impl Iterator<Item = (&'a Spread, &'a Handle<Wish>)> {
    let ask = &subject.wanted.ask;
    let own = ask.spread.iter().zip(&cluster.social(ask).spread);
    own.chain(subject.defaults.iter().map(|(spread, wish)| (spread, wish)))
}

fn required(cluster: &Cluster, subject: Subject<'_>) -> Vec<Required> {
    let (group, namespaces) = (&subject.wanted.group, &cluster.wishes.namespaces);
    let hard = constraints(cluster, subject).filter(|(spread, _)| spread.required);
    let hard = hard.map(|(spread, wish)| Required {
        wish: wish.ix,
        own: i64::from(spread.who.iter().all(|term| term.means(group, namespaces))),
        max_skew: spread.max_skew,
        min_domains: spread.min_domains,
    });
    hard.collect()
}

fn preferred(cluster: &Cluster, subject: Subject<'_>, fitting: &[usize]) -> Vec<Preferred> {
    let soft = constraints(cluster, subject).filter(|(spread, _)| !spread.required);
    let soft = soft.map(|(spread, wish)| Preferred {
        wish: wish.ix,
        max_skew: spread.max_skew,
        weight: spread::weight(domains(cluster, &spread.key, fitting)),
    });
    soft.collect()
}

/// How many values a label has among nodes; its absence is one.
fn domains(cluster: &Cluster, key: &Text, places: &[usize]) -> usize {
    let value = |place: &usize| cluster.place(*place).facts.label(key);
    if &**key == "kubernetes.io/hostname" {
        places.len()
    } else {
        places.iter().map(value).collect::<HashSet<_>>().len()
    }
}

/// Whether and why a node is out, also when the pods are there for which room is being made on it.
pub(crate) fn refuse(
    cluster: &mut Cluster,
    subject: Subject<'_>,
    cycle: &Cycle<'_>,
    place: usize,
) -> Option<(usize, Refusal)> {
    if !cluster.place(place).nominated.is_empty() {
        let wanted = subject.wanted;
        let is_first = |other: &&Wanted| other.key != wanted.key && other.ask.priority >= wanted.ask.priority;
        let nominated = cluster.place(place).nominated.iter().filter(is_first);
        let first: Vec<Placed> = nominated.map(|other| placed(other, place)).collect();
        let keys: Vec<_> = first.iter().map(|placed| placed.key.clone()).collect();
        for placed in first {
            cluster.add(placed);
        }
        let refusal =
            if keys.is_empty() { None } else { Cycle::new(cluster, subject).refusal(cluster, place) };
        for key in &keys {
            cluster.remove_pod(key);
        }
        if refusal.is_some() {
            return refusal;
        }
    }
    cycle.refusal(cluster, place)
}

fn placed(wanted: &Wanted, place: usize) -> Placed {
    Placed {
        key: wanted.key.clone(),
        ask: wanted.ask.clone(),
        group: wanted.group.clone(),
        place,
        bound: false,
        claims: wanted.claims.clone(),
        started: wanted.started(),
    }
}

/// Why a pod fits on no node.
#[derive(Debug, Default)]
pub(crate) struct Unfit {
    /// How many nodes there are.
    nodes: usize,
    /// What refused it before any node was looked at.
    at_once: Option<String>,
    reasons: Reasons,
    /// Who refused it.
    pub(crate) plugins: PluginSet,
    /// Nodes where fewer pods could help.
    pub(crate) resolvable: Vec<usize>,
}

impl Unfit {
    /// `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.`
    pub(crate) fn message(&self, cycle_requests: &[Counted]) -> String {
        match &self.at_once {
            _ if self.nodes == 0 => "no nodes available to schedule pods".to_owned(),
            Some(reason) => format!("0/{} nodes are available: {reason}.", self.nodes),
            None => self.reasons.message(self.nodes, cycle_requests),
        }
    }

    /// A pod that no node can help.
    pub(crate) fn at_once(nodes: usize, reason: String, plugin: &str) -> Self {
        let mut unfit = Self { nodes, at_once: Some(reason), ..Self::default() };
        unfit.plugins.insert(crate::profile::plugin(plugin));
        unfit
    }

    /// It was refused before a later plugin had a look at it.
    pub(crate) fn never_reached(&self, plugin: &str) -> bool {
        self.at_once.is_some() && !self.plugins.contains(crate::profile::plugin(plugin))
    }

    pub(crate) fn has_nodes(&self) -> bool {
        self.nodes > 0
    }
}

/// How many nodes are out for which reason.
#[derive(Debug, Default)]
pub(crate) struct Reasons {
    known: Vec<(Reason, usize)>,
    /// Nodes that were not looked at.
    absent: Option<(String, usize)>,
}

impl Reasons {
    pub(crate) fn add(&mut self, reason: Reason) {
        match self.known.iter_mut().find(|(own, _)| *own == reason) {
            Some((_, count)) => *count += 1,
            None => self.known.push((reason, 1)),
        }
    }

    pub(crate) fn absent(&mut self, reason: String, nodes: usize) {
        self.absent = Some((reason, nodes)).filter(|(_, nodes)| *nodes > 0);
    }

    pub(crate) fn message(&self, nodes: usize, requests: &[Counted]) -> String {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for (reason, count) in &self.known {
            let texts: Vec<String> = match reason {
                Reason::Texts(texts) => texts.iter().map(|text| (*text).to_owned()).collect(),
                Reason::Resources(lacking) => resources::lacking(*lacking, requests).collect(),
            };
            texts.into_iter().for_each(|text| *counts.entry(text).or_default() += count);
        }
        if let Some((reason, count)) = &self.absent {
            *counts.entry(reason.clone()).or_default() += count;
        }
        let mut texts: Vec<_> =
            counts.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        texts.sort();
        format!("0/{nodes} nodes are available: {}.", texts.join(", "))
    }
}

/// Why no node is looked at, or which alone.
enum Narrowed {
    All,
    To(Vec<usize>),
    None(String),
}

fn narrow(cluster: &mut Cluster, subject: Subject<'_>) -> Narrowed {
    let enabled = subject.profile.has_filter("NodeAffinity");
    match subject.wanted.named_nodes(&mut cluster.texts).filter(|_| enabled) {
        None => Narrowed::All,
        Some(names) if names.is_empty() => Narrowed::None("pod affinity terms conflict".to_owned()),
        Some(names) => Narrowed::To(names.iter().filter_map(|name| cluster.named(name)).collect()),
    }
}

/// The node's number, or why there is none. `start` is where the search begins, and moves on.
pub(crate) fn schedule(
    cluster: &mut Cluster,
    subject: Subject<'_>,
    start: &mut usize,
) -> Result<usize, Unfit> {
    let nodes = cluster.len();
    let mut unfit = Unfit { nodes, ..Unfit::default() };
    let mut cycle = Cycle::new(cluster, subject);
    if let Some(place) = nominated(cluster, subject)
        && nodes > 0
        && refuse(cluster, subject, &cycle, place).is_none()
    {
        return Ok(place);
    }
    let (narrow, narrowed) = match narrow(cluster, subject) {
        Narrowed::All => (cluster.take_order(), false),
        Narrowed::To(places) => (places, true),
        Narrowed::None(reason) => return Err(Unfit::at_once(nodes, reason, "NodeAffinity")),
    };
    let enough = enough(narrow.len(), subject.profile.percentage_of_nodes_to_score);
    let mut fitting = Vec::with_capacity(enough);
    let mut looked_at = 0;
    while looked_at < narrow.len() && fitting.len() < enough {
        let place = narrow[(*start + looked_at) % narrow.len()];
        looked_at += 1;
        match refuse(cluster, subject, &cycle, place) {
            None => fitting.push(place),
            Some((plugin, refusal)) => unfit.refused(place, plugin, refusal),
        }
    }
    if narrowed {
        let reason = "node(s) didn't satisfy plugin(s) [NodeAffinity]".to_owned();
        unfit.reasons.absent(reason, nodes - narrow.len());
        unfit.plugins.insert(crate::profile::plugin("NodeAffinity"));
    } else {
        cluster.put_order(narrow);
    }
    *start = if nodes == 0 { 0 } else { (*start + looked_at) % nodes };
    match fitting.as_slice() {
        [] => Err(unfit),
        [only] => Ok(*only),
        several => {
            cycle.prepare_scores(cluster, subject, several);
            Ok(several[best(cluster, &cycle, several)])
        }
    }
}

impl Unfit {
    fn refused(&mut self, place: usize, plugin: usize, refusal: Refusal) {
        self.reasons.add(refusal.reason);
        self.plugins.insert(plugin);
        if refusal.resolvable {
            self.resolvable.push(place);
        }
    }
}

/// The node where others are leaving for this pod's sake.
fn nominated(cluster: &mut Cluster, subject: Subject<'_>) -> Option<usize> {
    let wanted = subject.wanted;
    let told = wanted.pod.status.as_ref().and_then(|status| status.nominated_node_name.as_deref());
    let place = match cluster.nomination(&wanted.key) {
        Some(place) => Some(place),
        None => told.filter(|name| !name.is_empty()).and_then(|name| cluster.node(name)),
    };
    place.filter(|place| cluster.is_here(*place))
}

/// As Kubernetes does by default: half of the nodes or, the more there are, down to a twentieth.
fn enough(nodes: usize, percentage: usize) -> usize {
    if nodes < ENOUGH_NODES {
        return nodes;
    }
    let percent = if percentage == 0 { 50_usize.saturating_sub(nodes / 125).max(5) } else { percentage };
    (nodes * percent / 100).clamp(ENOUGH_NODES, nodes)
}

/// The first of the best: the later ones have their turn when the search begins elsewhere.
fn best(cluster: &Cluster, cycle: &Cycle<'_>, places: &[usize]) -> usize {
    let mut totals = vec![0; places.len()];
    let mut values = Vec::with_capacity(places.len());
    for (plugin, weight) in &cycle.profile.scores {
        let Some(score) = PLUGINS[*plugin].score.as_ref().filter(|score| (score.applies)(cycle)) else {
            continue;
        };
        values.clear();
        let question = |place: &usize| Question { cluster, cycle, place: cluster.place(*place) };
        values.extend(places.iter().map(|place| (score.raw)(&question(place))));
        normalize(&mut values, score.scale);
        totals.iter_mut().zip(&values).for_each(|(total, value)| *total += weight * value);
    }
    totals.iter().enumerate().rev().max_by_key(|(_, total)| **total).map_or(0, |(at, _)| at)
}

fn normalize(values: &mut [i64], scale: Scale) {
    let counted = || values.iter().filter(|value| !matches!(scale, Scale::Spread) || **value >= 0);
    let highest = counted().max().copied().unwrap_or(0);
    let lowest = counted().min().copied().unwrap_or(0);
    for value in values {
        *value = match scale {
            Scale::AsIs => *value,
            Scale::Highest if highest == 0 => 0,
            Scale::Highest => BEST * *value / highest,
            Scale::Lowest if highest == 0 => BEST,
            Scale::Lowest => BEST - BEST * *value / highest,
            Scale::Between if highest == lowest => 0,
            Scale::Between => BEST * (*value - lowest) / (highest - lowest),
            Scale::Spread if *value < 0 => 0,
            Scale::Spread if highest == 0 => BEST,
            Scale::Spread => BEST * (highest + lowest - *value) / highest,
        };
    }
}
