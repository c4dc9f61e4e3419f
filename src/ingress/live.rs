//! Rules with what they need at run time: backends, gates, turns.

use crate::gate::Gate;
use crate::plan::Plan;
use crate::rules::{Action, BackendKey, Limits, Mirror, Route, Share};
use crate::table::Table;
use crate::upstream::{Backend, Upstreams};
use http::StatusCode;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A route that can be followed.
pub(crate) struct Live {
    pub(crate) route: Route,
    pub(crate) gate: Option<Arc<Gate>>,
    shares: Vec<(u32, Result<Arc<Backend>, StatusCode>)>,
    weights: u32,
    pub(crate) mirrors: Vec<(Mirror, Arc<Backend>)>,
    turn: AtomicU32,
}

impl Live {
    /// A number whose remainders spread evenly from call to call: a share of 10 % is every tenth, not ten at once.
    fn spread(&self) -> u32 {
        // 2³² divided by the golden ratio.
        self.turn.fetch_add(1, Ordering::Relaxed).wrapping_mul(2_654_435_769)
    }

    /// Whose turn it is: the number of the share, and whom it leads to.
    pub(crate) fn choose(&self) -> Option<(usize, &Result<Arc<Backend>, StatusCode>)> {
        if let [(1.., share)] = self.shares.as_slice() {
            return Some((0, share));
        }
        let mut left = scaled(self.spread(), self.weights);
        self.shares.iter().enumerate().find_map(|(at, (weight, share))| {
            let own = left < *weight;
            left = left.saturating_sub(*weight);
            own.then_some((at, share))
        })
    }

    /// Who gets a copy of this request.
    pub(crate) fn mirrors(&self) -> impl Iterator<Item = &Arc<Backend>> {
        let chosen =
            |mirror: &Mirror| mirror.share >= mirror.of || scaled(self.spread(), mirror.of) < mirror.share;
        self.mirrors.iter().filter(move |(mirror, _)| chosen(mirror)).map(|(_, backend)| backend)
    }
}

/// A number below `limit` from one of 32 bits.
fn scaled(number: u32, limit: u32) -> u32 {
    u32::try_from((u64::from(number) * u64::from(limit)) >> 32).unwrap_or_default()
}

/// What outlives tables.
#[derive(Default)]
pub(crate) struct Making {
    pub(crate) upstreams: Upstreams,
    gates: HashMap<(String, Limits), Arc<Gate>>,
}

impl Making {
    /// Makes a table; gives the backends that have to be told their endpoints.
    pub(crate) fn table(&mut self, plan: &Plan) -> (Table<Arc<Live>>, Vec<Arc<Backend>>) {
        let (mut fresh, mut gates) = (Vec::new(), HashMap::new());
        let mut live = |route: &Route| Arc::new(self.live(route, &mut fresh, &mut gates));
        let lives: Vec<Arc<Live>> = plan.rules.iter().map(|rule| live(&rule.route)).collect();
        let streams: Vec<Arc<Live>> = plan.streams.iter().map(|rule| live(&rule.route)).collect();
        self.gates = gates;
        let mut table = Table::new(plan.rules.iter().zip(lives));
        if !plan.listeners.is_empty() {
            table.keep_http(&plan.rules);
            table.listen(&plan.listeners, plan.streams.iter().zip(streams));
        }
        (table, fresh)
    }

    fn live(
        &mut self,
        route: &Route,
        fresh: &mut Vec<Arc<Backend>>,
        gates: &mut HashMap<(String, Limits), Arc<Gate>>,
    ) -> Live {
        let route = route.clone();
        let mut backend = |key: &BackendKey| {
            let (backend, new) = self.upstreams.backend(key);
            if new {
                fresh.push(backend.clone());
            }
            backend
        };
        let shares: Vec<_> = match &route.action {
            Action::Forward(all) => all
                .iter()
                .map(|share| match &share.to {
                    Share::Backend(key) => (share.weight, Ok(backend(key))),
                    Share::Nobody(code) => (share.weight, Err(*code)),
                })
                .collect(),
            Action::Redirect(_) | Action::Answer(_) => Vec::new(),
        };
        let mirrors =
            route.filters.mirrors.iter().map(|mirror| (mirror.clone(), backend(&mirror.backend))).collect();
        let key = (route.name.clone(), route.limits.clone());
        let known = gates.get(&key).or_else(|| self.gates.get(&key)).cloned();
        let gate = known.or_else(|| Gate::of(&route.limits).map(Arc::new));
        if let Some(gate) = &gate {
            gates.insert(key, gate.clone());
        }
        let weights = shares.iter().fold(0_u32, |sum, (weight, _)| sum.saturating_add(*weight));
        Live { route, gate, shares, weights, mirrors, turn: AtomicU32::new(0) }
    }
}
