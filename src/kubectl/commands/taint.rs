//! `kubectl taint`.

use crate::choice::{Choice, Found, each};
use crate::error::Error;
use crate::session::{STRATEGIC_PATCH, Session};
use crate::writing::{Writing, validation};
use clap::Args;
use serde_json::{Value, json};

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

#[derive(Args)]
pub(crate) struct Taint {
    /// node NAME… or node/NAME…, and what is to be: KEY=VALUE:EFFECT, KEY:EFFECT or KEY-
    words: Vec<String>,
    /// Only nodes with these labels
    #[arg(long, short = 'l', default_value = "", hide_default_value = true)]
    selector: String,
    /// All nodes
    #[arg(long)]
    all: bool,
    /// What unknown fields do: strict refuses, warn warns, ignore drops them
    #[arg(long, default_value = "strict", num_args = 0..=1, default_missing_value = "strict", require_equals = true)]
    validate: String,
    #[command(flatten)]
    pub(crate) writing: Writing,
    /// Change taints that are there already
    #[arg(long)]
    pub(crate) overwrite: bool,
}

/// What a word such as `key=value:NoSchedule` or `key-` asks for.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    Set {
        key: String,
        value: Option<String>,
        effect: String,
    },
    /// With "" for every effect.
    Remove {
        key: String,
        effect: String,
    },
}

pub(crate) async fn run(session: &Session, args: &Taint) -> Result<(), Error> {
    let words = &args.words;
    let changes = |word: &String| word.contains(['=', ':']) || word.ends_with('-');
    let split = words.iter().position(changes).unwrap_or(words.len());
    if split == 0 {
        return Err(Error::plain("one or more resources must be specified as <resource> <name>"));
    }
    let given = &words[split..];
    if given.is_empty() {
        return Err(Error::plain("at least one taint update is required"));
    }
    if let Some(word) = given.iter().find(|word| !changes(word)) {
        return Err(Error::plain(format!("all resources must be specified before taint changes: {word}")));
    }
    let asked = given.iter().map(|word| parse(word)).collect::<Result<Vec<_>, _>>()?;
    let kind = words[0].split('/').next().unwrap_or_default();
    if session.resource(kind).await?.qualified() != "nodes" {
        return Err(Error::plain(format!("invalid resource type {kind}, only node types are supported")));
    }
    let writer = args.writing.open("kubectl-taint")?;
    validation(&args.validate)?;
    let choice = Choice { all: args.all, ..Choice::of(words[..split].to_vec(), &args.selector) };
    let found = choice.read(session, false).await?;
    each(found, async |found: Found| {
        let before = found.object["spec"]["taints"].as_array().cloned().unwrap_or_default();
        if !args.overwrite {
            no_overwrites(&found.name, &before, &asked)?;
        }
        let (after, verb) = changed(&before, &asked)?;
        let mut object = found.object.clone();
        if writer.is_client() {
            object["spec"]["taints"] = json!(after);
        } else {
            let patch = json!({"spec": {"taints": after}, "metadata": {"resourceVersion": found.object["metadata"]["resourceVersion"]}});
            object = session.patch(&writer.validated(&found.path(), &args.validate)?, STRATEGIC_PATCH, &patch).await?;
        }
        writer.done(&found.resource, &object, verb)
    })
    .await
}

fn parse(word: &str) -> Result<Change, Error> {
    let usage = |what: String| Error::usage(what, "taint");
    if let Some(rest) = word.strip_suffix('-') {
        let (key, effect) = rest.split_once(':').unwrap_or((rest, ""));
        if !effect.is_empty() && !EFFECTS.contains(&effect) {
            return Err(usage(format!("invalid taint effect: {effect}, unsupported taint effect")));
        }
        let key = key.split('=').next().unwrap_or_default();
        return Ok(Change::Remove { key: key.to_owned(), effect: effect.to_owned() });
    }
    let Some((pair, effect)) = word.split_once(':') else {
        return Err(usage(format!("invalid taint spec: {word}")));
    };
    if !EFFECTS.contains(&effect) {
        return Err(usage(format!("invalid taint effect: {effect}, unsupported taint effect")));
    }
    let (key, value) = pair.split_once('=').map_or((pair, None), |(key, value)| (key, Some(value)));
    let wrong = api::validate::label_value(value.unwrap_or_default());
    if !wrong.is_empty() {
        return Err(usage(format!("invalid taint spec: {word}, {}", wrong.join("; "))));
    }
    Ok(Change::Set {
        key: key.to_owned(),
        value: value.filter(|value| !value.is_empty()).map(str::to_owned),
        effect: effect.to_owned(),
    })
}

