//! Quotas, ranges, disruption budgets, priorities.

use super::pods::resources::{self, container_resource, quota_resource, resource_name};
use super::{Changes, Generation, PLAIN, Strategy, default, defaults, items, items_mut};
use api::quantity::Amount;
use api::validate::{At, Error, conditions, label_selector, path_segment, percent, qualified_name};
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashSet};

pub(super) const RESOURCE_QUOTA: Strategy = Strategy {
    default: |quota| {
        for pointer in ["/spec/hard", "/status/hard", "/status/used"] {
            quota.pointer_mut(pointer).into_iter().for_each(defaults::quantities);
        }
    },
    prepare_create: |quota| quota["status"] = json!({}),
    validate: |quota| {
        let spec = quota.get("spec");
        hard(&spec.get("hard"));
        scopes(&spec);
    },
    validate_update: |new, old| {
        let set = |spec: &Value| -> BTreeSet<String> {
            items(spec, "scopes").iter().map(ToString::to_string).collect()
        };
        let spec = new.get("spec");
        if set(spec.value()) != set(&old["spec"]) {
            spec.get("scopes").invalid("field is immutable");
        }
    },
    validate_status: |new, _| {
        hard(&new.get("status.hard"));
        hard(&new.get("status.used"));
    },
    status_meta: true,
    ..PLAIN
};

fn hard(map: &At) {
    map.entries(|name, quantity| {
        quota_resource(quantity, name);
        resources::amount(quantity, name);
    });
}

const OF_PODS: [&str; 7] =
    ["pods", "cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];
const SCOPES: [&str; 7] = [
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
];
const OPPOSITES: [[&str; 2]; 2] = [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]];

fn fits_scope(scope: &str, resource: &str) -> bool {
    match scope {
        "Terminating"
        | "NotTerminating"
        | "NotBestEffort"
        | "PriorityClass"
        | "CrossNamespacePodAffinity" => OF_PODS.contains(&resource),
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => matches!(resource, "persistentvolumeclaims" | "requests.storage"),
        _ => true,
    }
}

fn is_quota_resource(name: &str) -> bool {
    let probe = json!({});
    let sink = api::validate::Sink::default();
    quota_resource(&At::new(&probe, &sink), name);
    !name.contains('/') && sink.into_errors().is_empty()
}

fn scopes(spec: &At) {
    let (list, hard) = (spec.get("scopes"), spec.get("hard"));
    let names = || hard.value().as_object().into_iter().flatten().map(|(name, _)| name.as_str());
    let misfits =
        |scope: &str| names().filter(|name| is_quota_resource(name) && !fits_scope(scope, name)).count();
    let words: Vec<&str> = list.items().iter().filter_map(Value::as_str).collect();
    let conflict = |words: &[&str], at: &At| {
        for _ in OPPOSITES.iter().filter(|pair| pair.iter().all(|one| words.contains(one))) {
            at.invalid_as(list.value().clone(), "conflicting scopes");
        }
    };
    for word in &words {
        if !SCOPES.contains(word) {
            list.invalid("unsupported scope");
        }
        (0..misfits(word)).for_each(|_| list.invalid("unsupported scope applied to resource"));
    }
    conflict(&words, &list);
    let expressions = spec.get("scopeSelector.matchExpressions");
    for expression in expressions.items() {
        let at = expressions.with(expression);
        let (scope, operator, values) = (at.get("scopeName"), at.get("operator"), at.get("values"));
        if !SCOPES.contains(&scope.text()) {
            scope.invalid("unsupported scope");
        }
        (0..misfits(scope.text())).for_each(|_| {
            let selector = spec.get("scopeSelector");
            expressions.report(|path| {
                Error::invalid(path, Value::Null, "unsupported scope applied to resource")
                    .of_type(selector.value(), "api.core.v1.ScopeSelector")
            });
        });
        if SCOPES[..6].contains(&scope.text()) && !scope.is("PriorityClass") && !operator.is("Exists") {
            operator.invalid("must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity");
        }
        match operator.text() {
            "In" | "NotIn" => {
                values.need_because(
                    "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
                );
            }
            "Exists" | "DoesNotExist" if !values.empty() => {
                values.invalid(
                    "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
                );
            }
            "Exists" | "DoesNotExist" => {}
            word => operator.invalid_as(word, "not a valid selector operator"),
        }
    }
    let words: Vec<&str> =
        expressions.items().iter().filter_map(|expression| expression["scopeName"].as_str()).collect();
    conflict(&words, &expressions);
}

