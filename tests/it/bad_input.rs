//! Mistakes and misfortunes: one sentence that says what to do, an exit code, and nothing lost.

use crate::support::binary;
use crate::support::cluster::{Cluster, restarts};
use crate::support::process::Output;
use std::fs;

/// One line on standard error, naming everything of `parts`.
#[track_caller]
fn complains(output: Output, parts: &[&str]) {
    let (code, screen) = (output.code, output.stdout.clone());
    let said = output.err();
    assert!(code != 124 && code < 126, "exit code {code}: {screen}{said}");
    let sentences: Vec<&str> = said.lines().filter(|line| line.starts_with("knarr: ")).collect();
    assert_eq!(sentences.len(), 1, "{said}");
    for part in parts {
        assert!(sentences[0].contains(part), "{part:?} is missing: {said}");
    }
    assert!(!said.contains("panicked") && !said.contains("backtrace"), "{said}");
}

#[test]
fn a_foreign_database_is_left_alone() {
    let cluster = Cluster::prepared(&["--disable-agent"]);
    let database = cluster.sandbox.folder.join("data/server/db/state.db");
    fs::create_dir_all(database.parent().unwrap()).unwrap();
    fs::write(&database, "somebody's diary\n".repeat(1000)).unwrap();
    complains(cluster.fails(&[]), &["state.db", "not a knarr database", "--data-dir"]);
    assert_eq!(fs::read_to_string(&database).unwrap(), "somebody's diary\n".repeat(1000));
}

#[test]
fn a_database_that_is_a_folder_is_reported() {
    let cluster = Cluster::prepared(&["--disable-agent"]);
    fs::create_dir_all(cluster.sandbox.folder.join("data/server/db/state.db")).unwrap();
    complains(cluster.fails(&[]), &["state.db", "Is a directory"]);
}

#[test]
fn a_second_server_on_the_same_data_or_port_is_refused() {
    let cluster = Cluster::control_plane();
    complains(cluster.fails(&["--https-listen-port", "7443"]), &["in use by another knarr", "--data-dir"]);
    let other = cluster.sandbox.folder.join("other").display().to_string();
    let arguments =
        ["server", "--config", "none", "--disable-agent", "--data-dir", &other, "--write-kubeconfig", "kc"];
    let binary = binary().display().to_string();
    let second = cluster.sandbox.run(&[&[binary.as_str()], &arguments[..]].concat());
    complains(second, &["6443", "in use", "--https-listen-port"]);
    assert!(cluster.kubectl("get namespaces").contains("default"));
}

#[test]
fn a_machine_without_containerd_is_told_what_to_install() {
    let cluster = Cluster::prepared(&["--https-listen-port", "6443"]);
    // A whiteout hides the program, wherever it is looked for.
    let hide = "mkdir upper work && mknod upper/containerd c 0 0 && \
                mount -t overlay overlay -o lowerdir=/usr/bin,upperdir=upper,workdir=work /usr/bin";
    cluster.sandbox.sh(hide).ok();
    complains(cluster.fails(&[]), &["containerd", "install"]);
}

#[test]
fn what_stands_in_the_way_of_the_network_is_named_at_start() {
    let cluster = Cluster::prepared(&["--https-listen-port", "6443"]);
    let sh = |script: &str| cluster.sandbox.sh(script).ok();
    for (before, after, parts) in [
        (
            "ip link add knarr0 type veth peer name other",
            "ip link delete knarr0",
            ["knarr0", "somebody else's", "ip link delete knarr0"],
        ),
        (
            "ip link add knarr-vxlan type bridge",
            "ip link delete knarr-vxlan",
            ["knarr-vxlan", "somebody else's", "ip link delete knarr-vxlan"],
        ),
        (
            "ip address add 10.42.3.4/24 dev eth0",
            "ip address delete 10.42.3.4/24 dev eth0",
            ["--cluster-cidr 10.42.0.0/16", "10.42.3.4", "eth0"],
        ),
        (
            "ip route add 10.43.7.0/24 via 10.99.0.1",
            "ip route delete 10.43.7.0/24",
            ["--service-cidr 10.43.0.0/16", "10.43.7.0/24", "eth0"],
        ),
    ] {
        sh(before);
        complains(cluster.fails(&[]), &parts);
        sh(after);
    }
    // A kernel that has it starts with it.
    if cluster.sandbox.sh("ip link add probe type wireguard").code != 0 {
        let said = cluster.fails(&["--network-backend", "wireguard"]);
        complains(said, &["no wireguard", "modprobe wireguard", "another --network-backend"]);
    }
    complains(
        cluster.fails(&["--lb-range", "10.42.9.0/28"]),
        &["--lb-range 10.42.9.1-10.42.9.14", "--cluster-cidr 10.42.0.0/16 overlap"],
    );
    complains(cluster.fails(&["--network-backend", "ipip"]), &["--network-backend", "ipip", "vxlan"]);
    let hide = "mkdir upper work && mknod upper/nft c 0 0 && \
                mount -t overlay overlay -o lowerdir=/usr/sbin,upperdir=upper,workdir=work /usr/sbin";
    sh(hide);
    complains(cluster.fails(&[]), &["nft", "install nftables"]);
    assert!(!sh("ip link").contains("knarr"), "nothing was begun");
}

