//! What a kubelet's `/metrics/resource` says, in Prometheus' text format.

use base::clock::Instant;
use std::collections::HashMap;

/// A container as a kubelet names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Container {
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) container: String,
}

/// What has been used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Sample {
    /// In seconds of one processor.
    pub(crate) cpu_s: f64,
    /// The time of measurement in milliseconds since 1970, where it is told.
    pub(crate) at_ms: Option<i64>,
    pub(crate) memory_bytes: f64,
}

/// One report of a node.
#[derive(Debug)]
pub(crate) struct Scrape {
    pub(crate) taken: Instant,
    pub(crate) node: Sample,
    pub(crate) containers: HashMap<Container, Sample>,
}

impl Scrape {
    /// Reads a report; lines of other families, and those that are not understood, are left out.
    pub(crate) fn read(text: &str, taken: Instant) -> Self {
        let mut scrape = Self { taken, node: Sample::default(), containers: HashMap::new() };
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((name, labels, rest)) = split(line) else { continue };
            let mut words = rest.split_whitespace();
            let Some(value) = words.next().and_then(|word| word.parse::<f64>().ok()) else { continue };
            let at_ms = words.next().and_then(|word| word.parse().ok());
            match name {
                "node_cpu_usage_seconds_total" => (scrape.node.cpu_s, scrape.node.at_ms) = (value, at_ms),
                "node_memory_working_set_bytes" => scrape.node.memory_bytes = value,
                "container_cpu_usage_seconds_total" => {
                    let sample = scrape.containers.entry(container(labels)).or_default();
                    (sample.cpu_s, sample.at_ms) = (value, at_ms);
                }
                "container_memory_working_set_bytes" => {
                    scrape.containers.entry(container(labels)).or_default().memory_bytes = value;
                }
                _ => {}
            }
        }
        scrape
    }
}

/// A line's name, labels and the rest.
fn split(line: &str) -> Option<(&str, &str, &str)> {
    let Some((name, rest)) = line.split_once('{') else {
        return line.split_once(' ').map(|(name, rest)| (name, "", rest));
    };
    let (labels, rest) = rest.rsplit_once('}')?;
    Some((name, labels, rest))
}

/// None of these names has a sign that would be escaped.
fn container(labels: &str) -> Container {
    let mut container = Container::default();
    for label in labels.split(',') {
        let Some((name, value)) = label.split_once('=') else { continue };
        let value = value.trim_matches('"').to_owned();
        match name.trim() {
            "namespace" => container.namespace = value,
            "pod" => container.pod = value,
            "container" => container.container = value,
            _ => {}
        }
    }
    container
}
