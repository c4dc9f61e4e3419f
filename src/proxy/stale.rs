//! What leads to endpoints that are gone: clients that are remembered for them, and flows of UDP.
//!
//! It is forgotten twice. A packet that was translated just before may still be on its way through the kernel, which
//! remembers client and flow only when it leaves: nobody would forget them again, and a client that goes on would stay
//! with an endpoint that is gone for ever.

use crate::metrics::Metrics;
use crate::model::{Endpoint, Front};
use crate::state::State;
use crate::{clients, flows};
use base::clock::{self, Instant};
use net::nft::Channel;
use std::collections::BTreeSet;
use std::time::Duration;

/// No packet is on its way for so long, also where the machine is one among many on its processor.
const ON_ITS_WAY: Duration = Duration::from_millis(500);

/// What is to be forgotten.
#[derive(Debug, Default)]
pub(crate) struct Stale {
    /// Endpoints that a front which remembers its clients no longer has.
    pub(crate) gone: BTreeSet<(Front, Endpoint)>,
    /// Fronts of UDP whose flows may lead elsewhere now.
    pub(crate) flows: BTreeSet<Front>,
}

impl Stale {
    fn is_empty(&self) -> bool {
        self.gone.is_empty() && self.flows.is_empty()
    }

    /// Makes clients choose anew. Failing to is not worth loading everything: what is remembered expires.
    pub(crate) async fn forget(&mut self, state: &State, channel: &Channel, metrics: &Metrics) {
        if !self.flows.is_empty() {
            let begin = clock::instant();
            match flows::forget_stale(state, &self.flows).await {
                Ok(deleted) => metrics.flows(begin.elapsed(), deleted),
                Err(error) => {
                    tracing::warn!(%error, "UDP flows may lead to endpoints that are gone until they expire");
                }
            }
        }
        // It may be back meanwhile.
        self.gone.retain(|(front, endpoint)| !state.has(*front, *endpoint));
        if !self.gone.is_empty()
            && let Err(error) = clients::forget(&self.gone, channel).await
        {
            tracing::warn!(%error, "clients stay with an endpoint that is gone until their affinity expires");
        }
    }
}

/// What was forgotten once. It is taken up in turns, so that changes without a pause cost no more than two a second.
#[derive(Debug, Default)]
pub(crate) struct Again {
    now: Stale,
    /// When `now` is.
    due: Option<Instant>,
    /// What came while that waits.
    then: Stale,
}

impl Again {
    /// Completes when there is something to forget again.
    pub(crate) async fn due(&self) {
        clock::until(self.due).await;
    }

    pub(crate) fn add(&mut self, stale: Stale) {
        if stale.is_empty() {
            return;
        }
        let turn = if self.due.is_some() { &mut self.then } else { &mut self.now };
        turn.gone.extend(stale.gone);
        turn.flows.extend(stale.flows);
        self.due.get_or_insert_with(|| clock::instant() + ON_ITS_WAY);
    }

    /// What is due. The rest has its turn a while later.
    pub(crate) fn take(&mut self) -> Stale {
        let now = std::mem::replace(&mut self.now, std::mem::take(&mut self.then));
        self.due = (!self.now.is_empty()).then(|| clock::instant() + ON_ITS_WAY);
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Protocol;

    #[test]
    fn all_that_changes_has_its_second_time() {
        let front = |port| Front::Address("10.43.0.1".parse().unwrap(), Protocol::Udp, port);
        let of =
            |ports: &[u16]| Stale { flows: ports.iter().copied().map(front).collect(), ..Stale::default() };
        let mut again = Again::default();
        again.add(Stale::default());
        assert_eq!(again.due, None, "nothing is to be forgotten");
        again.add(of(&[53]));
        let first = again.due.unwrap();
        again.add(of(&[54]));
        again.add(of(&[55]));
        assert_eq!(again.due, Some(first), "what goes on changing puts nothing off");
        assert_eq!(again.take().flows, of(&[53]).flows);
        assert!(again.due.unwrap() >= first, "nothing is taken up before packets have arrived");
        assert_eq!(again.take().flows, of(&[54, 55]).flows);
        assert_eq!(again.due, None);
    }
}
