//! Volumes of the cluster, claims of them, and how they are provided.

use super::pods::{self, resources, volumes};
use super::{Changes, PLAIN, Strategy, default, defaults, items};
use api::validate::{At, Error, dns_label, dns_subdomain, label_name, label_selector, qualified_name};
use serde_json::{Value, json};
use std::collections::HashSet;
use volumes::{Source, needs};

pub(super) const CLAIM: Strategy = Strategy {
    default: |claim| {
        claim.get_mut("spec").into_iter().for_each(defaults::claim_spec);
        if claim["status"].is_object() {
            default(&mut claim["status"], "phase", "Pending");
        }
    },
    prepare_create: |claim| {
        claim["status"] = json!({"phase": "Pending"});
        protect(claim, "kubernetes.io/pvc-protection");
        same_sources(&mut claim["spec"]);
    },
    prepare_update: |claim, _| same_sources(&mut claim["spec"]),
    validate: |claim| claim_spec(&claim.get("spec")),
    validate_update: claim_update,
    validate_status: |new, _| {
        new.get("status.capacity").entries(|_, quantity| basic(quantity));
        let states = [
            "ControllerResizeInProgress",
            "ControllerResizeInfeasible",
            "NodeResizePending",
            "NodeResizeInProgress",
            "NodeResizeInfeasible",
        ];
        new.get("status.allocatedResourceStatuses").entries(|_, state| state.one_of(&states));
        new.get("status.allocatedResources").entries(|name, quantity| resources::amount(quantity, name));
    },
    status_meta: true,
    ..PLAIN
};

pub(super) const VOLUME: Strategy = Strategy {
    default: |volume| {
        let Some(spec) = volume.get_mut("spec") else { return };
        super::default_zero(spec, "persistentVolumeReclaimPolicy", "Retain");
        default(spec, "volumeMode", "Filesystem");
        spec.get_mut("capacity").into_iter().for_each(defaults::quantities);
        defaults::volume_source(spec);
    },
    prepare_create: |volume| {
        volume["status"] =
            json!({"phase": "Pending", "lastPhaseTransitionTime": crate::registry::timestamp()});
        protect(volume, "kubernetes.io/pv-protection");
    },
    prepare_status: |new, old| {
        let field = "lastPhaseTransitionTime";
        let moved = new["status"]["phase"] != old["status"]["phase"];
        if moved && (new["status"][field].is_null() || new["status"][field] == old["status"][field]) {
            new["status"][field] = json!(crate::registry::timestamp());
        } else if !moved && new["status"][field].is_null() && !old["status"][field].is_null() {
            new["status"][field] = old["status"][field].clone();
        }
    },
    validate: |volume| volume_spec(&volume.get("spec"), volume.get("metadata.name").text(), false),
    validate_update: |new, old| {
        let spec = new.get("spec");
        let sources = |spec: &Value| {
            let names = VOLUME_SOURCES.iter().map(|(name, ..)| *name);
            names.map(|name| spec[name].clone()).collect::<Vec<_>>()
        };
        let mut now = spec.value().clone();
        if old["spec"]["csi"]["controllerExpandSecretRef"].is_null() {
            now.get_mut("csi")
                .and_then(Value::as_object_mut)
                .and_then(|csi| csi.remove("controllerExpandSecretRef"));
        }
        if sources(&now) != sources(&old["spec"]) {
            spec.get("persistentvolumesource")
                .forbidden("spec.persistentvolumesource is immutable after creation\n");
        }
        new.view("volumeMode", spec.get("volumeMode").value()).unchanged(&old["spec"]["volumeMode"]);
        let affinity = &old["spec"]["nodeAffinity"];
        if !affinity.is_null() && spec.get("nodeAffinity").value() != affinity {
            new.view("nodeAffinity", spec.get("nodeAffinity").value()).invalid_type(
                "api.core.v1.VolumeNodeAffinity",
                "field is immutable, except for updating from beta label to GA",
            );
        }
        let class = spec.get("volumeAttributesClassName");
        if !class.present() && !old["spec"]["volumeAttributesClassName"].is_null() {
            class.forbidden("update from non-nil value to nil is forbidden");
        }
    },
    status_meta: true,
    ..PLAIN
};

fn protect(object: &mut Value, finalizer: &str) {
    let mut finalizers = items(&object["metadata"], "finalizers").to_vec();
    if !finalizers.contains(&json!(finalizer)) {
        finalizers.push(json!(finalizer));
    }
    object["metadata"]["finalizers"] = Value::Array(finalizers);
}

const MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

