//! The picture of the cluster that decisions are made from, kept current change by change: nodes and pods
//! by small numbers, what they share once.

use crate::ask::{Ask, HostPort, Key, Spread, Wanted, claim_name};
use crate::devices::Provided;
use crate::intern::{Handle, PerText, Pool, Text, Texts};
use crate::nodes::Facts;
use crate::profile::Args;
use crate::resources::Resources;
use crate::wishes::{self, Group, PodTerm, Scope, Social, Wish, Wishes};
use api::Object;
use api::core::Node;
use api::resource::DeviceClass;
use api::selector::Labels;
use api::slim::Pod;
use slab::Slab;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";

/// A node, and what the pods on it or about to be there take.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) facts: Facts,
    /// The node exists; pods may be known before it, and outlive it.
    here: bool,
    pub(crate) requested: Resources,
    pub(crate) guessed: [i64; 2],
    /// By their number in [`Cluster::pod`].
    pub(crate) pods: Vec<usize>,
    pub(crate) ports: Vec<HostPort>,
    /// Pods for which room is being made here.
    pub(crate) nominated: Vec<Wanted>,
}

/// A pod on a node, or on its way there.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(crate) key: Key,
    pub(crate) ask: Handle<Ask>,
    pub(crate) group: Handle<Group>,
    pub(crate) place: usize,
    /// The API says so; otherwise it is being bound.
    pub(crate) bound: bool,
    /// The claims of storage that it mounts, as `namespace/name`.
    pub(crate) claims: Box<[Text]>,
    /// Its `status.startTime` in seconds, and the end of time before it has one.
    pub(crate) started: i64,
}

/// All nodes with their pods.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    pub(crate) texts: Texts,
    pub(crate) wishes: Wishes,
    /// The resources that classes of devices provide.
    pub(crate) provided: Provided,
    asks: Pool<Ask, Social>,
    places: Slab<Place>,
    names: PerText<usize>,
    pods: Slab<Placed>,
    at: HashMap<Key, usize>,
    /// The nodes that exist, those of different zones by turns; empty when that has to be found anew.
    order: Vec<usize>,
    nodes: usize,
    /// On how many nodes an image is.
    images: PerText<i64>,
    /// How many pods mount a claim.
    claims: PerText<usize>,
    /// Where pods are nominated to run.
    nominations: HashMap<Key, usize>,
}

/// The nodes that exist with the groups of their pods.
fn populated<'a>(
    places: &'a Slab<Place>,
    pods: &'a Slab<Placed>,
) -> impl Iterator<Item = (&'a Facts, impl Iterator<Item = usize> + 'a)> {
    let here = places.iter().filter(|(_, place)| place.here);
    here.map(|(_, place)| (&place.facts, place.pods.iter().map(|pod| pods[*pod].group.ix)))
}

impl Cluster {
    /// How many nodes exist.
    pub(crate) fn len(&self) -> usize {
        self.nodes
    }

    /// The nodes that exist, in the order in which they are looked at; to be given back.
    pub(crate) fn take_order(&mut self) -> Vec<usize> {
        if self.order.is_empty() {
            self.order = self.ordered();
        }
        std::mem::take(&mut self.order)
    }

    pub(crate) fn put_order(&mut self, order: Vec<usize>) {
        self.order = order;
    }

    /// The node exists, and is not only known by its pods.
    pub(crate) fn is_here(&self, ix: usize) -> bool {
        self.places[ix].here
    }

    fn ordered(&mut self) -> Vec<usize> {
        let keys = [self.texts.of(REGION), self.texts.of(ZONE)];
        let mut zones: BTreeMap<[&str; 2], Vec<usize>> = BTreeMap::new();
        for (ix, place) in self.places.iter().filter(|(_, place)| place.here) {
            let zone = keys.each_ref().map(|key| place.facts.label(key).map_or("", |value| value));
            zones.entry(zone).or_default().push(ix);
        }
        let longest = zones.values().map(Vec::len).max().unwrap_or(0);
        (0..longest).flat_map(|turn| zones.values().filter_map(move |zone| zone.get(turn).copied())).collect()
    }

