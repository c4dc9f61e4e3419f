//! Beside ufw and firewalld themselves, as their packages have them.

use super::{answers, fails, fetch};
use crate::support::binary;
use crate::support::cluster::{Cluster, SOON};
use crate::support::process::wait_for;
use crate::support::require;
use crate::support::sandbox::Background;

const TELL_UFW: &str =
    "ufw allow from 10.42.0.0/16 && ufw route allow from 10.42.0.0/16 && ufw route allow to 10.42.0.0/16";
const TELL_FIREWALLD: &str =
    "firewall-cmd --permanent --zone=trusted --add-source=10.42.0.0/16 && firewall-cmd --reload";

/// A cluster with pods, and a client on its link that is none of it.
fn cluster() -> Cluster {
    let cluster = Cluster::new();
    let client = "ip netns add client; ip link set outside netns client; ip -n client link set outside up; \
                  ip -n client addr add 10.99.0.1/24 dev outside";
    cluster.sandbox.sh(client).ok();
    cluster.apply(&super::manifest());
    cluster.kubectl("expose pod open --port 80 --name reached --type NodePort");
    cluster.pod_ready("open");
    cluster.pod_ready("shut");
    everything_works(&cluster);
    cluster
}

/// Pods and services, DNS, node ports and policies.
fn everything_works(cluster: &Cluster) {
    let address =
        |pod: &str| cluster.json(&format!("pod {pod}"))["status"]["podIP"].as_str().unwrap().to_owned();
    let open = address("open");
    wait_for("a pod", SOON, || (fetch(cluster, "shut", &open) == "open\n").then_some(()));
    answers(cluster);
    let port = cluster.json("service reached")["spec"]["ports"][0]["nodePort"].to_string();
    let ask = format!("ip netns exec client curl -sf --max-time 2 http://10.99.0.2:{port}/");
    wait_for("a node port from outside", SOON, || {
        (cluster.sandbox.sh(&ask).stdout == "open\n").then_some(())
    });
    assert_eq!(fetch(cluster, "open", &address("shut")), "", "policies hold");
}

/// What is in nftables and not knarr's, without counters.
fn rules_of_others(cluster: &Cluster) -> String {
    let script = "nft list tables | grep -v knarr | while read -r word family name; do nft -s list table $family $name; done";
    cluster.sandbox.sh(script).ok()
}

fn own_tables(cluster: &Cluster) -> usize {
    super::tables(cluster).matches("knarr").count()
}

/// A firewall that is in the way, is told, and is read anew; then knarr goes.
fn goes_well(mut cluster: Cluster, (hint, tell): (&str, &str), reloads: &[&str]) {
    fails(&cluster);
    wait_for(hint, SOON, || cluster.screen().contains(hint).then_some(()));
    cluster.sandbox.sh(tell).ok();
    everything_works(&cluster);
    let (rules, tables) = (rules_of_others(&cluster), own_tables(&cluster));
    assert!(rules.contains("10.42.0.0/16"), "{rules}");
    for reload in reloads {
        cluster.sandbox.sh(reload).ok();
        everything_works(&cluster);
        assert_eq!(own_tables(&cluster), tables, "after {reload}");
    }
    assert!(!cluster.screen().contains("somebody removed"), "{}", cluster.screen());
    let rules = rules_of_others(&cluster);
    assert_eq!(cluster.stop("TERM"), 0);
    assert_eq!(rules_of_others(&cluster), rules, "after a stop");
    cluster.start();
    everything_works(&cluster);
    assert_eq!(rules_of_others(&cluster), rules, "after a start");
    assert_eq!(cluster.stop("TERM"), 0);
    cluster.sandbox.run(&[&binary().display().to_string(), "teardown"]).ok();
    assert_eq!(own_tables(&cluster), 0);
    assert_eq!(rules_of_others(&cluster), rules, "after all of knarr's is gone");
}

#[test]
fn beside_ufw() {
    require(&[("ufw", "ufw")]);
    let cluster = cluster();
    cluster.sandbox.sh("ufw --force enable").ok();
    let reloads = ["ufw reload", "ufw --force disable && ufw --force enable"];
    goes_well(cluster, ("ufw allow from 10.42.0.0/16", TELL_UFW), &reloads);
}

#[test]
fn beside_firewalld() {
    require(&[("firewalld", "firewalld"), ("dbus-daemon", "dbus-daemon")]);
    let cluster = cluster();
    let begin = |name: &str, words: &[&str]| -> Background {
        cluster.sandbox.background(&cluster.sandbox.folder.join(name), |_| {}, words)
    };
    cluster.sandbox.sh("mkdir -p /run/dbus").ok();
    let _bus = begin("dbus.log", &["dbus-daemon", "--system", "--nofork", "--nopidfile"]);
    wait_for("the bus", SOON, || {
        (cluster.sandbox.sh("test -S /run/dbus/system_bus_socket").code == 0).then_some(())
    });
    let _firewalld = begin("firewalld.log", &["firewalld", "--nofork", "--nopid"]);
    wait_for("firewalld", SOON, || (cluster.sandbox.sh("firewall-cmd --state").code == 0).then_some(()));
    let reloads = ["firewall-cmd --reload", "firewall-cmd --complete-reload"];
    goes_well(cluster, ("--zone=trusted --add-source=10.42.0.0/16", TELL_FIREWALLD), &reloads);
}
