//! `kubectl logs`.

use crate::error::Error;
use crate::output;
use crate::pods;
use crate::session::{Session, with_query};
use bytes::BytesMut;
use clap::Args;
use futures_util::stream::{FuturesUnordered, StreamExt};
use http_body_util::BodyExt;
use serde_json::Value;
use std::time::Duration;

/// Lines of each container where many are asked for by labels (kubectl's default).
const SELECTED_TAIL: i64 = 10;
/// How long it is waited before a container that does not run yet is asked again.
const PAUSE: Duration = Duration::from_secs(1);
/// What is held of a line that does not end; then its beginning is printed.
const LINE_BYTES: usize = 1 << 20;

const USAGE: &str = "expected 'logs [-f] [-p] (POD | TYPE/NAME) [-c CONTAINER]'.\nPOD or TYPE/NAME is a required argument for the logs command";

#[derive(Args)]
pub(crate) struct Logs {
    /// POD or KIND/NAME, and a container
    words: Vec<String>,
    /// The container
    #[arg(long, short)]
    container: Option<String>,
    /// Of all containers
    #[arg(long)]
    all_containers: bool,
    /// Of all pods of what is named, as with --prefix
    #[arg(long)]
    all_pods: bool,
    /// Of all pods with these labels
    #[arg(long, short = 'l', default_value = "", hide_default_value = true)]
    selector: String,
    /// Go on as the log grows
    #[arg(long, short)]
    follow: bool,
    /// How many logs are followed at once
    #[arg(long, default_value_t = 5)]
    max_log_requests: usize,
    /// Go on where a log cannot be read
    #[arg(long)]
    ignore_errors: bool,
    /// How many of the latest lines; -1 for all
    #[arg(long, allow_negative_numbers = true)]
    tail: Option<i64>,
    /// Not older than this, such as 5s, 2m or 3h
    #[arg(long, default_value = "", hide_default_value = true, allow_hyphen_values = true)]
    since: String,
    /// Not before this RFC 3339 time
    #[arg(long, default_value = "", hide_default_value = true)]
    since_time: String,
    /// Begin lines with their times
    #[arg(long)]
    timestamps: bool,
    /// Of the container's last run
    #[arg(long, short)]
    previous: bool,
    /// Begin lines with pod and container
    #[arg(long)]
    prefix: bool,
    /// At most so many bytes
    #[arg(long, default_value_t = 0, hide_default_value = true, allow_negative_numbers = true)]
    limit_bytes: i64,
    /// Do not verify the kubelet's certificate
    #[arg(long)]
    insecure_skip_tls_verify_backend: bool,
    /// How long to wait for a pod, and for a container that is followed to start
    #[arg(long, value_name = "TIME", default_value = "20s", allow_hyphen_values = true)]
    pod_running_timeout: String,
}

/// One container's log.
struct Source {
    path: String,
    prefix: String,
}

pub(crate) async fn run(session: &Session, args: &Logs) -> Result<(), Error> {
    let usage = |text: &str| Error::usage(text, "logs");
    match args.words.len() {
        0 if args.selector.is_empty() => return Err(usage(USAGE)),
        1 if !args.selector.is_empty() => {
            return Err(usage("only a selector (-l) or a POD name is allowed"));
        }
        0..=2 => {}
        _ => return Err(usage(USAGE)),
    }
    let timeout = pods::duration("pod-running-timeout", &args.pod_running_timeout, "logs")?;
    if timeout.is_zero() {
        return Err(Error::plain("--pod-running-timeout must be higher than zero"));
    }
    let since = since(args)?;
    // What is asked for is looked at once there is somebody to ask.
    let pods = chosen(session, args, timeout).await?;
    let options = options(args, since)?;
    let mut sources = Vec::new();
    for pod in &pods {
        sources.extend(of_pod(args, pod, &options)?);
    }
    print(session, args, &sources, timeout).await
}

/// How far back to go, if that was said, and whether the flags for it can be read.
fn since(args: &Logs) -> Result<Option<Duration>, Error> {
    let since = match args.since.as_str() {
        "" => None,
        text => Some(pods::duration("since", text, "logs")?),
    };
    if !args.since_time.is_empty() {
        args.since_time.parse::<jiff::Timestamp>().map_err(|_| {
            let time = &args.since_time;
            Error::plain(format!(
                "parsing time {time:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {time:?} as \"2006\""
            ))
        })?;
    }
    Ok(since)
}

