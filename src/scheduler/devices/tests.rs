//! Devices for claims, read as text. The cases stand in `cases.txt`: `slice`, `class`, `claim` and `node` lines say
//! what there is, `want` asks what claims get on a node, `give` lets them keep it, `take` does before the API tells,
//! `ask` what a pod gets that asks for resources, `limit` is how many seconds a search may take, `=>` is the answer.

use super::*;
use crate::resources::requests;
use crate::tests::{node, pod, yaml};
use api::core::Node;
use api::resource::{DeviceClass, DeviceRequestAllocationResult, ResourceSlice};
use serde_json::{Value, json};
use std::collections::BTreeMap;

#[derive(Default)]
struct World {
    nodes: BTreeMap<String, Node>,
    slices: BTreeMap<String, Arc<ResourceSlice>>,
    classes: BTreeMap<String, Arc<DeviceClass>>,
    claims: BTreeMap<String, Arc<ResourceClaim>>,
    stock: Stock,
    /// How long a search may take, were there a limit.
    search: Option<Duration>,
}

fn read<T: serde::de::DeserializeOwned>(name: &str, mut body: Value) -> T {
    body["metadata"] = json!({"name": name, "namespace": "ns", "uid": name});
    serde_json::from_value(body).unwrap_or_else(|why| panic!("{name}: {why}"))
}

/// A slice is told by its spec; it is the only one of its pool unless it says otherwise.
fn slice(name: &str, mut spec: Value) -> ResourceSlice {
    let pool = json!({"name": name, "generation": 1, "resourceSliceCount": 1});
    let own = spec["pool"].take();
    spec["pool"] = pool;
    own.as_object().into_iter().flatten().for_each(|(key, value)| spec["pool"][key] = value.clone());
    if spec["driver"].is_null() {
        spec["driver"] = json!("gpu.test");
    }
    read(name, json!({"spec": spec}))
}

/// A claim is told by its devices and, were it to have some, its status; `for` is a pod for whose resources it
/// stands.
fn claim(name: &str, mut devices: Value) -> ResourceClaim {
    let (status, pod) = (devices["status"].take(), devices["for"].take());
    let mut claim: ResourceClaim = read(name, json!({"spec": {"devices": devices}, "status": status}));
    if let Some(pod) = pod.as_str() {
        let owner = json!([{"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": pod, "controller": true}]);
        claim.metadata.owner_references = serde_json::from_value(owner).unwrap();
        let stands = ("resource.kubernetes.io/extended-resource-claim".to_owned(), "true".to_owned());
        claim.metadata.annotations = Some([stands].into());
    }
    claim
}

fn shown(result: &DeviceRequestAllocationResult) -> String {
    let mut text = format!("{}={}/{}", result.request, result.pool, result.device);
    if result.share_id.is_some() {
        let consumed = result.consumed_capacity.iter().flatten();
        let consumed: Vec<_> = consumed.map(|(name, quantity)| format!("{name}:{}", quantity.0)).collect();
        text = format!("{text}[{}]", consumed.join(" "));
    }
    text
}

/// What is written of an allocation.
fn told(claim: &ResourceClaim, allocation: &AllocationResult) -> String {
    let devices = allocation.devices.as_ref().unwrap();
    let results: Vec<String> = devices.results.iter().flatten().map(shown).collect();
    let mut text = format!("{}: {}", claim.name(), results.join(" "));
    for config in devices.config.iter().flatten() {
        let requests = config.requests.clone().unwrap_or_default().join(",");
        text = format!("{text}; {} for {requests}", config.source);
    }
    match &allocation.node_selector {
        Some(nodes) => format!("{text}; on {}", json!(nodes.node_selector_terms)),
        None => text,
    }
}

