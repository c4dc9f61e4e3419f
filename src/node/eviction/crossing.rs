//! Which thresholds are crossed, since when, and what of it is to be acted upon. Pure.

use super::threshold::{Pressure, Signal, Threshold};
use base::clock::between;
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What is left of what there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Observation {
    pub(crate) available: i64,
    pub(crate) capacity: i64,
}

/// What could be measured.
pub(crate) type Observations = BTreeMap<Signal, Observation>;

/// What the past says about the present.
#[derive(Debug, Default)]
pub(crate) struct Crossings {
    /// Thresholds that are crossed, and since when.
    since: Vec<(Threshold, Timestamp)>,
    /// Those of them whose grace was over.
    due: Vec<Threshold>,
    /// When each pressure was felt last.
    felt: BTreeMap<Pressure, Timestamp>,
}

/// What is so now.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Decision {
    /// What the node says that it suffers from: for some time after it was last so.
    pub(crate) pressures: BTreeSet<Pressure>,
    /// Thresholds to be relieved, memory's first.
    pub(crate) due: Vec<Threshold>,
}

/// Whether less is left than the threshold allows, or than it wants to be made free once it was crossed.
fn is_crossed(threshold: &Threshold, observations: &Observations, with_reclaim: bool) -> bool {
    let Some(seen) = observations.get(&threshold.signal) else { return false };
    let more = threshold.reclaim.filter(|_| with_reclaim).map_or(0, |more| more.of(seen.capacity));
    threshold.least.of(seen.capacity).saturating_add(more) > seen.available
}

/// Whether nothing is crossed any more, with what was to be made free besides.
pub(crate) fn is_relieved(thresholds: &[Threshold], observations: &Observations) -> bool {
    !thresholds.iter().any(|threshold| is_crossed(threshold, observations, true))
}

impl Crossings {
    /// Takes note of what was observed. Pressures last for `transition` after they were felt.
    pub(crate) fn step(
        &mut self,
        thresholds: &[Threshold],
        observations: &Observations,
        transition: Duration,
        now: Timestamp,
    ) -> Decision {
        let crossed = thresholds.iter().filter(|threshold| {
            is_crossed(threshold, observations, false)
                || self.due.contains(threshold) && is_crossed(threshold, observations, true)
        });
        let before = |threshold: &Threshold| {
            self.since.iter().find(|(known, _)| known == threshold).map(|(_, since)| *since)
        };
        let since: Vec<(Threshold, Timestamp)> =
            crossed.map(|threshold| (*threshold, before(threshold).unwrap_or(now))).collect();
        self.since = since;
        let now_felt = self.since.iter().map(|(threshold, _)| (threshold.signal.pressure(), now));
        self.felt.extend(now_felt);
        self.felt.retain(|_, at| *at == now || between(*at, now) < transition);
        let due = self.since.iter().filter(|(threshold, since)| between(*since, now) >= threshold.grace);
        self.due = due.map(|(threshold, _)| *threshold).collect();
        self.due.sort_by_key(|threshold| threshold.signal);
        Decision { pressures: self.felt.keys().copied().collect(), due: self.due.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eviction::threshold::Amount;
    use jiff::SignedDuration;

    const TRANSITION: Duration = Duration::from_secs(300);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds)
    }

    fn seen(all: &[(Signal, i64)]) -> Observations {
        all.iter()
            .map(|(signal, available)| (*signal, Observation { available: *available, capacity: 1000 }))
            .collect()
    }

    fn hard(signal: Signal, least: i64) -> Threshold {
        Threshold { signal, least: Amount::Units(least), grace: Duration::ZERO, reclaim: None }
    }

    #[test]
    fn a_hard_threshold_is_due_at_once_and_the_pressure_stays_for_a_while() {
        let all = [hard(Signal::Memory, 100)];
        let mut crossings = Crossings::default();
        let mut step = |available, time| {
            crossings.step(&all, &seen(&[(Signal::Memory, available)]), TRANSITION, at(time))
        };
        assert_eq!(step(100, 0), Decision::default());
        let under = Decision { pressures: [Pressure::Memory].into(), due: all.to_vec() };
        assert_eq!(step(99, 10), under);
        let relieved = Decision { pressures: [Pressure::Memory].into(), due: Vec::new() };
        assert_eq!(step(500, 20), relieved);
        assert_eq!(step(500, 309), relieved);
        assert_eq!(step(500, 310), Decision::default());
    }

    #[test]
    fn a_soft_threshold_is_due_after_its_grace() {
        let all = [Threshold { grace: Duration::from_secs(30), ..hard(Signal::NodeFs, 100) }];
        let mut crossings = Crossings::default();
        let mut due = |available, time| {
            let decision = crossings.step(&all, &seen(&[(Signal::NodeFs, available)]), TRANSITION, at(time));
            (decision.pressures.contains(&Pressure::Disk), decision.due.len())
        };
        assert_eq!((due(50, 0), due(50, 29), due(50, 30)), ((true, 0), (true, 0), (true, 1)));
        // It begins anew once it was not crossed in between.
        assert_eq!((due(150, 40), due(50, 50), due(50, 80)), ((true, 0), (true, 0), (true, 1)));
    }

    #[test]
    fn what_was_due_stays_so_until_more_than_the_threshold_is_free() {
        let all = [Threshold { reclaim: Some(Amount::Share(0.1)), ..hard(Signal::ImageFs, 100) }];
        let mut crossings = Crossings::default();
        let mut due = |available| {
            crossings.step(&all, &seen(&[(Signal::ImageFs, available)]), TRANSITION, at(available)).due.len()
        };
        assert_eq!([150, 50, 150, 200, 150].map(&mut due), [0, 1, 1, 0, 0]);
        assert!(!is_relieved(&all, &seen(&[(Signal::ImageFs, 199)])));
        assert!(is_relieved(&all, &seen(&[(Signal::ImageFs, 200)])));
    }

    #[test]
    fn memory_comes_first_and_what_is_not_measured_is_not_crossed() {
        let all = [hard(Signal::Pids, 100), hard(Signal::NodeFs, 100), hard(Signal::Memory, 100)];
        let mut crossings = Crossings::default();
        let decision =
            crossings.step(&all, &seen(&[(Signal::Pids, 1), (Signal::Memory, 1)]), TRANSITION, at(0));
        let signals: Vec<Signal> = decision.due.iter().map(|threshold| threshold.signal).collect();
        assert_eq!(signals, [Signal::Memory, Signal::Pids]);
    }
}
