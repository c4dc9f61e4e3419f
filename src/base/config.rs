//! Layered configuration: a file, the files of a folder beside it in their names' order, the
//! environment, then flags; the later wins. The same names everywhere: `--tls-san`, `KNARR_TLS_SAN`
//! and `tls-san:` are one setting. A mistake is reported with its file (or variable), key and reason.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A mistake in the configuration. To be reported to the person who wrote it; nothing retries.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file is no YAML mapping.
    #[error("{}: {reason}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the line where the parser knows it.
        reason: String,
    },
    /// A key nobody knows.
    #[error("{origin}: unknown setting {key:?}{hint}")]
    Unknown {
        /// The file or variable.
        origin: String,
        /// The key as written.
        key: String,
        /// A similar known key, as a ready phrase, or nothing.
        hint: String,
    },
    /// A key that is known, of something that there is not.
    #[error("{origin}: there is no setting {key:?} here: {reason}")]
    Refused {
        /// The file, variable or flag.
        origin: String,
        /// The key as written.
        key: String,
        /// Why, or what to do instead.
        reason: &'static str,
    },
    /// A value of the wrong type.
    #[error("{origin}: setting {key:?}: {reason}")]
    IllTyped {
        /// The file or variable.
        origin: String,
        /// The key as written.
        key: String,
        /// What was expected.
        reason: String,
    },
}

/// How a setting takes its values from text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// true or false.
    Flag,
    /// One text.
    Text,
    /// A whole number.
    Number,
    /// Several texts; in the environment and in flags separated by commas; a `key+` in a file appends.
    List,
    /// Several texts that may hold commas: one a flag, in the environment separated by spaces.
    Texts,
}

/// The settings that exist: name as in the file, and shape.
pub type Known = BTreeMap<&'static str, Shape>;

/// A name that others have for a setting, or for something that there is not.
#[derive(Clone, Copy, Debug)]
pub struct Other {
    /// As in a file.
    pub name: &'static str,
    /// How it takes its value, where it is no setting's other name.
    pub shape: Shape,
    /// What it stands for.
    pub meaning: Meaning,
}

/// What another name stands for.
#[derive(Clone, Copy, Debug)]
pub enum Meaning {
    /// The setting of this name.
    Same(&'static str),
    /// A setting with a value: of a list one more item, of texts with what is given behind it. For a flag, if it is set.
    With(&'static str, &'static str),
    /// What is so anyway.
    So,
    /// Nothing that there is, and why.
    Refused(&'static str),
}

/// Values by setting name, each with where it came from.
#[derive(Debug, Default)]
pub struct Layers {
    others: BTreeMap<&'static str, Other>,
    values: BTreeMap<String, (String, Value)>,
}

impl Layers {
    /// Layers that know other names as well.
    pub fn with(others: impl Iterator<Item = Other>) -> Self {
        Self { others: others.map(|other| (other.name, other)).collect(), ..Self::default() }
    }

    /// Reads `file` and the `*.yaml` files of the folder `<file>.d`; a missing file is empty.
    pub fn read_files(&mut self, known: &Known, file: &Path) -> Result<(), Error> {
        let mut paths = vec![file.to_owned()];
        let folder = PathBuf::from(format!("{}.d", file.display()));
        if let Ok(entries) = std::fs::read_dir(&folder) {
            let mut found: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
            found.retain(|path| path.extension().is_some_and(|ending| ending == "yaml"));
            found.sort();
            paths.extend(found);
        }
        paths.iter().try_for_each(|path| self.read_file(known, path))
    }

    fn read_file(&mut self, known: &Known, path: &Path) -> Result<(), Error> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(Error::Read { path: path.to_owned(), source }),
        };
        let syntax = |reason: String| Error::Syntax { path: path.to_owned(), reason };
        let value: Value = serde_yaml::from_str(&text).map_err(|error| syntax(error.to_string()))?;
        let settings = match value {
            Value::Null => Map::new(),
            Value::Object(map) => map,
            _ => return Err(syntax("must be a mapping of setting names to values".to_owned())),
        };
        for (key, value) in settings {
            self.set(&path.display().to_string(), known, &key, value)?;
        }
        Ok(())
    }

    /// Takes every `PREFIX_NAME` variable whose name is known; others with the prefix are left alone,
    /// as installers use the prefix too.
    pub fn read_environment(
        &mut self,
        known: &Known,
        prefix: &str,
        variables: impl Iterator<Item = (String, String)>,
    ) -> Result<(), Error> {
        for (name, text) in variables {
            let Some(rest) = name.strip_prefix(prefix) else { continue };
            let key = rest.to_ascii_lowercase().replace('_', "-");
            if known.contains_key(key.as_str()) || self.others.contains_key(key.as_str()) {
                self.set(&format!("environment variable {name}"), known, &key, Value::String(text))?;
            }
        }
        Ok(())
    }

