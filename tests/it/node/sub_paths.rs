//! Parts of volumes, by their path or by what variables say.

use super::{Behaviour, Namespace, behaviours};
use serde_json::json;

pub(super) const BEHAVIOURS: &[Behaviour] = behaviours![
    paths_name_variables,
    paths_with_backticks_are_refused,
    absolute_paths_are_refused,
    paths_are_mended,
    paths_are_written_to,
    parts_of_filled_volumes,
];

/// A pod whose volume is mounted by a path that a variable says, and whole.
fn spec(value: &str, script: &str) -> String {
    format!(
        r#"
        containers:
        - command: [sh, -c, {script:?}]
          env: [{{name: POD_NAME, value: {value:?}}}]
          volumeMounts:
          - {{name: work, mountPath: /sub, subPathExpr: $(POD_NAME)}}
          - {{name: work, mountPath: /whole}}
        volumes: [{{name: work, emptyDir: {{}}}}]"#
    )
}

fn paths_name_variables(namespace: &Namespace) {
    let said = namespace.output(&spec("foo", "echo text > /sub/file && cat /whole/foo/file"));
    assert_eq!(said, "text\n");
}

/// The container is not made, with this message.
fn refused(namespace: &Namespace, value: &str, wanted: &str) {
    namespace.pod("refused", &spec(value, "true"));
    assert_eq!(waits(namespace, "refused"), wanted);
    assert_eq!(namespace.event("refused", "Failed"), format!("Error: {wanted}"));
}

/// Why a container is not made.
fn waits(namespace: &Namespace, pod: &str) -> String {
    namespace.wait_pod(pod, |pod| {
        let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
        let found = waiting["reason"] == "CreateContainerConfigError";
        found.then(|| waiting["message"].as_str().unwrap().to_owned())
    })
}

fn paths_with_backticks_are_refused(namespace: &Namespace) {
    refused(namespace, "..", "unable to provision SubPath `..`: must not contain '..'");
}

fn absolute_paths_are_refused(namespace: &Namespace) {
    refused(namespace, "/tmp", "error SubPath `/tmp` must not be an absolute path");
}

const ANNOTATED: &str = r#"
containers:
- env:
  - {name: POD_NAME, value: foo}
  - {name: ANNOTATION, valueFrom: {fieldRef: {fieldPath: "metadata.annotations['mysubpath']"}}}
  volumeMounts:
  - {name: work, mountPath: /sub, subPathExpr: $(ANNOTATION)/$(POD_NAME)}
  - {name: work, mountPath: /whole}
volumes: [{name: work, emptyDir: {}}]"#;

/// Without a value it does not run; then the annotation is there and it does.
fn paths_are_mended(namespace: &Namespace) {
    namespace.pod_with(&json!({"name": "mended", "annotations": {"notmysubpath": "mypath"}}), ANNOTATED);
    let message = waits(namespace, "mended");
    assert_eq!(message, "missing value for ANNOTATION");
    assert_eq!(namespace.get("pods/mended").1["status"]["phase"], "Pending");
    namespace.patched("pods/mended", &json!({"metadata": {"annotations": {"mysubpath": "mypath"}}}));
    namespace.ready("mended");
    assert_eq!(namespace.exec("mended", "c", "touch /sub/file; ls /whole/mypath/foo"), "file\n");
    namespace.deleted("pods/mended");
    namespace.gone("pods/mended");
}

/// What the path was made from may change, and the pod can still be taken down.
fn paths_are_written_to(namespace: &Namespace) {
    namespace.pod_with(&json!({"name": "written", "annotations": {"mysubpath": "mypath"}}), ANNOTATED);
    namespace.ready("written");
    assert_eq!(namespace.exec("written", "c", "touch /whole/mypath/foo/test.log; ls /sub"), "test.log\n");
    namespace.patched("pods/written", &json!({"metadata": {"annotations": {"mysubpath": "mynewpath"}}}));
    namespace.ready("written");
    assert_eq!(namespace.exec("written", "c", "ls /sub"), "test.log\n");
    namespace.deleted("pods/written");
    namespace.gone("pods/written");
}

/// A key of each kind of volume that the kubelet fills, and one in the place of a file that is there already.
fn parts_of_filled_volumes(namespace: &Namespace) {
    namespace.config_map("data", &json!({"key": "of the map\n"}));
    namespace.secret("data", &json!({"key": "of the secret\n"}));
    let said = namespace.output(
        r"
        containers:
        - command: [cat, /secret, /map, /etc/resolv.conf, /projected, /downward]
          volumeMounts:
          - {name: secret, mountPath: /secret, subPath: key}
          - {name: map, mountPath: /map, subPath: key}
          - {name: map, mountPath: /etc/resolv.conf, subPath: key}
          - {name: projected, mountPath: /projected, subPath: projected/key}
          - {name: downward, mountPath: /downward, subPath: downward/podname}
        volumes:
        - {name: secret, secret: {secretName: data}}
        - {name: map, configMap: {name: data}}
        - {name: projected, projected: {sources: [{configMap: {name: data, items: [{key: key, path: projected/key}]}}]}}
        - {name: downward, downwardAPI: {items: [{path: downward/podname, fieldRef: {fieldPath: metadata.name}}]}}",
    );
    assert_eq!(said, "of the secret\nof the map\nof the map\nof the map\npod-0");
    namespace.deleted("pods/pod-0");
    namespace.gone("pods/pod-0");
}