    pub(crate) fn place(&self, ix: usize) -> &Place {
        &self.places[ix]
    }

    pub(crate) fn pod(&self, ix: usize) -> &Placed {
        &self.pods[ix]
    }

    /// The node of this name, were there one.
    pub(crate) fn named(&self, name: &Text) -> Option<usize> {
        self.names.get(name).copied().filter(|ix| self.places[*ix].here)
    }

    /// The same by a text.
    pub(crate) fn node(&mut self, name: &str) -> Option<usize> {
        let name = self.texts.of(name);
        self.named(&name)
    }

    /// On how many nodes an image is.
    pub(crate) fn spread_of_image(&self, image: &Text) -> i64 {
        self.images.get(image).copied().unwrap_or(0)
    }

    /// How many pods mount a claim of storage.
    pub(crate) fn users_of_claim(&self, claim: &Text) -> usize {
        self.claims.get(claim).copied().unwrap_or(0)
    }

    pub(crate) fn social(&self, ask: &Handle<Ask>) -> &Social {
        &self.asks.states[ask.ix]
    }

    /// What a pod asks, in the shared form.
    pub(crate) fn wanted(&mut self, pod: Arc<Pod>) -> Wanted {
        let group = Group {
            namespace: self.texts.of(pod.namespace()),
            labels: pod.labels().clone(),
            leaving: pod.is_deleting(),
        };
        let group = self.wishes.group(group);
        let ask = Ask::of(&pod, &mut self.texts);
        let ask = self.asks.find(&ask).unwrap_or_else(|| {
            self.asks.sweep();
            let social = self.social_of(&ask);
            self.asks.add(ask, social)
        });
        let volumes = pod.spec.iter().flat_map(|spec| &spec.volumes);
        let claim = |volume| format!("{}/{}", pod.namespace(), claim_name(&pod, volume));
        let claims = volumes.map(|volume| self.texts.of(&claim(volume))).collect();
        Wanted { key: Key::of(&pod), pod, ask, group, claims }
    }

    fn social_of(&mut self, ask: &Ask) -> Social {
        let mut all = |list: Vec<Wish>| list.into_iter().map(|wish| self.wish(wish)).collect::<Vec<_>>();
        let (together, each) = wishes::near(&ask.near);
        let near = (all(together), all(each));
        let far = all(ask.far.iter().map(|(term, key)| wishes::single(term, key)).collect());
        let spread = all(spread_wishes(ask, &ask.spread, false));
        let preferred =
            all(ask.preferred_pods.iter().map(|(_, term, key)| wishes::single(term, key)).collect());
        let weighed = ask.preferred_pods.iter().map(|(weight, ..)| *weight).zip(preferred);
        Social::new(near, far, weighed.collect(), spread)
    }

    /// The constraints that a profile gives to a pod that has none, counted among those that its siblings'
    /// selectors mean.
    pub(crate) fn default_spread(
        &mut self,
        args: &Args,
        wanted: &Wanted,
        siblings: Vec<Labels>,
    ) -> Vec<(Spread, Handle<Wish>)> {
        if siblings.is_empty() {
            return Vec::new();
        }
        let namespace = &wanted.ask.namespace;
        let within = |selector| PodTerm::within(namespace.clone(), selector);
        let who: Arc<[PodTerm]> = siblings.into_iter().map(within).collect();
        let texts = &mut self.texts;
        let with = |it| Spread { who: who.clone(), ..Spread::of(it, &wanted.pod, texts) };
        let spread: Vec<Spread> = args.default_spread.iter().map(with).collect();
        let wishes = spread_wishes(&wanted.ask, &spread, args.system_spread);
        spread.into_iter().zip(wishes.into_iter().map(|wish| self.wish(wish)).collect::<Vec<_>>()).collect()
    }

    /// A wish whose pods are counted from now on.
    pub(crate) fn wish(&mut self, wish: Wish) -> Handle<Wish> {
        self.wishes.wish(wish, populated(&self.places, &self.pods))
    }

