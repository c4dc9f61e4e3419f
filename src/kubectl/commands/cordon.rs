//! `kubectl cordon` and `kubectl uncordon`.

use crate::choice::{Choice, Findings, Found, each};
use crate::error::Error;
use crate::output::say;
use crate::session::{STRATEGIC_PATCH, Session, with_query};
use crate::writing::Dry;
use clap::Args;
use serde_json::json;

#[derive(Args)]
pub(crate) struct Cordon {
    /// NODE…
    pub(crate) nodes: Vec<String>,
    /// Only nodes with these labels
    #[arg(long, short = 'l', default_value = "", hide_default_value = true)]
    pub(crate) selector: String,
    /// Only print what would be done: none, client or server
    #[arg(long, default_value = "none", num_args = 0..=1, default_missing_value = "unchanged", require_equals = true)]
    pub(crate) dry_run: String,
}

pub(crate) async fn run(session: &Session, args: &Cordon, cordon: bool) -> Result<(), Error> {
    let command = if cordon { "cordon" } else { "uncordon" };
    let run = Dry::parse(&args.dry_run)?;
    let found = nodes(session, &args.nodes, &args.selector, command).await?;
    each(found, async |node: Found| schedulable(session, &node, (cordon, run)).await).await
}

/// The nodes that are named or selected.
pub(crate) async fn nodes(
    session: &Session,
    names: &[String],
    selector: &str,
    command: &str,
) -> Result<Findings, Error> {
    if names.is_empty() && selector.is_empty() {
        return Err(Error::usage(format!("USAGE: {command} NODE [flags]"), command));
    }
    if !names.is_empty() && !selector.is_empty() {
        return Err(Error::usage("cannot specify both a node name and a --selector option", command));
    }
    let mut words: Vec<String> = names.to_vec();
    if !names.iter().any(|name| name.contains('/')) {
        words.insert(0, "nodes".to_owned());
    }
    // The first that there is not ends it.
    let found = Choice::of(words, selector).read(session, false).await?;
    Ok(found.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().map(Ok).collect())
}

/// Sets whether a node takes pods, and says it.
pub(crate) async fn schedulable(
    session: &Session,
    node: &Found,
    (cordon, run): (bool, Dry),
) -> Result<(), Error> {
    let verb = if cordon { "cordoned" } else { "uncordoned" };
    let suffix = match run {
        Dry::No => "",
        Dry::Client => Dry::Client.suffix(),
        Dry::Server => Dry::Server.suffix(),
    };
    if (node.object["spec"]["unschedulable"] == true) == cordon {
        return say(&format!("node/{} already {verb}{suffix}\n", node.name));
    }
    if run != Dry::Client {
        let all = if run == Dry::Server { "All" } else { "" };
        let path = with_query(&node.path(), &[("dryRun", all)]);
        let value = if cordon { json!(true) } else { json!(null) };
        session.patch(&path, STRATEGIC_PATCH, &json!({"spec": {"unschedulable": value}})).await?;
    }
    say(&format!("node/{} {verb}{suffix}\n", node.name))
}
