//! `kubectl diff`: what applying files would change, shown by a program that compares folders.

use super::apply::prune::{self, Seen};
use super::apply::{Wanted, client_side, selected, server_side, wanted, warn_if_deleting};
use crate::args::Files;
use crate::error::Error;
use crate::manifests::{self, Document};
use crate::output;
use crate::session::{Session, with_query};
use crate::writing::LAST_APPLIED;
use clap::Args;
use futures_util::{StreamExt, TryStreamExt};
use http::Method;
use serde_json::{Value, json};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// How often an object is read that changes meanwhile; the last time it is compared as it is.
const TRIES: u32 = 4;
/// The exit code of whatever failed, where 1 is a difference.
pub(crate) const TROUBLE: u8 = 2;
/// What is shown of a secret that stays, was and will be.
const MASKS: [&str; 3] = ["***", "*** (before)", "*** (after)"];

#[derive(Args)]
pub(crate) struct Diff {
    /// None: files are given by -f
    #[arg(hide = true)]
    words: Vec<String>,
    #[command(flatten)]
    files: Files,
    /// Only objects with these labels
    #[arg(long, short = 'l', default_value = "", hide_default_value = true)]
    selector: String,
    /// As the server would merge
    #[arg(long)]
    server_side: bool,
    /// Take over fields of others in a server-side apply
    #[arg(long)]
    force_conflicts: bool,
    /// Who would apply
    #[arg(long, value_name = "NAME")]
    field_manager: Option<String>,
    /// Show what pruning would delete
    #[arg(long)]
    prune: bool,
    /// Which kinds are pruned: GROUP/VERSION/KIND
    #[arg(long)]
    prune_allowlist: Vec<String>,
    /// Show managedFields too
    #[arg(long)]
    show_managed_fields: bool,
    /// Show what secrets hold
    #[arg(long)]
    show_secrets: bool,
    /// How many objects are asked for at once
    #[arg(long, default_value_t = 1)]
    concurrency: usize,
}

/// Whatever fails, the code is one more than that of a difference.
pub(crate) async fn run(session: &Session, args: &Diff) -> Result<(), Error> {
    match compare(session, args).await {
        Ok(()) => Ok(()),
        Err(Error::Said(code)) => Err(Error::Said(code)),
        Err(error) => {
            eprintln!("{error}");
            Err(Error::Said(TROUBLE))
        }
    }
}

async fn compare(session: &Session, args: &Diff) -> Result<(), Error> {
    if !args.words.is_empty() {
        return Err(Error::usage(format!("Unexpected args: [{}]", args.words.join(" ")), "diff"));
    }
    if args.files.is_empty() {
        return Err(Error::plain("must specify one of -f and -k"));
    }
    if args.force_conflicts && !args.server_side {
        return Err(Error::plain("--force-conflicts only works with --server-side"));
    }
    let kinds = prune::kinds(session, &args.prune_allowlist, args.prune).await?;
    let documents = selected(manifests::read(&args.files)?, &args.selector)?;
    let (live, merged) = (Folder::new("LIVE")?, Folder::new("MERGED")?);
    let mut seen = Seen::default();
    let mut pairs =
        futures_util::stream::iter(documents.iter().map(|document| both(session, args, document)))
            .buffered(args.concurrency.max(1));
    while let Some((wanted, before, after)) = pairs.try_next().await? {
        seen.namespace(&wanted);
        if let Some(before) = &before {
            seen.object(before);
            warn_if_deleting(before);
        }
        let name = name(&after);
        let (before, after) = shown(args, before, after);
        live.write(&name, before.as_ref())?;
        merged.write(&name, Some(&after))?;
    }
    if args.prune {
        for (_, object) in prune::left(session, &kinds, &seen, &args.selector).await? {
            let name = name(&object);
            live.write(&name, Some(&shown(args, None, object).1))?;
        }
    }
    show(&live.path, &merged.path).await
}

