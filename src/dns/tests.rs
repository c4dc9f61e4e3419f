//! The zone against objects, as messages that another library reads.

use crate::entry::Entry;
use crate::name::Name;
use crate::wire::{Delivery, Query, Writer, kind};
use crate::zone::{Asked, Found, Zone};
use api::Object;
use api::core::Service;
use api::slim::EndpointSlice;
use hickory_proto::op::Message;
use serde_json::{Value as Json, json};

fn service(name: &str, spec: Json) -> Service {
    serde_json::from_value(json!({"metadata": {"namespace": "default", "name": name}, "spec": spec})).unwrap()
}

fn slice(service: &str, name: &str, family: &str, endpoints: Json) -> EndpointSlice {
    serde_json::from_value(json!({
        "metadata": {"namespace": "default", "name": name, "labels": {"kubernetes.io/service-name": service}},
        "addressType": family, "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}], "endpoints": endpoints}))
    .unwrap()
}

fn zone() -> Zone {
    let services = [
        service(
            "web",
            json!({"clusterIP": "10.43.0.5", "clusterIPs": ["10.43.0.5", "fd43::5"], "ports": [
            {"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]}),
        ),
        service("plain", json!({"clusterIP": "10.43.0.6", "ports": [{"port": 80}]})),
        service("db", json!({"clusterIP": "None", "ports": [{"name": "sql", "port": 5432}]})),
        service("outside", json!({"type": "ExternalName", "externalName": "Example.org"})),
        service("address", json!({"type": "ExternalName", "externalName": "192.0.2.1"})),
        service("empty", json!({"clusterIP": "None"})),
        service("pending", json!({"ports": [{"name": "http", "port": 80}]})),
    ];
    let slices = [
        slice(
            "db",
            "db-1",
            "IPv4",
            json!([
            {"addresses": ["10.42.0.2"], "hostname": "db-0", "conditions": {"ready": true}},
            {"addresses": ["10.42.0.3"]},
            {"addresses": ["10.42.0.4"], "conditions": {"ready": false}}]),
        ),
        slice("db", "db-2", "IPv6", json!([{"addresses": ["fd42::2"], "hostname": "db-0"}])),
    ];
    let mut zone =
        Zone::empty("Cluster.Local", &["10.43.0.10".parse().unwrap(), "fd43::a".parse().unwrap()]).unwrap();
    zone.set_namespace("default", true);
    for service in &services {
        let own: Vec<&EndpointSlice> = slices
            .iter()
            .filter(|slice| slice.metadata.labels.iter().any(|(_, name)| name == service.name()))
            .collect();
        zone.set_service("default", service.name(), Entry::of(service, &own));
    }
    zone
}

/// The answer as `dig +short` prints it; `-` for no data, `!` for no name.
fn dig_in(zone: &Zone, kind: u16, name: &str) -> String {
    let (name, mut out) = (Name::parse(name).unwrap(), Writer::new());
    let asked = Asked { name: &name, kind, ttl_s: 5, pods: true };
    out.begin(&name, true);
    let found = match name.address() {
        Some(address) => zone.reverse(address, asked, &mut out),
        None => zone.lookup(asked, &mut out),
    };
    match found {
        Found::NoName => "!".to_owned(),
        Found::Alias(name) => format!("-> {name}"),
        Found::Answered => {
            let mut bytes = Vec::new();
            out.finish().write(&Query::of(name, kind), Delivery::fresh(65_535), &mut bytes);
            print(&Message::from_vec(&bytes).unwrap())
        }
    }
}

fn print(message: &Message) -> String {
    if message.answers.is_empty() {
        assert!(message.authorities[0].data.to_string().starts_with("ns.dns.cluster.local. "), "{message}");
        return "-".to_owned();
    }
    assert!(message.answers.iter().all(|record| record.name == *message.queries[0].name()));
    let more = message.additionals.iter().map(|record| format!("+{} {}", record.name, record.data));
    message.answers.iter().map(|record| record.data.to_string()).chain(more).collect::<Vec<_>>().join(", ")
}

fn dig(kind: u16, name: &str) -> String {
    dig_in(&zone(), kind, &format!("{name}cluster.local."))
}

#[test]
fn services_have_addresses() {
    assert_eq!(dig(kind::A, "web.default.svc."), "10.43.0.5");
    assert_eq!(dig(kind::A, "WEB.Default.svc."), "10.43.0.5");
    assert_eq!(dig(kind::AAAA, "web.default.svc."), "fd43::5");
    assert_eq!(dig(kind::AAAA, "plain.default.svc."), "-");
    assert_eq!(dig(kind::A, "outside.default.svc."), "-> example.org.");
    assert_eq!(dig(kind::A, "address.default.svc."), "-");
    assert_eq!(dig(kind::A, "pending.default.svc."), "-");
}

#[test]
fn headless_services_have_their_ready_endpoints() {
    assert_eq!(dig(kind::A, "db.default.svc."), "10.42.0.2, 10.42.0.3");
    assert_eq!(dig(kind::AAAA, "db.default.svc."), "fd42::2");
    assert_eq!(dig(kind::A, "db-0.db.default.svc."), "10.42.0.2");
    assert_eq!(dig(kind::AAAA, "db-0.db.default.svc."), "fd42::2");
    assert_eq!(dig(kind::AAAA, "10-42-0-3.db.default.svc."), "-");
    assert_eq!(dig(kind::A, "10-42-0-3.db.default.svc."), "10.42.0.3");
    assert_eq!(dig(kind::A, "10-42-0-4.db.default.svc."), "!");
    assert_eq!(dig(kind::A, "empty.default.svc."), "-");
}

#[test]
fn ports_have_service_records_with_addresses() {
    assert_eq!(
        dig(kind::SRV, "_http._tcp.web.default.svc."),
        "0 100 80 web.default.svc.cluster.local., +web.default.svc.cluster.local. 10.43.0.5, \
         +web.default.svc.cluster.local. fd43::5"
    );
    assert_eq!(
        dig(kind::SRV, "_sql._tcp.db.default.svc."),
        "0 100 5432 10-42-0-3.db.default.svc.cluster.local., 0 100 5432 db-0.db.default.svc.cluster.local., \
         +10-42-0-3.db.default.svc.cluster.local. 10.42.0.3, +db-0.db.default.svc.cluster.local. 10.42.0.2, \
         +db-0.db.default.svc.cluster.local. fd42::2"
    );
    assert_eq!(dig(kind::SRV, "_http._udp.web.default.svc."), "!");
    assert_eq!(dig(kind::SRV, "_._tcp.plain.default.svc."), "!");
    assert_eq!(dig(kind::SRV, "*._tcp.web.default.svc."), "!");
    assert_eq!(dig(kind::A, "_http._tcp.web.default.svc."), "-");
}

#[test]
fn pods_and_the_zone_itself_answer() {
    assert_eq!(dig(kind::A, "10-42-0-7.default.pod."), "10.42.0.7");
    assert_eq!(dig(kind::AAAA, "fd42--7.default.pod."), "fd42::7");
    assert_eq!(dig(kind::A, "nonsense.default.pod."), "!");
    assert_eq!(dig(kind::A, "10-42-0-7.nowhere.pod."), "!");
    assert_eq!(dig(kind::TXT, "dns-version."), "1.1.0");
    assert_eq!(
        dig(kind::NS, ""),
        "ns.dns.cluster.local., +ns.dns.cluster.local. 10.43.0.10, +ns.dns.cluster.local. fd43::a"
    );
}

#[test]
fn a_name_above_others_exists_and_an_unknown_one_does_not() {
    for name in
        ["", "svc.", "pod.", "default.svc.", "default.pod.", "_tcp.web.default.svc.", "_udp.web.default.svc."]
    {
        assert_eq!(dig(kind::A, name), "-", "{name}");
    }
    for name in [
        "nowhere.svc.",
        "none.default.svc.",
        "a.web.default.svc.",
        "x.",
        "default.pods.",
        "*.default.svc.",
        "a.b._c._d.web.default.svc.",
    ] {
        assert_eq!(dig(kind::A, name), "!", "{name}");
    }
}

#[test]
fn addresses_have_names() {
    let reverse = |address: &str, kind| {
        dig_in(&zone(), kind, &Name::of_address(address.parse().unwrap()).unwrap().to_string())
    };
    assert_eq!(reverse("10.43.0.5", kind::PTR), "web.default.svc.cluster.local.");
    assert_eq!(reverse("fd43::5", kind::PTR), "web.default.svc.cluster.local.");
    assert_eq!(reverse("10.42.0.2", kind::PTR), "db-0.db.default.svc.cluster.local.");
    assert_eq!(reverse("10.43.0.5", kind::A), "-");
    assert_eq!(reverse("10.43.0.7", kind::PTR), "!");
}

#[test]
fn what_is_gone_leaves_no_name() {
    let mut zone = zone();
    let before = zone.clone();
    zone.set_service("default", "db", None);
    zone.set_namespace("default", false);
    let names = ["db.default.svc.cluster.local", "default.svc.cluster.local", "2.0.42.10.in-addr.arpa"];
    for name in names {
        assert_eq!(dig_in(&zone, kind::ANY, name), "!", "{name}");
        assert_ne!(dig_in(&before, kind::ANY, name), "!", "{name} was there in the snapshot before");
    }
    assert_eq!(dig_in(&zone, kind::A, "web.default.svc.cluster.local"), "10.43.0.5");
}

#[test]
fn a_domain_has_to_be_one() {
    assert!(Zone::empty("", &[]).is_err());
    assert!(Zone::empty("a..b", &[]).is_err());
}
