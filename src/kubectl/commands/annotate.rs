//! `kubectl annotate`.

use super::label::{Part, change, list, objects, overwrites, patch};
use crate::choice::{Choice, Found, each};
use crate::error::Error;
use crate::pairs;
use crate::session::{MERGE_PATCH, Session};
use crate::writing::Writing;
use clap::Args;

#[derive(Args)]
pub(crate) struct Annotate {
    #[command(flatten)]
    pub(crate) choice: Choice,
    #[command(flatten)]
    pub(crate) writing: Writing,
    /// Change annotations that are there already
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Only if this is the object's version
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) resource_version: String,
    /// Show the annotations there are
    #[arg(long)]
    pub(crate) list: bool,
    /// Ask no server: change what the files say and print it
    #[arg(long)]
    pub(crate) local: bool,
}

pub(crate) async fn run(session: &Session, args: &Annotate) -> Result<(), Error> {
    let split = pairs::split(&args.choice.words, "annotation")?;
    let words = &args.choice.words[split..];
    let changes = pairs::parse(words, "can not both modify and remove the annotation in the same command")?;
    let choice = args.choice.first_words(split);
    let part = Part { field: "annotations", manager: "kubectl-annotate" };
    let found = objects(session, &choice, &changes, (part, args.list, args.local)).await?;
    if args.list {
        return list(&found, part, args.choice.selects() || choice.words.len() > 2);
    }
    let writer = args.writing.open(part.manager)?;
    each(found, async |found: Found| {
        let clashes = overwrites(&found.object["metadata"]["annotations"], &changes);
        if !args.overwrite && !clashes.is_empty() {
            return Err(Error::plain(format!(
                "--overwrite is false but found the following declared annotation(s): {}",
                clashes.join("; ")
            )));
        }
        let mut after = found.object.clone();
        change(&mut after, part.field, &changes);
        if !writer.is_client() && !args.local {
            let path = writer.path(&found.path());
            after = session
                .patch(&path, MERGE_PATCH, &patch(part.field, &changes, &args.resource_version))
                .await?;
        }
        writer.done(&found.resource, &after, "annotated")
    })
    .await
}
