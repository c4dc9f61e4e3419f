//! The kubelet's folder is shared: what drivers of storage mount below it from within their pods, with
//! Bidirectional mounts, is seen by the machine and by other pods.

use super::mount_table::Table;
use crate::{Error, files};
use nix::mount::{MsFlags, mount};
use std::path::Path;

/// Makes mounts below a folder seen everywhere, unless they are.
pub(crate) fn share(folder: &Path) -> Result<(), Error> {
    files::make_folder(folder, 0o750)?;
    let folder = folder.canonicalize().map_err(files::at(folder))?;
    if Table::read()?.holding(&folder).is_some_and(|mount| mount.shared) {
        return Ok(());
    }
    let none = None::<&str>;
    let both = || {
        if Table::read()?.at(&folder).is_none() {
            mount(Some(&folder), &folder, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)
                .map_err(|errno| files::at(&folder)(errno.into()))?;
        }
        mount(none, &folder, none, MsFlags::MS_SHARED | MsFlags::MS_REC, none)
            .map_err(|errno| files::at(&folder)(errno.into()))
    };
    both()
}
