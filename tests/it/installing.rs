//! install.sh on whole machines with systemd: a server and an agent are installed, run again, upgraded and taken away,
//! and a machine without network and without packages is installed from one archive.

use crate::support::cluster::{IMAGE, SOON};
use crate::support::image::Image;
use crate::support::machine::{Machine, put};
use crate::support::process::{limited, run, wait_for};
use crate::support::{binary, image, root};
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

/// Suites that are installed on; more of them with `KNARR_TEST_SUITES="bookworm trixie"`.
const SUITES: &str = "trixie";

/// What a machine consists of, one line each. What a person's kubectl remembers is that person's.
const INVENTORY: &str = r#"
ip -o link | cut -d: -f2 | sed 's/^/link/'
ip -4 route show table all | grep -v ^broadcast | sed 's/^/route /'
nft list tables 2>/dev/null | sed 's/^/table /'
cut -d' ' -f2-3 /proc/self/mounts | sed 's/^/mount /'
systemctl list-units --all --plain --no-legend --type=service,socket | awk '{print "unit " $1, $3}'
find /sys/fs/cgroup -type d -name 'kubepods*' | sed 's/^/cgroup /'
find /etc /opt /root /usr /var/lib /var/log /run -xdev ! -path '/root/.kube*' ! -path '/run/systemd/*' ! -path '/run/log/*' ! -path '/var/log/journal/*' | sed 's/^/file /'
ps -eo comm= | grep -v -e '^ps$' -e '^sed$' -e '^sh$' -e '^grep$' -e '^nsenter$' | sed 's/^/process /'
"#;

const POD: &str = "{apiVersion: v1, kind: Pod, metadata: {name: pause}, spec: {terminationGracePeriodSeconds: 0, \
                   nodeName: one, containers: [{name: a, image: knarr.test/busybox:1, command: [sleep, infinity]}]}}";

/// Waits for the pod, and tells what keeps it.
const RUNNING: &str = "tries=0
until kubectl get pod pause | grep -q Running; do
    tries=$((tries + 1))
    [ $tries -lt 60 ] || { kubectl describe pod pause; exit 1; }
    sleep 1
done";

fn inventory(machine: &Machine) -> BTreeSet<String> {
    machine.sh(INVENTORY).ok().lines().map(str::to_owned).collect()
}

#[track_caller]
fn assert_as_before(machine: &Machine, before: &BTreeSet<String>) {
    let after = inventory(machine);
    let difference: Vec<&String> = after.symmetric_difference(before).collect();
    assert!(difference.is_empty(), "the machine is not as before: {difference:#?}");
}

/// A machine with an address, on which `/root/knarr` and `/root/install.sh` lie.
fn machine(suite: &str, hostname: &str) -> Machine {
    let machine = Machine::boot(suite, hostname);
    put(&binary(), &machine.path("/root/knarr"));
    put(&root().join("install.sh"), &machine.path("/root/install.sh"));
    machine
}

fn address(machine: &Machine, address: &str) {
    let set =
        format!("ip addr add {address}/24 dev eth0 && ip link set eth0 up && ip route add default dev eth0");
    machine.sh(&set).ok();
}

const INSTALL: &str = "INSTALL_KNARR_BIN=/root/knarr sh /root/install.sh";
/// The disk around may be as full as it is.
const ROOMY: &str = "--kubelet-arg eviction-hard=memory.available<1Mi";

#[test]
fn servers_and_agents_come_and_go() {
    let suites = std::env::var("KNARR_TEST_SUITES").unwrap_or(SUITES.to_owned());
    for suite in suites.split_whitespace() {
        let (one, two) = (machine(suite, "one"), machine(suite, "two"));
        one.connect(&two);
        address(&one, "10.98.0.1");
        address(&two, "10.98.0.2");
        let (one_before, two_before) = (inventory(&one), inventory(&two));
        install_server(&one);
        let token = one.sh("knarr token create").ok();
        join_agent(&two, token.trim());
        wait_for("two nodes", SOON, || {
            let nodes = one.sh("kubectl get nodes --no-headers").stdout;
            (nodes.matches(" Ready ").count() == 2).then_some(())
        });
        upgrade(&one);
        upgrade_by_plan(&one, &two);
        take_away_agent(&two, &two_before);
        one.sh("knarr uninstall --yes").ok();
        assert_as_before(&one, &one_before);
        install_without_network(&two, &two_before);
    }
}

