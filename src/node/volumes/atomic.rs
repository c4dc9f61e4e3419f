//! Files that change all at once: they lie in a folder with a timestamp for a name, `..data` links to
//! it, and each visible name links into `..data`. One rename of that link changes everything.

use super::payload::File;
use crate::{Error, files};
use base::clock;
use nix::unistd::{Gid, Uid, chown};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

const DATA: &str = "..data";
const FRESH: &str = "..data_tmp";

/// Makes `folder` hold exactly `payload`; does nothing if it does already.
pub(crate) fn write(
    folder: &Path,
    payload: &BTreeMap<String, File>,
    group: Option<i64>,
) -> Result<(), Error> {
    let data = folder.join(DATA);
    let current = std::fs::read_link(&data).ok().map(|name| folder.join(name));
    if current.as_ref().is_some_and(|current| is_same(current, payload)) {
        return Ok(());
    }
    let now = clock::now();
    let name = format!("..{}.{:09}", now.strftime("%Y_%m_%d_%H_%M_%S"), now.subsec_nanosecond());
    let fresh = folder.join(&name);
    files::make_folder_exact(&fresh, 0o755)?;
    for (path, file) in payload {
        write_file(&fresh, path, file, group)?;
    }
    let link = folder.join(FRESH);
    files::remove(&link)?;
    symlink(&name, &link).map_err(files::at(&link))?;
    std::fs::rename(&link, &data).map_err(files::at(&data))?;
    link_names(folder, payload)?;
    match current {
        Some(old) if old != fresh => files::remove_folder(&old),
        _ => Ok(()),
    }
}

fn write_file(fresh: &Path, path: &str, file: &File, group: Option<i64>) -> Result<(), Error> {
    let target = fresh.join(path);
    if let Some(parent) = target.parent().filter(|parent| *parent != fresh) {
        files::make_folder(parent, 0o755)?;
    }
    // fsGroup members may read what the owner may.
    let mode = if group.is_some() { file.mode | (file.mode & 0o400) >> 3 | 0o040 } else { file.mode };
    std::fs::write(&target, &file.content).map_err(files::at(&target))?;
    std::fs::set_permissions(&target, std::fs::Permissions::from_mode(mode)).map_err(files::at(&target))?;
    let gid = group.and_then(|group| u32::try_from(group).ok()).map(Gid::from_raw);
    let uid = file.owner.map(Uid::from_raw);
    if gid.is_some() || uid.is_some() {
        chown(&target, uid, gid).map_err(|errno| files::at(&target)(errno.into()))?;
    }
    Ok(())
}

/// The names a pod sees: the first parts of the payload's paths.
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
        if !name.starts_with("..") && !wanted.contains(name.as_str()) {
            files::remove(&entry.path())?;
        }
    }
    Ok(())
}

fn is_same(current: &Path, payload: &BTreeMap<String, File>) -> bool {
    let mut found = Vec::new();
    walk(current, "", &mut found);
    found.len() == payload.len()
        && payload.iter().all(|(path, file)| {
            let path = current.join(path);
            let mode = std::fs::metadata(&path).map_or(0, |metadata| metadata.permissions().mode());
            mode & 0o700 == file.mode & 0o700
                && std::fs::read(&path).is_ok_and(|content| content == file.content)
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

    #[test]
    fn a_change_swaps_everything_and_leaves_nothing_behind() {
        let folder = std::env::temp_dir().join(format!("knarr-atomic-{}", std::process::id()));
        files::make_folder(&folder, 0o755).unwrap();
        let file = |text: &str| File { content: text.into(), mode: 0o644, owner: None };
        let first = BTreeMap::from([("a".to_owned(), file("1")), ("d/b".to_owned(), file("2"))]);
        write(&folder, &first, None).unwrap();
        let before = std::fs::read_link(folder.join(DATA)).unwrap();
        write(&folder, &first, None).unwrap();
        assert_eq!(std::fs::read_link(folder.join(DATA)).unwrap(), before);
        write(&folder, &BTreeMap::from([("a".to_owned(), file("3"))]), None).unwrap();
        assert_eq!(std::fs::read_to_string(folder.join("a")).unwrap(), "3");
        assert!(!folder.join("d").exists() && !folder.join(before).exists());
        files::remove_folder(&folder).unwrap();
    }
}
