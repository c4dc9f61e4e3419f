//! The cgroups of pods: `kubepods/[burstable|besteffort/]pod<uid>` in every v1 hierarchy, or in the one
//! of v2. The runtime makes the containers' own below them; nobody but us removes the pods'.

mod limits;
mod systemd;

pub(crate) use limits::{Limits, Rules, Swap, page_name, quota_us, shares, shares_of};

use crate::amount::Qos;
use crate::{Error, files};
use api::Object;
use api::core::Pod;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use tokio::sync::OnceCell;

/// What of v2's controllers works on pods.
const CONTROLLERS: [&str; 6] = ["cpu", "cpuset", "memory", "pids", "io", "hugetlb"];

/// How this machine's cgroups are mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hierarchy {
    /// One hierarchy for each set of controllers, `unified` among them where there is one.
    V1(Vec<PathBuf>),
    V2(PathBuf),
}

impl Hierarchy {
    /// Looks at what is mounted.
    pub(crate) fn detect() -> Self {
        let root = Path::new("/sys/fs/cgroup");
        if root.join("cgroup.controllers").exists() {
            return Self::V2(root.to_owned());
        }
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let found = mounts.lines().filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            let (at, kind) = (words.next()?, words.next()?);
            kind.starts_with("cgroup").then(|| PathBuf::from(at))
        });
        Self::V1(found.collect())
    }

    /// Whether there is one unified hierarchy.
    pub(crate) fn is_unified(&self) -> bool {
        matches!(self, Self::V2(_))
    }

    fn roots(&self) -> &[PathBuf] {
        match self {
            Self::V1(roots) => roots,
            Self::V2(root) => std::slice::from_ref(root),
        }
    }
}

/// The cgroups of this node's pods.
#[derive(Clone, Debug)]
pub(crate) struct Cgroups {
    hierarchy: Hierarchy,
    /// Below which our own begin, "" for the top.
    root: String,
    /// Names follow systemd's slices.
    systemd: bool,
    rules: Rules,
    /// The slices of the classes were limited: that changes no more.
    limited: [OnceCell<()>; 3],
}

impl Cgroups {
    pub(crate) fn new(hierarchy: Hierarchy, root: &str, systemd: bool, rules: Rules) -> Self {
        let root = root.trim_matches('/').to_owned();
        Self { hierarchy, root, systemd, rules, limited: Default::default() }
    }

    /// Those of a node without a machine.
    pub(crate) fn none() -> Self {
        Self::new(Hierarchy::V1(Vec::new()), "", false, Rules::default())
    }

    /// What holds for all pods.
    pub(crate) fn rules(&self) -> &Rules {
        &self.rules
    }

    /// How they are mounted.
    pub(crate) fn hierarchy(&self) -> &Hierarchy {
        &self.hierarchy
    }

    /// The cgroup of a class of pods, within every hierarchy.
    pub(crate) fn path_of_class(&self, qos: Qos) -> String {
        format!("/{}", self.class(qos).join("/"))
    }

    /// The cgroup of a pod, within every hierarchy.
    pub(crate) fn path_of_pod(&self, pod: &Pod) -> String {
        format!("/{}", self.path(Qos::of(pod), pod.uid()))
    }

    /// The cgroup that the runtime made for a container or sandbox of a pod.
    pub(crate) fn path_of_container(&self, pod: &Pod, id: &str) -> String {
        let name = if self.systemd { format!("cri-containerd-{id}.scope") } else { id.to_owned() };
        format!("{}/{name}", self.path_of_pod(pod))
    }

    /// The folders of a class, from the top.
    fn class(&self, qos: Qos) -> Vec<String> {
        let name = |parts: &[&str]| {
            if self.systemd {
                format!("{}.slice", parts.join("-"))
            } else {
                parts.last().map_or_else(String::new, |p| (*p).to_owned())
            }
        };
        let mut path: Vec<String> =
            Some(self.root.clone()).filter(|root| !root.is_empty()).into_iter().collect();
        path.push(name(&["kubepods"]));
        match qos {
            Qos::Guaranteed => {}
            Qos::Burstable => path.push(name(&["kubepods", "burstable"])),
            Qos::BestEffort => path.push(name(&["kubepods", "besteffort"])),
        }
        path
    }

