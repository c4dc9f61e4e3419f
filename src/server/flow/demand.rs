//! How many seats a level asked for over a time: the highest, the average and how much it varied.

use std::time::Duration;

/// Follows a number of seats.
#[derive(Debug, Default)]
pub(super) struct Demand {
    seats: u32,
    since: Duration,
    elapsed_s: f64,
    integral: f64,
    square: f64,
    highest: u32,
}

/// What was asked for over a time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Observed {
    pub(crate) highest: u32,
    /// The average plus the standard deviation.
    pub(crate) envelope: f64,
}

impl Demand {
    /// So many seats are asked for from now on.
    pub(super) fn note(&mut self, now: Duration, seats: u32) {
        self.pass(now);
        self.seats = seats;
        self.highest = self.highest.max(seats);
    }

    fn pass(&mut self, now: Duration) {
        let elapsed_s = now.saturating_sub(self.since).as_secs_f64();
        let seats = f64::from(self.seats);
        self.since = now;
        self.elapsed_s += elapsed_s;
        self.integral += elapsed_s * seats;
        self.square += elapsed_s * seats * seats;
    }

    /// Takes what was seen since the last time.
    pub(super) fn take(&mut self, now: Duration) -> Observed {
        self.pass(now);
        let average = if self.elapsed_s > 0.0 { self.integral / self.elapsed_s } else { 0.0 };
        let variance =
            if self.elapsed_s > 0.0 { self.square / self.elapsed_s - average * average } else { 0.0 };
        let seen = Observed { highest: self.highest, envelope: average + variance.max(0.0).sqrt() };
        *self = Self { seats: self.seats, since: now, highest: self.seats, ..Self::default() };
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_weigh_by_time() {
        let at = Duration::from_secs;
        let mut demand = Demand::default();
        demand.note(at(10), 4);
        demand.note(at(20), 0);
        assert_eq!(demand.take(at(20)), Observed { highest: 4, envelope: 4.0 });
        assert_eq!(demand.take(at(30)), Observed { highest: 0, envelope: 0.0 });
    }
}
