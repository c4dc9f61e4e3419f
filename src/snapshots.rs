//! `knarr snapshot`: the state of a cluster saved to a file and brought back; and the snapshots that a server takes
//! by itself.

use crate::life::{self, Failure, administrator};
use crate::options::{self, Options, Role};
use crate::s3::{self, Bucket, Object};
use crate::secrets::Keeper;
use crate::{datastore, screen};
use api::core::Secret;
use api::status::Refusal;
use base::{Body, Supervisor, clock};
use bootstrap::Common;
use bootstrap::snapshot::{self, Head, SUFFIX};
use clap::{Arg, ArgMatches, Command};
use client::Client;
use http::{Method, Request, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use server::{Access, Extension, Server};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use tokio::sync::Mutex;

/// Where a server is asked to take a snapshot.
const URL: &str = "/knarr/v1/snapshots";
/// The largest description of a bucket.
const ASKED_BYTES: usize = 2 << 20;
/// The longest name that is asked for, and the letters it may have.
const NAME_BYTES: usize = 100;
/// How far revisions go on behind a restored state: further than a cluster comes that was lost after its last snapshot.
const JUMP: u64 = 1_000_000_000;

/// Settings of the server that the commands need, too.
const SETTINGS: [&str; 10] = [
    "data-dir",
    "encryption-provider-config",
    "token",
    "token-file",
    "snapshot-dir",
    "datastore-endpoint",
    "datastore-cafile",
    "datastore-certfile",
    "datastore-keyfile",
    "datastore-prefix",
];

pub(crate) fn command() -> Command {
    let all = [&SETTINGS[..], &s3::SETTINGS].concat();
    let of = |name, about| options::subset(Command::new(name).about(about), &all);
    let kubeconfig = Arg::new("kubeconfig").long("kubeconfig").value_name("FILE");
    let kubeconfig = kubeconfig.help("The kubeconfig of an administrator [default: as kubectl finds it]");
    let name = Arg::new("name").long("name").value_name("NAME").default_value("on-demand");
    let name = name.help("What the name of the snapshot begins with");
    let keep = Arg::new("keep").long("keep").value_name("NUMBER").default_value("5");
    let keep = keep.value_parser(clap::value_parser!(usize)).help("How many of each beginning are kept");
    let names = Arg::new("snapshot").value_name("NAME").required(true);
    Command::new("snapshot")
        .about("Save the state of the cluster, and bring it back")
        .subcommand_required(true)
        .subcommand(
            options::subset(Command::new("save"), &s3::SETTINGS)
                .about("Have the running server take a snapshot")
                .args([kubeconfig, name.clone()]),
        )
        .subcommand(of("list", "Show the snapshots of this machine"))
        .subcommand(of("delete", "Delete snapshots").arg(names.clone().num_args(1..).help("Their names")))
        .subcommand(
            of("prune", "Delete all but the newest")
                .arg(keep)
                .arg(name.default_value("").help("Only those whose names begin so [default: all]")),
        )
        .subcommand(
            of("restore", "Bring the state of a snapshot back, while the server is stopped")
                .arg(names.help("Its name, or a file")),
        )
}

pub(crate) fn main(matches: &ArgMatches) -> ExitCode {
    life::once(run(matches))
}

async fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let Some((action, matches)) = matches.subcommand() else { return Ok(()) };
    if action == "save" {
        return save(matches).await;
    }
    // A key for what is not there yet is the first start's to make.
    let options = Options { secrets_encryption: false, ..options::read(Role::Server, matches)?.options()? };
    if options.s3.s3 && action != "restore" {
        return in_bucket(&options, action, matches).await;
    }
    let names = || matches.get_many::<String>("snapshot").into_iter().flatten();
    match action {
        "list" => list(&options),
        "delete" => names().try_for_each(|name| delete(&options, name)),
        "prune" => {
            let keep = matches.get_one::<usize>("keep").copied().unwrap_or_default();
            let beginning = matches.get_one::<String>("name").map_or("", String::as_str);
            prune(&folder_of(&options), beginning, keep)?.iter().for_each(|name| {
                screen::say(&format!("snapshot {name:?} deleted"));
            });
            Ok(())
        }
        _ => match names().next() {
            Some(name) => restore(&options, name).await,
            None => Ok(()),
        },
    }
}

