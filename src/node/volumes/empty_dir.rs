//! emptyDir: room for as long as the pod is here, on the disk, in memory or in huge pages.

use super::mount_table::Table;
use super::ownership::Ownership;
use crate::pods::spec;
use crate::{Error, amount, files};
use api::Quantity;
use api::core::{EmptyDirVolumeSource, Pod, ResourceRequirements};
use nix::mount::{MsFlags, mount};
use std::collections::BTreeSet;
use std::path::Path;

const HUGE: &str = "HugePages";
const HUGE_RESOURCE: &str = "hugepages-";

/// What an emptyDir is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Medium {
    Disk,
    /// Of so many bytes at most.
    Memory(i64),
    /// Of pages of so many bytes.
    Huge(i64),
}

/// What a pod's emptyDir is made of. `allocatable` is the memory that all pods may use together.
pub(crate) fn medium(pod: &Pod, source: &EmptyDirVolumeSource, allocatable: i64) -> Result<Medium, Error> {
    match source.medium.as_deref().unwrap_or_default() {
        "" => Ok(Medium::Disk),
        "Memory" => Ok(Medium::Memory(memory(pod, source, allocatable))),
        named if named.starts_with(HUGE) => page_size(pod, named).map(Medium::Huge).map_err(Error::Volume),
        other => Err(Error::Volume(format!("unknown storage medium {other:?}"))),
    }
}

/// The least of its own limit, its pod's, and what the node gives to pods.
fn memory(pod: &Pod, source: &EmptyDirVolumeSource, allocatable: i64) -> i64 {
    let own = source.size_limit.as_ref().map(amount::whole);
    let of_pod = Some(amount::of_pod(pod).memory_limit);
    let limits = [of_pod, own].into_iter().flatten().filter(|limit| *limit > 0);
    limits.chain([allocatable]).min().unwrap_or(allocatable)
}

/// The size of the pages that a medium names, or else that the pod's containers ask for.
fn page_size(pod: &Pod, medium: &str) -> Result<i64, String> {
    let asked = asked_pages(pod);
    if let Some(named) = medium.strip_prefix("HugePages-") {
        let size = amount::whole(&Quantity(named.to_owned()));
        return if asked.contains(&size) {
            Ok(size)
        } else {
            Err(format!(
                "medium {medium}: hugePages storage requested, but there is no resource request for huge pages"
            ))
        };
    }
    match asked.iter().copied().collect::<Vec<_>>().as_slice() {
        [] => Err(format!(
            "medium {medium}: hugePages storage requested, but there is no resource request for huge pages"
        )),
        [size] => Ok(*size),
        _ => Err(format!("medium: {medium} can't be used if container requests multiple huge page sizes")),
    }
}

fn asked_pages(pod: &Pod) -> BTreeSet<i64> {
    let containers = spec::spec(pod).containers.iter().chain(spec::init_containers(pod));
    let all =
        containers.map(|container| container.resources.as_ref()).chain([spec::spec(pod).resources.as_ref()]);
    let names = |resources: &ResourceRequirements| -> Vec<String> {
        let lists = [&resources.requests, &resources.limits];
        lists.into_iter().flatten().flat_map(|list| list.keys().cloned()).collect()
    };
    let names = all.flatten().flat_map(names);
    let sizes =
        names.filter_map(|name| Some(amount::whole(&Quantity(name.strip_prefix(HUGE_RESOURCE)?.to_owned()))));
    sizes.collect()
}

