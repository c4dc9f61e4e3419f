//! fsGroup: a volume's files are given to a group that all of the pod's processes are in.

use crate::pods::spec;
use crate::{Context, Error, files};
use api::core::Pod;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, fchownat};
use std::fs::{File, Metadata, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The group of a pod's volumes, and what is changed for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ownership {
    pub(crate) group: u32,
    /// fsGroupChangePolicy OnRootMismatch: a volume whose top is as wanted is spared.
    pub(crate) spare: bool,
    /// Nobody writes to the volume.
    pub(crate) read_only: bool,
}

const READ: u32 = 0o440;
const WRITE: u32 = 0o220;
const ENTER: u32 = 0o110;
const INHERIT: u32 = 0o2000;
/// Folders within folders that are gone into: each takes of the stack and of the open files.
const DEEPEST: usize = 512;
/// After how long a pod is told that it takes long, and how often then.
const FIRST_WORD: Duration = Duration::from_secs(30);
const NEXT_WORD: Duration = Duration::from_secs(60);
const ADVICE: &str = "OnRootMismatch - https://kubernetes.io/docs/tasks/configure-pod-container/security-context/\
                      #configure-volume-permission-and-ownership-change-policy-for-pods";

/// What a pod asks for.
pub(crate) fn of(pod: &Pod) -> Option<Ownership> {
    let context = spec::spec(pod).security_context.as_ref()?;
    let group = u32::try_from(context.fs_group?).ok()?;
    let spare = context.fs_group_change_policy.as_deref() == Some("OnRootMismatch");
    Some(Ownership { group, spare, read_only: false })
}

impl Ownership {
    pub(crate) fn of_read_only(self, read_only: bool) -> Self {
        Self { read_only: self.read_only || read_only, ..self }
    }

    /// Without regard to fsGroupChangePolicy, which is for volumes that outlive pods.
    pub(crate) fn always(self) -> Self {
        Self { spare: false, ..self }
    }

    /// The permissions that the group needs.
    fn needed(self, is_folder: bool) -> u32 {
        let access = if self.read_only { READ } else { READ | WRITE };
        if is_folder { access | ENTER | INHERIT } else { access }
    }

    /// A file's mode once it is the group's.
    pub(crate) fn mode(self, mode: u32, is_folder: bool) -> u32 {
        mode & 0o7777 | self.needed(is_folder)
    }

    fn is_settled(self, top: &Metadata) -> bool {
        let needed = self.needed(true);
        top.is_dir() && top.gid() == self.group && top.mode() & needed == needed
    }

    /// Gives everything at and below a path to the group; the top last, so that one which was interrupted
    /// is not taken for done.
    pub(crate) fn apply(self, path: &Path) -> Result<(), Error> {
        self.apply_counting(path, &AtomicU64::new(0))
    }

    /// The same, counting the files.
    pub(crate) fn apply_counting(self, path: &Path, counted: &AtomicU64) -> Result<(), Error> {
        let top = open(path, look(), Mode::empty()).map_err(|errno| files::at(path)(errno.into()))?;
        let top = Entry::of(top).map_err(files::at(path))?;
        if self.spare && self.is_settled(&top.metadata) {
            return Ok(());
        }
        self.walk(&top, DEEPEST, counted).map_err(files::at(path))
    }

