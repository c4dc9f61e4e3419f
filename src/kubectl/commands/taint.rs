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
    once(&asked)?;
    let kind = words[0].split('/').next().unwrap_or_default();
    if session.resource(kind).await?.qualified() != "nodes" {
        return Err(Error::plain(format!("invalid resource type {kind}, only node types are supported")));
    }
    apart(&asked)?;
    if args.all && !args.selector.is_empty() {
        return Err(Error::plain("setting 'all' parameter with a non empty selector is prohibited"));
    }
    if !args.all && args.selector.is_empty() && split < 2 && !words[0].contains('/') {
        return Err(Error::plain(
            "at least one resource name must be specified since 'all' parameter is not set",
        ));
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

/// A key and an effect are set once.
fn once(asked: &[Change]) -> Result<(), Error> {
    for (at, change) in asked.iter().enumerate() {
        let Change::Set { key, value, effect } = change else { continue };
        let same = |other: &Change| matches!(other, Change::Set { key: k, effect: e, .. } if k == key && e == effect);
        if asked[..at].iter().any(same) {
            let value = value.as_deref().unwrap_or_default();
            let why =
                format!("duplicated taints with the same key and effect: {{{key} {value} {effect} <nil>}}");
            return Err(Error::usage(why, "taint"));
        }
    }
    Ok(())
}

/// What is set is not taken away.
fn apart(asked: &[Change]) -> Result<(), Error> {
    let mut both = Vec::new();
    for change in asked {
        let Change::Set { key, effect, .. } = change else { continue };
        for other in asked {
            if let Change::Remove { key: gone, effect: of } = other
                && gone == key
                && (of.is_empty() || of == effect)
            {
                both.push(format!("{gone}={of}"));
            }
        }
    }
    if both.is_empty() {
        return Ok(());
    }
    Err(Error::plain(format!(
        "can not both modify and remove the following taint(s) in the same command: {}",
        both.join(", ")
    )))
}

fn parse(word: &str) -> Result<Change, Error> {
    let usage = |what: String| Error::usage(what, "taint");
    let invalid = |word: &str| usage(format!("invalid taint spec: {word}"));
    let (taint, removes) = word.strip_suffix('-').map_or((word, false), |taint| (taint, true));
    let (pair, effect) = match taint.split(':').collect::<Vec<_>>()[..] {
        [key] => (key, ""),
        [_, effect] if !EFFECTS.contains(&effect) => {
            return Err(usage(format!("invalid taint effect: {effect}, unsupported taint effect")));
        }
        [pair, effect] => (pair, effect),
        _ => return Err(invalid(taint)),
    };
    // Without an effect the whole is a key.
    let (key, value) = match pair.split('=').collect::<Vec<_>>()[..] {
        _ if effect.is_empty() => (pair, ""),
        [key] => (key, ""),
        [key, value] => (key, value),
        _ => return Err(invalid(taint)),
    };
    for wrong in [api::validate::label_value(value), api::validate::qualified_name(key)] {
        if !wrong.is_empty() {
            return Err(usage(format!("invalid taint spec: {taint}, {}", wrong.join("; "))));
        }
    }
    let (key, effect) = (key.to_owned(), effect.to_owned());
    match removes {
        true => Ok(Change::Remove { key, effect }),
        false if effect.is_empty() => Err(invalid(taint)),
        false => {
            let value = Some(value).filter(|value| !value.is_empty()).map(str::to_owned);
            Ok(Change::Set { key, value, effect })
        }
    }
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
        for (word, why) in [
            ("k=v", "name part must consist of"),
            ("k", "k\nSee"),
            ("k=v=w:NoSchedule", "k=v=w:NoSchedule\nSee"),
            (":NoSchedule", "name part must be non-empty"),
            ("a:b:NoSchedule", "a:b:NoSchedule\nSee"),
            ("-", ", name part must be non-empty"),
        ] {
            let said = parse(word).unwrap_err().to_string();
            assert!(said.starts_with("error: invalid taint spec: ") && said.contains(why), "{word}: {said}");
        }
        let all = |words: &[&str]| words.iter().map(|word| parse(word).unwrap()).collect::<Vec<_>>();
        assert!(once(&all(&["k=v:NoSchedule", "k=w:NoExecute"])).is_ok());
        assert!(once(&all(&["k=v:NoSchedule", "k=w:NoSchedule"])).is_err());
        assert!(apart(&all(&["k=v:NoSchedule", "k:NoExecute-"])).is_ok());
        assert!(apart(&all(&["k=v:NoSchedule", "k-"])).is_err());
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
