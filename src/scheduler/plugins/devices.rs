//! Whether a pod's devices can be had on a node, and how good they are.

use super::{Hint, Question, Reason, Refusal};
use crate::cycle::Cycle;
use crate::devices;
use crate::events::Event;

pub(super) fn has_claims(cycle: &Cycle<'_>) -> bool {
    cycle.devices.is_some()
}

pub(super) fn refuse(question: &Question<'_>) -> Option<Refusal> {
    let reasons = question.cycle.devices?.refusal(&question.place.facts)?;
    Some(Refusal { reason: Reason::Texts(reasons), resolvable: false })
}

/// Nodes may offer different alternatives of a request.
pub(super) fn has_choice(cycle: &Cycle<'_>) -> bool {
    cycle.devices.is_some_and(devices::Devices::has_choice)
}

pub(super) fn alternatives(question: &Question<'_>) -> i64 {
    question.cycle.devices.map_or(0, |devices| devices.score(&question.place.facts))
}

/// Devices came or were given back, a claim of the pod changed, a class or a node did.
pub(super) fn changed(hint: &Hint<'_>) -> bool {
    let pod = &hint.wanted.pod;
    let is_provided = |(resource, _)| hint.cluster.provided.class(&resource).is_some();
    (devices::has_any(pod) || hint.wanted.ask.requests.iter().any(is_provided))
        && match hint.event {
            Event::Devices | Event::DeviceClass { .. } => true,
            Event::Claim { old, new } => {
                let freed = old.is_some_and(|old| devices::allocation(old).is_some())
                    && new.is_none_or(|new| devices::allocation(new).is_none());
                let is_other =
                    |new: &&api::resource::ResourceClaim| old.is_none_or(|old| old.status != new.status);
                // One of an earlier attempt is out of the way.
                let cleared = old.filter(|_| new.is_none()).is_some_and(|old| devices::stands_for(old, pod));
                freed || cleared || new.filter(is_other).is_some_and(|new| devices::uses(pod, new))
            }
            Event::Node { old, new: Some(new) } => {
                old.is_none_or(|old| !old.same_labels(new) || old.allocatable != new.allocatable)
            }
            Event::Own(change) => change.claims,
            Event::Pod { .. } | Event::Storage | Event::Node { new: None, .. } => false,
        }
}
