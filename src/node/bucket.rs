//! A token bucket: so many a second, and as many at once as have been saved up.

use base::clock::Instant;

#[derive(Debug)]
pub(crate) struct Bucket {
    per_second: f64,
    most: f64,
    left: f64,
    at: Instant,
}

impl Bucket {
    /// A full one.
    pub(crate) fn new(per_second: f64, most: f64, now: Instant) -> Self {
        Self { per_second, most, left: most, at: now }
    }

    /// Takes one, if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        (self.left, self.at) = ((self.left + passed * self.per_second).min(self.most), now);
        let may = self.left >= 1.0;
        self.left -= f64::from(u8::from(may));
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::clock;
    use std::time::Duration;

    #[test]
    fn pulls_begin_at_their_rate() {
        let start = clock::instant();
        let mut bucket = Bucket::new(2.0, 2.0, start);
        let at = |ms| start + Duration::from_millis(ms);
        assert!(bucket.take(at(0)) && bucket.take(at(0)) && !bucket.take(at(0)));
        assert!(!bucket.take(at(400)) && bucket.take(at(500)));
        // What is saved up is bounded.
        assert!(bucket.take(at(60_000)) && bucket.take(at(60_000)) && !bucket.take(at(60_000)));
    }

    #[test]
    fn who_asks_too_often_is_turned_away() {
        let now = clock::instant();
        let mut limit = Bucket::new(100.0, 10.0, now);
        assert_eq!((0..20).filter(|_| limit.take(now)).count(), 10);
        assert_eq!((0..20).filter(|_| limit.take(now + Duration::from_millis(30))).count(), 3);
    }
}
