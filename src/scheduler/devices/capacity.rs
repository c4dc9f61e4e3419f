//! What a request takes of a device's capacity (KEP-5075, consumable capacity).

use super::ledger::{Amounts, amount};
use api::Quantity;
use api::quantity::Amount;
use api::resource::{CapacityRequestPolicy, CapacityRequestPolicyRange, CapacityRequirements, Device};

/// What is asked, as the device's policy rounds it up; nothing where the policy refuses it, or where something is
/// asked that the device does not have.
pub(super) fn consumed(asked: Option<&CapacityRequirements>, device: &Device) -> Option<Amounts> {
    let none = Default::default();
    let (capacity, no_requests) = (device.capacity.as_ref().unwrap_or(&none), Default::default());
    let requests = asked.and_then(|asked| asked.requests.as_ref()).unwrap_or(&no_requests);
    if requests.keys().any(|name| !capacity.contains_key(name)) {
        return None;
    }
    let of = |(name, own): (&String, &api::resource::DeviceCapacity)| {
        let policy = own.request_policy.as_ref();
        let default = policy.and_then(|policy| policy.default.as_ref()).map(amount);
        let taken = match requests.get(name) {
            Some(asked) => policy.map_or_else(|| amount(asked), |policy| rounded(amount(asked), policy)),
            None => default.unwrap_or_else(|| amount(&own.value)),
        };
        let fits = default == Some(taken) || policy.is_none_or(|policy| is_allowed(taken, policy));
        fits.then(|| (name.clone(), taken))
    };
    capacity.iter().map(of).collect()
}

/// Whether all of it is left beside what is taken already.
pub(super) fn fits(consumed: &Amounts, device: &Device, taken: &[Option<&Amounts>]) -> bool {
    device.capacity.iter().flatten().all(|(name, own)| {
        let all = taken.iter().flatten().filter_map(|taken| taken.get(name));
        let sum = all.chain(consumed.get(name)).fold(Amount::units(0), |sum, more| sum.plus(*more));
        sum <= amount(&own.value)
    })
}

fn rounded(asked: Amount, policy: &CapacityRequestPolicy) -> Amount {
    match (&policy.valid_range, &policy.valid_values) {
        (Some(range), _) => in_range(asked, range),
        (None, Some(values)) => values.iter().map(amount).find(|value| asked <= *value).unwrap_or(asked),
        (None, None) => asked,
    }
}

fn in_range(asked: Amount, range: &CapacityRequestPolicyRange) -> Amount {
    let least = amount(&range.min);
    let Some(step) = steps(range).filter(|_| asked >= least) else { return asked.max(least) };
    let (asked, least) = (asked.to_units(), least.to_units());
    let steps = (asked - least).div_euclid(step) + i64::from((asked - least).rem_euclid(step) != 0);
    Amount::bytes(least.saturating_add(step.saturating_mul(steps)))
}

fn steps(range: &CapacityRequestPolicyRange) -> Option<i64> {
    range.step.as_ref().map(|step| amount(step).to_units()).filter(|step| *step > 0)
}

fn is_allowed(taken: Amount, policy: &CapacityRequestPolicy) -> bool {
    let is = |value: &Quantity| amount(value) == taken;
    match (&policy.valid_range, policy.valid_values.as_deref()) {
        (Some(range), _) => {
            let on_step = |step| (taken.to_units() - amount(&range.min).to_units()) % step == 0;
            range.max.as_ref().is_none_or(|most| taken <= amount(most)) && steps(range).is_none_or(on_step)
        }
        (None, Some(values)) if !values.is_empty() => values.iter().any(is),
        _ => true,
    }
}
