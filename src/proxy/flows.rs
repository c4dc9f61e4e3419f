//! UDP flows in the kernel's connection tracking that lead elsewhere than they should.
//!
//! A UDP flow has no end: while its client goes on sending, it keeps the translation it began with,
//! also to an endpoint that is gone, or none if it began before its service had an endpoint. One whose
//! endpoint still serves goes on, as a connection of TCP does.

use crate::family::Family;
use crate::model::{Endpoint, Front, Protocol};
use crate::state::State;
use net::conntrack::{self, Flow};
use std::collections::BTreeSet;

/// Deletes what leads elsewhere, of the fronts given; the client's next packet is translated anew.
/// Gives how many flows there were.
pub(crate) async fn forget_stale(state: &State, fronts: &BTreeSet<Front>) -> Result<usize, net::Error> {
    let mut count = 0;
    for family in Family::ALL {
        if !fronts.iter().any(|front| front.family() == family) {
            continue;
        }
        let flows = conntrack::flows(Protocol::Udp.number(), family == Family::V4).await?;
        let stale: Vec<Flow> = flows.into_iter().filter(|flow| is_stale(flow, state, fronts)).collect();
        count += stale.len();
        conntrack::forget(stale).await?;
    }
    Ok(count)
}

fn is_stale(flow: &Flow, state: &State, fronts: &BTreeSet<Front>) -> bool {
    let (address, port) = flow.to;
    let answered_by = Endpoint { address: flow.answered_by.0, port: flow.answered_by.1 };
    let at =
        [Front::Address(address, Protocol::Udp, port), Front::Port(Family::of(address), Protocol::Udp, port)];
    // What is sent to an address that is a service's is none of a node port's of the same number.
    let front = at.into_iter().find(|front| state.serving(*front).is_some());
    front.is_some_and(|front| {
        fronts.contains(&front) && state.serving(front).is_some_and(|serving| !serving.contains(&answered_by))
    })
}