    /// Sets one value from a flag.
    pub fn set_flag(&mut self, known: &Known, key: &str, value: Value) -> Result<(), Error> {
        self.set(&format!("flag --{key}"), known, key, value)
    }

    /// A setting's value, and where it came from.
    pub fn get(&self, key: &str) -> Option<(&str, &Value)> {
        self.values.get(key).map(|(origin, value)| (origin.as_str(), value))
    }

    /// Sets one value, from wherever `origin` says.
    pub fn set(&mut self, origin: &str, known: &Known, key: &str, value: Value) -> Result<(), Error> {
        let name = key.strip_suffix('+').unwrap_or(key);
        if let Some(other) = self.others.get(name).copied() {
            return self.set_other(origin, known, (key, other), value);
        }
        let Some(shape) = known.get(name) else {
            let hint = nearest(known, name).map(|near| format!(" (did you mean {near:?}?)"));
            return Err(Error::Unknown {
                origin: origin.to_owned(),
                key: key.to_owned(),
                hint: hint.unwrap_or_default(),
            });
        };
        let ill_typed = |reason| Error::IllTyped { origin: origin.to_owned(), key: key.to_owned(), reason };
        let mut value = shaped(*shape, value).map_err(ill_typed)?;
        if key.ends_with('+')
            && let (Some((_, Value::Array(before))), Value::Array(more)) = (self.values.get(name), &mut value)
        {
            more.splice(0..0, before.iter().cloned());
        }
        self.values.insert(name.to_owned(), (origin.to_owned(), value));
        Ok(())
    }

    fn set_other(
        &mut self,
        origin: &str,
        known: &Known,
        (key, other): (&str, Other),
        value: Value,
    ) -> Result<(), Error> {
        let ill_typed =
            |reason: String| Error::IllTyped { origin: origin.to_owned(), key: key.to_owned(), reason };
        let is_unset =
            other.shape == Shape::Flag && shaped(Shape::Flag, value.clone()) == Ok(Value::Bool(false));
        match other.meaning {
            Meaning::Same(name) => {
                let plus = if key.ends_with('+') { "+" } else { "" };
                self.set(origin, known, &format!("{name}{plus}"), value)
            }
            // What is not asked for is not there.
            Meaning::With(..) | Meaning::Refused(_) if is_unset => Ok(()),
            Meaning::Refused(reason) => {
                Err(Error::Refused { origin: origin.to_owned(), key: key.to_owned(), reason })
            }
            Meaning::So if is_unset => Err(ill_typed("it is so at all times".to_owned())),
            Meaning::So => shaped(other.shape, value).map(drop).map_err(ill_typed),
            Meaning::With(name, item) => {
                let text = match shaped(other.shape, value).map_err(ill_typed)? {
                    Value::String(text) => format!("{item}{text}"),
                    _ => item.to_owned(),
                };
                let is_list = matches!(known.get(name), Some(Shape::List | Shape::Texts));
                let (key, value) = match is_list {
                    true => (format!("{name}+"), Value::from(vec![text])),
                    false => (name.to_owned(), Value::String(text)),
                };
                self.set(origin, known, &key, value)
            }
        }
    }

    /// The merged settings as a typed struct with kebab-case field names and a default for each.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, Error> {
        let merged = self.values.iter().map(|(key, (_, value))| (key.clone(), value.clone()));
        serde_json::from_value(Value::Object(merged.collect()))
            .map_err(|error| self.blame::<T>(&error.to_string()))
    }

    /// Finds whose value the typed struct refuses: the one that it refuses alone.
    fn blame<T: DeserializeOwned>(&self, reason: &str) -> Error {
        let refused = |key: &str, value: &Value| {
            let alone = Map::from_iter([(key.to_owned(), value.clone())]);
            serde_json::from_value::<T>(Value::Object(alone)).err()
        };
        let guilty = self.values.iter().find_map(|(key, (origin, value))| {
            let error = refused(key, value)?;
            Some(Error::IllTyped { origin: origin.clone(), key: key.clone(), reason: error.to_string() })
        });
        guilty.unwrap_or_else(|| Error::IllTyped {
            origin: "configuration".to_owned(),
            key: String::new(),
            reason: reason.to_owned(),
        })
    }
}

