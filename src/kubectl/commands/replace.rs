//! `kubectl replace`.

use crate::args::Files;
use crate::choice::each;
use crate::discovery::Resource;
use crate::error::Error;
use crate::manifests::{self, Document};
use crate::output::say;
use crate::session::Session;
use crate::wait_gone::{self, Gone};
use crate::writing::{Writer, Writing, resource_name, with_annotation};
use clap::Args;
use http::Method;
use serde_json::{Value, json};

#[derive(Args)]
pub(crate) struct Replace {
    #[command(flatten)]
    pub(crate) files: Files,
    #[command(flatten)]
    pub(crate) writing: Writing,
    /// Delete and create anew
    #[arg(long)]
    pub(crate) force: bool,
    /// Seconds that pods get to end, with --force
    #[arg(long, default_value_t = -1, allow_negative_numbers = true)]
    pub(crate) grace_period: i64,
    /// How long to wait for the old one to be gone, such as 30s; 0s for as long as it takes
    #[arg(long, default_value = "0s")]
    pub(crate) timeout: String,
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
    if args.files.is_empty() {
        return Err(Error::plain("must specify one of -f and -k"));
    }
    if args.grace_period >= 0 && !args.force {
        return Err(Error::plain("--grace-period must have --force specified"));
    }
    if !args.force && args.timeout != "0s" {
        return Err(Error::plain("--timeout must have --force specified"));
    }
    let documents = manifests::read(&args.files)?;
    if let Some(path) = &args.raw {
        for document in &documents {
            let answer = session.write(Method::PUT, path, &document.object).await?;
            say(&format!("{answer}\n"))?;
        }
        return Ok(());
    }
    let writer = args.writing.open("kubectl-replace")?;
    each(documents.iter().map(Ok), async |document| one(session, args, &writer, document).await).await
}

async fn one(session: &Session, args: &Replace, writer: &Writer, document: &Document) -> Result<(), Error> {
    let (resource, mut object) = manifests::locate(session, document).await?;
    let name = manifests::name(&object)?;
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
    if args.save_config {
        object = with_annotation(&object);
    }
    let mut path = resource.object(&namespace, &name);
    let doing = |verb: &str| format!("error when {verb} {:?}", document.source);
    let after = if writer.is_client() {
        object
    } else if args.force {
        remove(session, args, (&resource, &namespace, &name)).await?;
        let path = writer.strict(&resource.path(&namespace));
        let created = session.write(Method::POST, &path, &object).await;
        created.map_err(|error| error.when(doing("creating")))?
    } else {
        if !args.subresource.is_empty() {
            path = format!("{path}/{}", args.subresource);
        }
        keep_version(session, &path, &mut object).await.map_err(|error| error.when(doing("replacing")))?;
        let replaced = session.write(Method::PUT, &writer.strict(&path), &object).await;
        replaced.map_err(|error| error.when(doing("replacing")))?
    };
    writer.done(&resource, &after, "replaced")
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

async fn remove(
    session: &Session,
    args: &Replace,
    (resource, namespace, name): (&Resource, &str, &str),
) -> Result<(), Error> {
    let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"});
    if args.grace_period >= 0 {
        options["gracePeriodSeconds"] = json!(args.grace_period);
    }
    let answer = match session.write(Method::DELETE, &resource.object(namespace, name), &options).await {
        Err(error) if error.is_not_found() => return Ok(()),
        answer => answer?,
    };
    let place = if namespace.is_empty() { String::new() } else { format!(" from {namespace} namespace") };
    say(&format!("{} {name:?} deleted{place}\n", resource_name(resource)))?;
    let uid = [&answer["metadata"]["uid"], &answer["details"]["uid"]].into_iter().find_map(Value::as_str);
    let gone = Gone {
        resource: resource.clone(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: uid.unwrap_or_default().to_owned(),
    };
    wait_gone::all(session, &[gone], &args.timeout).await
}
