//! What knarr needs of the kernel: its version, control groups, namespaces, overlayfs, and how it was built.

use crate::check_config::Finding;
use crate::options::Options;
use flate2::read::GzDecoder;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// What Kubernetes is tested with at least.
const OLDEST: (u32, u32) = (4, 19);
/// From here on control groups of version 2 have all that containers use.
const GOOD: (u32, u32) = (5, 8);
/// A configuration has some 300 KiB.
const CONFIG_BYTES: u64 = 8 << 20;

/// Whether something of the kernel's can be done without.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    Must,
    /// What is missing without it.
    For(&'static str),
}

use Need::{For, Must};

#[rustfmt::skip]
const OPTIONS: [(&str, Need); 31] = [
    ("NAMESPACES", Must), ("NET_NS", Must), ("PID_NS", Must), ("IPC_NS", Must), ("UTS_NS", Must),
    ("USER_NS", For("pods with hostUsers: false")),
    ("CGROUPS", Must), ("CGROUP_PIDS", Must), ("CPUSETS", Must), ("MEMCG", Must), ("CGROUP_SCHED", Must),
    ("CFS_BANDWIDTH", For("limits of processors")),
    ("CGROUP_BPF", For("devices of containers under control groups of version 2")),
    ("CGROUP_HUGETLB", For("limits of huge pages")), ("BLK_CGROUP", For("figures of disks")),
    ("SECCOMP_FILTER", For("seccomp profiles")),
    ("OVERLAY_FS", Must), ("INOTIFY_USER", Must), ("POSIX_MQUEUE", Must),
    ("VETH", Must), ("BRIDGE", Must),
    ("NF_TABLES", Must), ("NF_CONNTRACK", Must), ("NFT_CT", Must), ("NFT_NAT", Must), ("NFT_MASQ", Must),
    ("NFT_NUMGEN", Must), ("NFT_FIB_INET", Must),
    ("VXLAN", For("--network-backend vxlan, which is the default")),
    ("WIREGUARD", For("--network-backend wireguard")),
    ("BRIDGE_NETFILTER", For("other network plugins with bridges; knarr's own does without")),
];

pub(crate) fn all(options: &Options) -> Vec<Finding> {
    let release = read("/proc/sys/kernel/osrelease");
    let mut findings = vec![version(&release)];
    findings.extend(cgroups(Path::new("/sys/fs/cgroup")));
    findings.extend(namespaces());
    findings.push(overlay(&options.data_dir));
    findings.extend(built(&release));
    findings.push(entropy(&read("/proc/sys/kernel/random/entropy_avail")));
    findings
}

pub(crate) fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn version(release: &str) -> Finding {
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let what = format!("kernel {release}");
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) >= GOOD => Finding::pass(what),
        (Some(major), Some(minor)) if (major, minor) >= OLDEST => {
            Finding::warn(what, format!("{}.{} or newer is better", GOOD.0, GOOD.1))
        }
        (Some(_), Some(_)) => Finding::fail(what, format!("it has to be {}.{} or newer", OLDEST.0, OLDEST.1)),
        _ => Finding::warn(what, "its version cannot be read"),
    }
}

fn cgroups(root: &Path) -> Vec<Finding> {
    let unified = std::fs::read_to_string(root.join("cgroup.controllers")).ok();
    let has = |name: &str| match &unified {
        Some(all) => all.split_whitespace().any(|one| one == name),
        None => root.join(name).is_dir(),
    };
    let mut findings = vec![match &unified {
        Some(_) => Finding::pass("control groups of version 2"),
        None if root.join("memory").is_dir() => Finding::warn(
            "control groups of version 1",
            "knarr runs on them, but memory QoS, PSI and newer runtimes want version 2: boot with systemd.unified_cgroup_hierarchy=1",
        ),
        None => Finding::fail(
            "no control groups at /sys/fs/cgroup",
            "mount them: mount -t cgroup2 cgroup2 /sys/fs/cgroup (OpenRC: rc-update add cgroups)",
        ),
    }];
    for name in ["cpu", "cpuset", "memory", "pids"] {
        findings.push(if has(name) {
            Finding::pass(format!("controller {name}"))
        } else {
            let hint = if name == "memory" {
                "boot with cgroup_enable=memory cgroup_memory=1 (Raspberry Pi: in cmdline.txt)"
            } else {
                "enable it in the kernel, or have it delegated if this is a container"
            };
            Finding::fail(format!("controller {name} is missing"), hint)
        });
    }
    findings
}

fn namespaces() -> Vec<Finding> {
    let is_missing = |name: &&str| !Path::new("/proc/self/ns").join(name).exists();
    let missing: Vec<&str> = ["mnt", "net", "pid", "ipc", "uts"].into_iter().filter(is_missing).collect();
    let mut findings = vec![if missing.is_empty() {
        Finding::pass("namespaces of mounts, networks, processes, IPC and names")
    } else {
        Finding::fail(format!("the kernel has no namespaces of {}", missing.join(", ")), "use another kernel")
    }];
    if is_missing(&"user") || read("/proc/sys/user/max_user_namespaces") == "0" {
        findings.push(Finding::warn(
            "no user namespaces",
            "pods with hostUsers: false do not start: sysctl user.max_user_namespaces=15000",
        ));
    }
    findings
}

/// The nearest folder that exists.
pub(crate) fn existing(path: &Path) -> &Path {
    path.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("/"))
}

/// Mounts an overlay where images will be unpacked, in a mount namespace of its own.
fn overlay(data_dir: &Path) -> Finding {
    let at = existing(data_dir);
    let what = format!("overlayfs over {}", at.display());
    match try_overlay(&at.join(format!(".knarr-check-{}", std::process::id()))) {
        Ok(()) => Finding::pass(what),
        Err(error) => Finding::fail(
            format!("{what}: {error}"),
            "modprobe overlay; where that is no help, put --data-dir on ext4 or xfs (with ftype=1)",
        ),
    }
}

