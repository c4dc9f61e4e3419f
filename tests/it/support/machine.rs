//! Whole machines with an init: a Debian that debootstrap made, booted with systemd as process 1 in namespaces of its
//! own. The root file system is made once and kept in the cache; each machine changes a layer over it.

use super::process::{Output, command, limited, run, wait_for};
use super::sandbox::{children, hierarchies, is_unified, make_cgroups, remove};
use super::{require, sandbox};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

/// What a machine has beside the smallest Debian: an init, and what install.sh would fetch.
const PACKAGES: &str = "systemd,systemd-sysv,iproute2,nftables,procps,ca-certificates,kmod,containerd,runc";

/// Builds the machine's tree of mounts and becomes its init. systemd takes the words behind its name for the kernel's
/// command line, since it is in a container; the first of them have it accept control groups of version 1.
const INIT: &str = r#"
set -e
base=$1 own=$2 root=$2/root
mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=$base,upperdir=$own/upper,workdir=$own/work" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
else
    mount -t tmpfs -o mode=755 tmpfs "$root/sys/fs/cgroup"
    for at in /sys/fs/cgroup/*/; do
        name=$(basename "$at")
        [ ! -L "${at%/}" ] || continue
        mkdir "$root/sys/fs/cgroup/$name"
        case $name in
            unified) mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup/$name" ;;
            systemd) mount -t cgroup -o none,name=systemd cgroup "$root/sys/fs/cgroup/$name" ;;
            *) mount -t cgroup -o "$name" cgroup "$root/sys/fs/cgroup/$name" ;;
        esac
    done
    # The init makes no folders there for what the machine around has not: runc would take them for hierarchies.
    mount -o remount,ro "$root/sys/fs/cgroup"
fi
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for name in null zero full random urandom tty; do
    touch "$root/dev/$name"
    mount --bind "/dev/$name" "$root/dev/$name"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
mount -t tmpfs tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
# containerd's own layers cannot lie on an overlay.
mkdir -p "$own/disk" "$root/var/lib/knarr"
mount --bind "$own/disk" "$root/var/lib/knarr"
echo "$3" > "$root/etc/hostname"
echo "127.0.0.1 localhost" > "$root/etc/hosts"
cd "$root"
pivot_root . mnt
exec env -i container=knarr PATH=/usr/sbin:/usr/bin chroot . sh -c 'umount -l /mnt && exec /lib/systemd/systemd \
    SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1 systemd.unified_cgroup_hierarchy=0 systemd.log_target=journal'
"#;

/// Moves the caller into the machine, then becomes the command.
const ENTER: &str = r#"
for procs in $1; do echo $$ > "$procs"; done
init=$2
shift 2
exec nsenter --target "$init" --mount --net --ipc --uts --pid --cgroup --root --wdns=/root -- env -i HOME=/root \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
"#;

/// See the module's comment.
pub(crate) struct Machine {
    name: String,
    folder: PathBuf,
    unshare: Child,
    init: String,
}

impl Machine {
    /// Boots a Debian of this suite, such as `trixie`.
    pub(crate) fn boot(suite: &str, hostname: &str) -> Self {
        require(&[("debootstrap", "debootstrap"), ("nsenter", "util-linux"), ("ip", "iproute2")]);
        let base = root_of(suite);
        let (name, folder) = sandbox::new_folder();
        for part in ["upper", "work", "root"] {
            fs::create_dir(folder.join(part)).unwrap();
        }
        let procs = make_cgroups(&name);
        let mut unshare = command("sh");
        unshare
            .args(["-c", "for procs in $1; do echo $$ > \"$procs\"; done; shift; exec \"$@\"", "sh", &procs])
            .args([
                "unshare",
                "--mount",
                "--net",
                "--pid",
                "--ipc",
                "--uts",
                "--cgroup",
                "--fork",
                "--kill-child",
            ])
            .args(["sh", "-c", INIT, "sh"])
            .args([&base, &folder])
            .arg(hostname);
        let log = fs::File::create(folder.join("init.log")).unwrap();
        let unshare = unshare.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let mut machine = Self { name, folder, unshare, init: String::new() };
        machine.init = wait_for("init", Duration::from_secs(10), || children(machine.unshare.id()).pop());
        wait_for("booted machine", Duration::from_secs(60), || {
            let log = fs::read_to_string(machine.folder.join("init.log")).unwrap();
            assert!(!log.contains("mount:"), "{log}");
            let state = machine.sh("systemctl is-system-running 2>&1").stdout;
            ["running", "degraded"].contains(&state.trim()).then_some(())
        });
        machine
    }

    /// A file of the machine's, seen from outside.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.init))
    }

    /// Joins the networks of two machines by a cable.
    pub(crate) fn connect(&self, other: &Self) {
        let cable =
            ["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", &other.init];
        let mut add = command("nsenter");
        add.arg(format!("--net=/proc/{}/ns/net", self.init)).args(cable);
        run(add, "").ok();
    }

    /// `words` as a command within, killed after `limit`.
    fn command(&self, limit: Duration, words: &[&str]) -> Command {
        let mut command = limited(limit, &["sh", "-c", ENTER, "sh", &self.procs(), &self.init]);
        command.args(words);
        command
    }

    /// In v2 only leaves hold processes, and systemd has made some.
    fn procs(&self) -> String {
        let leaf = if is_unified() { "init/init.scope/cgroup.procs" } else { "cgroup.procs" };
        let files =
            hierarchies().into_iter().map(|root| root.join(&self.name).join(leaf).display().to_string());
        files.collect::<Vec<_>>().join(" ")
    }

    /// Runs a shell script within.
    pub(crate) fn sh(&self, script: &str) -> Output {
        run(self.command(Duration::from_secs(150), &["sh", "-c", script]), "")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Killing the init kills everything in its namespaces and unmounts everything.
        let killed = self.unshare.kill().and_then(|()| self.unshare.wait());
        if let Err(error) = killed {
            eprintln!("the machine: {error}");
        }
        if std::env::var_os("KNARR_TEST_KEEP").is_none() {
            remove(&self.name);
        }
    }
}

/// The root file system of a suite, which is made the first time.
fn root_of(suite: &str) -> PathBuf {
    let home = std::env::var_os("HOME").map_or("/root".into(), PathBuf::from);
    let cache =
        std::env::var_os("XDG_CACHE_HOME").map_or(home.join(".cache"), PathBuf::from).join("knarr/roots");
    let root = cache.join(suite);
    let stamp = root.join("etc/knarr-packages");
    if fs::read_to_string(&stamp).is_ok_and(|made| made == PACKAGES) {
        return root;
    }
    let fresh = cache.join(format!("{suite}.new"));
    for old in [&root, &fresh] {
        if old.exists() {
            fs::remove_dir_all(old).unwrap();
        }
    }
    fs::create_dir_all(&cache).unwrap();
    let mut make = limited(Duration::from_secs(600), &["debootstrap", "--variant=minbase"]);
    make.arg(format!("--include={PACKAGES}")).arg(suite).arg(&fresh).arg(mirror());
    run(make, "").ok();
    // knarr runs a containerd of its own.
    let mut disable = command("chroot");
    disable.arg(&fresh).args(["systemctl", "disable", "containerd.service"]);
    run(disable, "").ok();
    fs::write(fresh.join("etc/knarr-packages"), PACKAGES).unwrap();
    fs::rename(&fresh, &root).unwrap();
    root
}

/// Where this machine has its packages from.
fn mirror() -> String {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    for entry in fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten() {
        files.push(entry.path());
    }
    let text: String = files.iter().filter_map(|file| fs::read_to_string(file).ok()).collect();
    let found = text.lines().filter(|line| line.starts_with("deb ") || line.starts_with("URIs:"));
    let mut urls = found.flat_map(str::split_whitespace).filter(|word| word.starts_with("http"));
    // Beside Debian's own there may be others', and one of security's updates.
    urls.find(|url| url.trim_end_matches('/').ends_with("/debian"))
        .expect("apt has a source of Debian's")
        .to_owned()
}

/// Copies a file into a machine, executable.
pub(crate) fn put(from: &Path, to: &Path) {
    fs::copy(from, to).unwrap_or_else(|error| panic!("{} to {}: {error}", from.display(), to.display()));
}
