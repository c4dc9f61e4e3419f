//! `kubectl create configmap`, and what it shares with secrets: files, literals and files of variables.

use super::{Made, Making};
use crate::error::Error;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

/// The most that is read of one file: more fits into no object.
const FILE_BYTES: u64 = 4 << 20;

/// Files with what keys have for values.
#[derive(Args, Clone)]
pub(super) struct FromFiles {
    /// A file, KEY=FILE, or a folder of files
    #[arg(long, value_name = "[KEY=]FILE")]
    from_file: Vec<String>,
    /// Put a hash of the content behind the name
    #[arg(long)]
    pub(super) append_hash: bool,
}

/// Where keys and their values come from.
#[derive(Args)]
pub(super) struct Sources {
    #[command(flatten)]
    pub(super) files: FromFiles,
    /// KEY=VALUE
    #[arg(long, value_name = "KEY=VALUE")]
    from_literal: Vec<String>,
    /// A file of lines KEY=VALUE
    #[arg(long, value_name = "FILE")]
    from_env_file: Vec<String>,
}

#[derive(Args)]
pub(super) struct ConfigMap {
    #[command(flatten)]
    making: Making,
    #[command(flatten)]
    sources: Sources,
}

impl ConfigMap {
    pub(super) fn build(&self) -> Result<Made<'_>, Error> {
        let name = self.making.name("configmap")?;
        let (mut text, mut binary) = (Map::new(), Map::new());
        for (key, bytes) in self.sources.read("ConfigMap", name)? {
            match String::from_utf8(bytes) {
                Ok(value) => text.insert(key, json!(value)),
                Err(other) => binary.insert(key, json!(STANDARD.encode(other.as_bytes()))),
            };
        }
        let mut object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
        let mut hashed = json!({"kind": "ConfigMap", "name": name, "data": if text.is_empty() { Value::Null } else { json!(text) }});
        if !text.is_empty() {
            object["data"] = Value::Object(text);
        }
        if !binary.is_empty() {
            hashed["binaryData"] = json!(binary);
            object["binaryData"] = Value::Object(binary);
        }
        if self.sources.files.append_hash {
            object["metadata"]["name"] = json!(format!("{name}-{}", kustomize::suffix(&hashed)));
        }
        Ok(Made::new(&self.making, object, "failed to create configmap: "))
    }
}

impl FromFiles {
    /// All keys with their values; a key may come once.
    pub(super) fn read(&self, kind: &str, name: &str) -> Result<BTreeMap<String, Vec<u8>>, Error> {
        Sources { files: self.clone(), from_literal: Vec::new(), from_env_file: Vec::new() }.read(kind, name)
    }
}

impl Sources {
    /// All keys with their values; a key may come once.
    pub(super) fn read(&self, kind: &str, name: &str) -> Result<BTreeMap<String, Vec<u8>>, Error> {
        let has_others = !self.files.from_file.is_empty() || !self.from_literal.is_empty();
        if has_others && !self.from_env_file.is_empty() {
            return Err(Error::plain("from-env-file cannot be combined with from-file or from-literal"));
        }
        let mut all = BTreeMap::new();
        let mut put = |key: &str, value: Vec<u8>| {
            if let Some(why) = wrong_key(key) {
                return Err(Error::plain(format!("{key:?} is not a valid key name for a {kind}: {why}")));
            }
            match all.insert(key.to_owned(), value) {
                None => Ok(()),
                Some(_) => Err(Error::plain(format!(
                    "cannot add key {key:?}, another key by that name already exists in Data for {kind} {name:?}"
                ))),
            }
        };
        for source in &self.files.from_file {
            files(source)?.into_iter().try_for_each(|(key, bytes)| put(&key, bytes))?;
        }
        for literal in &self.from_literal {
            let Some((key, value)) = literal.split_once('=').filter(|(key, _)| !key.is_empty()) else {
                return Err(Error::plain(format!("invalid literal source {literal}, expected key=value")));
            };
            put(key, unquoted(value).as_bytes().to_vec())?;
        }
        for path in &self.from_env_file {
            let text = String::from_utf8(bytes(Path::new(path))?)
                .map_err(|_| Error::plain(format!("env file {path} contains invalid utf8 bytes")))?;
            for (key, value) in variables(&text)? {
                put(&key, value.into_bytes())?;
            }
        }
        Ok(all)
    }
}