const AMOUNTS: [&str; 5] = ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"];

pub(super) const LIMIT_RANGE: Strategy = Strategy {
    prepare_create: |range| {
        if range["metadata"]["name"].as_str().unwrap_or_default().is_empty() {
            range["metadata"]["name"] = json!(base::random::uuid());
        }
    },
    default: |range| {
        let Some(spec) = range.get_mut("spec") else { return };
        for item in items_mut(spec, "limits") {
            for field in AMOUNTS {
                item.get_mut(field).into_iter().for_each(defaults::quantities);
            }
            if item["type"] == "Container" {
                for (to, from) in
                    [("default", "max"), ("defaultRequest", "default"), ("defaultRequest", "min")]
                {
                    for (name, value) in item[from].as_object().cloned().unwrap_or_default() {
                        default(item, to, json!({}));
                        default(&mut item[to], &name, value);
                    }
                }
            }
        }
    },
    validate: |range| {
        let mut seen = HashSet::new();
        range.get("spec.limits").each(|limit| {
            let kind = limit.get("type");
            let before = kind.errors();
            kind.named(qualified_name);
            let standard = ["Pod", "Container", "PersistentVolumeClaim"].contains(&kind.text());
            if kind.errors() == before && !kind.text().contains('/') && !standard {
                kind.invalid("must be a standard limit type or fully qualified");
            }
            kind.unique(&mut seen);
            limit_amounts(limit);
        });
    },
    ..PLAIN
};

fn limit_amounts(limit: &At) {
    let kind = limit.get("type").text();
    let name_rule = |at: &At, name: &str| match kind {
        "Pod" | "Container" => container_resource(at, name),
        _ => drop(resource_name(at, name)),
    };
    let mut names: BTreeSet<&str> = BTreeSet::new();
    for field in AMOUNTS {
        let map = limit.get(field);
        if kind == "Pod" && field.starts_with("default") {
            if !map.empty() {
                map.forbidden("may not be specified when `type` is 'Pod'");
            }
            continue;
        }
        if kind == "PersistentVolumeClaim" && field == "maxLimitRequestRatio" {
            let given = ["min", "max"].iter().any(|field| limit.get(field).key("storage").present());
            if !given {
                limit.get("limits").required(
                    "either minimum or maximum storage value is required, but neither was provided",
                );
            }
        }
        map.entries(|name, quantity| {
            name_rule(quantity, name);
            names.insert(name);
        });
    }
    names.into_iter().for_each(|name| compare_limits(limit, name));
}

