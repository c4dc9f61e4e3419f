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

/// A claim of the same disk as a device, and a pod that has it.
const BLOCK: &str = "
apiVersion: v1
kind: PersistentVolume
metadata: {name: disk}
spec:
  capacity: {storage: 1Mi}
  accessModes: [ReadWriteOnce]
  storageClassName: by-hand
  volumeMode: Block
  iscsi: {targetPortal: 127.0.0.1, iqn: 'iqn.2001-04.com.example:disk', lun: 0, chapAuthDiscovery: true, chapAuthSession: true, secretRef: {name: chap, namespace: default}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: disk}
spec: {storageClassName: by-hand, volumeMode: Block, accessModes: [ReadWriteOnce], volumeName: disk, resources: {requests: {storage: 1Mi}}}
---
";

/// A network's disk on a node.
struct Network {
    cluster: Cluster,
    device: Loop,
}

/// The machine's own devices are seen in the sandbox, and so is a folder that is made among them.
impl Drop for Network {
    fn drop(&mut self) {
        // It stays where the machine itself has something in it.
        if let Err(error) = fs::remove_dir("/dev/disk") {
            eprintln!("/dev/disk: {error}");
        }
    }
}

impl Network {
    fn new() -> Self {
        let cluster = Cluster::new();
        let device = Loop::new(&cluster.sandbox.folder.join("disk"));
        Self { cluster, device }
    }

    fn install_client(&self) {
        let folder = &self.cluster.sandbox.folder;
        let client =
            CLIENT.replace("FOLDER", &folder.display().to_string()).replace("DEVICE", &self.device.0);
        fs::write(folder.join("iscsiadm"), client).unwrap();
        fs::set_permissions(folder.join("iscsiadm"), fs::Permissions::from_mode(0o755)).unwrap();
        let install = "mkdir -p /dev/disk; mount -t tmpfs links /dev/disk; mkdir -p /usr/local/sbin; \
                       cp iscsiadm /usr/local/sbin/";
        self.cluster.sandbox.sh(install).ok();
    }

    fn asked(&self, what: &str) -> usize {
        let asked = fs::read_to_string(self.cluster.sandbox.folder.join("asked")).unwrap();
        assert!(!asked.contains("secret"), "secrets are no arguments: {asked}");
        asked.lines().filter(|line| line.contains(what)).count()
    }

    /// After so many sessions in all.
    fn nothing_is_left(&self, sessions: usize) {
        wait_for("the end of the session", SOON, || (self.asked("--logout") == sessions).then_some(()));
        let rest = self.cluster.sandbox.folder.join("kubelet/plugins/kubernetes.io/iscsi");
        wait_for("the end of its folder", SOON, || {
            fs::read_dir(&rest).map_or(true, |mut rest| rest.next().is_none()).then_some(())
        });
        let table = self.cluster.sandbox.sh("cat /proc/mounts").ok();
        assert!(!table.contains("kubernetes.io/iscsi"), "{table}");
    }
}

#[test]
fn disks_of_a_network() {
    let mut network = Network::new();
    network.cluster.apply(SECRET);
    what_is_missing_is_told(&network);
    network.install_client();
    pods_share_a_disk(&network);
    a_disk_outlives_a_restart(&mut network);
    a_disk_is_a_device(&network);
}

fn what_is_missing_is_told(network: &Network) {
    let cluster = &network.cluster;
    cluster.apply(&pod("first", ISCSI));
    cluster.apply(&pod("fibre", FC));
    let told = cluster.event("first", "FailedMount");
    assert!(told.starts_with("MountVolume.WaitForAttach failed for volume \"v\" : "), "{told}");
    assert!(told.contains("iscsiadm is not installed on this node"), "{told}");
    let told = cluster.event("fibre", "FailedMount");
    assert!(told.ends_with("no fc disk found: this node has no Fibre Channel adapter"), "{told}");
    cluster.kubectl("delete pod fibre --timeout=60s");
}

fn pods_share_a_disk(network: &Network) {
    let cluster = &network.cluster;
    cluster.pod_ready("first");
    assert_eq!(cluster.exec("first", "echo kept > /v/file; stat -c '%a %g' /v").ok(), "2775 4000\n");
    cluster.apply(&pod("second", ISCSI));
    cluster.pod_ready("second");
    assert_eq!(cluster.exec("second", "cat /v/file").ok(), "kept\n");
    cluster.kubectl("delete pod first --timeout=60s");
    assert_eq!((network.asked("--login"), network.asked("--logout")), (1, 0));
    cluster.kubectl("delete pod second --timeout=60s");
    network.nothing_is_left(1);
}

fn a_disk_outlives_a_restart(network: &mut Network) {
    network.cluster.apply(&pod("third", ISCSI));
    network.cluster.pod_ready("third");
    network.cluster.kubectl("delete secret chap");
    network.cluster.stop("TERM");
    network.cluster.start();
    assert_eq!(network.cluster.exec("third", "cat /v/file").ok(), "kept\n");
    network.cluster.kubectl("delete pod third --timeout=60s");
    // What is here already asks for its Secret no more.
    let events = network.cluster.kubectl("get events");
    assert!(!events.lines().any(|line| line.contains("FailedMount") && line.contains("third")), "{events}");
    network.cluster.apply(SECRET);
    assert_eq!(network.asked("--login"), 2);
    network.nothing_is_left(2);
}

fn a_disk_is_a_device(network: &Network) {
    let claimed = pod("raw", "persistentVolumeClaim: {claimName: disk}");
    let claimed = claimed.replace(
        "volumeMounts: [{name: v, mountPath: /v}]",
        "volumeDevices: [{name: v, devicePath: /dev/raw}]",
    );
    network.cluster.apply(&format!("{BLOCK}{claimed}"));
    network.cluster.pod_ready("raw");
    // What was formatted for others is seen as it is: ext4's mark.
    let mark = "dd if=/dev/raw bs=1 skip=1080 count=2 2>/dev/null | od -An -tx1";
    assert_eq!(network.cluster.exec("raw", mark).ok().trim(), "53 ef");
    network.cluster.kubectl("delete pod raw --timeout=60s");
    network.nothing_is_left(3);
}
