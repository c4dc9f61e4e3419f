//! What the devices of a claim have to have in common, or must not.

use super::pools::Unit;
use super::requests::Request;
use api::resource::{DeviceAttribute, DeviceConstraint};

/// A constraint, and the attribute of each device it concerns so far.
#[derive(Debug)]
pub(super) struct Constraint<'a> {
    requests: &'a [String],
    attribute: &'a str,
    /// All have to differ; otherwise all have to be equal.
    distinct: bool,
    seen: Vec<&'a DeviceAttribute>,
}

impl<'a> Constraint<'a> {
    pub(super) fn of(constraint: &'a DeviceConstraint) -> Option<Self> {
        let distinct = constraint.distinct_attribute.as_deref();
        let attribute = constraint.match_attribute.as_deref().or(distinct)?;
        Some(Self {
            requests: constraint.requests.as_deref().unwrap_or_default(),
            attribute,
            distinct: constraint.match_attribute.is_none(),
            seen: Vec::new(),
        })
    }

    fn concerns(&self, request: &Request) -> bool {
        self.requests.is_empty()
            || self.requests.iter().any(|own| *own == request.base || *own == request.name)
    }

    /// Takes a device in, if it may be among the others.
    pub(super) fn add(&mut self, request: &Request, unit: &'a Unit) -> bool {
        if !self.concerns(request) {
            return true;
        }
        let Some(attribute) = attribute(unit, self.attribute) else { return false };
        let fits = if self.distinct {
            !self.seen.contains(&attribute)
        } else {
            self.seen.first().is_none_or(|first| *first == attribute)
        };
        if fits {
            self.seen.push(attribute);
        }
        fits
    }

    /// Lets the device go that came last.
    pub(super) fn remove(&mut self, request: &Request) {
        if self.concerns(request) {
            self.seen.pop();
        }
    }
}

/// An attribute by its full name; of the driver's domain it may be named without.
fn attribute<'u>(unit: &'u Unit, name: &str) -> Option<&'u DeviceAttribute> {
    let attributes = unit.device().attributes.as_ref()?;
    let own = || {
        let (domain, id) = name.split_once('/')?;
        attributes.get(id).filter(|_| domain == unit.slice.spec.driver)
    };
    attributes.get(name).or_else(own)
}
