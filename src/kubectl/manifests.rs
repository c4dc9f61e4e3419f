//! Files with objects: YAML of several documents, JSON, lists, folders, standard input.

use crate::args::Files;
use crate::commands;
use crate::discovery::Resource;
use crate::error::Error;
use crate::globals::fits;
use crate::session::Session;
use api::selector::Labels;
use serde_json::{Value, json};
use std::io::Read;
use std::path::{Path, PathBuf};

/// The most that is read of one file.
const FILE_BYTES: usize = 64 << 20;

/// An object and the file it stands in.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) object: Value,
    pub(crate) source: String,
}

/// Objects in the order of their files, and why other files or parts of them cannot be read.
pub(crate) type Documents = (Vec<Document>, Vec<Error>);

/// Reads all objects in the order of the files, for commands that do nothing unless all can be read.
pub(crate) fn read(files: &Files) -> Result<Vec<Document>, Error> {
    let (documents, unread) = each(files)?;
    match unread.into_iter().next() {
        Some(error) => Err(error),
        None => Ok(documents),
    }
}

/// Reads what can be read, for commands that do as much as they can.
pub(crate) fn each(files: &Files) -> Result<Documents, Error> {
    let (mut documents, mut unread) = (Vec::new(), Vec::new());
    if let Some(folder) = &files.kustomize {
        if !files.filename.is_empty() {
            return Err(Error::plain("only one of -f or -k can be specified"));
        }
        if files.recursive {
            return Err(Error::plain("the -k flag can't be used with -f or -R"));
        }
        let source = folder.to_string_lossy();
        let objects = commands::kustomize::objects(folder, &kustomize::Options::default())?;
        documents.extend(objects.into_iter().map(|object| Document { object, source: source.to_string() }));
    }
    for path in &found(&files.filename)? {
        if path == Path::new("-") {
            let text = limited(std::io::stdin(), "STDIN");
            add("STDIN", text, (&mut documents, &mut unread));
            continue;
        }
        let shown = path.to_string_lossy();
        if shown.starts_with("http://") || shown.starts_with("https://") {
            let text = crate::download::text(&shown, FILE_BYTES);
            add(&shown, text, (&mut documents, &mut unread));
            continue;
        }
        for file in expand(path, files.recursive)? {
            let shown = file.to_string_lossy();
            let text = std::fs::File::open(&file).map_err(|error| unreadable(&file, &error));
            let text = text.and_then(|text| limited(text, &shown));
            add(&shown, text, (&mut documents, &mut unread));
        }
    }
    if documents.is_empty() && unread.is_empty() {
        return Err(Error::plain(match files.is_empty() {
            true => "must specify one of -f and -k",
            false => "no objects passed to apply",
        }));
    }
    Ok((documents, unread))
}

/// Adds the objects of a text, or why there are none; behind what cannot be read of it nothing is.
fn add(
    source: &str,
    text: Result<String, Error>,
    (documents, unread): (&mut Vec<Document>, &mut Vec<Error>),
) {
    match text {
        Ok(text) => {
            let (read, failed) = parse(source, &text);
            documents.extend(read);
            unread.extend(failed);
        }
        Err(error) => unread.push(error),
    }
}

/// What a file or standard input (`-`) holds, as it is.
pub(crate) fn bytes(path: &Path) -> Result<Vec<u8>, Error> {
    if path == Path::new("-") {
        return limited(std::io::stdin(), "STDIN").map(String::into_bytes);
    }
    let file = std::fs::File::open(path).map_err(|error| unreadable(path, &error))?;
    limited(file, &path.to_string_lossy()).map(String::into_bytes)
}

/// What does not go together with `--raw`.
pub(crate) fn raw_flags(files: &Files, path: &str, output: bool) -> Result<(), Error> {
    let url = |file: &PathBuf| file.starts_with("http:") || file.starts_with("https:");
    Err(Error::plain(if files.filename.len() > 1 {
        "--raw can only use a single local file or stdin".to_owned()
    } else if files.filename.iter().any(url) {
        "--raw cannot read from a url".to_owned()
    } else if files.recursive {
        "--raw and --recursive are mutually exclusive".to_owned()
    } else if output {
        "--raw and --output are mutually exclusive".to_owned()
    } else if !path.starts_with('/') {
        format!("--raw must be a valid URL path: parse {path:?}: invalid URI for request")
    } else {
        return Ok(());
    }))
}

