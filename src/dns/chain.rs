//! What one server block does with a name: its table of hosts, the cluster's names, what is kept, and
//! upstreams, in CoreDNS' order.

use crate::cache::{AnswerCache, Kept, Known};
use crate::corefile::block::zone_of;
use crate::corefile::{Block, Hosts, KubernetesRule, Pods};
use crate::metrics::BlockCounts;
use crate::name::Name;
use crate::upstream::{Group, PATIENCE, Surroundings};
use crate::wire::{Answer, Owner, Query, Section, Ttl, Writer, code, kind};
use crate::zone::{Asked, Found, Zone};
use base::Phase;
use base::clock::{self, Instant};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Clients that could have an answer whose life is over wait no longer for a better one (RFC 8767's
/// client response timer).
const STALE_PATIENCE: Duration = Duration::from_millis(1_500);

/// One line of log about upstreams that do not answer, however many queries they leave.
const COMPLAINT: Duration = Duration::from_secs(10);

/// The cluster's names, and the blocks of addresses whose reverse names are the cluster's alone.
pub(crate) struct View<'a> {
    pub(crate) zone: &'a Zone,
    pub(crate) blocks: &'a [(IpAddr, u8)],
}

/// What can be said at once, or what is to be done first.
pub(crate) enum Step {
    /// It was written.
    Answered,
    Kept(Arc<Kept>, Ttl),
    /// The name is an alias of another one.
    Alias(Box<Name>),
    /// Upstreams have to be asked. What is kept, although its life is over, serves if they fail.
    Ask(Option<(Arc<Kept>, Ttl)>),
}

/// What a client is told.
pub(crate) enum Told {
    Answer(Answer),
    Kept(Arc<Kept>, Ttl),
}

/// A question that upstreams are being asked; the value comes when they have answered or failed.
type Flight = watch::Receiver<Option<Option<Answer>>>;

pub(crate) struct Chain {
    pub(crate) block: Block,
    pub(crate) counts: Arc<BlockCounts>,
    cache: Option<Arc<AnswerCache>>,
    groups: Vec<Arc<Group>>,
    surroundings: Surroundings,
    flights: Mutex<HashMap<Box<[u8]>, Flight>>,
    complained: Mutex<Option<Instant>>,
}

impl Chain {
    /// What a block `before` has kept, and knows of its upstreams, goes on to serve if both are meant to be
    /// as they were.
    pub(crate) fn new(block: Block, before: Option<&Self>, surroundings: &Surroundings) -> Arc<Self> {
        let counts = surroundings.metrics.block(&Self::label(&block));
        let same = |old: &&Self| {
            let old = &old.block;
            (&old.zones, &old.cache, &old.forwards) == (&block.zones, &block.cache, &block.forwards)
        };
        let (cache, groups) = match before.filter(same) {
            Some(old) => (old.cache.clone(), old.groups.clone()),
            None => {
                let cache = |rule| Arc::new(AnswerCache::new(rule, counts.cache.clone()));
                let group = |rule| Group::new(rule, surroundings);
                (block.cache.clone().map(cache), block.forwards.iter().cloned().map(group).collect())
            }
        };
        Arc::new(Self {
            cache,
            groups,
            counts,
            block,
            surroundings: surroundings.clone(),
            flights: Mutex::default(),
            complained: Mutex::default(),
        })
    }

    fn label(block: &Block) -> String {
        let zones: Vec<String> = block.zones.iter().map(Name::to_string).collect();
        zones.join(",")
    }

    /// How many answers are kept, for metrics.
    pub(crate) fn entries(&self) -> Option<(String, [usize; 2])> {
        self.cache.as_ref().map(|cache| (Self::label(&self.block), cache.entries()))
    }

    /// The name that is to be asked for in the place of another.
    pub(crate) fn rewritten(&self, name: &Name) -> Name {
        let mut name = *name;
        for rule in &self.block.rewrites {
            if let Some(other) = rule.apply(&name) {
                name = other;
                if !rule.goes_on {
                    break;
                }
            }
        }
        name
    }

