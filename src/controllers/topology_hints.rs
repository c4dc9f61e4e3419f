//! Divides a Service's endpoints among zones by the processors that these have
//! (`service.kubernetes.io/topology-mode: Auto`).

use crate::node_taints::is_ready;
use crate::slices::{Changes, ZONE};
use api::core::{Node, Service};
use api::discovery::{Endpoint, EndpointHints, ForZone};
use api::{Object, quantity};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The share of the cluster's processors that a zone has.
pub(crate) type Shares = BTreeMap<String, f64>;

/// How much more than its share a zone's endpoints may get.
const OVERLOAD: f64 = 0.2;
/// The older annotation counts where both are set.
const MODES: [&str; 2] =
    ["service.kubernetes.io/topology-aware-hints", "service.kubernetes.io/topology-mode"];
/// Nodes that carry no load of services.
const EXCLUDED: [&str; 2] = ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"];

/// The Service asks for its endpoints to be divided.
pub(crate) fn wanted(service: &Service) -> bool {
    let mode = MODES.iter().find_map(|mode| service.annotations().get(*mode));
    mode.is_some_and(|mode| mode == "Auto" || mode == "auto")
}

/// The shares of the zones, unless a node does not say its zone or its processors, or there is one zone alone.
pub(crate) fn shares<'a>(nodes: impl Iterator<Item = &'a Arc<Node>>) -> Option<Shares> {
    let mut milli: BTreeMap<String, i64> = BTreeMap::new();
    for node in
        nodes.filter(|node| is_ready(node) && !EXCLUDED.iter().any(|it| node.labels().contains_key(*it)))
    {
        let allocatable = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
        let cpu = allocatable
            .and_then(|all| quantity::parse(&all.get("cpu")?.0).ok())
            .map_or(0, |it| it.to_milli());
        let zone = node.labels().get(ZONE).filter(|zone| !zone.is_empty() && cpu > 0)?;
        *milli.entry(zone.clone()).or_default() += cpu;
    }
    #[expect(clippy::cast_precision_loss, reason = "a share of millions of processors may be off by one")]
    let share = |part: i64, total: i64| part as f64 / total as f64;
    let total = milli.values().sum();
    (milli.len() > 1).then(|| milli.into_iter().map(|(zone, milli)| (zone, share(milli, total))).collect())
}

/// How many endpoints are for a zone.
struct Allocation {
    most: usize,
    desired: f64,
}

fn allocations(shares: Option<&Shares>, endpoints: usize) -> Result<BTreeMap<String, Allocation>, String> {
    let shares = shares
        .ok_or("Insufficient Node information: allocatable CPU or zone not specified on one or more nodes")?;
    let counts = format!("({endpoints} endpoints, {} zones)", shares.len());
    if shares.len() > endpoints {
        return Err(format!("Insufficient number of endpoints {counts}"));
    }
    #[expect(clippy::cast_precision_loss, reason = "far fewer than a float counts")]
    let desired = |share: f64| share * endpoints as f64;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "at most the number of endpoints"
    )]
    let least = |share: f64| (desired(share) / (1.0 + OVERLOAD)).ceil() as usize;
    let together: usize = shares.values().map(|share| least(*share)).sum();
    let spare = endpoints.checked_sub(together).ok_or_else(|| {
        format!("Unable to allocate minimum required endpoints to each zone without exceeding overload threshold {counts}")
    })?;
    #[expect(clippy::cast_precision_loss, reason = "far fewer than a float counts")]
    let allocation = |share: f64| Allocation {
        most: least(share) + spare,
        desired: desired(share).max(least(share) as f64),
    };
    Ok(shares.iter().map(|(zone, share)| (zone.clone(), allocation(*share))).collect())
}

/// Gives all ready endpoints hints, changing slices that would not be changed otherwise only where their hints
/// no longer do; or takes all hints away and says why.
pub(crate) fn divide(changes: &mut Changes, shares: Option<&Shares>) -> Result<(), String> {
    let unchanged = changes.unchanged.iter().flat_map(|slice| slice.endpoints.iter().flatten());
    let endpoints = changed(changes).chain(unchanged).filter(|endpoint| ready(endpoint)).count();
    let outcome = allocations(shares, endpoints).and_then(|allocations| assign(changes, &allocations));
    if outcome.is_err() {
        touch(changes, |slice| slice.iter().any(|endpoint| endpoint.hints.is_some()));
        changed_mut(changes).for_each(|endpoint| endpoint.hints = None);
    }
    outcome
}

fn changed(changes: &Changes) -> impl Iterator<Item = &Endpoint> {
    changes.create.iter().chain(&changes.update).flat_map(|slice| slice.endpoints.iter().flatten())
}

