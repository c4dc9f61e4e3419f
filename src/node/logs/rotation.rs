//! Keeping the logs of running containers small: a file that has grown is set aside, older ones are compressed, the
//! oldest go.

use crate::amount::whole;
use crate::cri::Runtime;
use crate::pods::observe::names;
use crate::pods::{log_path, sandbox};
use crate::protocols::runtime::v1 as cri;
use crate::settings::KubeletConfiguration;
use crate::{Context, Error, files};
use api::Quantity;
use base::{Shutdown, clock};
use flate2::Compression;
use flate2::write::GzEncoder;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// When a log is set aside, and what is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limits {
    /// The size of a file.
    bytes: u64,
    /// Files of one container, the one that is written to among them.
    files: usize,
    /// Between two looks at the sizes.
    interval: Duration,
}

impl Limits {
    fn of(kubelet: &KubeletConfiguration) -> Self {
        let size = whole(&Quantity(kubelet.container_log_max_size.clone()));
        Self {
            bytes: size.unsigned_abs(),
            files: usize::try_from(kubelet.container_log_max_files).unwrap_or(usize::MAX),
            interval: kubelet.container_log_monitor_interval.get(),
        }
    }
}

/// The files that were set aside for a log, the oldest first.
pub(super) fn set_aside(path: &Path) -> Vec<PathBuf> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Vec::new() };
    let prefix = format!("{}.", name.to_string_lossy());
    let entries =
        std::fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let mut old: Vec<PathBuf> = entries
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)))
        .collect();
    old.sort();
    old
}

/// What becomes of files that were set aside, before another joins them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    remove: Vec<PathBuf>,
    compress: Vec<PathBuf>,
}

/// Removes what an interrupted compression left and what is too many; the rest gets compressed.
fn plan(old: &[PathBuf], files: usize) -> Plan {
    let ends = |path: &PathBuf, ending: &str| path.extension().is_some_and(|own| own == ending);
    let packed = |path: &PathBuf| PathBuf::from(format!("{}.gz", path.display()));
    let is_left_over = |path: &PathBuf| ends(path, "tmp") || old.contains(&packed(path));
    let (mut remove, kept): (Vec<PathBuf>, Vec<PathBuf>) = old.iter().cloned().partition(is_left_over);
    // The one that is written to and the one that is about to be set aside count as well.
    let excess = kept.len().saturating_sub(files.saturating_sub(2));
    remove.extend_from_slice(&kept[..excess]);
    let compress = kept[excess..].iter().filter(|path| !ends(path, "gz")).cloned().collect();
    Plan { remove, compress }
}

/// Compresses a file; it takes the old one's place only when it is whole.
fn compress(path: &Path) -> Result<(), Error> {
    let ending = |ending: &str| PathBuf::from(format!("{}{ending}", path.display()));
    let (fresh, packed) = (ending(".tmp"), ending(".gz"));
    let mut from = File::open(path).map_err(files::at(path))?;
    let mut into = GzEncoder::new(File::create(&fresh).map_err(files::at(&fresh))?, Compression::default());
    std::io::copy(&mut from, &mut into).map_err(files::at(&fresh))?;
    into.finish().map_err(files::at(&fresh))?;
    std::fs::rename(&fresh, &packed).map_err(files::at(&packed))?;
    files::remove(path)
}

/// Logs that have outgrown the limit. The runtime need not be asked for as long as there are none.
fn outgrown(root: &Path, bytes: u64) -> Vec<PathBuf> {
    let below = |folder: &Path| {
        let entries = std::fs::read_dir(folder).into_iter().flatten();
        entries.filter_map(|entry| Some(entry.ok()?.path())).collect::<Vec<_>>()
    };
    let containers = below(root).into_iter().flat_map(|pod| below(&pod));
    let logs = containers.flat_map(|container| below(&container));
    let is_big = |path: &PathBuf| {
        path.extension().is_some_and(|ending| ending == "log")
            && std::fs::metadata(path).is_ok_and(|file| file.len() > bytes)
    };
    logs.filter(is_big).collect()
}

