//! What objects use of a ResourceQuota: pure accounting, for those who charge and those who recount.

use crate::demand::{self, Amounts, Side, is_extended, is_huge, is_native};
use crate::devices::{self, OF_CLASS, STANDS_FOR};
use crate::kinds::Kind;
use crate::quantity::{self, Amount};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

const STORAGE_CLASS: &str = ".storageclass.storage.k8s.io/";
const DEVICE_CLASS: &str = ".deviceclass.resource.k8s.io/devices";
const LEGACY_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
/// The most devices that one claim is given, which is what `All` is counted as.
const MOST_DEVICES: i64 = 32;

const OF_PODS: [&str; 11] = [
    "count/pods",
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
];
const OF_SERVICES: [&str; 4] = ["count/services", "services", "services.nodeports", "services.loadbalancers"];
/// Kinds that are also counted under their bare name.
const BARE: [&str; 4] = ["configmaps", "resourcequotas", "replicationcontrollers", "secrets"];
/// Resources that every container has to state where a quota limits them. It is a list of the past.
const STATED: [&str; 6] = ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];

/// How the objects of a kind are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Measure {
    Pods,
    Services,
    Claims,
    Devices,
    Count,
    /// They never count.
    Nothing,
}

fn measure(kind: &Kind) -> Measure {
    match (kind.group, kind.plural) {
        ("", "pods") => Measure::Pods,
        ("", "services") => Measure::Services,
        ("", "persistentvolumeclaims") => Measure::Claims,
        ("resource.k8s.io", "resourceclaims") => Measure::Devices,
        ("" | "events.k8s.io", "events") => Measure::Nothing,
        _ if kind.stored() && kind.namespaced => Measure::Count,
        _ => Measure::Nothing,
    }
}

/// `count/…` of a kind.
fn count_name(kind: &Kind) -> String {
    format!("count/{}", kind.resource())
}

/// What one object uses of all resources that its kind is measured by.
pub fn usage(kind: &Kind, object: &Value, now: Timestamp) -> Amounts {
    let mut used = Amounts::from([(count_name(kind), Amount::units(1))]);
    match measure(kind) {
        Measure::Pods => pod(&mut used, object, now),
        Measure::Services => service(&mut used, object),
        Measure::Claims => claim(&mut used, object),
        Measure::Devices => devices(&mut used, object),
        Measure::Count if kind.group.is_empty() && BARE.contains(&kind.plural) => {
            used.insert(kind.plural.to_owned(), Amount::units(1));
        }
        Measure::Count => {}
        Measure::Nothing => used.clear(),
    }
    used
}

/// When a pod that is being deleted stops to count, whether it is gone or not: its node may be lost.
pub fn ends_to_count(pod: &Value) -> Option<Timestamp> {
    let deleted: Timestamp = pod["metadata"]["deletionTimestamp"].as_str()?.parse().ok()?;
    let grace_s = pod["metadata"]["deletionGracePeriodSeconds"].as_i64()?;
    Some(deleted + SignedDuration::from_secs(grace_s))
}

fn pod(used: &mut Amounts, pod: &Value, now: Timestamp) {
    let ended = matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded"));
    if ended || ends_to_count(pod).is_some_and(|end| now > end) {
        return;
    }
    used.extend(compute(&demand::held(pod, Side::Requests), &demand::held(pod, Side::Limits)));
}

fn compute(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut used = Amounts::from([("pods".to_owned(), Amount::units(1))]);
    for name in ["cpu", "memory", "ephemeral-storage"] {
        if let Some(request) = requests.get(name) {
            used.insert(name.to_owned(), *request);
            used.insert(format!("requests.{name}"), *request);
        }
        if let Some(limit) = limits.get(name) {
            used.insert(format!("limits.{name}"), *limit);
        }
    }
    for (name, request) in requests {
        if is_huge(name) {
            used.insert(name.clone(), *request);
        }
        if is_huge(name) || is_extended(name) || name.starts_with(OF_CLASS) {
            used.insert(format!("requests.{name}"), *request);
        }
    }
    used
}

