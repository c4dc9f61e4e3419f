//! What a route bounds: how many requests at a time and in a second. Without locks, but for what is bounded for each
//! client.

use crate::rules::Limits;
use base::clock;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

const SECOND_NS: u64 = 1_000_000_000;
/// Clients that a route knows at a time; where there are more, those who are not known are turned away.
const CLIENTS: usize = 65_536;

/// The bounds of one route. Stays the same from table to table.
pub(crate) struct Gate {
    concurrency: Option<u32>,
    under_way: AtomicU32,
    /// Between two requests, in nanoseconds.
    interval_ns: Option<u64>,
    /// When the next request would be due if they came evenly (the generic cell rate algorithm).
    due_ns: AtomicU64,
    clients: Option<Clients>,
    start: clock::Instant,
}

/// What is bounded for each client.
struct Clients {
    concurrency: Option<u32>,
    interval_ns: Option<u64>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    all: HashMap<IpAddr, Client>,
    /// When those were last looked for who may be forgotten.
    swept_ns: u64,
}

#[derive(Default)]
struct Client {
    under_way: u32,
    due_ns: u64,
}

/// A request that was let in.
pub(crate) struct Pass {
    gate: Arc<Gate>,
    /// The client for whom it counts.
    client: Option<IpAddr>,
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.under_way.fetch_sub(1, Ordering::Relaxed);
        if let (Some(client), Some(clients)) = (self.client, &self.gate.clients) {
            clients.leave(client, self.gate.now_ns());
        }
    }
}

/// When a request is due that comes after others, if it may come now. A second's requests may come at once.
fn next_due(due_ns: u64, now_ns: u64, interval_ns: u64) -> Option<u64> {
    let due = due_ns.max(now_ns);
    (due - now_ns <= SECOND_NS - interval_ns).then_some(due + interval_ns)
}

fn interval(rate_per_s: Option<u32>) -> Option<u64> {
    rate_per_s.map(|rate| SECOND_NS / u64::from(rate.max(1)))
}

/// Whoever has an address of IPv6 has the 2⁶⁴ beside it as well.
fn one_client(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

impl Clients {
    fn of(limits: &Limits) -> Option<Self> {
        let interval_ns = interval(limits.client_rate_per_s);
        (limits.client_concurrency.is_some() || interval_ns.is_some()).then(|| Self {
            concurrency: limits.client_concurrency,
            interval_ns,
            known: Mutex::default(),
        })
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, client: IpAddr, now_ns: u64) -> bool {
        let mut known = self.known();
        if known.all.len() >= CLIENTS && !known.all.contains_key(&client) {
            if now_ns.saturating_sub(known.swept_ns) >= SECOND_NS {
                known.swept_ns = now_ns;
                known.all.retain(|_, one| one.under_way > 0 || one.due_ns > now_ns);
            }
            if known.all.len() >= CLIENTS {
                return false;
            }
        }
        let one = known.all.entry(client).or_default();
        if self.concurrency.is_some_and(|most| one.under_way >= most) {
            return false;
        }
        if let Some(interval) = self.interval_ns {
            let Some(due) = next_due(one.due_ns, now_ns, interval) else { return false };
            one.due_ns = due;
        }
        one.under_way += 1;
        true
    }

    fn leave(&self, client: IpAddr, now_ns: u64) {
        let mut known = self.known();
        let Some(one) = known.all.get_mut(&client) else { return };
        one.under_way -= 1;
        if one.under_way == 0 && one.due_ns <= now_ns {
            known.all.remove(&client);
        }
    }
}

impl Gate {
    /// None where nothing is bounded.
    pub(crate) fn of(limits: &Limits) -> Option<Self> {
        let clients = Clients::of(limits);
        let interval_ns = interval(limits.rate_per_s);
        (limits.concurrency.is_some() || interval_ns.is_some() || clients.is_some()).then(|| Self {
            concurrency: limits.concurrency,
            under_way: AtomicU32::new(0),
            interval_ns,
            due_ns: AtomicU64::new(0),
            clients,
            start: clock::instant(),
        })
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Lets a request of a client in, or not.
    pub(crate) fn enter(self: &Arc<Self>, client: IpAddr) -> Option<Pass> {
        let before = self.under_way.fetch_add(1, Ordering::Relaxed);
        let mut pass = Pass { gate: self.clone(), client: None };
        if self.concurrency.is_some_and(|most| before >= most) {
            return None;
        }
        if let Some(clients) = &self.clients {
            let client = one_client(client);
            if !clients.enter(client, self.now_ns()) {
                return None;
            }
            pass.client = Some(client);
        }
        let Some(interval) = self.interval_ns else { return Some(pass) };
        let now = self.now_ns();
        let next = |due: u64| next_due(due, now, interval);
        let is_due = self.due_ns.try_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok();
        is_due.then_some(pass)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    #[tokio::test(start_paused = true)]
    async fn each_client_has_bounds_of_its_own() {
        let limits = Limits { client_rate_per_s: Some(3), client_concurrency: Some(2), ..Limits::default() };
        let gate = Arc::new(Gate::of(&limits).unwrap());
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let (first, second) = (gate.enter(ONE), gate.enter(ONE));
        assert!(first.is_some() && second.is_some() && gate.enter(ONE).is_none(), "two at a time");
        assert!(gate.enter(address("192.0.2.2")).is_some());
        drop((first, second));
        assert!(gate.enter(ONE).is_some());
        assert!(gate.enter(ONE).is_none(), "three in a second");
        tokio::time::advance(Duration::from_millis(400)).await;
        assert!(gate.enter(ONE).is_some());
        let held: Vec<_> = ["fd00::1", "fd00::2"].map(|text| gate.enter(address(text))).into();
        assert!(
            held.iter().all(Option::is_some) && gate.enter(address("fd00::3")).is_none(),
            "one link, one client"
        );
        assert!(gate.enter(address("fd00:0:0:1::1")).is_some());
        drop(held);
        tokio::time::advance(Duration::from_secs(2)).await;
        drop(gate.enter(ONE));
        tokio::time::advance(Duration::from_secs(2)).await;
        let clients = gate.clients.as_ref().unwrap();
        let all = 0..u32::try_from(CLIENTS).unwrap() + 10;
        let enter = |number: u32| clients.enter(std::net::Ipv4Addr::from_bits(number).into(), gate.now_ns());
        let entered = all.filter(|number| enter(*number)).count();
        assert!(entered <= CLIENTS, "more are turned away");
        assert_eq!(clients.known().all.len(), CLIENTS);
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_in_a_second_and_so_many_at_a_time() {
        let limits = Limits { rate_per_s: Some(4), concurrency: Some(3), ..Limits::default() };
        let gate = Arc::new(Gate::of(&limits).unwrap());
        let mut passes: Vec<Pass> = (0..3).map(|_| gate.enter(ONE).unwrap()).collect();
        assert!(gate.enter(ONE).is_none(), "three at a time");
        passes.pop();
        let fourth = gate.enter(ONE);
        assert!(fourth.is_some());
        drop((passes, fourth));
        assert!(gate.enter(ONE).is_none(), "four in a second");
        tokio::time::advance(Duration::from_millis(260)).await;
        assert!(gate.enter(ONE).is_some());
        assert!(gate.enter(ONE).is_none());
    }
}
