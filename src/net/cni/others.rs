//! Network plugins of others: what they bring is linked to where the runtime looks, which sees no other folders. So a
//! plugin is found however it came, and a configuration that is to come before knarr's own does, while all runs.

use super::NAMES;
use super::install::{self, FILE, relink};
use crate::Error;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// More plugins are not linked: a folder of so many is none of plugins.
const MOST_PLUGINS: usize = 256;

/// Nor are more configurations looked at.
const MOST_CONFIGURATIONS: usize = 64;

/// A configuration is small; a larger file is none.
const MOST_BYTES: u64 = 1 << 20;

/// What the protocol's own library reads.
const EXTENSIONS: [&str; 3] = ["conf", "conflist", "json"];

/// Where others put theirs.
#[derive(Clone, Debug)]
pub struct Sources {
    /// Configurations.
    pub configurations: PathBuf,
    /// Plugins; of those of one name that of the first folder.
    pub plugins: Vec<PathBuf>,
}

impl Default for Sources {
    /// The protocol's folders, and those of distributions.
    fn default() -> Self {
        Self {
            configurations: "/etc/cni/net.d".into(),
            plugins: ["/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"].map(PathBuf::from).into(),
        }
    }
}

/// Whose configuration pods are attached by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adopted {
    /// The configuration of others that comes first; none where knarr's does, or there is none.
    pub first: Option<PathBuf>,
    /// Files that would come first and are no configurations, and why.
    pub unusable: BTreeMap<PathBuf, String>,
}

/// The folders at which a runtime looks, of this process' own.
#[derive(Clone, Debug)]
pub struct Others {
    /// Where others put theirs.
    pub sources: Sources,
    /// Where the runtime looks for plugins.
    pub bin: PathBuf,
    /// Where it looks for a configuration.
    pub conf: PathBuf,
    /// knarr's own plugin attaches pods where no configuration of somebody else's comes first.
    pub own: bool,
}

impl Others {
    /// Links what is there now. To be done anew whenever a folder of [`Sources`] changes.
    pub fn adopt(&self) -> Result<Adopted, Error> {
        for folder in [&self.bin, &self.conf] {
            fs::create_dir_all(folder).map_err(Error::io(format!("creating {}", folder.display())))?;
        }
        self.adopt_plugins()?;
        let mut adopted = Adopted::default();
        for name in self.candidates()? {
            let path = self.sources.configurations.join(&name);
            match usable(&path) {
                Ok(()) => {
                    adopted.first = Some(path);
                    break;
                }
                Err(why) => drop(adopted.unusable.insert(path, why)),
            }
        }
        self.adopt_configuration(adopted.first.as_deref())?;
        if !self.own {
            install::withdraw(&self.conf)?;
        }
        Ok(adopted)
    }

    /// Where nobody's network is knarr's, links for lack of the `loopback` that a runtime needs.
    pub fn link_own_plugins(&self, executable: &Path) -> Result<(), Error> {
        fs::create_dir_all(&self.bin).map_err(Error::io(format!("creating {}", self.bin.display())))?;
        install::link_plugins(&self.bin, executable)
    }

    /// The names of configurations that may come first, in their order.
    fn candidates(&self) -> Result<Vec<String>, Error> {
        let mut names = entries(&self.sources.configurations)?;
        let reads = |name: &str| {
            Path::new(name).extension().is_some_and(|own| EXTENSIONS.iter().any(|other| own == *other))
        };
        names.retain(|name| reads(name) && (!self.own || name.as_str() < FILE));
        names.truncate(MOST_CONFIGURATIONS);
        Ok(names)
    }

    /// One link to a configuration of others, or none.
    fn adopt_configuration(&self, first: Option<&Path>) -> Result<(), Error> {
        let wanted = first.and_then(Path::file_name).map(|name| self.conf.join(name));
        for name in entries(&self.conf)? {
            let link = self.conf.join(name);
            if wanted.as_ref() != Some(&link) && leads_into(&link, &self.sources.configurations) {
                remove(&link)?;
            }
        }
        let (Some(link), Some(target)) = (wanted, first) else { return Ok(()) };
        // What is no link was put there by somebody who knows why.
        if fs::symlink_metadata(&link).is_ok_and(|found| !found.is_symlink()) {
            return Ok(());
        }
        relink(&link, target)
    }