#[test]
fn mistakes_in_settings_name_the_setting() {
    let cluster = Cluster::prepared(&["--disable-agent"]);
    let said = cluster.fails(&["--no-such-flag"]).err();
    assert!(said.contains("--no-such-flag") && said.contains("--help"), "{said}");
    complains(
        cluster.fails(&["--cluster-cidr", "everywhere"]),
        &["--cluster-cidr", "everywhere", "10.42.0.0/16"],
    );
    complains(cluster.fails(&["--write-kubeconfig-mode", "rw"]), &["rw"]);
    let file = cluster.sandbox.folder.join("config.yaml");
    for (text, parts) in [
        ("data-dirr: /x\n", ["config.yaml", "data-dirr", "data-dir"]),
        ("https-listen-port: many\n", ["config.yaml", "https-listen-port", "many"]),
        ("- a\n- b\n", ["config.yaml", "", ""]),
        ("a: [\n", ["config.yaml", "", ""]),
    ] {
        fs::write(&file, text).unwrap();
        complains(cluster.fails(&[]), &parts);
    }
}

#[test]
fn a_malformed_manifest_is_refused_whole() {
    let cluster = Cluster::control_plane();
    for (manifest, parts) in [
        ("kind: ConfigMap\nmetadata: {name: a}\n", vec!["apiVersion"]),
        (
            "apiVersion: v1\nkind: Nothing\nmetadata: {name: a}\n",
            vec!["no matches for kind \"Nothing\" in version \"v1\""],
        ),
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {a: 1}\n", vec!["data"]),
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndatum: {}\n",
            vec!["unknown field \"datum\""],
        ),
        (
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {selector: {matchLabels: {a: b}}, template: {spec: {containers: []}}}\n",
            vec!["is invalid", "spec.template.metadata.labels", "spec.template.spec.containers"],
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: A_}\nspec: {containers: [{name: c, image: i}]}\n",
            vec!["metadata.name", "RFC 1123"],
        ),
    ] {
        let said = cluster.kubectl_with(manifest, &["apply", "-f", "-"]).err();
        for part in parts {
            assert!(said.contains(part), "{part:?} is missing: {said}");
        }
    }
    assert!(cluster.json("configmap a").is_null() && cluster.json("deployment a").is_null());
}

#[test]
fn a_full_disk_refuses_writes_and_loses_none() {
    let mut cluster = Cluster::prepared(&["--disable-agent"]);
    cluster.sandbox.sh("mount -t tmpfs -o size=24m disk data").ok();
    cluster.start();
    cluster.kubectl("create configmap before --from-literal=a=b");
    cluster.sandbox.sh("cat /dev/zero > data/filler 2>/dev/null; true").ok();
    let big = "x".repeat(400_000);
    let manifest = |index: usize| {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: big-{index}}}\ndata: {{a: {big}}}\n")
    };
    let mut kept = 0;
    let refused = (0..100).find_map(|index| {
        let output = cluster.kubectl_with(&manifest(index), &["create", "-f", "-"]);
        kept = index;
        (output.code != 0).then_some(output)
    });
    let said = refused.expect("no write was refused").err();
    assert!(said.contains("disk is full"), "{said}");
    assert!(cluster.kubectl("get configmap before").contains("before"));
    cluster.sandbox.sh("rm data/filler").ok();
    cluster.kubectl("create configmap after --from-literal=a=b");
    cluster.stop("KILL");
    cluster.start();
    let names = cluster.kubectl("get configmaps -o name");
    let big = names.matches("configmap/big-").count();
    assert!(
        names.contains("configmap/before") && names.contains("configmap/after") && big == kept,
        "{names}"
    );
}

const LATE: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: late}
spec:
  nodeName: node-1
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: "knarr.test/busybox:1", command: [sleep, infinity], volumeMounts: [{name: big, mountPath: /big}]}
  volumes: [{name: big, configMap: {name: big}}]
"#;

/// The disk below the pods' folders, of a node that evicts nobody for it.
#[test]
fn a_full_disk_under_pods_is_told_of() {
    let mut cluster = Cluster::prepared(&[]);
    cluster.tell_kubelet(&["eviction-hard=memory.available<1Mi,nodefs.available<0%,imagefs.available<0%"]);
    cluster.sandbox.sh("mkdir kubelet && mount -t tmpfs -o size=8m disk kubelet").ok();
    cluster.start();
    let before = LATE.replace("late", "before").replace("configMap: {name: big}", "emptyDir: {}");
    cluster.apply(&before);
    cluster.pod_ready("before");
    cluster.sandbox.sh("cat /dev/zero > kubelet/filler 2>/dev/null; true").ok();
    let big = "x".repeat(200_000);
    cluster.apply(&format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: big}}\ndata: {{a: {big}}}\n"));
    cluster.apply(LATE);
    let told = cluster.event("late", "FailedMount");
    assert!(told.starts_with("MountVolume.SetUp failed for volume \"big\" : "), "{told}");
    assert!(told.to_lowercase().contains("no space left on device"), "{told}");
    assert_eq!(cluster.exec("before", "cat /www/index.html").ok(), "version 1\n");
    cluster.sandbox.sh("rm kubelet/filler").ok();
    cluster.pod_ready("late");
    assert_eq!(cluster.exec("late", "wc -c < /big/a").ok(), "200000\n");
    assert_eq!(restarts(&cluster.json("pod before")), 0);
}

#[test]
fn a_disk_that_is_full_from_the_start_is_reported() {
    let cluster = Cluster::prepared(&["--disable-agent"]);
    cluster.sandbox.sh("mount -t tmpfs -o size=64k disk data && cat /dev/zero > data/filler; true").ok();
    complains(cluster.fails(&[]), &["space"]);
}
