//! Taking a pod's volumes down. Nothing is removed while anything is mounted below: it could be data.

use super::mount_table::{Busy, Table, unmount};
use super::{disks, image, pod_folder};
use crate::{Context, Error, csi, files};
use std::path::{Path, PathBuf};

/// Kinds of file systems that go with their pod: nobody else waits for them to be free.
const OWN_KINDS: [&str; 3] = ["tmpfs", "hugetlbfs", "overlay"];

/// What is mounted at or below a folder, in the order of taking down, and how.
fn plan(table: &Table, folder: &Path) -> Vec<(PathBuf, Busy)> {
    let order = table.within(folder).into_iter().map(|mount| {
        let own = OWN_KINDS.contains(&mount.kind.as_str());
        (mount.point.clone(), if own { Busy::GoesLater } else { Busy::Stays })
    });
    order.collect()
}

/// Takes down everything that is mounted below a folder.
fn unmount_all(folder: &Path) -> Result<(), Error> {
    plan(&Table::read()?, folder).into_iter().try_for_each(|(point, busy)| unmount(&point, busy))
}

fn remove(folder: &Path) -> Result<(), Error> {
    let table = Table::read()?;
    match table.within(folder).first() {
        Some(mount) => Err(Error::Volume(format!("{} is still mounted", mount.point.display()))),
        None => files::remove_folder(folder),
    }
}

/// Unmounts and removes everything of a pod on this machine.
pub(crate) async fn take_down(context: &Context, uid: &str) -> Result<(), Error> {
    let folder = pod_folder(context, uid);
    // Drivers take back what nothing is bound from any more.
    let bound = folder.join("volume-subpaths");
    context.change(&folder, move || unmount_all(&bound)).await?;
    csi::take_down(context, uid).await?;
    let below = folder.clone();
    context.change(&folder, move || unmount_all(&below)).await?;
    disks::release(context, uid).await?;
    image::give_back(context, uid).await?;
    let below = folder.clone();
    context.change(&folder, move || remove(&below)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_goes_first_and_data_is_not_let_go_of_while_in_use() {
        let table = Table::parse(
            "1 0 0:1 / / rw - ext4 /dev/sda rw\n\
             2 1 0:2 / /k/pods/u/volumes/kubernetes.io~secret/s rw - tmpfs tmpfs rw\n\
             3 1 0:3 / /k/pods/u/volumes/kubernetes.io~nfs/n rw - nfs4 a:/b rw\n\
             4 3 0:3 / /k/pods/u/volume-subpaths/n/c/0 rw - nfs4 a:/b rw\n\
             5 1 0:3 / /k/pods/u2/volumes/kubernetes.io~nfs/n rw - nfs4 a:/b rw",
        );
        let plan = plan(&table, "/k/pods/u".as_ref());
        let plan: Vec<(&str, Busy)> = plan
            .iter()
            .map(|(point, busy)| (point.strip_prefix("/k/pods/u").unwrap().to_str().unwrap(), *busy))
            .collect();
        let expected = [
            ("volume-subpaths/n/c/0", Busy::Stays),
            ("volumes/kubernetes.io~nfs/n", Busy::Stays),
            ("volumes/kubernetes.io~secret/s", Busy::GoesLater),
        ];
        assert_eq!(plan, expected);
    }

    #[test]
    fn nothing_is_removed_below_a_mount() {
        let folder = std::env::temp_dir().join(format!("knarr-down-{}", std::process::id()));
        let data = folder.join("volumes/data");
        files::make_folder(&data, 0o755).unwrap();
        super::super::empty_dir::mount_secret(&data).unwrap();
        std::fs::write(data.join("kept"), "").unwrap();
        remove(&folder).unwrap_err();
        assert!(data.join("kept").exists());
        unmount_all(&folder).unwrap();
        remove(&folder).unwrap();
        assert!(!folder.exists());
    }
}