fn access_modes(spec: &At, why: &str) {
    let modes = spec.get("accessModes");
    modes.need_because(why);
    let words: Vec<&str> = modes.items().iter().filter_map(Value::as_str).collect();
    for word in words.iter().filter(|word| !MODES.contains(word)) {
        modes.report(|path| Error::not_supported(path, *word, &MODES));
    }
    let one_pod = words.contains(&"ReadWriteOncePod");
    if one_pod && words.iter().any(|word| *word != "ReadWriteOncePod" && MODES.contains(word)) {
        modes.forbidden("may not use ReadWriteOncePod with other access modes");
    }
}

/// A data source is also a data source reference, and the other way round.
fn same_sources(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    // Sources of other kinds are dropped where they were always ignored.
    let known = |source: &Value| {
        let group = source["apiGroup"].as_str().unwrap_or_default();
        matches!(
            (group, source["kind"].as_str().unwrap_or_default()),
            ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
        )
    };
    let (source, reference) = (spec["dataSource"].clone(), spec["dataSourceRef"].clone());
    if !source.is_null() && reference.is_null() {
        if known(&source) {
            spec["dataSourceRef"] = source;
        } else {
            spec.as_object_mut().and_then(|spec| spec.remove("dataSource"));
        }
    } else if source.is_null()
        && !reference.is_null()
        && reference["namespace"].as_str().unwrap_or_default().is_empty()
    {
        let mut source = reference;
        source.as_object_mut().and_then(|source| source.remove("namespace"));
        spec["dataSource"] = source;
    }
    for field in ["dataSource", "dataSourceRef"] {
        if spec[field].is_null() {
            spec.as_object_mut().and_then(|spec| spec.remove(field));
        }
    }
}

/// `spec` of a claim.
pub(super) fn claim_spec(spec: &At) {
    access_modes(spec, "at least 1 access mode is required");
    label_selector(&spec.get("selector"));
    let requests = spec.get("resources.requests");
    let (resources, size) = (spec.get("resources"), requests.key("storage"));
    let shown = resources.key("storage").with(size.value());
    if !size.present() {
        shown.required("");
    } else if size.quantity() <= api::quantity::Amount::units(0) {
        shown.invalid("must be greater than zero");
    }
    spec.get("storageClassName").named_if_set(dns_subdomain);
    spec.get("volumeMode").one_of_if_set(&["Block", "Filesystem"]);
    let (source, reference) = (spec.get("dataSource"), spec.get("dataSourceRef"));
    source.on_self(data_source);
    reference.on_self(|reference| {
        data_source(reference);
        reference.get("namespace").named_if_set(dns_label);
    });
    if source.present() && reference.present() {
        let same = |field: &str| source.get(field).value() == reference.get(field).value();
        // What is told is the path, which is an empty object in JSON.
        let path = json!({});
        if !reference.get("namespace").empty() {
            spec.invalid_as(path.clone(), "may not be specified when dataSourceRef.namespace is specified");
        } else if !["apiGroup", "kind", "name"].into_iter().all(same) {
            spec.invalid_as(path, "must match dataSourceRef");
        }
    }
    spec.get("volumeAttributesClassName").named_if_set(dns_subdomain);
}

fn data_source(at: &At) {
    needs(at, &["name", "kind"]);
    let (group, kind) = (at.get("apiGroup"), at.get("kind"));
    if group.empty() && !kind.is("PersistentVolumeClaim") {
        at.invalid_as(kind.text(), "must be 'PersistentVolumeClaim' when referencing the default apiGroup");
    }
    group.named_if_set(dns_subdomain);
}

fn basic(quantity: &At) {
    if quantity.quantity().is_negative() {
        quantity.invalid_as(quantity.quantity().to_units(), "must be a valid resource quantity");
    }
}

fn claim_update(new: &At, old: &Value) {
    let (spec, before) = (new.get("spec"), &old["spec"]);
    let bound = new.get("status.phase").is("Bound");
    let mut now = spec.value().clone();
    let keep = |now: &mut Value, field: &str| match before.get(field) {
        Some(value) => now[field] = value.clone(),
        None => drop(now.as_object_mut().and_then(|now| now.remove(field))),
    };
    if before["volumeName"].as_str().unwrap_or_default().is_empty() {
        keep(&mut now, "volumeName");
    }
    if before["storageClassName"].is_null() {
        keep(&mut now, "storageClassName");
    }
    if bound {
        now["resources"]["requests"]["storage"] = before["resources"]["requests"]["storage"].clone();
        keep(&mut now, "volumeAttributesClassName");
    }
    if now != *before {
        spec.forbidden("spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n");
    }
    let amount = |value: &Value| {
        api::quantity::parse(value.as_str().unwrap_or_default()).unwrap_or(api::quantity::Amount::units(0))
    };
    let size = spec.get("resources.requests.storage");
    let (wanted, granted) = (size.quantity(), amount(&old["status"]["capacity"]["storage"]));
    if wanted < amount(&before["resources"]["requests"]["storage"]) && wanted <= granted {
        size.forbidden("field can not be less than status.capacity");
    }
    new.view("volumeMode", spec.get("volumeMode").value()).unchanged(&before["volumeMode"]);
    let class = spec.get("volumeAttributesClassName");
    let current = !old["status"]["currentVolumeAttributesClassName"].is_null();
    if current && *class.value() != before["volumeAttributesClassName"] && class.empty() {
        let what = if class.present() { "empty string" } else { "nil" };
        class.forbidden(format!(
            "update to {what} is forbidden when status.currentVolumeAttributesClassName is not nil"
        ));
    }
}

