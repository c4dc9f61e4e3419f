//! The annotation of what was applied last: showing it, setting it and editing it.

use super::client_side;
use crate::args::FilesAlone;
use crate::choice::{Choice, Each, Found, NOTHING, Naming, failed};
use crate::commands::edit::{Editing, Endings, edit as in_editor, editable};
use crate::error::Error;
use crate::manifests;
use crate::output::{escaped, say};
use crate::session::{MERGE_PATCH, Session, with_query};
use crate::writing::{LAST_APPLIED, Printing, Trying, resource_name, validation};
use clap::Args;
use serde_json::{Value, json};

const HEADER: &str = "# Please edit the 'last-applied-configuration' annotations below.\n# Lines beginning with a '#' will be ignored, and an empty file will abort the edit.\n#\n";

#[derive(Args)]
pub(crate) struct View {
    #[command(flatten)]
    naming: Naming,
    /// All objects of the kind
    #[arg(long)]
    all: bool,
    /// yaml or json
    #[arg(long, short, default_value = "yaml")]
    output: String,
}

#[derive(Args)]
pub(crate) struct Set {
    #[command(flatten)]
    files: FilesAlone,
    #[command(flatten)]
    trying: Trying,
    /// Make the annotation where there is none
    #[arg(long)]
    create_annotation: bool,
}

#[derive(Args)]
pub(crate) struct Edit {
    #[command(flatten)]
    each: Each,
    #[command(flatten)]
    printing: Printing,
    /// Who writes, for the server's records
    #[arg(long, value_name = "NAME", default_value = client_side::MANAGER)]
    field_manager: String,
    /// What unknown fields do: strict refuses, warn warns, ignore drops them
    #[arg(long, default_value = "strict", num_args = 0..=1, default_missing_value = "strict", require_equals = true)]
    validate: String,
    #[command(flatten)]
    endings: Endings,
}

/// What the annotation of an object says, if there is one.
fn said(object: &Value) -> Option<&str> {
    object["metadata"]["annotations"][LAST_APPLIED].as_str()
}

fn parsed(text: &str) -> Result<Value, Error> {
    serde_json::from_str(text)
        .map_err(|error| Error::plain(format!("the annotation {LAST_APPLIED} is no JSON: {error}")))
}

pub(super) async fn view(session: &Session, args: &View) -> Result<(), Error> {
    let choice = args.naming.choice(args.naming.words.len(), args.all || session.namespace_given);
    let words = &args.naming.words;
    let named =
        !args.naming.files.is_empty() || words.len() > 1 || words.iter().any(|word| word.contains('/'));
    let mut all = Vec::new();
    for found in choice.read(session, false).await? {
        let found = found?;
        let Some(text) = said(&found.object) else {
            // Of all objects of a kind those are shown that have the annotation.
            if !named {
                continue;
            }
            return Err(Error::plain(format!(
                "no last-applied-configuration annotation found on resource: {}",
                found.name
            )));
        };
        all.push(text.to_owned());
    }
    for text in all {
        match args.output.as_str() {
            "json" => say(&indented(&text))?,
            "yaml" => say(&api::yaml::render(&parsed(&text)?))?,
            other => {
                return Err(Error::usage(
                    format!("Unexpected -o output mode: {other}, the flag 'output' must be one of yaml|json"),
                    "apply view-last-applied",
                ));
            }
        }
    }
    Ok(())
}

/// JSON on several lines, its fields in the order that they have.
fn indented(text: &str) -> String {
    let (mut out, mut depth, mut quoted, mut escaped) = (String::new(), 0_usize, false, false);
    let mut signs = text.chars().peekable();
    while let Some(sign) = signs.next() {
        let line = |depth: usize| format!("\n{}", "  ".repeat(depth));
        if quoted {
            out.push(sign);
            quoted = escaped || sign != '"';
            escaped = sign == '\\' && !escaped;
            continue;
        }
        match sign {
            '{' | '[' => {
                out.push(sign);
                if !signs.peek().is_some_and(|next| matches!(next, '}' | ']')) {
                    depth += 1;
                    out.push_str(&line(depth));
                }
            }
            '}' | ']' => {
                if !out.ends_with(['{', '[']) {
                    depth = depth.saturating_sub(1);
                    out.push_str(&line(depth));
                }
                out.push(sign);
            }
            ',' => out.push_str(&format!(",{}", line(depth))),
            ':' => out.push_str(": "),
            '"' => {
                quoted = true;
                out.push(sign);
            }
            _ => out.push(sign),
        }
    }
    out
}