fn shaped(shape: Shape, value: Value) -> Result<Value, String> {
    match (shape, value) {
        (Shape::Flag, Value::Bool(flag)) => Ok(Value::Bool(flag)),
        (Shape::Flag, Value::String(text)) => match text.as_str() {
            "true" | "1" => Ok(Value::Bool(true)),
            "false" | "0" | "" => Ok(Value::Bool(false)),
            _ => Err(format!("{text:?} is neither true nor false")),
        },
        (Shape::Flag, other) => Err(format!("{other} is neither true nor false")),
        (Shape::Number, Value::Number(number)) if number.is_u64() => Ok(Value::Number(number)),
        (Shape::Number, Value::String(text)) => {
            text.parse::<u64>().map(Value::from).map_err(|_| format!("{text:?} is not a whole number"))
        }
        (Shape::Number, other) => Err(format!("{other} is not a whole number")),
        (Shape::Text, Value::String(text)) => Ok(Value::String(text)),
        (Shape::Text, Value::Number(number)) => Ok(Value::String(number.to_string())),
        (Shape::Text, Value::Bool(flag)) => Ok(Value::String(flag.to_string())),
        (Shape::Text, other) => Err(format!("{other} is not a text")),
        (Shape::List, Value::String(text)) => {
            Ok(text.split(',').filter(|part| !part.is_empty()).map(|part| Value::from(part.trim())).collect())
        }
        (Shape::Texts, Value::String(text)) => Ok(text.split_whitespace().map(Value::from).collect()),
        (Shape::List | Shape::Texts, Value::Array(items)) => items
            .into_iter()
            .map(|item| shaped(Shape::Text, item))
            .collect::<Result<Vec<_>, _>>()
            .map(Value::Array),
        (Shape::List | Shape::Texts, other) => Err(format!("{other} is not a list of texts")),
    }
}

/// The known name with the fewest edits to `name`, if that is at most a third of its length.
fn nearest(known: &Known, name: &str) -> Option<&'static str> {
    let best = known.keys().map(|key| (edits(key, name), *key)).min()?;
    (best.0 <= name.len().div_ceil(3)).then_some(best.1)
}

fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let cost = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn known() -> Known {
        Known::from([
            ("tls-san", Shape::List),
            ("write-kubeconfig-mode", Shape::Text),
            ("debug", Shape::Flag),
        ])
    }

    #[test]
    fn later_layers_win_and_plus_appends() {
        let folder = std::env::temp_dir().join(format!("knarr-config-{}", std::process::id()));
        let file = folder.join("config.yaml");
        std::fs::create_dir_all(folder.join("config.yaml.d")).unwrap();
        std::fs::write(&file, "tls-san: [a]\nwrite-kubeconfig-mode: 600\n").unwrap();
        std::fs::write(folder.join("config.yaml.d/1.yaml"), "tls-san+: [b]\n").unwrap();
        let mut layers = Layers::default();
        layers.read_files(&known(), &file).unwrap();
        let variables =
            [("KNARR_DEBUG".to_owned(), "true".to_owned()), ("KNARR_OTHER".to_owned(), "x".to_owned())];
        layers.read_environment(&known(), "KNARR_", variables.into_iter()).unwrap();
        let value: Value = layers.decode().unwrap();
        assert_eq!(value, json!({"tls-san": ["a", "b"], "write-kubeconfig-mode": "600", "debug": true}));
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn others_names_are_understood_or_refused() {
        let other = |name, shape, meaning| Other { name, shape, meaning };
        let all = [
            other("names", Shape::Text, Meaning::Same("tls-san")),
            other("own-name", Shape::Flag, Meaning::With("tls-san", "own")),
            other("mode-of", Shape::Text, Meaning::With("write-kubeconfig-mode", "0")),
            other("safe", Shape::Flag, Meaning::So),
            other("fast", Shape::Flag, Meaning::Refused("nothing is")),
        ];
        let mut layers = Layers::with(all.into_iter());
        let mut set = |key: &str, value: Value| layers.set("file", &known(), key, value);
        set("names", json!("a,b")).unwrap();
        set("names+", json!(["c"])).unwrap();
        set("own-name", json!(true)).unwrap();
        set("mode-of", json!(640)).unwrap();
        set("safe", json!("true")).unwrap();
        set("fast", json!(false)).unwrap();
        let refused = |told: Result<(), Error>| told.unwrap_err().to_string();
        assert_eq!(refused(set("fast", json!(true))), "file: there is no setting \"fast\" here: nothing is");
        assert!(refused(set("safe", json!(false))).contains("it is so at all times"));
        assert!(refused(set("own-name", json!("maybe"))).contains("neither true nor false"));
        let value: Value = layers.decode().unwrap();
        assert_eq!(value, json!({"tls-san": ["a", "b", "c", "own"], "write-kubeconfig-mode": "0640"}));
    }

    #[test]
    fn mistakes_name_origin_key_and_reason() {
        let mut layers = Layers::default();
        let error = layers.set("/etc/knarr/config.yaml", &known(), "tls-sans", json!(["x"])).unwrap_err();
        assert_eq!(
            error.to_string(),
            r#"/etc/knarr/config.yaml: unknown setting "tls-sans" (did you mean "tls-san"?)"#
        );
        let error = layers.set_flag(&known(), "debug", json!("maybe")).unwrap_err();
        assert_eq!(error.to_string(), r#"flag --debug: setting "debug": "maybe" is neither true nor false"#);
    }
}