    /// A class of devices came or changed, or went.
    pub(crate) fn put_device_class(&mut self, name: &str, class: Option<Arc<DeviceClass>>) {
        self.provided.put(name, class, &mut self.texts);
    }

    pub(crate) fn put_namespace(&mut self, name: &str, labels: Option<BTreeMap<String, String>>) {
        self.wishes.put_namespace(name, labels, || populated(&self.places, &self.pods));
    }

    /// A node came or changed; what was known of it before.
    pub(crate) fn put_node(&mut self, node: &Node) -> Option<Facts> {
        let facts = Facts::of(node, &mut self.texts);
        let ix = self.place_named(&facts.name.clone());
        let before = self.places[ix].here.then(|| self.places[ix].facts.clone());
        if before.as_ref() == Some(&facts) {
            return before;
        }
        let moved =
            before.as_ref().is_none_or(|before| !before.same_labels(&facts) || before.taints != facts.taints);
        if moved {
            self.detach(ix);
        }
        for (images, sign) in [(before.as_ref().map(|it| &it.images), -1), (Some(&facts.images), 1)] {
            self.count_images(images.into_iter().flatten(), sign);
        }
        self.places[ix].facts = facts;
        if moved {
            self.attach(ix);
        }
        before
    }

    /// A node is gone; its pods may outlive it for a while.
    pub(crate) fn remove_node(&mut self, name: &str) -> Option<Facts> {
        let ix = self.node(name)?;
        self.detach(ix);
        let facts = self.places[ix].facts.clone();
        self.count_images(facts.images.iter(), -1);
        self.drop_place_if_unused(ix);
        Some(facts)
    }

