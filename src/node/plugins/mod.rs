//! Plugins of this node: drivers that put a socket into the kubelet's folder `plugins_registry` and say
//! there what they are. They are handed to who works with their kind, again when their socket is a new
//! one, and taken away when it goes.

mod sockets;

use crate::protocols::pluginregistration as registration;
use crate::{Context, Error, csi, dra};
use base::watch_folder;
use base::{Backoff, Shutdown, clock};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use registration::registration_client::RegistrationClient;
use sockets::{Action, Stamp, plan, scan};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};

/// How long a plugin may take to answer who it is, as Kubernetes gives it.
const INTRODUCTION: Duration = Duration::from_secs(5);
/// Between attempts to register one that fails.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(122);

/// A plugin as it introduces itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plugin {
    pub(crate) kind: String,
    pub(crate) name: String,
    /// The socket of its service.
    pub(crate) endpoint: PathBuf,
    /// Versions or services, by its kind.
    pub(crate) versions: Vec<String>,
}

/// A connection to a socket, made on first use and anew when it was lost.
pub(crate) fn connect(socket: &Path) -> Result<Channel, Error> {
    let path = socket.to_string_lossy();
    let path = path.strip_prefix("unix://").unwrap_or(&path);
    let endpoint = Endpoint::try_from(format!("unix://{path}"));
    let endpoint = endpoint.map_err(|error| Error::Volume(format!("{path}: {error}")))?;
    Ok(endpoint.connect_timeout(INTRODUCTION).connect_lazy())
}

/// A gRPC error in Go's words, which drivers' errors are told in.
pub(crate) fn in_go_words(status: &tonic::Status) -> String {
    format!("rpc error: code = {:?} desc = {}", status.code(), status.message())
}

/// Where a socket stands.
enum State {
    Registering,
    Registered(Plugin),
    Failed { retry: clock::Instant },
}

struct Known {
    stamp: Stamp,
    state: State,
    /// Between attempts.
    backoff: Backoff,
}

type Outcome = (PathBuf, Stamp, Result<Plugin, String>);

/// What is known of the sockets, and what is under way.
struct Watcher {
    context: Arc<Context>,
    folder: PathBuf,
    known: BTreeMap<PathBuf, Known>,
    registering: FuturesUnordered<BoxFuture<'static, Outcome>>,
}

/// Follows the sockets of plugins.
pub(crate) async fn run(context: Arc<Context>, shutdown: Shutdown) -> Result<(), Error> {
    let folder = context.config.kubelet_dir.join("plugins_registry");
    crate::files::make_folder(&folder, 0o750)?;
    let mut changes = watch_folder::Changes::of_entries(&folder)?;
    let (known, registering) = (BTreeMap::new(), FuturesUnordered::new());
    let mut watcher = Watcher { context, folder, known, registering };
    loop {
        // Folders are watched before they are looked into, so that nothing is missed in between.
        let (_, folders) = scan(&watcher.folder);
        folders.iter().try_for_each(|folder| changes.and_entries_of(folder))?;
        let (found, _) = scan(&watcher.folder);
        watcher.follow(&found).await;
        let retry = watcher.next_retry();
        tokio::select! {
            changed = changes.next() => drop(changed?),
            Some(outcome) = watcher.registering.next(), if !watcher.registering.is_empty() => {
                watcher.settle(outcome).await;
            }
            () = clock::until(retry) => {}
            () = shutdown.requested() => return Ok(()),
        }
    }
}

impl Watcher {
    fn next_retry(&self) -> Option<clock::Instant> {
        let retries = self.known.values().filter_map(|known| match &known.state {
            State::Failed { retry } => Some(*retry),
            State::Registering | State::Registered(_) => None,
        });
        retries.min()
    }

    /// Registers what is new or due, and takes away what is gone.
    async fn follow(&mut self, found: &BTreeMap<PathBuf, Stamp>) {
        let stamps = self.known.iter().map(|(path, known)| (path.clone(), known.stamp)).collect();
        for action in plan(&stamps, found) {
            match action {
                Action::Forget(path) => {
                    if let Some(Known { state: State::Registered(plugin), .. }) = self.known.remove(&path) {
                        tracing::info!(plugin = plugin.name, kind = plugin.kind, "a plugin is gone");
                        deregister(&self.context, &plugin).await;
                    }
                }
                Action::Register(path, stamp) => {
                    self.begin(path, stamp, Backoff::new(FIRST_RETRY, LAST_RETRY));
                }
            }
        }
        let now = clock::instant();
        let is_due = |known: &mut Known| matches!(known.state, State::Failed { retry } if retry <= now);
        let due: Vec<(PathBuf, Known)> = self.known.extract_if(.., |_, known| is_due(known)).collect();
        due.into_iter().for_each(|(path, known)| self.begin(path, known.stamp, known.backoff));
    }

