//! `kubectl replace`.

use crate::args::Files;
use crate::choice::failed;
use crate::deleting::{Deleting, delete};
use crate::error::Error;
use crate::manifests::{self, Document};
use crate::output::{say, write};
use crate::session::{JSON, Session};
use crate::wait_gone;
use crate::writing::{Dry, Writer, Writing, resource_name, with_annotation};
use clap::Args;
use http::Method;
use serde_json::Value;

#[derive(Args)]
pub(crate) struct Replace {
    #[command(flatten)]
    pub(crate) files: Files,
    #[command(flatten)]
    pub(crate) writing: Writing,
    #[command(flatten)]
    deleting: Deleting,
    /// What unknown fields do: strict refuses, warn warns, ignore drops them
    #[arg(long, default_value = "strict", num_args = 0..=1, default_missing_value = "strict", require_equals = true)]
    validate: String,
    /// Remember the configuration for a later apply
    #[arg(long)]
    pub(crate) save_config: bool,
    /// A subresource, such as status or scale
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) subresource: String,
    /// A path of the API that the file is put to as it is
    #[arg(long, value_name = "PATH")]
    pub(crate) raw: Option<String>,
}

pub(crate) async fn run(session: &Session, args: &Replace) -> Result<(), Error> {
    args.deleting.propagation()?;
    if args.files.is_empty() {
        return Err(Error::plain("must specify one of -f and -k"));
    }
    let writer = args.writing.open("kubectl-replace")?;
    writer.validated("", &args.validate)?;
    let force = args.deleting.force;
    if args.deleting.grace_period >= 0 && !force {
        return Err(Error::plain("--grace-period must have --force specified"));
    }
    if !force && args.deleting.timeout != "0s" {
        return Err(Error::plain("--timeout must have --force specified"));
    }
    if force && writer.dry != Dry::No {
        return Err(Error::plain("--dry-run can not be used when --force is set"));
    }
    if let Some(path) = &args.raw {
        let output = args.writing.trying.printing.output.is_some();
        manifests::raw_flags(&args.files, path, output)?;
        let body = args.files.filename.first().map(|file| manifests::bytes(file)).transpose()?;
        return write(&session.verbatim((Method::PUT, JSON), path, body.unwrap_or_default()).await?);
    }
    if force {
        // What is deleted has to come back.
        return anew(session, args, &writer, &manifests::read(&args.files)?).await;
    }
    let (documents, unread) = manifests::each(&args.files)?;
    let (mut failures, work) = (Vec::new(), Work { session, args, writer: &writer });
    for document in &documents {
        failures.extend(work.one(document).await.err());
    }
    failures.extend(unread);
    failed(failures)
}

struct Work<'a> {
    session: &'a Session,
    args: &'a Replace,
    writer: &'a Writer,
}

impl Work<'_> {
    async fn one(&self, document: &Document) -> Result<(), Error> {
        let Self { session, args, writer } = self;
        let (resource, mut object) = manifests::locate(session, document).await?;
        let name = manifests::name(&object)?;
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        if args.save_config {
            object = with_annotation(&object);
        }
        if !writer.is_client() {
            let mut path = resource.object(&namespace, &name);
            if !args.subresource.is_empty() {
                path = format!("{path}/{}", args.subresource);
            }
            let doing = format!("error when replacing {:?}", document.source);
            keep_version(session, &path, &mut object).await.map_err(|error| error.when(doing.clone()))?;
            let path = writer.validated(&path, &args.validate)?;
            let replaced = session.write(Method::PUT, &path, &object).await;
            object = replaced.map_err(|error| error.when(doing))?;
        }
        writer.done(&resource, &object, "replaced")
    }
}

/// Deletes all that there is, waits until it is gone, and makes everything anew.
async fn anew(
    session: &Session,
    args: &Replace,
    writer: &Writer,
    documents: &[Document],
) -> Result<(), Error> {
    let grace = match args.deleting.grace_period {
        0 => 1,
        seconds => seconds,
    };
    let options = args.deleting.options(grace, false)?;
    let (mut all, mut going, mut failures) = (Vec::new(), Vec::new(), Vec::new());
    for document in documents {
        let (resource, object) = match manifests::locate(session, document).await {
            Ok(located) => located,
            Err(error) => {
                failures.push(error);
                continue;
            }
        };
        let name = manifests::name(&object)?;
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        match delete(session, (&resource, &namespace, &name), &options).await {
            Ok(gone) => {
                let place =
                    if namespace.is_empty() { String::new() } else { format!(" from {namespace} namespace") };
                say(&format!("{} {name:?} deleted{place}\n", resource_name(&resource)))?;
                going.push(gone);
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => failures.push(error.when(format!("error when deleting {:?}", document.source))),
        }
        all.push((resource, namespace, object));
    }
    failed(failures)?;
    wait_gone::all(session, &going, &args.deleting.timeout).await?;
    let mut failures = Vec::new();
    for (resource, namespace, mut object) in all {
        if args.save_config {
            object = with_annotation(&object);
        }
        let path = writer.validated(&resource.path(&namespace), &args.validate)?;
        match session.write(Method::POST, &path, &object).await {
            Ok(created) => writer.done(&resource, &created, "replaced")?,
            Err(error) => failures.push(error),
        }
    }
    failed(failures)
}

/// An object that names no version replaces the one there is; one that is not there may be made by the server.
async fn keep_version(session: &Session, path: &str, object: &mut Value) -> Result<(), Error> {
    if object["metadata"]["resourceVersion"].as_str().is_none_or(str::is_empty) {
        match session.get(path).await {
            Ok(live) => object["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"].clone(),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
