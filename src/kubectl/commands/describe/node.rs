//! Nodes, with the pods on them and what these ask for.

use super::page::Page;
use super::words::{age, amount, array, flag, joined, names, or, or_none, quantity, shown, time};
use api::demand::{Amounts, Side, add, add_overhead, held, of_spec};
use api::quantity::Amount;
use serde_json::Value;
use std::collections::BTreeMap;

const ROLE: &str = "node-role.kubernetes.io/";
/// How many pools of devices are shown.
const POOLS: usize = 10;

/// What is known of a node elsewhere.
pub(super) struct Around {
    /// None for who may not see them.
    pub(super) pods: Option<Vec<Value>>,
    /// Or why there is none.
    pub(super) lease: Result<Value, String>,
    /// ResourceSlices of the node alone.
    pub(super) slices: Vec<Value>,
}

pub(super) fn write(page: &mut Page, node: &Value, around: &Around) {
    let (metadata, spec, status) = (&node["metadata"], &node["spec"], &node["status"]);
    page.field(0, "Name", shown(&metadata["name"]));
    page.field(0, "Roles", or_none(&roles(&metadata["labels"])));
    page.marks(node);
    page.created(node);
    page.many(0, "Taints", &taints(&spec["taints"]));
    page.field(0, "Unschedulable", flag(&spec["unschedulable"]));
    lease(page, &around.lease);
    conditions(page, status);
    page.title(0, "Addresses");
    for address in array(&status["addresses"]) {
        page.field(1, &shown(&address["type"]), shown(&address["address"]));
    }
    for (title, field) in [("Capacity", "capacity"), ("Allocatable", "allocatable")] {
        let amounts: Vec<_> = status[field].as_object().into_iter().flatten().collect();
        if !amounts.is_empty() {
            page.title(0, title);
        }
        amounts.into_iter().for_each(|(name, amount)| page.field(1, name, quantity(amount)));
    }
    devices(page, &around.slices);
    page.title(0, "System Info");
    page.all(
        1,
        &status["nodeInfo"],
        &[
            ("Machine ID", "machineID"),
            ("System UUID", "systemUUID"),
            ("Boot ID", "bootID"),
            ("Kernel Version", "kernelVersion"),
            ("OS Image", "osImage"),
            ("Operating System", "operatingSystem"),
            ("Architecture", "architecture"),
            ("Container Runtime Version", "containerRuntimeVersion"),
            ("Kubelet Version", "kubeletVersion"),
        ],
    );
    page.some(0, "PodCIDR", &spec["podCIDR"]);
    page.some(0, "PodCIDRs", &joined(&spec["podCIDRs"], ",").into());
    page.some(0, "ProviderID", &spec["providerID"]);
    let whole = if status["allocatable"].is_object() { &status["allocatable"] } else { &status["capacity"] };
    match &around.pods {
        Some(pods) => self::pods(page, whole, pods),
        None => page.field(0, "Pods", "not authorized"),
    }
}

fn roles(labels: &Value) -> String {
    let role = |(key, value): (&String, &Value)| match key.strip_prefix(ROLE) {
        Some(role) => Some(role.to_owned()),
        None => (key == "kubernetes.io/role").then(|| shown(value)),
    };
    let all = labels.as_object().into_iter().flatten().filter_map(role);
    let mut all: Vec<String> = all.filter(|role| !role.is_empty()).collect();
    all.sort();
    all.dedup();
    all.join(",")
}

fn taints(taints: &Value) -> Vec<String> {
    let mut all: Vec<&Value> = array(taints).iter().collect();
    all.sort_by_key(|taint| names(taint, ["effect", "key"]).join(","));
    let one = |taint: &&Value| match names(taint, ["key", "value", "effect"]) {
        [key, value, effect] if value.is_empty() && effect.is_empty() => key,
        [key, value, effect] if value.is_empty() => format!("{key}:{effect}"),
        [key, value, effect] if effect.is_empty() => format!("{key}={value}:"),
        [key, value, effect] => format!("{key}={value}:{effect}"),
    };
    all.iter().map(one).collect()
}

fn lease(page: &mut Page, lease: &Result<Value, String>) {
    let lease = match lease {
        Ok(lease) => &lease["spec"],
        Err(error) => return page.field(0, "Lease", format_args!("Failed to get lease: {error}")),
    };
    let moment = |field: &str| match &lease[field] {
        Value::Null => "<unset>".to_owned(),
        moment => time(moment),
    };
    page.title(0, "Lease");
    page.field(1, "HolderIdentity", or(&lease["holderIdentity"], "<unset>"));
    page.field(1, "AcquireTime", moment("acquireTime"));
    page.field(1, "RenewTime", moment("renewTime"));
}

