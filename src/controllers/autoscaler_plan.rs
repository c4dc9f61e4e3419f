//! What an autoscaler makes of what its metrics read, and what it says of that. Pure.

use crate::autoscaler::{Bounds, Memory, Said};
use crate::autoscaler_metrics::milli;
use crate::autoscaler_usage::{Proposal, Samples, Scene, Target};
use api::k8s::api::autoscaling::v2::{
    ContainerResourceMetricStatus, ExternalMetricSource, ExternalMetricStatus,
    HorizontalPodAutoscaler as Autoscaler, HorizontalPodAutoscalerStatus as Status, MetricIdentifier,
    MetricSpec, MetricStatus, MetricTarget, MetricValueStatus, ObjectMetricSource, ObjectMetricStatus,
    PodsMetricSource, PodsMetricStatus, ResourceMetricStatus,
};
use api::meta::{LabelSelector, Time};
use api::quantity::Amount;
use api::{Object, Quantity};
use jiff::Timestamp;

/// What a metric reads.
#[derive(Clone, Debug)]
pub(crate) enum Reading {
    /// What each pod uses.
    Pods(Samples),
    /// One value for all, in thousandths.
    Value(i64),
}

type Read = Result<Reading, String>;

fn pods(reading: Read) -> Result<Samples, String> {
    match reading? {
        Reading::Pods(samples) => Ok(samples),
        Reading::Value(_) => Err("one value was read for all pods".to_owned()),
    }
}

fn value(reading: Read) -> Result<i64, String> {
    match reading? {
        Reading::Value(milli) => Ok(milli),
        Reading::Pods(_) => Err("many values were read for one".to_owned()),
    }
}

