//! The one door through which processes are started: always with a time limit or an owner, never
//! through a shell, and never with a secret among the arguments.

use std::ffi::OsStr;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// What a process printed, and how it ended.
#[derive(Debug)]
pub struct Output {
    /// Its exit status.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

/// Why a process gave no usable output. None of these is worth an immediate retry.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be started; not installed, most often.
    #[error("cannot start {program}: {source}")]
    Start {
        /// The program's name or path.
        program: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// It was killed because it took too long.
    #[error("{program} did not end within {limit_s} s")]
    Timeout {
        /// The program's name or path.
        program: String,
        /// The limit.
        limit_s: u64,
    },
    /// It ended with a failure.
    #[error("{program} failed ({status}): {stderr}")]
    Failed {
        /// The program's name or path.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// The start of what it printed on standard error.
        stderr: String,
    },
}

/// How much of a failed process' standard error goes into [`Error::Failed`].
const STDERR_BYTES: usize = 2_000;

/// A command for a caller that owns the child's whole life, such as a supervised daemon.
#[expect(clippy::disallowed_methods, reason = "this is the function that the ban points to")]
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    command
}

/// Runs a program to its end with `input` on its standard input. A failing exit status is no error
/// here; see [`check`].
pub async fn run(mut command: Command, input: &[u8], limit: Duration) -> Result<Output, Error> {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    command.stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|source| Error::Start { program: program.clone(), source })?;
    let stdin = child.stdin.take();
    let feed = async {
        if let Some(mut stdin) = stdin {
            // A program that ends without reading its input reports that by its exit status.
            if let Err(error) = stdin.write_all(input).await {
                tracing::debug!(%error, "a child closed its input early");
            }
        }
    };
    let both = async { tokio::join!(feed, child.wait_with_output()).1 };
    match tokio::time::timeout(limit, both).await {
        Err(_) => Err(Error::Timeout { program, limit_s: limit.as_secs() }),
        Ok(Err(source)) => Err(Error::Start { program, source }),
        Ok(Ok(output)) => Ok(Output { status: output.status, stdout: output.stdout, stderr: output.stderr }),
    }
}

/// Like [`run`], and a failing exit status is an error. Returns the standard output.
pub async fn check(command: Command, input: &[u8], limit: Duration) -> Result<Vec<u8>, Error> {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    let output = run(command, input, limit).await?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let end = output.stderr.len().min(STDERR_BYTES);
    let stderr = String::from_utf8_lossy(&output.stderr[..end]).trim().to_owned();
    Err(Error::Failed { program, status: output.status, stderr })
}
