//! What pods leave behind: mounts, network namespaces, records of CNI and of runc, cgroups, links, tables, routes.

use crate::killall::Troubles;
use crate::options::Options;
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What containerd's records may take to be looked through; they have some KiB for each pod.
const RECORDS_BYTES: u64 = 1 << 30;
/// A path in there is no longer.
const PATH_BYTES: usize = 4096;
/// Where libcni keeps what it did, also for others.
const CNI: &str = "/var/lib/cni";
/// Where runc keeps its containers, also for others.
const RUNC: &str = "/run/containerd/runc";

/// Removes what was made for the pods of a knarr that is stopped.
pub(crate) fn remove(options: &Options, troubles: &mut Troubles) {
    for folder in ["pods", "plugins"] {
        unmount_below(&options.kubelet_dir.join(folder), troubles);
    }
    unmount_below(&options.run_dir, troubles);
    unmount_below(&options.data_dir, troubles);
    for namespace in namespaces(options) {
        match umount2(&namespace, MntFlags::MNT_DETACH) {
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(errno) => troubles.note(format!("cannot unmount {}: {errno}", namespace.display())),
        }
        remove_path(&namespace, troubles);
    }
    remove_runc(&options.run_dir, troubles);
    remove_path(&options.run_dir, troubles);
}

/// Removes what is the same for every knarr of this machine.
pub(crate) async fn remove_shared(troubles: &mut Troubles) {
    remove_cni(troubles);
    // Of others it is a mount of its own, which stays.
    remove_empty("/run/netns");
    if !others_run(&["containerd", "dockerd"]) {
        for folder in ["s", "fifo"] {
            remove_path(&Path::new("/run/containerd").join(folder), troubles);
        }
        remove_empty("/run/containerd");
    }
    if let Err(errors) = net::teardown().await {
        errors.iter().for_each(|error| troubles.note(error.to_string()));
    }
    remove_cgroups();
}

/// Whether a program of somebody's with one of these names runs.
pub(crate) fn others_run(names: &[&str]) -> bool {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| std::fs::read_to_string(entry.path().join("comm")).ok()).any(|comm| {
        // The kernel keeps fifteen letters of a name.
        names.iter().any(|name| comm.trim() == *name)
    })
}

/// Removes a file or a folder with all in it; a folder that is a disk of its own is emptied. Never goes through a link,
/// nor into something that is mounted below.
pub(crate) fn remove_path(path: &Path, troubles: &mut Troubles) {
    let Ok(metadata) = std::fs::symlink_metadata(path) else { return };
    let mounts = mountinfo();
    if mounts.is_empty() {
        return troubles.note(format!("{} stays: what is mounted cannot be read", path.display()));
    }
    if let Some(mounted) = below(&mounts, path).first() {
        return troubles.note(format!("{} stays: {} is mounted", path.display(), mounted.display()));
    }
    let removed = if metadata.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    match removed {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) if error.kind() == ErrorKind::ResourceBusy && is_empty(path) => {}
        Err(error) => troubles.note(format!("cannot remove {}: {error}", path.display())),
    }
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}

/// Removes a folder that is shared with others if nothing is in it.
fn remove_empty(folder: impl AsRef<Path>) {
    if is_empty(folder.as_ref())
        && let Err(error) = std::fs::remove_dir(folder.as_ref())
    {
        tracing::debug!(%error, "a shared folder stays");
    }
}

/// Everything mounted below a folder, the latest first; the folder itself may be a disk of its own.
fn unmount_below(folder: &Path, troubles: &mut Troubles) {
    for place in below(&mountinfo(), folder).iter().rev() {
        if let Err(errno) = umount2(place, MntFlags::MNT_DETACH) {
            troubles.note(format!("cannot unmount {}: {errno}", place.display()));
        }
    }
}

/// The kernel's list of mounts.
pub(crate) fn mountinfo() -> Vec<u8> {
    std::fs::read("/proc/self/mountinfo").unwrap_or_default()
}

/// The mounts below a folder, in the order in which they were made.
fn below(mountinfo: &[u8], folder: &Path) -> Vec<PathBuf> {
    let lines = mountinfo.split(|byte| *byte == b'\n');
    let places = lines.filter_map(|line| line.split(|byte| *byte == b' ').nth(4)).map(unescaped);
    places.filter(|place| place.starts_with(folder) && place != folder).collect()
}

/// A path of `mountinfo`, where letters that would part fields stand as `\040`.
pub(crate) fn unescaped(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut at = 0;
    while at < field.len() {
        let digits = field.get(at + 1..at + 4).filter(|_| field[at] == b'\\');
        let code = digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(code.unwrap_or(field[at]));
        at += if code.is_some() { 4 } else { 1 };
    }
    PathBuf::from(OsStr::from_bytes(&bytes))
}

fn records(options: &Options) -> Vec<u8> {
    let path = options.data_dir.join("agent/containerd/io.containerd.metadata.v1.bolt/meta.db");
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(RECORDS_BYTES).read_to_end(&mut bytes));
    if let Err(error) = read {
        tracing::debug!(%error, "there are no records of containerd");
    }
    bytes
}

