//! From a query to what its client is told: chooses the server block, follows aliases and rewritten
//! names.

use crate::chain::{Chain, Step, Told, View};
use crate::name::Name;
use crate::upstream::Surroundings;
use crate::wire::{Answer, Delivery, Query, Ttl, Writer, code, kind};
use crate::zone::Zone;
use arc_swap::ArcSwap;
use hickory_proto::op::{Message, Query as Question};
use hickory_proto::rr::rdata::CNAME;
use hickory_proto::rr::{Name as LongName, RData, Record};
use std::net::IpAddr;
use std::sync::Arc;

/// How often an alias leads to another.
const ALIASES: usize = 8;

/// Seconds that the record of an alias lives.
const ALIAS_TTL_S: u32 = 5;

/// The server blocks that are in force.
pub(crate) struct Chains(pub(crate) Vec<Arc<Chain>>);

impl Chains {
    /// The block whose zone is the longest that a name lies in.
    fn find(&self, name: &Name) -> Option<&Arc<Chain>> {
        let zones = self.0.iter().flat_map(|chain| chain.block.zones.iter().map(move |zone| (zone, chain)));
        let own = zones.filter(|(zone, _)| name.is_in(zone)).max_by_key(|(zone, _)| zone.len());
        own.map(|(_, chain)| chain)
    }
}

/// Everything that answers.
pub(crate) struct Resolver {
    pub(crate) zone: ArcSwap<Zone>,
    pub(crate) chains: ArcSwap<Chains>,
    pub(crate) blocks: Vec<(IpAddr, u8)>,
    pub(crate) surroundings: Surroundings,
}

/// What is known of a query at once.
pub(crate) enum Now {
    /// It was written, by this block or without one.
    Answered(Option<Arc<Chain>>),
    Kept(Arc<Chain>, Told),
    /// [`Resolver::resolve`] has to be asked.
    Later,
}

/// A name that stands for another one in what upstreams say.
struct Renamed {
    asked: Name,
    instead: Name,
}

impl Resolver {
    /// Answers without waiting for anything, if that is possible.
    pub(crate) fn at_once(&self, query: &Query, out: &mut Writer) -> Now {
        let chains = self.chains.load();
        let refused = |code: u16, out: &mut Writer| {
            out.begin(&query.name, false);
            out.fail(code);
        };
        let chain = chains.find(&query.name);
        let fault = query.fault().or_else(|| self.is_loop(query).then_some(code::REFUSED));
        let (Some(chain), None) = (chain, fault) else {
            refused(fault.unwrap_or(code::REFUSED), out);
            return Now::Answered(chain.cloned());
        };
        if !chain.block.rewrites.is_empty() && chain.rewritten(&query.name) != query.name {
            return Now::Later;
        }
        let zone = self.zone.load();
        match chain.step(query, &View { zone: &zone, blocks: &self.blocks }, out) {
            Step::Answered => Now::Answered(Some(chain.clone())),
            Step::Kept(kept, ttl) => Now::Kept(chain.clone(), Told::Kept(kept, ttl)),
            Step::Alias(_) | Step::Ask(_) => Now::Later,
        }
    }

    fn is_loop(&self, query: &Query) -> bool {
        query.kind == kind::HINFO && self.surroundings.loops.caught(&query.name)
    }

    /// Answers, whoever has to be asked for it; with the block that the name belongs to.
    pub(crate) async fn resolve(&self, query: &Query) -> (Option<Arc<Chain>>, Told) {
        let chains = self.chains.load_full();
        let first = chains.find(&query.name).cloned();
        let (mut name, mut aliases) = (query.name, Vec::new());
        while aliases.len() < ALIASES {
            let Some(chain) = chains.find(&name) else { break };
            let renamed = Renamed { asked: name, instead: chain.rewritten(&name) };
            let asked = query.about(renamed.instead);
            let told = match self.step(chain, &asked) {
                (Step::Alias(target), _) => {
                    aliases.push((name, *target));
                    name = *target;
                    continue;
                }
                (Step::Answered, answer) => Told::Answer(answer),
                (Step::Kept(kept, ttl), _) => Told::Kept(kept, ttl),
                (Step::Ask(stale), _) => chain.ask(&asked, stale).await,
            };
            if aliases.is_empty() && renamed.instead == query.name {
                return (first, told);
            }
            let composed = compose(query, &asked, &aliases, (&renamed, told));
            return (first, Told::Answer(composed.unwrap_or_else(|| Answer::failure(code::SERV_FAIL))));
        }
        (first, Told::Answer(Answer::failure(code::SERV_FAIL)))
    }

    fn step(&self, chain: &Arc<Chain>, query: &Query) -> (Step, Answer) {
        let (zone, mut out) = (self.zone.load(), Writer::new());
        let step = chain.step(query, &View { zone: &zone, blocks: &self.blocks }, &mut out);
        (step, out.finish().clone())
    }
}

impl Told {
    pub(crate) fn answer(&self) -> (&Answer, Ttl) {
        match self {
            Self::Answer(answer) => (answer, Ttl::Aged(0)),
            Self::Kept(kept, ttl) => (&kept.answer, *ttl),
        }
    }
}

/// The answer about a query's own name, from the answer about the one that was asked for in the end.
fn compose(
    query: &Query,
    asked: &Query,
    aliases: &[(Name, Name)],
    (renamed, told): (&Renamed, Told),
) -> Option<Answer> {
    let (answer, ttl) = told.answer();
    let mut bytes = Vec::new();
    answer.write(asked, Delivery { ttl, ..Delivery::fresh(usize::from(u16::MAX)) }, &mut bytes);
    let mut message = Message::from_vec(&bytes).ok()?;
    let (instead, own) = (long(&renamed.instead)?, long(&renamed.asked)?);
    for record in message.answers.iter_mut().filter(|record| record.name == instead) {
        record.name = own.clone();
    }
    let links = aliases.iter().map(|(alias, target)| {
        let data = RData::CNAME(CNAME(long(target)?));
        Some(Record::from_rdata(long(alias)?, ALIAS_TTL_S, data))
    });
    let links: Vec<Record> = links.collect::<Option<_>>()?;
    message.answers.splice(0..0, links);
    message.metadata.authoritative = true;
    message.edns = None;
    message.queries = vec![Question::query(long(&query.name)?, query.kind.into())];
    let mut composed = Answer::own(&message.to_vec().ok()?, query)?;
    (composed.code, composed.authoritative) = (answer.code, true);
    Some(composed)
}

fn long(name: &Name) -> Option<LongName> {
    LongName::from_labels(name.labels()).ok()
}
