//! Who may have how many seats for the next while: levels lend what they do not need, within their bounds
//! (KEP-1040, "Dispatching"). Pure.

/// How much of the last smoothed demand lives on over one period: half of it for five minutes.
const SMOOTHING: f64 = 0.977;
/// Halvings of the interval in which the fair proportion lies: more than a double can tell apart.
const HALVINGS: u32 = 64;
/// A target of nothing still takes part.
const LEAST_TARGET: f64 = 0.001;

/// The seats of one level.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Seats {
    pub(crate) exempt: bool,
    /// By its shares.
    pub(crate) nominal: u32,
    /// What it does not lend.
    pub(crate) least: u32,
    /// With what it may borrow.
    pub(crate) most: u32,
    /// The most it asked for in the last period.
    pub(crate) highest: u32,
    /// What it asks for, smoothed.
    pub(crate) smoothed: f64,
}

/// The smoothed demand: it follows a rise at once and a fall slowly.
pub(crate) fn smooth(before: f64, envelope: f64) -> f64 {
    envelope.max(SMOOTHING * before + (1.0 - SMOOTHING) * envelope)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of seats")]
fn whole(seats: f64) -> u32 {
    seats.round() as u32
}

/// What a level with this many shares of all has: its nominal seats, the least and the most of them.
pub(crate) fn bounds(total: u32, share: f64, lendable_percent: u32, borrowing_percent: Option<u32>) -> Seats {
    let nominal = whole((f64::from(total) * share).ceil());
    let percent = |percent: u32| whole(f64::from(nominal) * f64::from(percent) / 100.0);
    let most = nominal + borrowing_percent.map_or(total, percent);
    Seats { nominal, least: nominal - percent(lendable_percent).min(nominal), most, ..Seats::default() }
}

impl Seats {
    /// What the level keeps whatever the others want.
    fn kept(&self) -> u32 {
        if self.exempt {
            self.least.max(self.highest)
        } else {
            self.least.max(self.nominal.min(self.highest))
        }
    }

    fn at(&self, proportion: f64) -> f64 {
        let (kept, most) = (f64::from(self.kept()), f64::from(self.most.max(self.kept())));
        let target = kept.max(self.smoothed).max(LEAST_TARGET);
        (target * proportion).clamp(kept, most)
    }
}

/// The seats of every level for the next period. Exempt levels have what they used; the others share the
/// rest in proportion to what they ask for, as far as their bounds let them.
pub(crate) fn allocate(levels: &[Seats]) -> Vec<u32> {
    let sum = |of: fn(&Seats) -> u32| -> u32 { levels.iter().filter(|level| !level.exempt).map(of).sum() };
    let total: u32 = levels.iter().map(|level| level.nominal).sum();
    let exempt: u32 = levels.iter().filter(|level| level.exempt).map(Seats::kept).sum();
    let (remaining, least, kept) = (total.saturating_sub(exempt), sum(|one| one.least), sum(Seats::kept));
    let limited: Box<dyn Fn(&Seats) -> u32> = if remaining <= least {
        Box::new(|level| level.least)
    } else if remaining <= kept {
        let part = f64::from(remaining - least) / f64::from(kept - least);
        Box::new(move |level| level.least + whole(f64::from(level.kept() - level.least) * part))
    } else {
        let proportion = fair(levels, f64::from(total));
        Box::new(move |level| whole(level.at(proportion)))
    };
    levels.iter().map(|level| if level.exempt { level.kept() } else { limited(level) }).collect()
}

/// The proportion of what they ask for at which the limited levels together have `total` seats.
fn fair(levels: &[Seats], total: f64) -> f64 {
    let sum = |proportion: f64| -> f64 {
        levels.iter().filter(|level| !level.exempt).map(|level| level.at(proportion)).sum()
    };
    let (mut low, mut high) = (0.0, total / LEAST_TARGET);
    for _ in 0..HALVINGS {
        let middle = f64::midpoint(low, high);
        if sum(middle) < total { low = middle } else { high = middle }
    }
    high
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn level(nominal: u32, least: u32, most: u32, highest: u32) -> Seats {
        Seats { exempt: false, nominal, least, most, highest, smoothed: f64::from(highest) }
    }

    #[test]
    fn seats_follow_shares_and_percents() {
        let seats = bounds(600, 40.0 / 245.0, 25, None);
        assert_eq!((seats.nominal, seats.least, seats.most), (98, 73, 698));
        let seats = bounds(600, 5.0 / 245.0, 0, Some(50));
        assert_eq!((seats.nominal, seats.least, seats.most), (13, 13, 20));
    }

    #[test]
    fn who_asks_for_more_borrows_from_who_needs_less() {
        let seats = allocate(&[level(100, 50, 300, 300), level(100, 50, 300, 0), level(100, 100, 300, 0)]);
        assert_eq!(seats, [150, 50, 100]);
        let idle = allocate(&[level(100, 50, 300, 0), level(100, 50, 300, 0)]);
        assert_eq!(idle, [100, 100]);
    }

    #[test]
    fn what_exempt_requests_use_is_not_there_for_others() {
        let exempt = Seats { exempt: true, highest: 150, ..Seats::default() };
        assert_eq!(allocate(&[exempt, level(100, 50, 300, 100), level(100, 50, 300, 100)]), [150, 50, 50]);
        let exempt = Seats { highest: 80, ..exempt };
        assert_eq!(allocate(&[exempt, level(100, 50, 300, 100), level(100, 50, 300, 100)]), [80, 60, 60]);
    }

    proptest! {
        #[test]
        fn bounds_hold_and_seats_are_neither_made_nor_lost(
            levels in prop::collection::vec((1_u32..200, 0_u32..=100, 0_u32..500), 1..10)
        ) {
            let levels: Vec<Seats> = levels
                .into_iter()
                .map(|(nominal, lendable, highest)| {
                    let least = nominal - nominal * lendable / 100;
                    level(nominal, least, nominal + 600, highest)
                })
                .collect();
            let seats = allocate(&levels);
            let total: i64 = levels.iter().map(|level| i64::from(level.nominal)).sum();
            let given: i64 = seats.iter().map(|seats| i64::from(*seats)).sum();
            // Each may be rounded by a half.
            prop_assert!((given - total).abs() <= levels.len() as i64);
            for (level, seats) in levels.iter().zip(seats) {
                prop_assert!(seats >= level.least && seats <= level.most);
            }
        }
    }
}
