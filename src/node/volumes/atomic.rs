//! Files that change all at once: they lie in a folder with a timestamp for a name, `..data` links to
//! it, and each visible name links into `..data`. One rename of that link changes everything.

use super::ownership::Ownership;
use super::payload::File;
use crate::{Error, files};
use base::clock;
use nix::unistd::{Gid, Uid, chown};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

const DATA: &str = "..data";
const FRESH: &str = "..data_tmp";

/// Makes `folder` hold exactly `payload`; does nothing if it does already.
pub(crate) fn write(
    folder: &Path,
    payload: &BTreeMap<String, File>,
    owner: Option<Ownership>,
) -> Result<(), Error> {
    // Nobody writes to such a volume: its group may read.
    let owner = owner.map(|owner| owner.of_read_only(true));
    let data = folder.join(DATA);
    let current = std::fs::read_link(&data).ok().map(|name| folder.join(name));
    if current.as_ref().is_some_and(|current| is_same(current, payload, owner)) {
        return link_names(folder, payload);
    }
    let fresh = fresh_folder(folder, owner)?;
    for (path, file) in payload {
        write_file(&fresh, path, file, owner)?;
    }
    let link = folder.join(FRESH);
    files::remove(&link)?;
    symlink(fresh.file_name().unwrap_or_default(), &link).map_err(files::at(&link))?;
    std::fs::rename(&link, &data).map_err(files::at(&data))?;
    link_names(folder, payload)?;
    remove_others(folder, &fresh)
}

/// Whether a folder holds some payload already.
pub(crate) fn is_written(folder: &Path) -> bool {
    folder.join(DATA).exists()
}

fn fresh_folder(folder: &Path, owner: Option<Ownership>) -> Result<PathBuf, Error> {
    let now = clock::now();
    let name = format!("..{}.{:09}", now.strftime("%Y_%m_%d_%H_%M_%S"), now.subsec_nanosecond());
    let fresh = folder.join(name);
    make_folder(&fresh, owner)?;
    Ok(fresh)
}

fn make_folder(path: &Path, owner: Option<Ownership>) -> Result<(), Error> {
    files::make_folder_exact(path, 0o755)?;
    owner.map_or(Ok(()), |owner| own(path, None, Some(owner), owner.mode(0o755, true)))
}

fn own(path: &Path, user: Option<u32>, owner: Option<Ownership>, mode: u32) -> Result<(), Error> {
    let (uid, gid) = (user.map(Uid::from_raw), owner.map(|owner| Gid::from_raw(owner.group)));
    if uid.is_some() || gid.is_some() {
        chown(path, uid, gid).map_err(|errno| files::at(path)(errno.into()))?;
    }
    std::fs::set_permissions(path, Permissions::from_mode(mode)).map_err(files::at(path))
}

fn mode(file: &File, owner: Option<Ownership>) -> u32 {
    owner.map_or(file.mode, |owner| owner.mode(file.mode, false))
}

fn write_file(fresh: &Path, path: &str, file: &File, owner: Option<Ownership>) -> Result<(), Error> {
    let target = fresh.join(path);
    let mut between: Vec<&Path> =
        target.ancestors().skip(1).take_while(|folder| *folder != fresh && !folder.exists()).collect();
    between.reverse();
    between.into_iter().try_for_each(|folder| make_folder(folder, owner))?;
    std::fs::write(&target, &file.content).map_err(files::at(&target))?;
    own(&target, file.owner, owner, mode(file, owner))
}

/// The names a pod sees: the first parts of the payload's paths. Folders that other volumes are mounted at
/// are no links, and stay.
fn link_names(folder: &Path, payload: &BTreeMap<String, File>) -> Result<(), Error> {
    let wanted: BTreeSet<&str> = payload.keys().filter_map(|path| path.split('/').next()).collect();
    for name in &wanted {
        let link = folder.join(name);
        if std::fs::read_link(&link).is_err() {
            symlink(PathBuf::from(DATA).join(name), &link).map_err(files::at(&link))?;
        }
    }
    for entry in std::fs::read_dir(folder).map_err(files::at(folder))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
        if is_link && !name.starts_with("..") && !wanted.contains(name.as_str()) {
            files::remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes earlier contents, also those of a write that was interrupted.
fn remove_others(folder: &Path, fresh: &Path) -> Result<(), Error> {
    for entry in std::fs::read_dir(folder).map_err(files::at(folder))?.flatten() {
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_folder && entry.path() != fresh && entry.file_name().to_string_lossy().starts_with("..") {
            files::remove_folder(&entry.path())?;
        }
    }
    Ok(())
}

fn is_same(current: &Path, payload: &BTreeMap<String, File>, owner: Option<Ownership>) -> bool {
    let mut found = Vec::new();
    walk(current, "", &mut found);
    found.len() == payload.len()
        && payload.iter().all(|(path, file)| {
            let path = current.join(path);
            let fits = std::fs::metadata(&path).is_ok_and(|metadata| {
                metadata.permissions().mode() & 0o7777 == mode(file, owner)
                    && file.owner.is_none_or(|user| metadata.uid() == user)
            });
            fits && std::fs::read(&path).is_ok_and(|content| content == file.content)
        })
}

fn walk(folder: &Path, prefix: &str, found: &mut Vec<String>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), &format!("{path}/"), found);
        } else {
            found.push(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("knarr-{name}-{}", std::process::id()));
        files::make_folder(&folder, 0o755).unwrap();
        folder
    }

    fn file(text: &str) -> File {
        File { content: text.into(), mode: 0o644, owner: None }
    }

    #[test]
    fn a_change_swaps_everything_and_leaves_nothing_behind() {
        let folder = folder("atomic");
        let first = BTreeMap::from([("a".to_owned(), file("1")), ("d/b".to_owned(), file("2"))]);
        write(&folder, &first, None).unwrap();
        let before = std::fs::read_link(folder.join(DATA)).unwrap();
        // Where another volume is mounted, and what an interrupted write has left.
        files::make_folder(&folder.join("nested"), 0o755).unwrap();
        files::make_folder(&folder.join("..2020_interrupted"), 0o755).unwrap();
        write(&folder, &first, None).unwrap();
        assert_eq!(std::fs::read_link(folder.join(DATA)).unwrap(), before);
        write(&folder, &BTreeMap::from([("a".to_owned(), file("3"))]), None).unwrap();
        assert_eq!(std::fs::read_to_string(folder.join("a")).unwrap(), "3");
        assert!(!folder.join("d").exists() && !folder.join(before).exists());
        assert!(folder.join("nested").exists() && !folder.join("..2020_interrupted").exists());
        files::remove_folder(&folder).unwrap();
    }

    #[test]
    fn the_group_may_read_and_nothing_is_written_twice() {
        let folder = folder("grouped");
        let owner = Some(Ownership { group: 77, spare: false, read_only: false });
        let secret = File { content: b"s".into(), mode: 0o400, owner: Some(5) };
        let payload = BTreeMap::from([("d/e".to_owned(), secret)]);
        write(&folder, &payload, owner).unwrap();
        let data = std::fs::read_link(folder.join(DATA)).unwrap();
        let found = |name: &str| {
            let metadata = std::fs::metadata(folder.join(name)).unwrap();
            (metadata.mode() & 0o7777, metadata.uid(), metadata.gid())
        };
        assert_eq!((found("d"), found("d/e")), ((0o2755, 0, 77), (0o440, 5, 77)));
        write(&folder, &payload, owner).unwrap();
        assert_eq!(std::fs::read_link(folder.join(DATA)).unwrap(), data);
        files::remove_folder(&folder).unwrap();
    }
}
