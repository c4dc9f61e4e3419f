//! `kubectl edit`: objects in the editor that a person chose, and what was changed as a patch.

use crate::choice::{Each, Found, failed};
use crate::error::Error;
use crate::output::{self, say};
use crate::session::Session;
use crate::writing::{Printing, difference, resource_name, validation, with_annotation};
use clap::Args;
use serde_json::{Value, json};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

pub(crate) const HEADER: &str = "# Please edit the object below. Lines beginning with a '#' will be ignored,\n# and an empty file will abort the edit. If an error occurs while saving this file will be\n# reopened with the relevant failures.\n#\n";
/// The most that is read back.
const FILE_BYTES: u64 = 16 << 20;

#[derive(Args)]
pub(crate) struct Edit {
    #[command(flatten)]
    pub(crate) each: Each,
    #[command(flatten)]
    pub(crate) printing: Printing,
    /// Who writes, for the server's records
    #[arg(long, default_value = "kubectl-edit", value_name = "NAME")]
    pub(crate) field_manager: String,
    /// A subresource, such as status or scale
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) subresource: String,
    /// Remember the configuration for a later apply
    #[arg(long)]
    pub(crate) save_config: bool,
    /// What unknown fields do: strict refuses, warn warns, ignore drops them
    #[arg(long, default_value = "strict", num_args = 0..=1, default_missing_value = "strict", require_equals = true)]
    pub(crate) validate: String,
    #[command(flatten)]
    pub(crate) endings: Endings,
    /// Print the patch instead of the objects' names
    #[arg(long)]
    pub(crate) output_patch: bool,
}

/// What is edited is JSON or YAML.
pub(crate) fn editable(printing: &Printing) -> Result<(), Error> {
    match printing.output.as_deref() {
        None | Some("" | "json" | "yaml" | "kyaml") => Ok(()),
        Some(other) => Err(output::unmatched(other, "json,kyaml,yaml")),
    }
}

pub(crate) async fn run(session: &Session, args: &Edit) -> Result<(), Error> {
    validation(&args.validate)?;
    let (mut before, mut failures) = (Vec::new(), Vec::new());
    for finding in args.each.choice().read(session, false).await? {
        let mut found = match finding {
            Ok(found) => found,
            Err(error) => {
                failures.push(error);
                continue;
            }
        };
        if !args.subresource.is_empty() {
            found.object = session.get(&format!("{}/{}", found.path(), args.subresource)).await?;
        }
        if !args.printing.show_managed_fields {
            output::drop_managed_fields(&mut found.object);
        }
        before.push(found);
    }
    failed(failures)?;
    editable(&args.printing)?;
    let printer = args.printing.open()?;
    let json = args.printing.output.as_deref() == Some("json");
    let editing = Editing { header: HEADER, before: &before, json, new: false, endings: args.endings };
    edit(editing, async |after: &[Value]| send(session, args, &printer, (&before, after)).await).await
}

/// How lines end in the editor.
#[derive(Args, Clone, Copy, Default)]
pub(crate) struct Endings {
    /// End lines as editors on Windows do
    #[arg(long = "windows-line-endings")]
    windows: bool,
}

impl Endings {
    fn of(self, text: &str) -> String {
        if self.windows { text.replace('\n', "\r\n") } else { text.to_owned() }
    }
}

/// What is edited.
pub(crate) struct Editing<'a> {
    /// What stands above the objects, as comments.
    pub(crate) header: &'a str,
    pub(crate) before: &'a [Found],
    /// As JSON rather than YAML.
    pub(crate) json: bool,
    /// They are to be created: anything of them may be changed.
    pub(crate) new: bool,
    pub(crate) endings: Endings,
}

/// Shows objects in the editor and hands them on as they came back; what is refused is shown again, with why.
pub(crate) async fn edit(
    Editing { header, before, json, new, endings }: Editing<'_>,
    mut send: impl AsyncFnMut(&[Value]) -> Result<(), Error>,
) -> Result<(), Error> {
    let original = rendered(before, json);
    let draft = Draft::new(if json { "json" } else { "yaml" })?;
    let mut shown = original.clone();
    let mut complaint = String::new();
    loop {
        let text = edited(&draft.path, &endings.of(&format!("{header}{complaint}{shown}"))).await?;
        let bare = without_comments(&text);
        if !complaint.is_empty() && bare == shown {
            // The same text as was refused: nobody is there to mend it.
            return Err(draft.preserved(Error::plain("Edit cancelled, no valid changes were saved.")));
        }
        if bare.trim() == original.trim() {
            eprintln!("Edit cancelled, no changes made.");
            return Ok(());
        }
        if bare.trim().is_empty() {
            eprintln!("Edit cancelled, saved file was empty.");
            return Ok(());
        }
        let refused = match parsed(&bare, before, new) {
            Ok(after) => match send(&after).await {
                Ok(()) => return Ok(()),
                Err(error) if new => return Err(draft.preserved(error)),
                Err(error) => error,
            },
            Err(error) => error,
        };
        eprintln!("{refused}");
        complaint = commented(&refused.to_string());
        shown = bare;
    }
}

