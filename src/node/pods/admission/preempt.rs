//! Whom a critical pod displaces: as few and as small pods as give it what it lacks, those without guarantees
//! first.

use super::{is_critical, number};
use crate::amount::Qos;
use crate::pods::ledger::Holding;
use crate::pods::spec;
use api::Object;
use api::core::Pod;

/// Amounts by the name of their resource.
type Needs = Vec<(String, i64)>;

fn request(holding: &Holding, resource: &str) -> i64 {
    if resource == "pods" {
        return 1;
    }
    holding.requests.get(resource).map_or(0, |amount| number(resource, *amount))
}

fn may_displace(pod: &Pod, other: &Pod) -> bool {
    let priority = |pod: &Pod| spec::spec(pod).priority;
    let higher = priority(pod).zip(priority(other)).is_some_and(|(own, other)| own > other);
    is_critical(pod) && !is_critical(other) || higher
}

/// What is still lacking once these are gone.
fn without(needs: &Needs, gone: &[&Holding]) -> Needs {
    let left = needs.iter().map(|(resource, amount)| {
        let freed: i64 = gone.iter().map(|holding| request(holding, resource)).sum();
        (resource.clone(), amount - freed)
    });
    left.filter(|(_, amount)| *amount > 0).collect()
}

/// How far a pod's end is from giving all that is lacking: each resource counts the same.
#[expect(clippy::cast_precision_loss, reason = "a share, to compare by")]
fn distance(needs: &Needs, holding: &Holding) -> f64 {
    let share = |(resource, amount): &(String, i64)| {
        let left = (amount - request(holding, resource)).max(0);
        (left as f64 / *amount as f64).powi(2)
    };
    needs.iter().map(share).sum()
}

fn list(needs: &Needs) -> String {
    let all: String = needs.iter().map(|(name, amount)| format!("(res: {name}, q: {amount}), ")).collect();
    format!("[{all}]")
}

/// Those of `pods` that meet the needs, the nearest first; the smaller of two that are as near.
fn nearest(mut pods: Vec<&Holding>, mut needs: Needs) -> Result<Vec<&Holding>, String> {
    let mut chosen = Vec::new();
    let size = |holding: &Holding| (request(holding, "memory"), request(holding, "cpu"));
    while !needs.is_empty() {
        let nearer = |(_, a): &(usize, &&Holding), (_, b): &(usize, &&Holding)| {
            distance(&needs, a).total_cmp(&distance(&needs, b)).then_with(|| size(a).cmp(&size(b)))
        };
        let Some((at, _)) = pods.iter().enumerate().min_by(nearer) else {
            return Err(format!("no set of running pods found to reclaim resources: {}", list(&needs)));
        };
        let next = pods.swap_remove(at);
        needs = without(&needs, &[next]);
        chosen.push(next);
    }
    Ok(chosen)
}

/// The uids of those that make room.
pub(super) fn victims(pod: &Pod, others: &[Holding], needs: Needs) -> Result<Vec<String>, String> {
    let of_class = |class: Qos| -> Vec<&Holding> {
        let able = others.iter().filter(|other| may_displace(pod, &other.pod));
        able.filter(|other| Qos::of(&other.pod) == class).collect()
    };
    let [best_effort, burstable, guaranteed] =
        [Qos::BestEffort, Qos::Burstable, Qos::Guaranteed].map(of_class);
    let all = [best_effort.as_slice(), &burstable, &guaranteed].concat();
    let unmet = without(&needs, &all);
    if !unmet.is_empty() {
        return Err(format!("no set of running pods found to reclaim resources: {}", list(&unmet)));
    }
    // Of each class only what the classes below it cannot give.
    let guaranteed = nearest(guaranteed, without(&needs, &[best_effort.as_slice(), &burstable].concat()))?;
    let burstable = nearest(burstable, without(&needs, &[best_effort.as_slice(), &guaranteed].concat()))?;
    let best_effort = nearest(best_effort, without(&needs, &[burstable.as_slice(), &guaranteed].concat()))?;
    let chosen = best_effort.into_iter().chain(burstable).chain(guaranteed);
    Ok(chosen.map(|holding| holding.pod.uid().to_owned()).collect())
}
