//! `kubectl logs`.

use crate::args::Logs;
use crate::error::Error;
use crate::output;
use crate::pods;
use crate::session::{Session, with_query};
use crate::wait_gone::duration;
use bytes::BytesMut;
use futures_util::stream::{FuturesUnordered, StreamExt};
use http_body_util::BodyExt;
use serde_json::Value;

/// How many logs are followed at once (kubectl's default).
const FOLLOWED: usize = 5;

/// Lines of each container where many are asked for by labels (kubectl's default).
const SELECTED_TAIL: i64 = 10;

pub(crate) async fn run(session: &Session, args: &Logs) -> Result<(), Error> {
    let pods = chosen(session, args).await?;
    let mut streams = Vec::new();
    for pod in &pods {
        for container in containers(args, pod)? {
            streams.push((path(args, pod, &container)?, prefix(args, pod, &container)));
        }
    }
    if streams.is_empty() {
        eprintln!("No resources found in {} namespace.", session.namespace);
        return Ok(());
    }
    if !args.follow {
        for (path, prefix) in &streams {
            copy(session, path, prefix).await?;
        }
        return Ok(());
    }
    if streams.len() > FOLLOWED {
        return Err(Error::plain(format!(
            "you are attempting to follow {} log streams, but maximum allowed concurrency is {FOLLOWED}",
            streams.len()
        )));
    }
    let mut all: FuturesUnordered<_> =
        streams.iter().map(|(path, prefix)| copy(session, path, prefix)).collect();
    while let Some(ended) = all.next().await {
        ended?;
    }
    Ok(())
}

async fn chosen(session: &Session, args: &Logs) -> Result<Vec<Value>, Error> {
    if !args.selector.is_empty() {
        return pods::labelled(session, &session.namespace, &args.selector).await;
    }
    let Some(word) = args.words.first() else {
        return Err(Error::plain(
            "expected 'logs [-f] [-p] (POD | TYPE/NAME) [-c CONTAINER]'.\nPOD or TYPE/NAME is a required argument for the logs command",
        ));
    };
    let found = pods::of(session, word).await?;
    if found.len() > 1 {
        let name = found[0]["metadata"]["name"].as_str().unwrap_or_default();
        eprintln!("Found {} pods, using pod/{name}", found.len());
    }
    Ok(found.into_iter().take(1).collect())
}

fn containers(args: &Logs, pod: &Value) -> Result<Vec<String>, Error> {
    let all = pods::containers(pod);
    if args.all_containers {
        return Ok(all);
    }
    let named = args.words.get(1).map(String::as_str).filter(|name| !name.is_empty());
    let name = named.unwrap_or(&args.container);
    let name = pods::container(pod, name, args.selector.is_empty())?;
    Ok(vec![name])
}

fn path(args: &Logs, pod: &Value, container: &str) -> Result<String, Error> {
    let metadata = &pod["metadata"];
    let path = format!(
        "/api/v1/namespaces/{}/pods/{}/log",
        metadata["namespace"].as_str().unwrap_or_default(),
        metadata["name"].as_str().unwrap_or_default()
    );
    let flag = |on: bool| if on { "true" } else { "" };
    let since = match &args.since {
        Some(since) => duration(since)?.as_secs().max(1).to_string(),
        None => String::new(),
    };
    let tail = match args.tail {
        Some(lines) if lines >= 0 => lines.to_string(),
        None if !args.selector.is_empty() => SELECTED_TAIL.to_string(),
        _ => String::new(),
    };
    let limit = args.limit_bytes.map(|bytes| bytes.to_string()).unwrap_or_default();
    Ok(with_query(
        &path,
        &[
            ("container", container),
            ("follow", flag(args.follow)),
            ("previous", flag(args.previous)),
            ("timestamps", flag(args.timestamps)),
            ("sinceSeconds", &since),
            ("sinceTime", &args.since_time),
            ("tailLines", &tail),
            ("limitBytes", &limit),
        ],
    ))
}

fn prefix(args: &Logs, pod: &Value, container: &str) -> String {
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    if args.prefix { format!("[pod/{name}/{container}] ") } else { String::new() }
}

/// Copies a log, whole lines at a time where others are copied beside it.
async fn copy(session: &Session, path: &str, prefix: &str) -> Result<(), Error> {
    let mut body = session.stream(path, "*/*").await?;
    let mut pending = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| client::Error::Transport(error.to_string()))?;
        pending.extend_from_slice(&frame.into_data().unwrap_or_default());
        if let Some(end) = pending.iter().rposition(|byte| *byte == b'\n') {
            output::write(&prefixed(&pending.split_to(end + 1), prefix))?;
        }
    }
    if pending.is_empty() { Ok(()) } else { output::write(&prefixed(&pending, prefix)) }
}

fn prefixed(lines: &[u8], prefix: &str) -> Vec<u8> {
    if prefix.is_empty() {
        return lines.to_vec();
    }
    lines.split_inclusive(|byte| *byte == b'\n').flat_map(|line| [prefix.as_bytes(), line].concat()).collect()
}
