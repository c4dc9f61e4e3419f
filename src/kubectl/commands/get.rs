//! `kubectl get`.

use crate::args::Get;
use crate::error::Error;
use crate::output::table::{Options, Table};
use crate::output::{self, Form, say};
use crate::session::{Call, JSON, Session, collect, with_query};
use crate::target::{self, Target};
use crate::watch::Lines;
use http::Method;
use serde_json::{Value, json};

const AS_TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

pub(crate) async fn run(session: &Session, args: &Get) -> Result<(), Error> {
    if let Some(path) = &args.raw {
        let body = session.stream(path, "application/json, */*").await?;
        return output::write(&collect(body).await?);
    }
    let targets = target::resolve(session, &args.selection, &args.files).await?;
    match Form::parse(args.output.as_deref())? {
        Some(form) => print_objects(session, args, &targets, &form).await,
        None => print_tables(session, args, &targets).await,
    }
}

fn path(args: &Get, target: &Target) -> String {
    match args.subresource.as_str() {
        "" => target.path(&args.selection),
        name => format!("{}/{name}", target.path(&args.selection)),
    }
}

async fn print_objects(session: &Session, args: &Get, targets: &[Target], form: &Form) -> Result<(), Error> {
    let mut found = Vec::new();
    let mut failed = None;
    for target in targets {
        match session.get(&path(args, target)).await {
            Ok(object) => found.push(object),
            Err(error) if error.is_not_found() && args.ignore_not_found => {}
            Err(error) if targets.len() > 1 => {
                eprintln!("{error}");
                failed = Some(Error::Said(1));
            }
            Err(error) => return Err(error),
        }
    }
    let one = targets.len() == 1 && targets[0].name.is_some();
    let revision = found.first().map(|list| list["metadata"]["resourceVersion"].clone()).unwrap_or_default();
    let nothing = one && found.is_empty();
    if !nothing && !args.watch_only {
        let mut shown = if one { found.remove(0) } else { list_of(&found) };
        if let Some(path) = &args.sort_by {
            sort_items(&mut shown, path)?;
        }
        if !args.show_managed_fields {
            output::drop_managed_fields(&mut shown);
        }
        form.print(&shown, !args.no_headers)?;
    }
    if args.watch || args.watch_only {
        let watched = only(targets)?;
        let mut events = Lines::open(session, &watch_path(args, watched, &revision), JSON).await?;
        while let Some(event) = events.next().await? {
            let mut object = event["object"].clone();
            output::drop_managed_fields(&mut object);
            form.print(&object, false)?;
        }
    }
    failed.map_or(Ok(()), Err)
}

/// One list of all, as kubectl shows it: without what only its own list had.
fn list_of(found: &[Value]) -> Value {
    let mut items = Vec::new();
    for object in found {
        let Some(members) = object["items"].as_array() else {
            items.push(object.clone());
            continue;
        };
        let kind = object["kind"].as_str().and_then(|kind| kind.strip_suffix("List")).unwrap_or_default();
        items.extend(members.iter().cloned().map(|mut item| {
            if item["kind"].is_null() {
                item["kind"] = json!(kind);
                item["apiVersion"] = object["apiVersion"].clone();
            }
            item
        }));
    }
    json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": items})
}

fn sort_key(path: &str) -> Result<api::jsonpath::Template, api::jsonpath::Error> {
    let bare = path.trim_start_matches('{').trim_end_matches('}');
    api::jsonpath::Template::parse(&format!("{{.{}}}", bare.trim_start_matches('.')))
}

fn sort_items(list: &mut Value, path: &str) -> Result<(), Error> {
    let key = sort_key(path)?;
    if let Some(items) = list["items"].as_array_mut() {
        items.sort_by(|left, right| order(&key, left, right));
    }
    Ok(())
}

fn order(key: &api::jsonpath::Template, left: &Value, right: &Value) -> std::cmp::Ordering {
    let (left, right) = (key.values(left), key.values(right));
    match (left.first(), right.first()) {
        (Some(left), Some(right)) => match (left.as_f64(), right.as_f64()) {
            (Some(left), Some(right)) => left.total_cmp(&right),
            _ => api::jsonpath::text(left).cmp(&api::jsonpath::text(right)),
        },
        (left, right) => left.is_some().cmp(&right.is_some()),
    }
}