    /// The path of a pod's cgroup within a hierarchy.
    fn path(&self, qos: Qos, uid: &str) -> String {
        let mut path = self.class(qos);
        path.push(if self.systemd {
            let class = path.last().map_or("", |class| class.trim_end_matches(".slice"));
            format!("{class}-pod{}.slice", uid.replace('-', "_"))
        } else {
            format!("pod{uid}")
        });
        path.join("/")
    }

    /// What the runtime is told as the parent of a pod's containers.
    pub(crate) fn parent(&self, pod: &Pod) -> String {
        let qos = Qos::of(pod);
        if self.systemd { self.slice_of(qos, pod.uid()) } else { format!("/{}", self.path(qos, pod.uid())) }
    }

    /// Makes the cgroup that all pods are in, limited to what they may use together.
    pub(crate) fn enforce(&self, limits: &Limits) -> Result<(), Error> {
        self.hierarchy.roots().iter().try_for_each(|root| {
            let folder = self.make_class(root, Qos::Guaranteed)?;
            set(&folder, limits)
        })
    }

    /// Limits a cgroup that somebody else made; it has to be there with each of these controllers.
    pub(crate) fn enforce_existing(&self, name: &str, limits: &Limits) -> Result<(), Error> {
        let mut found = false;
        for root in self.hierarchy.roots() {
            let folder = root.join(self.foreign(name));
            found |= folder.is_dir();
            set(&folder, limits)?;
        }
        if found { Ok(()) } else { Err(Error::Setup(format!("cgroup {name:?} does not exist"))) }
    }

    /// The path of a cgroup that is named as the kubelet's settings do: with systemd `/system` is `system.slice`,
    /// and `/a/b` is `a.slice/a-b.slice`.
    fn foreign(&self, name: &str) -> String {
        let parts: Vec<&str> = name.split('/').filter(|part| !part.is_empty()).collect();
        if !self.systemd || name.ends_with(".slice") {
            return parts.join("/");
        }
        let slices = (1..=parts.len()).map(|deep| format!("{}.slice", parts[..deep].join("-")));
        slices.collect::<Vec<_>>().join("/")
    }

    /// Has systemd make the slices of a pod with its limits, where it owns the hierarchy.
    pub(crate) async fn make_slices(&self, pod: &Pod, rules: &Rules) -> Result<(), Error> {
        if !self.systemd {
            return Ok(());
        }
        let qos = Qos::of(pod);
        if qos != Qos::Guaranteed {
            let set = async || systemd::set(&self.slice(qos), &Limits::of_class(qos, &self.rules)).await;
            self.limited[qos as usize].get_or_try_init(set).await?;
        }
        systemd::set(&self.slice_of(qos, pod.uid()), &Limits::of_pod(pod, rules)).await
    }

    /// Has systemd limit the slice that all pods are in.
    pub(crate) async fn enforce_slice(&self, limits: &Limits) -> Result<(), Error> {
        if self.systemd { systemd::set(&self.slice(Qos::Guaranteed), limits).await } else { Ok(()) }
    }

    /// Has systemd forget the slice of a pod that is gone.
    pub(crate) async fn stop_slice(&self, pod: &Pod) {
        if self.systemd {
            systemd::stop(&self.slice_of(Qos::of(pod), pod.uid())).await;
        }
    }

    fn slice(&self, qos: Qos) -> String {
        self.class(qos).pop().unwrap_or_default()
    }

    fn slice_of(&self, qos: Qos, uid: &str) -> String {
        self.path(qos, uid).rsplit('/').next().unwrap_or_default().to_owned()
    }

    /// Makes the cgroup of a class and those above it.
    fn make_class(&self, root: &Path, qos: Qos) -> Result<PathBuf, Error> {
        let mut at = root.to_owned();
        for name in self.class(qos) {
            self.delegate(&at)?;
            at.push(name);
            files::make_folder(&at, 0o755)?;
        }
        self.delegate(&at)?;
        Ok(at)
    }

    /// Makes a pod's cgroup with its limits by the rules for it, and those above it.
    pub(crate) fn make(&self, pod: &Pod, rules: &Rules) -> Result<(), Error> {
        let qos = Qos::of(pod);
        let limits = Limits::of_pod(pod, rules);
        for root in self.hierarchy.roots() {
            let class = self.make_class(root, qos)?;
            if qos != Qos::Guaranteed {
                set(&class, &Limits::of_class(qos, &self.rules))?;
            }
            let folder = root.join(self.path(qos, pod.uid()));
            files::make_folder(&folder, 0o755)?;
            set(&folder, &limits)?;
            self.delegate(&folder)?;
            self.balance(root)?;
        }
        Ok(())
    }

