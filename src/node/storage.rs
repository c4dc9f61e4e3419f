//! Folders of the class `local-path`: made and removed on behalf of its provisioner, which asks over the
//! kubelet's HTTPS.

use crate::{Config, Error, files};
use std::path::{Component, Path, PathBuf};

/// Any user of any pod may write, as in Kubernetes' local provisioners: who may is the pods' to say.
const MODE: u32 = 0o777;

/// What is asked for a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    There,
    Gone,
}

/// The folder of this name. A name is one step down, so that nobody is led out of the storage.
fn folder(config: &Config, name: &str) -> Result<PathBuf, Error> {
    let mut steps = Path::new(name).components();
    match (steps.next(), steps.next()) {
        (Some(Component::Normal(step)), None) if step == name => {
            Ok(config.data_dir.join("storage").join(name))
        }
        _ => Err(Error::Volume(format!("{name:?} is no name of a folder"))),
    }
}

/// Makes a folder, or removes it with everything in it; either may have been done before. Links in it are
/// removed and not followed.
pub(crate) fn settle(config: &Config, name: &str, wanted: Wanted) -> Result<PathBuf, Error> {
    let path = folder(config, name)?;
    match wanted {
        Wanted::There if path.is_dir() => {}
        Wanted::There => {
            files::make_folder(&config.data_dir.join("storage"), 0o701)?;
            files::make_folder_exact(&path, MODE)?;
        }
        Wanted::Gone => files::remove_folder(&path)?,
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_come_and_go_and_nothing_outside_is_touched() {
        let data = std::env::temp_dir().join(format!("knarr-storage-{}", std::process::id()));
        files::make_folder(&data, 0o755).unwrap();
        files::write(&data.join("kept"), b"", 0o600).unwrap();
        let config = Config::new("node", &data);
        for name in ["", ".", "..", "../kept", "a/b", "a/", "/kept", "a/.."] {
            assert!(settle(&config, name, Wanted::Gone).is_err(), "{name}");
        }
        let made = settle(&config, "pvc-1_ns_data", Wanted::There).unwrap();
        std::os::unix::fs::symlink(&data, made.join("out")).unwrap();
        assert_eq!(settle(&config, "pvc-1_ns_data", Wanted::There).unwrap(), made);
        settle(&config, "pvc-1_ns_data", Wanted::Gone).unwrap();
        settle(&config, "pvc-1_ns_data", Wanted::Gone).unwrap();
        assert!(!made.exists() && data.join("kept").exists());
        files::remove_folder(&data).unwrap();
    }
}
