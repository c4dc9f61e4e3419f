use super::*;
use serde_json::{Value, json};

/// `web`, headless, with annotations and more of a spec.
pub(crate) fn service_with(annotations: Value, spec: Value) -> Service {
    let metadata = json!({"name": "web", "namespace": "ns", "uid": "svc", "labels": {"l": "1"}, "annotations": annotations});
    let mut whole = json!({"selector": {"app": "web"}, "clusterIP": "None", "ipFamilies": ["IPv4"],
        "ports": [{"name": "http", "port": 80, "targetPort": "web"}]});
    for (key, value) in spec.as_object().unwrap() {
        whole[key] = value.clone();
    }
    serde_json::from_value(json!({"metadata": metadata, "spec": whole})).unwrap()
}

pub(crate) fn service(publish_not_ready: bool) -> Service {
    service_with(json!({}), json!({"publishNotReadyAddresses": publish_not_ready}))
}

/// `name address ready|unready|leaving node`, its port named `web` at 8080 (9090 for names in capitals).
pub(crate) fn pod(text: &str) -> Arc<Pod> {
    let words: Vec<_> = text.split(' ').collect();
    let [name, address, state, ..] = words[..] else { panic!("{text}") };
    let node = words.get(3).copied().unwrap_or("n1");
    let port = if name.chars().all(char::is_uppercase) { 9090 } else { 8080 };
    let deleting = (state == "leaving").then_some("2026-01-01T00:00:00Z");
    let ready = if state == "unready" { "False" } else { "True" };
    let addresses: Vec<_> = address.split(',').map(|ip| json!({"ip": ip})).collect();
    Arc::new(serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "ns", "uid": name, "labels": {"app": "web"}, "deletionTimestamp": deleting},
        "spec": {"nodeName": node, "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": port}]}]},
        "status": {"phase": "Running", "podIP": addresses[0]["ip"], "podIPs": addresses,
            "conditions": [{"type": "Ready", "status": ready}]}
    })).unwrap())
}

/// All nodes but `gone` are there, each in a zone of its own name.
pub(crate) fn node_in(name: &str) -> Option<Arc<Node>> {
    let node = json!({"metadata": {"name": name, "labels": {ZONE: name}}});
    (name != "gone").then(|| Arc::new(serde_json::from_value(node).unwrap()))
}

fn line(verb: &str, slice: &EndpointSlice) -> String {
    let ports: Vec<_> = slice.ports.iter().flatten().filter_map(|port| port.port).collect();
    let endpoints = slice.endpoints.iter().flatten().map(|endpoint| {
        let state = endpoint.conditions.clone().unwrap_or_default();
        let flag = |flag: Option<bool>, text: &'static str| if flag == Some(true) { text } else { "" };
        let hints = endpoint.hints.clone().unwrap_or_default();
        let zones = hints.for_zones.into_iter().flatten().map(|it| format!("+zone:{}", it.name));
        let nodes = hints.for_nodes.into_iter().flatten().map(|it| format!("+node:{}", it.name));
        let hints: String = zones.chain(nodes).collect();
        format!(
            " {}{}{}{}{hints}",
            endpoint.addresses[0],
            flag(state.ready, "+r"),
            flag(state.serving, "+s"),
            flag(state.terminating, "+t")
        )
    });
    format!("{verb} {ports:?}{}", endpoints.collect::<String>())
}

pub(crate) fn show(changes: &Changes) -> String {
    let created = changes.create.iter().map(|slice| line("create", slice));
    let updated = changes.update.iter().map(|slice| line("update", slice));
    let deleted = changes.delete.iter().map(|slice| line("delete", slice));
    created.chain(updated).chain(deleted).collect::<Vec<_>>().join("\n")
}

fn planned(pods: &[Arc<Pod>], found: &[Arc<EndpointSlice>]) -> Changes {
    plan(&service(false), pods, (&node_in, None), found).changes
}

/// The slices as they are after the changes, new ones with names.
pub(crate) fn after(changes: Changes) -> Vec<Arc<EndpointSlice>> {
    let named = changes.create.into_iter().enumerate().map(|(at, mut slice)| {
        slice.metadata.name = Some(format!("new-{at}"));
        slice
    });
    named.chain(changes.update).map(Arc::new).chain(changes.unchanged).collect()
}

fn sizes(slices: &[Arc<EndpointSlice>]) -> Vec<usize> {
    slices.iter().map(|slice| endpoints(slice)).collect()
}

fn many(range: std::ops::Range<usize>) -> Vec<Arc<Pod>> {
    range.map(|n| pod(&format!("p{n} 10.42.{}.{} ready", n / 250, n % 250))).collect()
}

