//! Fair queuing of one priority level's requests (KEP-1040), as a state machine over explicit time.
//!
//! A flow is dealt a hand of queues and its request waits in the emptiest. Queues are served by virtual
//! time, which passes as fast as a busy queue gets seats: the request whose virtual end is nearest starts
//! first, so that a flow that fills its queues delays itself and not the others. Only busy queues exist
//! here, as an idle one has nothing to remember.

use super::demand::Demand;
use std::collections::VecDeque;
use std::time::Duration;

/// How long a request is taken to last until it is known (Kubernetes' estimate).
const GUESS: Duration = Duration::from_millis(3);

/// What a request costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Work {
    /// Seats while it runs.
    pub(crate) seats: u32,
    /// Seats that its consequences take, for this time after its end.
    pub(crate) final_seats: u32,
    pub(crate) lingers: Duration,
}

impl Work {
    /// As many seats while it runs, and none afterwards.
    pub(crate) const fn of(seats: u32) -> Self {
        Self { seats, final_seats: 0, lingers: Duration::ZERO }
    }

    fn width(&self) -> u32 {
        self.seats.max(self.final_seats)
    }

    /// In seat-seconds.
    fn total(&self) -> f64 {
        f64::from(self.seats) * GUESS.as_secs_f64() + f64::from(self.final_seats) * self.lingers.as_secs_f64()
    }
}

/// What becomes of requests that find no seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    /// They run all the same.
    Exempt,
    /// They are refused.
    Reject,
    /// They wait.
    Queue { queues: u32, hand: u32, length: usize },
}

/// Why a request is refused, as `apiserver_flowcontrol_rejected_requests_total` calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    ConcurrencyLimit,
    QueueFull,
    TimeOut,
}

/// Stands for a request that runs.
#[derive(Debug)]
pub(crate) struct Ticket {
    queue: Option<u32>,
    work: Work,
    started: Duration,
}

/// Where a request waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spot {
    queue: u32,
    number: u64,
}

#[derive(Debug)]
pub(crate) enum Arrival {
    Starts(Ticket),
    Waits(Spot),
    Refused(Reason),
}

struct Waiting<W> {
    number: u64,
    arrived: f64,
    work: Work,
    waker: W,
}

struct Queue<W> {
    index: u32,
    /// The virtual time at which its next request starts.
    next_start: f64,
    running: usize,
    /// Taken by what runs or lingers.
    seats: u32,
    waiting: VecDeque<Waiting<W>>,
}

impl<W> Queue<W> {
    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running == 0
    }

    fn work_waiting(&self) -> f64 {
        self.waiting.iter().map(|request| request.work.total()).sum()
    }

    /// A queue that used less than its share does not save it up.
    fn bound(&mut self) {
        if let Some(head) = self.waiting.front() {
            self.next_start = self.next_start.max(head.arrived);
        }
    }
}

struct Lingering {
    until: Duration,
    width: u32,
    queue: Option<u32>,
}

/// One level's seats and queues. `W` wakes who waits.
pub(crate) struct Queues<W> {
    pub(crate) policy: Policy,
    /// Seats at a time.
    pub(crate) limit: u32,
    now: Duration,
    virtual_now: f64,
    /// The busy queues, by index.
    busy: Vec<Queue<W>>,
    /// The queue that was served last; at equal virtual ends the others come first.
    last: u32,
    running: usize,
    taken: u32,
    waiting: usize,
    wanted: u32,
    lingering: Vec<Lingering>,
    arrivals: u64,
    demand: Demand,
}

impl<W> Queues<W> {
    pub(crate) fn new(policy: Policy, limit: u32) -> Self {
        Self {
            policy,
            limit,
            now: Duration::ZERO,
            virtual_now: 0.0,
            busy: Vec::new(),
            last: 0,
            running: 0,
            taken: 0,
            waiting: 0,
            wanted: 0,
            lingering: Vec::new(),
            arrivals: 0,
            demand: Demand::default(),
        }
    }

