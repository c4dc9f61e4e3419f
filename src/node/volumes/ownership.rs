//! fsGroup: a volume's files are given to a group that all of the pod's processes are in.

use crate::pods::spec;
use crate::{Error, files};
use api::core::Pod;
use nix::unistd::Gid;
use std::fs::Metadata;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

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
        let top = std::fs::symlink_metadata(path).map_err(files::at(path))?;
        if self.spare && self.is_settled(&top) { Ok(()) } else { self.walk(path, &top) }
    }

    fn walk(self, path: &Path, metadata: &Metadata) -> Result<(), Error> {
        if metadata.is_dir() {
            for entry in std::fs::read_dir(path).map_err(files::at(path))? {
                let entry = entry.map_err(files::at(path))?;
                match entry.metadata() {
                    Ok(metadata) => self.walk(&entry.path(), &metadata)?,
                    // The volume is in use elsewhere, and somebody removed the file.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    Err(error) => return Err(files::at(&entry.path())(error)),
                }
            }
        }
        self.give(path, metadata);
        Ok(())
    }

    /// Some file systems know no owners: what cannot be given is left, as Kubernetes leaves it.
    fn give(self, path: &Path, metadata: &Metadata) {
        let given = std::os::unix::fs::lchown(path, None, Some(Gid::from_raw(self.group).as_raw()));
        let moded = if metadata.is_symlink() {
            Ok(())
        } else {
            let mode = self.mode(metadata.mode(), metadata.is_dir());
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        };
        if let Err(error) = given.and(moded) {
            tracing::warn!(path = %path.display(), %error, "cannot give a file to the pod's fsGroup");
        }
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
}
