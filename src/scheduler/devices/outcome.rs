//! What is written of devices that were found (`status.allocation`).

use super::allocator::{Gain, Given};
use super::requests::{Asked, Request};
use api::Quantity;
use api::core::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};
use api::resource::{
    AllocationResult, DeviceAllocationConfiguration, DeviceAllocationResult, DeviceClaimConfiguration,
    DeviceRequestAllocationResult,
};
use base::random;

/// The allocation of a claim on a node.
pub(super) fn allocation(asked: &Asked, gain: &Gain<'_>, node: &str) -> AllocationResult {
    let chosen: Vec<&Request> =
        asked.requests.iter().zip(&gain.chosen).map(|(request, chosen)| &request[*chosen]).collect();
    let config = configuration(asked, &chosen);
    AllocationResult {
        allocation_timestamp: None,
        devices: Some(DeviceAllocationResult {
            config: Some(config).filter(|config| !config.is_empty()),
            results: Some(gain.devices.iter().map(result).collect()),
        }),
        node_selector: nodes(&gain.devices, node),
    }
}

fn result(given: &Given<'_>) -> DeviceRequestAllocationResult {
    let (spec, device) = (&given.unit.slice.spec, given.unit.device());
    let consumed = given.share.iter().flatten();
    let consumed = consumed.map(|(name, amount)| (name.clone(), Quantity(amount.to_string())));
    let tolerations = &given.request.tolerations;
    DeviceRequestAllocationResult {
        request: given.request.name.clone(),
        driver: spec.driver.clone(),
        pool: spec.pool.name.clone(),
        device: device.name.clone(),
        admin_access: given.request.admin.then_some(true),
        tolerations: Some(tolerations.clone()).filter(|all| !all.is_empty()),
        binding_conditions: device.binding_conditions.clone(),
        binding_failure_conditions: device.binding_failure_conditions.clone(),
        share_id: given.share.as_ref().map(|_| random::uuid()),
        consumed_capacity: given.share.as_ref().map(|_| consumed.collect()),
    }
}

/// Of the classes first, then of the claim.
fn configuration(asked: &Asked, chosen: &[&Request]) -> Vec<DeviceAllocationConfiguration> {
    let mut all: Vec<DeviceAllocationConfiguration> = Vec::new();
    for (at, request) in chosen.iter().enumerate() {
        if chosen[..at].iter().any(|before| before.class.metadata.name == request.class.metadata.name) {
            continue;
        }
        let same = chosen.iter().filter(|other| other.class.metadata.name == request.class.metadata.name);
        let names: Vec<String> = same.map(|request| request.name.clone()).collect();
        let of_class = request.class.spec.config.iter().flatten();
        all.extend(of_class.map(|config| DeviceAllocationConfiguration {
            source: "FromClass".to_owned(),
            requests: Some(names.clone()),
            opaque: config.opaque.clone(),
        }));
    }
    let devices = asked.claim.spec.devices.iter();
    for config in devices.flat_map(|devices| devices.config.iter().flatten()) {
        let named = config.requests.as_deref().unwrap_or_default();
        let means = |request: &&&Request| named.contains(&request.base) || named.contains(&request.name);
        let times = if named.is_empty() { 1 } else { chosen.iter().filter(means).count() };
        all.extend(std::iter::repeat_n(of_claim(config), times));
    }
    all
}

fn of_claim(config: &DeviceClaimConfiguration) -> DeviceAllocationConfiguration {
    DeviceAllocationConfiguration {
        source: "FromClaim".to_owned(),
        requests: config.requests.clone(),
        opaque: config.opaque.clone(),
    }
}

/// The nodes that can use all of the devices; all nodes where nothing is said.
fn nodes(devices: &[Given<'_>], node: &str) -> Option<NodeSelector> {
    let mut term = NodeSelectorTerm::default();
    for given in devices {
        let (name, selector) = given.unit.nodes();
        if name.is_some() || given.unit.device().binds_to_node == Some(true) {
            let own = NodeSelectorRequirement {
                key: "metadata.name".to_owned(),
                operator: "In".to_owned(),
                values: Some(vec![node.to_owned()]),
            };
            let term = NodeSelectorTerm { match_fields: Some(vec![own]), match_expressions: None };
            return Some(NodeSelector { node_selector_terms: vec![term] });
        }
        if let Some(more) = selector.and_then(|selector| selector.node_selector_terms.first()) {
            merge(&mut term.match_fields, more.match_fields.as_deref());
            merge(&mut term.match_expressions, more.match_expressions.as_deref());
        }
    }
    let is_empty = term.match_fields.is_none() && term.match_expressions.is_none();
    (!is_empty).then(|| NodeSelector { node_selector_terms: vec![term] })
}

fn merge(into: &mut Option<Vec<NodeSelectorRequirement>>, more: Option<&[NodeSelectorRequirement]>) {
    for requirement in more.unwrap_or_default() {
        let all = into.get_or_insert_default();
        if !all.contains(requirement) {
            all.push(requirement.clone());
        }
    }
}
