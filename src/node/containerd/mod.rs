//! knarr's own containerd: found, configured, started as a child that outlives knarr, adopted when it
//! is still there, and restarted when it dies.

pub(crate) mod archive;
pub(crate) mod config;
pub(crate) mod content;
pub(crate) mod events;
pub(crate) mod images;
pub(crate) mod loopback;
pub(crate) mod pause;
pub(crate) mod registries;
mod rewrite;
pub(crate) mod snapshots;
pub(crate) mod tasks;
mod unpack;

use crate::cri::Runtime;
use crate::peers::{self, Door};
use crate::protocols::runtime::v1 as cri;
use crate::{Config, Error, files};
use base::{Shutdown, clock, process};
use config::{Folders, Generation, Machine};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use registries::Ways;
use rewrite::Rewriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// From start to the first answer; a cold disk with many containers takes its time.
const START_LIMIT: Duration = Duration::from_secs(30);
/// Between two questions whether it answers, while it starts.
const START_STEP: Duration = Duration::from_millis(20);
/// Its log is set aside at a start when it has grown beyond this.
const LOG_BYTES: u64 = 10 << 20;
/// Where programs are looked for besides PATH: services start with a short one.
const PROGRAM_FOLDERS: [&str; 6] =
    ["/usr/local/bin", "/usr/local/sbin", "/usr/bin", "/usr/sbin", "/bin", "/sbin"];

/// What to supervise: found programs and rendered configuration.
pub(crate) struct Containerd {
    program: PathBuf,
    folders: Folders,
    configuration: String,
    /// Between it and mirrors that have images under other names.
    pub(crate) rewriter: Option<Arc<Rewriter>>,
}

/// Where a program is that knarr runs: bundled in its data folder, or on the machine.
pub fn find_program(program: &str, data_dir: &Path) -> Option<PathBuf> {
    find(program, &data_dir.join("agent/bin"))
}

fn find(program: &str, first: &Path) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(PROGRAM_FOLDERS.map(PathBuf::from));
    std::iter::once(first.to_owned()).chain(folders).map(|folder| folder.join(program)).find(|p| p.is_file())
}

/// One sentence with what to type, for the package manager that is there.
fn missing(program: &str) -> Error {
    let managers = [
        ("apt-get", "apt-get install -y containerd runc"),
        ("dnf", "dnf install -y containerd runc"),
        ("apk", "apk add containerd runc"),
        ("zypper", "zypper install -y containerd runc"),
        ("pacman", "pacman -S --noconfirm containerd runc"),
    ];
    let found = managers.iter().find(|(manager, _)| find(manager, Path::new("/usr/bin")).is_some());
    let hint = found.map_or("install the packages containerd and runc", |(_, command)| command);
    Error::Setup(format!(
        "{program} is not installed: {hint} (or name a running runtime with --container-runtime-endpoint)"
    ))
}

impl Containerd {
    /// Finds the programs and writes the configuration; gives where other nodes are asked for images, if they are.
    pub(crate) async fn prepare(config: &Config) -> Result<(Self, Option<Door>), Error> {
        let bundled = config.data_dir.join("agent/bin");
        let program = find("containerd", &bundled).ok_or_else(|| missing("containerd"))?;
        let runc = find("runc", &bundled).ok_or_else(|| missing("runc"))?;
        let mut command = process::command(&program);
        command.arg("--version");
        let version = process::check(command, b"", Duration::from_secs(10))
            .await
            .map_err(|error| Error::Setup(error.to_string()))?;
        let agent = config.data_dir.join("agent");
        let folders = Folders {
            root: agent.join("containerd"),
            state: config.run_dir.join("containerd"),
            cni_bin: agent.join("bin"),
            cni_conf: agent.join("etc/cni/net.d"),
            registries: agent.join("etc/containerd/certs.d"),
            runc,
        };
        let all = [&folders.root, &folders.state, &folders.cni_bin, &folders.cni_conf, &folders.registries];
        all.into_iter().try_for_each(|folder| files::make_folder(folder, 0o711))?;
        let generation = Generation::of(&String::from_utf8_lossy(&version));
        let registries = registries::read(&config.registries)?;
        let own = agent.join("etc/containerd");
        let routes = registries.routes()?;
        let rewriter = if routes.is_empty() {
            None
        } else {
            Some(Arc::new(Rewriter::bind(routes, &own.join("rewrite.json")).await?))
        };
        let door = match &config.peers {
            Some(_) => peers::bind(registries.shared(config.mirrors_alone), &own.join("nodes.json")).await?,
            None => None,
        };
        let place = rewriter.as_ref().map(|rewriter| &rewriter.place);
        let nodes = door.as_ref().map(|door| &door.place);
        let ways = Ways { rewriter: place, nodes, mirrors_alone: config.mirrors_alone };
        registries::write(&registries, &ways, &folders.registries)?;
        let told = config::Told {
            users: registries.users(generation, place),
            stream_idle: config.kubelet().streaming_connection_idle_timeout.to_string(),
        };
        let configuration = config::render(generation, &folders, Machine::detect(), &told);
        Ok((Self { program, folders, configuration, rewriter }, door))
    }

