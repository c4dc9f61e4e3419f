//! Lives of Services' endpoints: as EndpointSlices, as Endpoints, and mirrored from these.

use crate::golden::{self, Fault, Life, Log};
use crate::slices::{self, Changes, MANAGED_BY, ZONE};
use crate::worlds;
use crate::{backends, endpoints, mirroring, topology_hints};
use api::Object;
use api::core::{EndpointAddress, Endpoints, Node, Service};
use api::discovery::{Endpoint, EndpointSlice};
use api::slim::Pod;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// From how many on endpoints are counted, not shown.
const MANY: usize = 6;

#[derive(Clone, Default)]
struct World {
    service: Service,
    endpoints: Option<Endpoints>,
    nodes: BTreeMap<String, Arc<Node>>,
    pods: BTreeMap<String, Arc<Pod>>,
    slices: BTreeMap<String, EndpointSlice>,
    made: usize,
}

impl Life for World {
    /// `new|set SPEC`, `annotate KEY VALUE`, `label KEY VALUE`, `delete -`, `node NAME ZONE CPU`, `lose NODE`, `pod NAME
    /// ADDRESS,… STATE [NODE]` of which the state is ready, unready, leaving or ended, `many FROM TO` pods, `gone POD`,
    /// `endpoints CHANGES` that somebody makes, `steal SLICE` for another Service. The port `web` of pods is 8080, of those
    /// in capitals 9090.
    fn obey(&mut self, line: &str) {
        let words: Vec<_> = line.splitn(5, ' ').collect();
        let number = |text: &str| text.parse::<usize>().unwrap();
        match words[..] {
            ["new" | "set", ..] => {
                if words[0] == "new" {
                    self.change(
                        &json!({"metadata": {"name": "web", "namespace": "ns", "uid": "svc"}, "spec": {
                        "selector": {"app": "web"}, "clusterIP": "None", "ipFamilies": ["IPv4"],
                        "ports": [{"name": "http", "port": 80, "targetPort": "web"}]}}),
                    );
                    ["a", "b", "c"].iter().for_each(|zone| self.obey(&format!("node {zone} {zone} 1")));
                }
                self.change(&json!({"spec": serde_json::from_str::<Value>(&line[4..]).unwrap()}));
            }
            ["annotate", key, value] => self.change(&json!({"metadata": {"annotations": {key: value}}})),
            ["label", key, value] => self.change(&json!({"metadata": {"labels": {key: value}}})),
            ["delete", _] => self.change(&json!({"metadata": {"deletionTimestamp": worlds::at(0)}})),
            ["node", name, zone, cpu] => drop(self.nodes.insert(name.to_owned(), node(name, zone, cpu))),
            ["lose", name] => drop(self.nodes.remove(name)),
            ["pod", name, addresses, state, ref node @ ..] => {
                self.pods.insert(name.to_owned(), pod(name, addresses, state, node.first().unwrap_or(&"a")));
            }
            ["many", from, to] => (number(from)..number(to))
                .for_each(|n| self.obey(&format!("pod p{n:03} 10.42.{}.{} ready", n / 250, n % 250))),
            ["gone", name] => drop(self.pods.remove(name)),
            ["endpoints", ..] => {
                let meta = json!({"name": "web", "namespace": "ns", "uid": "e"});
                let endpoints = self.endpoints.get_or_insert_default();
                golden::change(endpoints, &json!({"metadata": meta}));
                golden::change(endpoints, &serde_json::from_str(&line[10..]).unwrap());
            }
            ["steal", name] => {
                let owners = self.slices.get_mut(name).unwrap().metadata.owner_references.as_mut();
                owners.unwrap()[0].uid = "earlier".to_owned();
            }
            _ => panic!("{line}"),
        }
    }

    fn look(&mut self, log: &mut Log) -> bool {
        let before = (self.slices.clone(), self.endpoints.clone());
        let selects = backends::selector(&self.service).is_some();
        if !selects || self.keep(log).is_some() {
            self.mirror(selects, log);
        }
        before != (self.slices.clone(), self.endpoints.clone())
    }

    fn told(&self) -> String {
        let slices = self.slices.iter().map(|(name, slice)| format!("{name} {}", told_slice(slice)));
        slices.chain(self.endpoints.iter().map(told_endpoints)).collect::<Vec<_>>().join("\n")
    }

