//! Changes kubeconfig files: each change in the file that its entry came from, behind a lock that kubectl knows,
//! and readable by its owner alone.

use super::{Kubeconfig, LISTS, PATHS, names, read, sort};
use crate::error::Error;
use crate::private_file;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::{DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Settings outside of the lists.
const SETTINGS: [&str; 3] = ["current-context", "preferences", "extensions"];

/// A file `NAME.lock` that only one can make, gone when this is.
struct Lock(PathBuf);

impl Lock {
    fn of(file: &Path) -> Result<Self, Error> {
        let mut name = file.as_os_str().to_owned();
        name.push(".lock");
        let lock = PathBuf::from(name);
        make_folder(file)?;
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&lock);
        made.map_err(|error| {
            let why = match error.kind() {
                std::io::ErrorKind::AlreadyExists => "file exists".to_owned(),
                _ => error.to_string(),
            };
            Error::plain(format!("open {}: {why}", lock.display()))
        })?;
        Ok(Self(lock))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            eprintln!("error: remove {}: {error}", self.0.display());
        }
    }
}

fn make_folder(file: &Path) -> Result<(), Error> {
    let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) else { return Ok(()) };
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| Error::plain(format!("mkdir {}: {error}", folder.display())))
}

impl Kubeconfig {
    /// The file that new entries go to: the first that is there, or the last.
    pub(crate) fn default_file(&self) -> &Path {
        let there = self.files.iter().find(|file| file.exists());
        there.or(self.files.last()).map_or(Path::new("kubeconfig"), PathBuf::as_path)
    }

    /// Writes what `edited` has other than this. Paths below a file's folder become relative to it where asked.
    pub(crate) fn write(&self, edited: &Value, relative: bool) -> Result<(), Error> {
        let mut sorted = self.files.clone();
        sorted.sort();
        sorted.dedup();
        let _locks: Vec<Lock> = sorted.iter().map(|file| Lock::of(file)).collect::<Result<_, _>>()?;
        let mut changed: BTreeMap<PathBuf, Value> = BTreeMap::new();
        for setting in SETTINGS {
            if edited[setting] != self.content[setting] {
                let file = self.setting_file(setting, &edited[setting])?;
                changed_file(&mut changed, &file)?[setting] = edited[setting].clone();
            }
        }
        for (list, field) in LISTS {
            for name in names(&self.content, list).into_iter().chain(names(edited, list)) {
                let (before, after) = (item(&self.content, list, &name), item(edited, list, &name));
                if before == after {
                    continue;
                }
                let origin = self.origins.get(&(list.to_owned(), name.clone()));
                let file = origin.map_or(self.default_file(), PathBuf::as_path).to_owned();
                let mut after = after.cloned();
                if let Some(after) = after.as_mut().filter(|_| relative) {
                    make_relative(&mut after[field], &file);
                }
                put(changed_file(&mut changed, &file)?, list, &name, after);
            }
        }
        changed.iter().try_for_each(|(file, content)| save(file, content))
    }

    /// Where a setting is changed: an empty current context where there is one, others in the file for new entries.
    fn setting_file(&self, setting: &str, value: &Value) -> Result<PathBuf, Error> {
        if setting != "current-context" || !value.as_str().is_none_or(str::is_empty) {
            return Ok(self.default_file().to_owned());
        }
        for file in &self.files {
            if current(file)?[setting].as_str().is_some_and(|name| !name.is_empty()) {
                return Ok(file.clone());
            }
        }
        Err(Error::plain("no config found to write context"))
    }
}

fn item<'a>(content: &'a Value, list: &str, name: &str) -> Option<&'a Value> {
    content[list].as_array()?.iter().find(|item| item["name"] == name)
}

