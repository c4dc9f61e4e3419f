//! Programs that tests run to their end, with a limit.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// How a program ended, and what it said.
#[derive(Debug)]
pub(crate) struct Output {
    /// 124 when it took too long.
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Output {
    /// What it said, which has to have succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "a command failed: {}{}", self.stdout, self.stderr);
        self.stdout
    }

    /// Its complaint, which has to have failed.
    #[track_caller]
    pub(crate) fn err(self) -> String {
        assert_ne!(self.code, 0, "a command succeeded: {}{}", self.stdout, self.stderr);
        self.stderr
    }
}

/// A command of the standard library, which needs no runtime.
pub(crate) fn command(program: impl AsRef<Path>) -> Command {
    base::process::command(program.as_ref()).into_std()
}

/// `words` as a command that is killed after `limit`.
pub(crate) fn limited(limit: Duration, words: &[&str]) -> Command {
    let mut command = command("timeout");
    command.arg("--kill-after=2").arg(limit.as_secs().to_string()).args(words);
    command
}

/// Runs a command to its end with `input`.
pub(crate) fn run(mut command: Command, input: &str) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let mut stdin = child.stdin.take().expect("it is piped");
    let feed = input.to_owned();
    let feeder = std::thread::spawn(move || match stdin.write_all(feed.as_bytes()) {
        // A program may end without having read its input.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => panic!("{error}"),
        _ => {}
    });
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Output {
        code: output.status.code().unwrap_or(-1),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// Polls until `look` finds something; panics with `what` when that takes longer than `limit`.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = base::clock::instant() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(base::clock::instant() < deadline, "within {limit:?} there was no {what}");
        pause();
    }
}

/// The time between two looks.
#[expect(clippy::disallowed_methods, reason = "between two looks at a state, on the test's own thread")]
fn pause() {
    std::thread::sleep(Duration::from_millis(100));
}
