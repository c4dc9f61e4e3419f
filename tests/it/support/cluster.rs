//! A cluster in a sandbox, driven by the machine's kubectl.

use super::https::Account;
use super::process::{Output, run, wait_for};
use super::sandbox::{Background, Sandbox};
use super::{binary, image};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the API is, from within the sandbox.
pub(crate) const API: &str = "https://127.0.0.1:6443";
/// curl's words for being the administrator.
pub(crate) const ADMINISTRATOR: [&str; 4] = ["--cert", "client.pem", "--key", "client.key"];

/// The image of most tests' pods.
pub(crate) const IMAGE: &str = "knarr.test/busybox:1";
/// The same with another page, for rollouts.
pub(crate) const IMAGE_2: &str = "knarr.test/busybox:2";

/// Enough for anything a healthy cluster does, on a machine with other work.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// Thresholds of eviction that only a full disk crosses.
pub(crate) const DISK: &str =
    "eviction-hard=memory.available<100Mi,nodefs.available<64Mi,imagefs.available<64Mi";

/// How long one kubectl may take.
pub(crate) const COMMAND: Duration = Duration::from_secs(90);

/// See the module's comment.
pub(crate) struct Cluster {
    server: Option<Background>,
    pub(crate) sandbox: Sandbox,
    flags: Vec<String>,
    /// Where knarr finds programs, if not where the tests do.
    path: Option<String>,
}

/// Tells processes another time than the machine's.
pub(crate) const FAKE_CLOCK: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

impl Cluster {
    /// A running cluster whose node is Ready and has the images.
    pub(crate) fn new() -> Self {
        let mut cluster = Self::prepared(&[]);
        cluster.start();
        cluster
    }

    /// A running cluster as [`Cluster::new`] makes it, whose kubelet is told more.
    pub(crate) fn with_kubelet_args(arguments: &[&str]) -> Self {
        let mut cluster = Self::prepared(&[]);
        cluster.tell_kubelet(arguments);
        cluster.start();
        cluster
    }

    /// Adds flags of the kubelet for the next start.
    pub(crate) fn tell_kubelet(&mut self, arguments: &[&str]) {
        let flags =
            arguments.iter().flat_map(|argument| ["--kubelet-arg".to_owned(), (*argument).to_owned()]);
        self.flags.extend(flags);
    }

    /// Adds flags for the next start.
    pub(crate) fn tell(&mut self, flags: &[&str]) {
        self.flags.extend(flags.iter().map(|flag| (*flag).to_owned()));
    }

    /// Has knarr find the programs of a folder before the machine's, from the next start on.
    pub(crate) fn find_first(&mut self, folder: &std::path::Path) {
        let path = std::env::var("PATH").unwrap_or_default();
        self.path = Some(format!("{}:{path}", folder.display()));
    }

    /// A control plane without a node.
    pub(crate) fn control_plane() -> Self {
        let mut cluster = Self::prepared(&["--disable-agent"]);
        cluster.start();
        cluster
    }

    /// An API server alone: nobody acts on its objects but who asks.
    pub(crate) fn api_server() -> Self {
        let mut cluster =
            Self::prepared(&["--disable-agent", "--disable-controller-manager", "--disable-scheduler"]);
        cluster.start();
        cluster
    }

    /// A cluster that has not been started.
    pub(crate) fn prepared(more: &[&str]) -> Self {
        let sandbox = Sandbox::new();
        let at = |name: &str| sandbox.folder.join(name).display().to_string();
        let images = sandbox.folder.join("data/agent/images");
        fs::create_dir_all(&images).unwrap();
        if more.is_empty() {
            image::write(&images.join("busybox-1.tar"), IMAGE, "version 1\n");
            image::write(&images.join("busybox-2.tar"), IMAGE_2, "version 2\n");
        }
        let mut flags: Vec<String> = vec!["server".to_owned()];
        for (flag, name) in [
            ("--config", "config.yaml"),
            ("--data-dir", "data"),
            ("--run-dir", "run"),
            ("--kubelet-dir", "kubelet"),
            ("--log-dir", "log"),
            ("--write-kubeconfig", "kubeconfig"),
        ] {
            flags.extend([flag.to_owned(), at(name)]);
        }
        flags.extend(["--node-name".to_owned(), "node-1".to_owned()]);
        // However full the machine's disk is, it is no matter of the cluster's.
        for argument in ["image-gc-high-threshold=100", DISK] {
            flags.extend(["--kubelet-arg".to_owned(), argument.to_owned()]);
        }
        flags.extend(more.iter().map(|flag| (*flag).to_owned()));
        Self { server: None, sandbox, flags, path: None }
    }

    fn log(&self) -> PathBuf {
        self.sandbox.folder.join("knarr.log")
    }

    /// Starts knarr and waits until it says that it is ready.
    pub(crate) fn start(&mut self) {
        self.start_as(&binary());
    }

