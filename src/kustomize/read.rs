//! Files and folders: what may be read, from where, and how much.

use crate::error::{Error, Result};
use crate::resource::Resource;
use serde_json::Value;
use std::cell::{Cell, RefCell};
use std::io::Read;
use std::path::{Component, Path, PathBuf};

/// The most that is read of one file.
const FILE_BYTES: u64 = 64 << 20;
/// The most that one build reads.
const ALL_BYTES: u64 = 512 << 20;
/// How many folders may name one another in a row.
const NESTED: usize = 64;

/// How many kustomizations one build goes through: those that name each other twice could go on for ever.
const FOLDERS: usize = 10_000;

/// The names a kustomization may have.
const NAMES: [&str; 3] = ["kustomization.yaml", "kustomization.yml", "Kustomization"];

/// What one build shares: how much it may still read, and what there is to tell.
#[derive(Debug)]
pub(crate) struct Budget {
    root_only: bool,
    left: Cell<u64>,
    folders: Cell<usize>,
    warnings: RefCell<Vec<String>>,
}

impl Budget {
    pub(crate) fn new(root_only: bool) -> Self {
        Self {
            root_only,
            left: Cell::new(ALL_BYTES),
            folders: Cell::new(FOLDERS),
            warnings: RefCell::default(),
        }
    }

    pub(crate) fn warn(&self, text: impl Into<String>) {
        self.warnings.borrow_mut().push(text.into());
    }

    pub(crate) fn into_warnings(self) -> Vec<String> {
        self.warnings.into_inner()
    }
}

/// A folder with a kustomization, and those that led to it.
#[derive(Debug)]
pub(crate) struct Root<'b> {
    pub(crate) path: PathBuf,
    /// The folders that led here, the nearest last.
    before: Vec<PathBuf>,
    pub(crate) budget: &'b Budget,
}

impl<'b> Root<'b> {
    /// The folder that is built.
    pub(crate) fn first(folder: &Path, budget: &'b Budget) -> Result<Self> {
        let shown = folder.to_string_lossy();
        if is_repository(&shown) || is_page(&shown) {
            return Err(remote(&shown));
        }
        let path = confirm(folder)?;
        Ok(Self { path, before: Vec::new(), budget })
    }

    /// A folder that a kustomization names.
    pub(crate) fn below(&self, path: &str) -> Result<Self> {
        if path.is_empty() {
            return Err(Error::new("new root cannot be empty"));
        }
        if is_repository(path) || is_page(path) {
            return Err(remote(path));
        }
        if Path::new(path).is_absolute() {
            return Err(Error::new(format!("new root '{path}' cannot be absolute")));
        }
        let found = confirm(&clean(&self.path.join(path)))?;
        for visited in self.before.iter().chain([&self.path]) {
            if visited.starts_with(&found) {
                return Err(Error::new(format!(
                    "cycle detected: candidate root '{}' contains visited root '{}'",
                    found.display(),
                    visited.display()
                )));
            }
        }
        if self.before.len() >= NESTED {
            return Err(Error::new(format!("more than {NESTED} kustomizations name one another in a row")));
        }
        let Some(left) = self.budget.folders.get().checked_sub(1) else {
            return Err(Error::new(format!("more than {FOLDERS} kustomizations name one another")));
        };
        self.budget.folders.set(left);
        let before = self.before.iter().chain([&self.path]).cloned().collect();
        Ok(Self { path: found, before, budget: self.budget })
    }

    /// The text of the kustomization, and the name of its file.
    pub(crate) fn kustomization(&self) -> Result<(Vec<u8>, &'static str)> {
        let mut found = NAMES.into_iter().filter(|name| self.path.join(name).is_file());
        match (found.next(), found.next()) {
            (Some(name), None) => Ok((self.load(name)?, name)),
            (Some(_), Some(_)) => Err(Error::new(format!(
                "Found multiple kustomization files under: {}\n",
                self.path.display()
            ))),
            (None, _) => Err(Error::new(format!(
                "unable to find one of 'kustomization.yaml', 'kustomization.yml' or 'Kustomization' in directory '{}'",
                self.path.display()
            ))),
        }
    }

    /// A file's bytes.
    pub(crate) fn load(&self, path: &str) -> Result<Vec<u8>> {
        if is_page(path) {
            return Err(remote(path));
        }
        let whole = clean(&self.path.join(path));
        if self.budget.root_only {
            let found = resolve(&whole)?;
            if found.is_dir() {
                return Err(Error::new(format!("'{}' must resolve to a file", whole.display())));
            }
            if !found.starts_with(&self.path) {
                return Err(Error::new(format!(
                    "security; file '{}' is not in or below '{}'",
                    whole.display(),
                    self.path.display()
                )));
            }
            return self.read(&found);
        }
        self.read(&whole)
    }

    fn read(&self, path: &Path) -> Result<Vec<u8>> {
        let unreadable =
            |error: &std::io::Error| Error::new(format!("open {}: {}", path.display(), words(error)));
        let file = std::fs::File::open(path).map_err(|error| unreadable(&error))?;
        let kind = file.metadata().map_err(|error| unreadable(&error))?.file_type();
        if kind.is_dir() {
            return Err(Error::new(format!("read {}: is a directory", path.display())));
        }
        if !kind.is_file() {
            return Err(Error::new(format!("read {}: is no file", path.display())));
        }
        let mut bytes = Vec::new();
        let most = self.budget.left.get().min(FILE_BYTES);
        file.take(most + 1).read_to_end(&mut bytes).map_err(|error| unreadable(&error))?;
        let length = bytes.len() as u64;
        if length > most {
            return Err(Error::new(format!(
                "{} is too large: at most {} MiB are read of a file and {} MiB in all",
                path.display(),
                FILE_BYTES >> 20,
                ALL_BYTES >> 20
            )));
        }
        self.budget.left.set(self.budget.left.get() - length);
        Ok(bytes)
    }

