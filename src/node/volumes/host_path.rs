//! hostPath: something of the machine itself, of a type that is checked.

use crate::{Error, files};
use api::core::HostPathVolumeSource;
use std::os::unix::fs::FileTypeExt;
use std::path::{Component, Path, PathBuf};

/// Checks the type, and makes what is to be made.
pub(crate) fn set_up(source: &HostPathVolumeSource) -> Result<PathBuf, Error> {
    let path = PathBuf::from(&source.path);
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(Error::Volume(format!("invalid HostPath `{}`: must not contain '..'", source.path)));
    }
    check(&path, source.type_.as_deref().unwrap_or_default())?;
    Ok(path)
}

fn check(path: &Path, kind: &str) -> Result<(), Error> {
    match kind {
        "" => return Ok(()),
        "DirectoryOrCreate" if !path.exists() => return files::make_folder_exact(path, 0o755),
        "FileOrCreate" if !path.exists() => {
            let file = std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(path);
            return file.map(drop).map_err(files::at(path));
        }
        _ => {}
    }
    let found = std::fs::metadata(path).ok().map(|metadata| metadata.file_type());
    let is = |test: fn(&std::fs::FileType) -> bool| found.as_ref().is_some_and(test);
    let (fits, what) = match kind {
        "Directory" | "DirectoryOrCreate" => (is(std::fs::FileType::is_dir), "a directory"),
        "File" | "FileOrCreate" => (is(std::fs::FileType::is_file), "a file"),
        "Socket" => (is(FileTypeExt::is_socket), "a socket file"),
        "CharDevice" => (is(FileTypeExt::is_char_device), "a character device"),
        "BlockDevice" => (is(FileTypeExt::is_block_device), "a block device"),
        other => return Err(Error::Volume(format!("{other} is an invalid volume type"))),
    };
    if fits {
        return Ok(());
    }
    Err(Error::Volume(format!("hostPath type check failed: {} is not {what}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_checked_in_kubernetes_words() {
        let said = |path: &str, kind: &str| {
            let source = HostPathVolumeSource { path: path.to_owned(), type_: Some(kind.to_owned()) };
            set_up(&source).map_or_else(|error| error.to_string(), |_| "fine".to_owned())
        };
        let cases = [
            ("/dev/null", "CharDevice", "fine"),
            ("/nowhere", "", "fine"),
            ("/etc", "Directory", "fine"),
            ("/etc", "File", "hostPath type check failed: /etc is not a file"),
            ("/nowhere", "Socket", "hostPath type check failed: /nowhere is not a socket file"),
            ("/dev/null", "BlockDevice", "hostPath type check failed: /dev/null is not a block device"),
            ("/etc/../etc", "", "invalid HostPath `/etc/../etc`: must not contain '..'"),
            ("/etc", "Odd", "Odd is an invalid volume type"),
        ];
        for (path, kind, expected) in cases {
            assert_eq!(said(path, kind), expected);
        }
    }
}
