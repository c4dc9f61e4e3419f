//! Defaults of pod specs, which many kinds contain.

use super::pods::resources;
use super::{default, default_zero, items_mut, text};
use api::demand::{Side, is_huge, together};
use api::quantity;
use serde_json::{Value, json};

/// Modes are decimal in JSON: 0644.
const FILE_MODE: i64 = 0o644;

/// Fills in the pod spec at a JSON pointer.
pub(super) fn template(object: &mut Value, pointer: &str) {
    object.pointer_mut(pointer).into_iter().for_each(pod_spec);
}

/// Fills in a pod spec (`spec` of a Pod, `spec.template.spec` of a workload).
pub(super) fn pod_spec(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    default_zero(spec, "restartPolicy", "Always");
    default(spec, "terminationGracePeriodSeconds", 30);
    // A negative grace is the shortest one.
    if spec["terminationGracePeriodSeconds"].as_i64().is_some_and(|grace| grace < 0) {
        spec["terminationGracePeriodSeconds"] = json!(1);
    }
    default_zero(spec, "dnsPolicy", "ClusterFirst");
    default_zero(spec, "schedulerName", "default-scheduler");
    default(spec, "securityContext", json!({}));
    account(spec);
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        items_mut(spec, list).for_each(container);
    }
    items_mut(spec, "volumes").for_each(volume);
    quantities(&mut spec["overhead"]);
    drop_null(spec, "overhead");
    spec.get_mut("resources").into_iter().for_each(requirements);
}

/// What is filled in for pods, but not for templates of pods.
pub(super) fn pod_only(spec: &mut Value) {
    default(spec, "enableServiceLinks", true);
    let host_network = spec["hostNetwork"] == true;
    for list in ["containers", "initContainers"] {
        for container in items_mut(spec, list) {
            requests_from_limits(container);
            if host_network {
                for port in items_mut(container, "ports") {
                    let number = port["containerPort"].clone();
                    default_zero(port, "hostPort", number);
                }
            }
        }
    }
    if spec["resources"].is_object() {
        pod_resources(spec);
    }
}

/// A pod that says what it gets as a whole asks for what its containers ask for, and for its limits.
fn pod_resources(spec: &mut Value) {
    let (requests, limits) = (together(spec, Side::Requests), together(spec, Side::Limits));
    let known = |name: &str| matches!(name, "cpu" | "memory") || is_huge(name);
    let own = &mut spec["resources"];
    if own["limits"].is_null() && own["requests"].is_null() {
        return;
    }
    for (name, amount) in limits {
        if is_huge(&name) && own["requests"][&name].is_null() && own["limits"][&name].is_null() {
            own["limits"][&name] = json!(amount.to_string());
        }
    }
    let limits = own["limits"].as_object().cloned().unwrap_or_default();
    if limits.is_empty() {
        return drop_null(own, "limits");
    }
    let of_containers = requests.into_iter().filter(|(name, _)| resources::is_overcommitted(name));
    let of_containers = of_containers.map(|(name, amount)| (name, json!(amount.to_string())));
    for (name, amount) in of_containers.chain(limits).filter(|(name, _)| known(name)) {
        if own["requests"][&name].is_null() {
            own["requests"][&name] = amount;
        }
    }
    drop_null(own, "requests");
}

fn drop_null(object: &mut Value, field: &str) {
    if let Some(fields) =
        object.as_object_mut().filter(|fields| fields.get(field).is_some_and(Value::is_null))
    {
        fields.remove(field);
    }
}

/// `serviceAccount` is the old name of `serviceAccountName`; both are kept the same.
fn account(spec: &mut Value) {
    let name = match text(spec, "serviceAccountName") {
        "" => text(spec, "serviceAccount"),
        name => name,
    }
    .to_owned();
    if !name.is_empty() {
        spec["serviceAccountName"] = Value::from(name.as_str());
        spec["serviceAccount"] = Value::from(name);
    }
}

fn container(container: &mut Value) {
    let policy = pull_policy(text(container, "image"));
    default_zero(container, "imagePullPolicy", policy);
    default_zero(container, "terminationMessagePath", "/dev/termination-log");
    default_zero(container, "terminationMessagePolicy", "File");
    default(container, "resources", json!({}));
    requirements(&mut container["resources"]);
    items_mut(container, "ports").for_each(|port| default_zero(port, "protocol", "TCP"));
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        container.get_mut(probe).into_iter().for_each(self::probe);
    }
    for variable in items_mut(container, "env") {
        if let Some(from) = variable.get_mut("valueFrom") {
            references(from);
            from.get_mut("fileKeyRef").into_iter().for_each(|file| default(file, "optional", false));
        }
    }
    for hook in ["postStart", "preStop"] {
        container.pointer_mut(&format!("/lifecycle/{hook}/httpGet")).into_iter().for_each(http_get);
    }
}

fn http_get(get: &mut Value) {
    default_zero(get, "path", "/");
    default_zero(get, "scheme", "HTTP");
}

fn probe(probe: &mut Value) {
    for (field, value) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        default_zero(probe, field, value);
    }
    probe.get_mut("httpGet").into_iter().for_each(http_get);
    probe.get_mut("grpc").into_iter().for_each(|grpc| default(grpc, "service", ""));
}

