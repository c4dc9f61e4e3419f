//! `kubectl set selector`: which pods a Service leads to.

use super::{Setting, Way};
use crate::args::FilesBelow;
use crate::choice::{Each, Found, failed};
use crate::error::Error;
use crate::session::Session;
use clap::Args;
use serde_json::{Map, Value, json};

#[derive(Args)]
pub(crate) struct Selector {
    /// KIND NAME… or KIND/NAME…, and the selector
    words: Vec<String>,
    #[command(flatten)]
    files: FilesBelow,
    #[command(flatten)]
    way: Way,
    /// Only if this is the object's version
    #[arg(long, default_value = "", hide_default_value = true)]
    resource_version: String,
}

pub(super) async fn run(session: &Session, args: &Selector) -> Result<(), Error> {
    let setting = Setting {
        naming: Each { words: args.words.clone(), files: args.files.files() },
        way: args.way.clone(),
    };
    let writer = setting.way.writing.open("kubectl-set")?;
    let Some((last, words)) = setting.naming.words.split_last() else {
        return Err(Error::plain("one selector is required"));
    };
    let selector = parse(last)?;
    let split = if setting.way.local { 0 } else { words.len() };
    let mut failures = Vec::new();
    for mut found in setting.read(session, split, "").await? {
        let mut after = found.object.clone();
        if !args.resource_version.is_empty() {
            found.object["metadata"]["resourceVersion"] = Value::Null;
            after["metadata"]["resourceVersion"] = json!(args.resource_version);
        }
        let ended = match set(&found, &mut after, &selector) {
            // The patch is sent also where it changes nothing: a version is to be compared all the same.
            Ok(()) => setting.one(session, &writer, (&found, after), "selector updated").await,
            Err(error) => Err(error),
        };
        failures.extend(ended.err());
    }
    failed(failures)
}

/// What a Service can have: labels and their values. Anything else that a selector may say comes second.
struct Parsed {
    labels: Map<String, Value>,
    other: Option<String>,
}

fn parse(text: &str) -> Result<Parsed, Error> {
    api::selector::Labels::parse(text)
        .map_err(|error| Error::plain(format!("couldn't parse the selector string \"{text}\": {error}")))?;
    let mut parsed = Parsed { labels: Map::new(), other: None };
    for part in text.split(',') {
        match part.replace("==", "=").split_once('=') {
            Some((key, value)) if !key.ends_with('!') && !key.contains('(') => {
                parsed.labels.insert(key.trim().to_owned(), json!(value.trim()));
            }
            _ => parsed.other = Some(text.to_owned()),
        }
    }
    Ok(parsed)
}

fn set(found: &Found, after: &mut Value, selector: &Parsed) -> Result<(), Error> {
    if found.resource.kind != "Service" {
        return Err(Error::plain("setting a selector is only supported for Services"));
    }
    if let Some(text) = &selector.other {
        return Err(Error::plain(format!("match expression {text} not supported on this object")));
    }
    after["spec"]["selector"] = json!(selector.labels);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_has_labels_alone() {
        let parsed = parse("a=b, c==d").unwrap();
        assert_eq!((Value::Object(parsed.labels), parsed.other), (json!({"a": "b", "c": "d"}), None));
        for text in ["a in (b,c)", "a!=b", "!a", "a"] {
            assert!(parse(text).unwrap().other.is_some(), "{text}");
        }
    }
}
