//! `kubectl annotate`.

use super::label::{Marking, Part, change, list, overwrites};
use crate::choice::{Found, each};
use crate::error::Error;
use crate::pairs;
use crate::session::Session;

pub(crate) async fn run(session: &Session, args: &Marking) -> Result<(), Error> {
    let split = pairs::split(&args.choice.selection.words, "annotation")?;
    let words = &args.choice.selection.words[split..];
    let changes = pairs::both(words)?;
    let choice = args.choice.first_words(split);
    let part = Part { field: "annotations", manager: "kubectl-annotate" };
    let found = args.objects(session, &choice, &changes, part).await?;
    if args.list {
        return list(&found, part, !choice.is_single());
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
        if args.is_asked(&writer) {
            after = args.write(session, &writer, &found, (part, &changes)).await?;
        }
        writer.done(&found.resource, &after, "annotated")
    })
    .await
}