    fn adopt_plugins(&self) -> Result<(), Error> {
        let mut wanted: BTreeMap<String, PathBuf> = BTreeMap::new();
        for folder in &self.sources.plugins {
            for name in entries(folder)? {
                let path = folder.join(&name);
                if wanted.len() < MOST_PLUGINS && is_program(&path) && !NAMES.contains(&name.as_str()) {
                    wanted.entry(name).or_insert(path);
                }
            }
        }
        for name in entries(&self.bin)? {
            let link = self.bin.join(&name);
            if wanted.contains_key(&name) {
                continue;
            }
            if self.sources.plugins.iter().any(|folder| leads_into(&link, folder)) {
                remove(&link)?;
            }
        }
        for (name, target) in wanted {
            let link = self.bin.join(name);
            match fs::symlink_metadata(&link) {
                Ok(found) if !found.is_symlink() => {}
                Ok(_) if fs::read_link(&link).is_ok_and(|own| own == target) => {}
                _ => relink(&link, &target)?,
            }
        }
        Ok(())
    }
}

/// The names of what is in a folder, in their order; none where there is no folder.
fn entries(folder: &Path) -> Result<Vec<String>, Error> {
    let failed = || Error::io(format!("reading {}", folder.display()));
    let found = match fs::read_dir(folder) {
        Ok(found) => found,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(failed()(error)),
    };
    let mut names = Vec::new();
    for entry in found {
        names.extend(entry.map_err(failed())?.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}

fn leads_into(link: &Path, folder: &Path) -> bool {
    fs::read_link(link).is_ok_and(|target| target.parent() == Some(folder))
}

fn remove(link: &Path) -> Result<(), Error> {
    match fs::remove_file(link) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Error::io(format!("removing {}", link.display()))(error))
        }
        _ => Ok(()),
    }
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// Whether a file is a configuration of one plugin or of several. Half of one is being written still.
fn usable(path: &Path) -> Result<(), String> {
    let found = fs::metadata(path).map_err(|error| error.to_string())?;
    if !found.is_file() || found.len() > MOST_BYTES {
        return Err("it is no small file".to_owned());
    }
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    let read: Value = serde_json::from_slice(&bytes).map_err(|error| format!("it is no JSON: {error}"))?;
    let is_one = |plugin: &Value| plugin["type"].as_str().is_some_and(|kind| !kind.is_empty());
    let is_list = path.extension().is_some_and(|extension| extension == "conflist");
    let plugins = read["plugins"].as_array();
    let names = if is_list {
        plugins.is_some_and(|plugins| !plugins.is_empty() && plugins.iter().all(is_one))
    } else {
        is_one(&read)
    };
    if names { Ok(()) } else { Err("it names no plugin".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Machine(PathBuf);

    impl Machine {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("knarr-others-{}-{name}", std::process::id()));
            for part in ["etc", "opt", "usr"] {
                fs::create_dir_all(folder.join(part)).unwrap();
            }
            Self(folder)
        }

        fn others(&self, own: bool) -> Others {
            let at = |name: &str| self.0.join(name);
            let sources =
                Sources { configurations: at("etc"), plugins: vec![at("opt"), at("usr"), at("none")] };
            Others { sources, bin: at("bin"), conf: at("conf"), own }
        }

        fn put(&self, path: &str, text: &str) {
            fs::write(self.0.join(path), text).unwrap();
        }

        fn program(&self, path: &str) {
            self.put(path, "");
            fs::set_permissions(self.0.join(path), fs::Permissions::from_mode(0o755)).unwrap();
        }

        fn there(&self, folder: &str) -> Vec<String> {
            entries(&self.0.join(folder)).unwrap()
        }
    }

    impl Drop for Machine {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    const LIST: &str = r#"{"cniVersion": "1.0.0", "name": "x", "plugins": [{"type": "x"}]}"#;
    const ONE: &str = r#"{"cniVersion": "1.0.0", "name": "x", "type": "x"}"#;

    #[test]
    fn a_configuration_that_comes_first_does() {
        let machine = Machine::new("first");
        let own = machine.others(true);
        fs::create_dir_all(&own.conf).unwrap();
        machine.put("conf/10-knarr.conflist", LIST);
        machine.put("etc/87-podman-bridge.conflist", LIST);
        assert_eq!(own.adopt().unwrap(), Adopted::default(), "it comes after knarr's");
        machine.put("etc/00-meta.conf", "{");
        machine.put("etc/05-list.conflist", LIST);
        machine.put("etc/01-note.txt", LIST);
        let adopted = own.adopt().unwrap();
        assert_eq!(adopted.first, Some(machine.0.join("etc/05-list.conflist")));
        assert!(adopted.unusable[&machine.0.join("etc/00-meta.conf")].starts_with("it is no JSON"));
        assert_eq!(machine.there("conf"), ["05-list.conflist", "10-knarr.conflist"]);
        machine.put("etc/00-meta.conf", ONE);
        assert_eq!(own.adopt().unwrap().first, Some(machine.0.join("etc/00-meta.conf")));
        assert_eq!(machine.there("conf"), ["00-meta.conf", "10-knarr.conflist"]);
        fs::remove_file(machine.0.join("etc/00-meta.conf")).unwrap();
        fs::remove_file(machine.0.join("etc/05-list.conflist")).unwrap();
        machine.put("conf/00-own.conf", ONE);
        assert_eq!(own.adopt().unwrap().first, None);
        assert_eq!(machine.there("conf"), ["00-own.conf", "10-knarr.conflist"], "what is no link stays");
    }

    #[test]
    fn where_nobody_is_knarrs_any_configuration_is_taken() {
        let machine = Machine::new("none");
        let others = machine.others(false);
        fs::create_dir_all(&others.conf).unwrap();
        machine.put("conf/10-knarr.conflist", LIST);
        assert_eq!(others.adopt().unwrap(), Adopted::default());
        assert!(machine.there("conf").is_empty());
        machine.put("etc/87-bridge.conflist", LIST);
        machine.put("etc/90-later.conflist", LIST);
        assert_eq!(others.adopt().unwrap().first, Some(machine.0.join("etc/87-bridge.conflist")));
        assert_eq!(machine.there("conf"), ["87-bridge.conflist"]);
    }

    #[test]
    fn plugins_of_others_are_found_and_own_ones_stay() {
        let machine = Machine::new("plugins");
        let own = machine.others(true);
        for program in ["opt/bridge", "usr/bridge", "usr/ptp", "opt/loopback"] {
            machine.program(program);
        }
        machine.put("opt/README", "no program");
        fs::create_dir_all(&own.bin).unwrap();
        machine.program("bin/runc");
        own.link_own_plugins(Path::new("/usr/local/bin/knarr")).unwrap();
        own.adopt().unwrap();
        assert_eq!(machine.there("bin"), ["bridge", "knarr-cni", "loopback", "ptp", "runc"]);
        assert_eq!(fs::read_link(own.bin.join("bridge")).unwrap(), machine.0.join("opt/bridge"));
        assert_eq!(fs::read_link(own.bin.join("loopback")).unwrap(), Path::new("/usr/local/bin/knarr"));
        fs::remove_file(machine.0.join("opt/bridge")).unwrap();
        fs::remove_file(machine.0.join("usr/ptp")).unwrap();
        own.adopt().unwrap();
        assert_eq!(machine.there("bin"), ["bridge", "knarr-cni", "loopback", "runc"]);
        assert_eq!(fs::read_link(own.bin.join("bridge")).unwrap(), machine.0.join("usr/bridge"));
    }
}