    fn made(&self) -> usize {
        self.made
    }
}

fn node(name: &str, zone: &str, cpu: &str) -> Arc<Node> {
    let status = json!({"allocatable": {"cpu": cpu}, "conditions": [{"type": "Ready", "status": "True"}]});
    let labels = if zone == "-" { json!({}) } else { json!({ZONE: zone}) };
    let node = json!({"metadata": {"name": name, "labels": labels}, "status": status});
    Arc::new(serde_json::from_value(node).unwrap())
}

fn pod(name: &str, addresses: &str, state: &str, node: &str) -> Arc<Pod> {
    let port = if name.chars().all(char::is_uppercase) { 9090 } else { 8080 };
    let going = (state == "leaving").then(|| worlds::at(0).to_string());
    let ready = if state == "unready" { "False" } else { "True" };
    let ips: Vec<_> = addresses.split(',').filter(|ip| *ip != "-").map(|ip| json!({"ip": ip})).collect();
    let meta = json!({"name": name, "namespace": "ns", "uid": name, "labels": {"app": "web"}, "deletionTimestamp": going});
    let container = json!({"name": "c", "ports": [{"name": "web", "containerPort": port}]});
    let status = json!({"phase": if state == "ended" { "Succeeded" } else { "Running" }, "podIPs": ips,
        "conditions": [{"type": "Ready", "status": ready}]});
    let pod =
        json!({"metadata": meta, "spec": {"nodeName": node, "containers": [container]}, "status": status});
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn told_endpoint(endpoint: &Endpoint) -> String {
    let state = endpoint.conditions.clone().unwrap_or_default();
    let flags = [(state.ready, "+r"), (state.serving, "+s"), (state.terminating, "+t")];
    let flags =
        flags.iter().filter(|(flag, _)| *flag == Some(true)).map(|(_, text)| *text).collect::<String>();
    let hints = endpoint.hints.clone().unwrap_or_default();
    let zones = hints.for_zones.into_iter().flatten().map(|hint| format!("+zone:{}", hint.name));
    let nodes = hints.for_nodes.into_iter().flatten().map(|hint| format!("+node:{}", hint.name));
    format!("{}{flags}{}", endpoint.addresses[0], zones.chain(nodes).collect::<String>())
}

fn told_slice(slice: &EndpointSlice) -> String {
    let all = slice.endpoints.as_deref().unwrap_or_default();
    let each = match all.len() {
        0..MANY => all.iter().map(told_endpoint).collect::<Vec<_>>().join(" "),
        many => format!("{many} endpoints"),
    };
    let ports: Vec<_> = slice.ports.iter().flatten().filter_map(|port| port.port).collect();
    format!("{ports:?} {}: {each}", slice.address_type).trim_end().to_owned()
}

fn told_endpoints(endpoints: &Endpoints) -> String {
    let ips = |list: &Option<Vec<EndpointAddress>>| match list.iter().flatten().count() {
        0..MANY => list.iter().flatten().map(|address| format!(" {}", address.ip)).collect::<String>(),
        many => format!(" {many} addresses"),
    };
    let subsets = endpoints.subsets.iter().flatten().map(|subset| {
        let ports: Vec<_> = subset.ports.iter().flatten().map(|port| port.port).collect();
        format!(" {ports:?}{} not ready{}", ips(&subset.addresses), ips(&subset.not_ready_addresses))
    });
    let over = endpoints.annotations().contains_key("endpoints.kubernetes.io/over-capacity");
    format!("Endpoints{}{}", if over { " over capacity" } else { "" }, subsets.collect::<String>())
}

impl World {
    fn change(&mut self, patch: &Value) {
        golden::change(&mut self.service, patch);
    }

    fn found(&self, manager: &str) -> Vec<Arc<EndpointSlice>> {
        let kept = |slice: &&EndpointSlice| slice.labels().get(MANAGED_BY).is_some_and(|by| by == manager);
        self.slices.values().filter(kept).cloned().map(Arc::new).collect()
    }

    /// One look of the controllers of slices and Endpoints; none where it is cut off.
    fn keep(&mut self, log: &mut Log) -> Option<()> {
        let pods = backends::of(&self.service, self.pods.values());
        let node = |name: &str| self.nodes.get(name).cloned();
        let divided = topology_hints::wanted(&self.service);
        let shares = divided.then(|| topology_hints::shares(self.nodes.values())).flatten();
        let found = self.found(slices::MANAGER);
        let plan = slices::plan(&self.service, &pods, (&node, shares.as_ref()), &found);
        for (family, outcome) in plan.divided {
            if let Err(why) = outcome {
                log.repeat(&format!("{family} is not divided: {why}"));
            }
        }
        self.carry_out(plan.changes, log)?;
        let wanted = endpoints::plan(&self.service, &pods, self.endpoints.as_ref());
        if !self.endpoints.as_ref().is_some_and(|found| endpoints::is_same(found, &wanted)) {
            log.does("write Endpoints").then_some(())?;
            self.endpoints = Some(wanted);
        }
        Some(())
    }

    fn mirror(&mut self, selects: bool, log: &mut Log) -> Option<()> {
        let found = self.found(mirroring::MANAGER);
        let mirrored = self.endpoints.as_ref().filter(|found| !selects && mirroring::is_mirrored(found));
        let Some(endpoints) = mirrored else {
            return self.carry_out(Changes { delete: found, ..Changes::default() }, log);
        };
        let plan = mirroring::plan(endpoints, found);
        if plan.invalid + plan.skipped > 0 {
            log.repeat(&format!("{} are no addresses, {} are too many", plan.invalid, plan.skipped));
        }
        self.carry_out(plan.changes, log)
    }

    fn carry_out(&mut self, changes: Changes, log: &mut Log) -> Option<()> {
        for mut slice in changes.create {
            let name = format!("s{}", self.made + 1);
            log.does(format_args!("create {name}")).then_some(())?;
            self.made += 1;
            slice.metadata.name = Some(name.clone());
            self.slices.insert(name, slice);
        }
        for slice in changes.update {
            log.does(format_args!("update {}", slice.name())).then_some(())?;
            self.slices.insert(slice.name().to_owned(), slice);
        }
        for slice in changes.delete {
            log.does(format_args!("delete {}", slice.name())).then_some(())?;
            self.slices.remove(slice.name());
        }
        Some(())
    }
}

#[test]
fn endpoints_live_as_told() {
    golden::check_lives::<World>("endpoints.txt");
}

#[test]
fn a_cut_at_any_step_changes_nothing() {
    golden::faults_change_nothing::<World>("endpoints.txt", Fault::Cut);
}

#[test]
fn slices_carry_what_their_service_and_pods_say() {
    let mut world = World::default();
    ["new {}", "label l 1", "pod p 10.42.0.2 ready b"].iter().for_each(|line| world.obey(line));
    world.look(&mut Log::default());
    let slice = &world.slices["s1"];
    let labels = json!({"l": "1", "service.kubernetes.io/headless": "", "kubernetes.io/service-name": "web",
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"});
    assert_eq!((json!(slice.labels()), json!(slice.metadata.generate_name)), (labels, json!("web-")));
    let endpoint = &slice.endpoints.as_ref().unwrap()[0];
    let target = json!({"kind": "Pod", "namespace": "ns", "name": "p", "uid": "p"});
    assert_eq!(
        (json!(endpoint.target_ref), &endpoint.zone, &endpoint.node_name),
        (target, &Some("b".to_owned()), &Some("b".to_owned()))
    );
}

#[test]
fn mirrored_slices_carry_what_the_endpoints_say() {
    let mut world = World::default();
    world.obey(r#"new {"selector": null}"#);
    world.obey(r#"endpoints {"metadata": {"labels": {"l": "1"}, "annotations": {"note": "n", "kubectl.kubernetes.io/last-applied-configuration": "{}"}}, "subsets": [{"addresses": [{"ip": "10.0.0.1"}]}]}"#);
    world.look(&mut Log::default());
    let slice = &world.slices["s1"];
    let labels = json!({"l": "1", "kubernetes.io/service-name": "web",
        "endpointslice.kubernetes.io/managed-by": "endpointslicemirroring-controller.k8s.io"});
    assert_eq!((json!(slice.labels()), json!(slice.annotations())), (labels, json!({"note": "n"})));
}
