//! Which sockets are in the plugins' folder, and what that means. Pure but for [`scan`].

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Folders within folders that are looked into.
const DEPTH: usize = 8;

/// What tells a socket from another at the same path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    modified_ns: i128,
}

/// What is to be done about one socket.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    Register(PathBuf, Stamp),
    Forget(PathBuf),
}

/// The sockets below a folder, and the folders in it. What begins with a dot is passed over.
pub(super) fn scan(folder: &Path) -> (BTreeMap<PathBuf, Stamp>, Vec<PathBuf>) {
    let (mut sockets, mut folders) = (BTreeMap::new(), Vec::new());
    walk(folder, DEPTH, &mut sockets, &mut folders);
    (sockets, folders)
}

fn walk(folder: &Path, depth: usize, sockets: &mut BTreeMap<PathBuf, Stamp>, folders: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        let Ok(metadata) = entry.metadata() else { continue };
        if is_hidden {
            continue;
        }
        if metadata.is_dir() && depth > 0 {
            folders.push(entry.path());
            walk(&entry.path(), depth - 1, sockets, folders);
        } else if metadata.file_type().is_socket() {
            let modified_ns =
                i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
            sockets.insert(entry.path(), Stamp { inode: metadata.ino(), modified_ns });
        }
    }
}

/// What to do: those that are gone or replaced are forgotten before the new ones are registered.
pub(super) fn plan(known: &BTreeMap<PathBuf, Stamp>, found: &BTreeMap<PathBuf, Stamp>) -> Vec<Action> {
    let gone = known.iter().filter(|(path, stamp)| found.get(*path) != Some(stamp));
    let gone = gone.map(|(path, _)| Action::Forget(path.clone()));
    let new = found.iter().filter(|(path, stamp)| known.get(*path) != Some(stamp));
    gone.chain(new.map(|(path, stamp)| Action::Register(path.clone(), *stamp))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_socket_that_is_made_anew_is_registered_again() {
        let stamp = |inode| Stamp { inode, modified_ns: 0 };
        let map =
            |list: &[(&str, u64)]| list.iter().map(|(path, inode)| ((*path).into(), stamp(*inode))).collect();
        let plan = plan(&map(&[("a", 1), ("b", 2), ("c", 3)]), &map(&[("a", 1), ("b", 4), ("d", 5)]));
        let expected = [
            Action::Forget("b".into()),
            Action::Forget("c".into()),
            Action::Register("b".into(), stamp(4)),
            Action::Register("d".into(), stamp(5)),
        ];
        assert_eq!(plan, expected);
    }

    #[test]
    fn only_sockets_are_plugins() {
        let folder = std::env::temp_dir().join(format!("knarr-sockets-{}", std::process::id()));
        files::make_folder(&folder.join("below"), 0o755).unwrap();
        std::fs::write(folder.join("file.sock"), "").unwrap();
        let _bound: Vec<UnixListener> = ["a.sock", ".hidden.sock", "below/b.sock"]
            .map(|name| UnixListener::bind(folder.join(name)).unwrap())
            .into();
        let (sockets, folders) = scan(&folder);
        let names: Vec<&Path> = sockets.keys().map(|path| path.strip_prefix(&folder).unwrap()).collect();
        assert_eq!(names, [Path::new("a.sock"), Path::new("below/b.sock")]);
        assert_eq!(folders, [folder.join("below")]);
        files::remove_folder(&folder).unwrap();
    }
}
