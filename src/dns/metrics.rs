//! What is counted, under CoreDNS' names, in Prometheus' text format.

use crate::wire::kind;
use base::exposition::{Counted, Text};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// CoreDNS' buckets: 0.25 ms to 8 s.
const TIMES: usize = 16;
const FIRST_TIME_US: u64 = 250;

/// CoreDNS' buckets of messages' lengths.
const SIZES: [usize; 14] =
    [0, 100, 200, 300, 400, 511, 1023, 2047, 4095, 8291, 16_000, 32_000, 48_000, 64_000];

/// Types that are counted by themselves; CoreDNS has the same.
const KINDS: [(u16, &str); 18] = [
    (kind::A, "A"),
    (kind::AAAA, "AAAA"),
    (15, "MX"),
    (kind::SOA, "SOA"),
    (kind::CNAME, "CNAME"),
    (kind::PTR, "PTR"),
    (kind::TXT, "TXT"),
    (kind::NS, "NS"),
    (kind::SRV, "SRV"),
    (43, "DS"),
    (48, "DNSKEY"),
    (46, "RRSIG"),
    (47, "NSEC"),
    (50, "NSEC3"),
    (51, "NSEC3PARAM"),
    (65, "HTTPS"),
    (252, "AXFR"),
    (kind::ANY, "ANY"),
];

/// Codes by their numbers.
const CODES: [&str; 7] = ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "OTHER"];

/// Series of upstreams that are kept.
const UPSTREAMS: usize = 256;

fn code_place(code: u16) -> usize {
    usize::from(code).min(CODES.len() - 1)
}

fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// How often a value fell between two borders; the last place is for what is above all.
#[derive(Debug)]
struct Histogram<const N: usize> {
    places: [AtomicU64; N],
    above: AtomicU64,
    sum: AtomicU64,
}

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Self {
        let places = std::array::from_fn(|_| AtomicU64::new(0));
        Self { places, above: AtomicU64::new(0), sum: AtomicU64::new(0) }
    }
}

impl<const N: usize> Histogram<N> {
    fn count(&self, place: usize, value: u64) {
        add(self.places.get(place).unwrap_or(&self.above), 1);
        add(&self.sum, value);
    }

    /// Borders, and the sum, are told in units of so much.
    fn render(
        &self,
        text: &mut Text,
        (name, labels): (&str, &str),
        border: impl Fn(usize) -> u64,
        unit: f64,
    ) {
        let mut total = 0;
        let buckets: Vec<(f64, u64)> = self
            .places
            .iter()
            .enumerate()
            .map(|(place, count)| {
                total += get(count);
                (border(place) as f64 / unit, total)
            })
            .collect();
        let (count, sum) = (total + get(&self.above), get(&self.sum) as f64 / unit);
        text.histogram(name, labels, Counted { buckets, count, sum });
    }
}

type Times = Histogram<TIMES>;

fn time_border_us(place: usize) -> u64 {
    FIRST_TIME_US << place
}

fn count_time(times: &Times, took: Duration) {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    let place = (0..TIMES).find(|place| micros <= time_border_us(*place)).unwrap_or(TIMES);
    times.count(place, micros);
}

fn render_times(times: &Times, text: &mut Text, name: &str, labels: &str) {
    times.render(text, (name, labels), time_border_us, 1e6);
}

fn count_size(sizes: &Histogram<{ SIZES.len() }>, bytes: usize) {
    sizes.count(SIZES.partition_point(|border| *border < bytes), bytes as u64);
}

/// One answered query.
#[derive(Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) tcp: bool,
    pub(crate) v6: bool,
    pub(crate) kind: u16,
    pub(crate) code: u16,
    pub(crate) asked_bytes: usize,
    pub(crate) told_bytes: usize,
    pub(crate) took: Duration,
}

/// What a server block counts.
#[derive(Debug, Default)]
pub(crate) struct BlockCounts {
    /// By transport, family and type; the last type stands for all others.
    requests: [[[AtomicU64; KINDS.len() + 1]; 2]; 2],
    responses: [AtomicU64; CODES.len()],
    times: Times,
    asked: Histogram<{ SIZES.len() }>,
    told: Histogram<{ SIZES.len() }>,
    pub(crate) cache: Arc<CacheCounts>,
}

impl BlockCounts {
    pub(crate) fn count(&self, seen: Seen) {
        let place = KINDS.iter().position(|(kind, _)| *kind == seen.kind).unwrap_or(KINDS.len());
        add(&self.requests[usize::from(seen.tcp)][usize::from(seen.v6)][place], 1);
        add(&self.responses[code_place(seen.code)], 1);
        count_time(&self.times, seen.took);
        count_size(&self.asked, seen.asked_bytes);
        count_size(&self.told, seen.told_bytes);
    }
}

