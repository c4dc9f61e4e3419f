//! `kubectl scale`.

use crate::choice::{Found, Naming};
use crate::error::Error;
use crate::globals::span;
use crate::session::{MERGE_PATCH, Session, with_query};
use crate::wait_gone::duration;
use crate::writing::{Dry, Trying, Writer};
use clap::Args;
use http::Method;
use serde_json::{Value, json};
use std::time::Duration;

/// Between looks at whether as many run as are wanted.
const PAUSE: Duration = Duration::from_secs(1);
/// For how long a number is set anew that somebody else changes meanwhile.
const PATIENCE: Duration = Duration::from_secs(300);

#[derive(Args)]
pub(crate) struct Scale {
    #[command(flatten)]
    naming: Naming,
    #[command(flatten)]
    trying: Trying,
    /// The new number
    #[arg(long, allow_negative_numbers = true)]
    replicas: Option<i64>,
    /// Only if this is the number now; -1 for any
    #[arg(long, default_value_t = -1, allow_negative_numbers = true)]
    current_replicas: i64,
    /// Only if this is the object's version
    #[arg(long, default_value = "", hide_default_value = true)]
    resource_version: String,
    /// All objects of the kind
    #[arg(long)]
    all: bool,
    /// How long to wait for as many to run, such as 30s; 0s not to wait
    #[arg(long, default_value = "0s", allow_hyphen_values = true, value_parser = span)]
    timeout: String,
}

pub(crate) async fn run(session: &Session, args: &Scale) -> Result<(), Error> {
    super::create::required(&[("replicas", args.replicas.is_some())])?;
    let replicas = args.replicas.unwrap_or_default();
    let writer = args.trying.open("kubectl-scale")?;
    if replicas < 0 {
        return Err(Error::plain(
            "The --replicas=COUNT flag is required, and COUNT must be greater than or equal to 0",
        ));
    }
    if args.current_replicas < -1 {
        return Err(Error::plain("The --current-replicas must specify an integer of -1 or greater"));
    }
    let choice = args.naming.choice(args.naming.words.len(), args.all);
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    for one in choice.read(session, false).await? {
        match one {
            Ok(one) => found.push(one),
            Err(error) => failures.push(error),
        }
    }
    if !args.resource_version.is_empty() && found.len() > 1 {
        return Err(Error::plain("cannot use --resource-version with multiple resources"));
    }
    if found.is_empty() && failures.is_empty() {
        return Err(Error::plain("no objects passed to scale"));
    }
    for one in &found {
        scale(session, args, &writer, (one, replicas)).await?;
    }
    crate::choice::failed(failures)
}

async fn scale(
    session: &Session,
    args: &Scale,
    writer: &Writer,
    (found, replicas): (&Found, i64),
) -> Result<(), Error> {
    let mut after = found.object.clone();
    let mut number = json!(replicas);
    if !writer.is_client() {
        number = tokio::time::timeout(PATIENCE, set(session, args, writer, (found, replicas)))
            .await
            .map_err(|_| Error::plain("timed out waiting for the condition"))??;
        session.record(&writer.path(&found.path())).await?;
    }
    if matches!(found.resource.group.as_str(), "" | "apps") {
        after["spec"]["replicas"] = number;
    }
    let limit = duration(args.timeout.trim_start_matches('-'))?;
    if !limit.is_zero() && writer.dry == Dry::No {
        let waited = tokio::time::timeout(limit, reached(session, found, replicas)).await;
        waited
            .map_err(|_| Error::plain(format!("timed out waiting for {:?} to be synced", found.name)))??;
    }
    writer.done(&found.resource, &after, "scaled")
}

/// Sets the number, as often as somebody else is quicker, and gives what it is then.
async fn set(
    session: &Session,
    args: &Scale,
    writer: &Writer,
    (found, replicas): (&Found, i64),
) -> Result<Value, Error> {
    let path = format!("{}/scale", found.path());
    let sent = with_query(&path, &[("dryRun", if writer.dry == Dry::Server { "All" } else { "" })]);
    loop {
        let answer = if args.current_replicas == -1 && args.resource_version.is_empty() {
            session.patch(&sent, MERGE_PATCH, &json!({"spec": {"replicas": replicas}})).await
        } else {
            let mut scale = session.get(&path).await?;
            expected(&scale, args)?;
            scale["spec"]["replicas"] = json!(replicas);
            session.write(Method::PUT, &sent, &scale).await
        };
        match answer {
            Ok(scale) => return Ok(json!(scale["spec"]["replicas"].as_i64().unwrap_or(0))),
            Err(error) if error.is_conflict() => base::clock::sleep(PAUSE).await,
            Err(error) => return Err(error),
        }
    }
}

/// Whether the number and the version are those that were expected.
fn expected(scale: &Value, args: &Scale) -> Result<(), Error> {
    let number = scale["spec"]["replicas"].as_i64().unwrap_or(0);
    if args.current_replicas != -1 && number != args.current_replicas {
        return Err(Error::plain(format!("Expected replicas to be {}, was {number}", args.current_replicas)));
    }
    let version = scale["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    if !args.resource_version.is_empty() && version != args.resource_version {
        return Err(Error::plain(format!(
            "Expected resource version to be {}, was {version}",
            args.resource_version
        )));
    }
    Ok(())
}

/// Until as many run as are wanted, or somebody wants another number.
async fn reached(session: &Session, found: &Found, replicas: i64) -> Result<(), Error> {
    let path = format!("{}/scale", found.path());
    loop {
        let scale = session.get(&path).await?;
        let of = |part: &str| scale[part]["replicas"].as_i64().unwrap_or(0);
        if of("spec") != replicas || of("status") == replicas {
            return Ok(());
        }
        base::clock::sleep(PAUSE).await;
    }
}