    /// Answers without waiting for anything, if that is possible.
    pub(crate) fn step(self: &Arc<Self>, query: &Query, view: &View<'_>, out: &mut Writer) -> Step {
        out.begin(&query.name, true);
        for denied in &self.block.denied {
            if denied.kind.is_none_or(|kind| kind == query.kind)
                && zone_of(&denied.zones, &query.name).is_some()
            {
                out.fail(denied.code);
                return Step::Answered;
            }
        }
        if self.block.hosts.iter().any(|hosts| from_hosts(hosts, query, out)) {
            return Step::Answered;
        }
        if let Some(step) = self.block.kubernetes.as_ref().and_then(|rule| cluster(rule, query, view, out)) {
            return step;
        }
        if self.group(&query.name).is_none() {
            out.begin(&query.name, false);
            out.fail(code::REFUSED);
            return Step::Answered;
        }
        self.kept(query)
    }

    fn group(&self, name: &Name) -> Option<&Arc<Group>> {
        self.groups.iter().find(|group| group.rule.covers(name))
    }

    fn kept(self: &Arc<Self>, query: &Query) -> Step {
        let Some(cache) = &self.cache else { return Step::Ask(None) };
        match cache.get(query) {
            Known::Fresh { kept, ttl, prefetch } => {
                if prefetch {
                    self.counts.cache.prefetches.fetch_add(1, Ordering::Relaxed);
                    self.fly(query, None);
                }
                Step::Kept(kept, ttl)
            }
            Known::Stale { kept, ttl, resting } if resting || cache.gives_stale_first() => {
                if !resting {
                    self.fly(query, Some(kept.clone()));
                }
                self.counts.cache.stale.fetch_add(1, Ordering::Relaxed);
                Step::Kept(kept, ttl)
            }
            Known::Stale { kept, ttl, .. } => Step::Ask(Some((kept, ttl))),
            Known::Nothing => Step::Ask(None),
        }
    }

    /// What upstreams say; where they fail, what is kept, or that they failed.
    pub(crate) async fn ask(self: &Arc<Self>, query: &Query, stale: Option<(Arc<Kept>, Ttl)>) -> Told {
        let mut flight = self.fly(query, stale.as_ref().map(|(kept, _)| kept.clone()));
        let patience = if stale.is_some() { STALE_PATIENCE } else { PATIENCE * 2 };
        let landed = tokio::time::timeout(patience, flight.wait_for(Option::is_some)).await;
        let answer = match landed {
            Ok(Ok(landed)) => landed.clone().flatten(),
            Ok(Err(_)) | Err(_) => None,
        };
        let failed = answer.as_ref().is_none_or(|answer| answer.code == code::SERV_FAIL);
        match (stale, answer) {
            (Some((kept, ttl)), _) if failed => {
                self.counts.cache.stale.fetch_add(1, Ordering::Relaxed);
                Told::Kept(kept, ttl)
            }
            (_, Some(answer)) => Told::Answer(answer),
            (_, None) => Told::Answer(Answer::failure(code::SERV_FAIL)),
        }
    }

    fn flights(&self) -> std::sync::MutexGuard<'_, HashMap<Box<[u8]>, Flight>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks upstreams, unless somebody asks them the same already. What they say is kept, whether
    /// anybody still waits for it or not.
    fn fly(self: &Arc<Self>, query: &Query, stale: Option<Arc<Kept>>) -> Flight {
        let key = query.key();
        let mut flights = self.flights();
        if let Some(flight) = flights.get(key.as_bytes()) {
            return flight.clone();
        }
        let (sender, receiver) = watch::channel(None);
        flights.insert(key.as_bytes().into(), receiver.clone());
        drop(flights);
        let landing = Landing { chain: self.clone(), key: key.as_bytes().into() };
        let query = query.clone();
        self.surroundings.supervisor.detached("dns query", Phase::Front, async move {
            let answer = landing.chain.fetch(&query, stale).await;
            drop(landing);
            sender.send_replace(Some(answer));
        });
        receiver
    }

