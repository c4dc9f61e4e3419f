//! `kubectl rollout status`.

use super::{group_kind, objects};
use crate::choice::{Found, Naming};
use crate::error::Error;
use crate::globals::span;
use crate::output::{none_found, say};
use crate::session::{JSON, Session, with_query};
use crate::wait_gone::duration;
use crate::watch::Lines;
use clap::Args;
use serde_json::Value;
use std::time::Duration;

/// For as long as it takes.
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

#[derive(Args)]
pub(crate) struct Status {
    #[command(flatten)]
    naming: Naming,
    /// Wait until it is done
    #[arg(long, short, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    watch: bool,
    /// How long to wait, such as 30s; 0s for as long as it takes
    #[arg(long, default_value = "0s", value_parser = span)]
    timeout: String,
    /// End if this is not the revision; 0 for any
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    revision: i64,
}

pub(super) async fn run(session: &Session, args: &Status) -> Result<(), Error> {
    let limit = duration(&args.timeout)?;
    let limit = if limit.is_zero() { WEEK } else { limit };
    if args.revision < 0 && !(args.naming.words.is_empty() && args.naming.files.is_empty()) {
        return Err(Error::plain(format!("revision must be a positive integer: {}", args.revision)));
    }
    let (found, failures) = objects(session, &args.naming).await?;
    if let Some(error) = failures.into_iter().next() {
        return Err(error);
    }
    if found.is_empty() {
        none_found(Some(&session.namespace));
    }
    for one in &found {
        match tokio::time::timeout(limit, follow(session, one, args)).await {
            Ok(ended) => ended?,
            Err(_) => return Err(Error::plain("timed out waiting for the condition")),
        }
    }
    Ok(())
}