fn limited(from: impl Read, name: &str) -> Result<String, Error> {
    let mut text = String::new();
    let read = from.take(u64::try_from(FILE_BYTES).unwrap_or(u64::MAX)).read_to_string(&mut text);
    read.map_err(|error| Error::plain(format!("cannot read {name}: {error}")))?;
    Ok(text)
}

fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::NotFound => Error::plain(format!("the path {:?} does not exist", path.display())),
        _ => Error::plain(format!("cannot read {}: {error}", path.display())),
    }
}

/// The files that are named, also by patterns; all of those that there are not are told.
fn found(names: &[PathBuf]) -> Result<Vec<PathBuf>, Error> {
    let (mut all, mut missing) = (Vec::new(), Vec::new());
    for name in names {
        let text = name.to_string_lossy();
        let is_elsewhere = text == "-" || text.starts_with("http://") || text.starts_with("https://");
        if is_elsewhere || name.exists() {
            all.push(name.clone());
            continue;
        }
        let matching = matching(name);
        if matching.is_empty() {
            missing.push(Error::plain(format!("the path {:?} does not exist", name.display())));
        }
        all.extend(matching);
    }
    // Several are told without the word before them.
    match missing.len() {
        0 => Ok(all),
        1 => Err(missing.remove(0)),
        _ => {
            missing.iter().for_each(|error| eprintln!("{}", error.message()));
            Err(Error::Said(1))
        }
    }
}

/// What a pattern with `*`, `?` and `[a-c]` stands for, in order.
fn matching(pattern: &Path) -> Vec<PathBuf> {
    let mut all = vec![PathBuf::new()];
    for part in pattern.components() {
        let text = part.as_os_str().to_string_lossy();
        if !text.contains(['*', '?', '[']) {
            all = all.into_iter().map(|path| path.join(part)).filter(|path| path.exists()).collect();
            continue;
        }
        let mut next = Vec::new();
        for folder in all {
            let place = if folder.as_os_str().is_empty() { Path::new(".") } else { &folder };
            let entries = std::fs::read_dir(place).into_iter().flatten().flatten();
            let names = entries.map(|entry| entry.file_name());
            let mut names: Vec<_> = names.filter(|name| fits(&text, &name.to_string_lossy())).collect();
            names.sort();
            next.extend(names.into_iter().map(|name| folder.join(name)));
        }
        all = next;
    }
    all
}

/// A file as it is; of a folder the files that can hold objects, by name.
fn expand(path: &Path, recursive: bool) -> Result<Vec<PathBuf>, Error> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = std::fs::read_dir(path).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
    let mut entries: Vec<PathBuf> =
        entries.map_err(|error| unreadable(path, &error))?.into_iter().map(|entry| entry.path()).collect();
    entries.sort();
    let mut files = Vec::new();
    for entry in entries {
        let kind = entry.extension().and_then(|kind| kind.to_str()).unwrap_or_default().to_owned();
        if entry.is_dir() {
            if recursive {
                files.extend(expand(&entry, true)?);
            }
        } else if matches!(kind.as_str(), "json" | "yaml" | "yml") {
            files.push(entry);
        }
    }
    Ok(files)
}

fn parse(source: &str, text: &str) -> Documents {
    let (mut documents, mut unread) = (Vec::new(), Vec::new());
    for document in api::yaml::documents(text) {
        match document {
            Ok(document) => unread.extend(flatten(document.value, source, &mut documents).err()),
            Err(error) => {
                let why = format!("error parsing {source}: error converting YAML to JSON: {error}");
                unread.push(Error::plain(why));
                break;
            }
        }
    }
    (documents, unread)
}

fn flatten(object: Value, source: &str, into: &mut Vec<Document>) -> Result<(), Error> {
    if object.is_null() {
        return Ok(());
    }
    if !object.is_object() {
        return Err(Error::plain(format!("error parsing {source}: a document is no object")));
    }
    if object["kind"].as_str().is_some_and(|kind| kind.ends_with("List")) && object["items"].is_array() {
        let items = object["items"].as_array().cloned().unwrap_or_default();
        return items.into_iter().try_for_each(|item| flatten(item, source, into));
    }
    for field in ["apiVersion", "kind"] {
        if object[field].as_str().is_none_or(str::is_empty) {
            return Err(Error::plain(format!(
                "error validating {source:?}: error validating data: {field} not set"
            )));
        }
    }
    into.push(Document { object, source: source.to_owned() });
    Ok(())
}