/// The parameters that all logs are asked for with.
fn options(args: &Logs, since: Option<Duration>) -> Result<String, Error> {
    let named = args.container.as_ref().or(args.words.get(1)).filter(|name| !name.is_empty());
    let refused = match named {
        _ if !args.since_time.is_empty() && since.is_some_and(|since| !since.is_zero()) => {
            "at most one of `sinceTime` or `sinceSeconds` may be specified".to_owned()
        }
        Some(name) if args.all_containers => {
            format!("--all-containers=true should not be specified with container name {name}")
        }
        _ if args.container.is_some() && args.words.len() == 2 => {
            "only one of -c or an inline [CONTAINER] arg is allowed".to_owned()
        }
        _ if args.limit_bytes < 0 => "--limit-bytes must be greater than 0".to_owned(),
        _ if args.since.starts_with('-') => "--since must be greater than 0".to_owned(),
        _ if args.tail.is_some_and(|lines| lines < -1) => {
            "--tail must be greater than or equal to -1".to_owned()
        }
        _ => String::new(),
    };
    if !refused.is_empty() {
        return Err(Error::plain(refused));
    }
    let flag = |on: bool| if on { "true" } else { "" };
    let some = |number: Option<i64>| number.map(|number| number.to_string()).unwrap_or_default();
    let tail = match args.tail {
        None if !args.selector.is_empty() => Some(SELECTED_TAIL),
        given => given.filter(|lines| *lines != -1),
    };
    // At least one: the API knows no shorter time.
    let since = since.filter(|since| !since.is_zero()).map(|since| since.as_secs_f64().round().max(1.0));
    Ok(with_query(
        "",
        &[
            ("follow", flag(args.follow)),
            ("previous", flag(args.previous)),
            ("timestamps", flag(args.timestamps)),
            ("insecureSkipTLSVerifyBackend", flag(args.insecure_skip_tls_verify_backend)),
            ("sinceSeconds", &since.map(|seconds| seconds.to_string()).unwrap_or_default()),
            ("sinceTime", &args.since_time),
            ("tailLines", &some(tail)),
            ("limitBytes", &some(Some(args.limit_bytes).filter(|bytes| *bytes != 0))),
        ],
    ))
}

/// The pods whose logs are meant.
async fn chosen(session: &Session, args: &Logs, timeout: Duration) -> Result<Vec<Value>, Error> {
    if !args.selector.is_empty() {
        let found = pods::labelled(session, &args.selector).await?;
        if found.is_empty() {
            eprintln!("No resources found in {} namespace.", session.namespace);
        }
        return Ok(found);
    }
    let word = args.words.first().map(String::as_str).unwrap_or_default();
    let subject = pods::named(session, word).await.map_err(|error| match error.is_not_found() {
        true => Error::plain(format!(
            "error from server (NotFound): {} in namespace {:?}",
            error.message(),
            session.namespace
        )),
        false => error,
    })?;
    if subject.is_pod() {
        return Ok(vec![subject.object]);
    }
    let mut found = subject.pods(session, pods::for_logs, "get the logs from", timeout).await?;
    if found.len() > 1 && !args.all_pods {
        eprintln!("Found {} pods, using pod/{}", found.len(), pods::name(&found[0]));
        found.truncate(1);
    }
    Ok(found)
}

/// The logs of one pod that are meant.
fn of_pod(args: &Logs, pod: &Value, options: &str) -> Result<Vec<Source>, Error> {
    let source = |container: &Value| {
        let name = container["name"].as_str().unwrap_or_default();
        let prefix = if args.prefix || args.all_pods {
            format!("[pod/{}/{name}] ", pods::name(pod))
        } else {
            String::new()
        };
        let path = with_query(&format!("{}{options}", pods::path(pod, "/log")), &[("container", name)]);
        Source { path, prefix }
    };
    if args.all_containers {
        let all = pods::containers(pod, &["initContainers", "containers", "ephemeralContainers"]);
        return Ok(all.map(source).collect());
    }
    let named = args.container.as_ref().or(args.words.get(1)).map(String::as_str).unwrap_or_default();
    if !named.is_empty() {
        let found = pods::find(pod, named).ok_or_else(|| pods::no_such_container(pod, named))?;
        return Ok(vec![source(found)]);
    }
    let default = pod["metadata"]["annotations"][pods::DEFAULT_CONTAINER].as_str().unwrap_or_default();
    match pods::find(pod, default) {
        Some(found) => return Ok(vec![source(found)]),
        None if default.is_empty() => {}
        None => eprintln!("Default container name {default:?} not found in pod {}", pods::name(pod)),
    }
    let first = &pod["spec"]["containers"][0];
    if !args.all_pods {
        pods::say_default(pod, first);
    }
    Ok(vec![source(first)])
}