    fn count_images<'a>(&mut self, images: impl Iterator<Item = &'a (Text, i64)>, sign: i64) {
        for (image, _) in images {
            let count = self.images.entry(image.clone()).or_default();
            *count += sign;
            if *count == 0 {
                self.images.remove(image);
            }
        }
    }

    fn place_named(&mut self, name: &Text) -> usize {
        *self.names.entry(name.clone()).or_insert_with(|| {
            let mut facts = Facts::of(&Node::default(), &mut self.texts);
            facts.name = name.clone();
            self.places.insert(Place {
                facts,
                here: false,
                requested: Resources::default(),
                guessed: [0; 2],
                pods: Vec::new(),
                ports: Vec::new(),
                nominated: Vec::new(),
            })
        })
    }

    fn drop_place_if_unused(&mut self, ix: usize) {
        let place = &self.places[ix];
        if !place.here && place.pods.is_empty() && place.nominated.is_empty() {
            let place = self.places.remove(ix);
            self.names.remove(&place.facts.name);
        }
    }

    /// Takes a node out of all counts; its pods count no more.
    fn detach(&mut self, ix: usize) {
        if std::mem::take(&mut self.places[ix].here) {
            self.count_pods(ix, -1);
            self.wishes.count_node(&self.places[ix].facts, -1);
            self.nodes -= 1;
            self.order.clear();
        }
    }

    fn attach(&mut self, ix: usize) {
        self.places[ix].here = true;
        self.wishes.count_node(&self.places[ix].facts, 1);
        self.count_pods(ix, 1);
        self.nodes += 1;
        self.order.clear();
    }

    fn count_pods(&mut self, ix: usize, sign: i64) {
        let place = &self.places[ix];
        for pod in &place.pods {
            let Placed { group, ask, .. } = &self.pods[*pod];
            self.wishes.count_pod(&place.facts, group.ix, &self.asks.states[ask.ix], sign);
        }
    }

    /// A pod is on a node, or is assumed to be while it is being bound.
    pub(crate) fn put_pod(&mut self, node: &str, wanted: &Wanted, bound: bool) {
        self.remove_pod(&wanted.key);
        let name = self.texts.of(node);
        let place = self.place_named(&name);
        let (ask, group) = (wanted.ask.clone(), wanted.group.clone());
        self.add(Placed {
            key: wanted.key.clone(),
            ask,
            group,
            place,
            bound,
            claims: wanted.claims.clone(),
            started: wanted.started(),
        });
    }

    /// Adds a pod; its number.
    pub(crate) fn add(&mut self, placed: Placed) -> usize {
        let place = &mut self.places[placed.place];
        let ask = &placed.ask;
        place.requested.add(&ask.requests, 1);
        place.guessed.iter_mut().zip(ask.guessed).for_each(|(own, more)| *own += more);
        place.ports.extend(ask.ports.iter().cloned());
        if place.here {
            self.wishes.count_pod(&place.facts, placed.group.ix, &self.asks.states[ask.ix], 1);
        }
        for claim in &placed.claims {
            *self.claims.entry(claim.clone()).or_default() += 1;
        }
        let key = placed.key.clone();
        let ix = self.pods.insert(placed);
        place.pods.push(ix);
        self.at.insert(key, ix);
        ix
    }

    /// The pod that was on a node.
    pub(crate) fn remove_pod(&mut self, key: &Key) -> Option<Placed> {
        let ix = self.at.remove(key)?;
        let placed = self.pods.remove(ix);
        for claim in &placed.claims {
            let users = self.claims.entry(claim.clone()).or_default();
            *users = users.saturating_sub(1);
            if *users == 0 {
                self.claims.remove(claim);
            }
        }
        let place = &mut self.places[placed.place];
        let ask = &placed.ask;
        place.pods.retain(|pod| *pod != ix);
        place.requested.add(&ask.requests, -1);
        place.guessed.iter_mut().zip(ask.guessed).for_each(|(own, less)| *own -= less);
        for port in &ask.ports {
            if let Some(at) = place.ports.iter().position(|own| own == port) {
                place.ports.swap_remove(at);
            }
        }
        if place.here {
            self.wishes.count_pod(&place.facts, placed.group.ix, &self.asks.states[ask.ix], -1);
        }
        self.drop_place_if_unused(placed.place);
        Some(placed)
    }

    /// The pod that is known on a node, to see whether a change matters.
    pub(crate) fn placed(&self, key: &Key) -> Option<&Placed> {
        self.at.get(key).map(|ix| &self.pods[*ix])
    }

    /// Keeps room on a node for a pod that others are leaving for.
    pub(crate) fn nominate(&mut self, node: &str, wanted: &Wanted) {
        self.forget_nomination(&wanted.key);
        let name = self.texts.of(node);
        let place = self.place_named(&name);
        self.places[place].nominated.push(wanted.clone());
        self.nominations.insert(wanted.key.clone(), place);
    }

    /// The node that was kept for a pod.
    pub(crate) fn forget_nomination(&mut self, key: &Key) -> Option<Text> {
        let ix = self.nominations.remove(key)?;
        let place = &mut self.places[ix];
        place.nominated.retain(|wanted| wanted.key != *key);
        let name = place.facts.name.clone();
        self.drop_place_if_unused(ix);
        Some(name)
    }

    /// The node that is kept for a pod.
    pub(crate) fn nomination(&self, key: &Key) -> Option<usize> {
        self.nominations.get(key).copied()
    }
}

/// What constraints count. All labels that those of one sort name have to be there, unless it `may_lack`
/// them.
fn spread_wishes(ask: &Ask, spread: &[Spread], may_lack: bool) -> Vec<Wish> {
    let keys = |required: bool| {
        let same = spread.iter().filter(|other| other.required == required && !may_lack);
        same.map(|other| other.key.clone()).collect()
    };
    spread.iter().map(|one| spread_wish(ask, one, keys(one.required))).collect()
}

/// The pods that a constraint counts, on the nodes that count and have these labels.
fn spread_wish(ask: &Ask, spread: &Spread, keys: Box<[Text]>) -> Wish {
    let scope = Scope {
        keys,
        nodes: if spread.honor_affinity { ask.nodes.clone() } else { Default::default() },
        tolerations: spread.honor_taints.then(|| ask.tolerations.clone()),
    };
    Wish { who: spread.who.clone(), key: spread.key.clone(), scope: Some(Arc::new(scope)) }
}
