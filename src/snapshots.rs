//! `knarr snapshot`: the state of a cluster saved to a file and brought back; and the snapshots that a server takes
//! by itself.

use crate::life::{self, Failure, administrator};
use crate::options::{self, Options, Role};
use crate::secrets::Keeper;
use crate::{datastore, screen};
use api::cron::Schedule;
use api::status::Refusal;
use base::{Body, Phase, Restart, Shutdown, Supervisor, clock};
use bootstrap::Common;
use bootstrap::snapshot::{self, Head, SUFFIX};
use clap::{Arg, ArgMatches, Command};
use http::{Method, Request, Response};
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use server::{Access, Extension, Server};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

/// Where a server is asked to take a snapshot.
const URL: &str = "/knarr/v1/snapshots";
/// The longest name that is asked for, and the letters it may have.
const NAME_BYTES: usize = 100;
/// What the names of those begin with that are taken by the clock.
const SCHEDULED: &str = "scheduled";
/// How far revisions go on behind a restored state: further than a cluster comes that was lost after its last snapshot.
const JUMP: u64 = 1_000_000_000;
/// How long the clock is not looked at: it may be set meanwhile.
const LOOK: Duration = Duration::from_secs(60);

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
    let of = |name, about| options::subset(Command::new(name).about(about), &SETTINGS);
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
            Command::new("save")
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

/// What was saved.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    file: PathBuf,
    bytes: u64,
    objects: usize,
    revision: u64,
}

async fn save(matches: &ArgMatches) -> Result<(), Failure> {
    let kubeconfig = matches.get_one::<String>("kubeconfig").map(PathBuf::from);
    let name = matches.get_one::<String>("name").map_or("", String::as_str);
    check_name(name)?;
    let client = administrator(kubeconfig)?;
    let answer = client.send(Method::POST, &format!("{URL}?name={name}"), None).await?;
    let saved: Saved = serde_json::from_slice(&answer)?;
    screen::say(&format!(
        "{}: {} objects at revision {}, {}",
        saved.file.display(),
        saved.objects,
        saved.revision,
        size(saved.bytes)
    ));
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
    folder.join(format!("{}{SUFFIX}", name.strip_suffix(SUFFIX).unwrap_or(name)))
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
    let token = datastore::token_of(options)?.ok_or(
        "a snapshot is sealed with its cluster's server token: give it with --token-file; servers have it in server/token of their data folders",
    )?;
    // All of it is read before anything is changed.
    let mut reader = snapshot::open(&path, &token)?;
    reader.by_ref().try_for_each(|object| object.map(drop))?;
    let head = reader.head.clone();
    let reader = snapshot::open(&path, &token)?;
    let common = reader.common.clone();
    common.lay(&options.data_dir)?;
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
    datastore::publish(options, &common).await?;
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
    turn: Mutex<()>,
}

impl Taker {
    /// Answers who asks for a snapshot.
    pub(crate) fn start(server: &Server, node: &str, options: &Options) -> Arc<Self> {
        let taker = Arc::new(Self {
            server: server.clone(),
            node: node.to_owned(),
            data_dir: options.data_dir.clone(),
            folder: folder_of(options),
            turn: Mutex::default(),
        });
        let asked = taker.clone();
        let answer: Extension = Arc::new(move |request| Box::pin(asked.clone().answer(request)));
        server.answer_at(URL, Access::Authorized, answer);
        taker
    }

    /// Takes them as the clock says, and keeps so many.
    pub(crate) fn schedule(
        self: Arc<Self>,
        options: &Options,
        supervisor: &Supervisor,
    ) -> Result<(), Failure> {
        let plan = &options.snapshot_schedule_cron;
        if plan.is_empty() {
            return Ok(());
        }
        let schedule =
            Schedule::parse(plan).map_err(|error| format!("--snapshot-schedule-cron {plan:?}: {error}"))?;
        let (schedule, keep) = (Arc::new(schedule), options.snapshot_retention);
        supervisor.run("snapshots", Phase::Work, Restart::OnFailure, move |shutdown| {
            self.clone().follow(schedule.clone(), keep, shutdown)
        });
        Ok(())
    }

    async fn follow(
        self: Arc<Self>,
        schedule: Arc<Schedule>,
        keep: usize,
        shutdown: Shutdown,
    ) -> Result<(), Failure> {
        let mut since = clock::now();
        loop {
            let Some(due) = schedule.next(since, &TimeZone::system()) else { return Ok(()) };
            while clock::now() < due {
                let wait = clock::between(clock::now(), due).min(LOOK);
                tokio::select! {
                    () = clock::sleep(wait) => {}
                    () = shutdown.requested() => return Ok(()),
                }
            }
            // What was missed while the machine slept is done once.
            since = clock::now();
            match self.take(SCHEDULED).await {
                Ok(saved) => {
                    tracing::info!(file = %saved.file.display(), objects = saved.objects, "saved a snapshot")
                }
                Err(error) => tracing::error!(%error, "cannot save a snapshot"),
            }
            let folder = self.folder.clone();
            let pruned = tokio::task::spawn_blocking(move || {
                prune(&folder, SCHEDULED, keep).map_err(|error| error.to_string())
            });
            if let Err(error) = pruned.await? {
                tracing::warn!(error, "cannot delete old snapshots");
            }
        }
    }

    async fn answer(self: Arc<Self>, request: Request<Body>) -> Response<Body> {
        server::answer(self.decide(request.map(drop)).await)
    }

    async fn decide(&self, request: Request<()>) -> Result<Value, Refusal> {
        if request.method() != Method::POST {
            return Err(Refusal::method_not_allowed());
        }
        let query = base::query::pairs(request.uri().query().unwrap_or_default());
        let name = query.iter().find(|(key, _)| key == "name").map_or("", |(_, name)| name);
        check_name(name).map_err(|error| Refusal::bad_request(error.to_string()))?;
        let saved = self.take(name).await.map_err(Refusal::internal)?;
        Ok(json!(saved))
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
        Ok(Saved { file, bytes, objects, revision })
    }
}
