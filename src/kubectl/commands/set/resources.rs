//! `kubectl set resources`.

use super::{Selected, changed, containers, pod_spec};
use crate::commands::create::quantities;
use crate::error::Error;
use crate::session::Session;
use clap::Args;
use serde_json::{Map, Value, json};

#[derive(Args)]
pub(crate) struct Resources {
    #[command(flatten)]
    selected: Selected,
    /// The containers, with stars for anything
    #[arg(long, short = 'c', default_value = "*")]
    containers: String,
    /// The most that they may use: RESOURCE=QUANTITY,…
    #[arg(long, default_value = "", hide_default_value = true)]
    limits: String,
    /// What they request: RESOURCE=QUANTITY,…
    #[arg(long, default_value = "", hide_default_value = true)]
    requests: String,
}

pub(super) async fn run(session: &Session, args: &Resources) -> Result<(), Error> {
    let Resources { selected: Selected { setting, selector }, containers: wanted, .. } = args;
    let writer = setting.way.writing.open("kubectl-set")?;
    let found = setting.read(session, setting.naming.words.len(), selector).await?;
    setting.open()?;
    if args.limits.is_empty() && args.requests.is_empty() {
        return Err(Error::plain(
            "you must specify an update to requests or limits (in the form of --requests/--limits)",
        ));
    }
    let amounts = [("limits", read(&args.limits)?), ("requests", read(&args.requests)?)];
    let mut missing = Vec::new();
    let (changes, failures) = changed(found, |_, object| {
        let mut chosen = containers(pod_spec(object)?, wanted);
        if chosen.is_empty() {
            missing.push(Error::plain(format!("error: unable to find container named {wanted}")));
        }
        chosen.iter_mut().for_each(|container| set(container, &amounts));
        Ok(())
    });
    let failures = missing.into_iter().chain(failures).collect();
    let words = ("resource requirements updated", "failed to patch resources update to pod template ");
    setting.send(session, &writer, words, (changes, failures)).await
}

fn read(text: &str) -> Result<Map<String, Value>, Error> {
    let words: Vec<String> = text.split(',').filter(|_| !text.is_empty()).map(str::to_owned).collect();
    quantities(&words)
}

/// Lays amounts over those that a container has.
fn set(container: &mut Value, amounts: &[(&str, Map<String, Value>)]) {
    for (part, amounts) in amounts {
        for (resource, amount) in amounts {
            container["resources"][part][resource] = json!(amount);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_lie_over_those_that_were_there() {
        let mut container = json!({"resources": {"limits": {"cpu": "1", "memory": "1Gi"}}});
        set(&mut container, &[("limits", read("cpu=200m").unwrap()), ("requests", read("").unwrap())]);
        assert_eq!(container, json!({"resources": {"limits": {"cpu": "200m", "memory": "1Gi"}}}));
    }
}