    /// Raises those of a pod's limits that are below what it gets now, before its containers are changed.
    pub(crate) fn grow(&self, pod: &Pod, rules: &Rules) -> Result<(), Error> {
        let limits = Limits::of_pod(pod, rules);
        for root in self.hierarchy.roots() {
            let folder = root.join(self.path(Qos::of(pod), pod.uid()));
            for (name, value) in limits.files() {
                let file = folder.join(name);
                let now = std::fs::read_to_string(&file).ok();
                if now.is_some_and(|now| first_number(&now) < first_number(&value)) {
                    std::fs::write(&file, value).map_err(files::at(&file))?;
                }
            }
        }
        Ok(())
    }

    /// Gives the burstable pods together what each of them asks for, against the guaranteed ones beside
    /// them.
    fn balance(&self, root: &Path) -> Result<(), Error> {
        let folder = root.join(self.class(Qos::Burstable).join("/"));
        let Ok(entries) = std::fs::read_dir(&folder) else { return Ok(()) };
        let number = |path: PathBuf| std::fs::read_to_string(path).ok()?.trim().parse::<i64>().ok();
        let each = entries.flatten().filter_map(|entry| {
            let pod = entry.path();
            let weight = || number(pod.join("cpu.weight")).map(limits::shares_of);
            number(pod.join("cpu.shares")).or_else(weight)
        });
        let together = each.sum::<i64>() * 1000 / 1024;
        set(&folder, &Limits { shares: Some(shares(together)), ..Default::default() })
    }

    /// On v2, lets the controllers work below this folder.
    fn delegate(&self, folder: &Path) -> Result<(), Error> {
        if !self.hierarchy.is_unified() {
            return Ok(());
        }
        let words = |file: &str| std::fs::read_to_string(folder.join(file)).unwrap_or_default();
        let (offered, given) = (words("cgroup.controllers"), words("cgroup.subtree_control"));
        let missing =
            offered.split_whitespace().filter(|name| !given.split_whitespace().any(|have| have == *name));
        for controller in missing.filter(|name| CONTROLLERS.contains(name)) {
            let file = folder.join("cgroup.subtree_control");
            std::fs::write(&file, format!("+{controller}")).map_err(files::at(&file))?;
        }
        Ok(())
    }

    /// Removes what is left of a pod's cgroups, whatever class it had.
    pub(crate) fn remove(&self, uid: &str) -> Result<(), Error> {
        for root in self.hierarchy.roots() {
            for qos in [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort] {
                remove_tree(&root.join(self.path(qos, uid)))?;
            }
            self.balance(root)?;
        }
        Ok(())
    }

    /// Kills what is still in a pod's cgroups.
    pub(crate) fn kill(&self, uid: &str) {
        for root in self.hierarchy.roots() {
            for qos in [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort] {
                kill_tree(&root.join(self.path(qos, uid)));
            }
        }
    }

    /// Uids of pods that have cgroups.
    pub(crate) fn uids(&self) -> Vec<String> {
        let mut found = Vec::new();
        for root in self.hierarchy.roots() {
            for qos in [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort] {
                let Ok(entries) = std::fs::read_dir(root.join(self.class(qos).join("/"))) else { continue };
                let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
                found.extend(names.filter_map(|name| self.uid_of(&name)));
            }
        }
        found.sort();
        found.dedup();
        found
    }

    fn uid_of(&self, name: &str) -> Option<String> {
        if self.systemd {
            let uid = name.strip_suffix(".slice")?.rsplit_once("-pod")?.1;
            return Some(uid.replace('_', "-"));
        }
        name.strip_prefix("pod").map(str::to_owned)
    }
}

/// The number that a limit begins with; none at all is more than any.
fn first_number(text: &str) -> i64 {
    let number = text.split_whitespace().next().and_then(|word| word.parse().ok());
    number.filter(|number| *number >= 0).unwrap_or(i64::MAX)
}

/// Writes the limits that this hierarchy's controllers know.
fn set(folder: &Path, limits: &Limits) -> Result<(), Error> {
    for (name, value) in limits.files() {
        let file = folder.join(name);
        if file.exists() {
            std::fs::write(&file, value).map_err(files::at(&file))?;
        }
    }
    Ok(())
}

