//! `kubectl rollout history`.

use super::revisions::{self, CAUSE, Revision};
use super::{objects, print};
use crate::choice::{Found, Naming};
use crate::error::Error;
use crate::output::tabs;
use crate::session::Session;
use crate::writing::{Printer, Printing};
use clap::Args;
use serde_json::json;

#[derive(Args)]
pub(crate) struct History {
    #[command(flatten)]
    naming: Naming,
    #[command(flatten)]
    printing: Printing,
    /// Show this revision's pods; 0 for a list of all revisions
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    revision: i64,
}

pub(super) async fn run(session: &Session, args: &History) -> Result<(), Error> {
    if args.revision < 0 && !(args.naming.words.is_empty() && args.naming.files.is_empty()) {
        return Err(Error::plain(format!("revision must be a positive integer: {}", args.revision)));
    }
    let printer = args.printing.open()?;
    let (found, mut failures) = objects(session, &args.naming).await?;
    for one in found {
        failures.extend(show(session, args, &printer, &one).await.err());
    }
    crate::choice::failed(failures)
}

async fn show(session: &Session, args: &History, printer: &Printer, found: &Found) -> Result<(), Error> {
    let mut all = revisions::all(session, found, "history viewer").await?;
    let whole = args.printing.output.is_some() || args.printing.template.is_some();
    if args.revision > 0 && (whole || !all.is_empty()) {
        all.retain(|revision| revision.number == args.revision);
        if all.is_empty() {
            return Err(Error::plain("unable to find the specified revision"));
        }
    }
    if whole {
        return all.iter().try_for_each(|revision| printer.print(&revision.object, String::new));
    }
    let (behind, text) = match (args.revision, &all[..]) {
        (_, []) => (String::new(), "No rollout history found.".to_owned()),
        (0, _) => (String::new(), table(&all)),
        (number, [revision, ..]) => (format!("with revision #{number}"), pods(revision)),
    };
    print(printer, found, &found.object, &format!("{behind}\n{text}"))
}

fn table(all: &[Revision]) -> String {
    let mut text = "REVISION\tCHANGE-CAUSE\n".to_owned();
    for revision in all {
        let cause = if revision.cause.is_empty() { "<none>" } else { &revision.cause };
        text.push_str(&format!("{}\t{cause}\n", revision.number));
    }
    tabs::align(&text, 0, 2)
}

/// The pods of a revision, with why there is it among their annotations.
fn pods(revision: &Revision) -> String {
    let mut template = revision.template().clone();
    if !revision.cause.is_empty() && revision.patch.is_none() {
        template["metadata"]["annotations"][CAUSE] = json!(revision.cause);
    }
    crate::commands::describe::template(&template)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_stand_in_a_table() {
        let revision = |number: i64, cause: &str| Revision {
            number,
            cause: cause.to_owned(),
            object: json!({}),
            patch: None,
        };
        assert_eq!(
            table(&[revision(1, ""), revision(12, "new image")]),
            "REVISION  CHANGE-CAUSE\n1         <none>\n12        new image\n"
        );
    }
}
