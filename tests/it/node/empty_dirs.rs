//! Folders that live as long as their pod, on disk and in memory.

use super::{Behaviour, Namespace, behaviours};
use crate::support::cluster::SOON;
use crate::support::process::wait_for;

pub(super) const BEHAVIOURS: &[Behaviour] =
    behaviours![folders_are_everybodys, files_of_root, files_of_users, containers_share_folders];

/// A pod with a folder on disk and one in memory.
fn spec(security: &str, script: &str) -> String {
    format!(
        r#"
        securityContext: {security}
        containers:
        - command: [sh, -c, {script:?}]
          volumeMounts: [{{name: disk, mountPath: /disk}}, {{name: memory, mountPath: /memory}}]
        volumes: [{{name: disk, emptyDir: {{}}}}, {{name: memory, emptyDir: {{medium: Memory}}}}]"#
    )
}

/// The type of what is mounted at a path, and what it says of the path's mode.
const LOOK: &str =
    "for at in /disk /memory; do grep -q \" $at tmpfs \" /proc/mounts && echo in memory; stat -c '%n %A' $at";

fn folders_are_everybodys(namespace: &Namespace) {
    let said = namespace.output(&spec("{}", &format!("{LOOK}; done")));
    assert_eq!(said, "/disk drwxrwxrwx\nin memory\n/memory drwxrwxrwt\n");
}

/// Files of three modes are made and read in both.
fn files(namespace: &Namespace, security: &str, owner: u32) {
    let make = "for mode in 644 666 777; do echo new > $at/$mode; chmod $mode $at/$mode; \
                stat -c '%A %u' $at/$mode; cat $at/$mode; done";
    let said = namespace.output(&spec(security, &format!("{LOOK}; {make}; done")));
    let files: String =
        ["-rw-r--r--", "-rw-rw-rw-", "-rwxrwxrwx"].map(|mode| format!("{mode} {owner}\nnew\n")).concat();
    assert_eq!(said, format!("/disk drwxrwxrwx\n{files}in memory\n/memory drwxrwxrwt\n{files}"));
}

fn files_of_root(namespace: &Namespace) {
    files(namespace, "{}", 0);
}

fn files_of_users(namespace: &Namespace) {
    files(namespace, "{runAsUser: 1001}", 1001);
}

/// One container writes when it is told to; the other waits for the file.
fn containers_share_folders(namespace: &Namespace) {
    namespace.running(
        "sharing",
        r#"
        containers:
        - command: [sleep, "10000"]
          volumeMounts: [{name: shared, mountPath: /usr/share/volumeshare}]
        - command: [sh, -c, "echo Hello from the other container > /pod-data/shareddata.txt; sleep 10000"]
          volumeMounts: [{name: shared, mountPath: /pod-data}]
        volumes: [{name: shared, emptyDir: {}}]"#,
    );
    wait_for("what is shared", SOON, || {
        let read = namespace.exec("sharing", "c", "cat /usr/share/volumeshare/shareddata.txt");
        (read == "Hello from the other container\n").then_some(())
    });
}
