//! What knarr needs of a machine beside kernel and network: rights, programs, a name, the time, disk and memory.

use crate::check_config::Finding;
use crate::check_kernel::{existing, read};
use crate::machine::hostname;
use crate::options::Options;
use base::{clock, process};
use nix::sys::statvfs::statvfs;
use nix::unistd::geteuid;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Programs say their versions within this.
const LIMIT: Duration = Duration::from_secs(10);
/// What images, logs and data take at least.
const LEAST_BYTES: u64 = 512 << 20;
const GOOD_BYTES: u64 = 2 << 30;
/// With less free than this part the kubelet removes images and evicts pods.
const FREE_PERCENT: u64 = 15;
const LEAST_MEMORY_KIB: u64 = 400 << 10;
/// A clock may be set back by this much without harm.
const SLACK: Duration = Duration::from_secs(3_600);

pub(crate) fn root() -> Finding {
    if geteuid().is_root() {
        Finding::pass("run by root")
    } else {
        Finding::fail("not run by root, so that most of this fails too", "sudo knarr check-config")
    }
}

pub(crate) async fn all(options: &Options) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !options.disable_agent {
        findings.extend(programs(options).await);
        findings.push(apparmor());
        findings.extend(files(Path::new("/etc")));
    }
    findings.push(name(options.node_name.as_deref()));
    findings.push(time());
    findings.push(disk(&options.data_dir));
    findings.push(memory(&read("/proc/meminfo")));
    findings.push(swap(&read("/proc/swaps")));
    findings
}

async fn programs(options: &Options) -> Vec<Finding> {
    let mut wanted = vec![("nft", "nftables")];
    if options.container_runtime_endpoint.is_none() {
        wanted.extend([("containerd", "containerd"), ("runc", "runc")]);
    }
    let mut findings = Vec::new();
    for (program, package) in wanted {
        let Some(path) = node::find_program(program, &options.data_dir) else {
            findings.push(Finding::fail(
                format!("{program} is not installed"),
                format!("install the package {package}; install.sh does"),
            ));
            continue;
        };
        let mut command = process::command(&path);
        command.arg("--version");
        findings.push(match process::check(command, b"", LIMIT).await {
            Ok(said) => {
                let said = String::from_utf8_lossy(&said).lines().next().unwrap_or_default().to_owned();
                Finding::pass(format!("{}: {said}", path.display()))
            }
            Err(error) => Finding::fail(error.to_string(), format!("install the package {package} again")),
        });
    }
    findings
}

/// What the runtime copies into pods.
fn files(etc: &Path) -> Option<Finding> {
    let missing: Vec<&str> =
        ["hosts", "resolv.conf"].into_iter().filter(|name| !etc.join(name).exists()).collect();
    (!missing.is_empty()).then(|| {
        Finding::fail(
            format!("{} has no {}", etc.display(), missing.join(", ")),
            "pods do not start without: echo '127.0.0.1 localhost' > /etc/hosts, and name a server in resolv.conf",
        )
    })
}

/// A runtime that finds AppArmor in the kernel loads profiles.
fn apparmor() -> Finding {
    let enabled = read("/sys/module/apparmor/parameters/enabled") == "Y";
    let parser =
        ["/sbin/apparmor_parser", "/usr/sbin/apparmor_parser"].iter().any(|path| Path::new(path).exists());
    match (enabled, parser) {
        (true, false) => Finding::warn(
            "AppArmor is on, but there is no apparmor_parser",
            "containers run without profiles: install the package apparmor",
        ),
        (true, true) => Finding::pass("AppArmor"),
        (false, _) => Finding::pass("no AppArmor in this kernel: containers run without profiles"),
    }
}

fn name(given: Option<&str>) -> Finding {
    let name = given.map_or_else(hostname, str::to_owned);
    let wrong = api::validate::dns_subdomain(&name);
    if wrong.is_empty() && name != "localhost" {
        return Finding::pass(format!("the node's name {name}"));
    }
    Finding::fail(
        format!("{name:?} cannot be a node's name"),
        "give the machine a name of small letters, digits, dashes and dots (hostnamectl hostname NAME), or name the node with --node-name",
    )
}

