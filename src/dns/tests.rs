//! The zone against objects.

use crate::zone::{Found, Zone};
use api::core::{Namespace, Service};
use api::discovery::EndpointSlice;
use hickory_proto::rr::{Name, RecordType};
use serde_json::{Value as Json, json};

fn service(name: &str, spec: Json) -> Service {
    serde_json::from_value(json!({"metadata": {"namespace": "default", "name": name}, "spec": spec})).unwrap()
}

fn zone() -> Zone {
    let services = [
        service(
            "web",
            json!({"clusterIP": "10.43.0.5", "ports": [
            {"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]}),
        ),
        service("db", json!({"clusterIP": "None", "ports": [{"name": "sql", "port": 5432}]})),
        service("outside", json!({"type": "ExternalName", "externalName": "example.org"})),
        service("empty", json!({"clusterIP": "None"})),
    ];
    let slice: EndpointSlice = serde_json::from_value(json!({
        "metadata": {"namespace": "default", "name": "db-1", "labels": {"kubernetes.io/service-name": "db"}},
        "addressType": "IPv4", "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}],
        "endpoints": [
            {"addresses": ["10.42.0.2"], "hostname": "db-0", "conditions": {"ready": true}},
            {"addresses": ["10.42.0.3"]},
            {"addresses": ["10.42.0.4"], "conditions": {"ready": false}}]}))
    .unwrap();
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": "default"}})).unwrap();
    let empty = Zone::empty("Cluster.Local", "10.43.0.10".parse().unwrap()).unwrap();
    empty.rebuilt(services.iter(), std::iter::once(&slice), std::iter::once(&namespace))
}

/// The answer as `dig +short` prints it; `-` for no data, `!` for no name.
fn dig(kind: RecordType, name: &str) -> String {
    let name = Name::from_ascii(format!("{name}cluster.local.")).unwrap();
    let zone = zone();
    assert!(zone.covers(&name));
    print(zone.lookup(&name, kind))
}

fn print(found: Found) -> String {
    match found {
        Found::Records(data, more) => {
            let more = more.iter().map(|record| format!("+{} {}", record.name, record.data));
            data.iter().map(ToString::to_string).chain(more).collect::<Vec<_>>().join(", ")
        }
        Found::NoData => "-".to_owned(),
        Found::NoName => "!".to_owned(),
        Found::Alias(name) => format!("-> {name}"),
    }
}

#[test]
fn services_have_addresses() {
    assert_eq!(dig(RecordType::A, "web.default.svc."), "10.43.0.5");
    assert_eq!(dig(RecordType::A, "WEB.Default.svc."), "10.43.0.5");
    assert_eq!(dig(RecordType::AAAA, "web.default.svc."), "-");
    assert_eq!(dig(RecordType::A, "outside.default.svc."), "-> example.org.");
}

#[test]
fn headless_services_have_their_ready_endpoints() {
    assert_eq!(dig(RecordType::A, "db.default.svc."), "10.42.0.2, 10.42.0.3");
    assert_eq!(dig(RecordType::A, "db-0.db.default.svc."), "10.42.0.2");
    assert_eq!(dig(RecordType::A, "10-42-0-3.db.default.svc."), "10.42.0.3");
    assert_eq!(dig(RecordType::A, "10-42-0-4.db.default.svc."), "!");
    assert_eq!(dig(RecordType::A, "empty.default.svc."), "-");
}

#[test]
fn ports_have_service_records_with_addresses() {
    assert_eq!(
        dig(RecordType::SRV, "_http._tcp.web.default.svc."),
        "0 100 80 web.default.svc.cluster.local., +web.default.svc.cluster.local. 10.43.0.5"
    );
    assert_eq!(
        dig(RecordType::SRV, "_sql._tcp.db.default.svc."),
        "0 100 5432 10-42-0-3.db.default.svc.cluster.local., 0 100 5432 db-0.db.default.svc.cluster.local., \
         +10-42-0-3.db.default.svc.cluster.local. 10.42.0.3, +db-0.db.default.svc.cluster.local. 10.42.0.2"
    );
    assert_eq!(dig(RecordType::SRV, "_http._udp.web.default.svc."), "!");
    assert_eq!(dig(RecordType::A, "_http._tcp.web.default.svc."), "-");
}

#[test]
fn pods_and_the_zone_itself_answer() {
    assert_eq!(dig(RecordType::A, "10-42-0-7.default.pod."), "10.42.0.7");
    assert_eq!(dig(RecordType::A, "nonsense.default.pod."), "!");
    assert_eq!(dig(RecordType::A, "10-42-0-7.nowhere.pod."), "!");
    assert_eq!(dig(RecordType::TXT, "dns-version."), "1.1.0");
    assert_eq!(dig(RecordType::NS, ""), "ns.dns.cluster.local., +ns.dns.cluster.local. 10.43.0.10");
}

#[test]
fn a_name_above_others_exists_and_an_unknown_one_does_not() {
    for name in ["", "svc.", "pod.", "default.svc.", "_tcp.web.default.svc.", "_udp.web.default.svc."] {
        assert_eq!(dig(RecordType::A, name), "-", "{name}");
    }
    for name in ["nowhere.svc.", "none.default.svc.", "a.web.default.svc.", "x.", "default.pods."] {
        assert_eq!(dig(RecordType::A, name), "!", "{name}");
    }
}

#[test]
fn addresses_have_names() {
    let reverse = |address: &str, kind| print(zone().reverse(address.parse().unwrap(), kind));
    assert_eq!(reverse("10.43.0.5", RecordType::PTR), "web.default.svc.cluster.local.");
    assert_eq!(reverse("10.42.0.2", RecordType::PTR), "db-0.db.default.svc.cluster.local.");
    assert_eq!(reverse("10.43.0.5", RecordType::A), "-");
    assert_eq!(reverse("10.43.0.6", RecordType::PTR), "!");
}

#[test]
fn a_domain_has_to_be_one() {
    assert!(Zone::empty("", "10.43.0.10".parse().unwrap()).is_err());
    assert!(Zone::empty("a..b", "10.43.0.10".parse().unwrap()).is_err());
}
