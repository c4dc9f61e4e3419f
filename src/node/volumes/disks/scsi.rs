//! The kernel's SCSI devices, by its files.

use crate::{Error, files};
use base::process;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a program may take for a device.
const LIMIT: Duration = Duration::from_secs(30);
const HOSTS: &str = "/sys/class/scsi_host";
const BLOCKS: &str = "/sys/block";

/// Has a host, as `host3`, look for a device; `which` are channel, target and unit as the kernel reads them.
pub(super) async fn scan(host: &str, which: &str) -> Result<(), Error> {
    let path = Path::new(HOSTS).join(host).join("scan");
    tokio::fs::write(&path, which).await.map_err(files::at(&path))
}

/// The hosts of this machine.
pub(super) fn hosts() -> Vec<String> {
    let entries = std::fs::read_dir(HOSTS).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// The name of a device behind a link, as `sdb`.
pub(super) fn name(device: &Path) -> Option<String> {
    let real = device.canonicalize().ok()?;
    Some(real.file_name()?.to_string_lossy().into_owned())
}

/// The device that joins several paths to a disk, if one of them is part of such a device.
pub(super) fn joined(device: &Path) -> Option<PathBuf> {
    let name = name(device)?;
    let blocks = std::fs::read_dir(BLOCKS).into_iter().flatten().flatten();
    let mut mapped = blocks.filter(|block| block.file_name().to_string_lossy().starts_with("dm-"));
    let own = mapped.find(|block| block.path().join("slaves").join(&name).exists())?;
    let uuid = std::fs::read_to_string(own.path().join("dm/uuid")).unwrap_or_default();
    uuid.starts_with("mpath-").then(|| Path::new("/dev").join(own.file_name()))
}

/// Takes a device off this machine, and what joins its paths. What cannot be done is told and left: the device goes with
/// its session or its host.
pub(super) async fn remove(device: &Path) {
    let Some(own) = name(device).filter(|own| Path::new(BLOCKS).join(own).exists()) else { return };
    let joined = joined(device);
    let parts = joined.as_deref().and_then(name).map(|mapped| Path::new(BLOCKS).join(mapped).join("slaves"));
    let parts = parts.and_then(|parts| std::fs::read_dir(parts).ok()).into_iter().flatten().flatten();
    let mut all: Vec<String> = parts.map(|part| part.file_name().to_string_lossy().into_owned()).collect();
    if let Some(joined) = joined {
        told(run("multipath", &["-f", &joined.display().to_string()]).await);
    }
    all.push(own);
    all.sort();
    all.dedup();
    for name in all {
        let path = Path::new(BLOCKS).join(&name).join("device/delete");
        if path.exists() {
            told(run("blockdev", &["--flushbufs", &format!("/dev/{name}")]).await);
            told(tokio::fs::write(&path, "1").await.map_err(files::at(&path)));
        }
    }
}

async fn run(program: &str, words: &[&str]) -> Result<(), Error> {
    let mut command = process::command(program);
    command.args(words);
    let done = process::check(command, b"", LIMIT).await;
    done.map(drop).map_err(|error| Error::Volume(error.to_string()))
}

fn told(done: Result<(), Error>) {
    if let Err(error) = done {
        tracing::warn!(%error, "cannot take a device off this machine");
    }
}