/// The network namespaces that containerd's records name: those of knarr's pods, and no others.
fn namespaces(options: &Options) -> BTreeSet<PathBuf> {
    let bytes = records(options);
    let found = paths(&bytes).filter(|path| path.contains("/netns/cni-"));
    found.map(PathBuf::from).collect()
}

/// The unique identifiers of knarr's pods, by the cgroups that containerd's records name.
pub(crate) fn pods(options: &Options) -> BTreeSet<String> {
    let bytes = records(options);
    let parts = paths(&bytes).flat_map(|path| path.split('/'));
    parts.filter_map(|part| part.strip_prefix("pod")).filter(|uid| is_uid(uid)).map(str::to_owned).collect()
}

fn is_uid(text: &str) -> bool {
    text.len() == 36 && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

/// What looks like an absolute path among other bytes.
fn paths(bytes: &[u8]) -> impl Iterator<Item = &str> {
    let is_letter = |byte: &u8| byte.is_ascii_alphanumeric() || b"/_.-".contains(byte);
    let words = bytes.split(move |byte| !is_letter(byte)).filter(|word| word.len() <= PATH_BYTES);
    words.filter_map(|word| {
        let text = std::str::from_utf8(word).ok()?;
        // Lengths and the like may stand before it and look like letters.
        text.find('/').map(|at| &text[at..])
    })
}

/// What libcni remembers of attachments.
fn remove_cni(troubles: &mut Troubles) {
    let results = Path::new(CNI).join("results");
    let names = |folder: &Path| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect::<Vec<_>>()
    };
    for name in names(&results) {
        let Some(id) = name.strip_prefix("knarr-") else { continue };
        remove_path(&results.join(&name), troubles);
        if let Some((sandbox, _)) = id.rsplit_once('-') {
            remove_path(&results.join(format!("cni-loopback-{sandbox}-lo")), troubles);
        }
    }
    remove_empty(&results);
    remove_empty(CNI);
}

/// What runc remembers of the containers of this runtime.
fn remove_runc(run_dir: &Path, troubles: &mut Troubles) {
    let folder = Path::new(RUNC).join("k8s.io");
    let bundle = format!("bundle={}/", run_dir.join("containerd").display());
    for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
        let state = std::fs::read_to_string(entry.path().join("state.json")).unwrap_or_default();
        if state.contains(&bundle) {
            remove_path(&entry.path(), troubles);
        }
    }
    remove_empty(&folder);
    remove_empty(RUNC);
}

/// Pods' cgroups in every hierarchy; those that another kubelet still uses are not empty and stay.
fn remove_cgroups() {
    let root = PathBuf::from("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(&root).into_iter().flatten().flatten().map(|entry| entry.path());
    for hierarchy in std::iter::once(root.clone()).chain(hierarchies) {
        for name in ["kubepods", "kubepods.slice"] {
            remove_cgroup(&hierarchy.join(name));
        }
    }
}

fn remove_cgroup(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    if let Err(error) = std::fs::remove_dir(folder) {
        tracing::debug!(%error, folder = %folder.display(), "a cgroup stays");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_below_a_folder_are_told_from_those_beside_it() {
        let text = b"22 1 254:0 / / rw - ext4 /dev/vda rw\n\
            30 22 0:21 / /var/lib/knarr rw - ext4 /dev/vdb rw\n\
            31 30 0:22 / /var/lib/knarr/a\\040b rw - tmpfs tmpfs rw\n\
            32 31 0:23 / /var/lib/knarr/a\\040b/c rw - tmpfs tmpfs rw\n\
            33 22 0:24 / /var/lib/knarr2/d rw - tmpfs tmpfs rw\n";
        let found = below(text, Path::new("/var/lib/knarr"));
        assert_eq!(found, [Path::new("/var/lib/knarr/a b"), Path::new("/var/lib/knarr/a b/c")]);
    }

    #[test]
    fn paths_are_found_among_other_bytes() {
        let records = b"\x00k7/var/run/netns/cni-1\x01\x80/kubepods/burstable/pod0b1e8f1c-7d0e-4d06-9c1a-0123456789ab/c\xff//";
        let found: Vec<&str> = paths(records).collect();
        assert_eq!(found[0], "/var/run/netns/cni-1");
        assert!(
            is_uid("0b1e8f1c-7d0e-4d06-9c1a-0123456789ab") && !is_uid("0b1e8f1c") && !is_uid(&"x".repeat(36))
        );
    }

    #[test]
    fn what_a_link_leads_to_stays() {
        let folder = std::env::temp_dir().join(format!("knarr-removal-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("kept")).unwrap();
        std::os::unix::fs::symlink(folder.join("kept"), folder.join("link")).unwrap();
        let mut troubles = Troubles::default();
        remove_path(&folder.join("link"), &mut troubles);
        assert!(folder.join("kept").is_dir() && !folder.join("link").exists());
        remove_path(&folder, &mut troubles);
        remove_path(&folder, &mut troubles);
        assert!(!folder.exists() && troubles.0.is_empty());
    }
}
