//! What a route bounds: how many requests at a time and in a second. Without locks.

use crate::rules::Limits;
use base::clock;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

const SECOND_NS: u64 = 1_000_000_000;

/// The bounds of one route. Stays the same from table to table.
pub(crate) struct Gate {
    concurrency: Option<u32>,
    under_way: AtomicU32,
    /// Between two requests, in nanoseconds.
    interval_ns: Option<u64>,
    /// When the next request would be due if they came evenly (the generic cell rate algorithm).
    due_ns: AtomicU64,
    start: clock::Instant,
}

/// A request that was let in.
pub(crate) struct Pass(Arc<Gate>);

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Gate {
    /// None where nothing is bounded.
    pub(crate) fn of(limits: &Limits) -> Option<Self> {
        (limits.concurrency.is_some() || limits.rate_per_s.is_some()).then(|| Self {
            concurrency: limits.concurrency,
            under_way: AtomicU32::new(0),
            interval_ns: limits.rate_per_s.map(|rate| SECOND_NS / u64::from(rate.max(1))),
            due_ns: AtomicU64::new(0),
            start: clock::instant(),
        })
    }

    /// Lets a request in, or not.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<Pass> {
        let before = self.under_way.fetch_add(1, Ordering::Relaxed);
        let pass = Pass(self.clone());
        if self.concurrency.is_some_and(|most| before >= most) {
            return None;
        }
        let Some(interval) = self.interval_ns else { return Some(pass) };
        let now = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.is_due(now, interval).then_some(pass)
    }

    /// A second's requests may come at once.
    fn is_due(&self, now: u64, interval: u64) -> bool {
        let next = |due: u64| {
            let due = due.max(now);
            (due - now <= SECOND_NS - interval).then_some(due + interval)
        };
        self.due_ns.try_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn so_many_in_a_second_and_so_many_at_a_time() {
        let limits = Limits { rate_per_s: Some(4), concurrency: Some(3), ..Limits::default() };
        let gate = Arc::new(Gate::of(&limits).unwrap());
        let mut passes: Vec<Pass> = (0..3).map(|_| gate.enter().unwrap()).collect();
        assert!(gate.enter().is_none(), "three at a time");
        passes.pop();
        let fourth = gate.enter();
        assert!(fourth.is_some());
        drop((passes, fourth));
        assert!(gate.enter().is_none(), "four in a second");
        tokio::time::advance(Duration::from_millis(260)).await;
        assert!(gate.enter().is_some());
        assert!(gate.enter().is_none());
    }
}