/// An event: whether it is a warning, its reason and its message.
pub(crate) type Event = (bool, &'static str, String);

/// What a metric asks for.
pub(crate) struct Measured {
    proposal: Proposal,
    /// What to call it.
    name: String,
    status: MetricStatus,
}

/// Why a metric asks for nothing.
pub(crate) struct Unmeasured {
    reason: &'static str,
    what: String,
    why: String,
}

/// What one metric asks for by what it reads.
pub(crate) fn measure(scene: &Scene<'_>, metric: &MetricSpec, reading: Read) -> Result<Measured, Unmeasured> {
    let unmeasured = |reason, what: String| move |why| Unmeasured { reason, what, why };
    let mut measured = if let Some(own) = &metric.object {
        let what = "failed to get object metric value".to_owned();
        object(scene, own, reading).map_err(unmeasured("FailedGetObjectMetric", what))
    } else if let Some(own) = &metric.pods {
        let what = "failed to get pods metric value".to_owned();
        of_pods(scene, own, reading).map_err(unmeasured("FailedGetPodsMetric", what))
    } else if let Some(own) = &metric.resource {
        let what = format!("failed to get {} resource metric value", own.name);
        let measured = resource(scene, (&own.name, None), &own.target, reading);
        measured.map_err(unmeasured("FailedGetResourceMetric", what))
    } else if let Some(own) = &metric.container_resource {
        let what = format!("failed to get {} container metric value", own.container);
        let measured = resource(scene, (&own.name, Some(&own.container)), &own.target, reading);
        measured.map_err(unmeasured("FailedGetContainerResourceMetric", what))
    } else if let Some(own) = &metric.external {
        let what = format!("failed to get {} external metric value", own.metric.name);
        external(scene, own, reading).map_err(unmeasured("FailedGetExternalMetric", what))
    } else {
        let why = format!("unknown metric source type {:?}", metric.type_);
        Err(Unmeasured { reason: "InvalidMetricSourceType", what: why.clone(), why })
    }?;
    measured.status.type_.clone_from(&metric.type_);
    Ok(measured)
}

fn resource(
    scene: &Scene<'_>,
    (resource, container): (&str, Option<&str>),
    target: &MetricTarget,
    reading: Read,
) -> Result<Measured, String> {
    let (aim, what) = match (&target.average_value, target.average_utilization) {
        (Some(value), _) => (Target::Average(milli(value)), "usage"),
        (None, Some(percent)) => (Target::Percent(percent, container), "utilization"),
        (None, None) => return Err("invalid resource metric source: neither an average utilization target nor an average value (usage) target was set".to_owned()),
    };
    let failed = |why: String| format!("failed to get {resource} {what}: {why}");
    let samples = pods(reading)
        .map_err(|why| failed(format!("unable to get metrics for resource {resource}: {why}")))?;
    let proposal = scene.by_pods(resource, samples, aim).map_err(failed)?;
    let amount = match resource {
        "memory" => Amount::bytes(proposal.milli / 1000),
        _ => Amount::milli(proposal.milli),
    };
    let average_value = Some(Quantity(amount.to_string()));
    let current = MetricValueStatus { average_utilization: proposal.utilization, average_value, value: None };
    let share = if proposal.utilization.is_some() { " utilization (percentage of request)" } else { "" };
    let name = resource.to_owned();
    let (of, status) = match container {
        None => {
            let own = ResourceMetricStatus { current, name };
            ("", MetricStatus { resource: Some(own), ..MetricStatus::default() })
        }
        Some(container) => {
            let own = ContainerResourceMetricStatus { container: container.to_owned(), current, name };
            ("container ", MetricStatus { container_resource: Some(own), ..MetricStatus::default() })
        }
    };
    Ok(Measured { proposal, name: format!("{resource} {of}resource{share}"), status })
}

fn of_pods(scene: &Scene<'_>, own: &PodsMetricSource, reading: Read) -> Result<Measured, String> {
    let aim = Target::Average(own.target.average_value.as_ref().map_or(0, milli));
    let samples = pods(reading).map_err(|why| format!("unable to get metric {}: {why}", own.metric.name))?;
    let proposal = scene.by_pods("", samples, aim)?;
    let status = PodsMetricStatus { current: average(&proposal), metric: own.metric.clone() };
    let status = MetricStatus { pods: Some(status), ..MetricStatus::default() };
    Ok(Measured { proposal, name: format!("pods metric {}", own.metric.name), status })
}

fn object(scene: &Scene<'_>, own: &ObjectMetricSource, reading: Read) -> Result<Measured, String> {
    let (metric, target) = (&own.metric, &own.target);
    let read = value(reading);
    let (proposal, current, name) = match (target.type_.as_str(), &target.value, &target.average_value) {
        ("Value", Some(wanted), _) => {
            let proposal = scene.by_value(read?, milli(wanted))?;
            (proposal, whole(&proposal), format!("{} metric {}", own.described_object.kind, metric.name))
        }
        ("AverageValue", _, Some(wanted)) => {
            let read = read.map_err(|why| format!("failed to get {} object metric: {why}", metric.name))?;
            let proposal = scene.by_average(read, milli(wanted));
            (proposal, average(&proposal), external_name(metric))
        }
        _ => {
            let why =
                "invalid object metric source: neither a value target nor an average value target was set";
            return Err(why.to_owned());
        }
    };
    let described_object = own.described_object.clone();
    let status = ObjectMetricStatus { current, described_object, metric: metric.clone() };
    let status = MetricStatus { object: Some(status), ..MetricStatus::default() };
    Ok(Measured { proposal, name, status })
}

fn external(scene: &Scene<'_>, own: &ExternalMetricSource, reading: Read) -> Result<Measured, String> {
    let name = &own.metric.name;
    let read = value(reading);
    let (proposal, current) = match (&own.target.average_value, &own.target.value) {
        (Some(wanted), _) => {
            let read = read.map_err(|why| format!("failed to get {name} external metric: {why}"))?;
            let proposal = scene.by_average(read, milli(wanted));
            (proposal, average(&proposal))
        }
        (None, Some(wanted)) => {
            let failed = |why| format!("failed to get external metric {name}: {why}");
            let proposal = read.and_then(|read| scene.by_value(read, milli(wanted))).map_err(failed)?;
            (proposal, whole(&proposal))
        }
        (None, None) => {
            let why =
                "invalid external metric source: neither a value target nor an average value target was set";
            return Err(why.to_owned());
        }
    };
    let status = ExternalMetricStatus { current, metric: own.metric.clone() };
    let status = MetricStatus { external: Some(status), ..MetricStatus::default() };
    Ok(Measured { proposal, name: external_name(&own.metric), status })
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

fn external_name(metric: &MetricIdentifier) -> String {
    format!("external metric {}({})", metric.name, selector_text(metric.selector.as_ref()))
}

/// A selector as Kubernetes prints it into messages.
pub(crate) fn selector_text(selector: Option<&LabelSelector>) -> String {
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

pub(crate) fn say(status: &mut Status, said: Said, now: Timestamp) {
    said.set(status.conditions.get_or_insert_default(), now);
}

/// A change of replicas, and its reason.
pub(crate) type Change = (i32, String);

/// What is wanted whatever metrics read: nothing of what is switched off, and what is within the bounds.
pub(crate) fn unmeasured(
    own: &Autoscaler,
    current: i32,
    status: &mut Status,
    now: Timestamp,
) -> Option<Change> {
    let (min, max) = (own.spec.min_replicas.unwrap_or(1), own.spec.max_replicas);
    if current == 0 {
        let message = "scaling is disabled since the replica count of the target is zero";
        say(status, Said::new("ScalingActive", false, "ScalingDisabled", message), now);
        Some((0, String::new()))
    } else if current > max {
        Some((max, "Current number of replicas above Spec.MaxReplicas".to_owned()))
    } else if current < min {
        Some((min, "Current number of replicas below Spec.MinReplicas".to_owned()))
    } else {
        None
    }
}

/// What metrics ask for, within what is allowed, with the warnings about those that could not be measured.
pub(crate) fn decide(
    own: &Autoscaler,
    measured: Vec<Result<Measured, Unmeasured>>,
    (current, now): (i32, Timestamp),
    status: &mut Status,
    memory: &mut Memory,
) -> (Result<Change, String>, Vec<Event>) {
    let (all, mut best, mut failed) = (measured.len(), None, Vec::new());
    let statuses = status.current_metrics.insert(Vec::new());
    for one in measured {
        match one {
            Ok(Measured { proposal, name, status }) => {
                statuses.push(status);
                let (most, _) = best.get_or_insert_with(|| (proposal.replicas, name.clone()));
                if proposal.replicas > *most {
                    best = Some((proposal.replicas, name));
                }
            }
            Err(unmeasured) => {
                statuses.push(MetricStatus::default());
                failed.push(unmeasured);
            }
        }
    }
    let warnings = failed.iter().map(|one| (true, one.reason, one.why.clone())).collect();
    // What cannot be measured may need what there is.
    let sound = best.filter(|(replicas, _)| failed.is_empty() || *replicas >= current);
    let Some((asked, name)) = sound else {
        let Some(Unmeasured { reason, what, why }) = failed.first() else {
            return (Err("there are no metrics".to_owned()), warnings);
        };
        let message = format!("the HPA was unable to compute the replica count: {why}");
        say(status, Said::new("ScalingActive", false, reason, message), now);
        let count = failed.len();
        let why = format!("invalid metrics ({count} invalid out of {all}), first error is: {what}: {why}");
        return (Err(why), warnings);
    };
    let message = format!("the HPA was able to successfully calculate a replica count from {name}");
    say(status, Said::new("ScalingActive", true, "ValidMetricFound", message), now);
    let (min, behavior) = (own.spec.min_replicas.unwrap_or(1), own.spec.behavior.as_ref());
    let bounds = Bounds { current, min, max: own.spec.max_replicas, behavior, now };
    let (wanted, said) = memory.settle(&bounds, asked);
    said.into_iter().for_each(|said| say(status, said, now));
    let reason =
        if asked > current { format!("{name} above target") } else { "All metrics below target".to_owned() };
    (Ok((wanted, reason)), warnings)
}

/// Says what came of writing the target's scale.
pub(crate) fn rescaled(
    outcome: Result<(), &str>,
    (wanted, reason): &Change,
    now: Timestamp,
    status: &mut Status,
) -> Event {
    match outcome {
        Err(why) => {
            let message = format!("the HPA controller was unable to update the target scale: {why}");
            say(status, Said::new("AbleToScale", false, "FailedUpdateScale", message), now);
            (true, "FailedRescale", format!("New size: {wanted}; reason: {reason}; error: {why}"))
        }
        Ok(()) => {
            let message = format!("the HPA controller was able to update the target scale to {wanted}");
            say(status, Said::new("AbleToScale", true, "SucceededRescale", message), now);
            status.desired_replicas = *wanted;
            status.last_scale_time = Some(Time(now));
            (false, "SuccessfulRescale", format!("New size: {wanted}; reason: {reason}"))
        }
    }
}

/// Whose pods these are, as it is put into messages.
pub(crate) fn ambiguous(own: &Autoscaler, text: &str, names: &[String]) -> String {
    let all: Vec<_> = names.iter().map(|name| format!("{{{} {name}}}", own.namespace())).collect();
    format!("pods by selector {text} are controlled by multiple HPAs: [{}]", all.join(" "))
}
