//! Whole objects: JSON, YAML, names, templates.

use super::{Get, failed, part, sorting};
use crate::error::Error;
use crate::output::{self, Form};
use crate::parts;
use crate::session::Session;
use crate::target::Target;
use serde_json::{Value, json};

pub(super) async fn run(session: &Session, args: &Get, targets: &[Target], form: &Form) -> Result<(), Error> {
    let mut found = Vec::new();
    let mut failures = Vec::new();
    let one = matches!(targets, [target] if target.name.is_some());
    for target in targets {
        match fetch(session, args, target, form).await {
            Ok(object) => found.push(object),
            Err(error) if error.is_not_found() && args.ignore_not_found => {}
            Err(error) => failures.push(target.unlisted(&args.selection, error)),
        }
    }
    if found.is_empty() && (one || args.ignore_not_found) {
        return failed(failures);
    }
    let mut shown = if one { found.remove(0) } else { list_of(found) };
    if let Some(path) = args.sort_by() {
        sorting::items(&mut shown, path)?;
    }
    form.print(&shown, !args.no_headers)?;
    failed(failures)
}

/// An object, or a list in as many parts as it takes.
pub(super) async fn fetch(
    session: &Session,
    args: &Get,
    target: &Target,
    form: &Form,
) -> Result<Value, Error> {
    let leaves_out = !args.show_managed_fields && form.leaves_out();
    parts::whole(async |rest| read(session, &part(args, target, rest), leaves_out).await).await
}

/// What is not shown is let go of at once: of many pods it is a third.
async fn read(session: &Session, path: &str, leaves_out: bool) -> Result<Value, Error> {
    let mut read = session.get(path).await?;
    if leaves_out {
        output::drop_managed_fields(&mut read);
    }
    Ok(read)
}

/// One list of all, as kubectl shows it: without what only its own list had.
fn list_of(found: Vec<Value>) -> Value {
    let mut items = Vec::new();
    for mut object in found {
        let kind = object["kind"].as_str().and_then(|kind| kind.strip_suffix("List")).map(str::to_owned);
        let version = object["apiVersion"].clone();
        let Some(members) = object.get_mut("items").and_then(Value::as_array_mut) else {
            items.push(object);
            continue;
        };
        items.extend(std::mem::take(members).into_iter().map(|mut item| {
            if item["kind"].is_null() {
                item["kind"] = json!(kind);
                item["apiVersion"] = version.clone();
            }
            item
        }));
    }
    json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": items})
}
