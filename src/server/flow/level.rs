//! A priority level while it runs: its queues behind one short lock, and who waits in them.

use super::allocate::Seats;
use super::counts::Counts;
use super::drops::Drops;
use super::queues::{Arrival, Policy, Queues, Reason, Spot, Ticket, Work};
use super::snapshot::Rules;
use base::{Phase, Supervisor, clock};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

type Waker = oneshot::Sender<Ticket>;

struct State {
    queues: Queues<Waker>,
    rules: Rules,
    seats: Seats,
    drops: Drops,
    /// A task waits for lingering seats.
    timed: bool,
}

/// One priority level.
pub(crate) struct Level {
    pub(super) name: String,
    origin: clock::Instant,
    supervisor: Supervisor,
    state: Mutex<State>,
}

/// A request that holds seats; dropping it gives them back.
pub(crate) struct Permit {
    level: Arc<Level>,
    counts: Arc<Counts>,
    ticket: Ticket,
    seats: u32,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.counts.ended(self.seats);
        let mut state = self.level.state();
        state.queues.finish(self.level.now(), &self.ticket, &mut wake);
        self.level.keep_time(&mut state);
    }
}

/// A permit of an answer that its client reads by and by. It is given back when that is done, and after a
/// while in any case: a client that does not read must not keep others from being answered.
pub(crate) struct Lent {
    permit: Arc<Mutex<Option<Permit>>>,
    timer: tokio::task::AbortHandle,
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.timer.abort();
        give_back(&self.permit);
    }
}

fn give_back(permit: &Mutex<Option<Permit>>) {
    drop(permit.lock().unwrap_or_else(PoisonError::into_inner).take());
}

impl Permit {
    /// Lends the seats to an answer.
    pub(crate) fn lend(self, longest: Duration) -> Lent {
        let supervisor = self.level.supervisor.clone();
        let permit = Arc::new(Mutex::new(Some(self)));
        let own = permit.clone();
        let timer = supervisor.detached("seats of an answer", Phase::Ground, async move {
            clock::sleep(longest).await;
            give_back(&own);
        });
        Lent { permit, timer }
    }
}

/// A waiting request; dropping it leaves the queue.
struct Waiter<'a> {
    level: &'a Arc<Level>,
    spot: Spot,
    receiver: oneshot::Receiver<Ticket>,
    started: bool,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        if self.started {
            return;
        }
        let mut state = self.level.state();
        let now = self.level.now();
        if !state.queues.give_up(now, self.spot, &mut wake)
            // It was started just now.
            && let Ok(ticket) = self.receiver.try_recv()
        {
            state.queues.finish(now, &ticket, &mut wake);
        }
    }
}

/// Hands a ticket to who waits for it, under the level's lock: who gives up meanwhile finds it.
fn wake(waker: Waker, ticket: Ticket) {
    if waker.send(ticket).is_err() {
        tracing::error!("a request left its queue without giving up");
    }
}