    /// A request of a flow arrives; `waker` is asked for only if it has to wait. Others may start too:
    /// `start` is told.
    pub(crate) fn arrive(
        &mut self,
        now: Duration,
        (flow, work): (u64, Work),
        waker: impl FnOnce() -> W,
        start: &mut impl FnMut(W, Ticket),
    ) -> Arrival {
        self.pass(now, start);
        self.arrivals += 1;
        let Policy::Queue { queues, hand, length } = self.policy else {
            return if self.fits(work.width()) {
                Arrival::Starts(self.run(None, work))
            } else {
                Arrival::Refused(Reason::ConcurrencyLimit)
            };
        };
        let index = self.choose(flow, queues, hand);
        let full = |queue: &Queue<W>| queue.waiting.len() >= length;
        if self.taken >= self.limit && self.at(index).is_ok_and(|at| full(&self.busy[at])) {
            return Arrival::Refused(Reason::QueueFull);
        }
        let virtual_now = self.virtual_now;
        let queue = self.queue(index);
        if queue.is_idle() {
            queue.next_start = virtual_now;
        }
        if self.waiting == 0 && self.taken < self.limit && self.fits(work.width()) {
            return Arrival::Starts(self.run(Some(index), work));
        }
        let spot = self.enqueue(index, work, waker());
        self.dispatch(start);
        Arrival::Waits(spot)
    }

    fn enqueue(&mut self, index: u32, work: Work, waker: W) -> Spot {
        let (number, arrived) = (self.arrivals, self.virtual_now);
        let queue = self.queue(index);
        queue.waiting.push_back(Waiting { number, arrived, work, waker });
        queue.bound();
        self.waiting += 1;
        self.wanted += work.width();
        self.note();
        Spot { queue: index, number }
    }

    /// A waiting request gives up; false if it has started already.
    pub(crate) fn give_up(&mut self, now: Duration, spot: Spot, start: &mut impl FnMut(W, Ticket)) -> bool {
        self.pass(now, start);
        let Ok(at) = self.at(spot.queue) else { return false };
        let queue = &mut self.busy[at];
        let Some(place) = queue.waiting.iter().position(|request| request.number == spot.number) else {
            return false;
        };
        let request = queue.waiting.remove(place);
        queue.bound();
        self.waiting -= 1;
        self.wanted -= request.map_or(0, |request| request.work.width());
        self.forget(spot.queue);
        self.dispatch(start);
        true
    }

    /// A running request ends.
    pub(crate) fn finish(&mut self, now: Duration, ticket: &Ticket, start: &mut impl FnMut(W, Ticket)) {
        self.pass(now, start);
        self.running -= 1;
        let took = now.saturating_sub(ticket.started);
        if let Some(queue) = ticket.queue.and_then(|index| self.at(index).ok()) {
            let queue = &mut self.busy[queue];
            queue.running -= 1;
            let guessed_too_much = GUESS.as_secs_f64() - took.as_secs_f64();
            queue.next_start -= f64::from(ticket.work.seats) * guessed_too_much;
            queue.bound();
        }
        let width = ticket.work.width();
        if ticket.work.lingers.is_zero() {
            self.release(width, ticket.queue);
        } else {
            let until = now + ticket.work.lingers;
            self.lingering.push(Lingering { until, width, queue: ticket.queue });
        }
        self.dispatch(start);
    }

    /// Other seats, or other rules, from now on.
    pub(crate) fn configure(
        &mut self,
        now: Duration,
        policy: Policy,
        limit: u32,
        start: &mut impl FnMut(W, Ticket),
    ) {
        self.pass(now, start);
        (self.policy, self.limit) = (policy, limit);
        self.dispatch(start);
    }

    /// Lets time pass: seats that lingered long enough are free, and who waited for them starts.
    pub(crate) fn pass(&mut self, now: Duration, start: &mut impl FnMut(W, Ticket)) {
        while let Some(due) = self.next_release().filter(|due| *due <= now) {
            self.advance(due);
            let Some(at) = self.lingering.iter().position(|one| one.until == due) else { break };
            let ended = self.lingering.swap_remove(at);
            self.release(ended.width, ended.queue);
            self.dispatch(start);
        }
        self.advance(now);
    }

    /// When seats will be free without a request's end.
    pub(crate) fn next_release(&self) -> Option<Duration> {
        self.lingering.iter().map(|one| one.until).min()
    }

    /// Nothing runs, lingers or waits.
    pub(crate) fn is_idle(&self) -> bool {
        self.taken == 0 && self.running == 0 && self.waiting == 0
    }