fn conditions(page: &mut Page, status: &Value) {
    let row = |one: &Value| {
        let [kind, status, reason, message] = names(one, ["type", "status", "reason", "message"]);
        let [heard, since] = ["lastHeartbeatTime", "lastTransitionTime"].map(|field| time(&one[field]));
        // kubectl puts a space behind these cells.
        format!("{kind} \t{status} \t{heard} \t{since} \t{reason} \t{message}")
    };
    if !array(&status["conditions"]).is_empty() {
        page.title(0, "Conditions");
        let header = "Type\tStatus\tLastHeartbeatTime\tLastTransitionTime\tReason\tMessage";
        page.table(1, header, array(&status["conditions"]).iter().map(row));
    }
}

/// How many devices drivers offer on the node, by pool.
fn devices(page: &mut Page, slices: &[Value]) {
    let mut pools: BTreeMap<String, (String, usize, usize)> = BTreeMap::new();
    for slice in slices {
        let (driver, pool) = (shown(&slice["spec"]["driver"]), shown(&slice["spec"]["pool"]["name"]));
        let entry = pools.entry(format!("{driver}/{pool}")).or_insert((format!("{driver}\t{pool}"), 0, 0));
        entry.1 += 1;
        entry.2 += array(&slice["spec"]["devices"]).len();
    }
    if pools.is_empty() {
        return;
    }
    page.title(0, "Node-Local ResourceSlices");
    let row = |(pool, slices, devices): &(String, usize, usize)| format!("{pool}\t{slices}\t{devices}");
    page.table(1, "Driver\tPool\tSlices\tDevices", pools.values().take(POOLS).map(row));
    if pools.len() > POOLS {
        page.line(1, format_args!("...and {} more pools", pools.len() - POOLS));
    }
}

const NOTHING: Amounts = Amounts::new();
const SIDES: [Side; 2] = [Side::Requests, Side::Limits];

fn pods(page: &mut Page, whole: &Value, pods: &[Value]) {
    page.field(0, "Non-terminated Pods", format_args!("({} in total)", pods.len()));
    let header = "Namespace\tName\t\tCPU Requests\tCPU Limits\tMemory Requests\tMemory Limits\tAge";
    let row = |pod: &Value| {
        let [namespace, name] = names(&pod["metadata"], ["namespace", "name"]);
        let held = SIDES.map(|side| held(pod, side));
        let cells = ["cpu", "memory"].map(|resource| {
            let [requests, limits] = held.each_ref().map(|amounts| share(amounts, resource, whole));
            format!("{requests}\t{limits}")
        });
        format!("{namespace}\t{name}\t\t{}\t{}", cells.join("\t"), age(&pod["metadata"]["creationTimestamp"]))
    };
    page.table(1, header, pods.iter().map(row));
    page.title(0, "Allocated resources");
    page.line(1, "(Total limits may be over 100 percent, i.e., overcommitted.)");
    let totals = SIDES.map(|side| {
        let mut total = NOTHING;
        for pod in pods {
            let mut own = of_spec(&pod["spec"], side);
            add_overhead(&mut own, &pod["spec"], side);
            add(&mut total, &own);
        }
        total
    });
    let others = whole.as_object().into_iter().flatten().map(|(name, _)| name.as_str());
    let others = others.filter(|name| !matches!(*name, "cpu" | "memory" | "ephemeral-storage" | "pods"));
    let (pages, extended): (Vec<&str>, Vec<&str>) = others.partition(|name| api::demand::is_huge(name));
    let shares = ["cpu", "memory", "ephemeral-storage"].into_iter().chain(pages).map(|name| (name, true));
    let rows = shares.chain(extended.into_iter().map(|name| (name, false))).map(|(name, is_share)| {
        let [requests, limits] = totals.each_ref().map(|total| match is_share {
            true => share(total, name, whole),
            false => of(total, name).to_string(),
        });
        format!("{name}\t{requests}\t{limits}")
    });
    page.table(1, "Resource\tRequests\tLimits", rows);
}

fn of(amounts: &Amounts, resource: &str) -> Amount {
    amounts.get(resource).copied().unwrap_or_else(|| Amount::units(0))
}

/// An amount, and what part it is of what there is: `100m (5%)`.
fn share(amounts: &Amounts, resource: &str, whole: &Value) -> String {
    let (part, whole) = (of(amounts, resource), amount(&whole[resource]));
    let count = |amount: Amount| match resource {
        "cpu" => i128::from(amount.to_milli()),
        _ => i128::from(amount.to_units()),
    };
    let percent = if count(whole) == 0 { 0 } else { count(part) * 100 / count(whole) };
    format!("{part} ({percent}%)")
}
