//! What HorizontalPodAutoscalers measure, asked of the APIs that serve it: `metrics.k8s.io`,
//! `custom.metrics.k8s.io` and `external.metrics.k8s.io`. Whoever serves them is reached as any API is.

use crate::autoscaler_usage::{Sample, Samples};
use api::k8s::api::autoscaling::v2::MetricIdentifier;
use api::kinds::Kind;
use api::meta::Time;
use api::selector::Labels;
use api::{Quantity, quantity};
use client::{Client, Error, escape};
use jiff::SignedDuration;
use serde::Deserialize;
use std::collections::BTreeMap;

const CUSTOM: &str = "/apis/custom.metrics.k8s.io";
/// How long something was measured for, if nobody says.
const WINDOW: SignedDuration = SignedDuration::from_mins(1);

#[derive(Deserialize)]
struct List<T> {
    items: Vec<T>,
}

/// `PodMetrics`.
#[derive(Deserialize)]
struct PodMetrics {
    metadata: Name,
    timestamp: Time,
    /// Such as `15.03s`.
    window: String,
    containers: Vec<ContainerMetrics>,
}

#[derive(Deserialize)]
struct Name {
    name: String,
}

#[derive(Deserialize)]
struct ContainerMetrics {
    name: String,
    usage: BTreeMap<String, Quantity>,
}

/// `MetricValue`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MetricValue {
    described_object: Name,
    timestamp: Time,
    window_seconds: Option<i64>,
    value: Quantity,
}

/// `ExternalMetricValue`.
#[derive(Deserialize)]
struct ExternalValue {
    value: Quantity,
}

/// `APIGroup`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    preferred_version: GroupVersion,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GroupVersion {
    group_version: String,
}

/// Asks for metrics in one namespace.
#[derive(Clone, Copy)]
pub(crate) struct Metrics<'a> {
    pub(crate) client: &'a Client,
    pub(crate) namespace: &'a str,
}

impl Metrics<'_> {
    /// What pods, or one container of each, use of a resource.
    pub(crate) async fn resource(
        self,
        resource: &str,
        container: Option<&str>,
        pods: &Labels,
    ) -> Result<Samples, String> {
        let place = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{}/pods", self.namespace);
        let path = format!("{place}?labelSelector={}", escape(&pods.to_string()));
        let list: List<PodMetrics> = self.client.read(&path).await.map_err(|error| {
            let error = unserved(&error, "get pods.metrics.k8s.io");
            format!("unable to fetch metrics from resource metrics API: {error}")
        })?;
        if list.items.is_empty() {
            return Err("no metrics returned from resource metrics API".to_owned());
        }
        let samples = list.items.into_iter().filter_map(|pod| {
            let measured =
                pod.containers.iter().filter(|own| container.is_none_or(|only| *own.name == *only));
            let amounts: Vec<i64> =
                measured.map(|own| own.usage.get(resource).map(milli)).collect::<Option<_>>()?;
            let sum = amounts.iter().fold(0_i64, |sum, milli| sum.saturating_add(*milli));
            let window = pod.window.parse().unwrap_or(WINDOW);
            let sample = Sample { milli: sum, taken: pod.timestamp.0, window };
            (!amounts.is_empty()).then_some((pod.metadata.name, sample))
        });
        Ok(samples.collect())
    }

    /// A metric of each of the pods.
    pub(crate) async fn of_pods(self, metric: &MetricIdentifier, pods: &Labels) -> Result<Samples, String> {
        let selected = format!("labelSelector={}", escape(&pods.to_string()));
        let list = self.custom(&format!("namespaces/{}/pods/*", self.namespace), metric, &selected).await?;
        if list.is_empty() {
            return Err("no metrics returned from custom metrics API".to_owned());
        }
        let samples = list.into_iter().map(|own| {
            let window = own.window_seconds.map_or(WINDOW, SignedDuration::from_secs);
            let sample = Sample { milli: milli(&own.value), taken: own.timestamp.0, window };
            (own.described_object.name, sample)
        });
        Ok(samples.collect())
    }

    /// A metric of an object, in thousandths.
    pub(crate) async fn of_object(
        self,
        metric: &MetricIdentifier,
        kind: &Kind,
        name: &str,
    ) -> Result<i64, String> {
        let place = match (kind.group, kind.kind) {
            // No other namespace is looked at than the autoscaler's own.
            ("", "Namespace") => format!("namespaces/{}/metrics", self.namespace),
            _ => format!("namespaces/{}/{}/{name}", self.namespace, kind.resource()),
        };
        let list = self.custom(&place, metric, "").await?;
        let value = list.first().ok_or("the custom metrics API server returned no results")?;
        Ok(milli(&value.value))
    }

    /// The values of a metric of something else, added up, in thousandths.
    pub(crate) async fn external(self, metric: &MetricIdentifier) -> Result<i64, String> {
        let selector = Labels::of(metric.selector.as_ref()).to_string();
        let place = format!("/apis/external.metrics.k8s.io/v1beta1/namespaces/{}", self.namespace);
        let path = format!("{place}/{}?labelSelector={}", metric.name, escape(&selector));
        let list: List<ExternalValue> = self.client.read(&path).await.map_err(|error| {
            let error = unserved(&error, &format!("get {}.external.metrics.k8s.io", metric.name));
            format!("unable to fetch metrics from external metrics API: {error}")
        })?;
        if list.items.is_empty() {
            return Err("no metrics returned from external metrics API".to_owned());
        }
        Ok(list.items.iter().fold(0, |sum, own| sum.saturating_add(milli(&own.value))))
    }

    async fn custom(
        self,
        place: &str,
        metric: &MetricIdentifier,
        query: &str,
    ) -> Result<Vec<MetricValue>, String> {
        let failed = |why: String| format!("unable to fetch metrics from custom metrics API: {why}");
        let group = self.client.read::<Group>(CUSTOM).await.map_err(|error| {
            failed(match error.is_not_found() {
                true => "no custom metrics API (custom.metrics.k8s.io) registered".to_owned(),
                false => error.to_string(),
            })
        })?;
        let version = group.preferred_version.group_version;
        let selector = Labels::of(metric.selector.as_ref()).to_string();
        let path = format!(
            "/apis/{version}/{place}/{}?{query}&metricLabelSelector={}",
            metric.name,
            escape(&selector)
        );
        let list: List<MetricValue> =
            self.client.read(&path).await.map_err(|error| failed(error.to_string()))?;
        Ok(list.items)
    }
}

/// An error as Kubernetes' clients word it, who say what they wanted where a server knows nothing of it.
fn unserved(error: &Error, wanted: &str) -> String {
    let text = error.to_string();
    let is_bare = error.is_not_found() && text == "the server could not find the requested resource";
    if is_bare { format!("{text} ({wanted})") } else { text }
}

/// A quantity in thousandths of its unit.
pub(crate) fn milli(quantity: &Quantity) -> i64 {
    quantity::parse(&quantity.0).map_or(0, quantity::Amount::to_milli)
}
