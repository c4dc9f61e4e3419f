//! What containers find in their environment and in their command lines.

use super::{Behaviour, Namespace, behaviours};
use serde_json::{Value, json};

pub(super) const BEHAVIOURS: &[Behaviour] = behaviours![
    variables_of_config_maps,
    environments_of_config_maps,
    prefixes_of_config_maps,
    variables_of_secrets,
    environments_of_secrets,
    prefixes_of_secrets,
    variables_of_files,
    variables_make_up_others,
    arguments_name_variables,
    commands_name_variables,
    pods_know_their_names_and_address,
    pods_know_the_node_address,
    pods_know_all_node_addresses,
    pods_know_their_uid,
    containers_know_their_resources,
    containers_without_limits_know_the_node,
    pods_know_services,
];

/// Every line stands in what `env` said.
#[track_caller]
fn has(said: &str, lines: &[&str]) {
    for line in lines {
        assert!(said.lines().any(|own| own == *line), "{line} is missing: {said}");
    }
}

fn data() -> Value {
    json!({"data-1": "value-1", "data-2": "value-2", "data-3": "value-3"})
}

/// The values under their own names and behind each prefix.
#[track_caller]
fn has_all(said: &str, prefixes: &[&str]) {
    for prefix in prefixes {
        for at in 1..=3 {
            has(said, &[&format!("{prefix}data-{at}=value-{at}")]);
        }
    }
}

const PREFIXES: [&str; 5] = ["", "1-", "$_-", "ABC_", "#@!"];

/// `envFrom` entries with every prefix.
fn prefixed(reference: &str) -> String {
    let entries = PREFIXES.map(|prefix| format!("{{prefix: {prefix:?}, {reference}: {{name: data}}}}"));
    entries.join(", ")
}

fn variables_of_config_maps(namespace: &Namespace) {
    namespace.config_map("data", &data());
    let said = namespace.output(
        r"
        containers:
        - command: [env]
          env: [{name: CONFIG_DATA_1, valueFrom: {configMapKeyRef: {name: data, key: data-1}}}]",
    );
    has(&said, &["CONFIG_DATA_1=value-1"]);
}

fn environments_of_config_maps(namespace: &Namespace) {
    namespace.config_map("data", &data());
    let said = namespace.output(
        r"
        containers:
        - command: [env]
          envFrom: [{configMapRef: {name: data}}, {prefix: p-, configMapRef: {name: data}}]",
    );
    has_all(&said, &["", "p-"]);
}

fn prefixes_of_config_maps(namespace: &Namespace) {
    namespace.config_map("data", &data());
    let from = prefixed("configMapRef");
    has_all(&namespace.output(&format!("containers: [{{command: [env], envFrom: [{from}]}}]")), &PREFIXES);
}

fn variables_of_secrets(namespace: &Namespace) {
    namespace.secret("data", &data());
    let said = namespace.output(
        r"
        containers:
        - command: [env]
          env: [{name: SECRET_DATA, valueFrom: {secretKeyRef: {name: data, key: data-1}}}]",
    );
    has(&said, &["SECRET_DATA=value-1"]);
}

fn environments_of_secrets(namespace: &Namespace) {
    namespace.secret("data", &data());
    let said = namespace.output(
        r"
        containers:
        - command: [env]
          envFrom: [{secretRef: {name: data}}, {prefix: p-, secretRef: {name: data}}]",
    );
    has_all(&said, &["", "p-"]);
}

fn prefixes_of_secrets(namespace: &Namespace) {
    namespace.secret("data", &data());
    let from = prefixed("secretRef");
    has_all(&namespace.output(&format!("containers: [{{command: [env], envFrom: [{from}]}}]")), &PREFIXES);
}

/// Written by a container that comes before (KEP-3721).
fn variables_of_files(namespace: &Namespace) {
    let said = namespace.output(
        r#"
        volumes: [{name: files, emptyDir: {}}]
        initContainers:
        - name: writer
          command: [sh, -c, 'printf "A=''one two'' # said\nB=''two''\n" > /files/env']
          volumeMounts: [{name: files, mountPath: /files}]
        containers:
        - command: [env]
          env:
          - {name: FIRST, valueFrom: {fileKeyRef: {volumeName: files, path: env, key: A}}}
          - {name: SECOND, valueFrom: {fileKeyRef: {volumeName: files, path: env, key: B}}}
          - {name: NONE, valueFrom: {fileKeyRef: {volumeName: files, path: env, key: C, optional: true}}}"#,
    );
    has(&said, &["FIRST=one two", "SECOND=two"]);
    assert!(!said.contains("NONE="), "{said}");
}

fn variables_make_up_others(namespace: &Namespace) {
    let said = namespace.output(
        r#"
        containers:
        - command: [env]
          env:
          - {name: FOO, value: foo-value}
          - {name: BAR, value: bar-value}
          - {name: FOOBAR, value: "$(FOO);;$(BAR)"}"#,
    );
    has(&said, &["FOO=foo-value", "BAR=bar-value", "FOOBAR=foo-value;;bar-value"]);
}

fn arguments_name_variables(namespace: &Namespace) {
    let said = namespace.output(
        r#"
        containers:
        - command: [sh, -c]
          args: ["TEST_VAR=wrong echo \"$(TEST_VAR)\""]
          env: [{name: TEST_VAR, value: test-value}]"#,
    );
    assert_eq!(said, "test-value\n");
}

