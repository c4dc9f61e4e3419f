//! `kubectl cp`: files to and from containers, by the `tar` that is in them.

mod pack;
mod spec;
mod unpack;

use super::exec::{self, Asked};
use crate::error::Error;
use crate::output;
use crate::remote::{self, Ends, STDOUT};
use crate::session::Session;
use clap::Args;
use serde_json::Value;
use spec::{Place, Remote};
use std::path::Path;
use std::time::Duration;
use tokio::io::duplex;
use unpack::Unpack;

/// How long it may take to see whether there is a folder.
const LOOK: Duration = Duration::from_secs(30);
/// What is read ahead of files that are sent.
const AHEAD: usize = 128 << 10;

#[derive(Args)]
pub(crate) struct Cp {
    /// From and to: a path, or [NAMESPACE/]POD:PATH
    words: Vec<String>,
    /// The container
    #[arg(long, short, default_value = "", hide_default_value = true)]
    container: String,
    /// Leave owners and permissions to the container
    #[arg(long)]
    no_preserve: bool,
    /// How often a copy from a container is taken up again that broke off; -1 for as often as it takes
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    retries: i64,
}

pub(crate) async fn run(session: &Session, args: &Cp) -> Result<(), Error> {
    let [from, to] = args.words.as_slice() else {
        return Err(Error::plain("source and destination are required"));
    };
    let (from, to) = (spec::parse(from)?, spec::parse(to)?);
    if from.is_empty() || to.is_empty() {
        return Err(Error::plain("filepath can not be empty"));
    }
    match (from, to) {
        (Place::Pod(_), Place::Pod(_)) => {
            Err(Error::plain("one of src or dest must be a local file specification"))
        }
        (Place::Here(_), Place::Here(_)) => {
            Err(Error::plain("one of src or dest must be a remote file specification"))
        }
        (Place::Pod(from), Place::Here(to)) => fetch(session, args, &from, &to).await,
        (Place::Here(from), Place::Pod(to)) => send(session, args, &from, &to).await,
    }
}

async fn pod(session: &Session, at: &Remote) -> Result<Value, Error> {
    let namespace = if at.namespace.is_empty() { &session.namespace } else { &at.namespace };
    session.get(&format!("/api/v1/namespaces/{namespace}/pods/{}", at.pod)).await
}

/// The path that runs a command in the pod; of the container that is taken is told unless `quiet`.
fn command(args: &Cp, pod: &Value, words: &[&str], quiet: bool) -> Result<String, Error> {
    let command: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    exec::path(pod, &Asked { container: &args.container, quiet, command: &command })
}

async fn send(session: &Session, args: &Cp, from: &str, to: &Remote) -> Result<(), Error> {
    if std::fs::metadata(from).is_err() {
        return Err(Error::plain(format!("{from} doesn't exist in local filesystem")));
    }
    let pod = pod(session, to).await?;
    let look = command(args, &pod, &["test", "-d", &to.path], true)?;
    let ends = Ends { stdin: None, out: &mut |_, _| Ok(()), tty: None, stderr: true };
    let seen = tokio::time::timeout(LOOK, remote::run(session, &look, ends)).await;
    let is_folder = seen.map_err(|_| Error::plain("context deadline exceeded"))?.is_ok();
    let base = Path::new(from).file_name().map(|name| name.to_string_lossy().into_owned());
    let target = match (is_folder, base) {
        (true, Some(base)) => format!("{}/{base}", to.path.trim_end_matches('/')),
        _ => spec::clean(&to.path),
    };
    let (folder, name) = target.rsplit_once('/').unwrap_or((".", &target));
    let folder = if folder.is_empty() { "/" } else { folder };
    let mut words = vec!["tar"];
    if args.no_preserve {
        words.extend(["--no-same-permissions", "--no-same-owner"]);
    }
    words.extend(["-xmf", "-", "-C", folder]);
    let path = command(args, &pod, &words, false)?;
    let (near, far) = duplex(AHEAD);
    let ends = Ends { stdin: Some(Box::new(near)), out: &mut remote::standard, tty: None, stderr: true };
    let (packed, ran) =
        tokio::join!(pack::pack(Path::new(from), name, far), remote::run(session, &path, ends));
    match packed {
        // Who does not read to the end says why.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::plain(error.to_string())),
        _ => ran,
    }
}

async fn fetch(session: &Session, args: &Cp, from: &Remote, to: &str) -> Result<(), Error> {
    let pod = pod(session, from).await?;
    let mut unpack = Unpack::new(from, to, &session.namespace);
    let mut retries = 0;
    loop {
        let quoted = from.path.replace('\'', "'\\''");
        let script = format!("tar cf - '{quoted}' | tail -c+{}", unpack.bytes() + 1);
        let whole = ["tar", "cf", "-", &from.path];
        let resumable = ["sh", "-c", &script];
        let words: &[&str] = if args.retries == 0 { &whole } else { &resumable };
        let path = command(args, &pod, words, retries > 0)?;
        let mut out = |channel: u8, bytes: &[u8]| match channel {
            STDOUT => unpack.feed(bytes),
            _ => output::write(bytes),
        };
        let ends = Ends { stdin: None, out: &mut out, tty: None, stderr: true };
        let ran = remote::run(session, &path, ends).await;
        match ran {
            Ok(()) if unpack.is_whole() => return Ok(()),
            // What failed over there, or was refused here, fails again.
            Err(error @ (Error::Exit(..) | Error::Said(_))) => return Err(error),
            Err(error) if unpack.failed() || error.code().is_some() || error.is_no_upgrade() => {
                return Err(error);
            }
            ran if args.retries >= 0 && retries >= args.retries => {
                output::say(&format!("Dropping out copy after {retries} retries\n"))?;
                return Err(ran.err().unwrap_or_else(|| Error::plain("unexpected EOF")));
            }
            _ => {
                retries += 1;
                let (bytes, most) = (unpack.bytes(), args.retries);
                output::say(&format!("Resuming copy at {bytes} bytes, retry {retries}/{most}\n"))?;
            }
        }
    }
}
