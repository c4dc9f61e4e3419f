//! Manifests in a folder of the server's, applied when it starts and whenever one changes.
//!
//! A file is an ApplySet (KEP-3659), whose parent is a ConfigMap in `kube-system` that says how it went: what is taken
//! out of a file is taken out of the cluster, by those labels and nothing else, so that `kubectl apply --prune` and
//! others know it too. A file that goes leaves what it brought, unless it is asked for. One beside which another with
//! `.skip` after its name lies is left alone.

mod files;
mod parent;
mod set;

use base::watch_folder::Changes;
use base::{Backoff, Phase, Restart, Shutdown, Supervisor, clock};
use client::{Client, Next, Queue, Recorder};
use files::File;
use parent::Source;
use set::Set;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Whoever writes a file seldom writes only one, or at once.
const SETTLED: Duration = Duration::from_millis(200);
const FIRST_DELAY: Duration = Duration::from_secs(1);
const LONGEST_DELAY: Duration = Duration::from_secs(60);

/// The folder, and whose it is.
#[derive(Clone, Debug)]
pub struct Manifests {
    /// Made if it is missing.
    pub folder: PathBuf,
    /// The name of this server: what another server's files brought is none of its business.
    pub server: String,
    /// What a file brought goes with it.
    pub prune: bool,
}

/// Starts to apply what is in the folder, as `client`.
pub fn start_manifests(manifests: Manifests, client: Client, supervisor: &Supervisor) {
    let recorder = Recorder::new(client.clone(), supervisor, "knarr-manifests", "");
    let work = Arc::new(Work { manifests, client, recorder, files: Mutex::default() });
    let queue = Queue::new("manifests");
    let (following, names) = (work.clone(), queue.clone());
    supervisor.run("folder of manifests", Phase::Work, Restart::OnFailure, move |shutdown| {
        following.clone().follow(names.clone(), shutdown)
    });
    supervisor.run("manifests", Phase::Work, Restart::OnFailure, move |shutdown| {
        let (work, queue) = (work.clone(), queue.clone());
        async move {
            queue.work(shutdown, 1, |name| work.clone().one(name)).await;
            Ok::<(), client::Error>(())
        }
    });
}

/// A file that was seen.
struct Known {
    file: File,
    digest: String,
    backoff: Backoff,
    /// What failed when it was last applied.
    failed: String,
}

struct Work {
    manifests: Manifests,
    client: Client,
    recorder: Recorder,
    /// By the name of the set that a file is.
    files: Mutex<HashMap<String, Known>>,
}

impl Work {
    fn files(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks again whenever something changes in the folder or below.
    async fn follow(self: Arc<Self>, queue: Queue<String>, shutdown: Shutdown) -> Result<(), String> {
        let folder = &self.manifests.folder;
        files::make(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let mut of_before = if self.manifests.prune { self.of_before().await? } else { Vec::new() };
        loop {
            let folders = files::tree(folder).folders;
            let folders: Vec<&Path> = folders.iter().map(PathBuf::as_path).collect();
            // What comes while one looks is seen by the next look.
            let mut changes = Changes::of_all(&folders).map_err(|error| error.to_string())?;
            let changed = self.look();
            let known: HashSet<String> = self.files().keys().cloned().collect();
            let gone = of_before.drain(..).filter(|name| !known.contains(name));
            changed.into_iter().chain(gone).for_each(|name| queue.add(name));
            tokio::select! {
                changed = changes.next() => drop(changed.map_err(|error| error.to_string())?),
                () = shutdown.requested() => return Ok(()),
            }
            clock::sleep(SETTLED).await;
        }
    }

    /// The sets that this server made in earlier runs.
    async fn of_before(&self) -> Result<Vec<String>, String> {
        let found = parent::of_server(&self.client, &self.manifests.server).await;
        found.map_err(|error| format!("cannot see which manifests there were: {error}"))
    }

    /// Notes what files there are; gives those that are new, others than they were, or gone.
    fn look(&self) -> Vec<String> {
        let found = files::tree(&self.manifests.folder).files;
        let mut files = self.files();
        let mut changed = Vec::new();
        files.retain(|name, known| {
            let stays = found.contains_key(name);
            if !stays {
                let file = known.file.path.display().to_string();
                tracing::info!(file, prune = self.manifests.prune, "a manifest is gone");
                changed.push(name.clone());
            }
            stays
        });
        for (name, file) in found {
            let digest = file.digest();
            if files.get(&name).is_none_or(|known| (&known.file, &known.digest) != (&file, &digest)) {
                let backoff = Backoff::new(FIRST_DELAY, LONGEST_DELAY);
                files.insert(name.clone(), Known { file, digest, backoff, failed: String::new() });
                changed.push(name);
            }
        }
        changed
    }

    async fn one(self: Arc<Self>, name: String) -> Result<Next, client::Error> {
        let known = self.files().get(&name).map(|known| (known.file.clone(), known.digest.clone()));
        let set = Set::new(&self.client, &name);
        let Some((File { path, skipped }, digest)) = known else {
            if self.manifests.prune {
                set.remove(&self.manifests.server).await?;
            }
            return Ok(Next::Done);
        };
        if skipped {
            return Ok(Next::Done);
        }
        let objects = files::read(&path);
        // What cannot be read stays so until the file changes.
        let tries = objects.is_ok();
        let source = Source { path: &path, digest: &digest, server: &self.manifests.server };
        let (parent, failures) = set.bring(&source, objects).await?;
        let shown = path.display().to_string();
        if failures.is_empty() {
            self.recorder.normal(&parent, "AppliedManifest", format!("Applied manifest at {shown:?}"));
            return Ok(Next::Done);
        }
        let said = failures.join("; ");
        let mut files = self.files();
        let Some(known) = files.get_mut(&name) else { return Ok(Next::Done) };
        // Events count what is said again; the log has it once.
        if known.failed != said {
            tracing::warn!(
                file = shown,
                failed = failures.len(),
                why = said,
                "a manifest is not applied whole"
            );
        }
        let message = format!("Applying manifest at {shown:?} failed: {said}");
        self.recorder.warning(&parent, "ApplyManifestFailed", message);
        known.failed = said;
        Ok(if tries { Next::After(known.backoff.next_delay()) } else { Next::Done })
    }
}
