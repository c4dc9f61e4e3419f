//! `--watch` and `--watch-only`.

use super::tables::{accept, options, take};
use super::{Get, objects, sorting, tables};
use crate::error::Error;
use crate::output::table::{ListMetadata, Table};
use crate::output::{self, Form, say};
use crate::session::{JSON, Session, with_query};
use crate::target::Target;
use crate::watch::Lines;
use serde_json::{Value, json};

pub(super) async fn run(
    session: &Session,
    args: &Get,
    targets: &[Target],
    form: Option<&Form>,
) -> Result<(), Error> {
    let target = only(targets)?;
    let watched = match form {
        Some(form) => of_objects(session, args, target, form).await,
        None => of_tables(session, args, target).await,
    };
    match watched {
        Err(error) if error.is_not_found() && args.ignore_not_found => Ok(()),
        watched => watched.map_err(|error| target.unlisted(&args.selection, error)),
    }
}

fn only(targets: &[Target]) -> Result<&Target, Error> {
    match targets {
        [one] => Ok(one),
        [] => Err(Error::plain("you must specify only one resource")),
        [first, rest @ ..] if rest.iter().any(|one| one.resource != first.resource) => {
            Err(Error::plain("you may only specify a single resource type"))
        }
        several => Err(Error::plain(format!(
            "watch is only supported on individual resources and resource collections - {} resources were found",
            several.len()
        ))),
    }
}

/// Kinds of their own have no meaning in a list of one kind, so that every object is printed as itself.
async fn of_objects(session: &Session, args: &Get, target: &Target, form: &Form) -> Result<(), Error> {
    let mut found = objects::fetch(session, args, target, form).await?;
    let revision = found["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    if let Some(path) = args.sort_by().filter(|_| target.name.is_none()) {
        sorting::items(&mut found, path)?;
    }
    let mut headers = !args.no_headers;
    let mut print = |event: &str, mut object: Value| {
        if !args.show_managed_fields && form.leaves_out() {
            output::drop_managed_fields(&mut object);
        }
        if args.output_watch_events {
            object = json!({"type": event, "object": object});
        }
        form.print(&object, std::mem::take(&mut headers))
    };
    if !args.watch_only {
        let (kind, version) = (&target.resource.kind, target.resource.api_version());
        match found["items"].as_array_mut().filter(|_| target.name.is_none()) {
            Some(items) => {
                for mut item in std::mem::take(items) {
                    item["kind"] = json!(kind);
                    item["apiVersion"] = json!(version);
                    print("ADDED", item)?;
                }
            }
            None => print("ADDED", found)?,
        }
    }
    let mut events = Lines::open(session, &watch_path(args, target, &revision), JSON).await?;
    while let Some(mut event) = events.next().await? {
        let object = event["object"].take();
        print(event["type"].as_str().unwrap_or_default(), object)?;
    }
    Ok(())
}

async fn of_tables(session: &Session, args: &Get, target: &Target) -> Result<(), Error> {
    let mut options = options(args, target, false);
    let mut table = Table::default();
    let listed: ListMetadata = tables::fetch(session, args, target, &mut table).await?;
    let mut widths = Vec::new();
    let mut print = |table: &Table, event: &str| {
        options.event = args.output_watch_events.then(|| event.to_owned());
        let text = table.render_below(&options, &mut widths);
        options.no_headers = true;
        say(&text)
    };
    if !args.watch_only && !table.rows.is_empty() {
        if let Some(path) = args.sort_by() {
            sorting::rows(&mut table.rows, path)?;
        }
        print(&table, "ADDED")?;
    }
    let path = watch_path(args, target, &listed.resource_version);
    let mut events = Lines::open(session, &path, accept(args)).await?;
    while let Some(event) = events.next().await? {
        table.rows.clear();
        take(args, &mut table, event["object"].to_string().as_bytes())?;
        print(&table, event["type"].as_str().unwrap_or_default())?;
    }
    Ok(())
}

fn watch_path(args: &Get, target: &Target, revision: &str) -> String {
    let path = match &target.name {
        Some(name) => with_query(
            &target.resource.path(&target.namespace),
            &[("fieldSelector", &format!("metadata.name={name}"))],
        ),
        None => target.path(&args.selection),
    };
    with_query(&path, &[("watch", "true"), ("resourceVersion", revision)])
}