/// Removes a cgroup with those below it. Files in it are the kernel's and cannot be removed.
fn kill_tree(folder: &Path) {
    for below in files::list(folder).iter().filter(|path| path.is_dir()) {
        kill_tree(below);
    }
    let inside = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    for pid in inside.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0) {
        tracing::warn!(pid, cgroup = %folder.display(), "killing what its runtime has lost");
        if let Err(errno) = kill(Pid::from_raw(pid), Signal::SIGKILL) {
            tracing::debug!(pid, %errno, "it has ended by itself");
        }
    }
}

fn remove_tree(folder: &Path) -> Result<(), Error> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    match std::fs::remove_dir(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(files::at(folder)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_follow_the_class_and_the_driver() {
        let plain = Cgroups::new(Hierarchy::V1(Vec::new()), "k", false, Rules::default());
        assert_eq!(plain.path(Qos::Burstable, "a-b"), "k/kubepods/burstable/poda-b");
        assert_eq!(plain.path(Qos::Guaranteed, "a-b"), "k/kubepods/poda-b");
        let slices = Cgroups::new(Hierarchy::V2("/c".into()), "", true, Rules::default());
        let path = slices.path(Qos::BestEffort, "a-b");
        assert_eq!(path, "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-poda_b.slice");
        assert_eq!(slices.uid_of("kubepods-besteffort-poda_b.slice").as_deref(), Some("a-b"));
    }

    /// Folders with files as a hierarchy of version 2 shows them.
    fn unified(name: &str) -> PathBuf {
        let root = std::env::temp_dir().join(format!("knarr-cgroups-{name}-{}", std::process::id()));
        for folder in ["kubepods/burstable/podu", "system.slice"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        for folder in ["", "kubepods", "kubepods/burstable", "kubepods/burstable/podu", "system.slice"] {
            for file in ["cpu.weight", "cpu.max", "memory.max", "pids.max", "hugetlb.2MB.max"] {
                std::fs::write(root.join(folder).join(file), "").unwrap();
            }
            std::fs::write(root.join(folder).join("cgroup.controllers"), "cpu memory rdma").unwrap();
            std::fs::write(root.join(folder).join("cgroup.subtree_control"), "").unwrap();
        }
        root
    }

    #[test]
    fn limits_are_written_from_the_top_to_the_pod() {
        let root = unified("limits");
        let rules = Rules { period_us: Some(100_000), page_sizes: vec![2 << 20], ..Default::default() };
        let hierarchy = Hierarchy::V2(root.clone());
        let cgroups = Cgroups::new(hierarchy, "", false, rules);
        let whole =
            Limits { memory: Some(1 << 30), pids: Some(1000), shares: Some(2048), ..Default::default() };
        cgroups.enforce(&whole).unwrap();
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"uid": "u"},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}, "limits": {"memory": "64Mi"}}}]},
        }))
        .unwrap();
        cgroups.make(&pod, cgroups.rules()).unwrap();
        cgroups.enforce_existing("/system.slice", &whole).unwrap();
        assert!(cgroups.enforce_existing("/nowhere", &whole).is_err());
        let read = |file: &str| std::fs::read_to_string(root.join(file)).unwrap();
        assert_eq!(read("kubepods/memory.max"), "1073741824");
        assert_eq!(
            (read("kubepods/pids.max"), read("system.slice/pids.max")),
            ("1000".into(), "1000".into())
        );
        assert_eq!(read("kubepods/burstable/podu/memory.max"), "67108864");
        assert_eq!(read("kubepods/burstable/podu/cpu.max"), "max 100000");
        assert_eq!(read("kubepods/burstable/podu/hugetlb.2MB.max"), "0");
        assert_eq!(read("kubepods/burstable/hugetlb.2MB.max"), (1_i64 << 62).to_string());
        // What the pod asks for, through the rounding of weights.
        assert_eq!(
            (read("kubepods/burstable/podu/cpu.weight"), read("kubepods/burstable/cpu.weight")),
            ("39".into(), "38".into())
        );
        assert_eq!(read("kubepods/burstable/cgroup.subtree_control"), "+memory");
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn names_of_others_follow_the_driver() {
        let of = |systemd| Cgroups::new(Hierarchy::V1(Vec::new()), "", systemd, Rules::default());
        assert_eq!(of(false).foreign("/system/kube"), "system/kube");
        assert_eq!(of(true).foreign("/system/kube"), "system.slice/system-kube.slice");
        assert_eq!(of(true).foreign("/system.slice"), "system.slice");
    }
}
