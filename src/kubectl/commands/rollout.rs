//! `kubectl rollout`: of Deployments, and status and restart of DaemonSets and StatefulSets.

use crate::args::{Files, Rollout, RolloutStatus, RolloutUndo, Selection};
use crate::error::Error;
use crate::output::{say, table, tabs};
use crate::session::{JSON, MERGE_PATCH, Session, with_query};
use crate::target::{self, Target};
use crate::wait_gone::duration;
use crate::watch::Lines;
use crate::writing::resource_name;
use serde_json::{Value, json};
use std::time::Duration;

const REVISION: &str = "deployment.kubernetes.io/revision";
const CAUSE: &str = "kubernetes.io/change-cause";
const HASH: &str = "pod-template-hash";

pub(crate) async fn run(session: &Session, command: &Rollout) -> Result<(), Error> {
    match command {
        Rollout::Status(args) => status(session, args).await,
        Rollout::Restart(args) => {
            let now = base::clock::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            let annotation = json!({"kubectl.kubernetes.io/restartedAt": now});
            let patch = json!({"spec": {"template": {"metadata": {"annotations": annotation}}}});
            patch_all(session, &args.selection, &patch, "restarted").await
        }
        Rollout::Pause(args) => {
            patch_all(session, &args.selection, &json!({"spec": {"paused": true}}), "paused").await
        }
        Rollout::Resume(args) => {
            patch_all(session, &args.selection, &json!({"spec": {"paused": null}}), "resumed").await
        }
        Rollout::Undo(args) => undo(session, args).await,
        Rollout::History(args) => history(session, args).await,
    }
}

async fn named(session: &Session, selection: &Selection) -> Result<Vec<Target>, Error> {
    let targets = target::resolve(session, selection, &Files::default()).await?;
    if targets.iter().any(|target| target.name.is_none()) {
        return Err(Error::plain("required resource not specified: give KIND/NAME"));
    }
    Ok(targets)
}

fn path(target: &Target) -> String {
    target.resource.object(&target.namespace, target.name.as_deref().unwrap_or_default())
}

fn shown(target: &Target) -> String {
    format!("{}/{}", resource_name(&target.resource), target.name.as_deref().unwrap_or_default())
}

async fn patch_all(session: &Session, selection: &Selection, patch: &Value, done: &str) -> Result<(), Error> {
    for target in named(session, selection).await? {
        session.patch(&path(&target), MERGE_PATCH, patch).await?;
        say(&format!("{} {done}\n", shown(&target)))?;
    }
    Ok(())
}

async fn status(session: &Session, args: &RolloutStatus) -> Result<(), Error> {
    let limit = duration(&args.timeout)?;
    let limit = if limit.is_zero() { Duration::from_secs(7 * 24 * 3600) } else { limit };
    for target in named(session, &args.selection).await? {
        match tokio::time::timeout(limit, follow(session, &target, args.watch)).await {
            Ok(ended) => ended?,
            Err(_) => return Err(Error::plain("timed out waiting for the condition")),
        }
    }
    Ok(())
}

