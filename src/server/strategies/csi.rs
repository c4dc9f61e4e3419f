//! What drivers of storage say of themselves, and attachments of volumes.

use super::pods::volumes;
use super::storage::{MOST_PARAMETER_BYTES, volume_spec};
use super::{Generation, PLAIN, Strategy, default, items};
use api::validate::{Error, dns_subdomain, label_selector, qualified_name};
use serde_json::{Value, json};
use std::collections::HashSet;

pub(super) const DRIVER: Strategy = Strategy {
    generation: Generation::Changes,
    default: |driver| {
        let Some(spec) = driver.get_mut("spec") else { return };
        default(spec, "attachRequired", true);
        for field in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
            default(spec, field, false);
        }
        default(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        default(spec, "volumeLifecycleModes", json!(["Persistent"]));
    },
    validate: |driver| {
        let spec = driver.get("spec");
        spec.get("fsGroupPolicy").one_of_if_set(&["File", "None", "ReadWriteOnceWithFSType"]);
        let mut audiences = HashSet::new();
        spec.get("tokenRequests").each(|request| {
            if !audiences.insert(request.get("audience").text()) {
                return request.get("audience").duplicate();
            }
            let lifetime = request.get("expirationSeconds");
            if lifetime.present() && lifetime.int() < 600 {
                lifetime.invalid("may not specify a duration less than 10 minutes");
            }
            if lifetime.int() > 1 << 32 {
                lifetime.invalid("may not specify a duration larger than 2^32 seconds");
            }
        });
        let modes = spec.get("volumeLifecycleModes");
        for mode in modes.items().iter().filter_map(Value::as_str) {
            if !matches!(mode, "Persistent" | "Ephemeral") {
                modes.report(|path| Error::not_supported(path, mode, &["Persistent", "Ephemeral"]));
            }
        }
        let period = spec.get("nodeAllocatableUpdatePeriodSeconds");
        if period.present() && period.int() < 10 {
            period.invalid("must be greater than or equal to 10 seconds");
        }
        let in_secrets = spec.get("serviceAccountTokenInSecrets");
        if in_secrets.present() && spec.get("tokenRequests").empty() {
            in_secrets.invalid("serviceAccountTokenInSecrets is set but no tokenRequests are specified");
        }
    },
    validate_update: |new, old| {
        let spec = new.get("spec");
        spec.view("attachedRequired", spec.get("attachRequired").value())
            .unchanged(&old["spec"]["attachRequired"]);
        spec.unchanged_fields(&old["spec"], &["volumeLifecycleModes"]);
    },
    ..PLAIN
};

pub(super) const NODE: Strategy = Strategy {
    validate: |node| {
        let mut seen = HashSet::new();
        node.get("spec.drivers").each(|driver| {
            volumes::csi_driver(&driver.get("name"));
            let id = driver.get("nodeID");
            id.need();
            if id.text().len() > 256 {
                id.invalid("must be 256 characters or less");
            }
            driver.get("allocatable.count").not_negative();
            driver.get("name").unique(&mut seen);
            let mut keys = HashSet::new();
            for key in driver.get("topologyKeys").items().iter().filter_map(Value::as_str) {
                if key.is_empty() {
                    driver.required("");
                }
                if !keys.insert(key) {
                    driver.report(|path| Error::duplicate(path, key));
                }
                driver.named_as(key, qualified_name);
            }
        });
    },
    validate_update: |new, old| {
        let spec = new.get("spec");
        let drivers = spec.get("drivers");
        let but_count = |driver: &Value| {
            let mut driver = driver.clone();
            driver.as_object_mut().and_then(|driver| driver.remove("allocatable"));
            driver
        };
        for before in items(&old["spec"], "drivers") {
            for now in drivers.items().iter().filter(|now| now["name"] == before["name"]) {
                if but_count(now) != but_count(before) {
                    drivers.report(|path| {
                        Error::invalid(path, Value::Null, "field is immutable")
                            .of_type(&but_count(now), "api.storage.v1.CSINodeDriver")
                    });
                }
            }
        }
    },
    ..PLAIN
};

pub(super) const CAPACITY: Strategy = Strategy {
    validate: |capacity| {
        label_selector(&capacity.get("nodeTopology"));
        capacity.get("storageClassName").named(dns_subdomain);
        if capacity.get("capacity").quantity().is_negative() {
            capacity.get("capacity").invalid("must be greater than or equal to 0");
        }
    },
    validate_update: |new, old| new.unchanged_fields(old, &["nodeTopology", "storageClassName"]),
    ..PLAIN
};

const MOST_ERROR_BYTES: usize = 1024;

pub(super) const ATTACHMENT: Strategy = Strategy {
    validate: |attachment| {
        let spec = attachment.get("spec");
        volumes::csi_driver(&spec.get("attacher"));
        let (source, name) = (spec.get("source"), spec.get("source.persistentVolumeName"));
        let inline = source.get("inlineVolumeSpec");
        let why = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
        match (inline.present(), name.present()) {
            (false, false) => source.required(why),
            (true, true) => source.forbidden(why),
            (false, true) => drop(name.need_because("must specify non empty persistentVolumeName")),
            (true, false) => volume_spec(&inline, "", true),
        }
        spec.get("nodeName").named(dns_subdomain);
        let status = attachment.get("status");
        for field in ["attachError", "detachError"] {
            status.on(field, |error| {
                if error.get("message").text().len() > MOST_ERROR_BYTES {
                    error.get("message").report(|path| Error::too_long(path, MOST_PARAMETER_BYTES));
                }
                if error.get("errorCode").int() < 0 {
                    error.get("errorCode").within(0, i64::from(i32::MAX));
                }
            });
        }
        if name.present() {
            name.named(dns_subdomain);
        }
    },
    validate_update: |new, old| {
        new.get("spec").unchanged_type(&old["spec"], "api.storage.v1.VolumeAttachmentSpec");
    },
    ..PLAIN
};