fn unquoted(value: &str) -> &str {
    for quote in ['\'', '"'] {
        if value.len() > 1 && value.starts_with(quote) && value.ends_with(quote) {
            return &value[1..value.len() - 1];
        }
    }
    value
}

fn wrong_key(key: &str) -> Option<&'static str> {
    let fits = |sign: char| sign.is_ascii_alphanumeric() || "-_.".contains(sign);
    match key {
        "" => Some("a valid config key must not be empty"),
        "." | ".." => Some("it may not be '.' or '..'"),
        _ if key.len() > 253 => Some("must be no more than 253 characters"),
        _ if !key.chars().all(fits) => Some(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
        ),
        _ => None,
    }
}

fn bytes(path: &Path) -> Result<Vec<u8>, Error> {
    let shown = path.display();
    let mut content = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(FILE_BYTES).read_to_end(&mut content));
    match read {
        Ok(_) => Ok(content),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(Error::plain(format!("error reading {shown}: no such file or directory")))
        }
        Err(error) => Err(Error::plain(format!("error reading {shown}: {error}"))),
    }
}

/// One file, or the files of a folder whose names can be keys.
fn files(source: &str) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let (key, path) = match source.split_once('=') {
        Some(("", path)) => return Err(Error::plain(format!("key name for file path {path} missing"))),
        Some((key, "")) => return Err(Error::plain(format!("file path for key name {key} missing"))),
        Some((_, path)) if path.contains('=') => {
            return Err(Error::plain("key names or file paths cannot contain '='"));
        }
        Some((key, path)) => (Some(key), path),
        None => (None, source),
    };
    let path = Path::new(path);
    if !path.is_dir() {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        return Ok(vec![(key.unwrap_or(&name).to_owned(), bytes(path)?)]);
    }
    if key.is_some() {
        return Err(Error::plain("cannot give a key name for a directory path"));
    }
    let failed =
        |error: std::io::Error| Error::plain(format!("error listing files in {}: {error}", path.display()));
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type().map_err(failed)?.is_file() && wrong_key(&name).is_none() {
            found.push((name, bytes(&entry.path())?));
        }
    }
    Ok(found)
}

/// Lines `KEY=VALUE`; a line `KEY` takes the variable of this process, if there is one.
fn variables(text: &str) -> Result<Vec<(String, String)>, Error> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = text.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut all = Vec::new();
    for line in lines {
        let (key, value) = line.split_once('=').map_or((line, None), |(key, value)| (key, Some(value)));
        named(key)?;
        let value = value.map(str::to_owned).or_else(|| std::env::var(key).ok());
        all.extend(value.map(|value| (key.to_owned(), value)));
    }
    Ok(all)
}

/// Refuses what no variable can be called.
pub(in crate::commands) fn named(key: &str) -> Result<(), Error> {
    let fits = |sign: char| sign.is_ascii_alphanumeric() || "-._".contains(sign);
    let is_digit = |sign: char| sign.is_ascii_digit();
    if !key.is_empty() && !key.starts_with(is_digit) && key.chars().all(fits) {
        return Ok(());
    }
    Err(Error::plain(format!(
        "{key:?} is not a valid key name: a valid environment variable name must consist of alphabetic characters, digits, '_', '-', or '.', and must not start with a digit (e.g. 'my.env-name',  or 'MY_ENV.NAME',  or 'MyEnvName1', regex used for validation is '[-._a-zA-Z][-._a-zA-Z0-9]*')"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_kubernetes_tools() {
        assert_eq!(
            kustomize::suffix(&json!({"kind": "ConfigMap", "name": "c1", "data": {"a": "b"}})),
            "522f9g5kh5"
        );
    }

    #[test]
    fn variables_stand_one_a_line() {
        let read = variables("\u{feff}A=1\n# no\n\n  B=x=y\nNOT_SET_ANYWHERE_HERE\n");
        let wanted = [("A".to_owned(), "1".to_owned()), ("B".to_owned(), "x=y".to_owned())];
        assert_eq!(read.unwrap(), wanted);
        for wrong in ["1A=b", "apiVersion: v1", "=x"] {
            assert!(variables(wrong).unwrap_err().to_string().contains("is not a valid key name"), "{wrong}");
        }
    }
}
