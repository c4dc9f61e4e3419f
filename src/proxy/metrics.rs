//! kube-proxy's metrics, by the names that people have alerts on.

use crate::family::{Family, kubernetes};
use crate::inbox::Pending;
use base::clock;
use base::exposition::{Counted, Text};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// From a millisecond, each twice the one before.
const DOUBLING: [f64; 15] = [
    0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384,
];

/// A quarter and half of a second, every second of a minute, then in steps of 5 and of 30 to five minutes.
fn programming() -> Vec<f64> {
    let steps =
        |from: u32, step: u32, count: u32| (0..count).map(move |index| f64::from(from + index * step));
    [0.25, 0.5].into_iter().chain(steps(1, 1, 59)).chain(steps(60, 5, 12)).chain(steps(120, 30, 7)).collect()
}

struct Histogram {
    limits: Vec<f64>,
    counts: Vec<u64>,
    sum: f64,
    count: u64,
}

impl Histogram {
    fn new(limits: Vec<f64>) -> Self {
        Self { counts: vec![0; limits.len()], limits, sum: 0.0, count: 0 }
    }

    fn observe(&mut self, seconds: f64) {
        for (limit, count) in self.limits.iter().zip(&mut self.counts) {
            *count += u64::from(seconds <= *limit);
        }
        self.sum += seconds;
        self.count += 1;
    }
}

struct Values {
    syncs: [Histogram; 3],
    programming: Histogram,
    conntrack: Histogram,
    conntrack_deleted: u64,
    last_s: f64,
    queued_s: f64,
    failures: u64,
    total: Pending,
    no_local: (u32, u32),
    /// By path and status.
    asked: BTreeMap<(&'static str, u16), u64>,
}

/// What was counted and timed.
pub(crate) struct Metrics(Mutex<Values>);

impl Default for Metrics {
    fn default() -> Self {
        let doubling = || Histogram::new(DOUBLING.to_vec());
        Self(Mutex::new(Values {
            syncs: [doubling(), doubling(), doubling()],
            programming: Histogram::new(programming()),
            conntrack: doubling(),
            conntrack_deleted: 0,
            last_s: 0.0,
            queued_s: 0.0,
            failures: 0,
            total: Pending::default(),
            no_local: (0, 0),
            asked: BTreeMap::new(),
        }))
    }
}

fn now_s() -> f64 {
    seconds(clock::now())
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 have 41 bits")]
fn seconds(time: jiff::Timestamp) -> f64 {
    time.as_millisecond() as f64 / 1000.0
}

impl Metrics {
    fn values(&self) -> MutexGuard<'_, Values> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A sync was done: of all or of what changed.
    pub(crate) fn synced(&self, full: bool, took: Duration, no_local: (u32, u32)) {
        let mut values = self.values();
        let kind = if full { 1 } else { 2 };
        values.syncs[0].observe(took.as_secs_f64());
        values.syncs[kind].observe(took.as_secs_f64());
        values.last_s = now_s();
        values.no_local = no_local;
    }

    pub(crate) fn taken(&self, pending: Pending, waited: Duration) {
        let mut values = self.values();
        values.total.endpoints += pending.endpoints;
        values.total.services += pending.services;
        values.queued_s = now_s() - waited.as_secs_f64();
    }

    pub(crate) fn failed(&self) {
        self.values().failures += 1;
    }

    /// These changes, which began then, are in the kernel now.
    pub(crate) fn programmed(&self, begun: &[jiff::Timestamp]) {
        let (now, mut values) = (now_s(), self.values());
        begun.iter().for_each(|time| values.programming.observe((now - seconds(*time)).max(0.0)));
    }

    pub(crate) fn flows(&self, took: Duration, deleted: usize) {
        let mut values = self.values();
        values.conntrack.observe(took.as_secs_f64());
        values.conntrack_deleted += deleted as u64;
    }

    pub(crate) fn asked(&self, path: &'static str, status: u16) {
        *self.values().asked.entry((path, status)).or_default() += 1;
    }

    /// In Prometheus' text format. All families are synced together.
    pub(crate) fn render(&self, families: &[Family], pending: Pending) -> String {
        let values = self.values();
        let mut text = Page { text: Text::default(), families };
        for (histogram, (name, help)) in values.syncs.iter().zip([
            ("sync_proxy_rules_duration_seconds", "SyncProxyRules latency in seconds"),
            ("sync_full_proxy_rules_duration_seconds", "SyncProxyRules latency in seconds for full resyncs"),
            (
                "sync_partial_proxy_rules_duration_seconds",
                "SyncProxyRules latency in seconds for partial resyncs",
            ),
        ]) {
            text.histogram(name, help, histogram);
        }
        text.histogram(
            "network_programming_duration_seconds",
            "In Cluster Network Programming Latency in seconds",
            &values.programming,
        );
        text.histogram(
            "conntrack_reconciler_sync_duration_seconds",
            "ReconcileConntrackFlowsLatency latency in seconds",
            &values.conntrack,
        );
        text.one(
            ("conntrack_reconciler_deleted_entries_total", "counter"),
            "Cumulative conntrack flows deleted by conntrack reconciler",
            values.conntrack_deleted,
        );
        text.one(
            ("sync_proxy_rules_nftables_sync_failures_total", "counter"),
            "Cumulative proxy nftables sync failures",
            values.failures,
        );
        text.one(
            ("sync_proxy_rules_nftables_cleanup_failures_total", "counter"),
            "Cumulative proxy nftables cleanup failures",
            0,
        );
        text.one(
            ("sync_proxy_rules_last_timestamp_seconds", "gauge"),
            "The last time proxy rules were successfully synced",
            values.last_s,
        );
        text.one(
            ("sync_proxy_rules_last_queued_timestamp_seconds", "gauge"),
            "The last time a sync of proxy rules was queued",
            values.queued_s,
        );
        text.whole(&values, pending);
        text.text.finish()
    }
}

/// The text so far, and the families whose label a sample has.
struct Page<'a> {
    text: Text,
    families: &'a [Family],
}

fn label(family: Family) -> String {
    format!("ip_family=\"{}\"", kubernetes(family))
}

impl Page<'_> {
    /// Begins a family of samples; gives its whole name.
    fn head(&mut self, name: &str, kind: &str, help: &str) -> String {
        let name = format!("kubeproxy_{name}");
        self.text.family(&name, kind, &format!("[ALPHA] {help}"));
        name
    }