fn units(count: usize) -> Amount {
    Amount::units(i64::try_from(count).unwrap_or(i64::MAX))
}

fn service(used: &mut Amounts, service: &Value) {
    let spec = &service["spec"];
    let ports = spec["ports"].as_array().map_or(&[][..], Vec::as_slice);
    let stated = || ports.iter().filter(|port| port["nodePort"].as_i64().unwrap_or(0) != 0).count();
    let (node_ports, balancers) = match spec["type"].as_str() {
        Some("NodePort") => (ports.len(), 0),
        Some("LoadBalancer") if spec["allocateLoadBalancerNodePorts"] == false => (stated(), 1),
        Some("LoadBalancer") => (ports.len(), 1),
        _ => (0, 0),
    };
    used.insert("services".to_owned(), units(1));
    used.insert("services.nodeports".to_owned(), units(node_ports));
    used.insert("services.loadbalancers".to_owned(), units(balancers));
}

fn claim(used: &mut Amounts, claim: &Value) {
    let legacy = claim["metadata"]["annotations"][LEGACY_CLASS].as_str();
    let class = legacy.or(claim["spec"]["storageClassName"].as_str()).unwrap_or_default();
    let mut charge = |name: &str, amount: Amount| {
        used.insert(name.to_owned(), amount);
        if !class.is_empty() {
            used.insert(format!("{class}{STORAGE_CLASS}{name}"), amount);
        }
    };
    charge("persistentvolumeclaims", units(1));
    let size = |map: &Value| map["storage"].as_str().and_then(|text| quantity::parse(text).ok());
    if let Some(asked) = size(&claim["spec"]["resources"]["requests"]) {
        let most = size(&claim["status"]["allocatedResources"]).map_or(asked, |given| given.max(asked));
        charge("requests.storage", most.rounded_up());
    }
}

fn devices(used: &mut Amounts, claim: &Value) {
    let count = |request: &Value| match request["allocationMode"].as_str() {
        Some("ExactCount") => request["count"].as_i64().unwrap_or(0),
        Some("All") => MOST_DEVICES,
        _ => 0,
    };
    let name = |request: &Value| {
        format!("{}{DEVICE_CLASS}", request["deviceClassName"].as_str().unwrap_or_default())
    };
    for request in claim["spec"]["devices"]["requests"].as_array().into_iter().flatten() {
        let mut wanted = Amounts::new();
        // Of several that would do, the greediest is counted.
        for one in request["firstAvailable"].as_array().into_iter().flatten() {
            let amount = Amount::units(count(one));
            if amount > Amount::units(0) {
                demand::raise(&mut wanted, &Amounts::from([(name(one), amount)]));
            }
        }
        let exactly = &request["exactly"];
        if wanted.is_empty() && exactly.is_object() {
            wanted.insert(name(exactly), Amount::units(count(exactly)));
        }
        demand::add(used, &wanted);
    }
}

/// The resource of `requests.…` that devices can stand for.
pub fn extended(name: &str) -> Option<&str> {
    let resource = name.strip_prefix("requests.")?;
    (!is_native(name) || resource.starts_with(OF_CLASS)).then_some(resource)
}

/// Which resources the classes of devices provide (KEP-5004): each the one of its own name, and the one it says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Provided(BTreeMap<String, Option<String>>);

impl Provided {
    /// What DeviceClasses provide: their names, each with its `spec.extendedResourceName`.
    pub fn of(classes: impl Iterator<Item = (String, Option<String>)>) -> Self {
        Self(classes.collect())
    }

    fn is_provided(&self, resource: &str) -> bool {
        self.0.iter().any(|(class, stated)| devices::provides(class, stated.as_deref(), resource))
    }