/// What a file says now; one that is not there says nothing.
fn current(file: &Path) -> Result<Value, Error> {
    match std::fs::read_to_string(file) {
        Ok(text) => read(file, &text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(json!({})),
        Err(error) => Err(Error::plain(crate::connection::unreadable(&file.display().to_string(), &error))),
    }
}

fn changed_file<'a>(changed: &'a mut BTreeMap<PathBuf, Value>, file: &Path) -> Result<&'a mut Value, Error> {
    match changed.entry(file.to_owned()) {
        Entry::Occupied(known) => Ok(known.into_mut()),
        Entry::Vacant(place) => Ok(place.insert(current(file)?)),
    }
}

fn put(content: &mut Value, list: &str, name: &str, entry: Option<Value>) {
    if !content[list].is_array() {
        content[list] = json!([]);
    }
    if let Some(items) = content[list].as_array_mut() {
        items.retain(|item| item["name"] != name);
        items.extend(entry);
    }
}

fn make_relative(entry: &mut Value, file: &Path) {
    let folder = std::path::absolute(file).ok().and_then(|file| file.parent().map(Path::to_owned));
    for key in PATHS {
        let path = entry[key].as_str().map(PathBuf::from);
        if let (Some(path), Some(folder)) = (path, &folder)
            && let Ok(below) = path.strip_prefix(folder)
        {
            entry[key] = json!(below);
        }
    }
}

/// Replaces a file as a whole.
fn save(file: &Path, content: &Value) -> Result<(), Error> {
    let mut content = content.clone();
    sort(&mut content);
    content["apiVersion"] = json!("v1");
    content["kind"] = json!("Config");
    for (list, _) in LISTS {
        if content[list].as_array().is_none_or(Vec::is_empty) {
            content[list] = Value::Null;
        }
    }
    if content["current-context"].is_null() {
        content["current-context"] = json!("");
    }
    let failed = |error: std::io::Error| Error::plain(format!("open {}: {error}", file.display()));
    // A link stays one: what it leads to is written.
    let place = std::fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    private_file::write(&place, api::yaml::render(&content).as_bytes(), true).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::globals::Global;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn each_change_goes_where_its_entry_came_from() {
        let folder = std::env::temp_dir().join(format!("knarr-kubeconfig-{}", base::random::uuid()));
        std::fs::create_dir(&folder).unwrap();
        let (first, second) = (folder.join("a"), folder.join("b"));
        std::fs::write(&first, "current-context: x\nclusters:\n- {name: c, cluster: {server: s}}\n").unwrap();
        std::fs::write(&second, "contexts:\n- {name: x, context: {cluster: c}}\n- {name: z, context: {}}\n")
            .unwrap();
        let load = || Kubeconfig::of_files(vec![first.clone(), second.clone()], true, false).unwrap();
        let config = load();
        let mut edited = config.content.clone();
        edited["current-context"] = json!("z");
        edited["contexts"][0]["context"]["namespace"] = json!("n");
        edited["users"] = json!([{"name": "u", "user": {"client-key": folder.join("k")}}]);
        config.write(&edited, true).unwrap();
        assert_eq!(
            current(&first).unwrap(),
            json!({"apiVersion": "v1", "kind": "Config", "current-context": "z", "contexts": null,
                "clusters": [{"name": "c", "cluster": {"server": "s"}}], "users": [{"name": "u", "user": {"client-key": "k"}}]})
        );
        assert_eq!(
            current(&second).unwrap()["contexts"],
            json!([{"name": "x", "context": {"cluster": "c", "namespace": "n"}}, {"name": "z", "context": {}}])
        );
        assert_eq!(std::fs::metadata(&first).unwrap().permissions().mode() & 0o777, 0o600);
        let lock = folder.join("b.lock");
        std::fs::write(&lock, "").unwrap();
        let refused = load().write(&json!({}), false).unwrap_err().to_string();
        assert_eq!(refused, format!("error: open {}: file exists", lock.display()));
        assert!(!folder.join("a.lock").exists());
        let flags = Global { kubeconfig: Some(folder.join("none")), ..Global::default() };
        assert_eq!(Kubeconfig::load_raw(&flags).unwrap().default_file(), folder.join("none"));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
