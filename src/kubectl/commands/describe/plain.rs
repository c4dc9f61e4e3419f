//! ConfigMaps, Secrets and Namespaces.

use super::page::{Page, array, shown, time};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

pub(super) fn config_map(page: &mut Page, object: &Value) {
    page.head(object);
    page.line(0, "");
    page.line(0, "Data");
    page.line(0, "====");
    for (key, value) in object["data"].as_object().into_iter().flatten() {
        page.line(0, &format!("{key}:"));
        page.line(0, "----");
        // Tabs in a text would be taken for columns.
        page.line(0, &shown(value).replace('\t', "        "));
        page.line(0, "");
    }
    page.line(0, "");
    page.line(0, "BinaryData");
    page.line(0, "====");
    for (key, value) in object["binaryData"].as_object().into_iter().flatten() {
        page.line(0, &format!("{key}: {} bytes", bytes(value)));
    }
    page.line(0, "");
}

/// Sizes only: contents are secret.
pub(super) fn secret(page: &mut Page, object: &Value) {
    page.head(object);
    page.line(0, "");
    page.field(0, "Type", shown(&object["type"]));
    page.line(0, "");
    page.line(0, "Data");
    page.line(0, "====");
    for (key, value) in object["data"].as_object().into_iter().flatten() {
        page.field(0, key, format!("{} bytes", bytes(value)));
    }
}

fn bytes(value: &Value) -> usize {
    STANDARD.decode(shown(value)).map_or(0, |bytes| bytes.len())
}

pub(super) fn namespace(page: &mut Page, object: &Value, quotas: &[Value], ranges: &[Value]) {
    page.head(object);
    page.field(0, "Status", shown(&object["status"]["phase"]));
    let row = |condition: &Value| {
        let text = |field: &str| shown(&condition[field]);
        vec![
            text("type"),
            text("status"),
            time(&condition["lastTransitionTime"]),
            text("reason"),
            text("message"),
        ]
    };
    let rows: Vec<Vec<String>> = array(&object["status"]["conditions"]).iter().map(row).collect();
    if !rows.is_empty() {
        page.rows("Conditions", &["Type", "Status", "LastTransitionTime", "Reason", "Message"], &rows);
    }
    self::quotas(page, quotas);
    limit_ranges(page, ranges);
}

fn quotas(page: &mut Page, quotas: &[Value]) {
    page.line(0, "");
    if quotas.is_empty() {
        return page.line(0, "No resource quota.");
    }
    page.line(0, "Resource Quotas");
    for quota in quotas {
        page.field(1, "Name", shown(&quota["metadata"]["name"]));
        page.line(1, "Resource\tUsed\tHard");
        page.line(1, "--------\t---\t---");
        for (name, hard) in quota["status"]["hard"].as_object().into_iter().flatten() {
            page.line(1, &format!("{name}\t{}\t{}", shown(&quota["status"]["used"][name]), shown(hard)));
        }
    }
}

fn limit_ranges(page: &mut Page, ranges: &[Value]) {
    page.line(0, "");
    if ranges.is_empty() {
        return page.line(0, "No LimitRange resource.");
    }
    page.line(0, "Resource Limits");
    page.line(1, "Type\tResource\tMin\tMax\tDefault Request\tDefault Limit\tMax Limit/Request Ratio");
    page.line(1, "----\t--------\t---\t---\t---------------\t-------------\t-----------------------");
    const BOUNDS: [&str; 5] = ["min", "max", "defaultRequest", "default", "maxLimitRequestRatio"];
    for limit in ranges.iter().flat_map(|range| array(&range["spec"]["limits"])) {
        let mut names: Vec<&String> = BOUNDS
            .iter()
            .flat_map(|bound| limit[*bound].as_object().into_iter().flatten())
            .map(|(name, _)| name)
            .collect();
        names.sort();
        names.dedup();
        for name in names {
            let cells = BOUNDS.map(|bound| match shown(&limit[bound][name]) {
                amount if amount.is_empty() => "-".to_owned(),
                amount => amount,
            });
            page.line(1, &format!("{}\t{name}\t{}", shown(&limit["type"]), cells.join("\t")));
        }
    }
}