    async fn fetch(&self, query: &Query, stale: Option<Arc<Kept>>) -> Option<Answer> {
        let answer = match self.group(&query.name) {
            Some(group) => group.ask(query).await,
            None => None,
        };
        let failed = answer.as_ref().is_none_or(|answer| answer.code == code::SERV_FAIL);
        if failed && self.block.errors {
            self.complain(query, answer.is_some());
        }
        match (stale, answer, &self.cache) {
            (Some(stale), answer, _) if failed => {
                stale.rest();
                answer
            }
            (_, Some(answer), Some(cache)) => Some(cache.put(query, answer)),
            (_, answer, _) => answer,
        }
    }

    fn complain(&self, query: &Query, answered: bool) {
        let mut last = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|at| at.elapsed() < COMPLAINT) {
            return;
        }
        *last = Some(clock::instant());
        let name = query.name;
        if answered {
            tracing::warn!(%name, kind = query.kind, "upstreams failed to resolve a name");
        } else {
            tracing::warn!(%name, kind = query.kind, "no upstream answers, for this name and maybe others");
        }
    }
}

/// Forgets a flight when it ends, however that happens.
struct Landing {
    chain: Arc<Chain>,
    key: Box<[u8]>,
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.chain.flights().remove(&self.key);
    }
}

/// Writes what a table of hosts has; says whether it is the one to answer.
fn from_hosts(hosts: &Hosts, query: &Query, out: &mut Writer) -> bool {
    if query.kind == kind::PTR
        && let Some(names) = query.name.address().and_then(|address| hosts.names.get(&address))
    {
        for name in names {
            out.record(Section::Answer, Owner::Question, (kind::PTR, hosts.ttl_s), |out| out.name(name));
        }
        return true;
    }
    if zone_of(&hosts.zones, &query.name).is_none() {
        return false;
    }
    let Some(addresses) = hosts.addresses.get(query.name.as_bytes()) else {
        if zone_of(&hosts.through, &query.name).is_some() {
            return false;
        }
        out.fail(code::NX_DOMAIN);
        return true;
    };
    for address in addresses {
        let fits = match query.kind {
            kind::A => address.is_ipv4(),
            kind::AAAA => address.is_ipv6(),
            kind => kind == kind::ANY,
        };
        if fits {
            out.address(Section::Answer, Owner::Question, *address, hosts.ttl_s);
        }
    }
    true
}

/// What the cluster says of a name, if it is the one to say it.
fn cluster(rule: &KubernetesRule, query: &Query, view: &View<'_>, out: &mut Writer) -> Option<Step> {
    let own = zone_of(&rule.zones, &query.name)?;
    let pods = rule.pods == Pods::Insecure;
    let asked = Asked { name: &query.name, kind: query.kind, ttl_s: rule.ttl_s, pods };
    let mut through = zone_of(&rule.through, &query.name).is_some();
    let found = if own == view.zone.domain() {
        view.zone.lookup(asked, out)
    } else {
        match query.name.address().filter(|address| lies_in(*address, view.blocks)) {
            Some(address) => {
                through = false;
                view.zone.reverse(address, asked, out)
            }
            None => Found::NoName,
        }
    };
    match found {
        Found::Answered => Some(Step::Answered),
        Found::NoName if through => None,
        Found::NoName => {
            view.zone.deny(asked, out);
            Some(Step::Answered)
        }
        Found::Alias(target) if matches!(query.kind, kind::CNAME | kind::ANY) => {
            let record = (kind::CNAME, rule.ttl_s);
            out.record(Section::Answer, Owner::Question, record, |out| out.name(&target));
            Some(Step::Answered)
        }
        Found::Alias(target) => Some(Step::Alias(target)),
    }
}

/// Whether an address lies in one of the blocks.
pub(crate) fn lies_in(address: IpAddr, blocks: &[(IpAddr, u8)]) -> bool {
    blocks.iter().any(|(block, prefix)| within(address, *block, *prefix))
}

fn within(address: IpAddr, block: IpAddr, prefix: u8) -> bool {
    match (address, block) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            (a.to_bits() ^ b.to_bits()).checked_shr(32 - u32::from(prefix.min(32))).unwrap_or(0) == 0
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            (a.to_bits() ^ b.to_bits()).checked_shr(128 - u32::from(prefix.min(128))).unwrap_or(0) == 0
        }
        _ => false,
    }
}

#[cfg(test)]
#[path = "chain_tests.rs"]
mod tests;
