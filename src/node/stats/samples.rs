//! Processor time that was counted before, from which the use per second is taken.

use base::clock::{self, Instant};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A rate over less than this is the kernel's rounding more than anybody's use.
const SHORTEST: Duration = Duration::from_secs(1);
/// A rate over more than this is no use of now.
const LONGEST: Duration = Duration::from_secs(300);

/// A count at a time, and the rate up to then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sample {
    at: Instant,
    cpu_ns: u64,
    nano_cores: Option<u64>,
}

impl Sample {
    /// What to remember after another count.
    fn next(before: Option<Self>, at: Instant, cpu_ns: u64) -> Self {
        let first = Self { at, cpu_ns, nano_cores: None };
        let Some(before) = before else { return first };
        let passed = at.saturating_duration_since(before.at);
        // A cgroup that was made anew counts from the start.
        if cpu_ns < before.cpu_ns || passed > LONGEST {
            return first;
        }
        if passed < SHORTEST {
            return before;
        }
        let rate = u128::from(cpu_ns - before.cpu_ns) * 1_000_000_000 / passed.as_nanos().max(1);
        Self { nano_cores: u64::try_from(rate).ok(), ..first }
    }
}

/// The last samples by cgroup.
#[derive(Default)]
pub(crate) struct Samples(Mutex<HashMap<String, Sample>>);

impl Samples {
    /// The use per second up to now, in billionths of a processor; none at the first look.
    pub(crate) fn nano_cores(&self, cgroup: &str, cpu_ns: u64) -> Option<u64> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sample = Sample::next(all.get(cgroup).copied(), clock::instant(), cpu_ns);
        all.insert(cgroup.to_owned(), sample);
        sample.nano_cores
    }

    /// Forgets cgroups that nobody has looked at for long: they are gone.
    pub(crate) fn trim(&self) {
        let now = clock::instant();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, sample| now.saturating_duration_since(sample.at) <= LONGEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_needs_two_counts_apart() {
        let start = clock::instant();
        let at = |ms| start + Duration::from_millis(ms);
        let first = Sample::next(None, start, 1_000);
        assert_eq!(first.nano_cores, None);
        assert_eq!(Sample::next(Some(first), at(10), 2_000), first);
        let second = Sample::next(Some(first), at(2_000), 1_000_001_000);
        assert_eq!(second.nano_cores, Some(500_000_000));
        // Asked again at once, the same is told.
        assert_eq!(Sample::next(Some(second), at(2_001), 1_000_002_000), second);
        assert_eq!(Sample::next(Some(second), at(4_000), 5).nano_cores, None);
        assert_eq!(Sample::next(Some(second), at(900_000), 2_000_000_000).nano_cores, None);
    }
}
