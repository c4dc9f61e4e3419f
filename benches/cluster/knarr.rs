//! A running `knarr server`.

use crate::Failure;
use crate::api::Api;
use crate::subject::{Subject, Usage};
use base::clock::{self, Instant};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::{UdpSocket, UnixDatagram};
use tokio::process::Child;

/// Beyond this a start has failed.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How often it is asked whether the node is Ready and DNS answers.
const POLL: Duration = Duration::from_millis(10);
const DNS: ([u8; 4], u16) = ([10, 43, 0, 10], 53);

pub(crate) struct Knarr {
    child: Child,
    folder: PathBuf,
    agent: bool,
    started: Instant,
    notifications: UnixDatagram,
}

impl Knarr {
    /// Starts a server whose data are in `folder`.
    pub(crate) fn start(executable: &Path, folder: &Path, flags: &[&str]) -> Result<Self, Failure> {
        std::fs::create_dir_all(folder)?;
        let socket = folder.join("notify");
        if socket.exists() {
            std::fs::remove_file(&socket)?;
        }
        let notifications = UnixDatagram::bind(&socket)?;
        let log = std::fs::File::create(folder.join("log"))?;
        let mut command = base::process::command(executable);
        let own = [
            ("--data-dir", "data"),
            ("--run-dir", "run"),
            ("--kubelet-dir", "kubelet"),
            ("--log-dir", "logs"),
            ("--write-kubeconfig", "kubeconfig"),
            ("--config", "none"),
        ];
        command.arg("server").args(flags);
        for (flag, name) in own {
            command.arg(flag).arg(folder.join(name));
        }
        command.env("NOTIFY_SOCKET", &socket).stdout(log.try_clone()?).stderr(log);
        let started = clock::instant();
        let child = command.spawn()?;
        let agent = !flags.contains(&"--disable-agent");
        Ok(Self { child, folder: folder.to_owned(), agent, started, notifications })
    }

    /// Waits until it says it is ready, its node is Ready in the API and DNS answers a query.
    pub(crate) async fn ready(mut self) -> Result<(Self, Duration), Failure> {
        let ready = tokio::time::timeout(START_LIMIT, self.answers());
        let failure: Failure = match ready.await {
            Ok(Ok(())) => {
                let took = self.started.elapsed();
                return Ok((self, took));
            }
            Ok(Err(failure)) => failure,
            Err(_) => "it was not ready in time".into(),
        };
        self.child.start_kill()?;
        Err(with_last_words(failure, &self.log()))
    }

    async fn answers(&self) -> Result<(), Failure> {
        let mut text = [0; 64];
        let length = self.notifications.recv(&mut text).await?;
        if !text[..length].starts_with(b"READY=1") {
            return Err("it stopped".into());
        }
        if !self.agent {
            return Ok(());
        }
        let api = self.api()?;
        while !(node_is_ready(&api).await && dns_answers().await?) {
            clock::sleep(POLL).await;
        }
        Ok(())
    }

    /// A connection of its own, as the administrator.
    pub(crate) fn api(&self) -> Result<Api, Failure> {
        Api::new(&self.kubeconfig()?)
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    fn pid(&self) -> Result<u32, Failure> {
        self.child.id().ok_or_else(|| "knarr ended by itself".into())
    }

    /// What load is put on, as the administrator.
    pub(crate) fn subject(&self) -> Result<Subject, Failure> {
        Ok(Subject { kubeconfig: self.kubeconfig()?, processes: vec![self.pid()?] })
    }

    /// The administrator's access, were the API at another port of this machine.
    pub(crate) fn kubeconfig_for_port(&self, port: &str) -> Result<String, Failure> {
        Ok(self.kubeconfig()?.replace(":6443", &format!(":{port}")))
    }

    /// Where everything of it is.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its containerd.
    pub(crate) fn runtime_socket(&self) -> PathBuf {
        self.folder.join("run/containerd/containerd.sock")
    }

    /// Whether its node still has folders of pods.
    pub(crate) fn holds_pods(&self) -> Result<bool, Failure> {
        Ok(std::fs::read_dir(self.folder.join("kubelet/pods"))?.next().is_some())
    }

    /// Where its certificates and keys are.
    pub(crate) fn certificates(&self) -> PathBuf {
        self.folder.join("data/server/tls")
    }

    fn kubeconfig(&self) -> Result<String, Failure> {
        Ok(std::fs::read_to_string(self.folder.join("kubeconfig"))?)
    }

    /// Asks it to stop, and waits.
    pub(crate) async fn stop(&mut self) -> Result<(), Failure> {
        kill(Pid::from_raw(self.pid()?.cast_signed()), Signal::SIGTERM)?;
        tokio::time::timeout(START_LIMIT, self.child.wait()).await??;
        Ok(())
    }

    pub(crate) fn usage(&self) -> Result<Usage, Failure> {
        Usage::of(self.pid()?)
    }
}

/// A failure together with the end of a log.
pub(crate) fn with_last_words(failure: Failure, log: &Path) -> Failure {
    let log = std::fs::read_to_string(log).unwrap_or_default();
    let tail: Vec<&str> = log.lines().rev().take(20).collect();
    format!("{failure}; the log's last lines, backwards:\n{}", tail.join("\n")).into()
}

async fn node_is_ready(api: &Api) -> bool {
    let Ok(nodes) = api.get("/api/v1/nodes").await else { return false };
    let conditions = nodes["items"][0]["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// Asks cluster DNS for the API's own name.
async fn dns_answers() -> Result<bool, Failure> {
    let socket = UdpSocket::bind("0.0.0.0:0").await?;
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in ["kubernetes", "default", "svc", "cluster", "local"] {
        query.push(u8::try_from(label.len())?);
        query.extend(label.bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    let mut answer = [0; 512];
    if socket.send_to(&query, SocketAddr::from(DNS)).await.is_err() {
        return Ok(false);
    }
    let received = tokio::time::timeout(Duration::from_millis(200), socket.recv(&mut answer)).await;
    // No error (the low bits of byte 3), and at least one answer (byte 7).
    Ok(matches!(received, Ok(Ok(_))) && answer[3] & 0xf == 0 && answer[7] > 0)
}

/// A field of an object as text, empty where it is not.
pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
