//! Runs HorizontalPodAutoscalers: reads the scale of a target of whatever kind, asks for metrics, and writes
//! the scale that `autoscaler.rs` and `autoscaler_usage.rs` make of them.

use crate::autoscaler::{Bounds, Memory, Said};
use crate::autoscaler_metrics::{Metrics, milli};
use crate::autoscaler_usage::{Proposal, Scene, Target, Tolerance};
use crate::common::{Key, Room, now};
use crate::kinds::CustomKinds;
use api::k8s::api::autoscaling::v1::Scale;
use api::k8s::api::autoscaling::v2::{
    ContainerResourceMetricStatus, CrossVersionObjectReference, ExternalMetricStatus,
    HorizontalPodAutoscaler as Autoscaler, HorizontalPodAutoscalerStatus as Status, MetricIdentifier,
    MetricSpec, MetricStatus, MetricTarget, MetricValueStatus, ObjectMetricStatus, PodsMetricStatus,
    ResourceMetricStatus,
};
use api::kinds::Kind;
use api::meta::LabelSelector;
use api::quantity::Amount;
use api::selector::Labels;
use api::slim::Pod;
use api::{Object, Quantity};
use client::{Cache, Client, Error, Next, Queue, Recorder};
use http::Method;
use jiff::Timestamp;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often each is looked at (Kubernetes' default).
const PERIOD: Duration = Duration::from_secs(15);
/// How often a scale is written that others write too.
const ATTEMPTS: usize = 5;

#[derive(Clone)]
struct Autoscalers {
    client: Client,
    autoscalers: Cache<Autoscaler>,
    pods: Cache<Pod>,
    customs: CustomKinds,
    recorder: Recorder,
    known: Arc<Mutex<HashMap<Key, Known>>>,
}

/// What is known of an autoscaler besides what is stored.
#[derive(Default)]
struct Known {
    memory: Memory,
    /// The pods of its target.
    selector: Option<Labels>,
}

pub(crate) fn start(room: &Room) {
    let controller = Autoscalers {
        client: room.client.clone(),
        autoscalers: room.caches.of(),
        pods: room.caches.of(),
        customs: CustomKinds::new(room),
        recorder: room.recorder("horizontal-pod-autoscaler"),
        known: Arc::default(),
    };
    let queue = Queue::new("horizontal pod autoscalers");
    let changed = queue.clone();
    controller.autoscalers.on_change(move |change| {
        let spec = |of: &Option<Arc<Autoscaler>>| of.as_ref().map(|own| own.spec.clone());
        // Its own status is no news.
        if spec(&change.old) != spec(&change.new) {
            changed.add(Key::of(&**change.object()));
        }
    });
    room.work("horizontal pod autoscaler", &queue, 5, move |key| controller.clone().sync(key));
}

/// A target's scale, and where it is.
struct Scaled {
    path: String,
    scale: Value,
}

impl Scaled {
    fn typed(&self) -> Scale {
        serde_json::from_value(self.scale.clone()).unwrap_or_default()
    }
}

/// What a metric asks for.
struct Measured {
    proposal: Proposal,
    /// What to call it.
    name: String,
    status: MetricStatus,
}

/// Why a metric asks for nothing.
struct Unmeasured {
    reason: &'static str,
    what: String,
    why: String,
}

/// Where an autoscaler stands when its metrics are measured.
struct Place<'a> {
    namespace: &'a str,
    selector: &'a Labels,
    scene: Scene<'a>,
}

