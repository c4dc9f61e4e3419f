//! Namespaces, nodes, and what belongs to nodes.

use super::pods::{self, resources};
use super::{PLAIN, Strategy, default, items};
use api::validate::{
    At, Error, config_key, dns_label, label_name, label_value, labels, legacy_cidr, lenient_cidr,
    qualified_name,
};
use serde_json::{Value, json};
use std::collections::HashSet;

pub(super) const NAMESPACE: Strategy = Strategy {
    name_rule: dns_label,
    default: |namespace| {
        // Everyone can select a namespace by its name.
        let name = namespace["metadata"]["name"].clone();
        if name.is_string() {
            namespace["metadata"]["labels"]["kubernetes.io/metadata.name"] = name;
        }
        if !namespace["status"].is_object() {
            namespace["status"] = json!({});
        }
        default(&mut namespace["status"], "phase", "Active");
    },
    prepare_create: |namespace| {
        namespace["status"] = json!({"phase": "Active"});
        let mut finalizers = items(&namespace["spec"], "finalizers").to_vec();
        if !finalizers.contains(&json!("kubernetes")) {
            finalizers.push(json!("kubernetes"));
        }
        namespace["spec"] = json!({"finalizers": finalizers});
    },
    mark_deleted: |namespace| namespace["status"]["phase"] = Value::from("Terminating"),
    narrow: |_, new, old| new["status"] = old["status"].clone(),
    // Only the `finalize` subresource changes these.
    prepare_update: |new, old| new["spec"] = old["spec"].clone(),
    validate: |namespace| {
        let spec = namespace.get("spec");
        let list = spec.get("finalizers");
        for name in list.items().iter().filter_map(Value::as_str) {
            list.named_as(name, qualified_name);
            if !name.contains('/') && !super::FINALIZERS.contains(&name) {
                list.invalid_as(name, "name is neither a standard finalizer name nor is it fully qualified");
            }
        }
    },
    validate_status: |new, _| {
        let phase = new.get("status.phase");
        let ends = new.get("metadata.deletionTimestamp").present();
        let (wanted, when) = if ends { ("Terminating", "not empty") } else { ("Active", "empty") };
        if !phase.is(wanted) {
            let status = new.get("status");
            status
                .view("Phase", phase.value())
                .invalid(format!("may only be '{wanted}' if `deletionTimestamp` is {when}"));
        }
    },
    status_meta: true,
    ..PLAIN
};

pub(super) const NODE: Strategy = Strategy {
    status_at_creation: true,
    status_meta: true,
    default: |node| {
        // The old name of the first address range of the node's pods.
        let first = node["spec"]["podCIDR"].as_str().unwrap_or_default().to_owned();
        if !first.is_empty() && node["spec"]["podCIDRs"][0] != *first {
            node["spec"]["podCIDRs"] = json!([first]);
        } else if first.is_empty() {
            node["spec"].as_object_mut().and_then(|spec| spec.remove("podCIDRs"));
        }
        for field in ["capacity", "allocatable"] {
            node.pointer_mut(&format!("/status/{field}")).into_iter().for_each(super::defaults::quantities);
        }
        if node["status"]["allocatable"].is_null() && node["status"]["capacity"].is_object() {
            node["status"]["allocatable"] = node["status"]["capacity"].clone();
        }
    },
    validate: |node| {
        // The path of taints is the metadata's.
        let (meta, spec) = (node.get("metadata"), node.get("spec"));
        taints(&meta.view("taints", spec.get("taints").value()));
        amounts(node);
        let list = spec.get("podCIDRs");
        list.each(|cidr| cidr.named(legacy_cidr));
        let family =
            |cidr: &Value| cidr.as_str().and_then(lenient_cidr).map(|(address, _)| address.is_ipv4());
        let same = matches!(list.items(), [one, other] if family(one) == family(other));
        if same || list.items().len() > 2 {
            list.invalid("may specify no more than one CIDR for each IP family");
        }
    },
    validate_update: |new, old| {
        node_changes(new, old);
    },
    validate_status: |new, old| {
        amounts(new);
        node_changes(new, old);
    },
    ..PLAIN
};

fn amounts(node: &At) {
    let status = node.get("status");
    for field in ["capacity", "allocatable"] {
        let map = status.get(field);
        for (name, value) in map.value().as_object().into_iter().flatten() {
            resources::amount(&map.view(name, value), name);
        }
    }
}

fn node_changes(new: &At, old: &Value) {
    let mut seen = HashSet::new();
    new.get("status.addresses").each(|address| {
        if !seen.insert((address.get("type").text(), address.get("address").text())) {
            address.report(|path| {
                Error::duplicate(path, Value::Null).of_type(address.value(), "api.core.v1.NodeAddress")
            });
        }
    });
    let (spec, before) = (new.get("spec"), &old["spec"]);
    let why = "node updates may not change podCIDR except from \"\" to valid";
    let (list, was) = (spec.get("podCIDRs"), items(before, "podCIDRs"));
    if !was.is_empty() && list.items() != was {
        list.forbidden(why);
    }
    let (id, was) = (spec.get("providerID"), before["providerID"].as_str().unwrap_or_default());
    if !was.is_empty() && !id.is(was) {
        id.forbidden("node updates may not change providerID except from \"\" to valid");
    }
}