fn try_overlay(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir(folder)?;
    let tried = try_in(folder);
    std::fs::remove_dir_all(folder)?;
    tried
}

fn try_in(folder: &Path) -> std::io::Result<()> {
    for name in ["lower", "upper", "work", "merged"] {
        std::fs::create_dir(folder.join(name))?;
    }
    let path = |name: &str| folder.join(name).display().to_string();
    let data = format!("lowerdir={},upperdir={},workdir={}", path("lower"), path("upper"), path("work"));
    let work = || {
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
        // It goes with the thread's namespace.
        mount(
            Some("overlay"),
            &folder.join("merged"),
            Some("overlay"),
            MsFlags::empty(),
            Some(data.as_str()),
        )?;
        Ok(())
    };
    let died = || std::io::Error::other("the attempt failed");
    std::thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|_| Err(died()))
}

/// How the kernel was built, where that can be read.
fn built(release: &str) -> Vec<Finding> {
    let places = [
        PathBuf::from("/proc/config.gz"),
        PathBuf::from(format!("/boot/config-{release}")),
        PathBuf::from(format!("/lib/modules/{release}/config")),
    ];
    let Some((place, text)) = places.iter().find_map(|place| Some((place, configuration(place)?))) else {
        return vec![Finding::pass(
            "the kernel does not say how it was built; what matters most is tried here",
        )];
    };
    let modules = Path::new("/lib/modules").join(release).is_dir();
    let mut findings = judge(&text, modules);
    if findings.is_empty() {
        findings
            .push(Finding::pass(format!("the kernel was built with what knarr uses ({})", place.display())));
    }
    findings
}

fn configuration(place: &Path) -> Option<String> {
    let file = File::open(place).ok()?;
    let mut text = String::new();
    let read = if place.extension().is_some_and(|ending| ending == "gz") {
        GzDecoder::new(file).take(CONFIG_BYTES).read_to_string(&mut text)
    } else {
        file.take(CONFIG_BYTES).read_to_string(&mut text)
    };
    read.ok().map(|_| text)
}

/// What is missing in a configuration; `modules` says whether there are any to be loaded.
fn judge(text: &str, modules: bool) -> Vec<Finding> {
    let set: HashMap<&str, &str> =
        text.lines().filter_map(|line| line.strip_prefix("CONFIG_")?.split_once('=')).collect();
    let mut findings = Vec::new();
    for (name, need) in OPTIONS {
        let trouble = match set.get(name) {
            Some(&"y") => continue,
            Some(&"m") if modules => continue,
            Some(&"m") => "is a module, and this kernel's modules are not installed",
            _ => "is not set",
        };
        let what = format!("CONFIG_{name} {trouble}");
        findings.push(match need {
            Must => Finding::fail(what, "use a kernel that has it"),
            For(use_of_it) => Finding::warn(what, format!("needed for {use_of_it}")),
        });
    }
    findings
}

/// Bits that the kernel has; newer ones always say 256.
fn entropy(available: &str) -> Finding {
    match available.parse::<u32>() {
        Ok(bits) if bits < 100 => Finding::warn(
            format!("only {bits} bits of entropy"),
            "keys may take long to be made: install haveged or rng-tools",
        ),
        _ => Finding::pass("entropy"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check_config::Verdict;

    #[test]
    fn old_kernels_are_told_from_new_ones() {
        let verdict = |release: &str| version(release).verdict;
        assert_eq!(verdict("6.18.44"), Verdict::Pass);
        assert_eq!(verdict("5.8-rc1"), Verdict::Pass);
        assert_eq!(verdict("5.4.0-42-generic"), Verdict::Warn);
        assert_eq!(verdict("4.9.337"), Verdict::Fail);
    }

    #[test]
    fn what_a_kernel_lacks_is_named_with_what_it_is_for() {
        let whole: String = OPTIONS.iter().map(|(name, _)| format!("CONFIG_{name}=y\n")).collect();
        assert_eq!(judge(&whole, false), []);
        let less =
            whole.replace("CONFIG_WIREGUARD=y", "# CONFIG_WIREGUARD is not set").replace("VETH=y", "VETH=m");
        let found = judge(&less, false);
        assert_eq!(
            found[0],
            Finding::fail(
                "CONFIG_VETH is a module, and this kernel's modules are not installed",
                "use a kernel that has it"
            )
        );
        assert_eq!(
            found[1],
            Finding::warn("CONFIG_WIREGUARD is not set", "needed for --network-backend wireguard")
        );
        assert_eq!(judge(&less, true).len(), 1, "a module can be loaded");
    }

    #[test]
    fn controllers_are_looked_for_in_both_versions() {
        let root = std::env::temp_dir().join(format!("knarr-cgroups-{}", std::process::id()));
        std::fs::create_dir_all(&root).unwrap();
        let failed = || {
            let failed = cgroups(&root).into_iter().filter(|finding| finding.verdict == Verdict::Fail);
            failed.map(|finding| finding.what).collect::<Vec<_>>()
        };
        assert!(failed()[0].starts_with("no control groups"));
        std::fs::create_dir_all(root.join("memory")).unwrap();
        assert_eq!(failed(), ["cpu", "cpuset", "pids"].map(|name| format!("controller {name} is missing")));
        std::fs::write(root.join("cgroup.controllers"), "cpuset cpu io pids").unwrap();
        assert_eq!(failed(), ["controller memory is missing"]);
        std::fs::remove_dir_all(root).unwrap();
    }
}