    /// Requests that wait and run, and the seats they ask for and have.
    pub(crate) fn counts(&self) -> (usize, usize, u32, u32) {
        (self.waiting, self.running, self.wanted, self.taken)
    }

    /// Takes what was asked for since the last time.
    pub(crate) fn take_demand(&mut self, now: Duration) -> super::demand::Observed {
        self.demand.take(now)
    }

    fn advance(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.now);
        self.now = self.now.max(now);
        let busy = self.busy.iter().filter(|queue| !queue.is_idle()).count();
        if busy > 0 {
            let seats = f64::from((self.taken + self.wanted).min(self.limit));
            #[expect(clippy::cast_precision_loss, reason = "a small number")]
            let rate = seats / busy as f64;
            self.virtual_now += rate * passed.as_secs_f64();
        }
    }

    fn fits(&self, width: u32) -> bool {
        match self.policy {
            Policy::Exempt => true,
            // What is wider than the level runs alone.
            _ if width > self.limit => self.running == 0,
            _ => self.taken + width <= self.limit,
        }
    }

    fn run(&mut self, queue: Option<u32>, work: Work) -> Ticket {
        self.running += 1;
        self.taken += work.width();
        if let Some(index) = queue {
            let queue = self.queue(index);
            queue.running += 1;
            queue.seats += work.width();
            queue.next_start += work.total();
            queue.bound();
            self.last = index;
        }
        self.note();
        Ticket { queue, work, started: self.now }
    }

    fn release(&mut self, width: u32, queue: Option<u32>) {
        self.taken -= width;
        self.note();
        if let Some(index) = queue
            && let Ok(at) = self.at(index)
        {
            self.busy[at].seats -= width;
            self.forget(index);
        }
    }

    fn note(&mut self) {
        self.demand.note(self.now, self.taken + self.wanted);
    }

    /// Starts what can start, in order.
    fn dispatch(&mut self, start: &mut impl FnMut(W, Ticket)) {
        while self.waiting > 0 && self.taken < self.limit {
            let Some(at) = self.next_queue() else { return };
            let queue = &mut self.busy[at];
            let Some(head) = queue.waiting.pop_front() else { return };
            if !self.fits(head.work.width()) {
                self.busy[at].waiting.push_front(head);
                return;
            }
            self.waiting -= 1;
            self.wanted -= head.work.width();
            let ticket = self.run(Some(self.busy[at].index), head.work);
            start(head.waker, ticket);
        }
    }

    /// The queue whose head has the nearest virtual end.
    fn next_queue(&self) -> Option<usize> {
        let after = self.busy.partition_point(|queue| queue.index <= self.last);
        let order = (after..self.busy.len()).chain(0..after);
        let ends = order.filter_map(|at| {
            let queue = &self.busy[at];
            queue.waiting.front().map(|head| (at, queue.next_start + head.work.total()))
        });
        ends.min_by(|one, other| one.1.total_cmp(&other.1)).map(|(at, _)| at)
    }

    /// The queue of a flow's hand with the least work waiting.
    fn choose(&self, flow: u64, queues: u32, hand: u32) -> u32 {
        let dealt = super::deal::deal(flow, queues, hand);
        #[expect(clippy::cast_possible_truncation, reason = "the remainder of a small number")]
        let offset = (self.arrivals % u64::from(hand.max(1))) as usize;
        let waiting = |index: u32| self.at(index).map_or(0.0, |at| self.busy[at].work_waiting());
        let turned = (0..dealt.len()).map(|place| dealt[(offset + place) % dealt.len()]);
        turned.min_by(|one, other| waiting(*one).total_cmp(&waiting(*other))).unwrap_or(0)
    }

    fn at(&self, index: u32) -> Result<usize, usize> {
        self.busy.binary_search_by_key(&index, |queue| queue.index)
    }

    fn queue(&mut self, index: u32) -> &mut Queue<W> {
        let at = self.at(index).unwrap_or_else(|at| {
            let fresh = Queue { index, next_start: 0.0, running: 0, seats: 0, waiting: VecDeque::new() };
            self.busy.insert(at, fresh);
            at
        });
        &mut self.busy[at]
    }

    fn forget(&mut self, index: u32) {
        if let Ok(at) = self.at(index)
            && self.busy[at].is_idle()
            && self.busy[at].seats == 0
        {
            self.busy.remove(at);
        }
    }
}

#[cfg(test)]
mod tests;
