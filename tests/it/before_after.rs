//! install.sh on a machine without an init: it installs, is content when run again, and takes
//! everything away.

use crate::support::cluster::{IMAGE, SOON};
use crate::support::process::{Output, run, wait_for};
use crate::support::sandbox::Sandbox;
use crate::support::{binary, image, root};
use std::collections::BTreeSet;
use std::time::Duration;

/// What the machine consists of, one line each. The sandbox makes /run/netns by itself; empty it is removed, as it should
/// be where a pod was the first to need it.
const INVENTORY: &str = r#"
ip -o link | cut -d: -f2 | sed 's/^/link/'
ip -4 route show table all | grep -v ^broadcast | sed 's/^/route /'
nft list tables
cut -d' ' -f1-3 /proc/self/mounts | sed 's/^/mount /'
ls /run/netns | sed 's/^/netns /'
find /sys/fs/cgroup -type d | sed 's/^/cgroup /'
find /etc /usr/local /var/lib /var/log /run -xdev ! -path /run/netns | sed 's/^/file /'
ps -eo args= | grep -v -e '^ps ' -e '^sed ' -e '^sh ' -e '^grep ' | sed 's/^/process /'
"#;

fn inventory(sandbox: &Sandbox) -> BTreeSet<String> {
    sandbox.sh(INVENTORY).ok().lines().map(str::to_owned).collect()
}

fn install(sandbox: &Sandbox) -> Output {
    let script = root().join("install.sh").display().to_string();
    let mut command = sandbox.command(Duration::from_secs(120), &["sh", &script]);
    command.env("INSTALL_KNARR_BIN", binary()).env("KNARR_NODE_NAME", "node-1");
    run(command, "")
}

#[test]
fn what_is_installed_can_be_taken_away() {
    let sandbox = Sandbox::new();
    // containerd's snapshots need a real file system below them.
    sandbox.sh("mkdir -p state /var/lib/knarr && mount --bind state /var/lib/knarr").ok();
    let before = inventory(&sandbox);
    let said = install(&sandbox).ok();
    assert!(said.contains("Installed") && said.contains("The node is Ready"), "{said}");
    let said = install(&sandbox).ok();
    assert!(said.contains("Nothing changed"), "{said}");
    let kubectl = "knarr kubectl --kubeconfig /etc/knarr/knarr.yaml";
    let manifest = "{apiVersion: v1, kind: Pod, metadata: {name: pause}, spec: {terminationGracePeriodSeconds: 0, \
                    containers: [{name: a, image: knarr.test/busybox:1, command: [sleep, infinity], ports: [{containerPort: 80, hostPort: 8080}]}]}}";
    image::write(&sandbox.folder.join("state/agent/images/busybox.tar"), IMAGE, "");
    sandbox.sh(&format!("echo '{manifest}' | {kubectl} apply -f -")).ok();
    wait_for("running pod", SOON, || {
        sandbox.sh(&format!("{kubectl} get pods")).stdout.contains("Running").then_some(())
    });
    let during = inventory(&sandbox);
    for part in ["link knarr0", "table ", "mount ", "netns cni-", "cgroup ", "process /usr/local/bin/knarr"] {
        assert!(during.difference(&before).any(|line| line.contains(part)), "{part} is missing: {during:#?}");
    }
    sandbox.sh("knarr-uninstall.sh").ok();
    let after = inventory(&sandbox);
    let difference: Vec<&String> = after.symmetric_difference(&before).collect();
    assert!(difference.is_empty(), "the machine is not as before: {difference:#?}");
}
