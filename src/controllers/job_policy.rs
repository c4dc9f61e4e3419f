//! What a Job says about how its pods end: `spec.podFailurePolicy` (KEP-3329) and `spec.successPolicy`
//! (KEP-3998).

use crate::indexes::{self, Indexes};
use crate::job::spec;
use api::Object;
use api::batch::{
    Job, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern,
    PodFailurePolicyRule, SuccessPolicyRule,
};
use api::slim::{ContainerStatus, Pod};

/// What a pod's failure means for its Job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It counts towards the limits.
    Count,
    /// It does not.
    Ignore,
    /// Its index has failed.
    FailIndex,
    /// The Job has failed, as the message says.
    FailJob(String),
}

/// The verdict of the first rule that matches; a failure that none matches counts.
pub(crate) fn verdict(job: &Job, pod: &Pod) -> Verdict {
    let rules = spec(job).pod_failure_policy.iter().flat_map(|policy| &policy.rules);
    rules.enumerate().find_map(|(at, rule)| apply(rule, at, pod)).unwrap_or(Verdict::Count)
}

fn apply(rule: &PodFailurePolicyRule, at: usize, pod: &Pod) -> Option<Verdict> {
    let (namespace, name) = (pod.namespace(), pod.name());
    let what = if let Some(codes) = &rule.on_exit_codes {
        let (container, code) = exit_code(pod, codes)?;
        format!("Container {container} for pod {namespace}/{name} failed with exit code {code}")
    } else {
        let condition = condition(pod, rule.on_pod_conditions.as_deref()?)?;
        format!("Pod {namespace}/{name} has condition {condition}")
    };
    match rule.action.as_str() {
        "Ignore" => Some(Verdict::Ignore),
        "FailIndex" => Some(Verdict::FailIndex),
        "FailJob" => Some(Verdict::FailJob(format!("{what} matching FailJob rule at index {at}"))),
        _ => Some(Verdict::Count),
    }
}

/// The first container, of the main ones before the others, that ended as the rule says.
fn exit_code<'a>(pod: &'a Pod, rule: &PodFailurePolicyOnExitCodesRequirement) -> Option<(&'a str, i32)> {
    let ended = |container: &'a ContainerStatus| {
        let code = container.state.as_ref()?.terminated.as_ref()?.exit_code;
        let named = rule.container_name.as_deref().is_none_or(|name| *name == *container.name);
        let matches = rule.values.contains(&code) == (rule.operator == "In");
        (named && code != 0 && matches).then_some((&*container.name, code))
    };
    let status = pod.status.as_ref()?;
    status.container_statuses.iter().chain(&status.init_container_statuses).flatten().find_map(ended)
}

fn condition<'a>(pod: &'a Pod, patterns: &[PodFailurePolicyOnPodConditionsPattern]) -> Option<&'a str> {
    let conditions = pod.status.as_ref()?.conditions.as_deref()?;
    let matches = |kind: &str, status: &str| {
        patterns.iter().any(|it| it.type_ == kind && it.status.as_deref().unwrap_or("True") == status)
    };
    conditions.iter().find(|it| matches(&it.type_, &it.status)).map(|it| &*it.type_)
}

/// Which rule says that the indexes that have succeeded are enough.
pub(crate) fn is_success(job: &Job, succeeded: &Indexes) -> Option<String> {
    let policy = spec(job).success_policy.as_ref().filter(|_| !succeeded.is_empty())?;
    let completions = spec(job).completions.unwrap_or(0);
    let at = policy.rules.iter().position(|rule| is_met(rule, completions, succeeded))?;
    Some(format!("Matched rules at index {at}"))
}

fn is_met(rule: &SuccessPolicyRule, completions: i32, succeeded: &Indexes) -> bool {
    let enough = |number: usize| {
        rule.succeeded_count
            .is_some_and(|wanted| usize::try_from(wanted).is_ok_and(|wanted| number >= wanted))
    };
    let Some(named) = &rule.succeeded_indexes else { return enough(succeeded.len()) };
    let named = indexes::parse(named, completions);
    let met = named.intersection(succeeded).count();
    !named.is_empty() && (met == named.len() || enough(met))
}