    fn one(&mut self, (name, kind): (&str, &str), help: &str, value: impl Display) {
        let name = self.head(name, kind, help);
        for family in self.families {
            self.text.labelled(&name, &label(*family), &value);
        }
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        let name = self.head(name, "histogram", help);
        let Histogram { limits, counts, sum, count } = histogram;
        for family in self.families {
            let buckets = limits.iter().zip(counts.iter().copied());
            let counted = Counted { buckets, count: *count, sum: *sum };
            self.text.histogram(&name, &label(*family), counted);
        }
    }

    /// What is not told apart by family.
    fn whole(&mut self, values: &Values, pending: Pending) {
        for (name, kind, help, value) in [
            (
                "sync_proxy_rules_endpoint_changes_pending",
                "gauge",
                "Pending proxy rules Endpoint changes",
                pending.endpoints,
            ),
            (
                "sync_proxy_rules_endpoint_changes_total",
                "counter",
                "Cumulative proxy rules Endpoint changes",
                values.total.endpoints + pending.endpoints,
            ),
            (
                "sync_proxy_rules_service_changes_pending",
                "gauge",
                "Pending proxy rules Service changes",
                pending.services,
            ),
            (
                "sync_proxy_rules_service_changes_total",
                "counter",
                "Cumulative proxy rules Service changes",
                values.total.services + pending.services,
            ),
        ] {
            let name = self.head(name, kind, help);
            self.text.labelled(&name, "", value);
        }
        let name = "sync_proxy_rules_no_local_endpoints_total";
        let name =
            self.head(name, "gauge", "Number of services with a Local traffic policy and no endpoints");
        for (policy, count) in [("external", values.no_local.1), ("internal", values.no_local.0)] {
            for family in self.families {
                let labels = format!("{},traffic_policy=\"{policy}\"", label(*family));
                self.text.labelled(&name, &labels, count);
            }
        }
        for (path, name) in [("/healthz", "proxy_healthz_total"), ("/livez", "proxy_livez_total")] {
            let name = self.head(name, "counter", &format!("Cumulative proxy {} HTTP status", &path[1..]));
            for ((_, code), count) in values.asked.iter().filter(|((own, _), _)| *own == path) {
                self.text.labelled(&name, &format!("code=\"{code}\""), count);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_alerts_ask_for_is_there() {
        let metrics = Metrics::default();
        metrics.synced(true, Duration::from_millis(3), (1, 2));
        metrics.asked("/healthz", 503);
        let text = metrics.render(&[Family::V4], Pending { endpoints: 4, services: 0 });
        for line in [
            "# TYPE kubeproxy_sync_proxy_rules_duration_seconds histogram",
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family=\"IPv4\",le=\"0.002\"} 0",
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family=\"IPv4\",le=\"0.004\"} 1",
            "kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 1",
            "kubeproxy_sync_partial_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 0",
            "kubeproxy_network_programming_duration_seconds_bucket{ip_family=\"IPv4\",le=\"0.25\"} 0",
            "kubeproxy_network_programming_duration_seconds_bucket{ip_family=\"IPv4\",le=\"300\"} 0",
            "kubeproxy_sync_proxy_rules_endpoint_changes_pending 4",
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family=\"IPv4\",traffic_policy=\"external\"} 2",
            "kubeproxy_proxy_healthz_total{code=\"503\"} 1",
        ] {
            assert!(text.lines().any(|own| own == line), "{line} is not in {text}");
        }
        assert!(text.contains("kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"} 1"));
    }
}
