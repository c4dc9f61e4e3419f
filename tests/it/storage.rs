//! Storage: claims, volumes, and who provides and attaches them; and claims of devices, which go alike. One cluster has a node and its class
//! `local-path`; the other is a control plane, where the test plays provisioners, attachers and kubelets.

mod claims;
mod csi;
mod devices;
mod disks;
mod dra;
mod local_path;
mod volumes;

use crate::support::https::{Https, JSON, MERGE};
use serde_json::Value;

fn get(https: &Https, path: &str) -> (u16, Value) {
    https.call("GET", path)
}

#[track_caller]
fn made(https: &Https, path: &str, object: &Value) -> Value {
    let (code, answer) = https.send("POST", path, JSON, object);
    assert_eq!(code, 201, "{answer}");
    answer
}

#[track_caller]
fn patched(https: &Https, path: &str, patch: &Value) -> Value {
    let (code, answer) = https.send("PATCH", path, MERGE, patch);
    assert_eq!(code, 200, "{answer}");
    answer
}