impl World {
    fn want(&mut self, word: &str, node: &str, pod: &Arc<Pod>) -> String {
        let mut texts = Texts::default();
        let facts = Facts::of(&self.nodes[node], &mut texts);
        let stock = self.stock.with(self.slices.values(), &mut texts);
        let mut provided = Provided::default();
        for (name, class) in &self.classes {
            provided.put(name, Some(class.clone()), &mut texts);
        }
        let extended = Extended::of(pod, &requests(pod, &mut texts).0, &provided);
        let (claims, classes) =
            (|name: &str| self.claims.get(name).cloned(), |name: &str| self.classes.get(name).cloned());
        let limits = Limits { binding: Duration::from_secs(600), search: self.search };
        let known = Known { stock: &stock, claims: &claims, classes: &classes };
        let devices = match Devices::of(pod, extended, &known, &limits, &mut texts) {
            Ok(None) => return "it asks for no devices".to_owned(),
            Ok(Some(devices)) => devices,
            Err(Blocked::Waiting) => return "it waits".to_owned(),
            Err(Blocked::Unfit(why)) => return why,
        };
        let refusal = devices.refusal(&facts);
        if let Some(why) = devices.broken().or_else(|| refusal.map(|reasons| reasons.join(", "))) {
            let obstacle = devices.obstacle(pod).map(|obstacle| match obstacle {
                Obstacle::Allocated(claim) => format!("; {} is in the way", claim.name()),
                Obstacle::LeftOver(claim) => format!("; {} is left over", claim.name()),
            });
            return format!("{why}{}", obstacle.unwrap_or_default());
        }
        let score = devices.has_choice().then(|| format!(" (score {})", devices.score(&facts)));
        let reserved = devices.reserve(&facts, pod);
        let mut all = Vec::new();
        for Reserved { claim, allocation, mappings } in reserved {
            let Some(allocation) = allocation else {
                all.push(format!("{} as it is", claim.name()));
                continue;
            };
            all.push(told(&claim, &allocation));
            all.extend(mappings.iter().map(|used| {
                format!("{} of {} is {}", used.resource_name, used.container_name, used.request_name)
            }));
            let mut given = (*claim).clone();
            given.status.get_or_insert_default().allocation = Some((*allocation).clone());
            let mut ledger = stock.ledger();
            if word == "give" {
                ledger.tell(&given, true);
                self.claims.insert(given.name().to_owned(), Arc::new(given));
            }
            if word != "take" {
                ledger.settle(claim.uid());
            }
        }
        if all.is_empty() {
            return "nothing is needed".to_owned();
        }
        format!("{}{}", all.join("\n"), score.unwrap_or_default())
    }

    fn line(&mut self, line: &str) -> Option<String> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        match word {
            "node" => drop(self.nodes.insert(name.to_owned(), node(name, &yaml(rest)))),
            "slice" => drop(self.slices.insert(name.to_owned(), Arc::new(slice(name, yaml(rest))))),
            "class" => {
                let class = read(name, json!({"spec": yaml(rest)}));
                self.classes.insert(name.to_owned(), Arc::new(class));
            }
            "claim" => {
                let claim = claim(name, yaml(rest));
                self.stock.ledger().tell(&claim, true);
                self.claims.insert(name.to_owned(), Arc::new(claim));
            }
            "limit" => self.search = Some(Duration::from_secs(name.parse().unwrap())),
            "free" => self.stock.ledger().tell(&self.claims.remove(name).unwrap(), false),
            "want" | "give" | "take" => {
                let claims = rest.split(' ').map(|name| json!({"name": name, "resourceClaimName": name}));
                let claims: Vec<Value> = claims.collect();
                return Some(self.want(word, name, &pod("p", &json!({"spec": {"resourceClaims": claims}}))));
            }
            "ask" => return Some(self.want("want", name, &pod("p", &json!({"spec": yaml(rest)})))),
            other => panic!("no such line: {other}"),
        }
        None
    }
}

#[test]
fn devices_are_found_as_the_cases_say() {
    let text = include_str!("cases.txt");
    let mut written = String::new();
    for case in text.split("\n\n") {
        let mut world = World::default();
        for line in case.lines().filter(|line| !line.starts_with("=> ")) {
            written.push_str(&format!("{line}\n"));
            let answer = if line.starts_with('#') { None } else { world.line(line) };
            answer
                .iter()
                .flat_map(|answer| answer.lines())
                .for_each(|answer| written.push_str(&format!("=> {answer}\n")));
        }
        written.push('\n');
    }
    let written = format!("{}\n", written.trim_end());
    if std::env::var_os("WRITE_CASES").is_some() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/devices/cases.txt"), &written).unwrap();
    }
    assert_eq!(written, text);
}
