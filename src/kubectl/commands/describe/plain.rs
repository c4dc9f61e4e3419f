//! ConfigMaps, Secrets, ServiceAccounts.

use super::page::Page;
use super::words::{array, shown};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

pub(super) fn config_map(page: &mut Page, object: &Value) {
    page.head(object);
    page.line(0, "\nData\n====");
    for (key, value) in object["data"].as_object().into_iter().flatten() {
        page.line(0, format_args!("{key}:\n----\n{}\n", shown(value)));
    }
    page.line(0, "\nBinaryData\n====");
    for (key, value) in object["binaryData"].as_object().into_iter().flatten() {
        page.line(0, format_args!("{key}: {} bytes", bytes(value).len()));
    }
    page.line(0, "");
}

/// Sizes only: contents are secret. A service account's token is what people look for there, and is shown as kubectl
/// does.
pub(super) fn secret(page: &mut Page, object: &Value) {
    page.head(object);
    page.line(0, format_args!("\nType:\t{}\n\nData\n====", shown(&object["type"])));
    for (key, value) in object["data"].as_object().into_iter().flatten() {
        let bytes = bytes(value);
        if key == "token" && object["type"] == "kubernetes.io/service-account-token" {
            page.field(0, key, String::from_utf8_lossy(&bytes));
        } else {
            page.field(0, key, format_args!("{} bytes", bytes.len()));
        }
    }
}

fn bytes(value: &Value) -> Vec<u8> {
    STANDARD.decode(shown(value)).unwrap_or_default()
}

pub(super) fn service_account(page: &mut Page, object: &Value) {
    page.head(object);
    let secrets: Vec<String> =
        array(&object["imagePullSecrets"]).iter().map(|secret| shown(&secret["name"])).collect();
    page.many(0, "Image pull secrets", &secrets);
}