/// An object as it is, and as it would be.
async fn both<'a>(
    session: &Session,
    args: &Diff,
    document: &'a Document,
) -> Result<(Wanted<'a>, Option<Value>, Value), Error> {
    let wanted = wanted(session, document).await?;
    let mut tries = 0;
    loop {
        tries += 1;
        let before = match session.get(&wanted.path()).await {
            Ok(live) => Some(live),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        };
        match applied(session, args, (&wanted, before.as_ref()), tries < TRIES).await {
            Ok(after) => return Ok((wanted, before, after)),
            Err(error) if error.is_conflict() && tries < TRIES => {}
            Err(error) => return Err(error),
        }
    }
}

/// What applying would make of an object, asked of the server: of the version that was read, if it is `locked`.
async fn applied(
    session: &Session,
    args: &Diff,
    (wanted, live): (&Wanted<'_>, Option<&Value>),
    locked: bool,
) -> Result<Value, Error> {
    let manager = if args.server_side { server_side::MANAGER } else { client_side::MANAGER };
    let manager = args.field_manager.as_deref().unwrap_or(manager);
    let parameters = [("dryRun", "All"), ("fieldManager", manager)];
    if args.server_side {
        let path = with_query(&wanted.path(), &parameters);
        return server_side::send(session, &path, &wanted.object, args.force_conflicts).await;
    }
    let Some(live) = live else {
        let path = with_query(&wanted.resource.path(&wanted.namespace), &parameters);
        return session.write(Method::POST, &path, &wanted.object).await;
    };
    let mut object = wanted.object.clone();
    // The annotation of what was applied stays as it is: what matters is the rest.
    match object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        Some(annotations) => drop(annotations.remove(LAST_APPLIED)),
        None => object["metadata"]["annotations"] = json!({}),
    }
    let client_side::Patch { mut patch, content_type } =
        client_side::patch(&wanted.resource, live, &object, true)?;
    if patch == json!({}) {
        return Ok(live.clone());
    }
    if locked {
        patch["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"].clone();
    }
    session.patch(&with_query(&wanted.path(), &parameters), content_type, &patch).await
}

/// `apps.v1.Deployment.default.web`: the name of an object's file.
fn name(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
    let metadata = &object["metadata"];
    // A name may hold a colon but no slash.
    format!(
        "{}.{kind}.{}.{}",
        version.replace('/', "."),
        text(&metadata["namespace"]),
        text(&metadata["name"])
    )
}

/// Both without what is not to be shown.
fn shown(args: &Diff, mut before: Option<Value>, mut after: Value) -> (Option<Value>, Value) {
    if !args.show_managed_fields {
        before.iter_mut().for_each(output::drop_managed_fields);
        output::drop_managed_fields(&mut after);
    }
    if !args.show_secrets && after["apiVersion"] == "v1" && after["kind"] == "Secret" {
        mask(before.as_mut(), &mut after);
    }
    (before, after)
}

/// Says of a secret's values only which differ.
fn mask(before: Option<&mut Value>, after: &mut Value) {
    let data = |object: &Value| object["data"].as_object().cloned().unwrap_or_default();
    let (was, will) = (before.as_ref().map(|before| data(before)).unwrap_or_default(), data(after));
    let differs = |key: &String| was.get(key).zip(will.get(key)).is_some_and(|(was, will)| was != will);
    let hide = |object: &mut Value, changed: &str| {
        let values = object.get_mut("data").and_then(Value::as_object_mut);
        for (key, value) in values.into_iter().flatten() {
            *value = json!(if differs(key) { changed } else { MASKS[0] });
        }
    };
    before.into_iter().for_each(|before| hide(before, MASKS[1]));
    hide(after, MASKS[2]);
}

