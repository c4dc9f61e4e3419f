//! `kubectl apply`: client-side, with the last applied configuration kept in an annotation as kubectl
//! keeps it, so that both can be used in turn; or on the server. What was applied before and is no longer
//! said can be pruned, by what was applied (`prune`) or by a set (`set`).

pub(crate) mod client_side;
pub(crate) mod last_applied;
mod managers;
pub(crate) mod prune;
pub(crate) mod server_side;
mod set;

use crate::args::Files;
use crate::choice::failed;
use crate::deleting::Deleting;
use crate::discovery::Resource;
use crate::error::Error;
use crate::manifests::{self, Document};
use crate::session::Session;
use crate::wait_gone;
use crate::writing::{Dry, Writer, Writing};
use clap::{Args, Subcommand};
use prune::Seen;
use serde_json::{Value, json};

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Apply {
    #[command(subcommand)]
    annotation: Option<LastApplied>,
    /// None: files are given by -f
    #[arg(hide = true)]
    words: Vec<String>,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    writing: Writing,
    #[command(flatten)]
    deleting: Deleting,
    /// Merge on the server
    #[arg(long)]
    server_side: bool,
    /// Take over fields of others in a server-side apply
    #[arg(long)]
    force_conflicts: bool,
    /// Only objects with these labels
    #[arg(long, short = 'l', default_value = "", hide_default_value = true)]
    selector: String,
    /// Delete what was applied before and is not said any more
    #[arg(long)]
    prune: bool,
    /// Of all objects that were applied, with --prune
    #[arg(long)]
    all: bool,
    /// Which kinds are pruned: GROUP/VERSION/KIND
    #[arg(long)]
    prune_allowlist: Vec<String>,
    /// The set that the objects belong to: NAME or RESOURCE.GROUP/NAME, with KUBECTL_APPLYSET=true
    #[arg(long)]
    applyset: Option<String>,
    /// Overwrite what others changed
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    overwrite: bool,
    /// What unknown fields do: strict refuses, warn warns, ignore drops them
    #[arg(long, default_value = "strict", num_args = 0..=1, default_missing_value = "strict", require_equals = true)]
    validate: String,
    /// A subresource, such as status or scale, with --server-side
    #[arg(long, default_value = "", hide_default_value = true)]
    subresource: String,
    /// Merge lists by what the server publishes of its types, or by what is built in: for the built-in kinds both say the
    /// same, and of others no list is merged
    #[arg(long = "openapi-patch", default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    _openapi_patch: bool,
}

/// What is done with the annotation of what was applied.
#[derive(Subcommand)]
enum LastApplied {
    /// Show what was applied
    #[command(name = "view-last-applied")]
    View(last_applied::View),
    /// Say that something was applied
    #[command(name = "set-last-applied")]
    Set(last_applied::Set),
    /// Change what was applied, in an editor
    #[command(name = "edit-last-applied")]
    Edit(last_applied::Edit),
}

/// What is known while objects are applied.
struct Work<'a> {
    session: &'a Session,
    args: &'a Apply,
    writer: Writer,
}

/// An object of a file, and where it goes.
pub(crate) struct Wanted<'a> {
    pub(crate) document: &'a Document,
    pub(crate) resource: Resource,
    pub(crate) object: Value,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Wanted<'_> {
    pub(crate) fn path(&self) -> String {
        self.resource.object(&self.namespace, &self.name)
    }

    /// What was being done, as errors name it.
    pub(crate) fn doing(&self, verb: &str) -> String {
        format!("error when {verb} {:?}", self.document.source)
    }

    /// Both lines that kubectl identifies an object by.
    pub(crate) fn shown(&self) -> String {
        let (group, version) = (&self.resource.group, &self.resource.version);
        let place = format!("{group}/{version}");
        format!(
            "Resource: \"{place}, Resource={}\", GroupVersionKind: \"{place}, Kind={}\"\nName: {:?}, Namespace: {:?}",
            self.resource.plural, self.resource.kind, self.name, self.namespace
        )
    }
}

/// An object that was applied, and what is said about it.
struct Applied {
    object: Value,
    verb: &'static str,
}

pub(crate) async fn run(session: &Session, args: &Apply) -> Result<(), Error> {
    match &args.annotation {
        Some(LastApplied::View(args)) => last_applied::view(session, args).await,
        Some(LastApplied::Set(args)) => last_applied::set(session, args).await,
        Some(LastApplied::Edit(args)) => last_applied::edit(session, args).await,
        None => apply(session, args).await,
    }
}

