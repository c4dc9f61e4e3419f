//! A machine within the machine: network, mounts, processes and cgroups of its own, so that a cluster
//! can neither meet another one nor leave anything behind. Processes and mounts go with their
//! namespaces, also when the test is killed; folders and cgroups go with the [`Sandbox`], or with the
//! next one.

use super::process::{Output, command, limited, run, wait_for};
use super::require;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const PREFIX: &str = "knarr-it-";
const CGROUPS: &str = "/sys/fs/cgroup";

/// What process 1 of a sandbox does: a private /run, folders whose changes nobody else sees, the
/// cgroups seen from their new root, an address and a default route that leads nowhere; then nothing but
/// to reap orphans until it is killed.
const INIT: &str = r#"
set -e
mount -t tmpfs -o mode=755 sandbox /run
mkdir /run/netns /run/lock
for at in /etc /opt /usr/local /var/lib /var/log; do
    own=$1/over/$at
    mkdir -p "$own/upper" "$own/work"
    mount -t overlay overlay -o "lowerdir=$at,upperdir=$own/upper,workdir=$own/work" "$at"
done
rm -rf /etc/knarr /usr/local/bin/knarr* /etc/cni /opt/cni /var/lib/cni /var/lib/knarr /var/lib/kubelet
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    umount /sys/fs/cgroup
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
else
    for at in /sys/fs/cgroup/*/; do
        name=$(basename "$at")
        umount "$at"
        case $name in
            unified) mount -t cgroup2 cgroup2 "$at" ;;
            systemd) mount -t cgroup -o none,name=systemd cgroup "$at" ;;
            *) mount -t cgroup -o "$name" cgroup "$at" ;;
        esac
    done
fi
ip link set lo up
ip link add eth0 type veth peer name outside
ip addr add 10.99.0.2/24 dev eth0
ip link set outside up
ip link set eth0 up
ip route add default via 10.99.0.1
touch "$1/ready"
sleep infinity &
wait
"#;

/// Moves the caller into the sandbox's cgroups and namespaces, then becomes the command.
const ENTER: &str = r#"
for procs in $1; do echo $$ > "$procs"; done
init=$2
shift 2
exec nsenter --target "$init" --mount --net --ipc --pid --cgroup --wdns="$PWD" -- "$@"
"#;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// See the module's comment.
pub(crate) struct Sandbox {
    name: String,
    /// Temporary files; below it everything that tests write.
    pub(crate) folder: PathBuf,
    unshare: Child,
    init: String,
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        require(&[
            ("containerd", "containerd"),
            ("runc", "runc"),
            ("nft", "nftables"),
            ("kubectl", "kubernetes-client"),
            ("ip", "iproute2"),
            ("nsenter", "util-linux"),
            ("curl", "curl"),
            ("busybox", "busybox-static"),
            ("ps", "procps"),
            ("script", "bsdutils"),
            ("openssl", "openssl"),
        ]);
        let user = fs::metadata("/proc/self").unwrap().uid();
        assert_eq!(user, 0, "integration tests start containers: run them as root");
        let (name, folder) = new_folder();
        let procs = make_cgroups(&name);
        let mut unshare = command("sh");
        unshare
            .args(["-c", "for procs in $1; do echo $$ > \"$procs\"; done; shift; exec \"$@\"", "sh", &procs])
            .args(["unshare", "--mount", "--net", "--pid", "--ipc", "--cgroup", "--fork", "--kill-child"])
            .args(["--mount-proc", "sh", "-c", INIT, "sh"])
            .arg(&folder)
            .stderr(fs::File::create(folder.join("init.log")).unwrap());
        let unshare = unshare.spawn().unwrap();
        let mut sandbox = Self { name, folder, unshare, init: String::new() };
        wait_for("sandbox", Duration::from_secs(10), || sandbox.folder.join("ready").exists().then_some(()));
        sandbox.init = children(sandbox.unshare.id()).remove(0);
        sandbox
    }

    /// Its network namespace.
    pub(crate) fn network(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.init))
    }

    /// A network namespace that was made within by `ip netns`.
    pub(crate) fn namespace(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root/run/netns/{name}", self.init))
    }

    /// `words` as a command within, killed after `limit`.
    pub(crate) fn command(&self, limit: Duration, words: &[&str]) -> Command {
        let procs = procs_files(&self.name);
        let mut command = limited(limit, &["sh", "-c", ENTER, "sh", &procs, &self.init]);
        command.args(words).current_dir(&self.folder).env("HOME", &self.folder);
        command
    }

    /// Runs a command within to its end.
    pub(crate) fn run(&self, words: &[&str]) -> Output {
        run(self.command(Duration::from_secs(60), words), "")
    }

    /// Runs a shell script within.
    pub(crate) fn sh(&self, script: &str) -> Output {
        self.run(&["sh", "-c", script])
    }

    /// Starts a command within that runs until [`Background::stop`], its output in a file.
    pub(crate) fn background(
        &self,
        log: &Path,
        change: impl FnOnce(&mut Command),
        words: &[&str],
    ) -> Background {
        let procs = procs_files(&self.name);
        let mut command = command("sh");
        command.args(["-c", ENTER, "sh", &procs, &self.init]).args(words);
        command.current_dir(&self.folder).env("HOME", &self.folder).process_group(0);
        let log = fs::File::options().create(true).append(true).open(log).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log).stdin(Stdio::null());
        change(&mut command);
        Background { nsenter: command.spawn().unwrap() }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // Killing process 1 of the namespace kills everything in it and unmounts everything.
        let killed = self.unshare.kill().and_then(|()| self.unshare.wait());
        let log = fs::read_to_string(self.folder.join("init.log")).unwrap_or_default();
        if killed.is_err() || !log.is_empty() {
            eprintln!("the sandbox: {killed:?} {log}");
        }
        if std::env::var_os("KNARR_TEST_KEEP").is_none() {
            remove(&self.name);
        }
    }
}

/// A process within a sandbox.
pub(crate) struct Background {
    nsenter: Child,
}

impl Background {
    /// nsenter waits for the command in the other process namespace and passes no signal on.
    fn pid(&self) -> Option<String> {
        children(self.nsenter.id()).into_iter().next()
    }

    /// Sends a signal, such as "TERM", and waits for the end; gives the exit code.
    pub(crate) fn stop(&mut self, signal: &str) -> i32 {
        if let Some(pid) = self.pid() {
            let mut kill = command("kill");
            kill.args(["-s", signal, &pid]);
            run(kill, "");
        }
        self.wait(Duration::from_secs(40))
    }

    /// The exit code, once it has ended.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        self.nsenter.try_wait().unwrap().map(|status| status.code().unwrap_or(-1))
    }

    /// Waits for the end.
    #[track_caller]
    pub(crate) fn wait(&mut self, limit: Duration) -> i32 {
        wait_for("end of a process", limit, || self.ended())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if self.ended().is_none() {
            self.stop("KILL");
        }
    }
}

/// The name of something new and its folder; what killed tests have left is removed.
pub(super) fn new_folder() -> (String, PathBuf) {
    sweep();
    let name = format!("{PREFIX}{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let folder = std::env::temp_dir().join(&name);
    fs::create_dir_all(&folder).unwrap();
    (name, folder)
}

pub(super) fn children(pid: u32) -> Vec<String> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().map(str::to_owned).collect()
}

pub(super) fn is_unified() -> bool {
    Path::new(CGROUPS).join("cgroup.controllers").exists()
}

/// The roots of the machine's hierarchies.
pub(super) fn hierarchies() -> Vec<PathBuf> {
    if is_unified() {
        return vec![CGROUPS.into()];
    }
    fs::read_dir(CGROUPS)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| !path.is_symlink())
        .collect()
}

/// The files that move a process into the sandbox's cgroups. In v2 only leaves hold processes.
fn procs_files(name: &str) -> String {
    let leaf = if is_unified() { "init/cgroup.procs" } else { "cgroup.procs" };
    let files = hierarchies().into_iter().map(|root| root.join(name).join(leaf).display().to_string());
    files.collect::<Vec<_>>().join(" ")
}

/// Makes a sandbox's cgroups; gives [`procs_files`].
pub(super) fn make_cgroups(name: &str) -> String {
    for root in hierarchies() {
        let own = root.join(name);
        fs::create_dir(&own).unwrap();
        if is_unified() {
            let offered = fs::read_to_string(own.join("cgroup.controllers")).unwrap();
            let all: String = offered.split_whitespace().map(|name| format!("+{name} ")).collect();
            fs::write(own.join("cgroup.subtree_control"), all).unwrap();
            fs::create_dir(own.join("init")).unwrap();
        }
        for file in ["cpuset.cpus", "cpuset.mems"] {
            // v1 gives a new cpuset nothing, and then no process can enter it.
            if let Ok(given) = fs::read_to_string(root.join(file)) {
                fs::write(own.join(file), given).unwrap();
            }
        }
    }
    procs_files(name)
}

/// Removes the folder and cgroups of a sandbox whose processes are gone or going.
pub(super) fn remove(name: &str) {
    for root in hierarchies() {
        let own = root.join(name);
        wait_for("empty cgroup", Duration::from_secs(20), || {
            each_cgroup(&own, remove_cgroup);
            (!own.exists()).then_some(())
        });
    }
    let folder = std::env::temp_dir().join(name);
    if let Err(error) = fs::remove_dir_all(&folder) {
        eprintln!("cannot remove {}: {error}", folder.display());
    }
}

/// Does something to a cgroup, after it was done to those within.
fn each_cgroup(folder: &Path, what: fn(&Path)) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            each_cgroup(&entry.path(), what);
        }
    }
    what(folder);
}

/// A cgroup with processes stays, for another try.
fn remove_cgroup(folder: &Path) {
    match fs::remove_dir(folder) {
        Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ResourceBusy) => {
            panic!("cannot remove {}: {error}", folder.display())
        }
        _ => {}
    }
}

/// Ends the processes of a killed test, which nobody else does.
fn end_cgroup(folder: &Path) {
    let procs = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    for pid in procs.lines().filter_map(|pid| pid.parse().ok()) {
        // One that is gone meanwhile is as good.
        _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }
}

/// Removes what killed tests have left.
fn sweep() {
    for entry in fs::read_dir(std::env::temp_dir()).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some((pid, _)) = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-')) else {
            continue;
        };
        if !Path::new("/proc").join(pid).exists() {
            hierarchies().iter().for_each(|root| each_cgroup(&root.join(&name), end_cgroup));
            remove(&name);
        }
    }
}