/// The bucket that is named on the command line.
fn bucket_of(options: &Options) -> Result<Bucket, Failure> {
    if options.s3.s3_config_secret.is_some() {
        return Err("--s3-config-secret is for servers, which can read it: say here what is in it".into());
    }
    Bucket::new(options.s3.clone().settled()?)
}

/// The same as below, of what is in a bucket.
async fn in_bucket(options: &Options, action: &str, matches: &ArgMatches) -> Result<(), Failure> {
    let bucket = bucket_of(options)?;
    match action {
        "list" => {
            let mut rows = vec![["NAME", "CREATED", "SIZE", "LOCATION"].map(str::to_owned)];
            let mut all = bucket.list(SUFFIX).await?;
            all.sort_by(|one, other| other.written.cmp(&one.written));
            rows.extend(all.into_iter().map(|Object { name, bytes, written }| {
                let short = name.strip_suffix(SUFFIX).unwrap_or(&name).to_owned();
                [short, written, size(bytes), bucket.url(&name)]
            }));
            screen::table(&rows);
        }
        "delete" => {
            let there = bucket.list(SUFFIX).await?;
            for name in matches.get_many::<String>("snapshot").into_iter().flatten() {
                check_name(name)?;
                let file = file_name(name);
                if !there.iter().any(|one| one.name == file) {
                    return Err(format!("there is no snapshot {}", bucket.url(&file)).into());
                }
                bucket.delete(&file).await?;
                screen::say(&format!("snapshot {name:?} deleted"));
            }
        }
        _ => {
            let keep = matches.get_one::<usize>("keep").copied().unwrap_or_default();
            let beginning = matches.get_one::<String>("name").map_or("", String::as_str);
            for name in prune_bucket(&bucket, beginning, keep).await? {
                screen::say(&format!("snapshot {name:?} deleted"));
            }
        }
    }
    Ok(())
}

/// Deletes all but the newest of each beginning and node from a bucket; gives their names.
async fn prune_bucket(bucket: &Bucket, beginning: &str, keep: usize) -> Result<Vec<String>, Failure> {
    let all: Vec<String> = bucket.list(SUFFIX).await?.into_iter().map(|one| one.name).collect();
    let old = superfluous(&all, beginning, keep);
    for name in &old {
        bucket.delete(name).await?;
    }
    Ok(old)
}

/// Those that are not among the newest, by the seconds at the end of their names.
fn superfluous(names: &[String], beginning: &str, keep: usize) -> Vec<String> {
    let mut by_stem: BTreeMap<&str, Vec<(u64, &String)>> = BTreeMap::new();
    for name in names {
        let split = name.strip_suffix(SUFFIX).and_then(|short| short.rsplit_once('-'));
        let Some((stem, Ok(seconds))) = split.map(|(stem, end)| (stem, end.parse::<u64>())) else { continue };
        if stem.starts_with(beginning) {
            by_stem.entry(stem).or_default().push((seconds, name));
        }
    }
    let old = by_stem.into_values().flat_map(|mut all| {
        all.sort_unstable_by(|one, other| other.cmp(one));
        all.into_iter().skip(keep).map(|(_, name)| name.clone())
    });
    old.collect()
}

/// What was saved.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    file: PathBuf,
    /// Where it is in a bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    remote: Option<String>,
    bytes: u64,
    objects: usize,
    revision: u64,
}

impl Saved {
    /// All places where it is.
    fn places(&self) -> String {
        let remote = self.remote.iter().map(|remote| format!(" and {remote}"));
        std::iter::once(self.file.display().to_string()).chain(remote).collect()
    }
}