    /// Its socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folders.socket()
    }

    fn pid_file(&self) -> PathBuf {
        self.folders.state.join("containerd.pid")
    }

    /// Whether an earlier knarr left one running with this very configuration; ends one with another.
    pub(crate) async fn adopt(&self, runtime: &Runtime) -> Result<bool, Error> {
        let file = self.folders.root.join("config.toml");
        let same = std::fs::read_to_string(&file).is_ok_and(|text| text == self.configuration);
        let Some(pid) = self.running() else { return Ok(false) };
        if same && runtime.version(cri::VersionRequest::default()).await.is_ok() {
            return Ok(true);
        }
        tracing::info!(
            pid = pid.as_raw(),
            "restarting containerd: its configuration changed, or it does not answer"
        );
        self.end(pid).await;
        Ok(false)
    }

    /// The process in the pid file, if that still is a containerd with our configuration file.
    fn running(&self) -> Option<Pid> {
        let pid: i32 = std::fs::read_to_string(self.pid_file()).ok()?.trim().parse().ok()?;
        let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let ours = self.folders.root.join("config.toml");
        String::from_utf8_lossy(&arguments).contains(ours.to_str()?).then(|| Pid::from_raw(pid))
    }

    async fn end(&self, pid: Pid) {
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            if let Err(error) = kill(pid, signal) {
                tracing::debug!(%error, "containerd was gone already");
            }
            let deadline = clock::instant() + Duration::from_secs(10);
            while self.running().is_some() && clock::instant() < deadline {
                clock::sleep(START_STEP).await;
            }
        }
    }

    fn spawn(&self) -> Result<tokio::process::Child, Error> {
        let file = self.folders.root.join("config.toml");
        files::write(&file, self.configuration.as_bytes(), 0o600)?;
        let log = self.folders.root.join("containerd.log");
        if std::fs::metadata(&log).is_ok_and(|log| log.len() > LOG_BYTES) {
            std::fs::rename(&log, log.with_extension("log.1")).map_err(files::at(&log))?;
        }
        let open =
            || std::fs::OpenOptions::new().create(true).append(true).open(&log).map_err(files::at(&log));
        let mut command = process::command(&self.program);
        // A group of its own: Ctrl-C for knarr must not reach the runtime and the pods.
        command.arg("--config").arg(&file).stdout(open()?).stderr(open()?).process_group(0);
        let child = command
            .spawn()
            .map_err(|error| Error::Setup(format!("cannot start {}: {error}", self.program.display())))?;
        let pid = child.id().map(|pid| pid.to_string()).unwrap_or_default();
        files::write(&self.pid_file(), pid.as_bytes(), 0o600)?;
        Ok(child)
    }

    /// Runs containerd until asked to stop, and leaves it running then. Ends with an error when it dies.
    pub(crate) async fn run(&self, runtime: &Runtime, shutdown: Shutdown) -> Result<(), Error> {
        if self.adopt(runtime).await? {
            tracing::info!("adopted the running containerd");
            tokio::select! {
                () = events::until_closed(runtime) => {}
                () = shutdown.requested() => return Ok(()),
            }
            return Err(Error::Setup("containerd went away".to_owned()));
        }
        let mut child = self.spawn()?;
        tokio::select! {
            status = child.wait() => {
                let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                Err(Error::Setup(format!("containerd ended ({status}): {}", self.last_words())))
            }
            () = shutdown.requested() => Ok(()),
        }
    }

    /// The last line of its log that tells of trouble.
    pub(crate) fn last_words(&self) -> String {
        let text = std::fs::read_to_string(self.folders.root.join("containerd.log")).unwrap_or_default();
        let line =
            text.lines().rev().find(|line| line.contains("level=fatal") || line.starts_with("containerd:"));
        line.or_else(|| text.lines().last()).unwrap_or("no log").to_owned()
    }
}

/// Waits until the runtime answers.
pub(crate) async fn answering(runtime: &Runtime) -> Result<cri::VersionResponse, Error> {
    let deadline = clock::instant() + START_LIMIT;
    loop {
        match runtime.version(cri::VersionRequest::default()).await {
            Ok(version) => return Ok(version),
            Err(error) if clock::instant() > deadline => return Err(error),
            Err(_) => clock::sleep(START_STEP).await,
        }
    }
}