fn no_overwrites(node: &str, before: &[Value], asked: &[Change]) -> Result<(), Error> {
    let there = |change: &Change| match change {
        Change::Set { key, effect, .. } => before
            .iter()
            .any(|taint| taint["key"] == key.as_str() && taint["effect"] == effect.as_str())
            .then(|| key.clone()),
        Change::Remove { .. } => None,
    };
    let clashes: Vec<String> = asked.iter().filter_map(there).collect();
    if clashes.is_empty() {
        return Ok(());
    }
    Err(Error::plain(format!(
        "node {node} already has {} taint(s) with same effect(s) and --overwrite is false",
        clashes.join(", ")
    )))
}

/// The taints afterwards, and what that is called.
fn changed(before: &[Value], asked: &[Change]) -> Result<(Vec<Value>, &'static str), Error> {
    let mut after = before.to_vec();
    let (mut set, mut modified, mut removed) = (false, false, false);
    for change in asked {
        match change {
            Change::Remove { key, effect } => {
                let gone = |taint: &Value| {
                    taint["key"] == key.as_str() && (effect.is_empty() || taint["effect"] == effect.as_str())
                };
                if !after.iter().any(gone) {
                    let shown = if effect.is_empty() { key.clone() } else { format!("{key}:{effect}") };
                    return Err(Error::plain(format!("taint {shown:?} not found")));
                }
                after.retain(|taint| !gone(taint));
                removed = true;
            }
            Change::Set { key, value, effect } => {
                let mut taint = json!({"key": key, "effect": effect});
                if let Some(value) = value {
                    taint["value"] = json!(value);
                }
                let same =
                    |known: &&mut Value| known["key"] == key.as_str() && known["effect"] == effect.as_str();
                match after.iter_mut().find(same) {
                    Some(known) => {
                        modified = true;
                        *known = taint;
                    }
                    None => {
                        set = true;
                        after.push(taint);
                    }
                }
            }
        }
    }
    let verb = match (set, modified, removed) {
        (true, false, false) => "tainted",
        (false, false, true) => "untainted",
        _ => "modified",
    };
    Ok((after, verb))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_taints() {
        let set = parse("k=v:NoSchedule").unwrap();
        assert_eq!(
            set,
            Change::Set { key: "k".into(), value: Some("v".into()), effect: "NoSchedule".into() }
        );
        assert_eq!(
            parse("k:NoExecute-").unwrap(),
            Change::Remove { key: "k".into(), effect: "NoExecute".into() }
        );
        assert!(parse("k=v:Bad").unwrap_err().to_string().starts_with("error: invalid taint effect: Bad, "));
    }

    #[test]
    fn taints_come_change_and_go() {
        let asked = |word: &str| vec![parse(word).unwrap()];
        let (one, verb) = changed(&[], &asked("k=v:NoSchedule")).unwrap();
        assert_eq!(verb, "tainted");
        let (two, verb) = changed(&one, &asked("k=w:NoSchedule")).unwrap();
        assert_eq!((verb, two.len(), &two[0]["value"]), ("modified", 1, &json!("w")));
        assert!(no_overwrites("n", &one, &asked("k=w:NoSchedule")).is_err());
        let (none, verb) = changed(&two, &asked("k-")).unwrap();
        assert_eq!((verb, none.len()), ("untainted", 0));
        assert!(changed(&none, &asked("k-")).is_err());
    }
}