    /// The same with another executable.
    pub(crate) fn start_as(&mut self, binary: &Path) {
        let binary = binary.display().to_string();
        let words: Vec<&str> =
            [binary.as_str()].into_iter().chain(self.flags.iter().map(String::as_str)).collect();
        let before = self.screen().matches("Ready in").count();
        let find = |command: &mut std::process::Command| {
            if let Some(path) = &self.path {
                command.env("PATH", path);
            }
            self.wind(command);
        };
        let mut server = self.sandbox.background(&self.log(), find, &words);
        wait_for("knarr that says Ready", SOON, || {
            let screen = self.screen();
            let ended = server.ended();
            assert!(ended.is_none(), "knarr ended with {ended:?}: {screen}");
            (screen.matches("Ready in").count() > before).then_some(())
        });
        self.server = Some(server);
        self.write_identity();
    }

    /// What the kubeconfig says as files, for programs that do not read it.
    fn write_identity(&self) {
        let Account { authorities, certificate, key, .. } = Account::read(&self.kubeconfig());
        for (file, pem) in [("ca.pem", authorities), ("client.pem", certificate), ("client.key", key)] {
            fs::write(self.sandbox.folder.join(file), pem).unwrap();
        }
    }

    /// Sets the clock of what is started from now on, and of what follows it already, such as `-2y` or `+0`.
    pub(crate) fn set_clock(&self, offset: &str) {
        assert!(Path::new(FAKE_CLOCK).is_file(), "apt-get install -y --no-install-recommends libfaketime");
        fs::write(self.sandbox.folder.join("clock"), offset).unwrap();
    }

    /// Has a process follow that clock, if there is one. Monotonic time goes on as it does.
    pub(crate) fn wind(&self, command: &mut std::process::Command) {
        let clock = self.sandbox.folder.join("clock");
        if clock.exists() {
            command.env("LD_PRELOAD", FAKE_CLOCK).env("FAKETIME_TIMESTAMP_FILE", clock);
            for name in
                ["FAKETIME_NO_CACHE", "FAKETIME_DONT_FAKE_MONOTONIC", "FAKETIME_DISABLE_SHM", "NO_FAKE_STAT"]
            {
                command.env(name, "1");
            }
        }
    }

    pub(crate) fn kubeconfig(&self) -> String {
        fs::read_to_string(self.sandbox.folder.join("kubeconfig")).unwrap()
    }

    /// Runs curl, which trusts the cluster's authority.
    pub(crate) fn curl(&self, words: &[&str]) -> Output {
        self.sandbox.run(&[&["curl", "-sS", "--max-time", "20", "--cacert", "ca.pem"], words].concat())
    }

    /// Runs `knarr server` to its end where it is expected to fail.
    pub(crate) fn fails(&self, more: &[&str]) -> Output {
        let binary = binary().display().to_string();
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        self.sandbox.run(&[&[binary.as_str()], flags.as_slice(), more].concat())
    }

