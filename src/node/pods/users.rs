//! KEP-127: pods whose users are nobody on the machine. Each such pod has a range of the machine's ids of its
//! own, kept in its folder, where a restart finds it.

use crate::protocols::runtime::v1 as cri;
use crate::{Context, Error, files, volumes};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What a pod's ids are by default, and the first that a pod may have: those before are the machine's.
const IDS: u32 = 65_536;

/// A pod's range of the machine's ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    first: u32,
    length: u32,
}

fn file(folder: &Path) -> PathBuf {
    folder.join("userns")
}

impl Range {
    /// As it is kept, in the form that other kubelets keep it.
    fn encode(self) -> Value {
        let mapping = json!([{"hostId": self.first, "containerId": 0, "length": self.length}]);
        json!({"uidMappings": mapping, "gidMappings": mapping})
    }

    fn read(folder: &Path) -> Option<Self> {
        let value: Value = serde_json::from_slice(&std::fs::read(file(folder)).ok()?).ok()?;
        let mapping = value.pointer("/uidMappings/0")?;
        let number = |field: &str| mapping[field].as_u64().and_then(|number| u32::try_from(number).ok());
        Some(Self { first: number("hostId")?, length: number("length")? })
    }

    fn mappings(self) -> Vec<cri::IdMapping> {
        vec![cri::IdMapping { host_id: self.first, container_id: 0, length: self.length }]
    }

    /// For CRI.
    pub(crate) fn options(self) -> cri::UserNamespace {
        let mode = cri::NamespaceMode::Pod.into();
        cri::UserNamespace { mode, uids: self.mappings(), gids: self.mappings() }
    }

    /// Lets the pod's users own what they own in a mount.
    pub(crate) fn map(self, mount: &mut cri::Mount) {
        (mount.uid_mappings, mount.gid_mappings) = (self.mappings(), self.mappings());
    }
}

/// The first range of this length that none of the others overlaps.
fn free(taken: &[Range], length: u32) -> Option<Range> {
    let firsts: BTreeSet<u32> =
        taken.iter().filter_map(|range| range.first.checked_add(range.length)).chain([IDS]).collect();
    let overlaps = |first: u32, range: &Range| {
        u64::from(first) < u64::from(range.first) + u64::from(range.length)
            && u64::from(range.first) < u64::from(first) + u64::from(length)
    };
    let fits = |first: &u32| {
        first.checked_add(length).is_some() && !taken.iter().any(|range| overlaps(*first, range))
    };
    firsts.into_iter().find(fits).map(|first| Range { first, length })
}

/// The range that a pod has.
pub(crate) fn of(context: &Context, uid: &str) -> Option<Range> {
    Range::read(&volumes::pod_folder(context, uid))
}

/// The range that a pod has, or gets.
pub(crate) fn assign(context: &Context, uid: &str) -> Result<Range, Error> {
    let _one_at_a_time = context.assigning();
    if let Some(range) = of(context, uid) {
        return Ok(range);
    }
    let entries = std::fs::read_dir(context.config.kubelet_dir.join("pods")).into_iter().flatten().flatten();
    let taken: Vec<Range> = entries.filter_map(|entry| Range::read(&entry.path())).collect();
    let ids = context.config.kubelet().user_namespaces.as_ref().and_then(|it| it.ids_per_pod);
    let length = ids.and_then(|ids| u32::try_from(ids).ok()).unwrap_or(IDS);
    let range = free(&taken, length).ok_or_else(|| {
        Error::Container(
            "CreatePodSandboxError",
            "could not find an empty slot to allocate a user namespace".to_owned(),
        )
    })?;
    let folder = volumes::pod_folder(context, uid);
    context.machine.change(|| {
        files::make_folder(&folder, 0o750)?;
        files::write(&file(&folder), range.encode().to_string().as_bytes(), 0o600)
    })?;
    Ok(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_do_not_overlap_and_holes_are_filled() {
        let range = |first: u32, length: u32| Range { first, length };
        assert_eq!(free(&[], IDS), Some(range(IDS, IDS)));
        let taken = [range(IDS, IDS), range(3 * IDS, IDS)];
        assert_eq!(free(&taken, IDS), Some(range(2 * IDS, IDS)));
        assert_eq!(free(&taken, 2 * IDS), Some(range(4 * IDS, 2 * IDS)));
        assert_eq!(free(&[range(IDS, u32::MAX - IDS)], IDS), None);
    }

    #[test]
    fn a_range_is_found_again() {
        let folder = std::env::temp_dir().join(format!("knarr-users-{}", std::process::id()));
        files::make_folder(&folder, 0o700).unwrap();
        let range = Range { first: IDS, length: IDS };
        files::write(&file(&folder), range.encode().to_string().as_bytes(), 0o600).unwrap();
        assert_eq!(Range::read(&folder), Some(range));
        files::remove_folder(&folder).unwrap();
        assert_eq!(Range::read(&folder), None);
    }
}
