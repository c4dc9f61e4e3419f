//! `kubectl create -f`, and `create namespace`.

use crate::args::Create;
use crate::error::Error;
use crate::manifests::{self, Document};
use crate::output::{Form, say};
use crate::session::Session;
use crate::writing::{dry, parameters, resource_name, with_annotation};
use http::Method;
use serde_json::json;

pub(crate) async fn run(session: &Session, args: &Create) -> Result<(), Error> {
    let form = Form::parse(args.output.as_deref())?;
    let documents = documents(args)?;
    let only = documents.len() == 1;
    let mut failed = false;
    for document in &documents {
        match one(session, args, document, form.as_ref()).await {
            Err(error) if !only && !matches!(error, Error::Said(_)) => {
                eprintln!("{error}");
                failed = true;
            }
            ended => ended?,
        }
    }
    if failed { Err(Error::Said(1)) } else { Ok(()) }
}

fn documents(args: &Create) -> Result<Vec<Document>, Error> {
    let words: Vec<&str> = args.words.iter().map(String::as_str).collect();
    match words[..] {
        ["namespace" | "ns", name] => {
            let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            Ok(vec![Document { object, source: "namespace".to_owned() }])
        }
        [] => manifests::read(&args.files),
        _ => Err(Error::plain("create takes -f FILE, or namespace NAME")),
    }
}

async fn one(
    session: &Session,
    args: &Create,
    document: &Document,
    form: Option<&Form>,
) -> Result<(), Error> {
    let (resource, object) = manifests::locate(session, document).await?;
    let object = if args.save_config { with_annotation(&object) } else { object };
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
    let path = parameters(&resource.path(namespace), "kubectl-create", &args.dry_run);
    let created = match args.dry_run.as_str() {
        "client" => object,
        _ => {
            let created = session.write(Method::POST, &path, &object).await;
            let named = args.words.is_empty();
            created.map_err(|error| {
                if named { error.when(format!("error when creating {:?}", document.source)) } else { error }
            })?
        }
    };
    match form {
        Some(form) => form.print(&created, true),
        None => {
            let name = created["metadata"]["name"].as_str().unwrap_or_default();
            say(&format!("{}/{name} created{}\n", resource_name(&resource), dry(&args.dry_run)))
        }
    }
}