#[test]
fn conditions_follow_the_pods_and_ports_divide_the_slices() {
    let pods = [
        pod("a 10.42.0.2 ready"),
        pod("b 10.42.0.3 unready"),
        pod("c 10.42.0.4 leaving"),
        pod("D 10.42.0.5 ready"),
    ];
    let created = planned(&pods, &[]);
    assert_eq!(
        show(&created),
        "create [8080] 10.42.0.2+r+s 10.42.0.3 10.42.0.4+s+t\ncreate [9090] 10.42.0.5+r+s"
    );
    let slices = after(created);
    assert_eq!(slices[0].labels()[backends::HEADLESS], "");
    assert_eq!(show(&planned(&pods, &slices)), "");
    assert_eq!(
        show(&planned(&pods[..2], &slices)),
        "update [8080] 10.42.0.2+r+s 10.42.0.3\ndelete [9090] 10.42.0.5+r+s"
    );
    let published = plan(&service(true), &pods[1..3], (&node_in, None), &[]).changes;
    assert_eq!(show(&published), "create [8080] 10.42.0.3+r 10.42.0.4+r+s+t");
}

#[test]
fn a_service_without_pods_keeps_one_empty_slice() {
    let empty = planned(&[], &[]);
    assert_eq!(show(&empty), "create []");
    let slices = after(empty);
    assert_eq!(show(&planned(&[], &slices)), "");
    let with_pod = [pod("a 10.42.0.2 ready")];
    let filled = planned(&with_pod, &slices);
    assert_eq!(show(&filled), "update [8080] 10.42.0.2+r+s");
    assert_eq!(filled.update[0].name(), "new-0");
    assert_eq!(show(&planned(&[], &after(filled))), "update []");
}

#[test]
fn full_slices_overflow_into_new_ones_and_few_slices_change() {
    let slices = after(planned(&many(0..120), &[]));
    assert_eq!(sizes(&slices), [100, 20]);
    // The rest fits into a slice that would not have changed.
    let more = planned(&many(0..150), &slices);
    assert_eq!((more.create.len(), more.update.len(), more.unchanged.len()), (0, 1, 1));
    assert_eq!(endpoints(&more.update[0]), 50);
    // It does not fit: a new slice, and the others stay.
    let most = planned(&many(0..210), &slices);
    assert_eq!((most.create.len(), most.update.len(), most.unchanged.len()), (1, 0, 2));
    // A slice that changes is filled up first.
    let moved = planned(&many(10..150), &slices);
    let filled: Vec<_> = moved.update.iter().map(endpoints).collect();
    assert_eq!((filled, moved.create.len()), (vec![100, 40], 0));
}

#[test]
fn slices_of_another_family_or_owner_go() {
    let dual = service_with(json!({}), json!({"ipFamilies": ["IPv4", "IPv6"]}));
    let pods = [pod("a 10.42.0.2,fd00::2 ready"), pod("b fd00::3 ready")];
    let both = plan(&dual, &pods, (&node_in, None), &[]).changes;
    assert_eq!(show(&both), "create [8080] 10.42.0.2+r+s\ncreate [8080] fd00::2+r+s fd00::3+r+s");
    let mut found = after(both);
    assert_eq!(show(&planned(&pods, &found)), "delete [8080] fd00::2+r+s fd00::3+r+s");
    found.truncate(1);
    Arc::make_mut(&mut found[0]).metadata.owner_references.as_mut().unwrap()[0].uid = "before".to_owned();
    assert_eq!(show(&planned(&pods, &found)), "create [8080] 10.42.0.2+r+s\ndelete [8080] 10.42.0.2+r+s");
    let mut leaving = service(false);
    leaving.metadata.deletion_timestamp = Some(crate::common::now());
    assert_eq!(show(&plan(&leaving, &pods, (&node_in, None), &[]).changes), "");
}

#[test]
fn pods_of_missing_nodes_are_left_out_unless_all_are_published() {
    let pods = [pod("a 10.42.0.2 ready gone"), pod("b 10.42.0.3 ready n2")];
    let created = planned(&pods, &[]);
    assert_eq!(show(&created), "create [8080] 10.42.0.3+r+s");
    let endpoint = &created.create[0].endpoints.as_ref().unwrap()[0];
    assert_eq!((endpoint.zone.as_deref(), endpoint.node_name.as_deref()), (Some("n2"), Some("n2")));
    let published = plan(&service(true), &pods, (&node_in, None), &[]).changes;
    assert_eq!(show(&published), "create [8080] 10.42.0.2+r+s 10.42.0.3+r+s");
}

#[test]
fn traffic_is_kept_close_as_the_service_says() {
    let pods = [pod("a 10.42.0.2 ready n1"), pod("b 10.42.0.3 unready n2")];
    let hinted = |distribution: Value, found: &[Arc<EndpointSlice>]| {
        let service = service_with(json!({}), json!({"trafficDistribution": distribution}));
        plan(&service, &pods, (&node_in, None), found).changes
    };
    let zones = hinted(json!("PreferClose"), &[]);
    assert_eq!(show(&zones), "create [8080] 10.42.0.2+r+s+zone:n1 10.42.0.3");
    let found = after(zones);
    assert_eq!(show(&hinted(json!("PreferSameZone"), &found)), "");
    assert_eq!(
        show(&hinted(json!("PreferSameNode"), &found)),
        "update [8080] 10.42.0.2+r+s+zone:n1+node:n1 10.42.0.3"
    );
    assert_eq!(show(&hinted(Value::Null, &found)), "update [8080] 10.42.0.2+r+s 10.42.0.3");
}
