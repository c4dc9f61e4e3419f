//! Kubernetes' words for the families of addresses.

pub(crate) use net::Family;

/// `addressType` of EndpointSlices, `ipFamilies` of Services, and the label of metrics.
pub(crate) fn kubernetes(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}
