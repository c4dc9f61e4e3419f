//! When a container that ended may be started again (CrashLoopBackOff).

use jiff::Timestamp;
use std::collections::HashMap;
use std::time::Duration;

const FIRST: Duration = Duration::from_secs(10);
/// A container that ran for so long starts over at the first delay.
const FORGIVEN: Duration = Duration::from_secs(600);

#[derive(Clone, Copy, Debug)]
struct Entry {
    delay: Duration,
    started: Timestamp,
}

/// Delays per container name and hash.
#[derive(Debug)]
pub(crate) struct Restarts {
    entries: HashMap<String, Entry>,
    /// The longest delay (`crashLoopBackOff.maxContainerRestartPeriod`).
    most: Duration,
}

impl Restarts {
    pub(crate) fn new(most: Duration) -> Self {
        Self { entries: HashMap::new(), most }
    }

    /// The delay in force and its end for a container that ended at `finished`; none if it may start.
    pub(crate) fn wait(
        &self,
        key: &str,
        finished: Timestamp,
        now: Timestamp,
    ) -> Option<(Duration, Timestamp)> {
        let entry = self.entries.get(key).filter(|entry| !is_forgiven(entry, finished))?;
        let until = finished + entry.delay;
        (now < until).then_some((entry.delay, until))
    }

    /// Notes that a container that ended at `finished` is being started again.
    pub(crate) fn started(&mut self, key: &str, finished: Timestamp, now: Timestamp) {
        let delay = match self.entries.get(key) {
            Some(entry) if !is_forgiven(entry, finished) => (entry.delay * 2).min(self.most),
            _ => FIRST.min(self.most),
        };
        self.entries.insert(key.to_owned(), Entry { delay, started: now });
    }
}

fn is_forgiven(entry: &Entry, finished: Timestamp) -> bool {
    let ran = finished.duration_since(entry.started);
    Duration::try_from(ran).is_ok_and(|ran| ran > FORGIVEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_and_a_long_run_is_forgiven() {
        let mut restarts = Restarts::new(Duration::from_secs(300));
        let mut now = Timestamp::UNIX_EPOCH;
        assert!(restarts.wait("c", now, now).is_none());
        let mut delays = Vec::new();
        for _ in 0..7 {
            restarts.started("c", now, now);
            let (delay, until) = restarts.wait("c", now, now).unwrap();
            delays.push(delay.as_secs());
            now = until;
            assert!(restarts.wait("c", now - delay, now).is_none());
        }
        assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300]);
        let later = now + Duration::from_secs(601);
        assert!(restarts.wait("c", later, later).is_none());
    }
}