async fn print_tables(session: &Session, args: &Get, targets: &[Target]) -> Result<(), Error> {
    let mut kinds: Vec<String> = targets.iter().map(|target| target.resource.qualified()).collect();
    kinds.dedup();
    let several = kinds.len() > 1 || targets.iter().any(|target| target.by_category);
    let mut printed = 0;
    let mut failed = None;
    let mut rest = targets;
    while let Some(first) = rest.first() {
        let same = rest.iter().take_while(|target| target.resource == first.resource).count();
        let (group, others) = rest.split_at(same);
        rest = others;
        let mut table = Table::default();
        for target in group {
            match fetch(session, args, target).await {
                Ok(part) => table.take(&part),
                Err(error) if error.is_not_found() && args.ignore_not_found => {}
                Err(error) if targets.len() > 1 => {
                    eprintln!("{error}");
                    failed = Some(Error::Said(1));
                }
                Err(error) => return Err(error),
            }
        }
        if let Some(path) = &args.sort_by {
            let key = sort_key(path)?;
            table.rows.sort_by(|left, right| order(&key, &left["object"], &right["object"]));
        }
        if !table.rows.is_empty() && !args.watch_only {
            let gap = if printed > 0 { "\n" } else { "" };
            say(&format!("{gap}{}", table.render(&options(args, first, several))))?;
            printed += 1;
        }
    }
    if args.watch || args.watch_only {
        return watch_table(session, args, only(targets)?, several).await;
    }
    if printed == 0 && failed.is_none() && !args.ignore_not_found {
        say_empty(args, targets);
    }
    failed.map_or(Ok(()), Err)
}

fn say_empty(args: &Get, targets: &[Target]) {
    match targets.iter().find(|target| !target.namespace.is_empty()) {
        Some(target) if !args.selection.all_namespaces => {
            eprintln!("No resources found in {} namespace.", target.namespace);
        }
        _ => eprintln!("No resources found"),
    }
}

fn options(args: &Get, target: &Target, several: bool) -> Options {
    Options {
        wide: args.output.as_deref().is_some_and(|output| output.trim_start_matches('=') == "wide"),
        namespaces: args.selection.all_namespaces && target.resource.namespaced,
        show_labels: args.show_labels,
        label_columns: args.label_columns.clone(),
        no_headers: args.no_headers,
        kind: (several || args.show_kind).then(|| target.resource.shown()),
    }
}

async fn fetch(session: &Session, args: &Get, target: &Target) -> Result<Value, Error> {
    let include = if args.sort_by.is_some() { "Object" } else { "" };
    let path = with_query(&path(args, target), &[("includeObject", include)]);
    session.send(Call { method: Method::GET, path: &path, content_type: JSON, accept: AS_TABLE }, None).await
}

fn only(targets: &[Target]) -> Result<&Target, Error> {
    match targets {
        [one] => Ok(one),
        _ => Err(Error::plain("you may only specify a single resource type")),
    }
}

async fn watch_table(session: &Session, args: &Get, target: &Target, several: bool) -> Result<(), Error> {
    let mut options = options(args, target, several);
    let listed = fetch(session, args, target).await?;
    let revision = listed["metadata"]["resourceVersion"].clone();
    let mut table = Table::default();
    table.take(&listed);
    options.no_headers = args.no_headers || (!table.rows.is_empty() && !args.watch_only);
    let mut events = Lines::open(session, &watch_path(args, target, &revision), AS_TABLE).await?;
    while let Some(event) = events.next().await? {
        table.rows.clear();
        table.take(&event["object"]);
        say(&table.render(&options))?;
        options.no_headers = true;
    }
    Ok(())
}

fn watch_path(args: &Get, target: &Target, revision: &Value) -> String {
    let path = match &target.name {
        Some(name) => with_query(
            &target.resource.path(&target.namespace),
            &[("fieldSelector", &format!("metadata.name={name}"))],
        ),
        None => target.path(&args.selection),
    };
    with_query(&path, &[("watch", "true"), ("resourceVersion", revision.as_str().unwrap_or_default())])
}