fn changed_mut(changes: &mut Changes) -> impl Iterator<Item = &mut Endpoint> {
    let slices = changes.create.iter_mut().chain(&mut changes.update);
    slices.flat_map(|slice| slice.endpoints.iter_mut().flatten())
}

fn ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) == Some(true)
}

/// Makes updates of unchanged slices.
fn touch(changes: &mut Changes, mut must: impl FnMut(&[Endpoint]) -> bool) {
    let touched =
        changes.unchanged.extract_if(.., |slice| must(slice.endpoints.as_deref().unwrap_or_default()));
    changes.update.extend(touched.map(Arc::unwrap_or_clone));
}

fn hint(zone: &str) -> Option<EndpointHints> {
    Some(EndpointHints {
        for_zones: Some(vec![ForZone { name: zone.to_owned() }]),
        ..EndpointHints::default()
    })
}

fn assign(changes: &mut Changes, allocations: &BTreeMap<String, Allocation>) -> Result<(), String> {
    let mut given: BTreeMap<String, usize> = BTreeMap::new();
    touch(changes, |endpoints| match standing(endpoints, &given, allocations) {
        Some(zones) => {
            zones.into_iter().for_each(|(zone, count)| *given.entry(zone).or_default() += count);
            false
        }
        None => true,
    });
    for endpoint in changed_mut(changes) {
        endpoint.hints = None;
        if ready(endpoint) {
            let zone = endpoint.zone.clone().ok_or("One or more endpoints do not have a zone specified")?;
            endpoint.hints = hint(&zone);
            *given.entry(zone).or_default() += 1;
        }
    }
    let (mut giving, mut receiving) = imbalance(allocations, &given);
    for endpoint in changed_mut(changes).filter(|endpoint| ready(endpoint)) {
        let from = endpoint.zone.as_ref().and_then(|zone| giving.get_mut(zone)).filter(|left| **left > 0);
        let to = receiving.iter_mut().find(|(_, left)| **left > 0);
        if let (Some(from), Some((zone, to))) = (from, to) {
            (*from, *to) = (*from - 1, *to - 1);
            endpoint.hints = hint(zone);
        }
    }
    if given.is_empty() { Err("No hints allocated for zones".to_owned()) } else { Ok(()) }
}

/// The zones that a slice's endpoints are for, if it may stay as it is beside what is `given` already.
fn standing(
    endpoints: &[Endpoint],
    given: &BTreeMap<String, usize>,
    allocations: &BTreeMap<String, Allocation>,
) -> Option<BTreeMap<String, usize>> {
    let mut zones: BTreeMap<String, usize> = BTreeMap::new();
    for endpoint in endpoints.iter().filter(|endpoint| ready(endpoint)) {
        let hinted = endpoint.hints.as_ref().and_then(|hints| hints.for_zones.as_ref())?;
        for zone in Some(hinted).filter(|zones| !zones.is_empty())? {
            *zones.entry(zone.name.clone()).or_default() += 1;
        }
    }
    let fits = |(zone, count): (&String, &usize)| {
        let before = given.get(zone).copied().unwrap_or(0);
        allocations.get(zone).is_some_and(|allocation| before + count <= allocation.most)
    };
    zones.iter().all(fits).then_some(zones)
}

type Counts = BTreeMap<String, usize>;

/// How many endpoints zones should give to others, and how many these should get.
fn imbalance(allocations: &BTreeMap<String, Allocation>, given: &Counts) -> (Counts, Counts) {
    #[expect(clippy::cast_precision_loss, reason = "far fewer than a float counts")]
    let over = |zone: &String, desired: f64| given.get(zone).copied().unwrap_or(0) as f64 - desired;
    let all = allocations.iter().map(|(zone, allocation)| (zone.clone(), over(zone, allocation.desired)));
    let (mut over, under): (BTreeMap<_, _>, BTreeMap<_, _>) = all.partition(|(_, over)| *over > 0.0);
    let mut under: BTreeMap<_, _> = under.into_iter().map(|(zone, over)| (zone, -over)).collect();
    let (mut giving, mut receiving) = (Counts::new(), Counts::new());
    while let (Some((from, most)), Some((to, least))) = (most(&mut over), most(&mut under)) {
        if (*most < 1.0 && *least < 1.0) || *most < 0.5 || *least < 0.5 {
            break;
        }
        (*most, *least) = (*most - 1.0, *least - 1.0);
        *giving.entry(from.clone()).or_default() += 1;
        *receiving.entry(to.clone()).or_default() += 1;
    }
    (giving, receiving)
}

fn most(zones: &mut BTreeMap<String, f64>) -> Option<(&String, &mut f64)> {
    zones.iter_mut().filter(|(_, value)| **value > 0.0).max_by(|(_, a), (_, b)| a.total_cmp(b))
}
