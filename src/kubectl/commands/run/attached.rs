//! What `run` does once its pod is made: attach to it, wait for its end, remove it.

use super::Run;
use crate::commands::attach::{Attaching, Streams, attach};
use crate::commands::logs;
use crate::deleting;
use crate::discovery::Resource;
use crate::error::Error;
use crate::output::say;
use crate::pods;
use crate::session::Session;
use crate::wait_gone::{self, Gone};
use serde_json::Value;
use std::time::Duration;

/// How long what was said before is waited for.
const EARLIER: Duration = Duration::from_secs(5);

/// Attaches to the pod; its exit code is kubectl's where it is not started again. Removes what was made if that is
/// asked for, whatever happened.
pub(super) async fn run(
    session: &Session,
    args: &Run,
    made: &[(&Resource, Value)],
    timeout: Duration,
) -> Result<(), Error> {
    let Some((_, pod)) = made.first() else { return Ok(()) };
    let ended = session_with(session, args, pod, timeout).await;
    if args.rm {
        let mut leaving = Vec::new();
        for (resource, object) in made {
            leaving.extend(remove(session, args, resource, object).await?);
        }
        if args.deleting.wait == Some(true) {
            wait_gone::all(session, &leaving, &args.deleting.timeout).await?;
        }
    }
    ended
}

async fn session_with(session: &Session, args: &Run, pod: &Value, timeout: Duration) -> Result<(), Error> {
    let ready = pods::until(session, pod, Some(timeout), |pod| Ok(is_over(pod) || is_ready(pod))).await?;
    let container = pods::container(&ready, "", args.quiet)?;
    let name = container["name"].as_str().unwrap_or_default();
    if is_over(&ready) {
        logs::copy_of(session, &ready, name).await?;
    } else {
        say_earlier(session, &ready, name).await;
        let streams = Streams { stdin: args.stdin, tty: args.tty, quiet: args.quiet };
        let attaching = Attaching { streams, container: "", detach_keys: &args.detach_keys };
        or_logs(session, &ready, name, attach(session, &ready, &attaching).await).await?;
    }
    if args.leave_stdin_open || args.restart == "Always" {
        return Ok(());
    }
    let only_success = args.restart == "OnFailure";
    let over = pods::until(session, pod, Some(timeout), |pod| {
        Ok(if only_success { pod["status"]["phase"] == "Succeeded" } else { is_over(pod) })
    });
    outcome(&over.await?)
}

/// Prints what a container said before anybody was there to hear it.
pub(crate) async fn say_earlier(session: &Session, pod: &Value, container: &str) {
    let earlier = tokio::time::timeout(EARLIER, logs::copy_of(session, pod, container)).await;
    let told = earlier.unwrap_or_else(|_| Err(Error::plain("context deadline exceeded")));
    if let Err(error) = told {
        eprintln!("warning: couldn't fetch pre-attach logs: {}", error.message());
    }
}

/// A session that did not come about is made up for by the log.
pub(crate) async fn or_logs(
    session: &Session,
    pod: &Value,
    container: &str,
    attached: Result<(), Error>,
) -> Result<(), Error> {
    match attached {
        Err(error) if !matches!(error, Error::Said(_)) => {
            eprintln!(
                "warning: couldn't attach to pod/{}, falling back to streaming logs: {}",
                pods::name(pod),
                error.message()
            );
            logs::copy_of(session, pod, container).await
        }
        ended => ended,
    }
}

fn is_over(pod: &Value) -> bool {
    pod["status"]["phase"] == "Succeeded" || pod["status"]["phase"] == "Failed"
}

fn is_ready(pod: &Value) -> bool {
    let mut conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    pod["status"]["phase"] == "Running"
        && conditions.any(|one| one["type"] == "Ready" && one["status"] == "True")
}

/// How the pod's one container ended.
fn outcome(pod: &Value) -> Result<(), Error> {
    if pod["status"]["phase"] == "Succeeded" {
        return Ok(());
    }
    let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
    let name = format!("pod {namespace}/{}", pods::name(pod));
    let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    match ended["exitCode"].as_u64().and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0) {
        Some(code) => {
            let text = |field: &str| ended[field].as_str().unwrap_or_default().to_owned();
            Err(Error::Exit(format!("{name} terminated ({})\n{}", text("reason"), text("message")), code))
        }
        None => Err(Error::plain(format!("{name} failed with unknown exit code"))),
    }
}

/// Deletes what was made, as the flags say that `delete` has as well.
async fn remove(
    session: &Session,
    args: &Run,
    resource: &Resource,
    object: &Value,
) -> Result<Option<Gone>, Error> {
    let name = pods::name(object);
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
    let force = args.deleting.force;
    let grace = if force && args.deleting.grace_period < 0 { 0 } else { args.deleting.grace_period };
    let options = args.deleting.options(grace, false)?;
    match deleting::delete(session, (resource, namespace, name), &options).await {
        Ok(gone) => {
            if !args.quiet {
                let kind = resource.kind.to_lowercase();
                let verb = if force { "force deleted" } else { "deleted" };
                say(&format!("{kind} {name:?} {verb} from {namespace} namespace\n"))?;
            }
            Ok(Some(gone))
        }
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_containers_end_is_the_commands() {
        let pod = |phase: &str, code: i64| {
            json!({"metadata": {"name": "p", "namespace": "n"}, "status": {"phase": phase, "containerStatuses": [
                {"state": {"terminated": {"exitCode": code, "reason": "Error"}}}]}})
        };
        assert!(outcome(&pod("Succeeded", 0)).is_ok());
        let failed = outcome(&pod("Failed", 3)).unwrap_err();
        assert_eq!(failed.to_string(), "pod n/p terminated (Error)\n");
        assert!(matches!(failed, Error::Exit(_, 3)));
        assert_eq!(
            outcome(&pod("Failed", 0)).unwrap_err().to_string(),
            "error: pod n/p failed with unknown exit code"
        );
    }
}