    fn begin(&mut self, path: PathBuf, stamp: Stamp, backoff: Backoff) {
        self.known.insert(path.clone(), Known { stamp, state: State::Registering, backoff });
        let context = self.context.clone();
        self.registering.push(Box::pin(async move {
            let registered = register(&context, &path).await;
            (path, stamp, registered)
        }));
    }

    async fn settle(&mut self, (path, stamp, result): Outcome) {
        let current = self.known.get_mut(&path).filter(|known| known.stamp == stamp);
        match (result, current) {
            (Ok(plugin), Some(known)) => {
                tracing::info!(plugin = plugin.name, kind = plugin.kind, "registered a plugin");
                known.state = State::Registered(plugin);
            }
            // Its socket went meanwhile.
            (Ok(plugin), None) => deregister(&self.context, &plugin).await,
            (Err(error), Some(known)) => {
                tracing::warn!(socket = %path.display(), error, "cannot register a plugin; will try again");
                known.state = State::Failed { retry: clock::instant() + known.backoff.next_delay() };
            }
            (Err(_), None) => {}
        }
    }
}

/// Asks a socket who it is, hands it to who works with its kind, and tells it what came of that.
async fn register(context: &Arc<Context>, socket: &Path) -> Result<Plugin, String> {
    let channel = connect(socket).map_err(|error| error.to_string())?;
    let mut client = RegistrationClient::new(channel);
    let asked = tokio::time::timeout(INTRODUCTION, client.get_info(registration::InfoRequest {})).await;
    let failed = |why: String| {
        let socket = socket.display();
        format!(
            "RegisterPlugin error -- failed to get plugin info using RPC GetInfo at socket {socket}, err: {why}"
        )
    };
    let info = asked.map_err(|_| failed("context deadline exceeded".to_owned()))?;
    let info = info.map_err(|status| failed(in_go_words(&status)))?.into_inner();
    let endpoint = if info.endpoint.is_empty() { socket.to_owned() } else { info.endpoint.into() };
    let plugin = Plugin { kind: info.r#type, name: info.name, endpoint, versions: info.supported_versions };
    let taken = take(context, &plugin, socket).await;
    let error = taken.as_ref().err().cloned().unwrap_or_default();
    let status = registration::RegistrationStatus { plugin_registered: taken.is_ok(), error };
    let told = tokio::time::timeout(INTRODUCTION, client.notify_registration_status(status)).await;
    let told = match told {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(status)) => Err(in_go_words(&status)),
        Err(_) => Err("context deadline exceeded".to_owned()),
    };
    taken?;
    if let Err(error) = told {
        deregister(context, &plugin).await;
        let socket = socket.display();
        return Err(format!(
            "RegisterPlugin error -- failed to send registration status at socket {socket}, err: {error}"
        ));
    }
    Ok(plugin)
}

async fn take(context: &Arc<Context>, plugin: &Plugin, socket: &Path) -> Result<(), String> {
    match plugin.kind.as_str() {
        "CSIPlugin" => csi::register(context, plugin)
            .await
            .map_err(|error| format!("RegisterPlugin error -- plugin registration failed with err: {error}")),
        "DRAPlugin" => dra::register(context, plugin)
            .map_err(|error| format!("RegisterPlugin error -- plugin registration failed with err: {error}")),
        other => Err(format!(
            "RegisterPlugin error -- no handler registered for plugin type: {other} at socket {}",
            socket.display()
        )),
    }
}

async fn deregister(context: &Arc<Context>, plugin: &Plugin) {
    match plugin.kind.as_str() {
        "CSIPlugin" => {
            if let Err(error) = csi::deregister(context, plugin).await {
                tracing::warn!(plugin = plugin.name, %error, "cannot take a plugin away");
            }
        }
        "DRAPlugin" => dra::deregister(context, plugin),
        _ => {}
    }
}
