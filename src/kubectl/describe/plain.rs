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

pub(super) fn namespace(page: &mut Page, object: &Value) {
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
}
