//! `kubectl delete`.

use crate::args::Delete;
use crate::error::Error;
use crate::output::say;
use crate::session::Session;
use crate::target::{self, Target};
use crate::wait_gone::{self, Gone};
use crate::writing::{dry, resource_name};
use http::Method;
use serde_json::{Value, json};

pub(crate) async fn run(session: &Session, args: &Delete) -> Result<(), Error> {
    let selects =
        args.all || !args.selection.selector.is_empty() || !args.selection.field_selector.is_empty();
    let targets = target::resolve(session, &args.selection, &args.files).await?;
    if !selects && targets.iter().any(|target| target.name.is_none()) {
        return Err(Error::plain("resource(s) were provided, but no name was specified"));
    }
    if args.force && args.grace_period > 0 {
        return Err(Error::plain("--force and --grace-period greater than 0 cannot be specified together"));
    }
    let options = options(args)?;
    if grace(args) == Some(0) {
        eprintln!(
            "Warning: Immediate deletion does not wait for confirmation that the running resource has been terminated. The resource may continue to run on the cluster indefinitely."
        );
    }
    let mut going = Vec::new();
    let mut failed = false;
    for target in expand(session, args, targets).await? {
        match one(session, args, &target, &options).await {
            Ok(gone) => going.extend(gone),
            Err(error) if error.is_not_found() && (args.ignore_not_found || selects) => {}
            Err(error @ Error::Said(_)) => return Err(error),
            Err(error) => {
                eprintln!("{error}");
                failed = true;
            }
        }
    }
    if going.is_empty() && !failed && selects && !args.ignore_not_found {
        say("No resources found\n")?;
    }
    if args.wait && args.dry_run == "none" {
        wait_gone::all(session, &going, &args.timeout).await?;
    }
    if failed { Err(Error::Said(1)) } else { Ok(()) }
}

/// The seconds that pods get, or none for what they ask for.
fn grace(args: &Delete) -> Option<i64> {
    match (args.grace_period, args.now, args.force) {
        (_, true, _) => Some(1),
        (seconds, _, true) if seconds <= 0 => Some(0),
        // Without --force, zero seconds mean the shortest orderly end.
        (0, ..) => Some(1),
        (seconds, ..) if seconds > 0 => Some(seconds),
        _ => None,
    }
}

fn options(args: &Delete) -> Result<Value, Error> {
    let policy = match args.cascade.as_str() {
        "background" | "true" => "Background",
        "foreground" => "Foreground",
        "orphan" | "false" => "Orphan",
        other => {
            return Err(Error::plain(format!(
                "invalid cascade value ({other:?}). Must be \"background\", \"foreground\", or \"orphan\""
            )));
        }
    };
    let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": policy});
    if let Some(seconds) = grace(args) {
        options["gracePeriodSeconds"] = json!(seconds);
    }
    if args.dry_run == "server" {
        options["dryRun"] = json!(["All"]);
    }
    Ok(options)
}

/// Whole collections as the objects that are in them.
async fn expand(session: &Session, args: &Delete, targets: Vec<Target>) -> Result<Vec<Target>, Error> {
    let mut all = Vec::new();
    for target in targets {
        if target.name.is_some() {
            all.push(target);
            continue;
        }
        let list = session.get(&target.path(&args.selection)).await?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        all.extend(list["items"].as_array().into_iter().flatten().map(|item| Target {
            name: Some(text(&item["metadata"]["name"])),
            namespace: text(&item["metadata"]["namespace"]),
            ..target.clone()
        }));
    }
    Ok(all)
}

async fn one(
    session: &Session,
    args: &Delete,
    target: &Target,
    options: &Value,
) -> Result<Option<Gone>, Error> {
    let name = target.name.as_deref().unwrap_or_default();
    let path = target.resource.object(&target.namespace, name);
    let answer = match args.dry_run.as_str() {
        "client" => session.get(&path).await?,
        _ => session.write(Method::DELETE, &path, options).await?,
    };
    let kind = resource_name(&target.resource);
    if args.output.as_deref() == Some("name") {
        say(&format!("{kind}/{name}\n"))?;
    } else {
        let verb = if grace(args) == Some(0) { "force deleted" } else { "deleted" };
        let place = match target.namespace.as_str() {
            "" => String::new(),
            namespace => format!(" from {namespace} namespace"),
        };
        say(&format!("{kind} \"{name}\" {verb}{place}{}\n", dry(&args.dry_run)))?;
    }
    let uid = [&answer["metadata"]["uid"], &answer["details"]["uid"]].into_iter().find_map(Value::as_str);
    Ok(Some(Gone {
        resource: target.resource.clone(),
        namespace: target.namespace.clone(),
        name: name.to_owned(),
        uid: uid.unwrap_or_default().to_owned(),
    }))
}