/// A file of the person's own, gone again when it is dropped.
struct Draft {
    path: PathBuf,
    kept: std::cell::Cell<bool>,
}

impl Draft {
    fn new(ending: &str) -> Result<Self, Error> {
        let number = base::clock::now().as_nanosecond();
        let path =
            std::env::temp_dir().join(format!("kubectl-edit-{}-{number}.{ending}", std::process::id()));
        let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        made.map_err(|error| Error::plain(format!("cannot write {}: {error}", path.display())))?;
        Ok(Self { path, kept: std::cell::Cell::new(false) })
    }

    /// Keeps what was written, says where, and gives back why.
    fn preserved(&self, why: Error) -> Error {
        self.kept.set(true);
        eprintln!("A copy of your changes has been stored to {:?}", self.path.display());
        why
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.kept.get() {
            drop(std::fs::remove_file(&self.path));
        }
    }
}

/// Has the editor change a text.
async fn edited(path: &Path, text: &str) -> Result<String, Error> {
    let failed = |error: std::io::Error| Error::plain(format!("cannot write {}: {error}", path.display()));
    let mut file = std::fs::OpenOptions::new().write(true).truncate(true).open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    drop(file);
    let named = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let editor = named("KUBE_EDITOR").or_else(|| named("EDITOR")).unwrap_or_else(|| "vi".to_owned());
    // A shell reads the editor's words, which may have options and quotes.
    let mut command = base::process::command("sh");
    command.args(["-c", &format!("{editor} \"$1\""), "sh"]).arg(path);
    let status =
        command.stdin(std::process::Stdio::inherit()).status().await.map_err(|error| {
            Error::plain(format!("there was a problem with the editor {editor:?}: {error}"))
        })?;
    if !status.success() {
        return Err(Error::plain(format!("there was a problem with the editor {editor:?}")));
    }
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(FILE_BYTES).read_to_string(&mut text))
        .map_err(failed)?;
    Ok(text)
}

fn rendered(objects: &[Found], json: bool) -> String {
    let whole = match objects {
        [one] => one.object.clone(),
        several => {
            let items: Vec<&Value> = several.iter().map(|found| &found.object).collect();
            json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items})
        }
    };
    if json { format!("{}\n", output::json(&whole)) } else { api::yaml::render(&whole) }
}

fn without_comments(text: &str) -> String {
    text.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect()
}

fn commented(complaint: &str) -> String {
    let lines: String = complaint.lines().map(|line| format!("# {line}\n")).collect();
    format!("{lines}#\n")
}

/// The objects of the text, in the order of those before.
fn parsed(text: &str, before: &[Found], new: bool) -> Result<Vec<Value>, Error> {
    let read = api::yaml::first(text.as_bytes());
    let read =
        read.map_err(|error| Error::plain(format!("The edited file had a syntax error: {error}")))?.value;
    let items = match before {
        [_] => vec![read],
        _ => read["items"].as_array().cloned().unwrap_or_default(),
    };
    if new {
        return Ok(items);
    }
    let same = |found: &Found, item: &Value| {
        item["kind"] == found.object["kind"]
            && item["metadata"]["name"] == found.object["metadata"]["name"]
            && item["metadata"]["namespace"] == found.object["metadata"]["namespace"]
    };
    before
        .iter()
        .map(|found| {
            let item = items.iter().find(|item| same(found, item)).cloned();
            item.ok_or_else(|| Error::plain("At least one of apiVersion, kind and name was changed"))
        })
        .collect()
}

async fn send(
    session: &Session,
    args: &Edit,
    printer: &crate::writing::Printer,
    (before, after): (&[Found], &[Value]),
) -> Result<(), Error> {
    for (found, wanted) in before.iter().zip(after) {
        let name = format!("{}/{}", resource_name(&found.resource), found.name);
        if found.object == *wanted {
            eprintln!("{name} skipped");
            continue;
        }
        let annotated = args.save_config.then(|| with_annotation(wanted));
        let wanted = annotated.as_ref().unwrap_or(wanted);
        let (patch, content_type) = difference(&found.resource, &found.object, wanted);
        let mut path = found.path();
        if !args.subresource.is_empty() {
            path = format!("{path}/{}", args.subresource);
        }
        let path = crate::session::with_query(
            &path,
            &[("fieldManager", &args.field_manager), ("fieldValidation", validation(&args.validate)?)],
        );
        let edited = session.patch(&path, content_type, &patch).await?;
        if args.output_patch {
            say(&format!("Patch: {patch}\n"))?;
        }
        printer.print(&edited, || format!("{name} edited"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_no_part_of_the_object() {
        let text = format!("{HEADER}{}a: 1\n# b\nc: \"#\"\n", commented("no\nway"));
        assert_eq!(without_comments(&text), "a: 1\nc: \"#\"\n");
    }
}