impl Autoscalers {
    async fn sync(self, key: Key) -> Result<Next, Error> {
        self.autoscalers.synced().await;
        self.pods.synced().await;
        self.customs.definitions.synced().await;
        let Some(own) = self.autoscalers.get(&key.namespace, &key.name) else {
            self.known().remove(&key);
            return Ok(Next::Done);
        };
        let before = own.status.clone().unwrap_or_default();
        let mut status = before.clone();
        if let Err(why) = self.reconcile(&own, &mut status).await {
            tracing::debug!(autoscaler = ?key, why, "the target was not scaled as it should be");
        }
        if status != before {
            let written = Autoscaler { status: Some(status), ..Autoscaler::clone(&own) };
            match self.client.update_status(&written).await {
                Ok(_) => {}
                Err(error) if error.is_not_found() => {}
                Err(error) => self.recorder.warning(&*own, "FailedUpdateStatus", error.to_string()),
            }
        }
        Ok(Next::After(PERIOD))
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Key, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn reconcile(&self, own: &Autoscaler, status: &mut Status) -> Result<(), String> {
        let now = now().0;
        let spec = &own.spec;
        let mut scaled = match self.scale_of(own.namespace(), &spec.scale_target_ref).await {
            Ok(scaled) => scaled,
            Err(why) => {
                self.recorder.warning(own, "FailedGetScale", why.clone());
                let message =
                    format!("the HPA controller was unable to get the target's current scale: {why}");
                say(status, Said::new("AbleToScale", false, "FailedGetScale", message), now);
                return Err(why);
            }
        };
        let message = "the HPA controller was able to get the target's current scale";
        say(status, Said::new("AbleToScale", true, "SucceededGetScale", message), now);
        let scale = scaled.typed();
        let current = scale.spec.and_then(|spec| spec.replicas).unwrap_or(0);
        self.known().entry(Key::of(own)).or_default().memory.begin(current, now);
        status.current_replicas = Some(current);
        status.current_metrics = None;
        let min = spec.min_replicas.unwrap_or(1);
        let (wanted, reason) = if current == 0 {
            let message = "scaling is disabled since the replica count of the target is zero";
            say(status, Said::new("ScalingActive", false, "ScalingDisabled", message), now);
            (0, String::new())
        } else if current > spec.max_replicas {
            (spec.max_replicas, "Current number of replicas above Spec.MaxReplicas".to_owned())
        } else if current < min {
            (min, "Current number of replicas below Spec.MinReplicas".to_owned())
        } else {
            self.by_metrics(own, &scaled.typed(), status, now).await.inspect_err(|why| {
                self.recorder.warning(own, "FailedComputeMetricsReplicas", why.clone());
            })?
        };
        if wanted == current {
            status.desired_replicas = current;
            return Ok(());
        }
        if let Err(why) = self.rescale(&mut scaled, wanted).await {
            let event = format!("New size: {wanted}; reason: {reason}; error: {why}");
            self.recorder.warning(own, "FailedRescale", event);
            let message = format!("the HPA controller was unable to update the target scale: {why}");
            say(status, Said::new("AbleToScale", false, "FailedUpdateScale", message), now);
            return Err(why.to_string());
        }
        let message = format!("the HPA controller was able to update the target scale to {wanted}");
        say(status, Said::new("AbleToScale", true, "SucceededRescale", message), now);
        self.recorder.normal(own, "SuccessfulRescale", format!("New size: {wanted}; reason: {reason}"));
        self.known().entry(Key::of(own)).or_default().memory.scaled(current, wanted, now);
        status.desired_replicas = wanted;
        status.last_scale_time = Some(api::meta::Time(now));
        Ok(())
    }

    /// The replicas that the metrics ask for, within what is allowed, and the reason of a change.
    async fn by_metrics(
        &self,
        own: &Autoscaler,
        scale: &Scale,
        status: &mut Status,
        now: Timestamp,
    ) -> Result<(i32, String), String> {
        let spec = &own.spec;
        let current = scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
        let text = scale.status.as_ref().and_then(|status| status.selector.as_deref()).unwrap_or_default();
        let selector = self.selector(own, text).map_err(|(reason, event, message, why)| {
            self.recorder.warning(own, event, why.clone());
            say(status, Said::new("ScalingActive", false, reason, message), now);
            why
        })?;
        let pods = self.pods.snapshot();
        let pods: Vec<_> =
            pods.in_namespace(own.namespace()).filter(|pod| selector.selects(&***pod)).cloned().collect();
        let there = scale.status.as_ref().map_or(0, |status| status.replicas);
        let tolerance = Tolerance::of(spec.behavior.as_ref());
        let scene = Scene { wanted: current, there, pods: &pods, tolerance, now };
        let place = Place { namespace: own.namespace(), selector: &selector, scene };
        let (mut best, mut failed) = (None, Vec::new());
        let metrics = spec.metrics.as_deref().unwrap_or_default();
        for metric in metrics {
            let statuses = status.current_metrics.get_or_insert_default();
            match self.measure(&place, metric).await {
                Ok(Measured { proposal, name, status }) => {
                    statuses.push(status);
                    let (most, _) = best.get_or_insert_with(|| (proposal.replicas, name.clone()));
                    if proposal.replicas > *most {
                        best = Some((proposal.replicas, name));
                    }
                }
                Err(unmeasured) => {
                    statuses.push(MetricStatus::default());
                    self.recorder.warning(own, unmeasured.reason, unmeasured.why.clone());
                    failed.push(unmeasured);
                }
            }
        }
        // What cannot be measured may need what there is.
        let sound = best.filter(|(replicas, _)| failed.is_empty() || *replicas >= current);
        let Some((asked, name)) = sound else {
            let Some(Unmeasured { reason, what, why }) = failed.first() else {
                return Err("there are no metrics".to_owned());
            };
            let message = format!("the HPA was unable to compute the replica count: {why}");
            say(status, Said::new("ScalingActive", false, reason, message), now);
            let (failed, all) = (failed.len(), metrics.len());
            return Err(format!(
                "invalid metrics ({failed} invalid out of {all}), first error is: {what}: {why}"
            ));
        };
        let message = format!("the HPA was able to successfully calculate a replica count from {name}");
        say(status, Said::new("ScalingActive", true, "ValidMetricFound", message), now);
        let min = spec.min_replicas.unwrap_or(1);
        let bounds = Bounds { current, min, max: spec.max_replicas, behavior: spec.behavior.as_ref(), now };
        let settled = self.known().entry(Key::of(own)).or_default().memory.settle(&bounds, asked);
        let (wanted, said) = settled;
        said.into_iter().for_each(|said| say(status, said, now));
        let reason = match asked > current {
            true => format!("{name} above target"),
            false => "All metrics below target".to_owned(),
        };
        Ok((wanted, reason))
    }

    /// The pods of the target, which must be nobody else's; else the reason, the event's, what to tell, and
    /// why.
    fn selector(
        &self,
        own: &Autoscaler,
        text: &str,
    ) -> Result<Labels, (&'static str, &'static str, String, String)> {
        const INVALID: &str = "InvalidSelector";
        if text.is_empty() {
            let message = "the HPA target's scale is missing a selector";
            return Err((INVALID, "SelectorRequired", message.to_owned(), "selector is required".to_owned()));
        }
        let selector = Labels::parse(text).map_err(|error| {
            let why =
                format!("couldn't convert selector into a corresponding internal selector object: {error}");
            (INVALID, INVALID, why.clone(), why)
        })?;
        let pods = self.pods.snapshot();
        let pods: Vec<_> =
            pods.in_namespace(own.namespace()).filter(|pod| selector.selects(&***pod)).collect();
        let mut known = self.known();
        known.entry(Key::of(own)).or_default().selector = Some(selector.clone());
        let selects = |known: &Known| {
            known.selector.as_ref().is_some_and(|other| pods.iter().any(|pod| other.selects(&***pod)))
        };
        let mut all: Vec<String> = (known.iter())
            .filter(|(key, known)| *key.namespace == *own.namespace() && selects(known))
            .map(|(key, _)| format!("{{{} {}}}", key.namespace, key.name))
            .collect();
        if all.len() > 1 {
            all.sort();
            let all = all.join(" ");
            let why = format!("pods by selector {text} are controlled by multiple HPAs: [{all}]");
            return Err(("AmbiguousSelector", "AmbiguousSelector", why.clone(), why));
        }
        Ok(selector)
    }

    async fn measure(&self, place: &Place<'_>, metric: &MetricSpec) -> Result<Measured, Unmeasured> {
        let unmeasured = |reason, what: String| move |why| Unmeasured { reason, what, why };
        let measured = if let Some(own) = &metric.object {
            let what = "failed to get object metric value".to_owned();
            let identifier = &own.metric;
            let (proposal, current) = self
                .object(place, &own.described_object, identifier, &own.target)
                .await
                .map_err(unmeasured("FailedGetObjectMetric", what))?;
            let status = ObjectMetricStatus {
                current,
                described_object: own.described_object.clone(),
                metric: identifier.clone(),
            };
            let name = match own.target.type_.as_str() {
                "Value" => format!("{} metric {}", own.described_object.kind, identifier.name),
                _ => external_name(identifier),
            };
            (proposal, name, MetricStatus { object: Some(status), ..MetricStatus::default() })
        } else if let Some(own) = &metric.pods {
            let what = "failed to get pods metric value".to_owned();
            let (proposal, current) = self
                .of_pods(place, &own.metric, &own.target)
                .await
                .map_err(unmeasured("FailedGetPodsMetric", what))?;
            let status = PodsMetricStatus { current, metric: own.metric.clone() };
            let name = format!("pods metric {}", own.metric.name);
            (proposal, name, MetricStatus { pods: Some(status), ..MetricStatus::default() })
        } else if let Some(own) = &metric.resource {
            let what = format!("failed to get {} resource metric value", own.name);
            let (proposal, current) = self
                .resource(place, &own.name, None, &own.target)
                .await
                .map_err(unmeasured("FailedGetResourceMetric", what))?;
            let status = ResourceMetricStatus { current, name: own.name.clone() };
            let name = resource_name(&own.name, "", &proposal);
            (proposal, name, MetricStatus { resource: Some(status), ..MetricStatus::default() })
        } else if let Some(own) = &metric.container_resource {
            let what = format!("failed to get {} container metric value", own.container);
            let (proposal, current) = self
                .resource(place, &own.name, Some(&own.container), &own.target)
                .await
                .map_err(unmeasured("FailedGetContainerResourceMetric", what))?;
            let status = ContainerResourceMetricStatus {
                container: own.container.clone(),
                current,
                name: own.name.clone(),
            };
            let name = resource_name(&own.name, "container ", &proposal);
            (proposal, name, MetricStatus { container_resource: Some(status), ..MetricStatus::default() })
        } else if let Some(own) = &metric.external {
            let what = format!("failed to get {} external metric value", own.metric.name);
            let (proposal, current) = self
                .external(place, &own.metric, &own.target)
                .await
                .map_err(unmeasured("FailedGetExternalMetric", what))?;
            let status = ExternalMetricStatus { current, metric: own.metric.clone() };
            let name = external_name(&own.metric);
            (proposal, name, MetricStatus { external: Some(status), ..MetricStatus::default() })
        } else {
            let why = format!("unknown metric source type {:?}", metric.type_);
            return Err(Unmeasured { reason: "InvalidMetricSourceType", what: why.clone(), why });
        };
        let (proposal, name, status) = measured;
        Ok(Measured { proposal, name, status: MetricStatus { type_: metric.type_.clone(), ..status } })
    }

    fn metrics<'a>(&'a self, place: &Place<'a>) -> Metrics<'a> {
        Metrics { client: &self.client, namespace: place.namespace }
    }

    async fn resource(
        &self,
        place: &Place<'_>,
        resource: &str,
        container: Option<&str>,
        target: &MetricTarget,
    ) -> Result<(Proposal, MetricValueStatus), String> {
        let (aim, what) = match (&target.average_value, target.average_utilization) {
            (Some(value), _) => (Target::Average(milli(value)), "usage"),
            (None, Some(percent)) => (Target::Percent(percent, container), "utilization"),
            (None, None) => return Err("invalid resource metric source: neither an average utilization target nor an average value (usage) target was set".to_owned()),
        };
        let failed = |why: String| format!("failed to get {resource} {what}: {why}");
        let samples = self.metrics(place).resource(resource, container, place.selector).await;
        let samples =
            samples.map_err(|why| failed(format!("unable to get metrics for resource {resource}: {why}")))?;
        let proposal = place.scene.by_pods(resource, samples, aim).map_err(failed)?;
        let amount = match resource {
            "memory" => Amount::bytes(proposal.milli / 1000),
            _ => Amount::milli(proposal.milli),
        };
        let average_value = Some(Quantity(amount.to_string()));
        Ok((
            proposal,
            MetricValueStatus { average_utilization: proposal.utilization, average_value, value: None },
        ))
    }

    async fn of_pods(
        &self,
        place: &Place<'_>,
        metric: &MetricIdentifier,
        target: &MetricTarget,
    ) -> Result<(Proposal, MetricValueStatus), String> {
        let aim = Target::Average(target.average_value.as_ref().map_or(0, milli));
        let samples = self.metrics(place).of_pods(metric, place.selector).await;
        let samples = samples.map_err(|why| format!("unable to get metric {}: {why}", metric.name))?;
        let proposal = place.scene.by_pods("", samples, aim)?;
        Ok((proposal, average(&proposal)))
    }

    async fn object(
        &self,
        place: &Place<'_>,
        object: &CrossVersionObjectReference,
        metric: &MetricIdentifier,
        target: &MetricTarget,
    ) -> Result<(Proposal, MetricValueStatus), String> {
        let failed = |why: String| {
            let (metric, kind, namespace, name) = (&metric.name, &object.kind, place.namespace, &object.name);
            format!("unable to get metric {metric}: {kind} on {namespace} {name}/{why}")
        };
        let kind = self.kind(object).map_err(failed)?;
        let value = self.metrics(place).of_object(metric, kind, &object.name).await.map_err(failed);
        match (target.type_.as_str(), &target.value, &target.average_value) {
            ("Value", Some(wanted), _) => {
                let proposal = place.scene.by_value(value?, milli(wanted))?;
                Ok((proposal, whole(&proposal)))
            }
            ("AverageValue", _, Some(wanted)) => {
                let value =
                    value.map_err(|why| format!("failed to get {} object metric: {why}", metric.name))?;
                let proposal = place.scene.by_average(value, milli(wanted));
                Ok((proposal, average(&proposal)))
            }
            _ => Err(
                "invalid object metric source: neither a value target nor an average value target was set"
                    .to_owned(),
            ),
        }
    }

    async fn external(
        &self,
        place: &Place<'_>,
        metric: &MetricIdentifier,
        target: &MetricTarget,
    ) -> Result<(Proposal, MetricValueStatus), String> {
        let value = self.metrics(place).external(metric).await.map_err(|why| {
            let selector = selector_text(metric.selector.as_ref());
            format!("unable to get external metric {}/{}/{selector}: {why}", place.namespace, metric.name)
        });
        match (&target.average_value, &target.value) {
            (Some(wanted), _) => {
                let value =
                    value.map_err(|why| format!("failed to get {} external metric: {why}", metric.name))?;
                let proposal = place.scene.by_average(value, milli(wanted));
                Ok((proposal, average(&proposal)))
            }
            (None, Some(wanted)) => {
                let failed = |why| format!("failed to get external metric {}: {why}", metric.name);
                let proposal = value.and_then(|value| place.scene.by_value(value, milli(wanted)));
                let proposal = proposal.map_err(failed)?;
                Ok((proposal, whole(&proposal)))
            }
            (None, None) => Err(
                "invalid external metric source: neither a value target nor an average value target was set"
                    .to_owned(),
            ),
        }
    }

    /// The kind that a reference names, in whatever version it is served.
    fn kind(&self, target: &CrossVersionObjectReference) -> Result<&'static Kind, String> {
        let group = target.api_version.as_deref().and_then(|own| own.split_once('/')).map_or("", |own| own.0);
        self.customs.by_group(group, &target.kind).ok_or_else(|| {
            let kind = &target.kind;
            format!("no matches for kind {kind:?} in group {group:?}")
        })
    }