/// Keeps the logs of running containers small, until asked to stop.
pub(crate) async fn run(context: Arc<Context>, shutdown: Shutdown) -> Result<(), Error> {
    let (runtime, root) = (&context.runtime, context.config.log_dir.as_path());
    let limits = Limits::of(context.config.kubelet());
    loop {
        tokio::select! {
            () = clock::sleep(limits.interval) => {}
            () = shutdown.requested() => return Ok(()),
        }
        let folder = root.to_owned();
        let looking = tokio::task::spawn_blocking(move || outgrown(&folder, limits.bytes));
        let big = looking.await.map_err(|error| Error::Setup(error.to_string()))?;
        if big.is_empty() {
            continue;
        }
        for container in runtime.list_containers(cri::ListContainersRequest::default()).await?.containers {
            let runs = container.state() == cri::ContainerState::ContainerRunning;
            let Some(path) = path_of(root, &container).filter(|path| runs && big.contains(path)) else {
                continue;
            };
            if let Err(error) = rotate(runtime, &container.id, path, limits).await {
                tracing::warn!(container = container.id, %error, "cannot set the log aside");
            }
        }
    }
}

async fn rotate(runtime: &Runtime, id: &str, path: PathBuf, limits: Limits) -> Result<(), Error> {
    let log = path.clone();
    let tidying = tokio::task::spawn_blocking(move || {
        let plan = plan(&set_aside(&log), limits.files);
        plan.remove.iter().try_for_each(|path| files::remove(path))?;
        plan.compress.iter().try_for_each(|path| compress(path))
    });
    tidying.await.map_err(|error| Error::Setup(error.to_string()))??;
    let stamp = clock::now().strftime("%Y%m%d-%H%M%S").to_string();
    let aside = PathBuf::from(format!("{}.{stamp}", path.display()));
    std::fs::rename(&path, &aside).map_err(files::at(&path))?;
    let request = cri::ReopenContainerLogRequest { container_id: id.to_owned() };
    if let Err(error) = runtime.reopen_container_log(request).await {
        // The runtime still writes to it: it has to stay where readers look.
        std::fs::rename(&aside, &path).map_err(files::at(&aside))?;
        return Err(error);
    }
    Ok(())
}

/// Where the runtime was told to write a container's log; none for containers that are not a pod's.
fn path_of(root: &Path, container: &cri::Container) -> Option<PathBuf> {
    let label = |name: &str| container.labels.get(name);
    let folder = sandbox::log_folder(root, label(names::NAMESPACE)?, label(names::POD)?, label(names::UID)?);
    let attempt = container.metadata.as_ref()?.attempt;
    Some(folder.join(log_path(label(names::CONTAINER)?, attempt)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn limits_are_the_settings() {
        let limits = Limits::of(&KubeletConfiguration::default());
        assert_eq!((limits.bytes, limits.files, limits.interval), (10 << 20, 5, Duration::from_secs(10)));
    }

    fn paths(names: &[&str]) -> Vec<PathBuf> {
        names.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn old_files_are_compressed_and_the_oldest_go() {
        let old = paths(&["0.log.1.gz", "0.log.2.gz", "0.log.3", "0.log.4"]);
        let expected = Plan { remove: paths(&["0.log.1.gz"]), compress: paths(&["0.log.3", "0.log.4"]) };
        assert_eq!(plan(&old, 5), expected);
        assert_eq!(plan(&old, 2), Plan { remove: old.clone(), compress: Vec::new() });
    }

    #[test]
    fn interrupted_work_is_done_again() {
        let old = paths(&["0.log.1", "0.log.1.gz", "0.log.2", "0.log.2.tmp"]);
        let expected = Plan { remove: paths(&["0.log.1", "0.log.2.tmp"]), compress: paths(&["0.log.2"]) };
        assert_eq!(plan(&old, 5), expected);
    }

    #[test]
    fn what_is_compressed_is_what_was_there() {
        let folder = std::env::temp_dir().join(format!("knarr-rotation-{}", std::process::id()));
        let log = folder.join("pod/c/0.log");
        std::fs::create_dir_all(log.parent().unwrap()).unwrap();
        std::fs::write(&log, "a line\n".repeat(1000)).unwrap();
        assert_eq!(outgrown(&folder, 6_999), std::slice::from_ref(&log));
        assert!(outgrown(&folder, 7_000).is_empty());
        compress(&log).unwrap();
        let packed = File::open(folder.join("pod/c/0.log.gz")).unwrap();
        let mut text = String::new();
        flate2::read::GzDecoder::new(packed).read_to_string(&mut text).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(text, "a line\n".repeat(1000));
    }
}
