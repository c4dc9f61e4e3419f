//! Disks that come over a network. This kernel has no client for any: a program of the test's own stands in for
//! open-iscsi's, and a file for the disk.

use super::volumes::Loop;
use crate::support::cluster::{Cluster, SOON};
use crate::support::process::wait_for;
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// Knows one target with one disk, wants secrets, and notes what it was asked.
const CLIENT: &str = r#"#!/bin/sh
echo "$*" >> FOLDER/asked
target=iqn.2001-04.com.example:disk
sought=/etc/iscsi/send_targets/127.0.0.1,3260/st_config
record=/etc/iscsi/nodes/$target/127.0.0.1,3260,1/default
link=/dev/disk/by-path/ip-127.0.0.1:3260-iscsi-$target-lun-0
make() { mkdir -p "${1%/*}"; printf '# BEGIN RECORD 2.1.8\n%s.auth.authmethod = None\n# END RECORD\n' "$2" > "$1"; }
case "$*" in
    *discoverydb*'-o new') make $sought discovery.sendtargets ;;
    *--discover) grep -qx 'discovery.sendtargets.auth.password = seek-secret' $sought || exit 24; make $record node.session ;;
    *--login)
        grep -qx 'node.session.auth.authmethod = CHAP' $record || exit 24
        grep -qx 'node.session.auth.password = log-in-secret' $record || exit 24
        mkdir -p /dev/disk/by-path; ln -s DEVICE $link ;;
    *--logout) rm $link ;;
    *node*'-o delete') rm -r /etc/iscsi/nodes ;;
esac
"#;

const SECRET: &str = "
apiVersion: v1
kind: Secret
metadata: {name: chap}
type: kubernetes.io/iscsi-chap
stringData:
  discovery.sendtargets.auth.username: seeker
  discovery.sendtargets.auth.password: seek-secret
  node.session.auth.username: me
  node.session.auth.password: log-in-secret
";

fn pod(name: &str, volume: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 0
  securityContext: {{fsGroup: 4000}}
  containers:
  - name: c
    image: knarr.test/busybox:1
    command: [sleep, infinity]
    volumeMounts: [{{name: v, mountPath: /v}}]
  volumes: [{{name: v, {volume}}}]
"
    )
}

const ISCSI: &str = "iscsi: {targetPortal: 127.0.0.1, iqn: 'iqn.2001-04.com.example:disk', lun: 0, fsType: ext4, \
                     chapAuthDiscovery: true, chapAuthSession: true, secretRef: {name: chap}}";
const FC: &str = "fc: {targetWWNs: ['500a0981891b8dc5'], lun: 0}";

#[test]
fn disks_of_a_network() {
    let cluster = Cluster::new();
    let folder = cluster.sandbox.folder.clone();
    let device = Loop::new(&folder.join("disk"));
    cluster.apply(SECRET);
    cluster.apply(&pod("first", ISCSI));
    cluster.apply(&pod("fibre", FC));
    let told = cluster.event("first", "FailedMount");
    assert!(told.starts_with("MountVolume.WaitForAttach failed for volume \"v\" : "), "{told}");
    assert!(told.contains("iscsiadm is not installed on this node"), "{told}");
    let told = cluster.event("fibre", "FailedMount");
    assert!(told.ends_with("no fc disk found: this node has no Fibre Channel adapter"), "{told}");
    cluster.kubectl("delete pod fibre --timeout=60s");
    let client = CLIENT.replace("FOLDER", &folder.display().to_string()).replace("DEVICE", &device.0);
    fs::write(folder.join("iscsiadm"), client).unwrap();
    fs::set_permissions(folder.join("iscsiadm"), fs::Permissions::from_mode(0o755)).unwrap();
    let install = "mkdir -p /dev/disk; mount -t tmpfs links /dev/disk; mkdir -p /usr/local/sbin; cp iscsiadm /usr/local/sbin/";
    cluster.sandbox.sh(install).ok();
    cluster.pod_ready("first");
    assert_eq!(cluster.exec("first", "echo kept > /v/file; stat -c '%a %g' /v").ok(), "2775 4000\n");
    let asked = |what: &str| {
        let asked = fs::read_to_string(folder.join("asked")).unwrap();
        assert!(!asked.contains("secret"), "secrets are no arguments: {asked}");
        asked.lines().filter(|line| line.contains(what)).count()
    };
    cluster.apply(&pod("second", ISCSI));
    cluster.pod_ready("second");
    assert_eq!(cluster.exec("second", "cat /v/file").ok(), "kept\n");
    cluster.kubectl("delete pod first --timeout=60s");
    assert_eq!((asked("--login"), asked("--logout")), (1, 0));
    cluster.kubectl("delete pod second --timeout=60s");
    wait_for("the end of the session", SOON, || (asked("--logout") == 1).then_some(()));
    let left = cluster
        .sandbox
        .sh("grep -c kubernetes.io/iscsi /proc/mounts; ls /var/lib/kubelet 2>/dev/null; true")
        .ok();
    assert_eq!(left.lines().next(), Some("0"), "{left}");
    let rest = folder.join("kubelet/plugins/kubernetes.io/iscsi");
    assert_eq!(fs::read_dir(rest).map_or(0, Iterator::count), 0);
    // What was written is there for who comes later.
    cluster.apply(&pod("third", ISCSI));
    cluster.pod_ready("third");
    assert_eq!(cluster.exec("third", "cat /v/file").ok(), "kept\n");
}
