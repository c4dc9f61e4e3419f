//! What the volumes of a pod hold.

use super::Stats;
use super::disk::{Part, Space};
use crate::Context;
use crate::csi::Told;
use crate::pods::spec;
use api::Object;
use api::core::{Pod, Volume};
use std::path::Path;

/// A volume as it was measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VolumeUse {
    pub(crate) name: String,
    pub(crate) space: Space,
    /// The claim that it is of.
    pub(crate) claim: Option<String>,
    /// It takes of the node's own disk, and goes with the pod.
    pub(crate) is_ephemeral: bool,
    /// Its driver says that something is wrong with it, or that nothing is; none where it says neither.
    pub(crate) abnormal: Option<bool>,
}

/// How a type of volume is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// It is a file system of its own.
    Whole,
    /// It is a folder in the node's.
    Folder,
    /// It is the machine's; nobody measures it.
    Not,
}

fn how(volume: &Volume) -> How {
    if volume.host_path.is_some() || volume.image.is_some() {
        How::Not
    } else if volume.empty_dir.is_some()
        || volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.projected.is_some()
        || volume.downward_api.is_some()
    {
        How::Folder
    } else {
        How::Whole
    }
}

/// Secrets and what is in memory take nothing of a disk.
fn is_on_disk(volume: &Volume) -> bool {
    let in_memory = |medium: Option<&str>| medium == Some("Memory");
    match &volume.empty_dir {
        Some(source) => !in_memory(source.medium.as_deref()),
        None => volume.config_map.is_some() || volume.downward_api.is_some(),
    }
}

fn claim_of(pod: &Pod, volume: &Volume) -> Option<String> {
    let named = volume.persistent_volume_claim.as_ref().map(|claim| claim.claim_name.clone());
    named.or_else(|| volume.ephemeral.as_ref().map(|_| format!("{}-{}", pod.name(), volume.name)))
}

/// A volume of a driver, as the driver says.
fn by_driver(pod: &Pod, volume: &Volume, told: &Told) -> VolumeUse {
    let (name, claim) = (volume.name.clone(), claim_of(pod, volume));
    VolumeUse { name, claim, space: told.space, is_ephemeral: false, abnormal: told.abnormal }
}

fn one(stats: &Stats, pod: &Pod, volume: &Volume, path: &Path) -> Option<VolumeUse> {
    let space = match how(volume) {
        How::Not => return None,
        How::Whole if !path.is_dir() => return None,
        How::Whole => Space::of_file_system(path)?,
        How::Folder => Space::of_file_system(path)?.with_use(stats.walks.part(path)),
    };
    let is_ephemeral = how(volume) == How::Folder && is_on_disk(volume);
    let (name, claim) = (volume.name.clone(), claim_of(pod, volume));
    Some(VolumeUse { name, space, claim, is_ephemeral, abnormal: None })
}

/// The volumes of a pod that can be measured.
pub(super) fn measure(context: &Context, pod: &Pod) -> Vec<VolumeUse> {
    let mounted = context.stats.volumes_of(pod.uid());
    let measured = |volume: &Volume| {
        if mounted.published.contains_key(&volume.name) {
            let told = context.csi.usages.told(pod.uid(), &volume.name)?;
            return Some(by_driver(pod, volume, &told));
        }
        one(&context.stats, pod, volume, mounted.paths.get(&volume.name)?)
    };
    spec::spec(pod).volumes.iter().flatten().filter_map(measured).collect()
}

/// What a pod's volumes take of the node's own disk.
pub(super) fn ephemeral(volumes: &[VolumeUse]) -> Part {
    let mut sum = Part::default();
    for volume in volumes.iter().filter(|volume| volume.is_ephemeral) {
        sum += Part { bytes: volume.space.used, inodes: volume.space.inodes_used };
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn types_are_measured_by_what_they_are() {
        let volume = |source: serde_json::Value| -> Volume {
            let mut value = json!({"name": "v"});
            value.as_object_mut().unwrap().extend(source.as_object().unwrap().clone());
            serde_json::from_value(value).unwrap()
        };
        let of = |source| how(&volume(source));
        assert_eq!(of(json!({"hostPath": {"path": "/"}})), How::Not);
        assert_eq!(of(json!({"emptyDir": {}})), How::Folder);
        assert_eq!(of(json!({"persistentVolumeClaim": {"claimName": "c"}})), How::Whole);
        assert!(is_on_disk(&volume(json!({"emptyDir": {}}))));
        assert!(!is_on_disk(&volume(json!({"emptyDir": {"medium": "Memory"}}))));
        assert!(!is_on_disk(&volume(json!({"secret": {"secretName": "s"}}))));
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}})).unwrap();
        assert_eq!(claim_of(&pod, &volume(json!({"ephemeral": {}}))).as_deref(), Some("p-v"));
    }
}
