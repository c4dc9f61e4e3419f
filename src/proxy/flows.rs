//! UDP flows in the kernel's connection tracking that lead elsewhere than the model says.
//!
//! A UDP flow has no end: while its client goes on sending, it keeps the translation it began with,
//! also to an endpoint that is gone, or none if it began before its service had an endpoint.

use crate::model::{Endpoint, Front, Key, Model, Protocol};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

/// Listing and deleting walk the whole table.
const LIMIT: Duration = Duration::from_secs(10);

/// Flows to one front that went to one address.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Stale {
    address: IpAddr,
    port: u16,
    answered_by: IpAddr,
}

/// Deletes what leads elsewhere; the client's next packet is translated anew.
pub(crate) async fn forget_stale(model: &Model) -> Result<(), base::process::Error> {
    let mut list = base::process::command("conntrack");
    list.args(["-L", "-p", "udp"]);
    let listing = base::process::check(list, b"", LIMIT).await?;
    for stale in stale_flows(&String::from_utf8_lossy(&listing), model) {
        let mut delete = base::process::command("conntrack");
        delete.args(["-D", "-p", "udp", "--orig-dst", &stale.address.to_string()]);
        delete.args(["--orig-port-dst", &stale.port.to_string()]);
        delete.args(["--reply-src", &stale.answered_by.to_string()]);
        // It ends with a failure when the flow has expired meanwhile.
        base::process::run(delete, b"", LIMIT).await?;
    }
    Ok(())
}

/// A flow's line has its addresses twice, as the client sees them and as the endpoint answers:
/// `udp 17 29 src=… dst=… sport=… dport=… [UNREPLIED] src=… dst=… sport=… dport=… mark=0 use=1`.
fn stale_flows(listing: &str, model: &Model) -> BTreeSet<Stale> {
    let flows = listing.lines().filter_map(|line| {
        let all = |name: &str| {
            line.split_whitespace().filter_map(|word| word.strip_prefix(name)).collect::<Vec<_>>()
        };
        let (sources, destinations) = (all("src="), all("dst="));
        let answered_by = sources.get(1)?.parse().ok()?;
        let endpoint = Endpoint { address: answered_by, port: all("sport=").get(1)?.parse().ok()? };
        let stale = Stale {
            address: destinations.first()?.parse().ok()?,
            port: all("dport=").first()?.parse().ok()?,
            answered_by,
        };
        let front = front(model, stale.address, stale.port)?;
        (!model.has_endpoint(front, endpoint)).then_some(stale)
    });
    flows.collect()
}

/// The front that a UDP packet to this address and port meets.
fn front(model: &Model, address: IpAddr, port: u16) -> Option<Front> {
    let fronts = [Front::Address(address, Protocol::Udp, port), Front::Port(Protocol::Udp, port)];
    let known = |front: &Front| {
        model.0.contains_key(&Key::Service(*front)) || model.0.contains_key(&Key::Refused(*front))
    };
    fronts.into_iter().find(known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Spread, Value};

    #[test]
    fn flows_that_lead_elsewhere_are_found() {
        let front = Front::Address("10.43.0.5".parse().unwrap(), Protocol::Udp, 53);
        let endpoint = Endpoint { address: "10.42.0.3".parse().unwrap(), port: 5353 };
        let spread = Spread { port: false, endpoints: 1, sticky: false, masquerade: false };
        let mut model = Model::default();
        model.claim(Key::Service(front), Value::Spread(spread));
        model.claim(Key::Endpoint(front, 0), Value::Endpoint(endpoint));
        let flow = |to: &str, from: &str| {
            format!(
                "udp 17 29 src=10.42.0.2 dst={to} sport=40000 dport=53 [UNREPLIED] src={from} dst=10.42.0.2 \
                sport=5353 dport=40000 mark=0 use=1\n"
            )
        };
        let listing = [
            flow("10.43.0.5", "10.42.0.3"),
            flow("10.43.0.5", "10.42.0.9"),
            flow("10.43.0.5", "10.43.0.5"),
            flow("192.0.2.1", "192.0.2.1"),
        ];
        let stale = stale_flows(&listing.concat(), &model);
        let answered: Vec<String> = stale.iter().map(|stale| stale.answered_by.to_string()).collect();
        assert_eq!(answered, ["10.42.0.9", "10.43.0.5"]);
    }
}
