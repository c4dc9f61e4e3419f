//! `kubectl exec`.

use crate::args::FilesAlone;
use crate::error::Error;
use crate::pods;
use crate::remote::{self, Ends, Tty};
use crate::session::{Session, escape};
use crate::terminal::Raw;
use clap::Args;
use serde_json::Value;

#[derive(Args)]
pub(crate) struct Exec {
    /// POD or KIND/NAME
    words: Vec<String>,
    #[command(flatten)]
    files: FilesAlone,
    /// The container
    #[arg(long, short, default_value = "", hide_default_value = true)]
    container: String,
    /// Pass on standard input
    #[arg(long, short = 'i')]
    stdin: bool,
    /// Give the command a terminal
    #[arg(long, short)]
    tty: bool,
    /// Say nothing but what the command says
    #[arg(long, short)]
    quiet: bool,
    /// How long to wait for a pod of what is named, such as 20s
    #[arg(long, value_name = "TIME", default_value = "1m0s", allow_hyphen_values = true)]
    pod_running_timeout: String,
    /// The command
    #[arg(last = true)]
    command: Vec<String>,
}

pub(crate) async fn run(session: &Session, args: &Exec) -> Result<(), Error> {
    let (word, files) = (args.words.first().map(String::as_str), args.files.files());
    let extra = args.words.len() > 1 || (word.is_some() && !files.is_empty());
    if extra && args.command.is_empty() {
        return Err(Error::usage(
            "exec [POD] [COMMAND] is not supported anymore. Use exec [POD] -- [COMMAND] instead",
            "exec",
        ));
    }
    let timeout = pods::timeout(&args.pod_running_timeout, "exec")?;
    if word.is_none() && files.is_empty() {
        return Err(Error::plain("pod, type/name or --filename must be specified"));
    }
    if args.command.is_empty() {
        return Err(Error::plain("you must specify at least one command for the container"));
    }
    let pod = pods::one(session, word, &files).await?.attachable(session, timeout).await?;
    let asked = Asked { container: &args.container, quiet: args.quiet, command: &args.command };
    let path = path(&pod, &asked)?;
    let terminal = terminal(args.stdin, args.tty, args.quiet);
    let tty = terminal.is_some();
    let ends = Ends {
        stdin: args.stdin.then(|| Box::new(tokio::io::stdin()) as _),
        out: &mut remote::standard,
        tty: tty.then(Tty::default),
        stderr: !tty,
    };
    let ended = remote::run(session, &path, ends).await;
    drop(terminal);
    ended
}

/// A command, and which container it is for.
pub(crate) struct Asked<'a> {
    pub(crate) container: &'a str,
    pub(crate) quiet: bool,
    pub(crate) command: &'a [String],
}

/// The path that runs a command in a pod, which must not be over.
pub(crate) fn path(pod: &Value, asked: &Asked<'_>) -> Result<String, Error> {
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    if matches!(phase, "Succeeded" | "Failed") {
        return Err(Error::plain(format!(
            "cannot exec into a container in a completed pod; current phase is {phase}"
        )));
    }
    let container = pods::container(pod, asked.container, asked.quiet)?;
    let container = container["name"].as_str().unwrap_or_default();
    let words: String = asked.command.iter().map(|word| format!("&command={}", escape(word))).collect();
    Ok(format!("{}?container={}{words}", pods::path(pod, "/exec"), escape(container)))
}

/// The terminal in raw mode, where one is asked for and there.
pub(super) fn terminal(stdin: bool, tty: bool, quiet: bool) -> Option<Raw> {
    if !(stdin && tty) {
        return None;
    }
    let raw = Raw::enter();
    if raw.is_none() && !quiet {
        eprintln!("Unable to use a TTY - input is not a terminal or the right kind of file");
    }
    raw
}