/// The sources of volumes of the cluster, in the order in which they are looked for.
const VOLUME_SOURCES: &[Source] = &[
    ("hostPath", "hostPath", volumes::host_path),
    ("gcePersistentDisk", "persistentDisk", volumes::gce),
    ("awsElasticBlockStore", "awsElasticBlockStore", volumes::aws),
    ("glusterfs", "glusterfs", |at| {
        needs(at, &["endpoints", "path"]);
        at.on("endpointsNamespace", |space| {
            if space.empty() {
                space.invalid("if the endpointnamespace is set, it must be a valid namespace name");
            } else {
                space.named(dns_label);
            }
        });
    }),
    ("flocker", "flocker", volumes::flocker),
    ("nfs", "nfs", volumes::nfs),
    ("rbd", "rbd", |at| needs(at, &["monitors", "image"])),
    ("quobyte", "quobyte", volumes::quobyte),
    ("cephfs", "cephfs", |at| needs(at, &["monitors"])),
    ("iscsi", "iscsi", |at| volumes::iscsi(at, true)),
    ("cinder", "cinder", |at| {
        needs(at, &["volumeID"]);
        at.on("secretRef", |reference| needs(reference, &["name", "namespace"]));
    }),
    ("fc", "fc", volumes::fc),
    ("flexVolume", "flexVolume", volumes::flex),
    ("azureFile", "azureFile", |at| {
        needs(at, &["secretName", "shareName"]);
        at.on("secretNamespace", |space| {
            space.need();
        });
    }),
    ("vsphereVolume", "vsphereVolume", |at| needs(at, &["volumePath"])),
    ("photonPersistentDisk", "photonPersistentDisk", |at| needs(at, &["pdID"])),
    ("portworxVolume", "portworxVolume", |at| needs(at, &["volumeID"])),
    ("azureDisk", "azureDisk", volumes::azure_disk),
    ("scaleIO", "scaleIO", |at| needs(at, &["gateway", "system", "volumeName"])),
    ("local", "local", |at| {
        at.get("path").need();
        volumes::no_backsteps(&at.get("path"));
    }),
    ("storageos", "storageos", |at| volumes::storage_os(at, &["name", "namespace"])),
    ("csi", "csi", |at| {
        volumes::csi_driver(&at.get("driver"));
        at.get("volumeHandle").need();
        for field in [
            "controllerPublishSecretRef",
            "controllerExpandSecretRef",
            "nodePublishSecretRef",
            "nodeExpandSecretRef",
        ] {
            at.on(field, |reference| {
                reference.get("name").need_named(dns_subdomain);
                reference.get("namespace").need_named(dns_label);
            });
        }
    }),
];

/// `spec` of a volume; `inline` for one within an attachment.
pub(super) fn volume_spec(spec: &At, name: &str, inline: bool) {
    const INLINE: &str = "may not be specified in the context of inline volumes";
    if inline {
        spec.get("claimRef").never(INLINE);
        spec.get("capacity").never(INLINE);
        if !spec.get("csi").present() {
            spec.get("csi").required("has to be specified in the context of inline volumes");
        }
    }
    access_modes(spec, "");
    let policy = spec.get("persistentVolumeReclaimPolicy");
    if inline {
        if !policy.empty() && !policy.is("Retain") {
            policy.forbidden("may only be Retain in the context of inline volumes");
        }
        spec.get("nodeAffinity").never(INLINE);
    } else {
        let capacity = spec.get("capacity");
        capacity.need();
        let only =
            capacity.value().as_object().is_some_and(|map| map.len() == 1 && map.contains_key("storage"));
        if !only {
            let shown = if capacity.present() { capacity.value().clone() } else { json!({}) };
            capacity.report(|path| Error::not_supported(path, shown, &["storage"]));
        }
        capacity.entries(|_, quantity| {
            basic(quantity);
            if quantity.quantity() <= api::quantity::Amount::units(0) {
                quantity.invalid("must be greater than zero");
            }
        });
        if !policy.empty() {
            policy.one_of(&["Delete", "Recycle", "Retain"]);
        }
        spec.on("nodeAffinity", |affinity| {
            let required = affinity.get("required");
            if required.present() {
                pods::node_selector(&required);
            } else {
                required.required("must specify required node constraints");
            }
        });
    }
    volumes::sources(spec, VOLUME_SOURCES);
    spec.on("iscsi", |iscsi| {
        let portal = iscsi.get("targetPortal");
        if iscsi.get("initiatorName").present() && name.len() + 1 + portal.text().len() > 64 {
            iscsi.view("targetportal", portal.value()).invalid("Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.");
        }
    });
    if spec.get("local").present() && !spec.get("nodeAffinity").present() {
        spec.get("nodeAffinity").required("Local volume requires node affinity");
    }
    let root = spec.get("hostPath.path").text().split('/').all(|part| part.is_empty() || part == ".");
    if spec.get("hostPath").present() && root && policy.is("Recycle") {
        policy.forbidden("may not be 'recycle' for a hostPath mount of '/'");
    }
    rest_of_volume(spec, inline);
}

