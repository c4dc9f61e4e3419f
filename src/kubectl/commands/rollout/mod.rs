//! `kubectl rollout`: of Deployments, DaemonSets and StatefulSets.

mod history;
mod revisions;
mod status;
mod undo;

use crate::choice::{Found, Naming, failed};
use crate::error::Error;
use crate::output::none_found;
use crate::session::{STRATEGIC_PATCH, Session, with_query};
use crate::writing::{Printer, Printing, resource_name};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

/// What is done to a rollout.
#[derive(Subcommand)]
pub(crate) enum Rollout {
    /// Wait until it is done
    Status(status::Status),
    /// List revisions
    History(history::History),
    /// Go back to an earlier revision
    Undo(undo::Undo),
    /// Hold it
    Pause(Steering),
    /// Let it go on
    Resume(Steering),
    /// Replace all pods
    Restart(Steering),
}

/// Flags of what changes a rollout.
#[derive(Args)]
pub(crate) struct Steering {
    #[command(flatten)]
    naming: Naming,
    #[command(flatten)]
    printing: Printing,
    /// Who writes, for the server's records
    #[arg(long, default_value = "kubectl-rollout", value_name = "NAME")]
    field_manager: String,
}

pub(crate) async fn run(session: &Session, command: &Rollout) -> Result<(), Error> {
    match command {
        Rollout::Status(args) => status::run(session, args).await,
        Rollout::History(args) => history::run(session, args).await,
        Rollout::Undo(args) => undo::run(session, args).await,
        Rollout::Pause(args) => steer(session, args, ("paused", pause)).await,
        Rollout::Resume(args) => steer(session, args, ("resumed", resume)).await,
        Rollout::Restart(args) => steer(session, args, ("restarted", restart)).await,
    }
}

/// The objects that are named, kinds without names standing for all; and what could not be read.
async fn objects(session: &Session, naming: &Naming) -> Result<(Vec<Found>, Vec<Error>), Error> {
    if naming.words.is_empty() && naming.files.is_empty() {
        return Err(Error::plain("required resource not specified"));
    }
    let choice = naming.choice(naming.words.len(), true);
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    for one in choice.read(session, false).await? {
        match one {
            Ok(one) => found.push(one),
            Err(error) => failures.push(error),
        }
    }
    Ok((found, failures))
}

/// `Deployment.apps`, or `Pod`: the kind in its group, as messages have it.
fn group_kind(found: &Found) -> String {
    let (group, kind) = (&found.resource.group, &found.resource.kind);
    if group.is_empty() { kind.clone() } else { format!("{kind}.{group}") }
}

/// Prints the object, or a line about it.
fn print(printer: &Printer, found: &Found, object: &Value, said: &str) -> Result<(), Error> {
    // kubectl prints each by itself.
    printer.anew();
    printer.print(object, || format!("{}/{} {said}", resource_name(&found.resource), found.name))
}

/// What a patch has to have, or why there is none.
type Plan = fn(&Found) -> Result<Value, String>;

async fn steer(session: &Session, args: &Steering, (done, plan): (&str, Plan)) -> Result<(), Error> {
    let printer = args.printing.open()?;
    let (found, mut failures) = objects(session, &args.naming).await?;
    if found.is_empty() && failures.is_empty() {
        none_found(Some(&session.namespace));
        return Ok(());
    }
    for one in found {
        let patch = match plan(&one) {
            Ok(patch) => patch,
            Err(reason) => {
                let qualified = one.resource.qualified();
                failures.push(Error::Plain(format!("error: {qualified} {:?} {reason}", one.name)));
                continue;
            }
        };
        if patch == json!({}) {
            failures.push(Error::plain(format!(
                "failed to create patch for {}: if restart has already been triggered within the past second, please wait before attempting to trigger another",
                one.name
            )));
            continue;
        }
        let path = with_query(&one.path(), &[("fieldManager", &args.field_manager)]);
        match session.patch(&path, STRATEGIC_PATCH, &patch).await {
            Ok(after) => print(&printer, &one, &after, done)?,
            Err(error) => failures.push(error.behind("failed to patch: ")),
        }
    }
    failed(failures)
}

fn is_deployment(found: &Found) -> bool {
    (found.resource.group.as_str(), found.resource.kind.as_str()) == ("apps", "Deployment")
}

fn pause(found: &Found) -> Result<Value, String> {
    match (is_deployment(found), found.object["spec"]["paused"] == true) {
        (false, _) => Err("pausing is not supported".to_owned()),
        (true, true) => Err("is already paused".to_owned()),
        (true, false) => Ok(json!({"spec": {"paused": true}})),
    }
}

fn resume(found: &Found) -> Result<Value, String> {
    match (is_deployment(found), found.object["spec"]["paused"] == true) {
        (false, _) => Err("resuming is not supported".to_owned()),
        (true, false) => Err("is not paused".to_owned()),
        (true, true) => Ok(json!({"spec": {"paused": null}})),
    }
}

fn restart(found: &Found) -> Result<Value, String> {
    const RESTARTED: &str = "kubectl.kubernetes.io/restartedAt";
    let kinds = ["Deployment", "DaemonSet", "StatefulSet"];
    if found.resource.group != "apps" || !kinds.contains(&found.resource.kind.as_str()) {
        return Err("restarting is not supported".to_owned());
    }
    if found.object["spec"]["paused"] == true {
        return Err("can't restart paused deployment (run rollout resume first)".to_owned());
    }
    let now = base::clock::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let annotations = &found.object["spec"]["template"]["metadata"]["annotations"];
    if annotations[RESTARTED] == now {
        return Ok(json!({}));
    }
    Ok(json!({"spec": {"template": {"metadata": {"annotations": {RESTARTED: now}}}}}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(spec: Value) -> Found {
        let resource = crate::manifests::unasked(&json!({"apiVersion": "apps/v1", "kind": "Deployment"}));
        Found { resource, namespace: String::new(), name: "web".to_owned(), object: json!({"spec": spec}) }
    }

    #[test]
    fn what_is_paused_is_not_paused_again() {
        let (running, paused) = (deployment(json!({})), deployment(json!({"paused": true})));
        assert!(pause(&running).is_ok() && resume(&paused).is_ok() && restart(&running).is_ok());
        assert_eq!(pause(&paused).unwrap_err(), "is already paused");
        assert_eq!(resume(&running).unwrap_err(), "is not paused");
        assert!(restart(&paused).unwrap_err().starts_with("can't restart paused deployment"));
    }
}
