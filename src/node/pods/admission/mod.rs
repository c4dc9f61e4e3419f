//! Which pods this node takes. The scheduler has found them a place, but some name their node themselves, some
//! are the node's own, and the scheduler may not have known all. Pure.

mod preempt;
pub(crate) mod runner;
mod sysctls;
#[cfg(test)]
mod tests;

use super::ledger::Holding;
use super::spec;
use api::Object;
use api::core::{Node, Pod, Taint};
use api::demand::{self, Amounts};
use api::quantity::Amount;
use api::{taints, terms};

/// What pods of this priority and above have precedence over (`system-cluster-critical`).
const CRITICAL: i32 = 2_000_000_000;
/// Where a pod of the node itself says it comes from.
pub(crate) const SOURCE: &str = "kubernetes.io/config.source";

/// What a decision is made from.
pub(crate) struct View<'a> {
    /// The Node, as far as it is known.
    pub(crate) node: &'a Node,
    pub(crate) allocatable: &'a Amounts,
    pub(crate) others: &'a [Holding],
    pub(crate) abilities: Abilities<'a>,
}

/// What the machine and its runtime can do.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Abilities<'a> {
    pub(crate) apparmor: bool,
    pub(crate) supplemental_groups_policy: bool,
    /// Sysctls that an administrator lets pods have besides the safe ones; patterns end in `*`.
    pub(crate) unsafe_sysctls: &'a [String],
}

/// Why a pod is not taken: `status.reason`, and what `status.message` says after its first words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rejection {
    pub(crate) reason: String,
    pub(crate) message: String,
}

fn rejected(reason: &str, message: impl Into<String>) -> Rejection {
    Rejection { reason: reason.to_owned(), message: message.into() }
}

/// A reason against a pod.
#[derive(Clone, Debug, PartialEq)]
enum Misfit {
    Lacks { resource: String, requested: i64, used: i64, capacity: i64 },
    Other(&'static str, &'static str),
}

impl Misfit {
    fn rejection(&self) -> Rejection {
        match self {
            Self::Lacks { resource, requested, used, capacity } => Rejection {
                reason: format!("OutOf{resource}"),
                message: format!(
                    "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, \
                     capacity: {capacity}"
                ),
            },
            Self::Other(name, why) => rejected(name, format!("Predicate {name} failed: {why}")),
        }
    }
}

/// Whether a pod is the node's own, from a manifest.
pub(crate) fn is_static(pod: &Pod) -> bool {
    pod.annotations().get(SOURCE).is_some_and(|source| source != "api")
}

/// Whether the cluster depends on a pod.
pub(crate) fn is_critical(pod: &Pod) -> bool {
    is_static(pod) || spec::spec(pod).priority.is_some_and(|priority| priority >= CRITICAL)
}

/// Takes a pod, at the price of those that are named, or says why not.
pub(crate) fn admit(view: &View, wanted: &Holding) -> Result<Vec<String>, Rejection> {
    let pod = &*wanted.pod;
    sysctls::check(pod, view.abilities.unsafe_sysctls)?;
    check_system(view, pod)?;
    let misfits = misfits(view, wanted);
    let victims = if misfits.is_empty() { Vec::new() } else { make_room(view, wanted, &misfits)? };
    check_apparmor(view, pod)?;
    Ok(victims)
}

fn check_system(view: &View, pod: &Pod) -> Result<(), Rejection> {
    let wanted = pod.labels().get("kubernetes.io/os").map(String::as_str);
    if wanted.is_some_and(|system| system != "linux") {
        let why = "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label";
        return Err(rejected("PodOSSelectorNodeLabelDoesNotMatch", why));
    }
    if spec::spec(pod).os.as_ref().is_some_and(|system| system.name != "linux") {
        let why = "Failed to admit pod as the OS field doesn't match node OS";
        return Err(rejected("PodOSNotSupported", why));
    }
    let groups = spec::spec(pod).security_context.as_ref();
    let groups = groups.and_then(|context| context.supplemental_groups_policy.as_deref());
    if groups == Some("Strict") && !view.abilities.supplemental_groups_policy {
        let why = "SupplementalGroupsPolicy=Strict is not supported in this node";
        return Err(rejected("SupplementalGroupsPolicyNotSupported", why));
    }
    Ok(())
}

/// A profile that is asked for and cannot be enforced; pods that run already are let be.
fn check_apparmor(view: &View, pod: &Pod) -> Result<(), Rejection> {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let of_pod = spec::spec(pod).security_context.as_ref().and_then(|it| it.app_armor_profile.as_ref());
    let containers = spec::containers(pod);
    let own =
        containers.iter().filter_map(|(_, it)| it.security_context.as_ref()?.app_armor_profile.as_ref());
    let mut asked = own.chain(of_pod).filter(|profile| profile.type_ != "Unconfined");
    if view.abilities.apparmor || !matches!(phase, None | Some("" | "Pending")) || asked.next().is_none() {
        return Ok(());
    }
    Err(rejected("AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host"))
}

