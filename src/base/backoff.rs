//! Exponential backoff as a value: no clock in it, so that it can be tested by calling it.

use std::time::Duration;

/// Delays that double from `first` to `most`.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    failures: u32,
}

impl Backoff {
    /// Delays of `first`, 2 × `first`, … up to `most`.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, failures: 0 }
    }

    /// The delay to wait after one more failure.
    pub fn next_delay(&mut self) -> Duration {
        let delay = self.first.saturating_mul(1u32.checked_shl(self.failures).unwrap_or(u32::MAX));
        self.failures = self.failures.saturating_add(1);
        delay.min(self.most)
    }

    /// Starts again at the first delay, after a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// How often [`Self::next_delay`] was asked since the last reset.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_limit_and_never_overflows() {
        let mut backoff = Backoff::new(Duration::from_secs(10), Duration::from_secs(300));
        let seconds: Vec<u64> = (0..70).map(|_| backoff.next_delay().as_secs()).collect();
        assert_eq!(seconds[..6], [10, 20, 40, 80, 160, 300]);
        assert!(seconds[6..].iter().all(|&s| s == 300));
        backoff.reset();
        assert_eq!(backoff.next_delay().as_secs(), 10);
    }
}
