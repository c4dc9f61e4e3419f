//! `kubectl label`, and what it shares with `annotate`.

use crate::choice::{Choice, Findings, Found, each};
use crate::error::Error;
use crate::output::say;
use crate::pairs::{self, Changes};
use crate::session::{MERGE_PATCH, Session};
use crate::writing::{Writer, Writing};
use api::validate::label_value;
use clap::Args;
use serde_json::{Map, Value, json};

/// What is to be labeled or annotated.
#[derive(Args)]
pub(crate) struct Marking {
    #[command(flatten)]
    pub(crate) choice: Choice,
    #[command(flatten)]
    pub(crate) writing: Writing,
    /// Change those that are there already
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Only if this is the object's version
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) resource_version: String,
    /// Show those that there are
    #[arg(long)]
    pub(crate) list: bool,
    /// Ask no server: change what the files say and print it
    #[arg(long)]
    pub(crate) local: bool,
}

/// What is changed of an object's metadata.
#[derive(Clone, Copy)]
pub(crate) struct Part {
    /// `labels` or `annotations`.
    pub(crate) field: &'static str,
    pub(crate) manager: &'static str,
}

pub(crate) async fn run(session: &Session, args: &Marking) -> Result<(), Error> {
    let split = pairs::split(&args.choice.selection.words, "label")?;
    let changes = pairs::parse(
        &args.choice.selection.words[split..],
        "can not both modify and remove a label in the same command",
    )?;
    if let Some(word) = args.choice.selection.words[split..].iter().find(|word| word.matches('=').count() > 1)
    {
        return Err(Error::plain(format!("invalid label spec: {word}")));
    }
    for (key, value) in &changes.set {
        let wrong = label_value(value);
        if !wrong.is_empty() {
            return Err(Error::plain(format!("invalid label value: \"{key}={value}\": {}", wrong.join(";"))));
        }
    }
    let choice = args.choice.first_words(split);
    let part = Part { field: "labels", manager: "kubectl-label" };
    let mut found = args.objects(session, &choice, &changes, part).await?;
    if args.list {
        // What would be changed is shown, and not done.
        found.iter_mut().flatten().for_each(|found| change(&mut found.object, part.field, &changes));
        return list(&found, part, !choice.is_single());
    }
    let writer = args.writing.open(part.manager)?;
    each(found, async |found: Found| {
        let before = &found.object["metadata"]["labels"];
        if !args.overwrite {
            no_overwrites(before, &changes)?;
        }
        for key in &changes.removed {
            if before[key].is_null() && args.is_asked(&writer) {
                say(&format!("label {key:?} not found.\n"))?;
            }
        }
        let mut after = found.object.clone();
        let verb = match (is_added(before, &changes), is_removed(before, &changes)) {
            (true, true) => "modified",
            (true, false) => "labeled",
            (false, true) => "unlabeled",
            (false, false) => "not labeled",
        };
        change(&mut after, part.field, &changes);
        // kubectl prints each by itself.
        writer.printer.anew();
        if args.is_asked(&writer) && verb != "not labeled" {
            after = args.write(session, &writer, &found, (part, &changes)).await?;
        }
        writer.done(&found.resource, &after, verb)
    })
    .await
}

impl Marking {
    /// The objects, after what kubectl wants to be said first.
    pub(crate) async fn objects(
        &self,
        session: &Session,
        choice: &Choice,
        changes: &Changes,
        part: Part,
    ) -> Result<Findings, Error> {
        let what = part.field.trim_end_matches('s');
        if choice.selection.words.is_empty() && choice.files.is_empty() {
            return Err(Error::plain(
                "one or more resources must be specified as <resource> <name> or <resource>/<name>",
            ));
        }
        if changes.is_empty() && !self.list {
            return Err(Error::plain(format!("at least one {what} update is required")));
        }
        self.check(choice)?;
        let found = choice.read(session, self.local).await?;
        if !self.resource_version.is_empty() && !choice.is_single() {
            return Err(Error::plain("--resource-version may only be used with a single resource"));
        }
        Ok(found)
    }

    /// Whether its flags go together.
    fn check(&self, choice: &Choice) -> Result<(), Error> {
        let both = |flag: &str| Err(Error::plain(format!("cannot set --all and --{flag} at the same time")));
        if self.list && self.writing.trying.printing.output.is_some() {
            return Err(Error::plain("--list and --output may not be specified together"));
        }
        if self.choice.all && !self.choice.selection.selector.is_empty() {
            return both("selector");
        }
        if self.choice.all && !self.choice.selection.field_selector.is_empty() {
            return both("field-selector");
        }
        if self.local && !choice.selection.words.is_empty() {
            return Err(Error::plain(
                "can only use local files by -f pod.yaml or --filename=pod.json when --local=true is set",
            ));
        }
        Ok(())
    }