fn commands_name_variables(namespace: &Namespace) {
    let said = namespace.output(
        r#"
        containers:
        - command: [sh, -c, "TEST_VAR=wrong echo \"$(TEST_VAR)\""]
          env: [{name: TEST_VAR, value: test-value}]"#,
    );
    assert_eq!(said, "test-value\n");
}

/// A pod that says what its environment is, once it has ended, and that environment.
fn downward(namespace: &Namespace, fields: &[(&str, &str)]) -> (Value, String) {
    let variable = |(name, path): &(&str, &str)| {
        format!("{{name: {name}, valueFrom: {{fieldRef: {{fieldPath: {path}}}}}}}")
    };
    let env = fields.iter().map(variable).collect::<Vec<_>>().join(", ");
    let said = namespace.output(&format!("containers: [{{command: [env], env: [{env}]}}]"));
    (namespace.get("pods/pod-0").1, said)
}

fn text<'a>(pod: &'a Value, pointer: &str) -> &'a str {
    pod.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("no {pointer}: {pod}"))
}

fn pods_know_their_names_and_address(namespace: &Namespace) {
    let fields =
        [("POD_NAME", "metadata.name"), ("POD_NAMESPACE", "metadata.namespace"), ("POD_IP", "status.podIP")];
    let (pod, said) = downward(namespace, &fields);
    let own = format!("POD_NAMESPACE={}", namespace.name);
    has(&said, &["POD_NAME=pod-0", &own, &format!("POD_IP={}", text(&pod, "/status/podIP"))]);
}

fn pods_know_the_node_address(namespace: &Namespace) {
    let (pod, said) = downward(namespace, &[("HOST_IP", "status.hostIP")]);
    has(&said, &[&format!("HOST_IP={}", text(&pod, "/status/hostIP"))]);
}

fn pods_know_all_node_addresses(namespace: &Namespace) {
    let (pod, said) = downward(namespace, &[("HOST_IPS", "status.hostIPs")]);
    let all = pod["status"]["hostIPs"].as_array().unwrap().iter().map(|one| one["ip"].as_str().unwrap());
    has(&said, &[&format!("HOST_IPS={}", all.collect::<Vec<_>>().join(","))]);
}

fn pods_know_their_uid(namespace: &Namespace) {
    let (pod, said) = downward(namespace, &[("POD_UID", "metadata.uid")]);
    has(&said, &[&format!("POD_UID={}", text(&pod, "/metadata/uid"))]);
}

const RESOURCES: &str = r"
          env:
          - {name: CPU_LIMIT, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}
          - {name: MEMORY_LIMIT, valueFrom: {resourceFieldRef: {resource: limits.memory}}}
          - {name: CPU_REQUEST, valueFrom: {resourceFieldRef: {resource: requests.cpu}}}
          - {name: MEMORY_REQUEST, valueFrom: {resourceFieldRef: {resource: requests.memory}}}";

fn containers_know_their_resources(namespace: &Namespace) {
    let said = namespace.output(&format!(
        r#"
        containers:
        - command: [env]
          resources: {{requests: {{cpu: 250m, memory: 32Mi}}, limits: {{cpu: 1250m, memory: 64Mi}}}}{RESOURCES}"#
    ));
    let lines = ["CPU_LIMIT=2", "MEMORY_LIMIT=67108864", "CPU_REQUEST=1", "MEMORY_REQUEST=33554432"];
    has(&said, &lines);
}

/// Whole processors and bytes that the node offers to pods.
fn containers_without_limits_know_the_node(namespace: &Namespace) {
    let said = namespace.output(&format!("containers:\n        - command: [env]{RESOURCES}"));
    let node = namespace.https.call("GET", "/api/v1/nodes/node-1").1;
    let cores = text(&node, "/status/allocatable/cpu");
    has(&said, &[&format!("CPU_LIMIT={cores}")]);
    let memory = said.lines().find_map(|line| line.strip_prefix("MEMORY_LIMIT=")).unwrap();
    let offered = text(&node, "/status/allocatable/memory").trim_end_matches("Ki");
    assert_eq!(memory.parse::<u64>().unwrap(), offered.parse::<u64>().unwrap() * 1024, "{node}");
}

fn pods_know_services(namespace: &Namespace) {
    let made = namespace
        .made(&json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "fooservice"},
        "spec": {"selector": {"app": "server"}, "ports": [{"port": 8765, "targetPort": 8080}]}}));
    let address = text(&made, "/spec/clusterIP");
    // The kubelet learns of services as others do, a moment later.
    let told = crate::support::process::wait_for("variables", crate::support::cluster::SOON, || {
        let said = namespace.output("containers: [{command: [env]}]");
        said.contains("FOOSERVICE").then_some(said)
    });
    has(
        &told,
        &[
            &format!("FOOSERVICE_SERVICE_HOST={address}"),
            "FOOSERVICE_SERVICE_PORT=8765",
            &format!("FOOSERVICE_PORT=tcp://{address}:8765"),
            "FOOSERVICE_PORT_8765_TCP_PORT=8765",
            "FOOSERVICE_PORT_8765_TCP_PROTO=tcp",
            &format!("FOOSERVICE_PORT_8765_TCP=tcp://{address}:8765"),
            &format!("FOOSERVICE_PORT_8765_TCP_ADDR={address}"),
        ],
    );
}