impl Level {
    pub(super) fn new(name: &str, rules: Rules, seats: Seats, supervisor: &Supervisor) -> Self {
        // It begins halfway between what it has and what it keeps.
        let limit = seats.nominal - (seats.nominal - seats.least) / 2;
        let queues = Queues::new(rules.policy, limit);
        let state = State { queues, rules, seats, drops: Drops::new(), timed: false };
        Self {
            name: name.to_owned(),
            origin: clock::instant(),
            supervisor: supervisor.clone(),
            state: Mutex::new(state),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// Other rules from now on; seats that are lent stay so until the next [`Self::limit`].
    pub(super) fn configure(&self, rules: Rules, seats: Seats) {
        let mut state = self.state();
        state.rules = rules;
        let before = state.seats;
        state.seats = Seats { smoothed: before.smoothed, highest: before.highest, ..seats };
        let limit = state.queues.limit.clamp(seats.least, seats.most.max(seats.least));
        state.queues.configure(self.now(), rules.policy, limit, &mut wake);
    }

    pub(super) fn rules(&self) -> Rules {
        self.state().rules
    }

    /// Nobody holds seats of it or waits for some.
    pub(super) fn is_idle(&self) -> bool {
        self.state().queues.is_idle()
    }

    /// What the level was asked for since the last time.
    pub(super) fn take_demand(&self) -> Seats {
        let mut state = self.state();
        let seen = state.queues.take_demand(self.now());
        state.seats.highest = seen.highest;
        state.seats.smoothed = super::allocate::smooth(state.seats.smoothed, seen.envelope);
        state.seats
    }

    /// So many seats from now on.
    pub(super) fn limit(&self, seats: u32) {
        let mut state = self.state();
        let policy = state.queues.policy;
        if state.queues.limit != seats {
            state.queues.configure(self.now(), policy, seats, &mut wake);
        }
    }

    /// The most seats that one request may take, where the level queues: a part of all, so that a hand of
    /// queues can be served at a time.
    pub(super) fn widest(&self) -> Option<u32> {
        let state = self.state();
        let Policy::Queue { hand, .. } = state.queues.policy else { return None };
        let nominal = state.seats.nominal;
        Some((nominal * 15).div_ceil(100).min(nominal / hand.max(1)).max(1))
    }

    /// Seats for a request of a flow: at once, or after some waiting.
    pub(super) async fn enter(
        self: &Arc<Self>,
        counts: &Arc<Counts>,
        (flow, work): (u64, Work),
        waits_for: Duration,
    ) -> Result<Permit, Reason> {
        let mut receiver = None;
        let arrival = {
            let mut state = self.state();
            let waker = || {
                let (sender, own) = oneshot::channel();
                receiver = Some(own);
                sender
            };
            let arrival = state.queues.arrive(self.now(), (flow, work), waker, &mut wake);
            if matches!(arrival, Arrival::Waits(_)) {
                self.keep_time(&mut state);
            }
            arrival
        };
        let ticket = match (arrival, receiver) {
            (Arrival::Starts(ticket), _) => ticket,
            (Arrival::Waits(spot), Some(receiver)) => {
                let waiter = Waiter { level: self, spot, receiver, started: false };
                let _waiting = counts.waiting(work.seats);
                waiter.wait(waits_for).await.ok_or(Reason::TimeOut)?
            }
            (Arrival::Refused(reason), _) => return Err(reason),
            (Arrival::Waits(_), None) => return Err(Reason::QueueFull),
        };
        counts.started(work.seats);
        Ok(Permit { level: self.clone(), counts: counts.clone(), ticket, seats: work.seats })
    }

    /// Counts a refusal, and says after how many seconds its client may come again.
    pub(super) fn refuse(&self) -> u64 {
        let second = self.now().as_secs();
        self.state().drops.refuse(second)
    }

    /// Sees to it that somebody is there when lingering seats are free again and others wait for them.
    fn keep_time(self: &Arc<Self>, state: &mut State) {
        if state.timed || !waits_for_time(state) {
            return;
        }
        state.timed = true;
        let level = self.clone();
        self.supervisor.detached("seats of a priority level", Phase::Ground, async move {
            while let Some(due) = level.next_release() {
                tokio::time::sleep_until(level.origin + due).await;
            }
        });
    }

    fn next_release(&self) -> Option<Duration> {
        let mut state = self.state();
        state.queues.pass(self.now(), &mut wake);
        state.timed = waits_for_time(&state);
        state.queues.next_release().filter(|_| state.timed)
    }

    /// What is shown of the level: its seats, the limit now, and who waits and runs.
    pub(super) fn shown(&self) -> (Seats, u32, (usize, usize, u32, u32)) {
        let state = self.state();
        (state.seats, state.queues.limit, state.queues.counts())
    }
}

fn waits_for_time(state: &State) -> bool {
    state.queues.counts().0 > 0 && state.queues.next_release().is_some()
}

impl Waiter<'_> {
    async fn wait(mut self, longest: Duration) -> Option<Ticket> {
        let ticket = tokio::time::timeout(longest, &mut self.receiver).await.ok()?.ok()?;
        self.started = true;
        Some(ticket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;

    fn level(policy: Policy, nominal: u32) -> (Arc<Level>, Arc<Counts>) {
        let seats = Seats { nominal, least: nominal, most: nominal, ..Seats::default() };
        let rules = Rules { policy, shares: 1, lendable_percent: 0, borrowing_percent: None };
        (Arc::new(Level::new("a", rules, seats, &Supervisor::new())), Arc::default())
    }

    const QUEUE: Policy = Policy::Queue { queues: 1, hand: 1, length: 10 };
    const LONG: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn who_waits_starts_when_a_permit_is_dropped() {
        let (level, counts) = level(QUEUE, 1);
        let first = level.enter(&counts, (1, Work::of(1)), LONG).await.ok().unwrap();
        let mut second = pin!(level.enter(&counts, (1, Work::of(1)), LONG));
        assert!(futures_util::poll!(second.as_mut()).is_pending());
        assert_eq!(level.shown().2, (1, 1, 1, 1));
        drop(first);
        assert!(second.await.is_ok());
        assert_eq!(level.shown().2, (0, 0, 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_is_bounded_and_a_client_that_leaves_takes_no_seat() {
        let (level, counts) = level(QUEUE, 1);
        let first = level.enter(&counts, (1, Work::of(1)), LONG).await.ok().unwrap();
        assert_eq!(level.enter(&counts, (1, Work::of(1)), LONG).await.err(), Some(Reason::TimeOut));
        {
            let mut gone = Box::pin(level.enter(&counts, (1, Work::of(1)), LONG));
            assert!(futures_util::poll!(gone.as_mut()).is_pending());
            drop(first);
        }
        assert_eq!(level.shown().2, (0, 0, 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_an_answer_loses_its_seats() {
        let (level, counts) = level(QUEUE, 1);
        let held = level.enter(&counts, (1, Work::of(1)), LONG).await.ok().unwrap();
        let slow = held.lend(Duration::from_secs(5));
        assert!(level.enter(&counts, (1, Work::of(1)), LONG).await.is_ok());
        drop(slow);
        let held = level.enter(&counts, (1, Work::of(1)), LONG).await.ok().unwrap();
        drop(held.lend(LONG));
        assert_eq!(level.shown().2, (0, 0, 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn seats_that_linger_are_waited_for() {
        let (level, counts) = level(QUEUE, 1);
        let work = Work { seats: 1, final_seats: 1, lingers: Duration::from_millis(50) };
        drop(level.enter(&counts, (1, work), LONG).await.ok().unwrap());
        let began = clock::instant();
        assert!(level.enter(&counts, (1, Work::of(1)), LONG).await.is_ok());
        assert!(began.elapsed() >= Duration::from_millis(50) && began.elapsed() < Duration::from_millis(60));
    }
}