fn taints(list: &At) {
    let mut seen = HashSet::new();
    list.each(|taint| {
        let (key, value, effect) = (taint.get("key"), taint.get("value"), taint.get("effect"));
        label_name(&key);
        let problems = label_value(value.text());
        if !problems.is_empty() {
            value.invalid(problems.join(";"));
        }
        if effect.need() {
            pods::effect(&effect);
        }
        if !seen.insert((effect.text(), key.text())) {
            taint.report(|path| {
                Error::duplicate(path, taint.value().clone())
                    .of_type(taint.value(), "api.core.v1.Taint")
                    .because("taints must be unique by key and effect pair")
            });
        }
    });
}

pub(super) const RUNTIME_CLASS: Strategy = Strategy {
    validate: |class| {
        class.get("handler").need_named(dns_label);
        class.on("overhead", |overhead| {
            let limits = overhead.get("limits");
            limits.with(overhead.get("podFixed").value()).entries(|name, quantity| {
                resources::container_resource(quantity, name);
                resources::amount(quantity, name);
            });
        });
        class.on("scheduling", |scheduling| {
            labels(&scheduling.get("nodeSelector"));
            let list = scheduling.get("tolerations");
            pods::tolerations(&list);
            let mut seen = HashSet::new();
            list.each(|toleration| {
                let key = ["key", "operator", "value", "effect"].map(|field| toleration.get(field).text());
                if !seen.insert(key) {
                    toleration.report(|path| {
                        Error::duplicate(path, Value::Null)
                            .of_type(toleration.value(), "api.core.v1.Toleration")
                    });
                }
            });
        });
    },
    validate_update: |new, old| new.unchanged_fields(old, &["handler"]),
    ..PLAIN
};

const LEASE_STRATEGY: &str = "OldestEmulationVersion";

/// Leases that are given to whom a strategy prefers are not enabled by default.
fn uncoordinated(lease: &mut Value) {
    if let Some(spec) = lease["spec"].as_object_mut() {
        spec.retain(|name, _| !matches!(name.as_str(), "strategy" | "preferredHolder"));
    }
}

pub(super) const LEASE: Strategy = Strategy {
    prepare_create: uncoordinated,
    prepare_update: |new, _| uncoordinated(new),
    validate: |lease| {
        let spec = lease.get("spec");
        let (duration, transitions) = (spec.get("leaseDurationSeconds"), spec.get("leaseTransitions"));
        if duration.present() && duration.int() <= 0 {
            duration.invalid("must be greater than 0");
        }
        transitions.not_negative();
        spec.on("strategy", lease_strategy);
        let holder = spec.get("preferredHolder");
        if !holder.empty() && spec.get("strategy").empty() {
            holder.forbidden("may only be specified if `strategy` is defined");
        }
    },
    ..PLAIN
};

fn lease_strategy(at: &At) {
    let shown = at.view("strategy", at.value());
    if at.text().contains('/') {
        shown.named(qualified_name);
    } else {
        shown.one_of(&[LEASE_STRATEGY]);
    }
}

/// The numbers of a version such as `1.36.0`.
fn semantic_version(text: &str) -> Option<[u64; 3]> {
    let plain = text.split(['-', '+']).next()?;
    let mut parts = plain.split('.').map(|part| {
        let padded = part.len() > 1 && part.starts_with('0');
        part.parse::<u64>().ok().filter(|_| !padded)
    });
    let version = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(version)
}

pub(super) const LEASE_CANDIDATE: Strategy = Strategy {
    name_rule: config_key,
    validate: |candidate| {
        let spec = candidate.get("spec");
        let (emulated, binary, strategy) =
            (spec.get("emulationVersion"), spec.get("binaryVersion"), spec.get("strategy"));
        spec.get("leaseName").need();
        let emulation = semantic_version(emulated.text());
        if !emulated.empty() && emulation.is_none() {
            emulated.invalid("must be a valid semantic version");
        }
        let own = semantic_version(binary.text());
        if binary.need() && own.is_none() {
            binary.invalid("must be a valid semantic version");
        }
        if !binary.empty() && !emulated.empty() && own.unwrap_or_default() < emulation.unwrap_or_default() {
            binary.invalid("must be greater than or equal to `emulationVersion`");
        }
        if strategy.need() {
            if strategy.is(LEASE_STRATEGY) && emulation.unwrap_or_default() == [0; 3] {
                emulated.required("must be specified when `strategy` is 'OldestEmulationVersion'");
            }
            lease_strategy(&strategy);
        }
    },
    validate_update: |new, old| new.get("spec").unchanged_fields(&old["spec"], &["leaseName"]),
    ..PLAIN
};