    /// Devices count as the resources that their class provides, but for those of them that a pod counts already.
    fn charge(&self, used: &mut Amounts, claim: &Value, now: Timestamp, around: &dyn Around) {
        let mut wanted = Amounts::new();
        for (name, amount) in used.iter() {
            let Some(class) = name.strip_suffix(DEVICE_CLASS) else { continue };
            let stated = self.0.get(class).and_then(Option::as_deref);
            for resource in devices::provided(class, stated) {
                demand::add(&mut wanted, &Amounts::from([(format!("requests.{resource}"), *amount)]));
            }
        }
        if let Some(owner) = owner(claim, around) {
            let mut counted = Amounts::new();
            pod(&mut counted, &owner, now);
            demand::subtract(&mut wanted, &counted);
        }
        wanted.retain(|_, amount| *amount > Amount::units(0));
        used.extend(wanted);
    }
}

/// What a claim of devices is counted by beside itself, in its namespace.
pub trait Around {
    /// A pod by its name.
    fn pod(&self, name: &str) -> Option<Value>;
    /// All claims of devices.
    fn claims(&self) -> Vec<Value>;
}

/// Nothing is around.
impl Around for () {
    fn pod(&self, _: &str) -> Option<Value> {
        None
    }

    fn claims(&self) -> Vec<Value> {
        Vec::new()
    }
}

/// The reference to the pod for whose resources a claim says to stand.
fn owner_reference(claim: &Value) -> Option<&Value> {
    let metadata = &claim["metadata"];
    let mut owners = metadata["ownerReferences"].as_array()?.iter();
    let owner = owners.find(|owner| owner["controller"] == true)?;
    let is_pod = owner["kind"] == "Pod" && owner["apiVersion"] == "v1";
    (is_pod && metadata["annotations"][STANDS_FOR] == "true").then_some(owner)
}

/// The pod that a claim stands for: the one claim that the pod's status names, or the first where it names none.
fn owner(claim: &Value, around: &dyn Around) -> Option<Value> {
    let reference = owner_reference(claim)?;
    let pod = around.pod(reference["name"].as_str()?)?;
    let age = |claim: &Value| {
        let text = |field: &str| claim["metadata"][field].as_str().unwrap_or_default().to_owned();
        (text("creationTimestamp"), text("name"))
    };
    let is_earlier = |other: &Value| {
        owner_reference(other).is_some_and(|other| other["uid"] == reference["uid"])
            && age(other) < age(claim)
    };
    let named = &pod["status"]["extendedResourceClaimStatus"]["resourceClaimName"];
    let is_it = match named {
        Value::Null => !around.claims().iter().any(is_earlier),
        named => *named == claim["metadata"]["name"],
    };
    (is_it && pod["metadata"]["uid"] == reference["uid"]).then_some(pod)
}

/// One condition on what a quota covers (`scopes`, `scopeSelector`).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Scope {
    name: String,
    operator: String,
    values: Vec<String>,
}