fn rest_of_volume(spec: &At, inline: bool) {
    let (class, mode) = (spec.get("storageClassName"), spec.get("volumeMode"));
    if inline {
        if !class.empty() {
            class.forbidden("may not be specified in the context of inline volumes");
        }
        if mode.present() && !mode.is("Filesystem") {
            mode.forbidden(
                "may not specify volumeMode other than Filesystem in the context of inline volumes",
            );
        }
        return;
    }
    class.named_if_set(dns_subdomain);
    mode.one_of_if_set(&["Block", "Filesystem"]);
    spec.on("volumeAttributesClassName", |class| {
        if class.need_because("an empty string is disallowed") {
            class.named(dns_subdomain);
        }
        if !spec.get("csi").present() {
            spec.get("csi").required("has to be specified when using volumeAttributesClassName");
        }
    });
}

const MOST_PARAMETERS: usize = 512;
pub(super) const MOST_PARAMETER_BYTES: usize = 256 << 10;

fn parameters(at: &At, needed: bool) {
    let map = at.value().as_object();
    if map.is_some_and(|map| map.len() > MOST_PARAMETERS) {
        at.report(|path| Error::too_long(path, MOST_PARAMETERS));
    }
    let mut size = 0;
    for (key, value) in map.into_iter().flatten() {
        if key.is_empty() {
            at.invalid_as("", "field can not be empty.");
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > MOST_PARAMETER_BYTES {
        at.report(|path| Error::too_long(path, MOST_PARAMETER_BYTES));
    }
    if needed && at.empty() {
        at.required("must contain at least one key/value pair");
    }
}

fn provisioner(at: &At) {
    if at.need() {
        for problem in qualified_name(&at.text().to_ascii_lowercase()) {
            at.invalid_as(at.text().to_ascii_lowercase(), problem);
        }
    }
}

pub(super) const STORAGE_CLASS: Strategy = Strategy {
    default: |class| {
        default(class, "reclaimPolicy", "Delete");
        default(class, "volumeBindingMode", "Immediate");
    },
    validate: |class| {
        provisioner(&class.get("provisioner"));
        parameters(&class.get("parameters"), false);
        let policy = class.get("reclaimPolicy");
        if !policy.empty() {
            policy.one_of(&["Delete", "Retain"]);
        }
        class.get("volumeBindingMode").one_of(&["Immediate", "WaitForFirstConsumer"]);
        topologies(&class.get("allowedTopologies"));
    },
    validate_update: |new, old| {
        new.unchanged_fields(old, &["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"]);
    },
    ..PLAIN
};

fn topologies(list: &At) {
    // A term without expressions is the same as the ones that are not there.
    let mut terms: HashSet<String> = HashSet::from(["null".to_owned()]);
    list.each(|term| {
        let expressions = term.get("matchLabelExpressions");
        let mut keys = HashSet::new();
        expressions.each(|expression| {
            let mut values = HashSet::new();
            expression.get("values").need();
            expression.get("values").each(|value| value.unique(&mut values));
            label_name(&expression.get("key"));
            expression.get("key").unique(&mut keys);
        });
        if !terms.insert(expressions.value().to_string()) {
            expressions.report(|path| Error::duplicate(path, ""));
        }
    });
}

pub(super) const VOLUME_ATTRIBUTES_CLASS: Strategy = Strategy {
    validate: |class| {
        provisioner(&class.get("driverName"));
        parameters(&class.get("parameters"), true);
    },
    validate_update: |new, old| {
        for field in ["driverName", "parameters"] {
            if *new.get(field).value() != old[field] {
                new.get(field).forbidden(format!("updates to {field} are forbidden."));
            }
        }
    },
    changes: Changes::Before,
    ..PLAIN
};
