//! The files of a folder, and the objects in them.

use base::hex;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The most that is read of one file, in bytes.
const MOST_BYTES: u64 = 16 << 20;
/// How deep folders are followed.
const DEPTH: usize = 8;
/// How many files there may be.
const MOST_FILES: usize = 2_000;
/// How long a name may be, in bytes; a ConfigMap's may have 253 with what is put before it.
const MOST_NAME: usize = 200;

pub(super) fn make(folder: &Path) -> std::io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// What there is in a folder and below.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) folders: Vec<PathBuf>,
    /// The manifests, by the names of their sets.
    pub(super) files: BTreeMap<String, File>,
}

/// A manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct File {
    pub(super) path: PathBuf,
    /// Another with `.skip` after its name lies beside it: it is to be left alone.
    pub(super) skipped: bool,
}

/// Hidden files are editors'.
pub(super) fn tree(folder: &Path) -> Tree {
    let mut tree = Tree::default();
    walk(folder, folder, 0, &mut tree);
    tree
}

fn walk(root: &Path, folder: &Path, depth: usize, tree: &mut Tree) {
    tree.folders.push(folder.to_owned());
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let visible = entries.filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'));
    let mut paths: Vec<PathBuf> = visible.map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            if depth < DEPTH {
                walk(root, &path, depth + 1, tree);
            }
        } else if tree.files.len() < MOST_FILES && is_manifest(&path) {
            let skipped = skip(&path).exists();
            tree.files.insert(name(root, &path), File { path, skipped });
        }
    }
}

fn is_manifest(path: &Path) -> bool {
    let kind = path.extension().and_then(|kind| kind.to_str()).unwrap_or_default();
    matches!(kind, "yaml" | "yml" | "json") && path.is_file()
}

fn skip(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".skip");
    name.into()
}

/// What a file's set is called: the file's path below the folder where that is a name for an object, else with a digest.
fn name(root: &Path, path: &Path) -> String {
    let below = path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned();
    let fits = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
    let plain = below.len() <= MOST_NAME
        && below.split('.').all(|part| {
            let ends = [part.chars().next(), part.chars().last()];
            part.chars().all(fits) && ends.iter().all(|end| end.is_some_and(|end| end != '-'))
        });
    if plain {
        return below;
    }
    let short: String = below.to_ascii_lowercase().chars().take(MOST_NAME).collect();
    let parts = short.split(|letter| !fits(letter)).map(|part| part.trim_matches('-'));
    let parts: Vec<&str> = parts.filter(|part| !part.is_empty()).collect();
    format!("{}-{}", parts.join("."), &hex::sha256(below.as_bytes())[..8]).trim_start_matches('-').to_owned()
}

fn bytes(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

impl File {
    /// What its content is known by; that of nothing if it cannot be read, or is to be left alone.
    pub(super) fn digest(&self) -> String {
        let bytes = if self.skipped { Ok(Vec::new()) } else { bytes(&self.path) };
        hex::sha256(&bytes.unwrap_or_default())
    }
}

/// The objects of a file in their order, but those first that others need; an error says what is wrong with it.
pub(super) fn read(path: &Path) -> Result<Vec<Value>, String> {
    let bytes = bytes(path).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(format!("it has more than {MOST_BYTES} bytes"));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| "it is not UTF-8".to_owned())?;
    let mut objects = Vec::new();
    for document in api::yaml::documents(text) {
        flatten(document.map_err(|error| error.to_string())?.value, &mut objects)?;
    }
    objects.sort_by_key(|object| match object["kind"].as_str() {
        Some("Namespace") => 0,
        Some("CustomResourceDefinition") => 1,
        _ => 2,
    });
    Ok(objects)
}

fn flatten(object: Value, into: &mut Vec<Value>) -> Result<(), String> {
    if object.is_null() {
        return Ok(());
    }
    for field in ["apiVersion", "kind"] {
        if object[field].as_str().is_none_or(str::is_empty) {
            return Err(format!("an object in it has no {field}"));
        }
    }
    if object["kind"].as_str().is_some_and(|kind| kind.ends_with("List")) && object["items"].is_array() {
        let items = object["items"].as_array().cloned().unwrap_or_default();
        return items.into_iter().try_for_each(|item| flatten(item, into));
    }
    if object["metadata"]["name"].as_str().is_none_or(str::is_empty) {
        return Err(format!("a {} in it has no name", object["kind"].as_str().unwrap_or_default()));
    }
    into.push(object);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_holds_manifests_under_names_that_objects_may_have() {
        let folder = std::env::temp_dir().join(format!("knarr-deployed-{}", std::process::id()));
        make(&folder.join("below")).unwrap();
        for name in
            ["web.yaml", "Web.yml", "b.json", "c.txt", ".d.yaml", "e.yaml", "e.yaml.skip", "below/web.yaml"]
        {
            fs::write(folder.join(name), "{}").unwrap();
        }
        let found = tree(&folder);
        assert_eq!(found.folders, [folder.clone(), folder.join("below")]);
        let (skipped, others): (Vec<_>, Vec<_>) = found.files.iter().partition(|(_, file)| file.skipped);
        let names: Vec<&str> = others.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(skipped.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["e.yaml"]);
        let below = format!("below.web.yaml-{}", &hex::sha256(b"below/web.yaml")[..8]);
        let large = format!("web.yml-{}", &hex::sha256(b"Web.yml")[..8]);
        assert_eq!(names, ["b.json", &below, "web.yaml", &large]);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_others_need_comes_first() {
        let path = std::env::temp_dir().join(format!("knarr-deployed-{}.yaml", std::process::id()));
        let of = |text: &str| {
            fs::write(&path, text).unwrap();
            read(&path)
                .map(|found| found.iter().map(|one| one["metadata"]["name"].to_string()).collect::<String>())
        };
        let object = |kind: &str, name: &str| {
            format!("---\napiVersion: v1\nkind: {kind}\nmetadata: {{name: {name}}}\n")
        };
        let list =
            "---\napiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: Pod, metadata: {name: p}}]\n";
        let text = [
            object("Web", "w"),
            list.to_owned(),
            object("CustomResourceDefinition", "d"),
            object("Namespace", "s"),
        ];
        assert_eq!(of(&text.concat()).unwrap(), "\"s\"\"d\"\"w\"\"p\"");
        assert_eq!(of("# nothing\n---\n").unwrap(), "");
        assert_eq!(of("kind: Pod").unwrap_err(), "an object in it has no apiVersion");
        assert_eq!(of("{apiVersion: v1, kind: Pod}").unwrap_err(), "a Pod in it has no name");
        assert!(of("a: [").unwrap_err().starts_with("yaml: line "));
        fs::remove_file(&path).unwrap();
    }
}