impl Scope {
    fn all_of(spec: &Value) -> Vec<Self> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let bare = spec["scopes"].as_array().into_iter().flatten();
        let bare =
            bare.map(|name| Self { name: text(name), operator: "Exists".to_owned(), values: Vec::new() });
        let selected = spec["scopeSelector"]["matchExpressions"].as_array().into_iter().flatten();
        let selected = selected.map(|one| Self {
            name: text(&one["scopeName"]),
            operator: text(&one["operator"]),
            values: one["values"].as_array().into_iter().flatten().map(text).collect(),
        });
        bare.chain(selected).collect()
    }

    fn covers(&self, measure: Measure, object: &Value) -> bool {
        match (measure, self.name.as_str()) {
            (Measure::Pods, "Terminating") => is_terminating(object),
            (Measure::Pods, "NotTerminating") => !is_terminating(object),
            (Measure::Pods, "BestEffort") => demand::qos_class(&object["spec"]) == "BestEffort",
            (Measure::Pods, "NotBestEffort") => demand::qos_class(&object["spec"]) != "BestEffort",
            (Measure::Pods, "PriorityClass") => {
                self.selects(&classes([&object["spec"]["priorityClassName"]]))
            }
            (Measure::Pods, "CrossNamespacePodAffinity") => reaches_namespaces(&object["spec"]["affinity"]),
            (Measure::Claims, "VolumeAttributesClass") => self.selects(&classes([
                &object["spec"]["volumeAttributesClassName"],
                &object["status"]["currentVolumeAttributesClassName"],
                &object["status"]["modifyVolumeStatus"]["targetVolumeAttributesClassName"],
            ])),
            _ => false,
        }
    }

    /// Whether one of the names is selected, or that there is none.
    fn selects(&self, names: &BTreeSet<&str>) -> bool {
        let listed = |name: &&str| self.values.iter().any(|value| value == name);
        match self.operator.as_str() {
            "Exists" => !names.is_empty(),
            "DoesNotExist" => names.is_empty(),
            "In" => names.iter().any(listed),
            "NotIn" => names.is_empty() || names.iter().any(|name| !listed(name)),
            _ => false,
        }
    }
}

fn classes<const N: usize>(names: [&Value; N]) -> BTreeSet<&str> {
    names.into_iter().filter_map(Value::as_str).filter(|name| !name.is_empty()).collect()
}

/// A pod that ends by itself in time, as its quotas see it.
pub fn is_terminating(pod: &Value) -> bool {
    pod["spec"]["activeDeadlineSeconds"].as_i64().is_some_and(|seconds| seconds >= 0)
}

fn reaches_namespaces(affinity: &Value) -> bool {
    let reaches = |term: &Value| {
        term["namespaces"].as_array().is_some_and(|names| !names.is_empty())
            || term["namespaceSelector"].is_object()
    };
    ["podAffinity", "podAntiAffinity"].iter().any(|field| {
        let terms = |list: &str| affinity[field][list].as_array().into_iter().flatten();
        terms("requiredDuringSchedulingIgnoredDuringExecution").any(reaches)
            || terms("preferredDuringSchedulingIgnoredDuringExecution")
                .any(|weighted| reaches(&weighted["podAffinityTerm"]))
    })
}

/// What a ResourceQuota limits, and of which objects.
#[derive(Clone, Debug, PartialEq)]
pub struct Quota {
    /// `spec.hard`.
    pub hard: Amounts,
    scopes: Vec<Scope>,
    provided: Provided,
}

impl Quota {
    /// Reads a ResourceQuota; `provided` is asked for where it limits what devices can stand for.
    pub fn of(object: &Value, provided: impl FnOnce() -> Provided) -> Self {
        let spec = &object["spec"];
        let hard = demand::amounts(&spec["hard"]);
        let provided = if limits_devices(&hard) { provided() } else { Provided::default() };
        Self { hard, scopes: Scope::all_of(spec), provided }
    }

    /// Whether it limits what devices can stand for.
    pub fn limits_devices(&self) -> bool {
        limits_devices(&self.hard)
    }

    /// Whether a change of an object changes what others use of it.
    pub fn sways(&self, kind: &Kind, old: &Value, new: &Value) -> bool {
        const BY: [&str; 4] = [
            "/status/phase",
            "/metadata/deletionTimestamp",
            "/metadata/uid",
            "/status/extendedResourceClaimStatus/resourceClaimName",
        ];
        let of = |object: &Value| BY.map(|field| object.pointer(field).cloned());
        let stands = |object: &Value| match measure(kind) {
            Measure::Pods => !object["status"]["extendedResourceClaimStatus"].is_null(),
            Measure::Devices => owner_reference(object).is_some(),
            _ => false,
        };
        self.limits_devices() && (stands(old) || stands(new)) && of(old) != of(new)
    }