pub(super) async fn set(session: &Session, args: &Set) -> Result<(), Error> {
    let writer = args.trying.open("kubectl")?;
    let mut changes = Vec::new();
    let files = args.files.files();
    if files.is_empty() {
        return Err(Error::plain(NOTHING));
    }
    for document in manifests::read(&files)? {
        let (resource, object) = manifests::locate(session, &document).await?;
        let (name, text) = (manifests::name(&object)?, annotation(&object));
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        let live = session.get(&resource.object(&namespace, &name)).await?;
        match said(&live) {
            None if !args.create_annotation => {
                return Err(Error::plain(format!(
                    "no last-applied-configuration annotation found on resource: {name}, to create the annotation, run the command with --create-annotation"
                )));
            }
            Some(former) if former == text => {
                say(&format!("set-last-applied {name}: no changes required.\n"))?;
            }
            _ => changes.push((Found { resource, namespace, name, object: live }, text)),
        }
    }
    for (found, text) in changes {
        let mut after = found.object.clone();
        if !writer.is_client() {
            after = session.patch(&writer.path(&found.path()), MERGE_PATCH, &patch(&text)).await?;
        }
        writer.done(&found.resource, &after, "configured")?;
    }
    Ok(())
}

/// The annotation's text for an object.
fn annotation(object: &Value) -> String {
    format!("{}\n", escaped(&object.to_string()))
}

fn patch(text: &str) -> Value {
    json!({"metadata": {"annotations": {LAST_APPLIED: text}}})
}

pub(super) async fn edit(session: &Session, args: &Edit) -> Result<(), Error> {
    let query = [("fieldManager", &*args.field_manager), ("fieldValidation", validation(&args.validate)?)];
    // A kind stands for all its objects.
    let choice = Choice { all: true, ..args.each.choice() };
    let (mut before, mut failures) = (Vec::new(), Vec::new());
    for found in choice.read(session, false).await? {
        match found {
            Ok(found) => {
                if let Some(text) = said(&found.object) {
                    before.push(Found { object: parsed(text)?, ..found });
                }
            }
            Err(error) => failures.push(error),
        }
    }
    failed(failures)?;
    if before.is_empty() {
        return Err(Error::plain(
            "no last-applied-configuration annotation found on resources, to create the annotation, use command `kubectl apply set-last-applied --create-annotation`",
        ));
    }
    editable(&args.printing)?;
    let printer = args.printing.open()?;
    let json = args.printing.output.as_deref() == Some("json");
    let editing = Editing { header: HEADER, before: &before, json, new: false, endings: args.endings };
    in_editor(editing, async |after: &[Value]| {
        for (found, object) in before.iter().zip(after) {
            if found.object == *object {
                continue;
            }
            let path = with_query(&found.path(), &query);
            let edited = session.patch(&path, MERGE_PATCH, &patch(&annotation(object))).await?;
            printer.print(&edited, || format!("{}/{} edited", resource_name(&found.resource), found.name))?;
        }
        Ok(())
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_keeps_its_order() {
        assert_eq!(
            indented("{\"b\":[1,{}],\"a\":\"x\\\"{,\",\"c\":[]}\n"),
            "{\n  \"b\": [\n    1,\n    {}\n  ],\n  \"a\": \"x\\\"{,\",\n  \"c\": []\n}\n"
        );
    }

    #[test]
    fn the_annotation_is_the_object_as_it_stands_in_the_file() {
        let object = json!({"kind": "ConfigMap", "data": {"k": "<"}});
        let text = annotation(&object);
        assert_eq!(text, "{\"data\":{\"k\":\"\\u003c\"},\"kind\":\"ConfigMap\"}\n");
        assert_eq!(parsed(&text).unwrap(), object);
        assert_eq!(said(&patch(&text)), Some(text.as_str()));
    }
}
