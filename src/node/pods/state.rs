//! The life of a pod on this node, as a state and the step to the next.

use jiff::Timestamp;

/// Where a pod is in its life here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It shall run.
    Syncing,
    /// Its containers are being stopped.
    Terminating { grace_s: i64, since: Timestamp },
    /// Nothing of it runs; it is kept for its logs and its status until it is deleted.
    Terminated,
    /// It is gone from the API; what is left is removed.
    Finished,
}

/// What a step is decided from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    /// The API server has it.
    pub(crate) exists: bool,
    pub(crate) deleting: bool,
    /// It ended by itself, or was given up.
    pub(crate) ended: bool,
    /// Nothing of it runs.
    pub(crate) stopped: bool,
    /// The grace that its deletion or specification gives.
    pub(crate) grace_s: i64,
    pub(crate) now: Timestamp,
}

impl State {
    /// The next state.
    pub(crate) fn step(&self, facts: Facts) -> Self {
        let going = !facts.exists || facts.deleting || facts.ended;
        match self {
            Self::Syncing if going => Self::Terminating { grace_s: facts.grace_s, since: facts.now },
            Self::Syncing => Self::Syncing,
            Self::Terminating { .. } if facts.stopped => Self::Terminated,
            // Grace may only shrink: a second deletion can ask for more haste.
            Self::Terminating { grace_s, since } => {
                Self::Terminating { grace_s: (*grace_s).min(facts.grace_s), since: *since }
            }
            Self::Terminated if !facts.exists => Self::Finished,
            Self::Terminated => Self::Terminated,
            Self::Finished => Self::Finished,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_stopped_before_it_is_forgotten() {
        let now = Timestamp::UNIX_EPOCH;
        let facts = Facts { exists: true, deleting: false, ended: false, stopped: false, grace_s: 30, now };
        assert_eq!(State::Syncing.step(facts), State::Syncing);
        let gone = Facts { exists: false, ..facts };
        let terminating = State::Syncing.step(gone);
        assert_eq!(terminating, State::Terminating { grace_s: 30, since: now });
        let hasty = Facts { deleting: true, grace_s: 1, ..facts };
        assert_eq!(terminating.step(hasty), State::Terminating { grace_s: 1, since: now });
        assert_eq!(terminating.step(Facts { stopped: true, ..gone }), State::Terminated);
        assert_eq!(State::Terminated.step(facts), State::Terminated);
        assert_eq!(State::Terminated.step(gone), State::Finished);
    }
}