async fn follow(session: &Session, target: &Target, watch: bool) -> Result<(), Error> {
    let mut said = String::new();
    loop {
        let mut object = session.get(&path(target)).await?;
        let name = format!("metadata.name={}", target.name.as_deref().unwrap_or_default());
        let revision = object["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        let place = target.resource.path(&target.namespace);
        let watched = with_query(
            &place,
            &[("watch", "true"), ("fieldSelector", &name), ("resourceVersion", &revision)],
        );
        let mut events = Lines::open(session, &watched, JSON).await?;
        loop {
            let (text, done) = progress(&target.resource.kind, &object)?;
            if text != said {
                say(&text)?;
                said = text;
            }
            if done || !watch {
                return Ok(());
            }
            match events.next().await? {
                Some(event) if event["type"] == "DELETED" => {
                    return Err(Error::plain("object has been deleted"));
                }
                Some(event) => object = event["object"].clone(),
                None => break,
            }
        }
    }
}

/// How far a rollout is, in kubectl's words, and whether it is done.
fn progress(kind: &str, object: &Value) -> Result<(String, bool), Error> {
    let number = |value: &Value| value.as_i64().unwrap_or(0);
    let (status, name) = (&object["status"], object["metadata"]["name"].as_str().unwrap_or_default());
    let observed = number(&object["metadata"]["generation"]) <= number(&status["observedGeneration"]);
    let of = |field: &str| number(&status[field]);
    let replicas = object["spec"]["replicas"].as_i64().unwrap_or(1);
    Ok(match kind {
        "Deployment" if !observed => {
            ("Waiting for deployment spec update to be observed...\n".to_owned(), false)
        }
        "Deployment" => deployment(name, object, replicas)?,
        "DaemonSet" if !observed => {
            ("Waiting for daemon set spec update to be observed...\n".to_owned(), false)
        }
        "DaemonSet" => {
            let (wanted, updated, available) =
                (of("desiredNumberScheduled"), of("updatedNumberScheduled"), of("numberAvailable"));
            if updated < wanted {
                (
                    format!(
                        "Waiting for daemon set {name:?} rollout to finish: {updated} out of {wanted} new pods have been updated...\n"
                    ),
                    false,
                )
            } else if available < wanted {
                (
                    format!(
                        "Waiting for daemon set {name:?} rollout to finish: {available} of {wanted} updated pods are available...\n"
                    ),
                    false,
                )
            } else {
                (format!("daemon set {name:?} successfully rolled out\n"), true)
            }
        }
        "StatefulSet" if !observed => {
            ("Waiting for statefulset spec update to be observed...\n".to_owned(), false)
        }
        "StatefulSet" if of("readyReplicas") < replicas => {
            (format!("Waiting for {} pods to be ready...\n", replicas - of("readyReplicas")), false)
        }
        "StatefulSet" => {
            let revision = status["updateRevision"].as_str().unwrap_or_default();
            if status["currentRevision"] == status["updateRevision"] {
                (
                    format!(
                        "statefulset rolling update complete {} pods at revision {revision}...\n",
                        of("currentReplicas")
                    ),
                    true,
                )
            } else {
                (
                    format!(
                        "waiting for statefulset rolling update to complete {} pods at revision {revision}...\n",
                        of("updatedReplicas")
                    ),
                    false,
                )
            }
        }
        _ => return Err(Error::plain(format!("no status viewer has been implemented for {kind}"))),
    })
}

fn deployment(name: &str, object: &Value, replicas: i64) -> Result<(String, bool), Error> {
    let status = &object["status"];
    let of = |field: &str| status[field].as_i64().unwrap_or(0);
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    if conditions
        .iter()
        .any(|one| one["type"] == "Progressing" && one["reason"] == "ProgressDeadlineExceeded")
    {
        return Err(Error::plain(format!("deployment {name:?} exceeded its progress deadline")));
    }
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

/// A Deployment's ReplicaSets by revision, oldest first.
async fn revisions(session: &Session, target: &Target, object: &Value) -> Result<Vec<(i64, Value)>, Error> {
    if target.resource.kind != "Deployment" {
        return Err(Error::plain(format!(
            "no history viewer has been implemented for {}",
            target.resource.kind
        )));
    }
    let selector = table::labels(&object["spec"]["selector"]["matchLabels"]);
    let path = with_query(
        &format!("/apis/apps/v1/namespaces/{}/replicasets", target.namespace),
        &[("labelSelector", &selector)],
    );
    let list = session.get(&path).await?;
    let owned = |set: &&Value| {
        set["metadata"]["ownerReferences"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|owner| owner["uid"] == object["metadata"]["uid"])
    };
    let mut all: Vec<(i64, Value)> = list["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(owned)
        .map(|set| {
            let revision = set["metadata"]["annotations"][REVISION].as_str().unwrap_or("0");
            (revision.parse().unwrap_or(0), set.clone())
        })
        .collect();
    all.sort_by_key(|(revision, _)| *revision);
    Ok(all)
}

async fn undo(session: &Session, args: &RolloutUndo) -> Result<(), Error> {
    for target in named(session, &args.selection).await? {
        let object = session.get(&path(&target)).await?;
        if object["spec"]["paused"] == true {
            return Err(Error::plain(format!(
                "cannot rollback a paused deployment; resume it first with 'kubectl rollout resume {}'",
                shown(&target)
            )));
        }
        let all = revisions(session, &target, &object).await?;
        let wanted = match args.to_revision {
            0 => all.iter().rev().nth(1),
            revision => all.iter().find(|(known, _)| *known == revision),
        };
        let Some((_, set)) = wanted else {
            return Err(Error::plain(match args.to_revision {
                0 => format!("no rollout history found for deployment {:?}", target.name.unwrap_or_default()),
                revision => format!("unable to find specified revision {revision} in history"),
            }));
        };
        let mut template = set["spec"]["template"].clone();
        if let Some(labels) = template.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
            labels.remove(HASH);
        }
        if template == object["spec"]["template"] {
            say(&format!(
                "{} skipped rollback (current template already matches revision {})\n",
                shown(&target),
                args.to_revision
            ))?;
            continue;
        }
        let patch = json!([{"op": "replace", "path": "/spec/template", "value": template}]);
        session.patch(&path(&target), "application/json-patch+json", &patch).await?;
        say(&format!("{} rolled back\n", shown(&target)))?;
    }
    Ok(())
}

async fn history(session: &Session, args: &RolloutUndo) -> Result<(), Error> {
    for target in named(session, &args.selection).await? {
        let object = session.get(&path(&target)).await?;
        let all = revisions(session, &target, &object).await?;
        let mut text = "REVISION\tCHANGE-CAUSE\n".to_owned();
        for (revision, set) in &all {
            let cause = set["metadata"]["annotations"][CAUSE].as_str().unwrap_or("<none>");
            text.push_str(&format!("{revision}\t{cause}\n"));
        }
        if args.to_revision != 0 {
            let Some((revision, set)) = all.iter().find(|(revision, _)| *revision == args.to_revision) else {
                return Err(Error::plain("unable to find the specified revision"));
            };
            say(&format!("{} with revision #{revision}\n", shown(&target)))?;
            say(&crate::commands::describe::template(&set["spec"]["template"]))?;
            continue;
        }
        say(&format!("{} \n{}\n", shown(&target), tabs::align(&text, 0, 2)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_in_kubectls_words() {
        let at = |status: Value| {
            progress("Deployment", &json!({"metadata": {"name": "web", "generation": 2}, "spec": {"replicas": 3}, "status": status}))
                .unwrap()
        };
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
        assert_eq!(at(all), ("deployment \"web\" successfully rolled out\n".to_owned(), true));
    }
}
