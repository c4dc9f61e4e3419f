//! Small file operations with errors that name the path.

mod tree;

use crate::Error;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

pub(crate) use tree::{entries, path_of, remove_folder};

/// Adds the path to a system error.
pub(crate) fn at(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { path, source }
}

/// What lies in a folder; nothing does in one that cannot be read.
pub(crate) fn list(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Makes a folder and those above it; one that is there keeps its mode.
pub(crate) fn make_folder(path: &Path, mode: u32) -> Result<(), Error> {
    std::fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(at(path))
}

/// Makes a folder whose mode is exact, whatever the umask.
pub(crate) fn make_folder_exact(path: &Path, mode: u32) -> Result<(), Error> {
    make_folder(path, mode)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(at(path))
}

/// Writes a file whole or not at all: a new file takes the place of the old.
pub(crate) fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), Error> {
    replace(path, content, mode, false)
}

/// The same for what also a machine that loses its power must find whole.
pub(crate) fn write_durably(path: &Path, content: &[u8], mode: u32) -> Result<(), Error> {
    replace(path, content, mode, true)
}

fn replace(path: &Path, content: &[u8], mode: u32, durably: bool) -> Result<(), Error> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let fresh = Path::new(&name);
    let mut options = std::fs::OpenOptions::new();
    let mut file =
        options.write(true).create(true).truncate(true).mode(mode).open(fresh).map_err(at(fresh))?;
    file.set_permissions(std::fs::Permissions::from_mode(mode)).map_err(at(fresh))?;
    file.write_all(content).map_err(at(fresh))?;
    if durably {
        file.sync_all().map_err(at(fresh))?;
    }
    std::fs::rename(fresh, path).map_err(at(path))
}

/// Removes a file or nothing.
pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    absent_is_fine(std::fs::remove_file(path)).map_err(at(path))
}

fn absent_is_fine(result: std::io::Result<()>) -> std::io::Result<()> {
    match result {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
