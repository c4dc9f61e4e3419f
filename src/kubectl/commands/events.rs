//! `kubectl events`: events in the order in which they were last seen.

use crate::error::Error;
use crate::events;
use crate::output::{say, tabs, word};
use crate::session::{Session, with_query};
use crate::watch::Lines;
use crate::writing::Printing;
use clap::Args;
use serde_json::{Value, json};

/// Which events.
#[derive(Args)]
pub(crate) struct Events {
    /// In all namespaces
    #[arg(long, short = 'A')]
    all_namespaces: bool,
    /// Only of this object
    #[arg(long = "for", default_value = "", hide_default_value = true, value_name = "KIND/NAME")]
    about: String,
    /// Only of these types: Normal, Warning
    #[arg(long, value_delimiter = ',')]
    types: Vec<String>,
    /// Go on with those that come
    #[arg(long, short)]
    watch: bool,
    /// Leave out the header
    #[arg(long)]
    no_headers: bool,
    /// How many objects to ask for at once; 0 for all
    #[arg(long, default_value_t = 500)]
    chunk_size: u64,
    #[command(flatten)]
    printing: Printing,
}

const EVENTS: &str = "/api/v1/events";

pub(crate) async fn run(session: &Session, args: &Events) -> Result<(), Error> {
    if args.types.iter().any(|kind| !["normal", "warning"].contains(&kind.to_lowercase().as_str())) {
        return Err(Error::plain("valid --types are Normal or Warning"));
    }
    // What cannot be printed is refused before anything is asked.
    args.printing.open().map(drop)?;
    let about = about(session, &args.about).await?;
    let place = if args.all_namespaces {
        EVENTS.to_owned()
    } else {
        format!("/api/v1/namespaces/{}/events", session.namespace)
    };
    let path = with_query(&place, &[("fieldSelector", &about.fields)]);
    let listed = session.list(&path, args.chunk_size).await?;
    let mut found: Vec<Value> = listed["items"].as_array().cloned().unwrap_or_default();
    found.retain(|event| fits(args, &about, event));
    // Those of a list do not say what they are.
    for event in &mut found {
        event["apiVersion"] = "v1".into();
        event["kind"] = "Event".into();
    }
    found.sort_by_key(events::last_seen);
    if found.is_empty() && !args.watch {
        if args.all_namespaces {
            eprintln!("No events found.");
        } else {
            eprintln!("No events found in {} namespace.", session.namespace);
        }
        return Ok(());
    }
    show(args, &found, !args.no_headers)?;
    if !args.watch {
        return Ok(());
    }
    let revision = listed["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    let path = with_query(&path, &[("watch", "true"), ("resourceVersion", revision)]);
    let mut coming = Lines::open(session, &path, crate::session::JSON).await?;
    let mut headers = !args.no_headers && found.is_empty();
    while let Some(event) = coming.next().await? {
        if event["type"] != "DELETED" && fits(args, &about, &event["object"]) {
            show(args, std::slice::from_ref(&event["object"]), headers)?;
            headers = false;
        }
    }
    Ok(())
}

/// The object that events are about.
#[derive(Default)]
struct About {
    /// As the server selects events.
    fields: String,
    api_version: String,
}

async fn about(session: &Session, word: &str) -> Result<About, Error> {
    if word.is_empty() {
        return Ok(About::default());
    }
    let split = word.split_once('/').filter(|(kind, name)| !kind.is_empty() && !name.is_empty());
    let Some((kind, name)) = split else {
        return Err(Error::plain("--for must be in resource/name form"));
    };
    let resource = session.resource(kind).await.map_err(Error::bare)?;
    Ok(About {
        fields: format!("involvedObject.kind={},involvedObject.name={name}", resource.kind),
        api_version: resource.api_version(),
    })
}

fn fits(args: &Events, about: &About, event: &Value) -> bool {
    let kind = event["type"].as_str().unwrap_or_default();
    let version = event["involvedObject"]["apiVersion"].as_str().unwrap_or_default();
    (args.types.is_empty() || args.types.iter().any(|wanted| wanted.eq_ignore_ascii_case(kind)))
        && (about.api_version.is_empty() || version.is_empty() || version == about.api_version)
}

fn show(args: &Events, events: &[Value], headers: bool) -> Result<(), Error> {
    if args.printing.output.is_some() {
        let list = json!({"apiVersion": "v1", "kind": "EventList", "metadata": {}, "items": events});
        return args.printing.open()?.print(&list, String::new);
    }
    let mut text = String::new();
    let namespace = |word: &str| if args.all_namespaces { format!("{word}\t") } else { String::new() };
    if headers {
        text += &format!("{}LAST SEEN\tTYPE\tREASON\tOBJECT\tMESSAGE\n", namespace("NAMESPACE"));
    }
    for event in events {
        text += &format!("{}{}\n", namespace(word(&event["metadata"]["namespace"])), row(event));
    }
    say(&tabs::align(&text, 6, 3))
}

fn row(event: &Value) -> String {
    let object = &event["involvedObject"];
    let cells = [
        word(&event["type"]),
        word(&event["reason"]),
        &format!("{}/{}", word(&object["kind"]), word(&object["name"])),
        word(&event["message"]).trim_end(),
    ];
    format!("{}\t{}", events::seen(event), cells.map(tabs::cell).join("\t"))
}