fn compare_limits(limit: &At, name: &str) {
    let [max, min, given, request, ratio] = AMOUNTS.map(|field| limit.value()[field][name].clone());
    let amount = |value: &Value| value.as_str().and_then(|text| api::quantity::parse(text).ok());
    let above =
        |low: &Value, high: &Value| amount(low).zip(amount(high)).is_some_and(|(low, high)| low > high);
    let tell = |field: &str, shown: &Value, detail: String| {
        let at = limit.get(field);
        at.key(name).invalid_as(shown.clone(), detail);
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let pairs: [(&Value, &Value, &str, &Value, &str, &str); 6] = [
        (&min, &max, "min", &min, "min", "max"),
        (&min, &request, "defaultRequest", &request, "min", "default request"),
        (&request, &max, "defaultRequest", &request, "default request", "max"),
        (&request, &given, "defaultRequest", &request, "default request", "default limit"),
        (&min, &given, "default", &min, "min", "default"),
        (&given, &max, "default", &max, "default", "max"),
    ];
    for (low, high, field, shown, what, than) in pairs {
        if above(low, high) {
            let detail = format!("{what} value {} is greater than {than} value {}", text(low), text(high));
            tell(field, shown, detail);
        }
    }
    if let Some(times) = amount(&ratio) {
        if times < Amount::units(1) {
            tell("maxLimitRequestRatio", &ratio, format!("ratio {} is less than 1", text(&ratio)));
        }
        if let Some((low, high)) = amount(&min).zip(amount(&max)) {
            let most = high.to_milli() as f64 / low.to_milli() as f64;
            if times.to_milli() as f64 / 1000.0 > most {
                let detail = format!("ratio {} is greater than max/min = {most:.6}", text(&ratio));
                tell("maxLimitRequestRatio", &ratio, detail);
            }
        }
    }
    if let Some((given_amount, requested)) = amount(&given).zip(amount(&request))
        && !resources::is_overcommitted(name)
        && given_amount != requested
    {
        let detail = format!(
            "default value {} must equal to defaultRequest value {} in {name}",
            text(&given),
            text(&request)
        );
        tell("defaultRequest", &request, detail);
    }
}

/// A number that is not negative, or a percentage of 100 at most.
fn portion(at: &At) {
    match at.value() {
        Value::Null => {}
        Value::String(text) => {
            at.named(percent);
            if text.strip_suffix('%').and_then(|text| text.parse::<u64>().ok()).is_some_and(|part| part > 100)
            {
                at.invalid("must not be greater than 100%");
            }
        }
        _ => at.not_negative(),
    }
}

pub(super) const DISRUPTION_BUDGET: Strategy = Strategy {
    name_rule: path_segment,
    validate: |budget| {
        let spec = budget.get("spec");
        let (min, max) = (spec.get("minAvailable"), spec.get("maxUnavailable"));
        if min.present() && max.present() {
            spec.invalid_type(
                "api.policy.v1.PodDisruptionBudgetSpec",
                "minAvailable and maxUnavailable cannot be both set",
            );
        }
        portion(&min);
        portion(&max);
        label_selector(&spec.get("selector"));
        spec.get("unhealthyPodEvictionPolicy").one_of_if_set(&["AlwaysAllow", "IfHealthyBudget"]);
    },
    validate_status: |new, _| {
        conditions(&new.get("status.conditions"));
        new.get("status").none_negative(&[
            "disruptionsAllowed",
            "currentHealthy",
            "desiredHealthy",
            "expectedPods",
        ]);
    },
    generation: Generation::Counted,
    status_meta: true,
    ..PLAIN
};

const HIGHEST: i64 = 1_000_000_000;
const SYSTEM: [(&str, i64); 2] =
    [("system-node-critical", 2 * HIGHEST + 1000), ("system-cluster-critical", 2 * HIGHEST)];

pub(super) const PRIORITY_CLASS: Strategy = Strategy {
    default: |class| default(class, "preemptionPolicy", "PreemptLowerPriority"),
    validate: |class| {
        let (name, value) = (class.get("metadata.name"), class.get("value"));
        if name.text().starts_with("system-") {
            let known = SYSTEM.iter().find(|(known, _)| name.is(known));
            let why = match known {
                None => format!("{} is not a known system priority class", name.text()),
                Some((known, fixed)) if value.int() != *fixed => {
                    format!("value of {known} PriorityClass must be {fixed}")
                }
                Some((known, _)) if class.get("globalDefault").yes() => {
                    format!("globalDefault of {known} PriorityClass must be false")
                }
                Some(_) => return,
            };
            name.forbidden(format!(
                "priority class names with 'system-' prefix are reserved for system use only. error: {why}"
            ));
        } else if value.int() > HIGHEST {
            value.forbidden(format!("maximum allowed value of a user defined priority is {HIGHEST}"));
        }
        class.on("preemptionPolicy", |policy| policy.need_one_of(&["PreemptLowerPriority", "Never"]));
    },
    validate_update: |new, old| {
        if *new.get("value").value() != old["value"] {
            new.get("value").forbidden("may not be changed in an update.");
        }
        new.unchanged_fields(old, &["preemptionPolicy"]);
    },
    changes: Changes::Only,
    generation: Generation::Fixed,
    ..PLAIN
};