async fn print(session: &Session, args: &Logs, sources: &[Source], timeout: Duration) -> Result<(), Error> {
    if !args.follow || sources.len() < 2 {
        for source in sources {
            whole(session, args, source, timeout).await?;
        }
        return Ok(());
    }
    let (count, most) = (sources.len(), args.max_log_requests);
    if count > most {
        return Err(Error::plain(format!(
            "you are attempting to follow {count} log streams, but maximum allowed concurrency is {most}, use --max-log-requests to increase the limit"
        )));
    }
    let mut all: FuturesUnordered<_> =
        sources.iter().map(|source| whole(session, args, source, timeout)).collect();
    while let Some(ended) = all.next().await {
        ended?;
    }
    Ok(())
}

/// Prints a log. One that is followed is asked for again until its container has started.
async fn whole(session: &Session, args: &Logs, source: &Source, timeout: Duration) -> Result<(), Error> {
    let deadline = base::clock::instant() + timeout;
    loop {
        let error = match copy(session, source).await {
            Err(error @ Error::Said(_)) => return Err(error),
            Err(error) => error,
            Ok(()) => return Ok(()),
        };
        if args.ignore_errors {
            return output::say(&format!("error: {}\n", error.message()));
        }
        if !args.follow || error.code().is_none() {
            return Err(error);
        }
        eprintln!("{}", error.message());
        if base::clock::instant() + PAUSE > deadline {
            return Err(Error::plain("context deadline exceeded"));
        }
        base::clock::sleep(PAUSE).await;
    }
}

/// Prints all that one container has said.
pub(crate) async fn copy_of(session: &Session, pod: &Value, container: &str) -> Result<(), Error> {
    let path = with_query(&pods::path(pod, "/log"), &[("container", container)]);
    copy(session, &Source { path, prefix: String::new() }).await
}

/// Copies a log, whole lines at a time where others are copied beside it.
async fn copy(session: &Session, source: &Source) -> Result<(), Error> {
    let mut body = session.stream(&source.path, "*/*").await?;
    let mut pending = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| client::Error::Transport(error.to_string()))?;
        pending.extend_from_slice(&frame.into_data().unwrap_or_default());
        let end = pending.iter().rposition(|byte| *byte == b'\n').map(|end| end + 1);
        if let Some(end) = end.or((pending.len() > LINE_BYTES).then_some(pending.len())) {
            output::write(&prefixed(&pending.split_to(end), &source.prefix))?;
        }
    }
    if pending.is_empty() { Ok(()) } else { output::write(&prefixed(&pending, &source.prefix)) }
}

fn prefixed(lines: &[u8], prefix: &str) -> Vec<u8> {
    if prefix.is_empty() {
        return lines.to_vec();
    }
    lines.split_inclusive(|byte| *byte == b'\n').flat_map(|line| [prefix.as_bytes(), line].concat()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        logs: Logs,
    }

    fn asked(line: &str) -> Result<String, String> {
        let line = Line::parse_from(line.split(' '));
        let asked = since(&line.logs).and_then(|since| options(&line.logs, since));
        asked.map_err(|error| error.to_string())
    }

    #[test]
    fn flags_become_parameters() {
        assert_eq!(asked("logs a"), Ok(String::new()));
        assert_eq!(asked("logs -l a=b").as_deref(), Ok("?tailLines=10"));
        assert_eq!(asked("logs -l a=b --tail=-1"), Ok(String::new()));
        assert_eq!(
            asked("logs a -fp --since 1m30s --limit-bytes=5 --timestamps").as_deref(),
            Ok("?follow=true&previous=true&timestamps=true&sinceSeconds=90&limitBytes=5")
        );
        let refused = |line: &str| asked(line).unwrap_err();
        assert_eq!(
            refused("logs a c --all-containers"),
            "error: --all-containers=true should not be specified with container name c"
        );
        assert_eq!(refused("logs a c -c d"), "error: only one of -c or an inline [CONTAINER] arg is allowed");
        assert_eq!(refused("logs a --since=-5s"), "error: --since must be greater than 0");
        assert!(refused("logs a --since 5s --since-time 2026-01-01T00:00:00Z").contains("at most one of"));
    }

    #[test]
    fn prefixes_stand_before_each_line() {
        assert_eq!(prefixed(b"a\nb", "[x] "), b"[x] a\n[x] b");
    }
}
