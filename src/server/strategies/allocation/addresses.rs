//! IPAddress objects: who has which cluster address.

use super::super::text;
use super::addresses_of;
use super::families::Family;
use crate::registry::{Index, Records, encode, note_maker, read, timestamp};
use api::kinds::{Kind, by_kind};
use base::{clock, random};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;
use store::{Change, Durability, Expect, Write, WriteError};

/// `ipaddress.kubernetes.io/managed-by` of what services have.
const MANAGER: &str = "ipallocator.k8s.io";

/// How long the service of an address may take to be made.
const YOUTH: Duration = Duration::from_secs(60);

fn kind() -> &'static Kind {
    by_kind("networking.k8s.io/v1", "IPAddress").expect("the table has every built-in kind")
}

/// Where the IPAddress of an address is stored.
pub(super) fn key(address: IpAddr) -> String {
    kind().storage_key("", &address.to_string())
}

fn object(address: IpAddr, namespace: &str, service: &str) -> Value {
    let mut object = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
        "metadata": {
            "name": address.to_string(), "uid": random::uuid(), "creationTimestamp": timestamp(),
            "labels": {"ipaddress.kubernetes.io/ip-family": Family::of(address).name(), "ipaddress.kubernetes.io/managed-by": MANAGER},
        },
        "spec": {"parentRef": {"resource": "services", "namespace": namespace, "name": service}},
    });
    note_maker(kind(), &mut object);
    object
}

/// Makes an address a service's.
pub(super) async fn claim(
    records: &Records,
    address: IpAddr,
    namespace: &str,
    service: &str,
) -> Result<(), WriteError<Index>> {
    let object = object(address, namespace, service);
    let change = Change::Put(encode::template(&object), Index::of(Some(kind()), &object));
    let write = Write { key: key(address), expect: Expect::Absent, change, durability: Durability::Durable };
    records.write(write).await.map(drop)
}

/// Gives addresses back. What cannot be given back now is found by the next repair.
pub(super) async fn release_all(records: &Records, addresses: &[IpAddr]) {
    for address in addresses {
        if let Err(error) = release(records, *address).await {
            tracing::warn!(%address, ?error, "cannot give an address back");
        }
    }
}

async fn release(records: &Records, address: IpAddr) -> Result<(), WriteError<Index>> {
    let key = key(address);
    let Some(record) = records.snapshot().get(&key).cloned() else { return Ok(()) };
    let object = read(&record);
    if text(&object["metadata"]["labels"], "ipaddress.kubernetes.io/managed-by") != MANAGER {
        return Ok(());
    }
    let change = Change::Delete(encode::template(&object), Index::of(Some(kind()), &object));
    let expect = Expect::Revision(record.revision);
    let write = Write { key, expect, change, durability: Durability::Durable };
    match records.write(write).await {
        // Somebody else's by now, or nobody's.
        Ok(_) | Err(WriteError::Conflict(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether another server may just be making the service that an address is for.
fn is_young(object: &Value) -> bool {
    let made = text(&object["metadata"], "creationTimestamp").parse::<jiff::Timestamp>();
    made.is_ok_and(|made| clock::between(made, clock::now()) < YOUTH)
}

/// Makes what is missing, and removes what no service has.
pub(super) async fn repair(records: &Records) {
    let snapshot = records.snapshot();
    let mut wanted: BTreeMap<IpAddr, (String, String)> = BTreeMap::new();
    for record in snapshot.range("services/", None) {
        let service = read(record);
        let meta = &service["metadata"];
        for address in addresses_of(&service["spec"]) {
            wanted.insert(address, (text(meta, "namespace").to_owned(), text(meta, "name").to_owned()));
        }
    }
    for record in snapshot.range(&kind().storage_prefix(), None) {
        let object = read(record);
        let Ok(address) = text(&object["metadata"], "name").parse() else { continue };
        let parent = &object["spec"]["parentRef"];
        let of = (text(parent, "namespace").to_owned(), text(parent, "name").to_owned());
        if wanted.get(&address) == Some(&of) {
            wanted.remove(&address);
        } else if !(records.is_shared() && is_young(&object)) {
            release_all(records, &[address]).await;
        }
    }
    for (address, (namespace, service)) in wanted {
        if let Err(error) = claim(records, address, &namespace, &service).await {
            tracing::warn!(%address, namespace, service, ?error, "cannot note whose an address is");
        }
    }
}
