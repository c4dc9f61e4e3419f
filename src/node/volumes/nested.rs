//! Folders for other volumes that are mounted within a volume that nobody can write to.

use crate::pods::spec;
use crate::{Error, files};
use api::core::Pod;
use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

/// The folders that a volume needs: where containers mount others below it, the uppermost of each.
fn points(pod: &Pod, volume: &str) -> BTreeSet<PathBuf> {
    let mut points = BTreeSet::new();
    for (_, container) in spec::containers(pod) {
        let mounts = container.volume_mounts.as_deref().unwrap_or_default();
        let own =
            mounts.iter().filter(|mount| mount.name == volume).map(|mount| Path::new(&mount.mount_path));
        for top in own {
            let below = mounts.iter().filter_map(|mount| Path::new(&mount.mount_path).strip_prefix(top).ok());
            points.extend(below.filter(|path| path.components().next().is_some()).map(Path::to_owned));
        }
    }
    let all = points.clone();
    points.retain(|point| !point.ancestors().skip(1).any(|above| all.contains(above)));
    points.retain(|point| point.components().all(|part| matches!(part, Component::Normal(_))));
    points
}

/// Makes them.
pub(super) fn make(pod: &Pod, volume: &str, folder: &Path) -> Result<(), Error> {
    points(pod, volume).iter().try_for_each(|point| files::make_folder(&folder.join(point), 0o755))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_uppermost_of_each_is_made() {
        let mount = |name: &str, path: &str| json!({"name": name, "mountPath": path});
        let pod = json!({"spec": {"containers": [{"name": "c", "volumeMounts": [
            mount("config", "/etc/app"), mount("a", "/etc/app/sub"), mount("b", "/etc/app/sub/more"),
            mount("c", "/etc/app-2"), mount("d", "/etc/app/sub.d"), mount("e", "/var")]}]}});
        let points = points(&serde_json::from_value(pod).unwrap(), "config");
        let points: Vec<String> = points.iter().map(|point| point.display().to_string()).collect();
        assert_eq!(points, ["sub", "sub.d"]);
    }
}
