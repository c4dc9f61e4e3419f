//! `/metrics`: what the API server counts, in Prometheus' text format.

use base::exposition::{self, Text};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Buckets of request durations, in seconds (those of `apiserver_request_duration_seconds`, thinned).
const BUCKETS_S: [f64; 8] = [0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 5.0, 60.0];

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Series {
    verb: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    code: u16,
}

#[derive(Clone, Debug, Default)]
struct Counted {
    requests: u64,
    seconds: f64,
    buckets: [u64; BUCKETS_S.len()],
}

/// What was counted so far.
#[derive(Default)]
pub(crate) struct Metrics(Mutex<BTreeMap<Series, Counted>>);

/// Different series that are kept; paths of unknown resources must not fill the memory.
const SERIES: usize = 2_000;

impl Metrics {
    /// Counts one answered request.
    pub(crate) fn count(&self, path: &crate::http::path::ResourcePath, code: u16, took: Duration) {
        let series = Series {
            verb: path.verb,
            group: path.group.clone(),
            version: path.version.to_string(),
            resource: path.resource.clone(),
            subresource: path.subresource.clone(),
            code,
        };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= SERIES && !all.contains_key(&series) {
            return;
        }
        let counted = all.entry(series).or_default();
        counted.requests += 1;
        counted.seconds += took.as_secs_f64();
        for (bucket, most) in counted.buckets.iter_mut().zip(BUCKETS_S) {
            *bucket += u64::from(took.as_secs_f64() <= most);
        }
    }

    /// Adds what was counted to the text of `/metrics`.
    pub(crate) fn render(&self, text: &mut Text, revision: u64) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        text.family("apiserver_request_total", "counter", "Answered requests.");
        for (series, counted) in &all {
            text.labelled("apiserver_request_total", &labels(series), counted.requests);
        }
        let durations = "apiserver_request_duration_seconds";
        text.family(durations, "histogram", "Time to the answer's head, in seconds.");
        for (series, counted) in &all {
            let buckets = BUCKETS_S.into_iter().zip(counted.buckets);
            let counted = exposition::Counted { buckets, count: counted.requests, sum: counted.seconds };
            text.histogram(durations, &labels(series), counted);
        }
        text.family("knarr_store_revision", "gauge", "The newest revision of the store.");
        text.labelled("knarr_store_revision", "", revision);
    }
}

fn labels(series: &Series) -> String {
    let quoted = |text: &str| text.replace(['\\', '"', '\n'], "_");
    format!(
        "verb=\"{}\",group=\"{}\",version=\"{}\",resource=\"{}\",subresource=\"{}\",code=\"{}\"",
        series.verb.to_uppercase(),
        quoted(&series.group),
        quoted(&series.version),
        quoted(&series.resource),
        quoted(&series.subresource),
        series.code
    )
}