async fn apply(session: &Session, args: &Apply) -> Result<(), Error> {
    if !args.words.is_empty() {
        return Err(Error::usage(format!("Unexpected args: [{}]", args.words.join(" ")), "apply"));
    }
    args.deleting.propagation()?;
    if args.files.is_empty() {
        return Err(Error::plain("must specify one of -f and -k"));
    }
    let manager = if args.server_side { server_side::MANAGER } else { client_side::MANAGER };
    let work = Work { session, args, writer: args.writing.open(manager)? };
    work.writer.validated("", &args.validate)?;
    let kinds = prune::kinds(session, &args.prune_allowlist, args.prune).await?;
    let mut set = set::of(session, args).await?;
    validate(args, &work.writer, set.is_some())?;
    if let Some(set) = &set {
        set.validate(session).await?;
    }
    let (documents, mut failures) = manifests::each(&args.files)?;
    let documents = selected(documents, &args.selector)?;
    let mut all = Vec::new();
    for document in &documents {
        match wanted(session, document).await {
            Ok(wanted) => all.push(wanted),
            Err(error) => failures.push(error),
        }
    }
    if all.is_empty() && failures.is_empty() {
        return Err(Error::plain("no objects passed to apply"));
    }
    if let Some(set) = &mut set {
        all.iter_mut().try_for_each(|wanted| set.label(&mut wanted.object))?;
        set.begin(&work, &all).await?;
    }
    let mut seen = Seen::default();
    let mut printed = Vec::new();
    for wanted in &all {
        seen.namespace(wanted);
        match one(&work, wanted).await {
            Ok(applied) => {
                seen.object(&applied.object);
                work.show(wanted, applied, &mut printed)?;
            }
            Err(error) => failures.push(error),
        }
    }
    failed(failures)?;
    work.print(printed)?;
    let gone = match &set {
        Some(set) => set.prune(&work, &seen).await?,
        None if args.prune => prune::prune(&work, &kinds, &seen).await?,
        None => Vec::new(),
    };
    if args.deleting.wait == Some(true) && work.writer.dry == Dry::No {
        wait_gone::all(session, &gone, &args.deleting.timeout).await?;
    }
    Ok(())
}

/// What goes together and what does not, in kubectl's words and order.
fn validate(args: &Apply, writer: &Writer, set: bool) -> Result<(), Error> {
    let force = args.deleting.force;
    Err(Error::plain(if args.force_conflicts && !args.server_side {
        "--force-conflicts only works with --server-side"
    } else if writer.is_client() && args.server_side {
        "--dry-run=client doesn't work with --server-side (did you mean --dry-run=server instead?)"
    } else if args.server_side && force {
        "--force cannot be used with --server-side"
    } else if writer.dry == Dry::Server && force {
        "--dry-run=server cannot be used with --force"
    } else if args.all && !args.selector.is_empty() {
        "cannot set --all and --selector at the same time"
    } else if set && !args.prune {
        "--applyset requires --prune"
    } else if args.prune && force {
        "--force cannot be used with --prune"
    } else if set && args.all {
        "--all is incompatible with --applyset"
    } else if set && !args.selector.is_empty() {
        "--selector is incompatible with --applyset"
    } else if set && !args.prune_allowlist.is_empty() {
        "--prune-allowlist is incompatible with --applyset"
    } else if args.prune && !set && !args.all && args.selector.is_empty() {
        "all resources selected for prune without explicitly passing --all. To prune all resources, pass the --all flag. If you did not mean to prune all resources, specify a label selector"
    } else if args.prune && !set && args.server_side {
        "--prune is in alpha and doesn't currently work on objects created by server-side apply"
    } else if !args.subresource.is_empty() && !args.server_side {
        "--subresource can only be specified for --server-side"
    } else {
        return Ok(());
    }))
}

/// The objects of files that have the labels.
pub(crate) fn selected(mut documents: Vec<Document>, selector: &str) -> Result<Vec<Document>, Error> {
    let selector = api::selector::Labels::parse(selector).map_err(|error| Error::plain(error.to_string()))?;
    manifests::select(&mut documents, &selector);
    Ok(documents)
}

/// Where an object of a file goes.
pub(crate) async fn wanted<'a>(session: &Session, document: &'a Document) -> Result<Wanted<'a>, Error> {
    let (resource, object) = manifests::locate(session, document).await?;
    if let Some(prefix) =
        object["metadata"]["generateName"].as_str().filter(|_| object["metadata"]["name"].is_null())
    {
        return Err(Error::plain(format!("from {prefix}: cannot use generate name with apply")));
    }
    let name = manifests::name(&object)?;
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
    Ok(Wanted { document, resource, object, namespace, name })
}

async fn one(work: &Work<'_>, wanted: &Wanted<'_>) -> Result<Applied, Error> {
    let applied = if work.args.server_side {
        server_side::apply(work, wanted).await?
    } else {
        client_side::apply(work, wanted).await?
    };
    if applied.verb != "created" {
        warn_if_deleting(&applied.object);
    }
    Ok(applied)
}

/// An object on its way out takes changes, but not for long.
pub(crate) fn warn_if_deleting(object: &Value) {
    if !object["metadata"]["deletionTimestamp"].is_null() {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        eprintln!("Warning: Detected changes to resource {name} which is currently being deleted.");
    }
}

impl Work<'_> {
    /// Objects are printed whole at the end, all at once; lines about them as they come.
    fn prints_objects(&self) -> bool {
        let printing = &self.args.writing.trying.printing;
        printing.template.is_some() || !matches!(printing.output.as_deref(), None | Some("" | "name"))
    }

    fn show(&self, wanted: &Wanted<'_>, applied: Applied, printed: &mut Vec<Value>) -> Result<(), Error> {
        if self.prints_objects() {
            printed.push(applied.object);
            return Ok(());
        }
        self.writer.done(&wanted.resource, &applied.object, applied.verb)
    }

    fn print(&self, mut printed: Vec<Value>) -> Result<(), Error> {
        let whole = match printed.len() {
            0 => return Ok(()),
            1 => printed.remove(0),
            _ => json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": printed}),
        };
        self.writer.printer.print(&whole, String::new)
    }

    /// A path of a write, with what `--validate` says of unknown fields.
    fn path(&self, path: &str) -> Result<String, Error> {
        self.writer.validated(path, &self.args.validate)
    }
}