    /// Other pods may have the volume already, and change it meanwhile: what was opened is what is given.
    fn walk(self, entry: &Entry, depth: usize, counted: &AtomicU64) -> std::io::Result<()> {
        if entry.metadata.is_dir() {
            if depth == 0 {
                return Err(std::io::Error::other(format!("folders lie within each other {DEEPEST} times")));
            }
            let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let folder = openat(&entry.opened, ".", flags, Mode::empty())?;
            for below in files::entries(&folder)? {
                match openat(&folder, below?.file_name().as_os_str(), look(), Mode::empty()) {
                    Ok(opened) => self.walk(&Entry::of(opened)?, depth - 1, counted)?,
                    // The volume is in use elsewhere, and somebody removed the file.
                    Err(Errno::ENOENT) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
        }
        counted.fetch_add(1, Ordering::Relaxed);
        self.give(entry);
        Ok(())
    }

    /// Some file systems know no owners: what cannot be given is left, as Kubernetes leaves it.
    fn give(self, entry: &Entry) {
        let group = Some(Gid::from_raw(self.group));
        let given = fchownat(&entry.opened, "", None, group, AtFlags::AT_EMPTY_PATH).map_err(Into::into);
        let moded = if entry.metadata.is_symlink() {
            Ok(())
        } else {
            let mode = self.mode(entry.metadata.mode(), entry.metadata.is_dir());
            std::fs::set_permissions(entry.path(), Permissions::from_mode(mode))
        };
        if let Err(error) = given.and(moded) {
            let path = std::fs::read_link(entry.path()).unwrap_or_default();
            tracing::warn!(path = %path.display(), %error, "cannot give a file to the pod's fsGroup");
        }
    }
}

/// Does what gives a volume to the pod's group, after what is under way `at` a path; it counts the files. That takes as
/// long as there are files: the pod is told when it takes long, and the volume's place in its folder is `shown`.
pub(crate) async fn telling<T: Send + 'static>(
    context: &Context,
    pod: &Pod,
    (at, shown): (&Path, &Path),
    work: impl FnOnce(&AtomicU64) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let counted: Arc<AtomicU64> = Arc::default();
    let count = counted.clone();
    let giving = context.volumes.background.finish(at, move || work(&count));
    let path = shown.strip_prefix(context.config.kubelet_dir.join("pods")).unwrap_or(shown).display();
    let (mut giving, mut wait) = (std::pin::pin!(giving), FIRST_WORD);
    loop {
        if let Ok(given) = tokio::time::timeout(wait, &mut giving).await {
            return given;
        }
        let message = if wait == FIRST_WORD {
            format!(
                "Setting volume ownership for {path} is taking longer than expected, consider using {ADVICE}"
            )
        } else {
            let files = counted.load(Ordering::Relaxed);
            format!("Setting volume ownership for {path}, processed {files} files.")
        };
        context.recorder.warning(pod, "VolumePermissionChangeInProgress", message);
        wait = NEXT_WORD;
    }
}

/// Something is looked at, and neither followed nor opened for real.
fn look() -> OFlag {
    OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC
}

/// A file of a volume that is held on to, whatever becomes of its names.
struct Entry {
    opened: OwnedFd,
    metadata: Metadata,
}

impl Entry {
    fn of(opened: OwnedFd) -> std::io::Result<Self> {
        let file = File::from(opened);
        Ok(Self { metadata: file.metadata()?, opened: file.into() })
    }

    fn path(&self) -> PathBuf {
        files::path_of(&self.opened)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn permissions_are_added_and_none_taken() {
        let own = Ownership { group: 5, spare: false, read_only: false };
        assert_eq!((own.mode(0o600, false), own.mode(0o755, true)), (0o660, 0o2775));
        let read = own.of_read_only(true);
        assert_eq!((read.mode(0o400, false), read.mode(0o700, true)), (0o440, 0o2750));
    }

    #[test]
    fn a_settled_volume_is_spared_where_the_pod_says_so() {
        let pod = json!({"spec": {"containers": [], "securityContext":
            {"fsGroup": 4242, "fsGroupChangePolicy": "OnRootMismatch"}}});
        let own = of(&serde_json::from_value(pod).unwrap()).unwrap();
        let folder = std::env::temp_dir().join(format!("knarr-group-{}", std::process::id()));
        files::make_folder_exact(&folder, 0o700).unwrap();
        let late = folder.join("late");
        std::os::unix::fs::symlink("/nowhere", folder.join("link")).unwrap();
        own.apply(&folder).unwrap();
        files::write(&late, b"", 0o600).unwrap();
        own.apply(&folder).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!((mode(&folder), mode(&late)), (0o2770, 0o600));
        own.always().apply(&folder).unwrap();
        assert_eq!((mode(&late), std::fs::metadata(&late).unwrap().gid()), (0o660, 4242));
        files::remove_folder(&folder).unwrap();
    }

    #[test]
    fn neither_links_nor_depth_lead_out_of_a_volume() {
        let folder = std::env::temp_dir().join(format!("knarr-astray-{}", std::process::id()));
        let (volume, outside) = (folder.join("volume"), folder.join("outside"));
        files::make_folder_exact(&volume, 0o755).unwrap();
        files::make_folder_exact(&outside, 0o700).unwrap();
        std::os::unix::fs::symlink(&outside, volume.join("link")).unwrap();
        let own = Ownership { group: 4242, spare: false, read_only: false };
        let counted = AtomicU64::new(0);
        own.apply_counting(&volume, &counted).unwrap();
        assert_eq!(counted.into_inner(), 2);
        let metadata = std::fs::metadata(&outside).unwrap();
        assert_eq!((metadata.mode() & 0o7777, metadata.gid()), (0o700, 0));
        assert_eq!(std::fs::symlink_metadata(volume.join("link")).unwrap().gid(), 4242);
        files::make_folder(&volume.join("d/".repeat(DEEPEST)), 0o755).unwrap();
        let error = own.apply(&volume).unwrap_err().to_string();
        assert!(error.contains("folders lie within each other 512 times"), "{error}");
        files::remove_folder(&folder).unwrap();
    }
}
