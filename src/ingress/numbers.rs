//! What the proxy counts, in Prometheus' text format. Counting takes no lock.

use base::exposition::{Counted, Text};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Buckets of times to an answer's head, in seconds.
const BUCKETS_S: [f64; 10] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 10.0, 60.0];
const FIRST_CODE: u16 = 100;
const CODES: usize = 500;

/// The process' own.
pub(crate) static NUMBERS: LazyLock<Numbers> = LazyLock::new(Numbers::default);

pub(crate) struct Numbers {
    codes: Box<[AtomicU64]>,
    buckets: [AtomicU64; BUCKETS_S.len()],
    requests: AtomicU64,
    micros: AtomicU64,
    connections: AtomicU64,
    accepted: AtomicU64,
    tunnels: AtomicU64,
    retries: AtomicU64,
}

impl Default for Numbers {
    fn default() -> Self {
        Self {
            codes: (0..CODES).map(|_| AtomicU64::new(0)).collect(),
            buckets: std::array::from_fn(|_| AtomicU64::new(0)),
            requests: AtomicU64::new(0),
            micros: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            tunnels: AtomicU64::new(0),
            retries: AtomicU64::new(0),
        }
    }
}

/// Counts something as open for as long as it lives.
pub(crate) struct Open(&'static AtomicU64);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Numbers {
    pub(crate) fn answered(&self, code: u16, took: Duration) {
        let one = |counter: &AtomicU64| counter.fetch_add(1, Ordering::Relaxed);
        if let Some(counter) = self.codes.get(usize::from(code.saturating_sub(FIRST_CODE))) {
            one(counter);
        }
        let seconds = took.as_secs_f64();
        if let Some(at) = BUCKETS_S.iter().position(|most| seconds <= *most) {
            one(&self.buckets[at]);
        }
        one(&self.requests);
        self.micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(crate) fn connection(&'static self) -> Open {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        self.connections.fetch_add(1, Ordering::Relaxed);
        Open(&self.connections)
    }

    pub(crate) fn tunnel(&'static self) -> Open {
        self.tunnels.fetch_add(1, Ordering::Relaxed);
        Open(&self.tunnels)
    }

    pub(crate) fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn render(&self) -> String {
        let mut text = Text::default();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        text.family("knarr_ingress_requests_total", "counter", "Answered requests.");
        for (code, counter) in (FIRST_CODE..).zip(&self.codes) {
            if read(counter) > 0 {
                text.labelled("knarr_ingress_requests_total", &format!("code=\"{code}\""), read(counter));
            }
        }
        let name = "knarr_ingress_request_duration_seconds";
        text.family(name, "histogram", "Time to the answer's head, in seconds.");
        let mut so_far = 0;
        let buckets: Vec<(f64, u64)> = BUCKETS_S
            .iter()
            .zip(&self.buckets)
            .map(|(most, counter)| {
                so_far += read(counter);
                (*most, so_far)
            })
            .collect();
        let sum = Duration::from_micros(read(&self.micros)).as_secs_f64();
        text.histogram(name, "", Counted { buckets, count: read(&self.requests), sum });
        for (name, kind, help, counter) in [
            ("knarr_ingress_connections", "gauge", "Open connections of clients.", &self.connections),
            ("knarr_ingress_connections_total", "counter", "Accepted connections.", &self.accepted),
            (
                "knarr_ingress_tunnels",
                "gauge",
                "Open WebSockets, other upgrades and streams that are passed on.",
                &self.tunnels,
            ),
            ("knarr_ingress_retries_total", "counter", "Requests sent to another endpoint.", &self.retries),
        ] {
            text.family(name, kind, help);
            text.labelled(name, "", read(counter));
        }
        text.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up() {
        let numbers = Numbers::default();
        numbers.answered(200, Duration::from_millis(3));
        numbers.answered(200, Duration::from_secs(90));
        numbers.answered(503, Duration::from_micros(1));
        let text = numbers.render();
        for wanted in [
            "knarr_ingress_requests_total{code=\"200\"} 2\n",
            "knarr_ingress_requests_total{code=\"503\"} 1\n",
            "knarr_ingress_request_duration_seconds_bucket{le=\"0.001\"} 1\n",
            "knarr_ingress_request_duration_seconds_bucket{le=\"60\"} 2\n",
            "knarr_ingress_request_duration_seconds_bucket{le=\"+Inf\"} 3\n",
            "knarr_ingress_request_duration_seconds_count 3\n",
        ] {
            assert!(text.contains(wanted), "{wanted} in {text}");
        }
    }
}