/// Makes it at `path`; one that the file `ready` says is made is left as it is.
pub(crate) fn set_up(
    path: &Path,
    ready: &Path,
    medium: &Medium,
    owner: Option<Ownership>,
) -> Result<(), Error> {
    let kind = match medium {
        Medium::Disk => None,
        Medium::Memory(_) => Some("tmpfs"),
        Medium::Huge(_) => Some("hugetlbfs"),
    };
    let is_there = match kind {
        None => path.exists(),
        Some(kind) => Table::read()?.at(path).is_some_and(|mount| mount.kind == kind),
    };
    if is_there && ready.exists() {
        return Ok(());
    }
    match medium {
        Medium::Disk => {}
        Medium::Memory(bytes) => mount_at(path, "tmpfs", "tmpfs", &format!("size={bytes}"))?,
        Medium::Huge(page) => mount_at(path, "hugetlbfs", "nodev", &format!("pagesize={page}"))?,
    }
    // Memory is as file systems of memory are: of what lies in it each is its owner's to remove.
    let mode = if matches!(medium, Medium::Memory(_)) { 0o1777 } else { 0o777 };
    files::make_folder_exact(path, mode)?;
    owner.map_or(Ok(()), |owner| owner.always().apply(path))?;
    files::make_folder(ready.parent().unwrap_or(ready), 0o750)?;
    files::write(ready, b"", 0o600)
}

/// A file system of memory for what must not reach a disk.
pub(crate) fn mount_secret(path: &Path) -> Result<(), Error> {
    mount_at(path, "tmpfs", "tmpfs", "")
}

fn mount_at(path: &Path, kind: &str, source: &str, options: &str) -> Result<(), Error> {
    files::make_folder(path, 0o755)?;
    if Table::read()?.at(path).is_some_and(|mount| mount.kind == kind) {
        return Ok(());
    }
    let try_with = |options: &str| mount(Some(source), path, Some(kind), MsFlags::empty(), Some(options));
    let mounted = if kind == "tmpfs" {
        // Kernels before 6.4 do not know how to keep memory out of swap.
        let separator = if options.is_empty() { "" } else { "," };
        try_with(&format!("{options}{separator}noswap")).or_else(|_| try_with(options))
    } else {
        try_with(options)
    };
    mounted.map_err(|errno| files::at(path)(errno.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn found(resources: Value, source: Value) -> Result<Medium, String> {
        let pod = json!({"spec": {"containers": [{"name": "c", "resources": resources}]}});
        let (pod, source) = (serde_json::from_value(pod).unwrap(), serde_json::from_value(source).unwrap());
        medium(&pod, &source, 1 << 30).map_err(|error| error.to_string())
    }

    #[test]
    fn memory_is_what_volume_pod_and_node_allow() {
        let limits = json!({"limits": {"memory": "64Mi"}});
        assert_eq!(found(json!({}), json!({})), Ok(Medium::Disk));
        assert_eq!(found(json!({}), json!({"medium": "Memory"})), Ok(Medium::Memory(1 << 30)));
        assert_eq!(found(limits.clone(), json!({"medium": "Memory"})), Ok(Medium::Memory(64 << 20)));
        let own = json!({"medium": "Memory", "sizeLimit": "1Mi"});
        assert_eq!(found(limits, own), Ok(Medium::Memory(1 << 20)));
    }

    #[test]
    fn huge_pages_are_those_that_containers_ask_for() {
        let two = json!({"limits": {"hugepages-2Mi": "4Mi"}});
        assert_eq!(found(two.clone(), json!({"medium": "HugePages"})), Ok(Medium::Huge(2 << 20)));
        assert_eq!(found(two.clone(), json!({"medium": "HugePages-2Mi"})), Ok(Medium::Huge(2 << 20)));
        let none = "hugePages storage requested, but there is no resource request for huge pages";
        assert_eq!(
            found(json!({}), json!({"medium": "HugePages"})),
            Err(format!("medium HugePages: {none}"))
        );
        assert_eq!(
            found(two, json!({"medium": "HugePages-1Gi"})),
            Err(format!("medium HugePages-1Gi: {none}"))
        );
        let both = json!({"limits": {"hugepages-2Mi": "4Mi", "hugepages-1Gi": "1Gi"}});
        let refused = "medium: HugePages can't be used if container requests multiple huge page sizes";
        assert_eq!(found(both, json!({"medium": "HugePages"})), Err(refused.to_owned()));
        assert_eq!(
            found(json!({}), json!({"medium": "Odd"})),
            Err("unknown storage medium \"Odd\"".to_owned())
        );
    }
}
