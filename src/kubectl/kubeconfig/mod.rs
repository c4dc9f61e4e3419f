//! Kubeconfig files: found, merged as kubectl merges them, and resolved to one server and user.

mod writing;

use crate::args::Global;
use crate::error::Error;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// knarr's own, for who has no other.
const OWN: &str = "/etc/knarr/knarr.yaml";

/// The lists of a kubeconfig, and the field that holds each entry's content.
pub(crate) const LISTS: [(&str, &str); 3] =
    [("clusters", "cluster"), ("contexts", "context"), ("users", "user")];

/// The merged configuration.
pub(crate) struct Kubeconfig {
    /// The whole, in the form of a file.
    pub(crate) content: Value,
    /// The files it came from, in the order of their precedence.
    pub(crate) files: Vec<PathBuf>,
    /// Of every entry, by list and name, its file.
    origins: BTreeMap<(String, String), PathBuf>,
}

/// Which files are read: `--kubeconfig`, `KUBECONFIG`, `~/.kube/config`, or knarr's own.
fn candidates(global: &Global) -> (Vec<PathBuf>, bool) {
    if let Some(path) = &global.kubeconfig {
        return (vec![path.clone()], true);
    }
    if let Some(list) = std::env::var_os("KUBECONFIG").filter(|list| !list.is_empty()) {
        return (std::env::split_paths(&list).filter(|path| !path.as_os_str().is_empty()).collect(), false);
    }
    let own = PathBuf::from(OWN);
    match std::env::var_os("HOME").map(|home| Path::new(&home).join(".kube/config")) {
        Some(home) if home.exists() || !own.exists() => (vec![home], false),
        _ => (vec![own], false),
    }
}

impl Kubeconfig {
    /// As requests are made by: paths are made whole.
    pub(crate) fn load(global: &Global) -> Result<Self, Error> {
        let (files, required) = candidates(global);
        Self::of_files(files, required, true)
    }

    /// As the files say it, which need not be there yet.
    pub(crate) fn load_raw(global: &Global) -> Result<Self, Error> {
        Self::of_files(candidates(global).0, false, false)
    }

    fn of_files(files: Vec<PathBuf>, required: bool, whole_paths: bool) -> Result<Self, Error> {
        let mut content = json!({"apiVersion": "v1", "kind": "Config"});
        let mut origins = BTreeMap::new();
        for path in &files {
            match std::fs::read_to_string(path) {
                Ok(text) => {
                    let mut read = read(path, &text)?;
                    if whole_paths {
                        let whole = std::path::absolute(path).unwrap_or_else(|_| path.clone());
                        make_whole(&mut read, whole.parent().unwrap_or(Path::new("/")));
                    }
                    for (list, _) in LISTS {
                        for name in names(&read, list) {
                            origins.entry((list.to_owned(), name)).or_insert_with(|| path.clone());
                        }
                    }
                    merge(&mut content, read);
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound && !required => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    return Err(Error::plain(format!("stat {}: no such file or directory", path.display())));
                }
                Err(error) => {
                    let said = crate::connection::unreadable(&path.display().to_string(), &error);
                    return Err(Error::plain(format!(
                        "error loading config file {:?}: {said}",
                        path.display()
                    )));
                }
            }
        }
        for (list, _) in LISTS {
            if content[list].is_null() {
                content[list] = json!([]);
            }
        }
        sort(&mut content);
        Ok(Self { content, files, origins })
    }

    /// A configuration that is of no file.
    pub(crate) fn of_content(content: Value) -> Self {
        Self { content, files: Vec::new(), origins: BTreeMap::new() }
    }

    /// Nothing was found.
    pub(crate) fn is_empty(&self) -> bool {
        let none = |(list, _): (&str, &str)| self.content[list].as_array().is_none_or(Vec::is_empty);
        LISTS.into_iter().all(none) && self.content["current-context"].as_str().is_none_or(str::is_empty)
    }

    /// The name of the context in use.
    pub(crate) fn context_name<'a>(&'a self, global: &'a Global) -> &'a str {
        global
            .context
            .as_deref()
            .unwrap_or_else(|| self.content["current-context"].as_str().unwrap_or_default())
    }

    /// An entry's content, such as the `cluster` of the cluster of this name.
    pub(crate) fn entry(&self, list: &str, name: &str) -> Option<&Value> {
        let field = LISTS.iter().find(|(known, _)| *known == list)?.1;
        let items = self.content[list].as_array()?;
        items.iter().find(|item| item["name"] == name).map(|item| &item[field])
    }

    /// The context in use, which may be none where flags say everything.
    pub(crate) fn context(&self, global: &Global) -> Result<Value, Error> {
        let name = self.context_name(global);
        match self.entry("contexts", name) {
            Some(context) => Ok(context.clone()),
            None => Ok(Value::Null),
        }
    }
}

