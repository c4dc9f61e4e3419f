//! As whom containers run, and what they may do; the files that the kubelet gives them.

use super::{Behaviour, Namespace, behaviours};
use serde_json::Value;

pub(super) const BEHAVIOURS: &[Behaviour] = behaviours![
    containers_run_as_users,
    containers_run_as_users_and_groups,
    pods_run_as_users_and_groups,
    unprivileged_containers,
    privileges_do_not_grow,
    root_is_writable,
    root_is_read_only,
    sysctls_are_set,
    wrong_sysctls_are_refused,
    hosts_are_managed,
    aliases_of_hosts,
];

fn containers_run_as_users(namespace: &Namespace) {
    let said = namespace.output("containers: [{command: [id, -u], securityContext: {runAsUser: 65534}}]");
    assert_eq!(said, "65534\n");
}

fn containers_run_as_users_and_groups(namespace: &Namespace) {
    let said = namespace.output(
        r"
        securityContext: {runAsUser: 1000, runAsGroup: 2000}
        containers: [{command: [id], securityContext: {runAsUser: 1001, runAsGroup: 2002}}]",
    );
    assert!(said.starts_with("uid=1001 gid=2002"), "{said}");
}

fn pods_run_as_users_and_groups(namespace: &Namespace) {
    let said = namespace.output(
        r"
        securityContext: {runAsUser: 1001, runAsGroup: 2002}
        containers: [{command: [id]}]",
    );
    assert!(said.starts_with("uid=1001 gid=2002"), "{said}");
}

/// Another kind of link is made by whoever may make links, so that the test can fail.
fn unprivileged_containers(namespace: &Namespace) {
    let attempt = |privileged: bool| {
        namespace.output(&format!(
            r#"containers: [{{command: [sh, -c, "ip link add knarr-test type bridge 2>&1 || true"],
                securityContext: {{privileged: {privileged}}}}}]"#
        ))
    };
    assert!(attempt(false).contains("Operation not permitted"));
    assert_eq!(attempt(true), "");
}

/// A program that belongs to root and asks to be run as root is not.
fn privileges_do_not_grow(namespace: &Namespace) {
    let attempt = |allowed: bool| {
        namespace.output(&format!(
            r#"
            initContainers:
            - command: [sh, -c, "cp /bin/busybox /shared/busybox && chmod 4755 /shared/busybox"]
              volumeMounts: [{{name: shared, mountPath: /shared}}]
            containers:
            - command: [/shared/busybox, sh, -c, "id -u; sed -n 's/^Uid:.//p' /proc/self/status | cut -f2; grep NoNewPrivs /proc/self/status | cut -f2"]
              securityContext: {{runAsUser: 1000, allowPrivilegeEscalation: {allowed}}}
              volumeMounts: [{{name: shared, mountPath: /shared}}]
            volumes: [{{name: shared, emptyDir: {{}}}}]"#
        ))
    };
    assert_eq!(attempt(false), "1000\n1000\n1\n");
    assert!(attempt(true).ends_with("\n0\n"), "without it they may");
}

fn root_is_writable(namespace: &Namespace) {
    let said = namespace.output(
        r#"containers: [{command: [sh, -c, "echo checking > /file && cat /file"], securityContext: {readOnlyRootFilesystem: false}}]"#,
    );
    assert_eq!(said, "checking\n");
}

fn root_is_read_only(namespace: &Namespace) {
    let said = namespace.output(
        r#"containers: [{command: [sh, -c, "echo test > /file || echo refused"], securityContext: {readOnlyRootFilesystem: true}}]"#,
    );
    assert!(said.contains("refused\n"), "{said}");
    let pod = namespace.get("pods/pod-0").1;
    assert_eq!(pod["status"]["phase"], "Succeeded");
}

fn sysctls_are_set(namespace: &Namespace) {
    let said = namespace.output(
        r#"
        securityContext: {sysctls: [{name: kernel.shm_rmid_forced, value: "1"}]}
        containers: [{command: [sysctl, kernel.shm_rmid_forced]}]"#,
    );
    assert_eq!(said, "kernel.shm_rmid_forced = 1\n");
}

fn wrong_sysctls_are_refused(namespace: &Namespace) {
    let sysctls = [("foo-", "bar"), ("kernel.shmmax", "1"), ("safe-and-unsafe", "1"), ("bar..", "42")];
    let list = sysctls.map(|(name, value)| format!("{{name: {name:?}, value: {value:?}}}")).join(", ");
    let spec = format!("securityContext: {{sysctls: [{list}]}}\ncontainers: [{{}}]");
    let (code, refusal) =
        namespace.try_made(&super::namespace::pod(&serde_json::json!({"name": "refused"}), &spec));
    assert_eq!(code, 422, "{refusal}");
    let message = refusal["message"].as_str().unwrap();
    for (name, wrong) in
        [("foo-", true), ("bar..", true), ("safe-and-unsafe", false), ("kernel.shmmax", false)]
    {
        assert_eq!(message.contains(&format!("Invalid value: {name:?}")), wrong, "{message}");
    }
}

const MANAGED: &str = "# Kubernetes-managed hosts file.\n";

fn hosts_are_managed(namespace: &Namespace) {
    let volume = "volumes: [{name: hosts, hostPath: {path: /etc/hosts, type: FileOrCreate}}]";
    let original = "volumeMounts: [{name: hosts, mountPath: /etc/hosts-original}";
    namespace.pod(
        "of-its-own",
        &format!("{volume}\ncontainers: [{{{original}]}}, {{{original}]}}, {{{original}, {{name: hosts, mountPath: /etc/hosts}}]}}]"),
    );
    namespace.pod(
        "of-the-host",
        &format!("hostNetwork: true\n{volume}\ncontainers: [{{{original}]}}, {{{original}]}}]"),
    );
    let managed = |pod: &str, container: &str| {
        let read = |file: &str| namespace.exec(pod, container, &format!("cat {file}"));
        let (own, original) = (read("/etc/hosts"), read("/etc/hosts-original"));
        assert!(!own.is_empty() && !original.is_empty());
        own.starts_with(MANAGED) && own != original
    };
    namespace.ready("of-its-own");
    assert!(managed("of-its-own", "c") && managed("of-its-own", "c1"));
    assert!(!managed("of-its-own", "c2"), "it mounts its own");
    namespace.ready("of-the-host");
    assert!(!managed("of-the-host", "c") && !managed("of-the-host", "c1"));
}

fn aliases_of_hosts(namespace: &Namespace) {
    let said = namespace.output(
        r"
        hostAliases: [{ip: 123.45.67.89, hostnames: [foo, bar]}]
        containers: [{command: [cat, /etc/hosts]}]",
    );
    assert!(said.starts_with(MANAGED) && said.contains("\n123.45.67.89\tfoo\tbar\n"), "{said}");
    assert_ne!(namespace.get("pods/pod-0").1["spec"]["hostAliases"], Value::Null);
}
