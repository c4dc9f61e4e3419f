//! `kubectl patch`.

use crate::choice::{Each, Found, each};
use crate::connection::unreadable;
use crate::error::Error;
use crate::session::{MERGE_PATCH, STRATEGIC_PATCH, Session};
use crate::writing::Writing;
use clap::Args;
use http::Method;
use serde_json::Value;
use std::path::PathBuf;

/// The most that is read of a patch.
const PATCH_BYTES: u64 = 3 << 20;

#[derive(Args)]
pub(crate) struct Patch {
    #[command(flatten)]
    pub(crate) each: Each,
    #[command(flatten)]
    pub(crate) writing: Writing,
    /// The patch, JSON or YAML
    #[arg(long, short, default_value = "", hide_default_value = true)]
    pub(crate) patch: String,
    /// A file with the patch
    #[arg(long, value_name = "FILE")]
    pub(crate) patch_file: Option<PathBuf>,
    /// json, merge or strategic
    #[arg(long = "type", default_value = "strategic")]
    pub(crate) kind: String,
    /// A subresource, such as status or scale
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) subresource: String,
    /// Ask no server: change what the files say and print it
    #[arg(long)]
    pub(crate) local: bool,
}

pub(crate) async fn run(session: &Session, args: &Patch) -> Result<(), Error> {
    let content_type = match args.kind.to_lowercase().as_str() {
        "strategic" => STRATEGIC_PATCH,
        "merge" => MERGE_PATCH,
        "json" => "application/json-patch+json",
        _ => {
            return Err(Error::plain(format!(
                "--type must be one of [json merge strategic], not {:?}",
                args.kind
            )));
        }
    };
    let patch = read(args)?;
    let writer = args.writing.open("kubectl-patch")?;
    if args.local && !args.each.words.is_empty() {
        return Err(Error::plain("cannot specify --local and server resources"));
    }
    let found = args.each.choice().read(session, args.local).await?;
    if found.is_empty() {
        return Err(Error::plain("no objects passed to patch"));
    }
    each(found, async |found: Found| {
        let (mut path, mut before) = (found.path(), found.object.clone());
        if !args.subresource.is_empty() {
            path = format!("{path}/{}", args.subresource);
            before = session.get(&path).await?;
        }
        let patch = match &patch {
            Wanted::Patch(patch) => patch,
            Wanted::Text(text) if args.local || writer.is_client() => {
                return Err(Error::plain(format!("unable to parse {text:?}: it is no JSON")));
            }
            Wanted::Text(text) => {
                let path = writer.path(&path);
                let refused =
                    session.verbatim((Method::PATCH, content_type), &path, text.clone().into_bytes());
                return refused.await.map(|_| ());
            }
        };
        let after = if args.local || writer.is_client() {
            locally(&before, content_type, patch)?
        } else {
            let patched = session.patch(&writer.path(&path), content_type, patch).await?;
            if patch.is_array() || !args.subresource.is_empty() {
                session.record(&writer.path(&found.path())).await?;
            }
            patched
        };
        let verb = if same(&before, &after) { "patched (no change)" } else { "patched" };
        // kubectl prints each by itself.
        writer.printer.anew();
        // The line about a patch names no dry run: kubectl's does not either.
        writer.printer.print(&after, || format!("{} {verb}", crate::output::name(&after)))
    })
    .await
}

/// What is to be done.
enum Wanted {
    Patch(Value),
    /// What looks like JSON and is none: the server says what is wrong with it.
    Text(String),
}

fn read(args: &Patch) -> Result<Wanted, Error> {
    let text = match (&args.patch_file, args.patch.as_str()) {
        (None, "") => {
            return Err(Error::plain(
                "must specify --patch or --patch-file containing the contents of the patch",
            ));
        }
        (Some(_), text) if !text.is_empty() => {
            return Err(Error::plain("cannot specify --patch and --patch-file together"));
        }
        (Some(path), _) => {
            use std::io::Read;
            let mut text = String::new();
            let read =
                std::fs::File::open(path).and_then(|file| file.take(PATCH_BYTES).read_to_string(&mut text));
            read.map_err(|error| {
                let path = path.display().to_string();
                Error::plain(format!("unable to read patch file: {}", unreadable(&path, &error)))
            })?;
            text
        }
        (None, text) => text.to_owned(),
    };
    if text.trim_start().starts_with('{') && serde_json::from_str::<Value>(&text).is_err() {
        return Ok(Wanted::Text(text));
    }
    let read = api::yaml::first(text.as_bytes());
    read.map(|document| Wanted::Patch(document.value)).map_err(|error| {
        let error = error.to_string();
        let why = error.strip_prefix("yaml: ").unwrap_or(&error);
        Error::plain(format!("unable to parse {text:?}: yaml: {why}"))
    })
}

fn same(before: &Value, after: &Value) -> bool {
    // Who wrote when is no change of the object: an empty patch may still be recorded.
    before == after
}

/// Applies a patch as the server would.
fn locally(before: &Value, content_type: &str, patch: &Value) -> Result<Value, Error> {
    let mut after = before.clone();
    let text = |field: &str| before[field].as_str().unwrap_or_default();
    let applied = match content_type {
        MERGE_PATCH => api::patch::merge(&mut after, patch),
        STRATEGIC_PATCH => {
            let kind = api::kinds::by_kind(text("apiVersion"), text("kind"));
            let Some(ty) = kind.and_then(|kind| api::schema::schema().of(kind)) else {
                return Err(Error::plain(format!(
                    "cannot apply strategic merge patch for {}, Kind={} locally, try --type merge",
                    text("apiVersion"),
                    text("kind")
                )));
            };
            api::patch::strategic(&mut after, patch, ty)
        }
        _ => api::patch::json(&mut after, patch.to_string().as_bytes()),
    };
    applied.map_err(|error| Error::plain(error.to_string()))?;
    Ok(after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn patches_of_three_types_apply_locally() {
        let pod =
            json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"name": "a", "image": "x"}]}});
        let merged =
            locally(&pod, STRATEGIC_PATCH, &json!({"spec": {"containers": [{"name": "a", "image": "y"}]}}));
        assert_eq!(merged.unwrap()["spec"]["containers"][0]["image"], "y");
        let merged = locally(&pod, MERGE_PATCH, &json!({"spec": {"containers": null}}));
        assert_eq!(merged.unwrap()["spec"], json!({}));
        let patch = json!([{"op": "add", "path": "/spec/nodeName", "value": "n"}]);
        assert_eq!(locally(&pod, "application/json-patch+json", &patch).unwrap()["spec"]["nodeName"], "n");
        let own = json!({"apiVersion": "example.org/v1", "kind": "Own"});
        assert!(
            locally(&own, STRATEGIC_PATCH, &json!({})).unwrap_err().to_string().contains("try --type merge")
        );
    }
}