/// Certificates of a clock that is wrong are good for nobody else.
fn time() -> Finding {
    let own = std::env::current_exe().and_then(std::fs::metadata).and_then(|file| file.modified());
    let now = SystemTime::from(clock::now());
    match own {
        Ok(made) if now + SLACK < made => Finding::fail(
            format!("the clock says {}, which is before this program was made", clock::now()),
            "set the clock, and keep it right: install chrony or systemd-timesyncd",
        ),
        _ => Finding::pass(format!("the clock says {}", clock::whole_seconds(clock::now()))),
    }
}

fn disk(data_dir: &Path) -> Finding {
    let at = existing(data_dir);
    match statvfs(at) {
        Err(errno) => Finding::fail(format!("{} cannot be looked at: {errno}", at.display()), ""),
        Ok(found) => {
            let unit = found.fragment_size();
            space(&at.display().to_string(), found.blocks_available() * unit, found.blocks() * unit)
        }
    }
}

fn space(at: &str, free: u64, size: u64) -> Finding {
    let mib = free >> 20;
    let what = format!("{mib} MiB free for {at}");
    if free < LEAST_BYTES {
        Finding::fail(what, "images need more: make room, or put --data-dir elsewhere")
    } else if free < GOOD_BYTES {
        Finding::warn(what, "that is soon full of images")
    } else if free < size / 100 * FREE_PERCENT {
        let what = format!("{what}, less than {FREE_PERCENT} % of the disk");
        Finding::warn(what, "unused images are removed and pods evicted: make room")
    } else {
        Finding::pass(what)
    }
}

fn memory(meminfo: &str) -> Finding {
    let total = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse::<u64>().ok());
    match total {
        Some(kib) if kib < LEAST_MEMORY_KIB => Finding::warn(
            format!("{} MiB of memory", kib >> 10),
            "knarr and its runtime take some 150 of them",
        ),
        Some(kib) => Finding::pass(format!("{} MiB of memory", kib >> 10)),
        None => Finding::warn("how much memory there is cannot be read", ""),
    }
}

fn swap(swaps: &str) -> Finding {
    match swaps.lines().count() {
        0 | 1 => Finding::pass("no swap"),
        _ => Finding::pass("swap is on: pods do not use it (kubelet-arg fail-swap-on=true refuses it)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check_config::Verdict;

    #[test]
    fn room_is_judged_by_size_and_part() {
        let verdict = |free_gib: u64, size_gib: u64| space("/", free_gib << 30, size_gib << 30).verdict;
        assert_eq!(verdict(20, 100), Verdict::Pass);
        assert_eq!(verdict(14, 100), Verdict::Warn);
        assert_eq!(verdict(1, 2), Verdict::Warn);
        assert_eq!(verdict(0, 2), Verdict::Fail);
    }

    #[test]
    fn names_that_no_node_can_have_are_refused() {
        assert_eq!(name(Some("box-1.example")).verdict, Verdict::Pass);
        for wrong in ["My_Box", "", "localhost", "-a"] {
            assert_eq!(name(Some(wrong)).verdict, Verdict::Fail, "{wrong}");
        }
    }

    #[test]
    fn files_that_pods_begin_with_are_missed() {
        let found = files(Path::new("/nonexistent")).unwrap();
        assert_eq!(
            (found.verdict, found.what.as_str()),
            (Verdict::Fail, "/nonexistent has no hosts, resolv.conf")
        );
    }

    #[test]
    fn little_memory_is_warned_of() {
        assert_eq!(memory("MemTotal:         262144 kB").verdict, Verdict::Warn);
        assert_eq!(memory("MemFree: 1 kB\nMemTotal: 8262144 kB").what, "8068 MiB of memory");
    }
}