    /// The resources that it limits and a kind's objects use.
    pub fn resources(&self, kind: &Kind) -> BTreeSet<&str> {
        let measure = measure(kind);
        let count = count_name(kind);
        let names = self.hard.keys().map(String::as_str);
        names.filter(|name| self.is_measured(measure, kind, name, &count)).collect()
    }

    /// Whether an object of a kind is one that it limits.
    pub fn covers(&self, kind: &Kind, object: &Value) -> bool {
        let measure = measure(kind);
        self.scopes.iter().all(|scope| scope.covers(measure, object)) && !self.resources(kind).is_empty()
    }

    /// What an object uses of it; empty where it is none that it limits.
    pub fn used_by(&self, kind: &Kind, object: &Value, now: Timestamp, around: &dyn Around) -> Amounts {
        if !self.covers(kind, object) {
            return Amounts::new();
        }
        let mut used = usage(kind, object, now);
        if measure(kind) == Measure::Devices {
            self.provided.charge(&mut used, object, now, around);
        }
        used.retain(|name, _| self.hard.contains_key(name));
        used
    }

    /// How many objects of a kind count, where nothing but their number does.
    pub fn counts_only(&self, kind: &Kind) -> bool {
        measure(kind) == Measure::Count && self.scopes.is_empty()
    }

    /// Nothing used of all that can be measured.
    pub fn nothing_used<'a>(&self, kinds: impl Iterator<Item = &'a Kind>) -> Amounts {
        let mut used = Amounts::new();
        for kind in kinds {
            let names = self.resources(kind);
            used.extend(names.into_iter().map(|name| (name.to_owned(), Amount::units(0))));
        }
        used
    }

    /// Containers of a pod that do not state what a quota makes them state, by resource; `None` if all do.
    pub fn unstated(&self, pod: &Value) -> Option<String> {
        let spec = &pod["spec"];
        if demand::is_set_for_pod(spec) {
            return None;
        }
        let lists = ["containers", "initContainers"].iter().flat_map(|list| spec[*list].as_array());
        let containers: Vec<&Value> = lists.flatten().collect();
        let mut missing = Vec::new();
        for name in self.hard.keys().filter(|name| STATED.contains(&name.as_str())) {
            let silent = containers.iter().filter(|container| {
                let of = |side: &str| demand::amounts(&container["resources"][side]);
                !compute(&of("requests"), &of("limits")).contains_key(name)
            });
            let names: BTreeSet<&str> =
                silent.map(|container| container["name"].as_str().unwrap_or_default()).collect();
            if !names.is_empty() {
                missing.push(format!("{name} for: {}", names.into_iter().collect::<Vec<_>>().join(",")));
            }
        }
        (!missing.is_empty()).then(|| missing.join("; "))
    }

    fn is_measured(&self, measure: Measure, kind: &Kind, name: &str, count: &str) -> bool {
        let extended = extended(name);
        match measure {
            Measure::Pods => {
                let request = name.strip_prefix("requests.");
                OF_PODS.contains(&name) || is_huge(request.unwrap_or(name)) || extended.is_some()
            }
            Measure::Services => OF_SERVICES.contains(&name),
            Measure::Claims => {
                let own = name.split_once(STORAGE_CLASS).map_or(name, |(_, own)| own);
                name == count || matches!(own, "persistentvolumeclaims" | "requests.storage")
            }
            Measure::Devices => {
                name == count
                    || name.ends_with(DEVICE_CLASS)
                    || extended.is_some_and(|resource| self.provided.is_provided(resource))
            }
            Measure::Count => {
                name == count || (kind.group.is_empty() && BARE.contains(&name) && name == kind.plural)
            }
            Measure::Nothing => false,
        }
    }
}

fn limits_devices(hard: &Amounts) -> bool {
    hard.keys().any(|name| extended(name).is_some())
}

/// Amounts as Kubernetes' refusals list them.
pub fn listed(amounts: &Amounts) -> String {
    amounts.iter().map(|(name, amount)| format!("{name}={amount}")).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
#[path = "quota_tests.rs"]
mod tests;
