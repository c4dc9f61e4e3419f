//! Defaults of pod specs, which many kinds contain.

use super::probes::default_probe;
use super::volumes::default_volume;
use super::{default, items_mut, names, text};
use serde_json::{Value, json};

/// Fills in a pod spec (`spec` of a Pod, `spec.template.spec` of a workload).
pub(super) fn pod_spec(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    default(spec, "restartPolicy", "Always");
    default(spec, "terminationGracePeriodSeconds", 30);
    default(spec, "dnsPolicy", "ClusterFirst");
    default(spec, "schedulerName", "default-scheduler");
    default(spec, "securityContext", json!({}));
    let host_network = spec["hostNetwork"] == true;
    account(spec);
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in items_mut(spec, list) {
            default_container(container, host_network);
        }
    }
    items_mut(spec, "volumes").for_each(default_volume);
    if let Some(overhead) = spec.get_mut("overhead") {
        names::canonical_quantities(overhead);
    }
    for constraint in items_mut(spec, "topologySpreadConstraints") {
        default(constraint, "whenUnsatisfiable", "DoNotSchedule");
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

fn default_container(container: &mut Value, host_network: bool) {
    let policy = pull_policy(text(container, "image"));
    default(container, "imagePullPolicy", policy);
    default(container, "terminationMessagePath", "/dev/termination-log");
    default(container, "terminationMessagePolicy", "File");
    default(container, "resources", json!({}));
    resources(&mut container["resources"]);
    for port in items_mut(container, "ports") {
        default(port, "protocol", "TCP");
        if host_network {
            let number = port["containerPort"].clone();
            default(port, "hostPort", number);
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(probe) {
            default_probe(probe);
        }
    }
    for variable in items_mut(container, "env") {
        if let Some(reference) = variable.pointer_mut("/valueFrom/fieldRef") {
            default(reference, "apiVersion", "v1");
        }
    }
    lifecycle(container);
}

fn lifecycle(container: &mut Value) {
    for hook in ["postStart", "preStop"] {
        if let Some(get) = container.pointer_mut(&format!("/lifecycle/{hook}/httpGet")) {
            default(get, "path", "/");
            default(get, "scheme", "HTTP");
        }
    }
}

/// Limits that have no request are requested as they are.
fn resources(resources: &mut Value) {
    if let Some(limits) = resources.get_mut("limits") {
        names::canonical_quantities(limits);
    }
    if let Some(requests) = resources.get_mut("requests") {
        names::canonical_quantities(requests);
    }
    let limits = resources["limits"].as_object().cloned().unwrap_or_default();
    for (name, limit) in limits {
        if resources["requests"].is_null() {
            resources["requests"] = json!({});
        }
        default(&mut resources["requests"], &name, limit);
    }
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
                    "resources": {"limits": {"cpu": "500m"}, "requests": {"cpu": "500m"}},
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