/// The names of a list's entries.
pub(crate) fn names(content: &Value, list: &str) -> Vec<String> {
    let items = content[list].as_array().into_iter().flatten();
    items.filter_map(|item| item["name"].as_str()).map(str::to_owned).collect()
}

/// Entries by their names, as kubectl shows and writes them.
fn sort(content: &mut Value) {
    for (list, _) in LISTS {
        if let Some(items) = content.get_mut(list).and_then(Value::as_array_mut) {
            items.sort_by(|left, right| left["name"].as_str().cmp(&right["name"].as_str()));
        }
    }
}

fn read(path: &Path, text: &str) -> Result<Value, Error> {
    let unreadable =
        |error: String| Error::plain(format!("error loading config file {:?}: {error}", path.display()));
    let content = api::yaml::first(text.as_bytes()).map_err(|error| unreadable(error.to_string()))?.value;
    match content {
        Value::Null => Ok(json!({})),
        Value::Object(_) => {
            let is_list = |(list, _): &(&str, &str)| content[*list].is_array() || content[*list].is_null();
            match LISTS.iter().find(|list| !is_list(list)) {
                Some((list, _)) => Err(unreadable(format!("{list} is no list"))),
                None => Ok(content),
            }
        }
        _ => Err(unreadable("this is no Config".to_owned())),
    }
}

/// The fields of entries that hold paths.
pub(crate) const PATHS: [&str; 4] =
    ["certificate-authority", "client-certificate", "client-key", "tokenFile"];

/// Paths in a kubeconfig are relative to it.
fn make_whole(content: &mut Value, folder: &Path) {
    for (list, field) in LISTS {
        let items = content.get_mut(list).and_then(Value::as_array_mut);
        for item in items.into_iter().flatten() {
            for key in PATHS {
                let known = item.get(field).and_then(|entry| entry[key].as_str());
                if let Some(file) = known.filter(|file| !file.is_empty()) {
                    item[field][key] = json!(folder.join(file));
                }
            }
        }
    }
}

/// The first file that names an entry or setting decides.
fn merge(into: &mut Value, from: Value) {
    let Value::Object(from) = from else { return };
    for (key, value) in from {
        match (&mut into[&key], value) {
            (Value::Array(known), Value::Array(more)) => {
                for item in more {
                    if !known.iter().any(|one| one["name"] == item["name"]) {
                        known.push(item);
                    }
                }
            }
            (place, value) if place.is_null() || *place == json!("") => *place = value,
            _ => {}
        }
    }
}

/// The bytes of `<key>-data`, or of the file that `<key>` names.
pub(crate) fn material(entry: &Value, key: &str) -> Result<Option<Vec<u8>>, Error> {
    if let Some(data) = entry[&format!("{key}-data")].as_str().filter(|data| !data.is_empty()) {
        let bytes = STANDARD.decode(data.trim());
        return bytes.map(Some).map_err(|error| Error::plain(format!("{key}-data is not base64: {error}")));
    }
    match entry[key].as_str().filter(|path| !path.is_empty()) {
        Some(path) => std::fs::read(path)
            .map(Some)
            .map_err(|error| Error::plain(format!("unable to read {key} {path}: {error}"))),
        None => Ok(None),
    }
}

/// Without what nobody should see over a shoulder.
pub(crate) fn redacted(mut content: Value) -> Value {
    let hide = |entry: &mut Map<String, Value>| {
        for (key, value) in entry.iter_mut() {
            match key.as_str() {
                "certificate-authority-data" | "client-certificate-data" | "client-key-data" => {
                    *value = json!("DATA+OMITTED");
                }
                "token" | "password" if *value != json!("") => *value = json!("REDACTED"),
                _ => {}
            }
        }
    };
    for (list, field) in LISTS {
        let items = content.get_mut(list).and_then(Value::as_array_mut);
        let entries = items.into_iter().flatten().filter_map(|item| item.get_mut(field)?.as_object_mut());
        entries.for_each(hide);
    }
    content
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_file_decides() {
        let mut content = json!({"current-context": "", "clusters": null});
        merge(
            &mut content,
            json!({"current-context": "a", "clusters": [{"name": "x", "cluster": {"server": "1"}}]}),
        );
        merge(
            &mut content,
            json!({"current-context": "b", "clusters": [{"name": "x", "cluster": {"server": "2"}}, {"name": "y"}]}),
        );
        assert_eq!(
            content,
            json!({"current-context": "a", "clusters": [{"name": "x", "cluster": {"server": "1"}}, {"name": "y"}]})
        );
    }

    #[test]
    fn secrets_are_hidden() {
        let content = json!({"users": [{"name": "u", "user": {"client-key-data": "QQ==", "token": "t", "username": "n"}}]});
        assert_eq!(
            redacted(content),
            json!({"users": [{"name": "u", "user": {"client-key-data": "DATA+OMITTED", "token": "REDACTED", "username": "n"}}]})
        );
    }
}