/// A folder that nobody else can read, gone again when it is dropped.
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn new(name: &str) -> Result<Self, Error> {
        let number = base::clock::now().as_nanosecond();
        let path = std::env::temp_dir().join(format!("{name}-{}{number}", std::process::id()));
        let made = std::fs::DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|error| Error::plain(format!("cannot make {}: {error}", path.display())))?;
        Ok(Self { path })
    }

    /// A file with the object, or an empty one.
    fn write(&self, name: &str, object: Option<&Value>) -> Result<(), Error> {
        let path = self.path.join(name);
        let mut options = std::fs::OpenOptions::new();
        let opened = options.write(true).create(true).truncate(true).mode(0o600).open(&path);
        let text = object.map(api::yaml::render).unwrap_or_default();
        opened
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|error| Error::plain(format!("cannot write {}: {error}", path.display())))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.path));
    }
}

/// The program that compares and its arguments, by what `KUBECTL_EXTERNAL_DIFF` says. Of that only words are taken
/// that can hold no path and nothing that a shell would read.
fn program(asked: &str, folders: [&Path; 2]) -> (String, Vec<PathBuf>) {
    let folders = folders.map(Path::to_owned);
    let mut words = asked.split(' ');
    match words.next().filter(|program| !program.is_empty()) {
        None => {
            let flags = ["-u", "-N"].map(PathBuf::from);
            ("diff".to_owned(), flags.into_iter().chain(folders).collect())
        }
        Some(program) => {
            let plain = |word: &&str| {
                !word.is_empty()
                    && word.chars().all(|sign| sign.is_ascii_alphanumeric() || matches!(sign, '-' | '='))
            };
            (program.to_owned(), folders.into_iter().chain(words.filter(plain).map(PathBuf::from)).collect())
        }
    }
}

/// Has the program compare; that there is a difference is its code 1.
async fn show(live: &Path, merged: &Path) -> Result<(), Error> {
    let asked = std::env::var("KUBECTL_EXTERNAL_DIFF").unwrap_or_default();
    let (program, arguments) = program(&asked, [live, merged]);
    let mut command = base::process::command(&program);
    command.args(arguments);
    let failed = |reason: String| Error::plain(format!("failed to run {program:?}: {reason}"));
    let status = command.status().await.map_err(|error| failed(error.to_string()))?;
    match status.code() {
        Some(0) => Ok(()),
        Some(1) => Err(Error::Said(1)),
        Some(code) => Err(failed(format!("exit status {code}"))),
        None => Err(failed(status.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_tell_which_values_differ() {
        let secret = |data: Value| json!({"apiVersion": "v1", "kind": "Secret", "data": data});
        let (mut before, mut after) = (
            secret(json!({"a": "1", "b": "2", "old": "3"})),
            secret(json!({"a": "1", "b": "9", "new": "4"})),
        );
        mask(Some(&mut before), &mut after);
        assert_eq!(before["data"], json!({"a": "***", "b": "*** (before)", "old": "***"}));
        assert_eq!(after["data"], json!({"a": "***", "b": "*** (after)", "new": "***"}));
        let mut new = secret(json!({"a": "1"}));
        mask(None, &mut new);
        assert_eq!(new["data"], json!({"a": "***"}));
    }

    #[test]
    fn another_program_gets_plain_words_alone() {
        let folders = [Path::new("/l"), Path::new("/m")];
        let words = |asked: &str| {
            let (program, arguments) = program(asked, folders);
            let arguments: Vec<String> = arguments.iter().map(|one| one.display().to_string()).collect();
            format!("{program} {}", arguments.join(" "))
        };
        assert_eq!(words(""), "diff -u -N /l /m");
        assert_eq!(words("colordiff -N -u ;rm /x --color=always"), "colordiff /l /m -N -u --color=always");
    }

    #[test]
    fn folders_are_the_persons_own_and_go_away() {
        use std::os::unix::fs::PermissionsExt;
        let folder = Folder::new("LIVE").unwrap();
        folder.write("a", Some(&json!({"k": "v"}))).unwrap();
        let path = folder.path.clone();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(std::fs::read_to_string(path.join("a")).unwrap(), "k: v\n");
        drop(folder);
        assert!(!path.exists());
    }
}
