//! ConfigMaps, Secrets, service accounts.

use super::{PLAIN, Strategy, default_zero, items_mut, text};
use api::secrets::{ACCOUNT, TOKEN};
use api::validate::{At, Error, config_key, go_kind, go_syntax};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// The most data a ConfigMap or Secret may hold.
const DATA_BYTES: usize = 1 << 20;

pub(super) const CONFIG_MAP: Strategy = Strategy {
    validate: |map| {
        let mut size = 0;
        map.get("data").entries(|key, value| {
            value.named_as(key, config_key);
            if map.get("binaryData").key(key).present() {
                value.invalid_as(key, "duplicate of key present in binaryData");
            }
            size += value.text().len();
        });
        map.get("binaryData").entries(|key, value| {
            value.named_as(key, config_key);
            size += decoded_bytes(value.text());
        });
        if size > DATA_BYTES {
            map.report(|path| Error::too_long(path, DATA_BYTES));
        }
    },
    validate_update: |new, old| fixed(new, old, &["data", "binaryData"]),
    changes: super::Changes::Before,
    ..PLAIN
};

pub(super) const SECRET: Strategy = Strategy {
    default: |secret| {
        default_zero(secret, "type", "Opaque");
        let plain = secret.as_object_mut().and_then(|fields| fields.remove("stringData"));
        for (key, value) in plain.as_ref().and_then(Value::as_object).into_iter().flatten() {
            secret["data"][key] = Value::from(STANDARD.encode(value.as_str().unwrap_or_default()));
        }
    },
    validate: secret,
    validate_update: |new, old| {
        new.unchanged_fields(old, &["type"]);
        fixed(new, old, &["data"]);
    },
    changes: super::Changes::Before,
    ..PLAIN
};

pub(super) const SERVICE_ACCOUNT: Strategy =
    Strategy { prepare_create: names_only, prepare_update: |account, _| names_only(account), ..PLAIN };

fn names_only(account: &mut Value) {
    for secret in items_mut(account, "secrets") {
        *secret = json!({"name": text(secret, "name")});
    }
}

/// Without padding and line ends, three bytes are four letters.
fn decoded_bytes(text: &str) -> usize {
    text.trim_end_matches('=').len() * 3 / 4
}

/// What has been made immutable stays so, and as it is.
fn fixed(new: &At, old: &Value, fields: &[&str]) {
    const WHY: &str = "field is immutable when `immutable` is set";
    if old["immutable"] != true {
        return;
    }
    if !new.get("immutable").yes() {
        new.get("immutable").forbidden(WHY);
    }
    for field in fields.iter().filter(|field| *new.get(field).value() != old[**field]) {
        new.get(field).forbidden(WHY);
    }
}

fn secret(secret: &At) {
    let data = secret.get("data");
    let mut size = 0;
    data.entries(|key, value| {
        value.named_as(key, config_key);
        size += decoded_bytes(value.text());
    });
    if size > DATA_BYTES {
        data.report(|path| Error::too_long(path, DATA_BYTES));
    }
    match secret.get("type").text() {
        TOKEN => {
            let annotations = secret.get("metadata.annotations");
            annotations.key(ACCOUNT).need();
        }
        "kubernetes.io/dockercfg" => json_object(&data.key(".dockercfg")),
        "kubernetes.io/dockerconfigjson" => json_object(&data.key(".dockerconfigjson")),
        "kubernetes.io/basic-auth" => {
            let (name, password) = (data.key("username"), data.key("password"));
            if !name.present() && !password.present() {
                name.required("");
                password.required("");
            }
        }
        "kubernetes.io/ssh-auth" => {
            data.key("ssh-privatekey").need();
        }
        "kubernetes.io/tls" => {
            for key in ["tls.crt", "tls.key"] {
                data.key(key).need_present();
            }
        }
        _ => {}
    }
}

/// A value that has to be JSON; its contents are not repeated.
fn json_object(at: &At) {
    if !at.need_present() {
        return;
    }
    let bytes = STANDARD.decode(at.text()).unwrap_or_default();
    let problem = match serde_json::from_slice::<Value>(&bytes) {
        Ok(Value::Object(_) | Value::Null) => return,
        Ok(other) => format!(
            "json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
            go_kind(&other)
        ),
        Err(error) => go_syntax(&bytes, &error),
    };
    at.invalid_as("<secret contents redacted>", problem);
}
