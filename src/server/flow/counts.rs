//! What is counted of a flow schema's requests.

use super::queues::Reason;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// Names of the reasons in `apiserver_flowcontrol_rejected_requests_total`.
pub(super) const REASONS: [(Reason, &str); 3] = [
    (Reason::ConcurrencyLimit, "concurrency-limit"),
    (Reason::QueueFull, "queue-full"),
    (Reason::TimeOut, "time-out"),
];

/// Counters of one schema on one level.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(super) dispatched: AtomicU64,
    pub(super) refused: [AtomicU64; REASONS.len()],
    pub(super) executing: AtomicI64,
    pub(super) executing_seats: AtomicI64,
    pub(super) queued: AtomicI64,
    pub(super) queued_seats: AtomicI64,
}

/// A request that is counted as waiting for as long as this lives.
pub(super) struct Waiting<'a>(&'a Counts, i64);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.queued.fetch_sub(1, Ordering::Relaxed);
        self.0.queued_seats.fetch_sub(self.1, Ordering::Relaxed);
    }
}

impl Counts {
    pub(super) fn waiting(&self, seats: u32) -> Waiting<'_> {
        self.queued.fetch_add(1, Ordering::Relaxed);
        self.queued_seats.fetch_add(i64::from(seats), Ordering::Relaxed);
        Waiting(self, i64::from(seats))
    }

    pub(super) fn started(&self, seats: u32) {
        self.dispatched.fetch_add(1, Ordering::Relaxed);
        self.executing.fetch_add(1, Ordering::Relaxed);
        self.executing_seats.fetch_add(i64::from(seats), Ordering::Relaxed);
    }

    pub(super) fn ended(&self, seats: u32) {
        self.executing.fetch_sub(1, Ordering::Relaxed);
        self.executing_seats.fetch_sub(i64::from(seats), Ordering::Relaxed);
    }

    pub(super) fn refused(&self, reason: Reason) {
        if let Some(at) = REASONS.iter().position(|(one, _)| *one == reason) {
            self.refused[at].fetch_add(1, Ordering::Relaxed);
        }
    }
}
