//! Time is a number here and nothing waits: each test plays requests through the machine.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const QUEUE: Policy = Policy::Queue { queues: 64, hand: 6, length: 50 };

/// A level whose requests all take the same time.
struct Played {
    queues: Queues<u64>,
    now: Duration,
    takes: Duration,
    running: BTreeMap<(Duration, u64), Ticket>,
    started: Vec<u64>,
    count: u64,
    flow_of: BTreeMap<u64, u64>,
}

impl Played {
    fn new(policy: Policy, limit: u32, takes: Duration) -> Self {
        Self {
            queues: Queues::new(policy, limit),
            now: Duration::ZERO,
            takes,
            running: BTreeMap::new(),
            started: Vec::new(),
            count: 0,
            flow_of: BTreeMap::new(),
        }
    }

    fn arrive(&mut self, flow: u64, work: Work) -> (u64, Option<Reason>, Option<Spot>) {
        self.count += 1;
        let number = self.count;
        self.flow_of.insert(number, flow);
        let mut others = Vec::new();
        let hash = flow.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let arrival = self
            .queues
            .arrive(self.now, (hash, work), || number, &mut |who, ticket| others.push((who, ticket)));
        self.start(others);
        match arrival {
            Arrival::Starts(ticket) => {
                self.start(vec![(number, ticket)]);
                (number, None, None)
            }
            Arrival::Waits(spot) => (number, None, Some(spot)),
            Arrival::Refused(reason) => (number, Some(reason), None),
        }
    }

    fn flood(&mut self, flow: u64, count: usize, work: Work) {
        for _ in 0..count {
            self.arrive(flow, work);
        }
    }

    fn start(&mut self, who: Vec<(u64, Ticket)>) {
        for (number, ticket) in who {
            self.started.push(number);
            self.running.insert((self.now + self.takes, number), ticket);
        }
    }

    /// Lets time pass until then.
    fn until(&mut self, then: Duration) {
        while let Some(entry) = self.running.first_entry().filter(|entry| entry.key().0 <= then) {
            self.now = entry.key().0;
            let ticket = entry.remove();
            let mut others = Vec::new();
            self.queues.finish(self.now, &ticket, &mut |who, ticket| others.push((who, ticket)));
            self.start(others);
        }
        self.now = then;
        let mut others = Vec::new();
        self.queues.pass(then, &mut |who, ticket| others.push((who, ticket)));
        self.start(others);
    }

    fn started_of(&self, flow: u64) -> usize {
        self.started.iter().filter(|number| self.flow_of[number] == flow).count()
    }
}

#[test]
fn exempt_requests_always_run_and_rejecting_levels_never_queue() {
    let mut exempt = Played::new(Policy::Exempt, 0, ms(10));
    (0..100).for_each(|_| assert_eq!(exempt.arrive(1, Work::of(1)).1, None));
    assert_eq!(exempt.started.len(), 100);
    let mut reject = Played::new(Policy::Reject, 2, ms(10));
    let answers: Vec<_> = (0..3).map(|_| reject.arrive(1, Work::of(1)).1).collect();
    assert_eq!(answers, [None, None, Some(Reason::ConcurrencyLimit)]);
    reject.until(ms(10));
    assert_eq!(reject.arrive(1, Work::of(1)).1, None);
}

#[test]
fn queues_have_a_length() {
    let policy = Policy::Queue { queues: 1, hand: 1, length: 2 };
    let mut played = Played::new(policy, 1, ms(10));
    let answers: Vec<_> = (0..4).map(|_| played.arrive(1, Work::of(1)).1).collect();
    assert_eq!(answers, [None, None, None, Some(Reason::QueueFull)]);
    played.until(ms(30));
    assert_eq!(played.started, [1, 2, 3]);
    assert_eq!(played.queues.counts(), (0, 0, 0, 0));
}

