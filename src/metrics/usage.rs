//! What is used, from two reports of a node.

use crate::scrape::{Sample, Scrape};
use base::clock;
use std::collections::BTreeMap;

/// What is used per time, and of memory now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) cpu_nanocores: i64,
    pub(crate) memory_bytes: i64,
}

/// What a node and its containers use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rates {
    pub(crate) window_ms: i64,
    /// How long ago that was, in milliseconds.
    pub(crate) age_ms: i64,
    pub(crate) node: Usage,
    /// By namespace and pod, then by container, of the pods that were there all the time.
    pub(crate) pods: BTreeMap<(String, String), BTreeMap<String, Usage>>,
}

impl Rates {
    /// `None` if no time lies between the reports.
    pub(crate) fn between(before: &Scrape, after: &Scrape) -> Option<Self> {
        let window = after.taken.checked_duration_since(before.taken).filter(|window| !window.is_zero())?;
        let window_ms = milliseconds(window);
        let mut rates = Self {
            window_ms,
            age_ms: milliseconds(clock::instant().saturating_duration_since(after.taken)),
            node: usage(&before.node, &after.node, window_ms)?,
            pods: BTreeMap::new(),
        };
        let mut unknown = Vec::new();
        for (key, sample) in &after.containers {
            let pod = (key.namespace.clone(), key.pod.clone());
            let used = before.containers.get(key).and_then(|old| usage(old, sample, window_ms));
            match used {
                Some(used) => {
                    rates.pods.entry(pod).or_default().insert(key.container.clone(), used);
                }
                None => unknown.push(pod),
            }
        }
        // A part of a pod is not what the pod uses.
        unknown.iter().for_each(|pod| drop(rates.pods.remove(pod)));
        Some(rates)
    }
}

fn milliseconds(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// `None` where it was started again in between, or nothing was measured anew.
fn usage(before: &Sample, after: &Sample, window_ms: i64) -> Option<Usage> {
    let told = before.at_ms.zip(after.at_ms).map(|(before, after)| after - before);
    let passed_ms = told.unwrap_or(window_ms);
    if passed_ms <= 0 || after.cpu_s < before.cpu_s {
        return None;
    }
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of minutes")]
    let nanocores = (after.cpu_s - before.cpu_s) * 1e12 / passed_ms as f64;
    Some(Usage { cpu_nanocores: whole(nanocores), memory_bytes: whole(after.memory_bytes) })
}

#[expect(clippy::cast_possible_truncation, reason = "casts of numbers saturate")]
fn whole(number: f64) -> i64 {
    number.round() as i64
}