/// Leaves the objects that have the labels.
pub(crate) fn select(documents: &mut Vec<Document>, selector: &Labels) {
    documents.retain(|document| {
        let labels = &document.object["metadata"]["labels"];
        selector.matches_with(|key| labels.get(key).map(|value| value.as_str().unwrap_or_default()))
    });
}

/// The resource of an object, and the object with the namespace it goes to.
pub(crate) async fn locate(session: &Session, document: &Document) -> Result<(Resource, Value), Error> {
    let object = &document.object;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (api_version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
    let given = text(&object["metadata"]["namespace"]);
    let Some(resource) = session.resource_of(&api_version, &kind).await? else {
        let name = text(&object["metadata"]["name"]);
        return Err(Error::plain(format!(
            "resource mapping not found for name: {name:?} namespace: {given:?} from {:?}: no matches for kind {kind:?} in version {api_version:?}\nensure CRDs are installed first",
            document.source
        )));
    };
    let mut object = object.clone();
    if resource.namespaced {
        if session.namespace_given && !given.is_empty() && given != session.namespace {
            return Err(Error::plain(format!(
                "the namespace from the provided object {given:?} does not match the namespace {:?}. You must pass '--namespace={given}' to perform this operation.",
                session.namespace
            )));
        }
        if given.is_empty() {
            object["metadata"]["namespace"] = json!(session.namespace);
        }
    }
    Ok((resource.clone(), object))
}

/// The resource of an object as far as the object itself says: for commands that ask no server.
pub(crate) fn unasked(object: &Value) -> Resource {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (api_version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    Resource {
        group: group.to_owned(),
        version: version.to_owned(),
        plural: format!("{}s", kind.to_lowercase()),
        singular: kind.to_lowercase(),
        short_names: Vec::new(),
        categories: Vec::new(),
        verbs: Vec::new(),
        namespaced: true,
        preferred: true,
        kind,
    }
}

/// The object's name, which must be there.
pub(crate) fn name(object: &Value) -> Result<String, Error> {
    match object["metadata"]["name"].as_str().filter(|name| !name.is_empty()) {
        Some(name) => Ok(name.to_owned()),
        None => Err(Error::plain("resource name may not be empty")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_stand_for_what_there_is() {
        let all = |pattern: &str| {
            let found = matching(Path::new(pattern));
            found.iter().map(|path| path.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(all("commands/cre?te/b*t.rs"), ["commands/create/budget.rs"]);
        assert_eq!(all("commands/*/batch.rs"), ["commands/create/batch.rs"]);
        assert!(all("commands/nothing/*").is_empty());
        let missing = found(&["a-file".into(), "lib.rs".into()]).unwrap_err().message();
        assert_eq!(missing, "the path \"a-file\" does not exist");
    }

    #[test]
    fn documents_lists_and_anchors() {
        let text = "kind: List\napiVersion: v1\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: a}}\n---\n# nothing\n---\n\
                    apiVersion: v1\nkind: Secret\nx: &x {k: v}\nz:\n  <<: *x\n---\n{\"apiVersion\": \"v1\", \"kind\": \"Pod\"}\n";
        let (kinds, unread) = parse("t", text);
        let kinds: Vec<Value> = kinds.into_iter().map(|one| one.object).collect();
        assert!(unread.is_empty());
        assert_eq!(kinds.len(), 3);
        assert_eq!(kinds[1]["z"]["k"], "v");
        assert_eq!(kinds[0]["metadata"]["name"], "a");
    }

    #[test]
    fn what_is_no_object_is_said() {
        let said = |text: &str| parse("a.yaml", text).1[0].to_string();
        assert_eq!(
            said("kind: Pod"),
            "error: error validating \"a.yaml\": error validating data: apiVersion not set"
        );
        assert!(said("a: b: c").starts_with("error: error parsing a.yaml: "));
        let (read, unread) = parse(
            "a.yaml",
            "apiVersion: v1\nkind: A\n---\nkind: B\n---\napiVersion: v1\nkind: C\n---\na: b: c\n",
        );
        assert_eq!((read.len(), unread.len()), (2, 2), "what can be read of a file is");
    }
}