/// References to the pod's own fields and amounts.
fn references(from: &mut Value) {
    from.get_mut("fieldRef").into_iter().for_each(|field| default_zero(field, "apiVersion", "v1"));
    from.get_mut("resourceFieldRef").into_iter().for_each(|field| default(field, "divisor", "0"));
}

/// Puts quantities into their canonical form, rounded up to thousandths.
pub(super) fn quantities(map: &mut Value) {
    for (_, value) in map.as_object_mut().into_iter().flatten() {
        if let Some(amount) = value.as_str().and_then(|text| quantity::parse(text).ok()) {
            *value = Value::from(amount.to_string());
        }
    }
}

fn requirements(resources: &mut Value) {
    resources.get_mut("limits").into_iter().for_each(quantities);
    resources.get_mut("requests").into_iter().for_each(quantities);
}

/// Limits that have no request are requested as they are.
fn requests_from_limits(container: &mut Value) {
    let Some(resources) = container.get_mut("resources") else { return };
    for (name, limit) in resources["limits"].as_object().cloned().unwrap_or_default() {
        if resources["requests"][&name].is_null() {
            resources["requests"][&name] = limit;
        }
    }
    drop_null(resources, "requests");
    drop_null(resources, "limits");
}

/// Fields of volume sources that are filled in: source, field, value.
const VOLUME_FIELDS: [(&str, &str, &str); 10] = [
    ("hostPath", "type", ""),
    ("iscsi", "iscsiInterface", "default"),
    ("rbd", "pool", "rbd"),
    ("rbd", "user", "admin"),
    ("rbd", "keyring", "/etc/ceph/keyring"),
    ("azureDisk", "cachingMode", "ReadWrite"),
    ("azureDisk", "fsType", "ext4"),
    ("azureDisk", "kind", "Shared"),
    ("scaleIO", "storageMode", "ThinProvisioned"),
    ("scaleIO", "fsType", "xfs"),
];

/// Fills in the source of a volume, of a pod or of the cluster.
pub(super) fn volume_source(volume: &mut Value) {
    for (source, field, value) in VOLUME_FIELDS {
        if let Some(source) = volume.get_mut(source) {
            default(source, field, value);
        }
    }
    volume.get_mut("azureDisk").into_iter().for_each(|disk| default(disk, "readOnly", false));
}

fn volume(volume: &mut Value) {
    let sources = volume.as_object().map_or(0, |fields| fields.keys().filter(|key| *key != "name").count());
    if sources == 0 {
        volume["emptyDir"] = json!({});
    }
    volume_source(volume);
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        let Some(source) = volume.get_mut(source) else { continue };
        default(source, "defaultMode", FILE_MODE);
        items_mut(source, "items").for_each(references);
        for part in items_mut(source, "sources") {
            part.get_mut("serviceAccountToken")
                .into_iter()
                .for_each(|token| default(token, "expirationSeconds", 3600));
            part.get_mut("downwardAPI")
                .into_iter()
                .for_each(|part| items_mut(part, "items").for_each(references));
        }
    }
    if let Some(spec) = volume.pointer_mut("/ephemeral/volumeClaimTemplate/spec") {
        claim_spec(spec);
    }
    if let Some(image) = volume.get_mut("image") {
        let policy = pull_policy(text(image, "reference"));
        default_zero(image, "pullPolicy", policy);
    }
}

/// Fills in what a claim of storage asks for.
pub(super) fn claim_spec(spec: &mut Value) {
    default(spec, "volumeMode", "Filesystem");
    spec.get_mut("resources").into_iter().for_each(requirements);
}

/// `Always` for the tag `latest` or none, as those move.
pub(super) fn pull_policy(image: &str) -> &'static str {
    let named = image.split('@').next().unwrap_or_default();
    let last = named.rsplit('/').next().unwrap_or_default();
    let tag = last.split_once(':').map_or("", |(_, tag)| tag);
    let moves = tag == "latest" || (tag.is_empty() && !image.contains('@'));
    if moves { "Always" } else { "IfNotPresent" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_that_move_are_pulled_always() {
        for (image, policy) in [
            ("web", "Always"),
            ("web:latest", "Always"),
            ("web:1", "IfNotPresent"),
            ("host:5000/web", "Always"),
            ("host:5000/web:2", "IfNotPresent"),
            ("web@sha256:00", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }

    #[test]
    fn a_bare_spec_becomes_a_whole_one_and_stays_so() {
        let mut spec = json!({"containers": [{"name": "c", "image": "web:1",
            "ports": [{"containerPort": 80}], "resources": {"limits": {"cpu": "0.5"}},
            "readinessProbe": {"httpGet": {"port": 80}}, "env": [{"name": "A", "value": "b"}]}],
            "volumes": [{"name": "v", "configMap": {"name": "m"}}]});
        pod_spec(&mut spec);
        assert_eq!(
            spec,
            json!({
                "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst",
                "schedulerName": "default-scheduler", "securityContext": {},
                "containers": [{"name": "c", "image": "web:1", "imagePullPolicy": "IfNotPresent",
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                    "ports": [{"containerPort": 80, "protocol": "TCP"}],
                    "resources": {"limits": {"cpu": "500m"}},
                    "readinessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1,
                        "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
                    "env": [{"name": "A", "value": "b"}]}],
                "volumes": [{"name": "v", "configMap": {"name": "m", "defaultMode": 420}}],
            })
        );
        let again = spec.clone();
        pod_spec(&mut spec);
        assert_eq!(spec, again);
    }
}
