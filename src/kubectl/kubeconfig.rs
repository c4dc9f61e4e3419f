//! Kubeconfig files: found, merged as kubectl merges them, and resolved to one server and user.

use crate::args::Global;
use crate::error::Error;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
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
}

/// Which files are read: `--kubeconfig`, `KUBECONFIG`, `~/.kube/config`, or knarr's own.
fn candidates(global: &Global) -> (Vec<PathBuf>, bool) {
    if let Some(path) = &global.kubeconfig {
        return (vec![path.clone()], true);
    }
    if let Some(list) = std::env::var_os("KUBECONFIG").filter(|list| !list.is_empty()) {
        return (std::env::split_paths(&list).filter(|path| !path.as_os_str().is_empty()).collect(), false);
    }
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".kube/config"));
    (vec![home.filter(|path| path.exists()).unwrap_or_else(|| OWN.into())], false)
}

impl Kubeconfig {
    pub(crate) fn load(global: &Global) -> Result<Self, Error> {
        let (files, required) = candidates(global);
        let mut content = json!({"apiVersion": "v1", "kind": "Config", "preferences": {}});
        for path in &files {
            match std::fs::read_to_string(path) {
                Ok(text) => merge(&mut content, read(path, &text)?),
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
        Ok(Self { content, files })
    }

    /// A configuration that is of no file.
    pub(crate) fn of_content(content: Value) -> Self {
        Self { content, files: Vec::new() }
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

fn read(path: &Path, text: &str) -> Result<Value, Error> {
    let unreadable =
        |error: String| Error::plain(format!("error loading config file {:?}: {error}", path.display()));
    let read = api::yaml::first(text.as_bytes()).map_err(|error| unreadable(error.to_string()))?;
    let mut content = read.value;
    let folder = path.parent().unwrap_or(Path::new("."));
    // Paths in a kubeconfig are relative to it.
    for (list, field) in LISTS {
        let items = content.get_mut(list).and_then(Value::as_array_mut);
        for item in items.into_iter().flatten() {
            for key in ["certificate-authority", "client-certificate", "client-key", "tokenFile"] {
                let known = item.get(field).and_then(|entry| entry[key].as_str());
                if let Some(file) = known.filter(|file| !file.is_empty()) {
                    item[field][key] = json!(folder.join(file));
                }
            }
        }
    }
    Ok(content)
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
                "token" | "password" => *value = json!("REDACTED"),
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