fn install_server(one: &Machine) {
    let wrong = one.sh(&format!("INSTALL_KNARR_EXEC='server --tls-sans x' {INSTALL}")).err();
    assert!(wrong.contains("--tls-sans"), "{wrong}");
    assert!(!one.path("/usr/local/bin/knarr").exists(), "a mistake changes nothing");
    let wrong = one.sh(&format!("KNARR_URL=https://10.98.0.9:6443 {INSTALL}")).err();
    assert!(wrong.contains("needs a token"), "{wrong}");
    let archive = one.path("/var/lib/knarr/agent/images/busybox.tar");
    fs::create_dir_all(archive.parent().unwrap()).unwrap();
    image::write(&archive, IMAGE, "");
    let said = one.sh(&format!("INSTALL_KNARR_EXEC='server --tls-san example.org {ROOMY}' {INSTALL}")).ok();
    assert!(said.contains("Installed") && said.contains("The node is Ready"), "{said}");
    let pid = one.sh("systemctl show -p MainPID --value knarr").ok();
    let said = one.sh(INSTALL).ok();
    assert!(said.contains("Nothing changed") && said.contains("running"), "{said}");
    assert_eq!(one.sh("systemctl show -p MainPID --value knarr").ok(), pid, "it was not restarted");
    let unit = fs::read_to_string(one.path("/etc/systemd/system/knarr.service")).unwrap();
    assert!(
        unit.contains(
            r#"ExecStart=/usr/local/bin/knarr "server" "--tls-san" "example.org" "--kubelet-arg" "#
        ),
        "{unit}"
    );
    assert!(one.sh("systemctl is-enabled knarr").ok().contains("enabled"));
    let checked = one.sh("knarr check-config");
    assert_eq!(checked.code, 0, "{}{}", checked.stdout, checked.stderr);
    for line in ["pass  nftables, and links", "pass  knarr runs and has its ports", "pass  overlayfs"] {
        assert!(checked.stdout.contains(line), "{line} is missing: {}", checked.stdout);
    }
    one.sh(&format!("echo '{POD}' | kubectl apply -f -")).ok();
    one.sh(RUNNING).ok();
}

fn join_agent(two: &Machine, token: &str) {
    let settings = "KNARR_URL=https://10.98.0.1:6443";
    let said = two.sh(&format!("INSTALL_KNARR_EXEC='agent --token {token}' {settings} {INSTALL}")).ok();
    assert!(said.contains("Installed") && said.contains("The node is Ready"), "{said}");
    let said = two.sh(INSTALL).ok();
    assert!(said.contains("Nothing changed"), "it keeps the settings that it has: {said}");
    let secret = token.rsplit("::").next().unwrap();
    for file in ["/etc/systemd/system/knarr-agent.service", "/etc/knarr/installed/knarr-agent"] {
        assert!(!fs::read_to_string(two.path(file)).unwrap().contains(secret), "{file} shows the token");
    }
    assert!(!two.sh("cat /proc/[0-9]*/cmdline").ok().contains(secret), "arguments show the token");
    let environment = two.path("/etc/systemd/system/knarr-agent.service.env");
    assert!(fs::read_to_string(&environment).unwrap().contains(secret));
    assert_eq!(fs::metadata(environment).unwrap().permissions().mode() & 0o777, 0o600);
}

/// Another executable: the same with something behind its end.
fn upgrade(one: &Machine) {
    let before =
        one.sh("kubectl get pod pause -o jsonpath='{.status.containerStatuses[0].containerID}'").ok();
    let other = fs::File::options().append(true).open(one.path("/root/knarr"));
    other.unwrap().write_all(b"newer").unwrap();
    let said = one.sh(INSTALL).ok();
    assert!(said.contains("Upgraded") && said.contains("The node is Ready"), "{said}");
    let running = one.sh("cmp /root/knarr /proc/$(systemctl show -p MainPID --value knarr)/exe");
    assert_eq!(running.code, 0, "{}", running.stdout);
    let after = one.sh("kubectl get pod pause -o jsonpath='{.status.containerStatuses[0].containerID}'").ok();
    assert_eq!(after, before, "pods go on");
}