    /// The objects of a file.
    pub(crate) fn objects(&self, path: &str) -> Result<Vec<Resource>> {
        let bytes = self.load(path)?;
        objects(&bytes).map_err(|error| {
            if error.malformed { Error::malformed(format!("{error} in File: {path}")) } else { error }
        })
    }
}

/// Objects of a text: lists are taken apart, what is empty is passed over.
pub(crate) fn objects(bytes: &[u8]) -> Result<Vec<Resource>> {
    let text = std::str::from_utf8(bytes)
        .map_err(|_| Error::malformed("MalformedYAMLError: yaml: invalid UTF-8"))?;
    let mut waiting = Vec::new();
    for document in api::yaml::plain_documents(text) {
        let document = document.map_err(|error| Error::malformed(format!("MalformedYAMLError: {error}")))?;
        if !document.repeated.is_empty() {
            return Err(Error::malformed(format!(
                "MalformedYAMLError: yaml: {}",
                document.repeated.join(", ")
            )));
        }
        waiting.push(document.value);
    }
    let mut found = Vec::new();
    let mut waiting = std::collections::VecDeque::from(waiting);
    while let Some(mut value) = waiting.pop_front() {
        let empty = match &value {
            Value::Null => true,
            Value::Object(fields) => fields.is_empty(),
            _ => false,
        };
        if empty {
            continue;
        }
        let is_list = value["kind"].as_str().is_some_and(|kind| kind.ends_with("List"));
        validate(&value)?;
        match value.as_object_mut().filter(|_| is_list).and_then(|fields| fields.remove("items")) {
            Some(Value::Array(items)) => waiting.extend(items),
            Some(Value::Null) => {}
            Some(other) => {
                let kind = value["kind"].as_str().unwrap_or_default();
                let found = kind_of(&other);
                return Err(Error::new(format!("expected array in {kind}/items, but found {found}")));
            }
            None => found.push(Resource::new(value)),
        }
    }
    Ok(found)
}

/// What an object has to have.
fn validate(object: &Value) -> Result<()> {
    if ["apiVersion", "kind", "metadata"].iter().all(|field| object.get(field).is_none()) {
        return Err(Error::new("missing Resource metadata"));
    }
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let kind = text("/kind");
    let missing = match kind {
        "" => "kind",
        _ if !kind.ends_with("List") && text("/metadata/name").is_empty() => "metadata.name",
        _ => return Ok(()),
    };
    let map = |field: &str| {
        let map = object.pointer(&format!("/metadata/{field}")).and_then(Value::as_object);
        let pairs = map.into_iter().flatten();
        let pairs: Vec<String> =
            pairs.map(|(key, value)| format!("{key}:{}", crate::resource::text_of(value))).collect();
        format!("map[{}]", pairs.join(" "))
    };
    Err(Error::new(format!(
        "missing {missing} in object {{{{{} {kind}}} {{{{{} {}}} {} {}}}}}",
        text("/apiVersion"),
        text("/metadata/name"),
        text("/metadata/namespace"),
        map("labels"),
        map("annotations")
    )))
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "list",
        Value::Object(_) => "map",
    }
}

/// What has to be loaded from elsewhere before it can be built.
fn remote(path: &str) -> Error {
    Error::new(format!(
        "{path:?} is somewhere else: only files and folders of this machine are built. Load it first (git clone, curl) and name the copy"
    ))
}

fn is_page(path: &str) -> bool {
    path.starts_with("http://") || path.starts_with("https://")
}

/// Whether a path means a repository to kustomize.
fn is_repository(path: &str) -> bool {
    let starts = ["git@", "git::", "ssh://", "git://", "file://", "github.com/", "github.com:", "gh:"];
    starts.iter().any(|start| path.starts_with(start))
        || path.contains("?ref=")
        || path.contains("?version=")
        || path.ends_with(".git")
        || path.contains(".git/")
}

/// An existing folder, links followed.
fn confirm(path: &Path) -> Result<PathBuf> {
    if path.as_os_str().is_empty() {
        return Err(Error::new(
            "must build at directory: not a valid directory: directory path cannot be empty",
        ));
    }
    let found =
        resolve(path).map_err(|error| error.within("must build at directory: not a valid directory"))?;
    if !found.is_dir() {
        let shown = path.display();
        return Err(Error::new(format!("must build at directory: '{shown}': file is not directory")));
    }
    Ok(found)
}

fn resolve(path: &Path) -> Result<PathBuf> {
    let whole = std::path::absolute(path).map_err(|error| Error::new(words(&error)))?;
    std::fs::canonicalize(&whole).map_err(|error| {
        let mut at = PathBuf::new();
        let missing = whole.components().find_map(|part| {
            at.push(part);
            std::fs::symlink_metadata(&at).is_err().then(|| at.clone())
        });
        Error::new(format!(
            "evalsymlink failure on '{}' : lstat {}: {}",
            path.display(),
            missing.as_ref().unwrap_or(&whole).display(),
            words(&error)
        ))
    })
}

/// A path without `.` and, as they are written, without `..`.
fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}

/// What the system said, without a number.
fn words(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    text.to_lowercase()
}
