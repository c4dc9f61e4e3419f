//! Clients that are remembered for an endpoint which is gone choose anew.

use crate::family::Family;
use crate::model::{Endpoint, Front, Protocol};
use crate::render;
use net::nft::{self, Changes, Channel, Element, Field, Verb};
use serde_json::Value;
use std::collections::BTreeSet;

/// Makes clients of endpoints that are gone choose anew.
pub(crate) async fn forget(gone: &BTreeSet<(Front, Endpoint)>, channel: &Channel) -> Result<(), net::Error> {
    for family in Family::ALL {
        if !gone.iter().any(|(front, _)| front.family() == family) {
            continue;
        }
        let listing = nft::list_map(render::name(family), render::AFFINITY).await?;
        for client in clients_of(&listing, gone) {
            let mut changes = Changes::default();
            changes.push(render::name(family), render::AFFINITY, Verb::Delete, client);
            if let Err(error) = changes.apply(channel).await {
                tracing::debug!(%error, "the client has been forgotten meanwhile");
            }
        }
    }
    Ok(())
}

/// The keys of clients that are remembered for an endpoint which their front no longer has.
fn clients_of(listing: &Value, gone: &BTreeSet<(Front, Endpoint)>) -> Vec<Element> {
    let objects = listing["nftables"].as_array().into_iter().flatten();
    let elements = objects.filter_map(|object| object["map"]["elem"].as_array()).flatten();
    let keys = elements.filter_map(|element| {
        let key = element[0]["elem"]["val"]["concat"].as_array()?;
        let [client, front, protocol, port] = key.as_slice() else { return None };
        let [address, endpoint_port] = element[1]["concat"].as_array()?.as_slice() else { return None };
        let number = |value: &Value| u16::try_from(value.as_u64()?).ok();
        let parsed = |value: &Value| value.as_str()?.parse().ok();
        let endpoint = Endpoint { address: parsed(address)?, port: number(endpoint_port)? };
        let protocol = Protocol::ALL.into_iter().find(|one| {
            protocol.as_str() == Some(one.name()) || protocol.as_u64() == Some(one.number().into())
        })?;
        let (front, port) = (parsed(front)?, number(port)?);
        let fronts = [Front::Address(front, protocol, port), Front::Port(Family::of(front), protocol, port)];
        fronts.iter().any(|front| gone.contains(&(*front, endpoint))).then_some(Element::of([
            Field::Address(parsed(client)?),
            Field::Address(front),
            Field::Protocol(protocol.number()),
            Field::Port(port),
        ]))
    });
    keys.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_clients_of_what_is_gone_are_forgotten() {
        let element = |client: &str, front: &str, to: &str| json!([{"elem": {"val": {"concat": [client, front, "tcp", 80]}, "timeout": 30}}, {"concat": [to, 8080]}]);
        let listing = json!({"nftables": [{"metainfo": {}}, {"map": {"name": "affinity", "elem": [
            element("10.42.0.7", "10.43.0.1", "10.42.0.2"), element("10.42.0.7", "10.43.0.1", "10.42.0.3"),
            element("10.42.0.8", "10.43.0.2", "10.42.0.2")]}}]});
        let front = Front::Address("10.43.0.1".parse().unwrap(), Protocol::Tcp, 80);
        let gone = Endpoint { address: "10.42.0.2".parse().unwrap(), port: 8080 };
        let found: Vec<String> =
            clients_of(&listing, &[(front, gone)].into()).iter().map(Element::to_string).collect();
        assert_eq!(found, ["10.42.0.7 . 10.43.0.1 . tcp . 80"]);
    }
}