#[test]
fn a_flood_does_not_delay_a_trickle() {
    let mut played = Played::new(QUEUE, 4, ms(10));
    played.flood(1, 250, Work::of(1));
    for step in 1..=20 {
        played.until(ms(step * 20));
        let before = played.started_of(2);
        played.arrive(2, Work::of(1));
        played.until(ms(step * 20 + 20));
        // It waits for those that run, and for queues that are behind by a request.
        assert_eq!(played.started_of(2), before + 1);
    }
}

#[test]
fn flows_that_both_flood_share_evenly() {
    let mut played = Played::new(QUEUE, 6, ms(5));
    for step in 0..200 {
        played.until(ms(step * 5));
        played.flood(1, 20, Work::of(1));
        played.flood(2, 10, Work::of(1));
    }
    let (one, other) = (played.started_of(1), played.started_of(2));
    // Some of their queues are the same.
    assert!(one.abs_diff(other) * 4 < one, "{one} and {other}");
}

#[test]
fn wide_requests_pay_for_their_width() {
    let mut played = Played::new(QUEUE, 10, ms(5));
    for step in 0..200 {
        played.until(ms(step * 5));
        played.flood(1, 10, Work::of(5));
        played.flood(2, 10, Work::of(1));
    }
    let (wide, narrow) = (played.started_of(1) * 5, played.started_of(2));
    assert!(wide.abs_diff(narrow) * 4 < narrow.max(wide), "{wide} seats and {narrow}");
}

#[test]
fn what_is_wider_than_the_level_runs_alone() {
    let mut played = Played::new(QUEUE, 3, ms(10));
    played.arrive(1, Work::of(1));
    played.arrive(2, Work::of(9));
    assert_eq!(played.started, [1]);
    played.until(ms(10));
    assert_eq!(played.started, [1, 2]);
    played.arrive(1, Work::of(1));
    assert_eq!(played.started, [1, 2]);
    played.until(ms(20));
    assert_eq!(played.started, [1, 2, 3]);
}

#[test]
fn seats_linger_for_what_a_write_sets_off() {
    let mut played = Played::new(QUEUE, 2, ms(10));
    played.arrive(1, Work { seats: 1, final_seats: 2, lingers: ms(50) });
    let (waits, _, spot) = played.arrive(2, Work::of(1));
    assert!(spot.is_some());
    played.until(ms(59));
    assert_eq!((played.started.len(), played.queues.next_release()), (1, Some(ms(60))));
    played.until(ms(60));
    assert_eq!(played.started, [1, waits]);
}

#[test]
fn who_gives_up_leaves_nothing_behind() {
    let mut played = Played::new(QUEUE, 1, ms(10));
    played.arrive(1, Work::of(1));
    let (_, _, spot) = played.arrive(2, Work::of(1));
    let mut nobody = |_, _| panic!("nobody else waits");
    assert!(played.queues.give_up(ms(5), spot.unwrap(), &mut nobody));
    assert!(!played.queues.give_up(ms(5), spot.unwrap(), &mut nobody));
    played.until(ms(10));
    assert_eq!((played.started.len(), played.queues.counts()), (1, (0, 0, 0, 0)));
    assert!(played.queues.busy.is_empty());
}

proptest! {
    #[test]
    fn seats_are_bounded_and_everybody_starts_in_the_end(
        arrivals in prop::collection::vec((0_u64..5, 1_u32..4, 0_u64..20), 1..200),
        limit in 3_u32..8,
    ) {
        let mut played = Played::new(QUEUE, limit, ms(7));
        let mut refused = 0;
        for (flow, width, pause) in arrivals.iter().copied() {
            played.until(played.now + ms(pause));
            refused += usize::from(played.arrive(flow, Work::of(width)).1.is_some());
            prop_assert!(played.queues.counts().3 <= limit);
        }
        played.until(played.now + ms(100_000));
        prop_assert_eq!(played.started.len() + refused, arrivals.len());
        prop_assert_eq!(played.queues.counts(), (0, 0, 0, 0));
        prop_assert!(played.queues.busy.is_empty());
    }
}
