//! `-o name`: of objects nothing but their names is asked for and read.

use super::{Get, failed, part};
use crate::error::Error;
use crate::output::say;
use crate::session::{Call, JSON, Session};
use crate::target::Target;
use http::Method;
use serde::Deserialize;

const AS_METADATA: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";

/// An object or a list of them.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    metadata: Metadata,
    items: Option<Vec<Item>>,
}

#[derive(Deserialize)]
struct Item {
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Deserialize, Default)]
struct Metadata {
    #[serde(default)]
    name: String,
    #[serde(default, rename = "continue")]
    rest: String,
}

pub(super) async fn run(session: &Session, args: &Get, targets: &[Target]) -> Result<(), Error> {
    let mut failures = Vec::new();
    let mut text = String::new();
    for target in targets {
        match fetch(session, args, target, &mut text).await {
            Ok(()) => {}
            Err(error) if error.is_not_found() && args.ignore_not_found => {}
            Err(error) => failures.push(target.unlisted(&args.selection, error)),
        }
    }
    say(&text)?;
    failed(failures)
}

async fn fetch(session: &Session, args: &Get, target: &Target, text: &mut String) -> Result<(), Error> {
    let kind = target.resource.kind.to_lowercase();
    let kind = match target.resource.group.as_str() {
        "" => kind,
        group => format!("{kind}.{group}"),
    };
    let mut rest = String::new();
    loop {
        let path = part(args, target, &rest);
        let call = Call { method: Method::GET, path: &path, content_type: JSON, accept: AS_METADATA };
        let answer: Answer = serde_json::from_slice(&session.bytes(call, None).await?)
            .map_err(|error| Error::plain(format!("the server's answer is no object: {error}")))?;
        let Some(items) = answer.items else {
            text.push_str(&format!("{kind}/{}\n", answer.metadata.name));
            return Ok(());
        };
        items.iter().for_each(|item| text.push_str(&format!("{kind}/{}\n", item.metadata.name)));
        rest = answer.metadata.rest;
        if rest.is_empty() {
            return Ok(());
        }
    }
}