/// By an object of the cluster: the server first, then the agent, each drained and with an executable of its own image.
fn upgrade_by_plan(one: &Machine, two: &Machine) {
    let program = one.path("/root/knarr");
    let other = fs::File::options().append(true).open(&program);
    other.unwrap().write_all(b"newest").unwrap();
    let archive = one.path("/root/newest.tar");
    Image { program: Some(&program), ..Image::new("knarr.test/knarr:newest", "") }.write(&archive);
    for machine in [one, two] {
        let folder = machine.path("/var/lib/knarr/agent/images");
        fs::create_dir_all(&folder).unwrap();
        put(&archive, &folder.join("newest.tar"));
    }
    fs::remove_file(archive).unwrap();
    let plan = "{apiVersion: upgrade.knarr.io/v1, kind: Plan, metadata: {name: all}, spec: {version: newest, \
                image: knarr.test/knarr, command: [/bin/knarr, upgrade-node], drain: {force: true, gracePeriodSeconds: 0}}}";
    one.sh(&format!("echo '{plan}' | kubectl apply -f -")).ok();
    wait_for("an upgraded cluster", Duration::from_secs(240), || {
        let shown =
            one.sh("kubectl get plans.upgrade.knarr.io all -o jsonpath='{.status.conditions[0].reason}'");
        assert_ne!(
            shown.stdout,
            "JobFailed",
            "{}",
            one.sh("kubectl -n kube-system logs -l upgrade.knarr.io/plan=all").stdout
        );
        (shown.stdout == "Complete").then_some(())
    });
    put(&program, &two.path("/root/newest"));
    let same = |file: &str, service: &str| {
        format!("cmp {file} /proc/$(systemctl show -p MainPID --value {service})/exe && rm -f /root/newest")
    };
    one.sh(&same("/root/knarr", "knarr")).ok();
    two.sh(&same("/root/newest", "knarr-agent")).ok();
    let nodes = one.sh("kubectl get nodes --no-headers").ok();
    assert!(nodes.matches(" Ready ").count() == 2 && !nodes.contains("SchedulingDisabled"), "{nodes}");
}

fn take_away_agent(two: &Machine, before: &BTreeSet<String>) {
    let asked = two.sh("knarr uninstall </dev/null").err();
    assert!(asked.contains("--yes"), "{asked}");
    assert!(two.path("/usr/local/bin/knarr").exists());
    two.sh("knarr-killall.sh").ok();
    assert!(!two.sh("ps -eo comm=").ok().contains("containerd"), "pods and their runtime are gone");
    assert!(two.path("/var/lib/knarr/agent/tls").exists(), "data stays");
    two.sh("knarr-agent-uninstall.sh").ok();
    assert_as_before(two, before);
}

/// No package, no network, and a `/usr` that cannot be written: one archive, in which is an image too.
fn install_without_network(two: &Machine, before: &BTreeSet<String>) {
    let folder = two.path("/root");
    let archive = folder.join("busybox.tar");
    image::write(&archive, IMAGE, "");
    let package = folder.join("knarr.tar.gz");
    let script = root().join("scripts/package").display().to_string();
    let mut pack = limited(Duration::from_secs(120), &[&script]);
    pack.arg("--knarr").arg(binary()).arg("--image").arg(&archive).arg("--output").arg(&package);
    run(pack, "").ok();
    two.sh("rm busybox.tar && ip link del eth0 && ip link add eth0 type veth peer name gone").ok();
    address(two, "10.98.0.2");
    let programs = "containerd containerd-shim-runc-v2 runc nft";
    two.sh(&format!("mkdir /taken && for one in {programs}; do mv $(command -v $one) /taken; done")).ok();
    two.sh("mount --bind /usr /usr && mount -o remount,bind,ro /usr").ok();
    let said =
        two.sh(&format!("tar xf knarr.tar.gz && INSTALL_KNARR_EXEC='{ROOMY}' ./knarr/install.sh")).ok();
    assert!(said.contains("The node is Ready") && !said.contains("packages"), "{said}");
    assert!(two.path("/opt/bin/knarr").exists() && said.contains("sudo /opt/bin/kubectl get"), "{said}");
    let path = "export PATH=/opt/bin:$PATH";
    two.sh(&format!("{path}; echo '{POD}' | sed s/one/two/ | kubectl apply -f -")).ok();
    two.sh(&format!("{path}\n{RUNNING}")).ok();
    let said = two.sh("./knarr/install.sh").ok();
    assert!(said.contains("Nothing changed"), "{said}");
    let away = "knarr uninstall --yes && rm -r knarr knarr.tar.gz && ip link del gone && umount -l /usr";
    two.sh(&format!("{path}; {away}")).ok();
    let after = inventory(two);
    let left: Vec<&String> = after.difference(before).collect();
    assert!(left.is_empty(), "something is left: {left:#?}");
}
