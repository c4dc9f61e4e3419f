//! `/metrics`: what the API server counts, in Prometheus' text format.

use std::collections::BTreeMap;
use std::fmt::Write;
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

    /// The text of `/metrics`.
    pub(crate) fn render(&self, revision: u64) -> String {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut text = String::new();
        head(&mut text, "apiserver_request_total", "counter", "Answered requests.");
        for (series, counted) in &all {
            line(&mut text, "apiserver_request_total", &labels(series), counted.requests);
        }
        let durations = "apiserver_request_duration_seconds";
        head(&mut text, durations, "histogram", "Time to the answer's head, in seconds.");
        for (series, counted) in &all {
            let labels = labels(series);
            for (most, count) in BUCKETS_S.iter().zip(counted.buckets) {
                line(
                    &mut text,
                    "apiserver_request_duration_seconds_bucket",
                    &format!("{labels},le=\"{most}\""),
                    count,
                );
            }
            line(
                &mut text,
                "apiserver_request_duration_seconds_bucket",
                &format!("{labels},le=\"+Inf\""),
                counted.requests,
            );
            line(&mut text, "apiserver_request_duration_seconds_sum", &labels, counted.seconds);
            line(&mut text, "apiserver_request_duration_seconds_count", &labels, counted.requests);
        }
        head(&mut text, "knarr_store_revision", "gauge", "The newest revision of the store.");
        text.push_str(&format!("knarr_store_revision {revision}\n"));
        text
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

/// What a series of numbers is.
pub(crate) fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
}

/// One number.
pub(crate) fn line(text: &mut String, name: &str, labels: &str, value: impl std::fmt::Display) {
    // Writing to a String cannot fail.
    if writeln!(text, "{name}{{{labels}}} {value}").is_err() {
        text.push('\n');
    }
}