    async fn scale_of(
        &self,
        namespace: &str,
        target: &CrossVersionObjectReference,
    ) -> Result<Scaled, String> {
        let kind = self.kind(target)?;
        let path = format!("{}/{}/scale", kind.path(namespace), target.name);
        let scale = self.client.read(&path).await.map_err(|error| error.to_string())?;
        Ok(Scaled { path, scale })
    }

    /// Writes a scale, again with what others wrote meanwhile.
    async fn rescale(&self, scaled: &mut Scaled, replicas: i32) -> Result<(), Error> {
        let mut attempts = 1..=ATTEMPTS;
        loop {
            scaled.scale["spec"]["replicas"] = replicas.into();
            match self.client.send(Method::PUT, &scaled.path, Some(&scaled.scale)).await {
                Err(error) if error.is_conflict() && attempts.next().is_some() => {
                    scaled.scale = self.client.read(&scaled.path).await?;
                }
                other => return other.map(drop),
            }
        }
    }
}

fn say(status: &mut Status, said: Said, now: Timestamp) {
    said.set(status.conditions.get_or_insert_default(), now);
}

fn text(proposal: &Proposal) -> Option<Quantity> {
    Some(Quantity(Amount::milli(proposal.milli).to_string()))
}

fn average(proposal: &Proposal) -> MetricValueStatus {
    MetricValueStatus { average_value: text(proposal), ..MetricValueStatus::default() }
}

fn whole(proposal: &Proposal) -> MetricValueStatus {
    MetricValueStatus { value: text(proposal), ..MetricValueStatus::default() }
}

fn resource_name(resource: &str, of: &str, proposal: &Proposal) -> String {
    let share = if proposal.utilization.is_some() { " utilization (percentage of request)" } else { "" };
    format!("{resource} {of}resource{share}")
}

fn external_name(metric: &MetricIdentifier) -> String {
    format!("external metric {}({})", metric.name, selector_text(metric.selector.as_ref()))
}

/// A selector as Kubernetes prints it into messages.
fn selector_text(selector: Option<&LabelSelector>) -> String {
    let Some(selector) = selector else { return "nil".to_owned() };
    let labels = selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}: {value},"));
    let tests = selector.match_expressions.iter().flatten().map(|test| {
        let values = test.values.as_deref().unwrap_or_default().join(" ");
        let (key, operator) = (&test.key, &test.operator);
        format!("LabelSelectorRequirement{{Key:{key},Operator:{operator},Values:[{values}],}},")
    });
    let (labels, tests) = (labels.collect::<String>(), tests.collect::<String>());
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{tests}}},}}"
    )
}