async fn save(matches: &ArgMatches) -> Result<(), Failure> {
    let kubeconfig = matches.get_one::<String>("kubeconfig").map(PathBuf::from);
    let name = matches.get_one::<String>("name").map_or("", String::as_str);
    check_name(name)?;
    let options = options::read(Role::Server, matches)?.options()?;
    let bucket = if options.s3.s3 { Some(json!(options.s3.settled()?)) } else { None };
    let client = administrator(kubeconfig)?;
    let answer = client.send(Method::POST, &format!("{URL}?name={name}"), bucket.as_ref()).await?;
    let saved: Saved = serde_json::from_slice(&answer)?;
    screen::say(&format!(
        "{}: {} objects at revision {}, {}",
        saved.file.display(),
        saved.objects,
        saved.revision,
        size(saved.bytes)
    ));
    if let Some(remote) = saved.remote {
        screen::say(&format!("  and {remote}"));
    }
    Ok(())
}

fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..10_000_000 => format!("{} kB", bytes / 1_000),
        _ => format!("{} MB", bytes / 1_000_000),
    }
}

fn check_name(name: &str) -> Result<(), Failure> {
    let good = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    if !name.is_empty() && name.len() <= NAME_BYTES && !name.starts_with('.') && name.chars().all(good) {
        return Ok(());
    }
    Err(format!("--name {name:?}: letters, digits, \"-\", \"_\" and \".\" make a name, {NAME_BYTES} at most")
        .into())
}

/// Where a server keeps its snapshots.
pub(crate) fn folder_of(options: &Options) -> PathBuf {
    options.snapshot_dir.clone().unwrap_or_else(|| options.data_dir.join("server/db/snapshots"))
}

/// A file with the name of a snapshot.
struct Found {
    name: String,
    /// What it is of; none where it is damaged.
    head: Option<Head>,
    bytes: u64,
}

/// The snapshots of a folder, the newest first.
fn snapshots(folder: &Path) -> Result<Vec<Found>, Failure> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(format!("{}: {error}", folder.display()).into()),
    };
    let mut all = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(name) = name.strip_suffix(SUFFIX) else { continue };
        let bytes = std::fs::metadata(&path)?.len();
        all.push(Found { name: name.to_owned(), head: snapshot::head(&path).ok(), bytes });
    }
    let created = |found: &Found| found.head.as_ref().map(|head| head.created.clone());
    all.sort_by_key(|found| std::cmp::Reverse((created(found), found.name.clone())));
    Ok(all)
}

fn list(options: &Options) -> Result<(), Failure> {
    let head = ["NAME", "CREATED", "REVISION", "OBJECTS", "SIZE"].map(str::to_owned);
    let mut rows = vec![head];
    for Found { name, head, bytes } in snapshots(&folder_of(options))? {
        let bytes = size(bytes);
        rows.push(match head {
            Some(head) => [name, head.created, head.revision.to_string(), head.objects.to_string(), bytes],
            None => [name, "damaged".to_owned(), String::new(), String::new(), bytes],
        });
    }
    screen::table(&rows);
    Ok(())
}

fn file_of(folder: &Path, name: &str) -> PathBuf {
    folder.join(file_name(name))
}

fn file_name(name: &str) -> String {
    format!("{}{SUFFIX}", name.strip_suffix(SUFFIX).unwrap_or(name))
}

fn delete(options: &Options, name: &str) -> Result<(), Failure> {
    check_name(name)?;
    let path = file_of(&folder_of(options), name);
    match std::fs::remove_file(&path) {
        Ok(()) => {
            screen::say(&format!("snapshot {name:?} deleted"));
            Ok(())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(format!("there is no snapshot {}", path.display()).into())
        }
        Err(error) => Err(format!("{}: {error}", path.display()).into()),
    }
}

