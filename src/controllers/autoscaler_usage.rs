//! How many replicas a metric of a HorizontalPodAutoscaler asks for: what is used, against what is wanted
//! ("Algorithm details" of Kubernetes' documentation). Pure.

use crate::pods::{condition, is_ready, phase};
use api::Object;
use api::k8s::api::autoscaling::v2::HorizontalPodAutoscalerBehavior as Behavior;
use api::quantity;
use api::slim::{Container, Pod};
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How far from the target usage may be with nothing done, unless an autoscaler says otherwise.
const TOLERANCE: f64 = 0.1;
/// So long after a pod's start its CPU is looked at with care: starting takes more than running.
const INITIALIZATION: SignedDuration = SignedDuration::from_mins(5);
/// A pod that is not ready, and was not ready this long after its start either, has never been.
const INITIAL_READINESS: SignedDuration = SignedDuration::from_secs(30);
const NO_PODS: &str = "no pods returned by selector while calculating replica count";

/// What one pod uses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// In thousandths of the unit.
    pub(crate) milli: i64,
    pub(crate) taken: Timestamp,
    /// How long it was measured for.
    pub(crate) window: SignedDuration,
}

/// What pods use, by name.
pub(crate) type Samples = BTreeMap<String, Sample>;

/// How far from the target usage may be with nothing done, as shares of the target.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tolerance {
    up: f64,
    down: f64,
}

impl Tolerance {
    pub(crate) fn of(behavior: Option<&Behavior>) -> Self {
        let rules =
            |up: bool| behavior.and_then(|own| if up { &own.scale_up } else { &own.scale_down }.as_ref());
        let own = |up: bool| {
            let tolerance = rules(up)?.tolerance.as_ref()?;
            quantity::parse(&tolerance.0).ok().map(|amount| amount.to_float())
        };
        Self { up: own(true).unwrap_or(TOLERANCE), down: own(false).unwrap_or(TOLERANCE) }
    }

    fn holds(self, ratio: f64) -> bool {
        1.0 - self.down <= ratio && ratio <= 1.0 + self.up
    }
}

/// What is scaled.
#[derive(Clone, Copy)]
pub(crate) struct Scene<'a> {
    /// Replicas that are wanted now.
    pub(crate) wanted: i32,
    /// Replicas that there are now.
    pub(crate) there: i32,
    pub(crate) pods: &'a [Arc<Pod>],
    pub(crate) tolerance: Tolerance,
    pub(crate) now: Timestamp,
}

/// What pods are to use.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target<'a> {
    /// Of what they, or one of their containers, ask for.
    Percent(i32, Option<&'a str>),
    /// On average, in thousandths of the unit.
    Average(i64),
}

/// What a metric asks for, and what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Proposal {
    pub(crate) replicas: i32,
    /// In percent of what pods ask for.
    pub(crate) utilization: Option<i32>,
    /// The value or the average, in thousandths of the unit.
    pub(crate) milli: i64,
}

/// The usage of some pods, compared with the target.
struct Usage {
    ratio: f64,
    utilization: Option<i32>,
    average: i64,
}

impl Scene<'_> {
    /// By what each pod uses of a resource, or ("") by a metric of each pod.
    pub(crate) fn by_pods(
        &self,
        resource: &str,
        mut samples: Samples,
        target: Target<'_>,
    ) -> Result<Proposal, String> {
        if self.pods.is_empty() {
            return Err(NO_PODS.to_owned());
        }
        let Groups { ready, unready, missing, ignored } = self.groups(resource, &samples);
        samples.retain(|pod, _| !ignored.contains(&**pod) && !unready.contains(&**pod));
        if samples.is_empty() {
            return Err("did not receive metrics for targeted pods (pods might be unready)".to_owned());
        }
        let demands = match target {
            Target::Percent(_, container) => self.demands(resource, container)?,
            Target::Average(_) => BTreeMap::new(),
        };
        let used: BTreeMap<&str, i64> = samples.iter().map(|(pod, sample)| (&**pod, sample.milli)).collect();
        let usage = usage(&used, &demands, target)?;
        let proposal =
            |replicas| Ok(Proposal { replicas, utilization: usage.utilization, milli: usage.average });
        let starting = !unready.is_empty() && usage.ratio > 1.0;
        if !starting && missing.is_empty() {
            let holds = self.tolerance.holds(usage.ratio);
            return proposal(if holds { self.wanted } else { ceiling(usage.ratio * float(ready)) });
        }
        // What is not known must not make the change larger than what is known does.
        let mut all = used;
        if usage.ratio < 1.0 {
            all.extend(missing.iter().map(|pod| (*pod, full(pod, &demands, target))));
        } else if usage.ratio > 1.0 {
            all.extend(missing.iter().chain(&unready).map(|pod| (*pod, 0)));
        }
        let ratio = self::usage(&all, &demands, target)?.ratio;
        let replicas = ceiling(ratio * float(all.len()));
        let turns = (usage.ratio < 1.0 && ratio > 1.0) || (usage.ratio > 1.0 && ratio < 1.0);
        let contradicts = (ratio < 1.0 && replicas > self.wanted) || (ratio > 1.0 && replicas < self.wanted);
        proposal(if self.tolerance.holds(ratio) || turns || contradicts { self.wanted } else { replicas })
    }

    /// By one value for all.
    pub(crate) fn by_value(&self, milli: i64, target: i64) -> Result<Proposal, String> {
        let ratio = share(milli, target);
        let replicas = match self.wanted {
            0 => ceiling(ratio),
            wanted if self.tolerance.holds(ratio) => wanted,
            _ if self.pods.is_empty() => return Err(format!("unable to calculate ready pods: {NO_PODS}")),
            _ => {
                let ready = self.pods.iter().filter(|pod| phase(pod) == "Running" && is_ready(pod));
                ceiling(ratio * float(ready.count()))
            }
        };
        Ok(Proposal { replicas, utilization: None, milli })
    }

    /// By one value that the replicas share.
    pub(crate) fn by_average(&self, milli: i64, target: i64) -> Proposal {
        let there = i64::from(self.there);
        let holds = self.tolerance.holds(share(milli, target.saturating_mul(there)));
        let replicas = if holds { self.there } else { ceiling(share(milli, target)) };
        let average = if there > 0 { milli.div_euclid(there) + i64::from(milli % there > 0) } else { milli };
        Proposal { replicas, utilization: None, milli: average }
    }

    fn groups(&self, resource: &str, samples: &Samples) -> Groups<'_> {
        let mut groups = Groups::default();
        for pod in self.pods {
            let phase = phase(pod);
            if pod.is_deleting() || phase == "Failed" {
                groups.ignored.insert(pod.name());
            } else if phase == "Pending" {
                groups.unready.insert(pod.name());
            } else if let Some(sample) = samples.get(pod.name()) {
                match resource == "cpu" && self.is_starting(pod, sample) {
                    true => drop(groups.unready.insert(pod.name())),
                    false => groups.ready += 1,
                }
            } else {
                groups.missing.insert(pod.name());
            }
        }
        groups
    }

    /// Whether a pod's CPU tells nothing yet.
    fn is_starting(&self, pod: &Pod, sample: &Sample) -> bool {
        let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref());
        let (Some(ready), Some(started)) = (condition(pod, "Ready"), started) else { return true };
        let since = ready.last_transition_time.as_ref().map_or(Timestamp::MIN, |time| time.0);
        if started.0 + INITIALIZATION > self.now {
            &*ready.status == "False" || sample.taken < since + sample.window
        } else {
            &*ready.status == "False" && started.0 + INITIAL_READINESS > since
        }
    }

    /// What each pod asks for, in thousandths of the unit.
    fn demands(&self, resource: &str, container: Option<&str>) -> Result<BTreeMap<&str, i64>, String> {
        let all = self.pods.iter();
        all.map(|pod| demand(pod, resource, container).map(|milli| (pod.name(), milli))).collect()
    }
}

