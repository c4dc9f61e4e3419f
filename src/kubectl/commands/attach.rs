//! `kubectl attach`: the streams of a container's first process.

use super::exec::terminal;
use crate::error::Error;
use crate::output::say;
use crate::pods;
use crate::remote::{self, Detach, Ends, Tty};
use crate::session::{Session, escape};
use clap::Args;
use serde_json::Value;

const RECORDED: &str = "All commands and output from this session will be recorded in container logs, including credentials and sensitive information passed through the command prompt.";
const ENTER: &str = "If you don't see a command prompt, try pressing enter.";

#[derive(Args)]
pub(crate) struct Attach {
    /// POD, KIND/NAME or KIND NAME
    words: Vec<String>,
    #[command(flatten)]
    streams: Streams,
    /// The container
    #[arg(long, short, default_value = "", hide_default_value = true)]
    container: String,
    /// The keys that leave: characters, ctrl-… or DEL with commas between
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    detach_keys: String,
    /// How long to wait for a pod of what is named, such as 20s
    #[arg(long, value_name = "TIME", default_value = "1m0s", allow_hyphen_values = true)]
    pod_running_timeout: String,
}

/// Which streams a container is given.
#[derive(Args, Clone, Copy)]
pub(crate) struct Streams {
    /// Pass on standard input
    #[arg(long, short = 'i')]
    pub(crate) stdin: bool,
    /// Standard input is a terminal
    #[arg(long, short)]
    pub(crate) tty: bool,
    /// Say nothing but what the session says
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// A session with a container.
pub(crate) struct Attaching<'a> {
    pub(crate) streams: Streams,
    /// "" for the pod's default one.
    pub(crate) container: &'a str,
    pub(crate) detach_keys: &'a str,
}

pub(crate) async fn run(session: &Session, args: &Attach) -> Result<(), Error> {
    let timeout = pods::timeout(&args.pod_running_timeout, "attach")?;
    let word = match args.words.as_slice() {
        [] => return Err(Error::plain("at least 1 argument is required for attach")),
        [word] => word.clone(),
        [kind, name] => format!("{kind}/{name}"),
        more => {
            return Err(Error::plain(format!(
                "expected POD, TYPE/NAME, or TYPE NAME, (at most 2 arguments) saw {}: [{}]",
                more.len(),
                more.join(" ")
            )));
        }
    };
    let pod = pods::named(session, &word).await?.attachable(session, timeout).await?;
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    if matches!(phase, "Succeeded" | "Failed") {
        return Err(Error::plain(format!(
            "cannot attach a container in a completed pod; current phase is {phase}"
        )));
    }
    let attaching =
        Attaching { streams: args.streams, container: &args.container, detach_keys: &args.detach_keys };
    attach(session, &pod, &attaching).await
}

/// Attaches to a container of a pod until it ends or the keys are typed that leave it.
pub(crate) async fn attach(session: &Session, pod: &Value, args: &Attaching<'_>) -> Result<(), Error> {
    let Streams { stdin, tty, quiet } = args.streams;
    let container = pods::container(pod, args.container, quiet)
        .map_err(|error| Error::plain(format!("cannot attach to the container: {}", error.message())))?;
    let name = container["name"].as_str().unwrap_or_default();
    let has_tty = container["tty"] == true;
    if tty && !has_tty && !quiet {
        eprintln!("error: Unable to use a TTY - container {name} did not allocate one");
    }
    // Whatever was asked for, the container decides how its streams are framed.
    let terminal = terminal(stdin, has_tty, quiet);
    let raw = terminal.is_some();
    let detach = if raw { Some(Detach::parse(args.detach_keys)?) } else { None };
    let ends = Ends {
        stdin: stdin.then(|| Box::new(tokio::io::stdin()) as _),
        out: &mut remote::standard,
        tty: raw.then_some(Tty { detach, redraw: true }),
        stderr: !raw,
    };
    if !quiet {
        // A terminal in raw mode does not go back to the line's beginning by itself.
        let end = if raw { "\r\n" } else { "\n" };
        eprint!("{RECORDED}{end}{ENTER}{end}");
    }
    let path = format!("{}?container={}", pods::path(pod, "/attach"), escape(name));
    remote::run(session, &path, ends).await?;
    drop(terminal);
    if raw && !quiet {
        say(&format!("{}\n", again(pod, name)))?;
    }
    Ok(())
}

/// How a session is taken up again.
fn again(pod: &Value, container: &str) -> String {
    let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
    let command = format!("'kubectl attach {} -c {container} -n {namespace} -i -t'", pods::name(pod));
    let mut ephemeral = pods::containers(pod, &["ephemeralContainers"]);
    if ephemeral.any(|one| one["name"] == container) {
        return format!(
            "Session ended, the ephemeral container will not be restarted but may be reattached using {command} if it is still running"
        );
    }
    format!("Session ended, resume using {command} command")
}
