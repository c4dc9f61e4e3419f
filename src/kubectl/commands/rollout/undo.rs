//! `kubectl rollout undo`.

use super::revisions::{self, REVISION, Revision};
use super::{is_deployment, objects, print};
use crate::choice::{Found, Naming, failed};
use crate::controlled::own_template;
use crate::error::Error;
use crate::session::{STRATEGIC_PATCH, Session, with_query};
use crate::writing::{Dry, LAST_APPLIED, Printer, Printing};
use clap::Args;
use serde_json::{Map, Value, json};

/// Annotations of a Deployment that do not go back with it.
const KEPT: &[&str] = &[
    LAST_APPLIED,
    REVISION,
    "deployment.kubernetes.io/revision-history",
    "deployment.kubernetes.io/desired-replicas",
    "deployment.kubernetes.io/max-replicas",
    "deprecated.deployment.rollback.to",
];

#[derive(Args)]
pub(crate) struct Undo {
    #[command(flatten)]
    naming: Naming,
    #[command(flatten)]
    printing: Printing,
    /// Only print what would be done: none, client or server
    #[arg(long, default_value = "none", num_args = 0..=1, default_missing_value = "unchanged", require_equals = true)]
    dry_run: String,
    /// The revision; 0 for the one before
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    to_revision: i64,
}

pub(super) async fn run(session: &Session, args: &Undo) -> Result<(), Error> {
    let run = Dry::parse(&args.dry_run)?;
    let printer = args.printing.open()?;
    let (found, mut failures) = objects(session, &args.naming).await?;
    for one in found {
        failures.extend(undo(session, args, (&one, run), &printer).await.err());
    }
    failed(failures)
}

async fn undo(
    session: &Session,
    args: &Undo,
    (found, run): (&Found, Dry),
    printer: &Printer,
) -> Result<(), Error> {
    if found.object["metadata"]["annotations"].get(LAST_APPLIED).is_some() {
        eprintln!(
            "Warning: resource {}/{} was previously managed with 'kubectl apply'. Rolling back will not update the {LAST_APPLIED} annotation, which may cause unexpected behavior on future 'kubectl apply' operations. Consider using 'kubectl apply' with your previous configuration file instead.",
            found.resource.plural, found.name
        );
    }
    let all = revisions::all(session, found, "rollbacker").await?;
    let revision = chosen(found, &all, args.to_revision)?;
    let done = if run == Dry::Client {
        let text = crate::commands::describe::template(revision.template());
        if is_deployment(found) { text } else { format!("will roll back to {text}") }
    } else {
        back(session, found, revision, (args.to_revision, run)).await?
    };
    print(printer, found, &found.object, &format!("{done}{}", run.suffix()))
}

/// The revision that is asked for: by its number, or the one before the latest.
fn chosen<'a>(found: &Found, all: &'a [Revision], number: i64) -> Result<&'a Revision, Error> {
    let revision = match number {
        0 => all.iter().rev().nth(1),
        _ => all.iter().find(|revision| revision.number == number),
    };
    revision.ok_or_else(|| {
        Error::plain(match number {
            0 if is_deployment(found) => format!("no rollout history found for deployment {:?}", found.name),
            0 => "no last revision to roll back to".to_owned(),
            _ => format!("unable to find specified revision {number} in history"),
        })
    })
}

/// Goes back to a revision, and says what was done.
async fn back(
    session: &Session,
    found: &Found,
    revision: &Revision,
    (number, run): (i64, Dry),
) -> Result<String, Error> {
    if found.object["spec"]["paused"] == true {
        return Err(Error::plain(
            "you cannot rollback a paused deployment; resume it first with 'kubectl rollout resume' and try again",
        ));
    }
    let template = own_template(revision.template());
    if template == own_template(&found.object["spec"]["template"]) {
        return Ok(format!("skipped rollback (current template already matches revision {number})"));
    }
    let path = with_query(&found.path(), &[("dryRun", if run == Dry::Server { "All" } else { "" })]);
    let (patch, content_type) = match &revision.patch {
        Some(patch) => (patch.clone(), STRATEGIC_PATCH),
        None => (restored(found, revision, &template), "application/json-patch+json"),
    };
    let sent = session.patch(&path, content_type, &patch).await;
    sent.map_err(|error| error.behind(&format!("failed restoring revision {number}: ")))?;
    Ok("rolled back".to_owned())
}

/// A Deployment's patch: the template, and the annotations that belong to it.
fn restored(found: &Found, revision: &Revision, template: &Value) -> Value {
    let of = |object: &Value| object["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
    let kept = of(&found.object).into_iter().filter(|(key, _)| KEPT.contains(&key.as_str()));
    let earlier = of(&revision.object).into_iter().filter(|(key, _)| !KEPT.contains(&key.as_str()));
    let annotations: Map<String, Value> = kept.chain(earlier).collect();
    let how = if found.object["metadata"]["annotations"].is_object() { "replace" } else { "add" };
    json!([
        {"op": "replace", "path": "/spec/template", "value": template},
        {"op": how, "path": "/metadata/annotations", "value": annotations},
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_revision_before_the_latest_is_the_one_to_go_back_to() {
        let revision = |number: i64| Revision {
            number,
            cause: String::new(),
            object: json!({"spec": {"template": {"metadata": {"labels": {"a": "b", "pod-template-hash": "x"}}}}}),
            patch: None,
        };
        let resource = crate::manifests::unasked(&json!({"apiVersion": "apps/v1", "kind": "Deployment"}));
        let found = Found {
            resource,
            namespace: String::new(),
            name: "web".to_owned(),
            object: json!({"metadata": {"annotations": {REVISION: "3", "own": "1"}}}),
        };
        let all = [revision(1), revision(3)];
        assert_eq!(chosen(&found, &all, 0).unwrap().number, 1);
        assert_eq!(chosen(&found, &all, 3).unwrap().number, 3);
        assert_eq!(
            chosen(&found, &all, 2).err().map(|error| error.to_string()).unwrap(),
            "error: unable to find specified revision 2 in history"
        );
        assert_eq!(
            chosen(&found, &all[..1], 0).err().map(|error| error.to_string()).unwrap(),
            "error: no rollout history found for deployment \"web\""
        );
        assert_eq!(own_template(all[0].template()), json!({"metadata": {"labels": {"a": "b"}}}));
        assert_eq!(restored(&found, &all[0], &json!({}))[1]["value"], json!({REVISION: "3"}));
    }
}
