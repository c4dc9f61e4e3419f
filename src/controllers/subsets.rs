//! The subsets of Endpoints in their one canonical form, and no more of them than an object may hold.

use api::core::{EndpointAddress, EndpointPort, EndpointSubset};
use std::collections::BTreeMap;

/// The most addresses one object may hold; more are left out and said to be.
pub(crate) const ADDRESSES: usize = 1000;

type PortKey = (Option<String>, i32, Option<String>, Option<String>);
type AddressKey = (String, Option<String>);

/// Ports that lead to the same addresses are together, and an address that is not ready at one port is not at
/// that port.
pub(crate) fn repack(subsets: &[EndpointSubset]) -> Vec<EndpointSubset> {
    let mut addresses: BTreeMap<AddressKey, &EndpointAddress> = BTreeMap::new();
    let mut by_port: BTreeMap<Option<PortKey>, BTreeMap<AddressKey, bool>> = BTreeMap::new();
    for subset in subsets {
        let keys: Vec<_> = subset.ports.iter().flatten().map(|port| Some(port_key(port))).collect();
        let keys = if keys.is_empty() { vec![None] } else { keys };
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let all = ready.chain(subset.not_ready_addresses.iter().flatten().map(|address| (address, false)));
        for (address, ready) in all {
            let uid = address.target_ref.as_ref().and_then(|target| target.uid.clone());
            let key = (address.ip.clone(), uid);
            addresses.entry(key.clone()).or_insert(address);
            for port in &keys {
                let known = by_port.entry(port.clone()).or_default().entry(key.clone()).or_insert(ready);
                *known &= ready;
            }
        }
    }
    let mut by_addresses: BTreeMap<Vec<(AddressKey, bool)>, Vec<PortKey>> = BTreeMap::new();
    for (port, addresses) in by_port {
        by_addresses.entry(addresses.into_iter().collect()).or_default().extend(port);
    }
    let subset = |(keys, ports): (Vec<(AddressKey, bool)>, Vec<PortKey>)| {
        let of = |wanted: bool| -> Vec<EndpointAddress> {
            let keys = keys.iter().filter(|(_, ready)| *ready == wanted);
            keys.filter_map(|(key, _)| addresses.get(key)).map(|address| (*address).clone()).collect()
        };
        let some = |list: Vec<EndpointAddress>| Some(list).filter(|list| !list.is_empty());
        let ports: Vec<_> = ports.into_iter().map(port).collect();
        EndpointSubset {
            addresses: some(of(true)),
            not_ready_addresses: some(of(false)),
            ports: Some(ports).filter(|ports| !ports.is_empty()),
        }
    };
    by_addresses.into_iter().map(subset).collect()
}

fn port_key(port: &EndpointPort) -> PortKey {
    (port.name.clone(), port.port, port.protocol.clone(), port.app_protocol.clone())
}

fn port((name, port, protocol, app_protocol): PortKey) -> EndpointPort {
    EndpointPort { name, port, protocol, app_protocol }
}

fn count(list: Option<&Vec<EndpointAddress>>) -> usize {
    list.map_or(0, Vec::len)
}

/// Leaves out what is too much, first those that are not ready, and of each subset its share. Says whether
/// there was too much.
pub(crate) fn truncate(subsets: &mut [EndpointSubset]) -> bool {
    let ready: usize = subsets.iter().map(|subset| count(subset.addresses.as_ref())).sum();
    let unready: usize = subsets.iter().map(|subset| count(subset.not_ready_addresses.as_ref())).sum();
    if ready + unready <= ADDRESSES {
        return false;
    }
    let (room, total) = if ready > ADDRESSES { (ADDRESSES, ready) } else { (ADDRESSES - ready, unready) };
    let mut left = room;
    for subset in subsets {
        let list = if ready > ADDRESSES {
            subset.not_ready_addresses = None;
            &mut subset.addresses
        } else {
            &mut subset.not_ready_addresses
        };
        let share = (count(list.as_ref()) * room).div_ceil(total).min(left);
        list.iter_mut().for_each(|list| list.truncate(share));
        left -= count(list.as_ref());
        list.take_if(|list| list.is_empty());
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// `80,443: a b | c`, those behind the bar not ready.
    fn subset(text: &str) -> EndpointSubset {
        let (ports, addresses) = text.split_once(':').unwrap();
        let (ready, unready) = addresses.split_once('|').unwrap_or((addresses, ""));
        let of = |text: &str| text.split_whitespace().map(|ip| json!({"ip": ip})).collect::<Vec<_>>();
        let ports: Vec<_> =
            ports.split_terminator(',').map(|port| json!({"port": port.parse::<i32>().unwrap()})).collect();
        serde_json::from_value(
            json!({"addresses": of(ready), "notReadyAddresses": of(unready), "ports": ports}),
        )
        .unwrap()
    }

    fn show(subsets: &[EndpointSubset]) -> Vec<String> {
        let ips = |list: &Option<Vec<EndpointAddress>>| {
            list.iter().flatten().map(|it| format!(" {}", it.ip)).collect::<String>()
        };
        let line = |subset: &EndpointSubset| {
            let ports: Vec<_> = subset.ports.iter().flatten().map(|port| port.port.to_string()).collect();
            format!("{}:{} |{}", ports.join(","), ips(&subset.addresses), ips(&subset.not_ready_addresses))
        };
        subsets.iter().map(line).collect()
    }

    #[test]
    fn ports_with_the_same_addresses_are_together() {
        let repacked =
            |texts: &[&str]| show(&repack(&texts.iter().map(|text| subset(text)).collect::<Vec<_>>()));
        assert_eq!(repacked(&["80: b a", "443: a b", "90: a"]), ["90: a |", "80,443: a b |"]);
        assert_eq!(repacked(&["80: a", "80: | a b"]), ["80: | a b"]);
        assert_eq!(repacked(&[": a", ": b"]), [": a b |"]);
        assert_eq!(repacked(&["80,443: a | b"]), ["80,443: a | b"]);
    }

    #[test]
    fn too_many_addresses_are_cut_by_their_shares() {
        let many = |count: usize, ready: bool| {
            let addresses: String = (0..count).map(|n| format!(" 10.0.{}.{}", n / 250, n % 250)).collect();
            subset(&if ready { format!("80:{addresses}") } else { format!("80: |{addresses}") })
        };
        let cut = |mut subsets: Vec<EndpointSubset>| {
            let cut = truncate(&mut subsets);
            let counts = subsets
                .iter()
                .map(|it| (count(it.addresses.as_ref()), count(it.not_ready_addresses.as_ref())));
            (cut, counts.collect::<Vec<_>>())
        };
        assert_eq!(cut(vec![many(600, true), many(400, false)]), (false, vec![(600, 0), (0, 400)]));
        assert_eq!(
            cut(vec![many(600, true), many(300, false), many(300, false)]),
            (true, vec![(600, 0), (0, 200), (0, 200)])
        );
        assert_eq!(
            cut(vec![many(900, true), many(300, true), many(5, false)]),
            (true, vec![(750, 0), (250, 0), (0, 0)])
        );
    }
}
