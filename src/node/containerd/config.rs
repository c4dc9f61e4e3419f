//! containerd's configuration, written anew at each start.

use super::pause;
use super::registries::quoted;
use std::path::{Path, PathBuf};

/// The generations of containerd's configuration language.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Generation {
    /// containerd 1.6 and 1.7.
    V2,
    /// containerd 2.
    V3,
}

impl Generation {
    /// From what `containerd --version` prints.
    pub(crate) fn of(version: &str) -> Self {
        let numbers = version.split_whitespace().map(|word| word.trim_start_matches('v'));
        let major = numbers.filter_map(|word| word.split_once('.')?.0.parse::<u32>().ok()).next();
        if major.is_some_and(|major| major >= 2) { Self::V3 } else { Self::V2 }
    }
}

/// What of the machine decides containerd's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    /// Negative OOM scores may be set (CAP_SYS_RESOURCE).
    pub(crate) may_lower_oom_score: bool,
    pub(crate) apparmor: bool,
    /// systemd is process 1 and cgroups are v2: it wants to own the hierarchy.
    pub(crate) systemd_cgroups: bool,
}

impl Machine {
    /// Looks at the machine.
    pub(crate) fn detect() -> Self {
        const CAP_SYS_RESOURCE: u64 = 1 << 24;
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let capabilities = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
        let apparmor = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
        Self {
            may_lower_oom_score: capabilities & CAP_SYS_RESOURCE != 0,
            apparmor: apparmor.is_ok_and(|text| text.starts_with('Y')),
            systemd_cgroups: Path::new("/run/systemd/system").exists()
                && Path::new("/sys/fs/cgroup/cgroup.controllers").exists(),
        }
    }
}

/// The folders of a containerd of knarr's own.
#[derive(Clone, Debug)]
pub(crate) struct Folders {
    pub(crate) root: PathBuf,
    pub(crate) state: PathBuf,
    pub(crate) cni_bin: PathBuf,
    pub(crate) cni_conf: PathBuf,
    pub(crate) registries: PathBuf,
    pub(crate) runc: PathBuf,
}

impl Folders {
    pub(crate) fn socket(&self) -> PathBuf {
        self.state.join("containerd.sock")
    }
}

/// What others decide of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    /// Tables with users of registries.
    pub(crate) users: String,
    /// After how long a stream that carries nothing ends.
    pub(crate) stream_idle: String,
}

/// Makes /opt/containerd, for programs that nobody installs there for knarr.
const FOLDER_OF_ITS_OWN: &str = "io.containerd.internal.v1.opt";

/// The configuration file.
pub(crate) fn render(generation: Generation, folders: &Folders, machine: Machine, told: &Told) -> String {
    let quoted = |path: &Path| quoted(&path.to_string_lossy());
    let oom_score = if machine.may_lower_oom_score { -999 } else { 0 };
    let head = format!(
        "# Written by knarr at every start; changes are lost.\nversion = {}\nroot = {}\nstate = {}\noom_score = {oom_score}\n\
         disabled_plugins = [\"{FOLDER_OF_ITS_OWN}\"]\n\n[grpc]\n  address = {}\n",
        if generation == Generation::V2 { 2 } else { 3 },
        quoted(&folders.root),
        quoted(&folders.state),
        quoted(&folders.socket()),
    );
    let runtime = format!(
        "  enable_selinux = false\n  disable_apparmor = {}\n  restrict_oom_score_adj = {}\n  \
         enable_unprivileged_ports = true\n  enable_unprivileged_icmp = true\n  \
         disable_hugetlb_controller = false\n  tolerate_missing_hugetlb_controller = true\n",
        !machine.apparmor, !machine.may_lower_oom_score,
    );
    let runc =
        format!("BinaryName = {}\n  SystemdCgroup = {}\n", quoted(&folders.runc), machine.systemd_cgroups);
    let stream = format!(
        "  stream_server_address = \"127.0.0.1\"\n  stream_server_port = \"0\"\n  stream_idle_timeout = {:?}\n",
        told.stream_idle
    );
    let users = &told.users;
    let (cni_conf, cni_bin) = (quoted(&folders.cni_conf), quoted(&folders.cni_bin));
    let (registries, pause) = (quoted(&folders.registries), pause::IMAGE);
    match generation {
        Generation::V2 => format!(
            "{head}
[plugins.\"io.containerd.grpc.v1.cri\"]
  sandbox_image = \"{pause}\"
{stream}{runtime}
[plugins.\"io.containerd.grpc.v1.cri\".cni]
  bin_dir = {cni_bin}
  conf_dir = {cni_conf}
  ip_pref = \"cni\"

[plugins.\"io.containerd.grpc.v1.cri\".registry]
  config_path = {registries}

[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]
  runtime_type = \"io.containerd.runc.v2\"

[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc.options]
  {runc}{users}"
        ),
        Generation::V3 => format!(
            "{head}
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = \"{pause}\"

[plugins.'io.containerd.cri.v1.images'.registry]
  config_path = {registries}

[plugins.'io.containerd.cri.v1.runtime']
{runtime}
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dir = {cni_bin}
  conf_dir = {cni_conf}
  ip_pref = 'cni'

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = \"io.containerd.runc.v2\"

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  {runc}
[plugins.'io.containerd.grpc.v1.cri']
{stream}{users}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generation_is_read_from_the_version() {
        let debian = "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3";
        assert_eq!(Generation::of(debian), Generation::V2);
        let two = "containerd github.com/containerd/containerd/v2 v2.1.4 75cb2b7193e4";
        assert_eq!(Generation::of(two), Generation::V3);
    }

    #[test]
    fn a_machine_without_the_capability_restricts_scores() {
        let folder = |name: &str| PathBuf::from(format!("/d/{name}"));
        let folders = Folders {
            root: folder("root"),
            state: folder("state"),
            cni_bin: folder("bin"),
            cni_conf: folder("net.d"),
            registries: folder("certs.d"),
            runc: "/usr/sbin/runc".into(),
        };
        let machine = Machine { may_lower_oom_score: false, apparmor: false, systemd_cgroups: true };
        for generation in [Generation::V2, Generation::V3] {
            let told = Told { users: "\n[users]\n".to_owned(), stream_idle: "4h0m0s".to_owned() };
            let text = render(generation, &folders, machine, &told);
            assert!(
                text.ends_with("\n[users]\n") && text.contains("stream_idle_timeout = \"4h0m0s\""),
                "{text}"
            );
            for line in ["restrict_oom_score_adj = true", "disable_apparmor = true", "SystemdCgroup = true"] {
                assert!(text.contains(line), "{line} in {text}");
            }
        }
    }
}