    /// What knarr has printed.
    pub(crate) fn screen(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// Stops knarr by a signal; the pods go on. Gives its exit code.
    pub(crate) fn stop(&mut self, signal: &str) -> i32 {
        self.server.take().expect("it runs").stop(signal)
    }

    /// Runs kubectl with `input` on its standard input.
    pub(crate) fn kubectl_with(&self, input: &str, words: &[&str]) -> Output {
        let all: Vec<&str> = ["kubectl"].iter().chain(words).copied().collect();
        let mut command = self.sandbox.command(COMMAND, &all);
        command.env("KUBECONFIG", self.sandbox.folder.join("kubeconfig"));
        run(command, input)
    }

    /// Runs kubectl, which may fail.
    pub(crate) fn try_kubectl(&self, words: &[&str]) -> Output {
        self.kubectl_with("", words)
    }

    /// Runs kubectl, its arguments in one text without quoting.
    #[track_caller]
    pub(crate) fn kubectl(&self, line: &str) -> String {
        self.try_kubectl(&line.split_whitespace().collect::<Vec<_>>()).ok()
    }

    /// Runs a shell script in a pod.
    pub(crate) fn exec(&self, pod: &str, script: &str) -> Output {
        self.try_kubectl(&["exec", pod, "--", "sh", "-c", script])
    }

    /// Starts a kubectl that runs until it is dropped, its output in the file `log`.
    pub(crate) fn kubectl_background(&self, log: &str, line: &str) -> Background {
        let words: Vec<&str> = ["kubectl"].into_iter().chain(line.split_whitespace()).collect();
        let kubeconfig = self.sandbox.folder.join("kubeconfig");
        let set = |command: &mut std::process::Command| {
            command.env("KUBECONFIG", kubeconfig);
        };
        self.sandbox.background(&self.sandbox.folder.join(log), set, &words)
    }

    /// Applies a manifest.
    #[track_caller]
    pub(crate) fn apply(&self, manifest: &str) -> String {
        self.kubectl_with(manifest, &["apply", "-f", "-"]).ok()
    }

    /// An object, or a list, as JSON; null where there is none.
    pub(crate) fn json(&self, what: &str) -> Value {
        let line = format!("get {what} -o json");
        let output = self.try_kubectl(&line.split_whitespace().collect::<Vec<_>>());
        if output.code == 0 { serde_json::from_str(&output.stdout).unwrap() } else { Value::Null }
    }

    /// Polls an object until `look` finds what it wants; panics with the object otherwise.
    #[track_caller]
    pub(crate) fn wait<T>(&self, what: &str, mut look: impl FnMut(&Value) -> Option<T>) -> T {
        let mut last = Value::Null;
        let deadline = base::clock::instant() + SOON;
        wait_for(what, SOON * 2, || {
            last = self.json(what);
            let found = look(&last);
            assert!(found.is_some() || base::clock::instant() < deadline, "{what} stays {last:#}");
            found
        })
    }

    /// Waits for a pod to be Ready.
    #[track_caller]
    pub(crate) fn pod_ready(&self, name: &str) {
        self.wait(&format!("pod {name}"), |pod| is_ready(pod).then_some(()));
    }

    /// Waits for a pod to have ended; gives its phase.
    #[track_caller]
    pub(crate) fn pod_ended(&self, name: &str) -> String {
        self.wait(&format!("pod {name}"), |pod| {
            let phase = pod["status"]["phase"].as_str()?;
            matches!(phase, "Succeeded" | "Failed").then(|| phase.to_owned())
        })
    }

    /// The pods that a selector matches and that are not on their way out.
    pub(crate) fn pods(&self, selector: &str) -> Vec<Value> {
        let list = self.json(&format!("pods -l {selector}"));
        let items = list["items"].as_array().cloned().unwrap_or_default();
        items.into_iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).collect()
    }

    /// Waits until a selector matches `count` pods, all Ready, and gives them.
    #[track_caller]
    pub(crate) fn pods_ready(&self, selector: &str, count: usize) -> Vec<Value> {
        wait_for(&format!("{count} pods {selector}"), SOON, || {
            let pods = self.pods(selector);
            (pods.len() == count && pods.iter().all(is_ready)).then_some(pods)
        })
    }

    /// Fetches from within the sandbox; None where nothing answers properly.
    pub(crate) fn fetch(&self, url: &str) -> Option<String> {
        let output = self.sandbox.run(&["curl", "-sf", "--max-time", "2", url]);
        (output.code == 0).then_some(output.stdout)
    }

    /// Waits until `url` answers with `wanted`.
    #[track_caller]
    pub(crate) fn answers(&self, url: &str, wanted: &str) {
        wait_for(&format!("{wanted:?} from {url}"), SOON, || (self.fetch(url)? == wanted).then_some(()));
    }

    /// Messages of events about an object, with their reasons.
    pub(crate) fn events(&self, name: &str) -> Vec<(String, String)> {
        let list = self.json(&format!("events --field-selector involvedObject.name={name}"));
        let text = |event: &Value, key: &str| event[key].as_str().unwrap_or_default().to_owned();
        let events = list["items"].as_array().into_iter().flatten();
        events.map(|event| (text(event, "reason"), text(event, "message"))).collect()
    }

    /// Waits for an event with a reason and gives its message.
    #[track_caller]
    pub(crate) fn event(&self, name: &str, reason: &str) -> String {
        wait_for(&format!("event {reason} about {name}"), SOON, || {
            self.events(name).into_iter().find(|(own, _)| own == reason).map(|(_, message)| message)
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let screen = self.screen();
            let lines: Vec<&str> = screen.lines().collect();
            eprintln!("--- knarr\n{}", lines[lines.len().saturating_sub(60)..].join("\n"));
            for line in ["get all -A -o wide", "get events"] {
                let output = self.try_kubectl(&line.split_whitespace().collect::<Vec<_>>());
                eprintln!("--- kubectl {line}\n{}{}", output.stdout, output.stderr);
            }
        }
    }
}

/// Whether a pod's condition Ready is True.
pub(crate) fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|one| one["type"] == "Ready" && one["status"] == "True")
}

/// The id of a pod's first container, without the runtime's prefix.
pub(crate) fn container_id(pod: &Value) -> String {
    let id = pod["status"]["containerStatuses"][0]["containerID"].as_str().unwrap_or_default();
    id.rsplit('/').next().unwrap_or_default().to_owned()
}

/// How often a pod's first container was started again.
pub(crate) fn restarts(pod: &Value) -> i64 {
    pod["status"]["containerStatuses"][0]["restartCount"].as_i64().unwrap_or(-1)
}

/// An object's name.
pub(crate) fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}
