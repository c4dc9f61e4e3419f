//! What is said of Services of type LoadBalancer between the rooms that write and read it.

use crate::Object;
use crate::core::Service;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The annotation that says which node answers for which address: `ADDRESS=NODE`, separated by commas.
pub const ANNOUNCED_BY: &str = "knarr.io/announced-by";

/// Which node is said to answer for which address of a Service; what is no address is passed over.
pub fn announced(service: &Service) -> BTreeMap<IpAddr, String> {
    let text = service.annotations().get(ANNOUNCED_BY).map(String::as_str).unwrap_or_default();
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs.filter_map(|(address, node)| Some((address.parse().ok()?, node.to_owned()))).collect()
}

/// The addresses that a Service's status tells.
pub fn told(service: &Service) -> Vec<IpAddr> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|status| status.ingress.as_ref()).into_iter().flatten();
    ingress.filter_map(|one| one.ip.as_ref()?.parse().ok()).collect()
}
