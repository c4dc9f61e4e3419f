//! What runs in containers: its streams and how it ended, and ports forwarded to it.

mod detach;
pub(crate) mod forward;
mod upgrade;
mod wire;

pub(crate) use detach::{DEFAULT as DETACH_KEYS, Detach};
pub(crate) use upgrade::alone;
pub(crate) use wire::STDOUT;

use crate::error::Error;
use crate::output;
use crate::session::Session;
use crate::terminal::{self, Endings};
use serde_json::Value;
use std::io::Write;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::signal::unix::{SignalKind, signal};
use wire::{ERROR, Heard, RESIZE, STDERR, STDIN, Said};

/// How much of standard input goes into one message.
const CHUNK: usize = 32 << 10;
/// How long output is still waited for of a process whose end was told.
const ENDING: Duration = Duration::from_secs(5);

/// Takes what is written on a channel.
pub(crate) type Out<'a> = dyn FnMut(u8, &[u8]) -> Result<(), Error> + 'a;

/// Where a process' streams begin and end.
pub(crate) struct Ends<'a> {
    /// What it reads.
    pub(crate) stdin: Option<Box<dyn AsyncRead + Unpin + 'a>>,
    /// Takes what it writes on [`STDOUT`] and [`STDERR`].
    pub(crate) out: &'a mut Out<'a>,
    /// The terminal is its, and these keys leave it.
    pub(crate) tty: Option<Tty>,
    /// Its errors are wanted apart.
    pub(crate) stderr: bool,
}

/// A terminal that a process is given.
#[derive(Default)]
pub(crate) struct Tty {
    pub(crate) detach: Option<Detach>,
    /// Tell another size first: what is shown is then drawn anew.
    pub(crate) redraw: bool,
}

/// Standard input, output and errors of this process.
pub(crate) fn standard(channel: u8, bytes: &[u8]) -> Result<(), Error> {
    if channel == STDOUT {
        return output::write(bytes);
    }
    let mut err = std::io::stderr().lock();
    err.write_all(bytes).and_then(|()| err.flush()).map_err(|_| Error::Said(1))
}

/// Carries streams until the process ends, whose exit code becomes the error's.
pub(crate) async fn run(session: &Session, path: &str, ends: Ends<'_>) -> Result<(), Error> {
    let tty = ends.tty.is_some();
    let exists = |channel: &u8| match *channel {
        STDIN => ends.stdin.is_some(),
        STDERR => ends.stderr,
        RESIZE => tty,
        _ => true,
    };
    let channels: Vec<u8> = [ERROR, STDIN, STDOUT, STDERR, RESIZE].into_iter().filter(exists).collect();
    let path = format!(
        "{path}{}stdin={}&stdout=true&stderr={}&tty={tty}",
        if path.contains('?') { '&' } else { '?' },
        ends.stdin.is_some(),
        ends.stderr
    );
    let (said, heard) = wire::open(session, &path, &channels).await?;
    let Ends { stdin, out, tty, .. } = ends;
    tokio::select! {
        status = listen(heard, out) => ended(&status?),
        left = speak(said, stdin, tty) => left,
    }
}

/// Takes what is written; the status when the process has ended and everything was said.
async fn listen(mut heard: Heard, out: &mut Out<'_>) -> Result<Value, Error> {
    let mut status = None;
    loop {
        let next = match &status {
            None => heard.next().await?,
            // Who tells the end need not close the connection.
            Some(_) => tokio::time::timeout(ENDING, heard.next()).await.unwrap_or(Ok(None)).unwrap_or(None),
        };
        match next {
            Some((channel @ (STDOUT | STDERR), bytes)) if !bytes.is_empty() => out(channel, &bytes)?,
            Some((ERROR, bytes)) => {
                status = Some(
                    serde_json::from_slice(&bytes)
                        .map_err(|_| Error::plain(String::from_utf8_lossy(&bytes).into_owned()))?,
                );
            }
            Some(_) => {}
            None => break,
        }
    }
    status.ok_or_else(|| Error::plain("the server closed the connection before the command ended"))
}

/// Sends input and terminal sizes; returns when the keys that leave were typed, or a signal ends this process.
async fn speak(
    mut said: Said,
    stdin: Option<Box<dyn AsyncRead + Unpin + '_>>,
    tty: Option<Tty>,
) -> Result<(), Error> {
    let mut resized = signal(SignalKind::window_change()).map_err(|error| Error::plain(error.to_string()))?;
    let is_tty = tty.is_some();
    // Without a terminal they end this process by themselves.
    let mut ending = if is_tty { Some(Endings::listen()?) } else { None };
    if let Some(Tty { redraw: true, .. }) = &tty
        && let Some(size) = terminal::size(1)
    {
        said.send(RESIZE, size.as_bytes()).await;
    }
    if is_tty && let Some(size) = terminal::size(0) {
        said.send(RESIZE, size.as_bytes()).await;
    }
    let mut detach = tty.and_then(|tty| tty.detach);
    let mut input = stdin;
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = async {
            match &mut input {
                Some(input) => input.read(&mut buffer).await.unwrap_or(0),
                None => std::future::pending().await,
            }
        };
        let signalled = async {
            match &mut ending {
                Some(ending) => ending.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            count = read => {
                if count == 0 {
                    input = None;
                    said.close(STDIN).await;
                    continue;
                }
                let (sent, left) = match &mut detach {
                    Some(detach) => detach.pass(&buffer[..count]),
                    None => (buffer[..count].to_vec(), false),
                };
                if !sent.is_empty() {
                    said.send(STDIN, &sent).await;
                }
                if left {
                    said.close(STDIN).await;
                    return Ok(());
                }
            }
            _ = resized.recv(), if is_tty => {
                if let Some(size) = terminal::size(0) {
                    said.send(RESIZE, size.as_bytes()).await;
                }
            }
            () = signalled => return Err(Error::Said(1)),
        }
    }
}

/// The process' exit code is kubectl's.
fn ended(status: &Value) -> Result<(), Error> {
    if status["status"] == "Success" {
        return Ok(());
    }
    let causes = status["details"]["causes"].as_array();
    let code = causes.into_iter().flatten().find(|cause| cause["reason"] == "ExitCode");
    match code.and_then(|cause| cause["message"].as_str()).and_then(|code| code.parse::<u8>().ok()) {
        Some(code) => Err(Error::Exit(format!("command terminated with exit code {code}"), code)),
        None => Err(Error::plain(status["message"].as_str().unwrap_or("the command could not be run"))),
    }
}