/// What the name of a snapshot begins with: without its node and its time.
fn beginning_of<'a>(name: &'a str, head: &Head) -> &'a str {
    name.find(&format!("-{}-", head.node)).map_or(name, |end| &name[..end])
}

/// Deletes all but the newest of each beginning; gives their names.
fn prune(folder: &Path, beginning: &str, keep: usize) -> Result<Vec<String>, Failure> {
    let mut seen: Vec<(String, usize)> = Vec::new();
    let mut deleted = Vec::new();
    for Found { name, head, .. } in snapshots(folder)? {
        // What is damaged is for a person to look at.
        let Some(head) = head else { continue };
        let own = beginning_of(&name, &head).to_owned();
        if !own.starts_with(beginning) {
            continue;
        }
        match seen.iter_mut().find(|(known, _)| *known == own) {
            Some((_, count)) => *count += 1,
            None => seen.push((own.clone(), 1)),
        }
        if seen.iter().any(|(known, count)| *known == own && *count > keep) {
            let path = file_of(folder, &name);
            std::fs::remove_file(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            deleted.push(name);
        }
    }
    Ok(deleted)
}

async fn restore(options: &Options, name: &str) -> Result<(), Failure> {
    let path = match Path::new(name) {
        file if name.contains('/') || file.is_file() => file.to_owned(),
        _ => file_of(&folder_of(options), name),
    };
    if options.s3.s3 {
        check_name(name)?;
        bucket_of(options)?.get(&file_name(name), &path).await?;
    }
    let token = datastore::token_of(options)?.ok_or(
        "a snapshot is sealed with its cluster's server token: give it with --token-file; servers have it in server/token of their data folders",
    )?;
    // All of it is read before anything is changed.
    let mut reader = snapshot::open(&path, &token)?;
    reader.by_ref().try_for_each(|object| object.map(drop))?;
    let head = reader.head.clone();
    let reader = snapshot::open(&path, &token)?;
    reader.common.lay(&options.data_dir)?;
    let storage = datastore::storage_of(options)?;
    let aside = server::set_aside(&storage, &clock::now().as_second().to_string())?;
    let behind = aside.as_ref().map_or(0, |aside| aside.revision).max(head.revision) + JUMP;
    let objects = reader.map(|object| object.map_err(|error| error.to_string()));
    let supervisor = Supervisor::new();
    let keeper = Keeper::open(options, &storage).await?;
    let brought = server::bring((&storage, &keeper.sealing()), behind, objects, &supervisor).await;
    supervisor.drain().await;
    let brought = match (brought, &aside) {
        (Ok(brought), _) => brought,
        (Err(error), Some(aside)) => {
            aside.put_back()?;
            return Err(error.into());
        }
        (Err(error), None) => return Err(error.into()),
    };
    // Authorities that came after the snapshot stayed.
    datastore::publish(options, &datastore::own(options)?).await?;
    screen::say(&format!(
        "{} objects of {} are back, from {} on; the server can be started",
        brought.objects,
        head.created,
        path.display()
    ));
    if let Some(aside) = aside {
        screen::say(&format!("  the state before is in {}", aside.path.display()));
    }
    Ok(())
}

/// Takes snapshots of a running server.
pub(crate) struct Taker {
    server: Server,
    node: String,
    data_dir: PathBuf,
    folder: PathBuf,
    admin: Client,
    s3: s3::Settings,
    turn: Mutex<()>,
}

#[path = "snapshots_scheduled.rs"]
mod scheduled;

impl Taker {
    /// Answers who asks for a snapshot.
    pub(crate) fn start(
        server: &Server,
        node: &str,
        options: &Options,
        admin: &Client,
    ) -> Result<Arc<Self>, Failure> {
        let taker = Arc::new(Self {
            server: server.clone(),
            node: node.to_owned(),
            data_dir: options.data_dir.clone(),
            folder: folder_of(options),
            admin: admin.clone(),
            s3: options.s3.clone().settled()?,
            turn: Mutex::default(),
        });
        let asked = taker.clone();
        let answer: Extension = Arc::new(move |request| Box::pin(asked.clone().answer(request)));
        server.answer_at(URL, Access::Authorized, answer);
        Ok(taker)
    }

    async fn answer(self: Arc<Self>, request: Request<Body>) -> Response<Body> {
        server::answer(self.decide(request).await)
    }

    async fn decide(&self, request: Request<Body>) -> Result<Value, Refusal> {
        if request.method() != Method::POST {
            return Err(Refusal::method_not_allowed());
        }
        let query = base::query::pairs(request.uri().query().unwrap_or_default());
        let name = query.iter().find(|(key, _)| key == "name").map_or("", |(_, name)| name);
        let bad = |error: String| Refusal::bad_request(error);
        check_name(name).map_err(|error| bad(error.to_string()))?;
        let body = base::collect(request.into_body(), ASKED_BYTES).await;
        let body = body.map_err(|error| bad(error.to_string()))?;
        let given = if body.is_empty() { None } else { Some(serde_json::from_slice(&body)) };
        // What is wrong with it is not repeated: there are keys in it.
        let given = given.transpose().map_err(|_| bad("it does not say which bucket is meant".to_owned()))?;
        // What is wrong with the settings is told before anything is done.
        let bucket = self.bucket(given).await.map_err(|error| bad(error.to_string()))?;
        let saved = self.save(name, bucket).await.map_err(Refusal::internal)?;
        Ok(json!(saved))
    }

    /// The bucket that is asked for, or else this server's own, if it has one.
    async fn bucket(&self, given: Option<s3::Settings>) -> Result<Option<Bucket>, Failure> {
        let settings = given.unwrap_or_else(|| self.s3.clone());
        if !settings.s3 {
            return Ok(None);
        }
        let settings = match settings.s3_config_secret.clone() {
            None => settings,
            Some(name) => {
                let secret = self.admin.get::<Secret>("kube-system", &name).await;
                settings.with(&secret.map_err(|error| format!("--s3-config-secret {name}: {error}"))?)?
            }
        };
        Bucket::new(settings).map(Some)
    }

    /// Takes one, and puts it into the bucket if there is one.
    async fn save(&self, name: &str, bucket: Option<Bucket>) -> Result<Saved, Failure> {
        let mut saved = self.take(name).await?;
        if let Some(bucket) = bucket {
            let file = saved.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            bucket.put(&saved.file, &file).await.map_err(|error| {
                format!("the snapshot is in {}, and not in the bucket: {error}", saved.file.display())
            })?;
            saved.remote = Some(bucket.url(&file));
        }
        Ok(saved)
    }

    /// One at a time: each has the whole state in its hands.
    async fn take(&self, name: &str) -> Result<Saved, Failure> {
        let _turn = self.turn.lock().await;
        let common = Common::of(&self.data_dir)?.ok_or("the authorities of the cluster cannot be read")?;
        let state = self.server.state().await?;
        let (revision, objects) = (state.revision(), state.count());
        let head = Head::new(screen::VERSION, &self.node, (revision, objects));
        let file = self.folder.join(format!("{name}-{}-{}{SUFFIX}", self.node, clock::now().as_second()));
        let path = file.clone();
        let writing =
            tokio::task::spawn_blocking(move || snapshot::write(&path, &head, &common, state.objects()));
        let bytes = writing.await??;
        Ok(Saved { file, remote: None, bytes, objects, revision })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_each_beginning_and_node_stay() {
        let names =
            ["scheduled-a-100", "scheduled-a-99", "scheduled-a-9", "scheduled-b-1", "mine-a-1", "mine-a-x"];
        let names = names.map(|name| format!("{name}{SUFFIX}"));
        assert_eq!(superfluous(&names, "scheduled-a", 1), [names[1].clone(), names[2].clone()]);
        assert_eq!(superfluous(&names, "", 0).len(), 5);
    }
}
