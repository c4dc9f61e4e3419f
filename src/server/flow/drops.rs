//! `Retry-After` of refused requests: it doubles while many are refused and falls again by a second at a
//! time. Pure.

use std::collections::VecDeque;

/// The longest a client is asked to wait.
const LONGEST_S: u64 = 32;
/// So many refusals a second are too many.
const MANY: u64 = 3;

/// The refusals of one level. Times are whole seconds of a steady clock.
#[derive(Debug)]
pub(super) struct Drops {
    second: u64,
    count: u64,
    history: VecDeque<(u64, u64)>,
    retry_after_s: u64,
    raised: u64,
}

impl Drops {
    pub(super) fn new() -> Self {
        Self { second: 0, count: 0, history: VecDeque::new(), retry_after_s: 1, raised: 0 }
    }

    /// Counts a refusal, and says after how many seconds its client may come again.
    pub(super) fn refuse(&mut self, second: u64) -> u64 {
        if second != self.second {
            self.history.push_back((self.second, self.count));
            (self.second, self.count) = (second, 0);
            let keeps = (2 * self.retry_after_s).min(LONGEST_S);
            self.history.retain(|(then, _)| second.saturating_sub(*then) <= keeps);
            self.adjust(second);
        }
        self.count += 1;
        self.retry_after_s
    }

    fn adjust(&mut self, second: u64) {
        let recent = self.history.iter().filter(|(then, _)| second - then <= self.retry_after_s);
        let refused: u64 = recent.map(|(_, count)| count).sum();
        let settled = second.saturating_sub(self.raised) >= self.retry_after_s;
        if settled && refused >= MANY * self.retry_after_s {
            self.retry_after_s = (self.retry_after_s * 2).min(LONGEST_S);
            self.raised = second;
        } else if refused < self.retry_after_s {
            self.retry_after_s = (self.retry_after_s - 1).max(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_doubles_under_load_and_falls_after_it() {
        let mut drops = Drops::new();
        let mut asked = Vec::new();
        for second in 100..140 {
            let answers: Vec<u64> = (0..200).map(|_| drops.refuse(second)).collect();
            asked.push(*answers.last().unwrap());
        }
        assert_eq!((asked[0], asked[1], *asked.last().unwrap()), (1, 2, 32));
        assert!(asked.is_sorted());
        let falling: Vec<u64> = (0..40).map(|step| drops.refuse(300 + 40 * step)).collect();
        assert_eq!((falling[0], *falling.last().unwrap()), (31, 1));
    }
}
