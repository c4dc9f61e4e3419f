//! Tables: one for each kind, with a line between them.

use super::{AS_TABLE, Get, failed, part, sorting};
use crate::error::Error;
use crate::output::table::{Column, Keep, ListMetadata, Options, Row, Table};
use crate::output::{colour, none_found, say};
use crate::session::{Call, JSON, Session, with_query};
use crate::target::Target;
use api::kinds::human_duration;
use base::clock;
use http::Method;
use serde_json::Value;

pub(super) async fn run(session: &Session, args: &Get, targets: &[Target]) -> Result<(), Error> {
    let mut kinds: Vec<String> = targets.iter().map(|target| target.resource.qualified()).collect();
    kinds.dedup();
    let several = kinds.len() > 1 || targets.iter().any(|target| target.by_category);
    let mut printed = 0;
    let mut failures = Vec::new();
    let mut rest = targets;
    let mut tables = Vec::new();
    while let Some(first) = rest.first() {
        let same = rest.iter().take_while(|target| target.resource == first.resource).count();
        let (group, others) = rest.split_at(same);
        rest = others;
        let mut table = Table::default();
        for target in group {
            match fetch(session, args, target, &mut table).await {
                Ok(_) => {}
                Err(error) if error.is_not_found() && args.ignore_not_found => {}
                Err(error) => failures.push(target.unlisted(&args.selection, error)),
            }
        }
        if let Some(path) = args.sort_by().filter(|_| !table.rows.is_empty()) {
            sorting::rows(&mut table.rows, path)?;
        }
        tables.push((first, table));
    }
    for (first, table) in tables.iter().filter(|(_, table)| !table.rows.is_empty()) {
        let gap = if printed > 0 && !args.no_headers { "\n" } else { "" };
        say(&format!("{gap}{}", table.render(&options(args, first, several))))?;
        printed += 1;
    }
    if printed == 0 && failures.is_empty() && !args.ignore_not_found {
        say_empty(session, args, targets);
    }
    failed(failures)
}

fn say_empty(session: &Session, args: &Get, targets: &[Target]) {
    let within = !args.selection.all_namespaces && targets.iter().all(|target| target.resource.namespaced);
    none_found(within.then_some(session.namespace.as_str()));
}

pub(super) fn options(args: &Get, target: &Target, several: bool) -> Options {
    Options {
        wide: args.output() == "wide",
        namespaces: args.selection.all_namespaces && target.resource.namespaced,
        show_labels: args.show_labels,
        label_columns: args.label_columns.iter().filter(|label| !label.is_empty()).cloned().collect(),
        no_headers: args.no_headers,
        kind: (several || args.show_kind).then(|| target.resource.shown()),
        event: None,
        coloured: colour::is_wanted(&std::io::stdout()),
    }
}

fn keep(args: &Get) -> Keep {
    match (args.sort_by(), args.show_labels || !args.label_columns.is_empty()) {
        (Some(_), _) => Keep::Objects,
        (None, true) => Keep::Labels,
        (None, false) => Keep::Namespaces,
    }
}

/// What is asked of the server for tables, or for objects that are made rows of here.
pub(super) fn accept(args: &Get) -> &'static str {
    if args.server_print { AS_TABLE } else { JSON }
}

/// Adds what is at a target to a table, in as many parts as it takes.
pub(super) async fn fetch(
    session: &Session,
    args: &Get,
    target: &Target,
    table: &mut Table,
) -> Result<ListMetadata, Error> {
    let include = if args.sort_by().is_some() && args.server_print { "Object" } else { "" };
    let mut rest = String::new();
    loop {
        let path = with_query(&part(args, target, &rest), &[("includeObject", include)]);
        let call = Call { method: Method::GET, path: &path, content_type: JSON, accept: accept(args) };
        let metadata = take(args, table, &session.bytes(call, None).await?)?;
        rest = metadata.rest.clone();
        if rest.is_empty() {
            return Ok(metadata);
        }
    }
}

/// Adds an answer to a table, also of a server that makes none.
pub(super) fn take(args: &Get, table: &mut Table, bytes: &[u8]) -> Result<ListMetadata, Error> {
    let unreadable =
        |error: serde_json::Error| Error::plain(format!("the server's answer is no table: {error}"));
    if args.server_print
        && let Some(metadata) = table.take(bytes, keep(args)).map_err(unreadable)?
    {
        return Ok(metadata);
    }
    let answer: Value = serde_json::from_slice(bytes).map_err(unreadable)?;
    let column = |name: &str| Column { name: name.to_owned(), wide: false };
    table.columns = vec![column("NAME"), column("AGE")];
    let metadata = serde_json::from_value(answer["metadata"].clone()).unwrap_or_default();
    match answer["items"].as_array() {
        Some(items) => table.rows.extend(items.iter().map(plain)),
        None => table.rows.push(plain(&answer)),
    }
    Ok(metadata)
}

/// A name and an age.
fn plain(object: &Value) -> Row {
    let metadata = &object["metadata"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let made = text(&metadata["creationTimestamp"]).parse::<jiff::Timestamp>();
    let age = made.map_or_else(
        |_| "<unknown>".to_owned(),
        |made| human_duration(clock::now().duration_since(made).as_secs()),
    );
    let labels = metadata["labels"].as_object().into_iter().flatten();
    Row {
        cells: vec![text(&metadata["name"]), age],
        namespace: text(&metadata["namespace"]),
        labels: labels.map(|(key, value)| (key.clone(), text(value))).collect(),
        object: object.clone(),
    }
}
