//! Kernel settings under `/proc/sys/net`. They belong to the network namespace of the writing thread.

use crate::Error;
use std::path::{Path, PathBuf};

fn path(name: &str) -> PathBuf {
    Path::new("/proc/sys/net").join(name)
}

/// What one is; none if this kernel does not have it.
pub(crate) fn get(name: &str) -> Option<String> {
    Some(std::fs::read_to_string(path(name)).ok()?.trim().to_owned())
}

/// Sets one, unless it has the value already. `name` is relative to `/proc/sys/net`.
pub(crate) fn set(name: &str, value: &str) -> Result<(), Error> {
    let path = path(name);
    let current = std::fs::read_to_string(&path).map_err(Error::io(format!("reading {}", path.display())))?;
    if current.trim() == value {
        return Ok(());
    }
    std::fs::write(&path, value).map_err(Error::io(format!("writing {value} to {}", path.display())))
}

/// Sets one that this kernel may not have, or that a container host may hold read-only.
pub(crate) fn try_set(name: &str, value: &str) {
    if let Err(error) = set(name, value) {
        tracing::debug!(%error, "a kernel setting was left as it is");
    }
}
