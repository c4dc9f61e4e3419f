//! logind: a lock that delays a shutdown, and word of one that is to come. It is spoken to by systemd's own programs,
//! which a machine with logind has; nothing runs unless the settings ask for time.

use crate::{Error, files};
use base::process::{self, check};
use serde_json::Value;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};

const SERVICE: &str = "org.freedesktop.login1";
const OBJECT: &str = "/org/freedesktop/login1";
const INTERFACE: &str = "org.freedesktop.login1.Manager";
/// How long one question may take.
const ANSWER: Duration = Duration::from_secs(10);
/// How often it is asked whether the new limit holds.
const ATTEMPTS: u32 = 5;
/// Where the limit is raised, under the name that Kubernetes gives it.
const OVERRIDE: &str = "/etc/systemd/logind.conf.d/99-kubelet.conf";

fn failed(what: &str, error: &dyn std::fmt::Display) -> Error {
    Error::Setup(format!("logind: {what}: {error}"))
}

/// How long inhibitors may delay a shutdown, in microseconds: `t 5000000`.
fn limit_us(answer: &str) -> Option<u64> {
    answer.trim().strip_prefix("t ")?.trim().parse().ok()
}

async fn limit() -> Result<u64, Error> {
    let mut ask = process::command("busctl");
    ask.args(["--system", "get-property", SERVICE, OBJECT, INTERFACE, "InhibitDelayMaxUSec"]);
    let answer = check(ask, b"", ANSWER).await.map_err(|error| failed("reading its limit", &error))?;
    let text = String::from_utf8_lossy(&answer);
    limit_us(&text).ok_or_else(|| failed("reading its limit", &text))
}

/// Has logind wait for so long, if it would not.
pub(super) async fn allow(seconds: u64) -> Result<(), Error> {
    let wanted = seconds * 1_000_000;
    if limit().await? >= wanted {
        return Ok(());
    }
    let path = Path::new(OVERRIDE);
    if let Some(folder) = path.parent() {
        files::make_folder(folder, 0o755)?;
    }
    let text = format!(
        "# Written by knarr: pods are given this long to end.\n[Login]\nInhibitDelayMaxSec={seconds}\n"
    );
    files::write(path, text.as_bytes(), 0o644)?;
    let mut reload = process::command("systemctl");
    reload.args(["kill", "--signal=HUP", "systemd-logind.service"]);
    check(reload, b"", ANSWER).await.map_err(|error| failed("reading its settings again", &error))?;
    for attempt in 0..ATTEMPTS {
        if limit().await? >= wanted {
            return Ok(());
        }
        base::clock::sleep(Duration::from_millis(100 << attempt)).await;
    }
    Err(failed("raising its limit", &format!("it does not wait for {seconds} s")))
}

/// A lock that delays a shutdown for as long as it is held.
pub(super) struct Lock {
    _holder: Child,
}

impl Lock {
    pub(super) fn take() -> Result<Self, Error> {
        let mut hold = process::command("systemd-inhibit");
        hold.args(["--what=shutdown", "--who=kubelet", "--mode=delay"]);
        hold.args(["--why=Kubelet needs time to handle node shutdown", "sleep", "infinity"]);
        // The program holds the lock, and not what it runs: with it the lock goes.
        hold.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let holder = hold.spawn().map_err(|error| failed("taking a lock", &error))?;
        Ok(Self { _holder: holder })
    }
}

/// Word of shutdowns.
pub(super) struct News {
    lines: Lines<BufReader<ChildStdout>>,
    _monitor: Child,
}

impl News {
    pub(super) fn follow() -> Result<Self, Error> {
        let rule =
            format!("type='signal',interface='{INTERFACE}',member='PrepareForShutdown',path='{OBJECT}'");
        let mut monitor = process::command("busctl");
        monitor.args(["--system", "--json=short", "--match", &rule, "monitor"]);
        monitor.stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut monitor = monitor.spawn().map_err(|error| failed("listening", &error))?;
        let out = monitor.stdout.take().ok_or_else(|| failed("listening", &"nothing can be read"))?;
        Ok(Self { lines: BufReader::new(out).lines(), _monitor: monitor })
    }

    /// The next word: whether a shutdown begins, or was called off.
    pub(super) async fn next(&mut self) -> Result<bool, Error> {
        loop {
            let line = self.lines.next_line().await.map_err(|error| failed("listening", &error))?;
            let line = line.ok_or_else(|| failed("listening", &"it has ended"))?;
            if let Some(begins) = begins(&line) {
                return Ok(begins);
            }
        }
    }
}

/// What a line of the monitor says of a shutdown.
fn begins(line: &str) -> Option<bool> {
    let message: Value = serde_json::from_str(line).ok()?;
    (message["member"] == "PrepareForShutdown").then(|| message["payload"]["data"][0].as_bool()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        assert_eq!(limit_us("t 5000000\n"), Some(5_000_000));
        assert_eq!(limit_us("s \"x\""), None);
        let line = r#"{"type":"signal","member":"PrepareForShutdown","payload":{"type":"b","data":[true]}}"#;
        assert_eq!(begins(line), Some(true));
        assert_eq!(begins(&line.replace("true", "false")), Some(false));
        assert_eq!(begins(&line.replace("PrepareForShutdown", "PrepareForSleep")), None);
        assert_eq!(begins("no JSON"), None);
    }
}