/// What a cache counts.
#[derive(Debug, Default)]
pub(crate) struct CacheCounts {
    pub(crate) requests: AtomicU64,
    /// Of answers that say something, and of those that deny.
    pub(crate) hits: [AtomicU64; 2],
    pub(crate) misses: AtomicU64,
    pub(crate) stale: AtomicU64,
    pub(crate) prefetches: AtomicU64,
    pub(crate) evictions: AtomicU64,
}

/// What an upstream counts.
#[derive(Debug, Default)]
pub(crate) struct UpstreamCounts {
    times: [Times; CODES.len()],
    pub(crate) broken: AtomicU64,
}

impl UpstreamCounts {
    pub(crate) fn answered(&self, code: u16, took: Duration) {
        count_time(&self.times[code_place(code)], took);
    }
}

/// All counts. Those of a server block or an upstream outlive a change of the Corefile.
#[derive(Default)]
pub(crate) struct Metrics {
    blocks: Mutex<BTreeMap<String, Arc<BlockCounts>>>,
    upstreams: Mutex<BTreeMap<SocketAddr, Arc<UpstreamCounts>>>,
    /// Queries that found too many waiting.
    pub(crate) rejected: AtomicU64,
    pub(crate) reloads: AtomicU64,
    pub(crate) failed_reloads: AtomicU64,
}

fn of<K: Ord, V: Default>(all: &Mutex<BTreeMap<K, Arc<V>>>, key: K) -> Arc<V> {
    let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
    if all.len() >= UPSTREAMS && !all.contains_key(&key) {
        return Arc::default();
    }
    all.entry(key).or_default().clone()
}

