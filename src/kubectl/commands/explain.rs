//! `kubectl explain`: what fields a kind has, by the server's OpenAPI (v3, one document a group and version).

mod page;

use crate::discovery::{Discovery, Resource};
use crate::error::Error;
use crate::output::say;
use crate::session::Session;
use clap::Args;
use page::Page;
use serde_json::Value;

/// Which kind or field.
#[derive(Args)]
pub(crate) struct Explain {
    /// KIND or KIND.FIELD.FIELD…
    words: Vec<String>,
    /// Of this version of the kind
    #[arg(long, default_value = "", hide_default_value = true, value_name = "GROUP/VERSION")]
    api_version: String,
    /// Fields of fields too, without what they mean
    #[arg(long, short = 'R', num_args = 0..=1, default_missing_value = "true", require_equals = true, default_value_t = false, action = clap::ArgAction::Set)]
    recursive: bool,
    /// plaintext or plaintext-openapiv2
    #[arg(long, short, default_value = "plaintext")]
    output: String,
}

const NOTHING: &str = "You must specify the type of resource to explain. Use \"kubectl api-resources\" for a complete list of supported resources.";

pub(crate) async fn run(session: &Session, args: &Explain) -> Result<(), Error> {
    let word = match args.words.as_slice() {
        [] => return Err(Error::plain(NOTHING)),
        [word] => word,
        _ => return Err(Error::plain("We accept only this format: explain RESOURCE")),
    };
    // Asks the server anew where what is remembered of it has no such kind.
    session.resource(word.split('.').next().unwrap_or(word)).await.map_err(Error::bare)?;
    let (resource, fields) = named(session.discovery().await?, word, &args.api_version)?;
    let is_old = match args.output.as_str() {
        "plaintext" => false,
        "plaintext-openapiv2" => true,
        other => return Err(Error::plain(format!("unrecognized format: {other}"))),
    };
    let document = document(session, resource).await?;
    let page = Page::new(&document, resource, &fields, args.recursive)?;
    say(&if is_old { page.old() } else { page.plain() })?;
    // What is told is the last of the fields, wherever the first is that there is not.
    match page.missing().and(fields.last()) {
        Some(field) => Err(Error::plain(format!("field \"{field}\" does not exist"))),
        None => Ok(()),
    }
}

/// The kind and the fields of `pods.spec.containers` or `gadgets.example.org.spec`.
fn named<'a, 'b>(
    discovery: &'a Discovery,
    word: &'b str,
    api_version: &str,
) -> Result<(&'a Resource, Vec<&'b str>), Error> {
    let (kind, mut rest) = word.split_once('.').unwrap_or((word, ""));
    let mut resource = discovery.find(kind).map_err(Error::bare)?;
    if api_version.is_empty() {
        let within = |other: &&Resource| {
            other.preferred && other.plural == resource.plural && behind(rest, &other.group).is_some()
        };
        if let Some(other) = discovery.0.iter().find(within) {
            rest = behind(rest, &other.group).unwrap_or_default();
            resource = other;
        }
    } else {
        resource = discovery.of_kind(api_version, &resource.kind).ok_or_else(|| {
            let slash = if api_version.contains('/') { "" } else { "/" };
            Error::plain(format!(
                "couldn't find resource for \"{slash}{api_version}, Resource={}\"",
                resource.plural
            ))
        })?;
    }
    Ok((resource, rest.split('.').filter(|field| !field.is_empty()).collect()))
}

/// What stands behind a group's name.
fn behind<'a>(rest: &'a str, group: &str) -> Option<&'a str> {
    let rest = rest.strip_prefix(group).filter(|_| !group.is_empty())?;
    if rest.is_empty() { Some("") } else { rest.strip_prefix('.') }
}

async fn document(session: &Session, resource: &Resource) -> Result<Value, Error> {
    let index = session.get("/openapi/v3").await?;
    let root = if resource.group.is_empty() { "api" } else { "apis" };
    let place = format!("{root}/{}", resource.api_version());
    let path = index["paths"][&place]["serverRelativeURL"].as_str();
    let path = path.ok_or_else(|| {
        Error::plain(format!(
            "couldn't find resource for \"{}, Resource={}\"",
            resource.api_version(),
            resource.plural
        ))
    })?;
    session.get(path).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_stand_before_fields() {
        assert_eq!(behind("example.org.spec", "example.org"), Some("spec"));
        assert_eq!(behind("example.org", "example.org"), Some(""));
        assert_eq!(behind("spec.x", "example.org"), None);
        assert_eq!(behind("example.organ", "example.org"), None);
        assert_eq!(behind("spec", ""), None);
    }
}
