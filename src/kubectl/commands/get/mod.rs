//! `kubectl get`: tables as the server makes them, or whole objects; once, or as they change.

mod names;
mod objects;
mod sorting;
mod tables;
mod watching;

use crate::args::{Files, Selection};
use crate::choice::failed;
use crate::error::Error;
use crate::output::{self, Form};
use crate::session::{Call, JSON, Session, with_query};
use crate::target::{self, Target};
use clap::Args;
use http::Method;
pub(crate) use sorting::relaxed;

const AS_TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

#[derive(Args)]
pub(crate) struct Get {
    #[command(flatten)]
    selection: Selection,
    /// Say nothing of what is not there
    #[arg(long)]
    ignore_not_found: bool,
    #[command(flatten)]
    files: Files,
    /// json, yaml, kyaml, wide, name, jsonpath=…, go-template=…, go-template-file=…, custom-columns=…
    #[arg(long, short)]
    output: Option<String>,
    /// A template for -o, or a Go template
    #[arg(long)]
    template: Option<String>,
    /// Say nothing of fields that a template asks for and that are not there
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    allow_missing_template_keys: bool,
    /// Show labels as a column
    #[arg(long)]
    show_labels: bool,
    /// Show kinds before names
    #[arg(long)]
    show_kind: bool,
    /// Show these labels as columns
    #[arg(long, short = 'L', value_delimiter = ',')]
    label_columns: Vec<String>,
    /// Leave out the header
    #[arg(long)]
    no_headers: bool,
    /// Order rows by a JSONPath
    #[arg(long, value_name = "JSONPATH")]
    sort_by: Option<String>,
    /// Go on showing changes
    #[arg(long, short)]
    watch: bool,
    /// Show changes only
    #[arg(long)]
    watch_only: bool,
    /// Say of changes what they are
    #[arg(long)]
    output_watch_events: bool,
    /// Keep managedFields in JSON and YAML
    #[arg(long)]
    show_managed_fields: bool,
    /// Have the server make tables; false for names and ages alone
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    server_print: bool,
    /// How many objects to ask for at once; 0 for all
    #[arg(long, default_value_t = 500)]
    chunk_size: i64,
    /// A subresource, such as status or scale
    #[arg(long, default_value = "", hide_default_value = true)]
    subresource: String,
    /// A path of the API, printed as it is
    #[arg(long, value_name = "PATH")]
    raw: Option<String>,
}

impl Get {
    fn output(&self) -> &str {
        self.output.as_deref().unwrap_or_default()
    }

    fn sort_by(&self) -> Option<&str> {
        self.sort_by.as_deref().filter(|path| !path.is_empty())
    }

    fn watches(&self) -> bool {
        self.watch || self.watch_only
    }
}

pub(crate) async fn run(session: &Session, args: &Get) -> Result<(), Error> {
    check(args)?;
    if let Some(path) = args.raw.as_ref().filter(|path| !path.is_empty()) {
        let call = Call { method: Method::GET, path, content_type: JSON, accept: "application/json, */*" };
        return output::write(&session.bytes(call, None).await?);
    }
    let form = form(args)?;
    let (targets, unread) = match target::resolve_each(session, &args.selection, &args.files).await {
        // Files without objects are no mistake here, and those that cannot be read stand for themselves.
        Err(Error::Plain(said)) if said.starts_with("no objects passed to") => Default::default(),
        Err(Error::Plain(said)) if said.starts_with("must build at directory") => {
            return Err(Error::Bare(said));
        }
        targets => targets?,
    };
    let as_it_is = form.is_none() && !args.watches();
    let unread = unread.into_iter().map(|error| match as_it_is {
        true => Error::Bare(error.message()),
        false => error,
    });
    let unread: Vec<Error> = unread.collect();
    // Only an object has subresources.
    if !args.subresource.is_empty() && targets.iter().any(|target| target.name.is_none()) {
        return Err(Error::plain("subresource cannot be used when bulk resources are specified"));
    }
    if !unread.is_empty() && (targets.is_empty() || args.watches()) {
        return failed(unread);
    }
    if args.watches() {
        return watching::run(session, args, &targets, form.as_ref()).await;
    }
    let shown = match form {
        // Scales and statuses are no objects that have metadata alone.
        Some(Form::Name) if args.sort_by().is_none() && args.subresource.is_empty() => {
            names::run(session, args, &targets).await
        }
        Some(form) => objects::run(session, args, &targets, &form).await,
        None => tables::run(session, args, &targets).await,
    };
    match shown {
        // Several failures have been said.
        Err(Error::Said(code)) => failed(unread).and(Err(Error::Said(code))),
        shown => failed(shown.err().into_iter().chain(unread).collect()),
    }
}

fn form(args: &Get) -> Result<Option<Form>, Error> {
    let strict = !args.allow_missing_template_keys;
    match (args.output(), &args.template) {
        ("", Some(template)) => Form::strictly(Some(&format!("go-template={template}")), strict),
        (output, Some(template)) if !output.contains('=') => {
            Form::strictly(Some(&format!("{output}={template}")), strict)
        }
        (output, _) => Form::strictly(Some(output), strict),
    }
}

fn check(args: &Get) -> Result<(), Error> {
    let is_nothing = args.selection.words.is_empty() && args.files.is_empty();
    if let Some(path) = args.raw.as_ref().filter(|path| !path.is_empty()) {
        if !is_nothing {
            return Err(Error::plain("arguments may not be passed when --raw is specified"));
        }
        if args.watches() || !args.selection.selector.is_empty() {
            return Err(Error::plain(
                "--raw may not be specified with other flags that filter the server request or alter the output",
            ));
        }
        if args.output.is_some() {
            return Err(Error::plain("--raw and --output are mutually exclusive"));
        }
        if !path.starts_with('/') {
            return Err(Error::plain(format!(
                "--raw must be a valid URL path: parse {path:?}: invalid URI for request"
            )));
        }
        return Ok(());
    }
    if args.sort_by().is_some() && args.watch {
        eprintln!("warning: --watch requested, --sort-by will be ignored for watch events received");
    } else if args.sort_by().is_some() && args.watch_only {
        eprintln!("warning: --watch-only requested, --sort-by will be ignored");
    }
    if is_nothing && !args.watches() {
        eprintln!(
            "You must specify the type of resource to get. Use \"kubectl api-resources\" for a complete list of supported resources.\n"
        );
        return Err(Error::usage(
            "Required resource not specified.\nUse \"kubectl explain <resource>\" for a detailed description of that resource (e.g. kubectl explain pods).",
            "get",
        ));
    }
    if args.show_labels && !matches!(args.output(), "" | "wide") {
        return Err(Error::plain(format!(
            "--show-labels option cannot be used with {} printer",
            args.output()
        )));
    }
    if args.output_watch_events && !args.watches() {
        return Err(Error::plain(
            "--output-watch-events option can only be used with --watch or --watch-only",
        ));
    }
    Ok(())
}

fn path(args: &Get, target: &Target) -> String {
    match args.subresource.as_str() {
        "" => target.path(&args.selection),
        name => format!("{}/{name}", target.path(&args.selection)),
    }
}

/// The path of the next part of a list that is asked for in parts.
fn part(args: &Get, target: &Target, rest: &str) -> String {
    let path = path(args, target);
    let size = if args.sort_by().is_some() { 0 } else { args.chunk_size };
    match (&target.name, size) {
        (None, 1..) => with_query(&path, &[("limit", &size.to_string()), ("continue", rest)]),
        _ => path,
    }
}