/// Pods by what is known of them.
#[derive(Default)]
struct Groups<'a> {
    ready: usize,
    /// They do not work yet.
    unready: BTreeSet<&'a str>,
    /// They were not measured.
    missing: BTreeSet<&'a str>,
    /// They are on their way out.
    ignored: BTreeSet<&'a str>,
}

fn usage(
    used: &BTreeMap<&str, i64>,
    demands: &BTreeMap<&str, i64>,
    target: Target<'_>,
) -> Result<Usage, String> {
    match target {
        Target::Percent(percent, _) => {
            let known = used.iter().filter_map(|(pod, milli)| Some((*milli, *demands.get(pod)?)));
            let (count, used, asked) =
                known.fold((0, 0_i64, 0_i64), |(count, used, asked), (milli, demand)| {
                    (count + 1, used.saturating_add(milli), asked.saturating_add(demand))
                });
            if asked == 0 {
                return Err("no metrics returned matched known pods".to_owned());
            }
            let utilization = i32::try_from(used.saturating_mul(100) / asked).unwrap_or(i32::MAX);
            let ratio = share(utilization.into(), percent.into());
            Ok(Usage { ratio, utilization: Some(utilization), average: used / count })
        }
        Target::Average(milli) => {
            let sum = used.values().fold(0_i64, |sum, milli| sum.saturating_add(*milli));
            let average = i64::try_from(used.len()).map_or(0, |count| sum / count.max(1));
            Ok(Usage { ratio: share(average, milli), utilization: None, average })
        }
    }
}

/// What a pod counts that was not measured, where less is used than is wanted.
fn full(pod: &str, demands: &BTreeMap<&str, i64>, target: Target<'_>) -> i64 {
    match target {
        Target::Percent(percent, _) => {
            demands.get(pod).map_or(0, |demand| demand.saturating_mul(percent.max(100).into()) / 100)
        }
        Target::Average(milli) => milli,
    }
}

fn demand(pod: &Pod, resource: &str, only: Option<&str>) -> Result<i64, String> {
    let Some(spec) = &pod.spec else { return Ok(0) };
    let milli = |text: &str| quantity::parse(text).map_or(0, |amount| amount.to_milli());
    let whole = &spec.resources.requests;
    if only.is_none()
        && let Some(text) = whole.get(resource)
    {
        return Ok(milli(text));
    }
    let is_sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let sidecars = spec.init_containers.iter().flatten().filter(is_sidecar);
    let mut sum = 0_i64;
    let mut found = false;
    for container in spec.containers.iter().chain(sidecars) {
        if only.is_some_and(|only| *container.name != *only) {
            continue;
        }
        found = true;
        let Some(text) = container.resources.requests.get(resource) else {
            let (container, pod) = (&container.name, pod.name());
            return Err(format!("missing request for {resource} in container {container} of Pod {pod}"));
        };
        sum = sum.saturating_add(milli(text));
    }
    match only {
        Some(only) if !found => Err(format!("container {only} not found in Pod {}", pod.name())),
        _ => Ok(sum),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a ratio")]
fn share(part: i64, whole: i64) -> f64 {
    part as f64 / whole as f64
}

#[expect(clippy::cast_precision_loss, reason = "there are fewer pods than a double can count")]
fn float(count: usize) -> f64 {
    count as f64
}

/// So many whole replicas.
#[expect(clippy::cast_possible_truncation, reason = "it ends at the largest number")]
fn ceiling(replicas: f64) -> i32 {
    replicas.ceil() as i32
}