    /// Whether the server is to change anything.
    pub(crate) fn is_asked(&self, writer: &Writer) -> bool {
        !writer.is_client() && !self.local
    }

    /// Has the server change an object, and gives what came of it.
    pub(crate) async fn write(
        &self,
        session: &Session,
        writer: &Writer,
        found: &Found,
        (part, changes): (Part, &Changes),
    ) -> Result<Value, Error> {
        let patch = patch(part.field, changes, &self.resource_version);
        session.patch(&writer.path(&found.path()), MERGE_PATCH, &patch).await
    }
}

/// Whether any label gets a value that it has not.
fn is_added(before: &Value, changes: &Changes) -> bool {
    changes.set.iter().any(|(key, value)| before[key].as_str() != Some(value))
}

fn is_removed(before: &Value, changes: &Changes) -> bool {
    changes.removed.iter().any(|key| !before[key].is_null())
}

fn no_overwrites(before: &Value, changes: &Changes) -> Result<(), Error> {
    let clashes: Vec<String> = overwrites(before, changes)
        .into_iter()
        .map(|clash| format!("{clash}, and --overwrite is false"))
        .collect();
    match &clashes[..] {
        [] => Ok(()),
        [one] => Err(Error::plain(one.clone())),
        several => Err(Error::plain(format!("[{}]", several.join(", ")))),
    }
}

/// What is there already with another value.
pub(crate) fn overwrites(before: &Value, changes: &Changes) -> Vec<String> {
    let clash = |(key, value): (&String, &String)| {
        let known = before[key].as_str()?;
        (known != value).then(|| format!("'{key}' already has a value ({known})"))
    };
    changes.set.iter().filter_map(clash).collect()
}

/// Changes labels or annotations of an object in memory.
pub(crate) fn change(object: &mut Value, field: &str, changes: &Changes) {
    let place = &mut object["metadata"][field];
    if !place.is_object() {
        *place = json!({});
    }
    let Some(map) = place.as_object_mut() else { return };
    for (key, value) in &changes.set {
        map.insert(key.clone(), json!(value));
    }
    for key in &changes.removed {
        map.remove(key);
    }
}

/// The same as a merge patch.
fn patch(field: &str, changes: &Changes, version: &str) -> Value {
    let set = changes.set.iter().map(|(key, value)| (key.clone(), json!(value)));
    let removed = changes.removed.iter().map(|key| (key.clone(), Value::Null));
    let mut patch = json!({"metadata": {field: set.chain(removed).collect::<Map<_, _>>()}});
    if !version.is_empty() {
        patch["metadata"]["resourceVersion"] = json!(version);
    }
    patch
}

/// Prints labels or annotations that there are.
pub(crate) fn list(found: &Findings, part: Part, several: bool) -> Result<(), Error> {
    let mut failed = false;
    for finding in found {
        let Ok(found) = finding else {
            finding.as_ref().err().into_iter().for_each(|error| eprintln!("{error}"));
            failed = true;
            continue;
        };
        let indent = if several { " " } else { "" };
        if several {
            let Found { resource, name, .. } = found;
            say(&format!("Listing {} for {}.{}/{name}:\n", part.field, resource.kind, resource.group))?;
        }
        for (key, value) in found.object["metadata"][part.field].as_object().into_iter().flatten() {
            say(&format!("{indent}{key}={}\n", value.as_str().unwrap_or_default()))?;
        }
    }
    if failed { Err(Error::Said(1)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_not_overwritten() {
        let words: Vec<String> = ["x=z".to_owned(), "y=1".to_owned()].to_vec();
        let changes = pairs::parse(&words, "").unwrap();
        let refused = no_overwrites(&json!({"x": "y", "y": "1"}), &changes).unwrap_err();
        assert_eq!(refused.to_string(), "error: 'x' already has a value (y), and --overwrite is false");
        assert!(no_overwrites(&json!({"x": "z"}), &changes).is_ok());
    }

    #[test]
    fn a_patch_says_what_goes() {
        let words: Vec<String> = ["x=z".to_owned(), "y-".to_owned()].to_vec();
        let changes = pairs::parse(&words, "").unwrap();
        assert_eq!(
            patch("labels", &changes, "7"),
            json!({"metadata": {"labels": {"x": "z", "y": null}, "resourceVersion": "7"}})
        );
        let mut object = json!({"metadata": {"labels": {"y": "1"}}});
        change(&mut object, "labels", &changes);
        assert_eq!(object, json!({"metadata": {"labels": {"x": "z"}}}));
    }
}
