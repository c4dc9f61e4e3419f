//! What namespaces may take: quotas and limits, and namespaces with theirs.

use super::page::Page;
use super::words::{amount, array, quantity, shown};
use api::quantity::Amount;
use serde_json::Value;

/// What a scope matches, in kubectl's words.
const SCOPES: [(&str, &str); 4] = [
    (
        "Terminating",
        "Matches all pods that have an active deadline. These pods have a limited lifespan on a node before being actively terminated by the system.",
    ),
    (
        "NotTerminating",
        "Matches all pods that do not have an active deadline. These pods usually include long running pods whose container command is not expected to terminate.",
    ),
    (
        "BestEffort",
        "Matches all pods that do not have resource requirements set. These pods have a best effort quality of service.",
    ),
    (
        "NotBestEffort",
        "Matches all pods that have at least one resource requirement set. These pods have a burstable or guaranteed quality of service.",
    ),
];

const BOUNDS: [&str; 5] = ["min", "max", "defaultRequest", "default", "maxLimitRequestRatio"];
const LIMITS: &str = "Type\tResource\tMin\tMax\tDefault Request\tDefault Limit\tMax Limit/Request Ratio";

pub(super) fn namespace(page: &mut Page, object: &Value, quotas: &[Value], ranges: &[Value]) {
    page.cluster_head(object);
    page.field(0, "Status", shown(&object["status"]["phase"]));
    page.conditions(&object["status"]["conditions"]);
    page.line(0, "");
    let mut quotas: Vec<&Value> = quotas.iter().collect();
    quotas.sort_by_key(|quota| shown(&quota["metadata"]["name"]));
    page.line(0, if quotas.is_empty() { "No resource quota." } else { "Resource Quotas" });
    for quota in quotas {
        page.field(1, "Name", shown(&quota["metadata"]["name"]));
        scopes(page, 1, "", quota);
        let used = |name: &String, _: &Value| quantity(&quota["status"]["used"][name]);
        amounts(page, 1, "--------\t---\t---", quota, used);
    }
    page.line(0, "");
    if ranges.is_empty() {
        return page.line(0, "No LimitRange resource.");
    }
    page.line(0, "Resource Limits");
    let rows = ranges.iter().flat_map(limits).map(|row| format!(" {row}"));
    let ruled = LIMITS.replace(|sign| sign != '\t', "-");
    page.ruled_table(0, (&format!(" {LIMITS}"), &format!(" {ruled}")), rows);
}

pub(super) fn quota(page: &mut Page, object: &Value) {
    page.name(object);
    scopes(page, 0, " ", object);
    // What is used is shown in the style of what there is.
    let used = |name: &String, hard: &Value| {
        let used = &object["status"]["used"][name];
        let is_binary = |value: &Value| shown(value).ends_with('i');
        match (is_binary(hard), is_binary(used)) {
            (true, false) => Amount::bytes(amount(used).to_units()).to_string(),
            (false, true) => Amount::units(amount(used).to_units()).to_string(),
            _ => quantity(used),
        }
    };
    amounts(page, 0, "--------\t----\t----", object, used);
}

fn scopes(page: &mut Page, depth: usize, margin: &str, quota: &Value) {
    let mut scopes: Vec<String> = array(&quota["spec"]["scopes"]).iter().map(shown).collect();
    scopes.sort();
    page.some(depth, "Scopes", &scopes.join(", ").into());
    for scope in scopes {
        if let Some((_, what)) = SCOPES.iter().find(|(name, _)| *name == scope) {
            page.line(depth, format_args!("{margin}* {what}"));
        }
    }
}

fn amounts(
    page: &mut Page,
    depth: usize,
    ruled: &str,
    quota: &Value,
    used: impl Fn(&String, &Value) -> String,
) {
    let hard = quota["status"]["hard"].as_object().into_iter().flatten();
    let rows = hard.map(|(name, hard)| format!("{name}\t{}\t{}", used(name, hard), quantity(hard)));
    page.ruled_table(depth, ("Resource\tUsed\tHard", ruled), rows);
}

pub(super) fn limit_range(page: &mut Page, object: &Value) {
    page.name(object);
    page.table(0, LIMITS, limits(object));
}

/// A row for each resource of each limit.
fn limits(range: &Value) -> Vec<String> {
    let of = |limit: &Value| {
        let amounts = BOUNDS.iter().flat_map(|bound| limit[*bound].as_object().into_iter().flatten());
        let mut names: Vec<String> = amounts.map(|(name, _)| name.clone()).collect();
        names.sort();
        names.dedup();
        let row = |name: &String| {
            let cells = BOUNDS.map(|bound| match &limit[bound][name] {
                Value::Null => "-".to_owned(),
                amount => quantity(amount),
            });
            format!("{}\t{name}\t{}", shown(&limit["type"]), cells.join("\t"))
        };
        names.iter().map(row).collect::<Vec<String>>()
    };
    array(&range["spec"]["limits"]).iter().flat_map(of).collect()
}