fn all<K: Clone, V>(all: &Mutex<BTreeMap<K, Arc<V>>>) -> Vec<(K, Arc<V>)> {
    let all = all.lock().unwrap_or_else(PoisonError::into_inner);
    all.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

impl Metrics {
    pub(crate) fn block(&self, zone: &str) -> Arc<BlockCounts> {
        of(&self.blocks, zone.to_owned())
    }

    pub(crate) fn upstream(&self, address: SocketAddr) -> Arc<UpstreamCounts> {
        of(&self.upstreams, address)
    }

    /// The text of `/metrics`; `entries` are the answers that each block's cache holds.
    pub(crate) fn render(&self, entries: &[(String, [usize; 2])]) -> String {
        let mut text = Text::default();
        let blocks: Vec<(String, Arc<BlockCounts>)> = all(&self.blocks)
            .into_iter()
            .map(|(zone, counts)| (format!("server=\"dns://:53\",zone=\"{zone}\",view=\"\""), counts))
            .collect();
        requests(&blocks, &mut text);
        text.family("coredns_dns_responses_total", "counter", "Answers by their code.");
        for (labels, counts) in &blocks {
            for (count, code) in counts.responses.iter().zip(CODES) {
                let labels = format!("{labels},rcode=\"{code}\"");
                some(&mut text, "coredns_dns_responses_total", &labels, get(count));
            }
        }
        text.family("coredns_dns_request_duration_seconds", "histogram", "Time from query to answer.");
        for (labels, counts) in &blocks {
            render_times(&counts.times, &mut text, "coredns_dns_request_duration_seconds", labels);
        }
        let border = |place: usize| SIZES[place] as u64;
        text.family("coredns_dns_request_size_bytes", "histogram", "Lengths of queries.");
        for (labels, counts) in &blocks {
            counts.asked.render(&mut text, ("coredns_dns_request_size_bytes", labels), border, 1.0);
        }
        text.family("coredns_dns_response_size_bytes", "histogram", "Lengths of answers.");
        for (labels, counts) in &blocks {
            counts.told.render(&mut text, ("coredns_dns_response_size_bytes", labels), border, 1.0);
        }
        caches(&blocks, entries, &mut text);
        self.upstreams(&mut text);
        text.finish()
    }

    fn upstreams(&self, text: &mut Text) {
        let upstreams = all(&self.upstreams);
        let name = "coredns_proxy_request_duration_seconds";
        text.family(name, "histogram", "Time that upstreams took to answer.");
        for (to, counts) in &upstreams {
            for (times, code) in counts.times.iter().zip(CODES) {
                let labels = format!("proxy_name=\"forward\",to=\"{to}\",rcode=\"{code}\"");
                if get(&times.above) > 0 || times.places.iter().any(|count| get(count) > 0) {
                    render_times(times, text, name, &labels);
                }
            }
        }
        let name = "coredns_proxy_healthcheck_failures_total";
        text.family(name, "counter", "How often an upstream was found to be down.");
        for (to, counts) in &upstreams {
            text.labelled(name, &format!("proxy_name=\"forward\",to=\"{to}\""), get(&counts.broken));
        }
        for (name, help, count) in [
            (
                "coredns_forward_max_concurrent_rejects_total",
                "Queries that found too many waiting.",
                &self.rejected,
            ),
            ("coredns_reload_total", "Corefiles that were taken.", &self.reloads),
            ("coredns_reload_failed_total", "Corefiles that were refused.", &self.failed_reloads),
        ] {
            text.family(name, "counter", help);
            text.labelled(name, "", get(count));
        }
    }
}

fn requests(blocks: &[(String, Arc<BlockCounts>)], text: &mut Text) {
    let name = "coredns_dns_requests_total";
    text.family(name, "counter", "Queries by transport, family and type.");
    for (labels, counts) in blocks {
        for (proto, families) in ["udp", "tcp"].iter().zip(&counts.requests) {
            for (family, kinds) in ["1", "2"].iter().zip(families) {
                for (place, count) in kinds.iter().enumerate() {
                    let kind = KINDS.get(place).map_or("other", |(_, name)| name);
                    let labels = format!("{labels},proto=\"{proto}\",family=\"{family}\",type=\"{kind}\"");
                    some(text, name, &labels, get(count));
                }
            }
        }
    }
}

fn caches(blocks: &[(String, Arc<BlockCounts>)], entries: &[(String, [usize; 2])], text: &mut Text) {
    const TYPES: [&str; 2] = ["success", "denial"];
    text.family("coredns_cache_entries", "gauge", "Answers that are kept.");
    for (zone, counts) in entries {
        for (count, kind) in counts.iter().zip(TYPES) {
            let labels = format!("server=\"dns://:53\",type=\"{kind}\",zones=\"{zone}\",view=\"\"");
            text.labelled("coredns_cache_entries", &labels, count);
        }
    }
    text.family("coredns_cache_hits_total", "counter", "Answers that were given from what is kept.");
    for (labels, counts) in blocks {
        for (count, kind) in counts.cache.hits.iter().zip(TYPES) {
            text.labelled("coredns_cache_hits_total", &format!("{labels},type=\"{kind}\""), get(count));
        }
    }
    type Counter = fn(&CacheCounts) -> &AtomicU64;
    let counters: [(&str, &str, Counter); 5] = [
        ("coredns_cache_requests_total", "Queries that looked for what is kept.", |cache| &cache.requests),
        ("coredns_cache_misses_total", "Queries that found nothing kept.", |cache| &cache.misses),
        ("coredns_cache_served_stale_total", "Answers given after their life.", |cache| &cache.stale),
        ("coredns_cache_prefetch_total", "Answers fetched again ahead.", |cache| &cache.prefetches),
        ("coredns_cache_evictions_total", "Answers forgotten for want of room.", |cache| &cache.evictions),
    ];
    for (name, help, counter) in counters {
        text.family(name, "counter", help);
        blocks.iter().for_each(|(labels, counts)| text.labelled(name, labels, get(counter(&counts.cache))));
    }
}

/// A series that begins with its first event.
fn some(text: &mut Text, name: &str, labels: &str, value: u64) {
    if value > 0 {
        text.labelled(name, labels, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_told_under_corednss_names() {
        let metrics = Metrics::default();
        let seen = Seen {
            tcp: false,
            v6: true,
            kind: kind::A,
            code: 3,
            asked_bytes: 40,
            told_bytes: 511,
            took: Duration::from_micros(300),
        };
        metrics.block(".").count(seen);
        metrics.upstream("192.0.2.1:53".parse().unwrap()).answered(0, Duration::from_millis(1));
        let text = metrics.render(&[(".".to_owned(), [7, 0])]);
        let own = "server=\"dns://:53\",zone=\".\",view=\"\"";
        for line in [
            format!("coredns_dns_requests_total{{{own},proto=\"udp\",family=\"2\",type=\"A\"}} 1"),
            format!("coredns_dns_responses_total{{{own},rcode=\"NXDOMAIN\"}} 1"),
            format!("coredns_dns_request_duration_seconds_bucket{{{own},le=\"0.00025\"}} 0"),
            format!("coredns_dns_request_duration_seconds_bucket{{{own},le=\"0.0005\"}} 1"),
            format!("coredns_dns_response_size_bytes_bucket{{{own},le=\"400\"}} 0"),
            format!("coredns_dns_response_size_bytes_bucket{{{own},le=\"511\"}} 1"),
            "coredns_cache_entries{server=\"dns://:53\",type=\"success\",zones=\".\",view=\"\"} 7".to_owned(),
            "coredns_reload_failed_total 0".to_owned(),
        ] {
            assert!(text.lines().any(|own| own == line), "{line} is not in\n{text}");
        }
    }
}