/// Everything that speaks against a pod on this node, in the order of the scheduler's plugins.
fn misfits(view: &View, wanted: &Holding) -> Vec<Misfit> {
    let pod = &*wanted.pod;
    let mut found = lacks(view, wanted);
    if !selects(pod, view.node) {
        found.push(Misfit::Other("NodeAffinity", "node(s) didn't match Pod's node affinity/selector"));
    }
    let named = spec::spec(pod).node_name.as_deref().filter(|name| !name.is_empty());
    if named.is_some_and(|name| name != view.node.name()) {
        found.push(Misfit::Other("NodeName", "node(s) didn't match the requested node name"));
    }
    if view.others.iter().any(|other| wanted.meets(other)) {
        found.push(Misfit::Other("NodePorts", "node(s) didn't have free ports for the requested pod ports"));
    }
    let tolerations = spec::spec(pod).tolerations.as_deref().unwrap_or_default();
    let taints = view.node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let drives_out = |taint: &&Taint| taint.effect == "NoExecute" && !taints::tolerated(tolerations, taint);
    if !is_static(pod) && taints.iter().any(|taint| drives_out(&taint)) {
        found.push(Misfit::Other("TaintToleration", "node(s) had taints that the pod didn't tolerate"));
    }
    found
}

/// Whether the node is one that the pod may run on.
fn selects(pod: &Pod, node: &Node) -> bool {
    let spec = spec::spec(pod);
    let labels = node.labels();
    let selector = spec.node_selector.iter().flatten();
    let required = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = required.and_then(|it| it.required_during_scheduling_ignored_during_execution.as_ref());
    selector.into_iter().all(|(key, value)| labels.get(key) == Some(value))
        && required.is_none_or(|required| terms::any(&required.node_selector_terms, node))
}

/// CPU counts in thousandths, everything else in units.
fn number(resource: &str, amount: Amount) -> i64 {
    if resource == "cpu" { amount.to_milli() } else { amount.to_units() }
}

/// The resources that are not there in sufficient amount. Extended ones that the node does not know are
/// somebody else's to count.
fn lacks(view: &View, wanted: &Holding) -> Vec<Misfit> {
    let capacity = |resource: &str| view.allocatable.get(resource).map(|amount| number(resource, *amount));
    let mut found = Vec::new();
    let pods = i64::try_from(view.others.len()).unwrap_or(i64::MAX);
    if let Some(capacity) = capacity("pods").filter(|most| pods + 1 > *most) {
        found.push(Misfit::Lacks { resource: "pods".to_owned(), requested: 1, used: pods, capacity });
    }
    let mut names: Vec<&String> = wanted.requests.keys().collect();
    names.sort_by_key(|name| (!["cpu", "memory", "ephemeral-storage"].contains(&name.as_str()), *name));
    for resource in names {
        let requested = number(resource, wanted.requests[resource]);
        let known = capacity(resource);
        if requested <= 0 || known.is_none() && demand::is_extended(resource) {
            continue;
        }
        let held = view.others.iter().filter_map(|other| other.requests.get(resource));
        let used: i64 = held.map(|amount| number(resource, *amount)).sum();
        let capacity = known.unwrap_or(0);
        if requested > capacity - used {
            found.push(Misfit::Lacks { resource: resource.clone(), requested, used, capacity });
        }
    }
    found
}

/// Those that have to go for a critical pod; nothing makes room for others.
fn make_room(view: &View, wanted: &Holding, misfits: &[Misfit]) -> Result<Vec<String>, Rejection> {
    let lacking = |misfit: &Misfit| match misfit {
        Misfit::Lacks { resource, requested, used, capacity } => {
            Some((resource.clone(), requested - (capacity - used)))
        }
        Misfit::Other(..) => None,
    };
    let needs: Option<Vec<(String, i64)>> = misfits.iter().map(lacking).collect();
    match needs {
        Some(needs) if is_critical(&wanted.pod) => {
            preempt::victims(&wanted.pod, view.others, needs).map_err(|why| {
                let text = format!(
                    "Unexpected error while attempting to recover from admission failure: preemption: error \
                     finding a set of pods to preempt: {why}"
                );
                rejected("UnexpectedAdmissionError", text)
            })
        }
        None if is_critical(&wanted.pod) => {
            let other = misfits.iter().find(|misfit| matches!(misfit, Misfit::Other(..)));
            Err(other.unwrap_or(&misfits[0]).rejection())
        }
        _ => Err(misfits[0].rejection()),
    }
}

/// Whether a pod that runs here may have other resources than it has; why not yet, otherwise.
pub(crate) fn resize(view: &View, wanted: &Holding) -> Result<(), Rejection> {
    let misfits = misfits(view, wanted);
    misfits.first().map_or(Ok(()), |misfit| Err(misfit.rejection()))
}