async fn follow(session: &Session, found: &Found, args: &Status) -> Result<(), Error> {
    let mut said = String::new();
    let mut object = found.object.clone();
    loop {
        let name = format!("metadata.name={}", found.name);
        let revision = object["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        let place = found.resource.path(&found.namespace);
        let watched = with_query(
            &place,
            &[("watch", "true"), ("fieldSelector", &name), ("resourceVersion", &revision)],
        );
        let mut events: Option<Lines> = None;
        loop {
            let (text, done) = progress(found, &object, args.revision)?;
            if text != said {
                say(&text)?;
                said = text;
            }
            if done || !args.watch {
                return Ok(());
            }
            let events = match &mut events {
                Some(events) => events,
                None => events.insert(Lines::open(session, &watched, JSON).await?),
            };
            match events.next().await? {
                Some(event) if event["type"] == "DELETED" => {
                    return Err(Error::plain("object has been deleted"));
                }
                Some(event) => object = event["object"].clone(),
                None => break,
            }
        }
        object = session.get(&found.path()).await?;
    }
}

/// How far a rollout is, in kubectl's words, and whether it is done.
fn progress(found: &Found, object: &Value, revision: i64) -> Result<(String, bool), Error> {
    match (found.resource.group.as_str(), found.resource.kind.as_str()) {
        ("apps", "Deployment") => deployment(object, revision),
        ("apps", "DaemonSet") => daemon_set(object),
        ("apps", "StatefulSet") => stateful_set(object),
        _ => Err(Error::plain(format!("no status viewer has been implemented for {}", group_kind(found)))),
    }
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

/// The status speaks of the specification that there is now.
fn observed(object: &Value) -> bool {
    number(&object["metadata"]["generation"]) <= number(&object["status"]["observedGeneration"])
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

fn deployment(object: &Value, wanted: i64) -> Result<(String, bool), Error> {
    let (name, status) = (name(object), &object["status"]);
    if wanted > 0 {
        let text = object["metadata"]["annotations"][super::revisions::REVISION].as_str().unwrap_or("0");
        let running: i64 = text.parse().map_err(|_| {
            Error::plain(format!("cannot get the revision of deployment {name:?}: {text:?} is no number"))
        })?;
        if running != wanted {
            return Err(Error::plain(format!(
                "desired revision ({wanted}) is different from the running revision ({running})"
            )));
        }
    }
    if !observed(object) {
        return Ok(("Waiting for deployment spec update to be observed...\n".to_owned(), false));
    }
    let stuck = |one: &Value| one["type"] == "Progressing" && one["reason"] == "ProgressDeadlineExceeded";
    if status["conditions"].as_array().into_iter().flatten().any(stuck) {
        return Err(Error::plain(format!("deployment {name:?} exceeded its progress deadline")));
    }
    let of = |field: &str| number(&status[field]);
    let replicas = object["spec"]["replicas"].as_i64().unwrap_or(1);
    let (updated, all, available) = (of("updatedReplicas"), of("replicas"), of("availableReplicas"));
    let waiting = format!("Waiting for deployment {name:?} rollout to finish: ");
    Ok(if updated < replicas {
        (format!("{waiting}{updated} out of {replicas} new replicas have been updated...\n"), false)
    } else if all > updated {
        (format!("{waiting}{} old replicas are pending termination...\n", all - updated), false)
    } else if available < updated {
        (format!("{waiting}{available} of {updated} updated replicas are available...\n"), false)
    } else {
        (format!("deployment {name:?} successfully rolled out\n"), true)
    })
}

fn rolling(object: &Value) -> Result<(), Error> {
    if object["spec"]["updateStrategy"]["type"] == "RollingUpdate" {
        return Ok(());
    }
    Err(Error::plain("rollout status is only available for RollingUpdate strategy type"))
}

fn daemon_set(object: &Value) -> Result<(String, bool), Error> {
    rolling(object)?;
    if !observed(object) {
        return Ok(("Waiting for daemon set spec update to be observed...\n".to_owned(), false));
    }
    let name = name(object);
    let of = |field: &str| number(&object["status"][field]);
    let (wanted, updated, available) =
        (of("desiredNumberScheduled"), of("updatedNumberScheduled"), of("numberAvailable"));
    let waiting = format!("Waiting for daemon set {name:?} rollout to finish: ");
    Ok(if updated < wanted {
        (format!("{waiting}{updated} out of {wanted} new pods have been updated...\n"), false)
    } else if available < wanted {
        (format!("{waiting}{available} of {wanted} updated pods are available...\n"), false)
    } else {
        (format!("daemon set {name:?} successfully rolled out\n"), true)
    })
}

fn stateful_set(object: &Value) -> Result<(String, bool), Error> {
    rolling(object)?;
    let (spec, status) = (&object["spec"], &object["status"]);
    let of = |field: &str| number(&status[field]);
    if of("observedGeneration") == 0 || !observed(object) {
        return Ok(("Waiting for statefulset spec update to be observed...\n".to_owned(), false));
    }
    let replicas = spec["replicas"].as_i64().unwrap_or(1);
    let (ready, updated) = (of("readyReplicas"), of("updatedReplicas"));
    if ready < replicas {
        return Ok((format!("Waiting for {} pods to be ready...\n", replicas - ready), false));
    }
    let rolling = &spec["updateStrategy"]["rollingUpdate"];
    if rolling.is_object() {
        let wanted = rolling["partition"].as_i64().map_or(0, |partition| replicas - partition);
        if updated < wanted {
            let text = format!(
                "Waiting for partitioned roll out to finish: {updated} out of {wanted} new pods have been updated...\n"
            );
            return Ok((text, false));
        }
        return Ok((
            format!("partitioned roll out complete: {updated} new pods have been updated...\n"),
            true,
        ));
    }
    let revision = |field: &str| status[field].as_str().unwrap_or_default();
    let (current, update) = (revision("currentRevision"), revision("updateRevision"));
    if current != update {
        let text = format!(
            "waiting for statefulset rolling update to complete {updated} pods at revision {update}...\n"
        );
        return Ok((text, false));
    }
    let pods = of("currentReplicas");
    Ok((format!("statefulset rolling update complete {pods} pods at revision {current}...\n"), true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn deployments_in_kubectls_words() {
        let object = |status: Value| json!({"metadata": {"name": "web", "generation": 2, "annotations": {"deployment.kubernetes.io/revision": "3"}}, "spec": {"replicas": 3}, "status": status});
        let at = |status: Value| deployment(&object(status), 0).unwrap();
        assert!(at(json!({"observedGeneration": 1})).0.starts_with("Waiting for deployment spec update"));
        let (text, done) = at(json!({"observedGeneration": 2, "updatedReplicas": 1, "replicas": 4}));
        assert_eq!(
            (text.as_str(), done),
            (
                "Waiting for deployment \"web\" rollout to finish: 1 out of 3 new replicas have been updated...\n",
                false
            )
        );
        let all =
            json!({"observedGeneration": 2, "updatedReplicas": 3, "replicas": 3, "availableReplicas": 3});
        assert_eq!(at(all.clone()), ("deployment \"web\" successfully rolled out\n".to_owned(), true));
        assert_eq!(
            deployment(&object(all), 2).unwrap_err().to_string(),
            "error: desired revision (2) is different from the running revision (3)"
        );
    }

    #[test]
    fn daemon_sets_and_stateful_sets_in_kubectls_words() {
        let object = |strategy: Value, status: Value| {
            json!({"metadata": {"name": "x", "generation": 1},
            "spec": {"replicas": 3, "updateStrategy": strategy}, "status": status})
        };
        let rolling = json!({"type": "RollingUpdate"});
        let ds = daemon_set(&object(rolling.clone(), json!({"observedGeneration": 1, "desiredNumberScheduled": 2, "updatedNumberScheduled": 2, "numberAvailable": 1}))).unwrap();
        assert_eq!(
            ds.0,
            "Waiting for daemon set \"x\" rollout to finish: 1 of 2 updated pods are available...\n"
        );
        assert!(
            daemon_set(&object(json!({"type": "OnDelete"}), json!({})))
                .unwrap_err()
                .to_string()
                .contains("only available for RollingUpdate")
        );
        let ready = json!({"observedGeneration": 1, "readyReplicas": 3, "updatedReplicas": 1, "currentReplicas": 3, "currentRevision": "a", "updateRevision": "a"});
        let sts = stateful_set(&object(rolling, ready.clone())).unwrap();
        assert_eq!(sts, ("statefulset rolling update complete 3 pods at revision a...\n".to_owned(), true));
        let sts = |partition: i64| {
            stateful_set(&object(
                json!({"type": "RollingUpdate", "rollingUpdate": {"partition": partition}}),
                ready.clone(),
            ))
            .unwrap()
        };
        assert_eq!(
            sts(1),
            (
                "Waiting for partitioned roll out to finish: 1 out of 2 new pods have been updated...\n"
                    .to_owned(),
                false
            )
        );
        assert_eq!(
            sts(2),
            ("partitioned roll out complete: 1 new pods have been updated...\n".to_owned(), true)
        );
    }
}
