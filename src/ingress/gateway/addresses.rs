//! The addresses that a Gateway asks for (`spec.addresses`): those of nodes can be had, since these are what is listened
//! on.

use super::World;
use super::types::Gateway;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Why a Gateway has no addresses.
pub(super) enum Refused {
    /// Addresses of a type that is not served.
    Unsupported(String),
    /// Addresses that are nobody's here.
    Unusable(String),
}

/// The addresses of a Gateway: all nodes', or those that it asks for.
pub(super) fn of(world: &World<'_>, gateway: &Gateway) -> Result<BTreeSet<IpAddr>, Refused> {
    let mut given = BTreeSet::new();
    for asked in &gateway.spec.addresses {
        let kind = asked.kind.as_deref().unwrap_or("IPAddress");
        if kind != "IPAddress" {
            return Err(Refused::Unsupported(format!("addresses of type {kind} are not served")));
        }
        let Some(text) = asked.value.as_deref().filter(|text| !text.is_empty()) else {
            // One of whichever there are.
            given.extend(world.addresses);
            continue;
        };
        match text.parse::<IpAddr>().ok().filter(|address| world.addresses.contains(address)) {
            Some(address) => given.insert(address),
            None => return Err(Refused::Unusable(format!("{text} is the address of no node that is ready"))),
        };
    }
    Ok(if gateway.spec.addresses.is_empty() { world.addresses.clone() } else { given })
}
