//! `kubectl apply`: client-side, with the last applied configuration kept in an annotation as kubectl
//! keeps it, so that both can be used in turn; or on the server.

use crate::args::Apply;
use crate::discovery::Resource;
use crate::error::Error;
use crate::manifests::{self, Document};
use crate::output::{Form, say};
use crate::session::{Call, JSON, MERGE_PATCH, STRATEGIC_PATCH, Session, with_query};
use crate::writing::{LAST_APPLIED, dry, parameters, resource_name, with_annotation};
use api::kinds::by_kind;
use api::schema::schema;
use http::Method;
use serde_json::{Value, json};

/// How often a patch is made anew when somebody else writes at the same time.
const TRIES: u32 = 5;

pub(crate) async fn run(session: &Session, args: &Apply) -> Result<(), Error> {
    let form = Form::parse(args.output.as_deref())?;
    let mut failed = 0_usize;
    let documents = manifests::read(&args.files)?;
    let only = documents.len() == 1;
    for document in &documents {
        match one(session, args, document).await {
            Ok((resource, object, verb)) => show(&resource, &object, verb, args, form.as_ref())?,
            Err(error) if only => return Err(error),
            Err(error) => {
                eprintln!("{error}");
                failed += 1;
            }
        }
    }
    if failed == 0 { Ok(()) } else { Err(Error::Said(1)) }
}

fn show(
    resource: &Resource,
    object: &Value,
    verb: &str,
    args: &Apply,
    form: Option<&Form>,
) -> Result<(), Error> {
    match form {
        Some(form) => form.print(object, true),
        None => {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            say(&format!("{}/{name} {verb}{}\n", resource_name(resource), dry(&args.dry_run)))
        }
    }
}

async fn one(
    session: &Session,
    args: &Apply,
    document: &Document,
) -> Result<(Resource, Value, &'static str), Error> {
    let (resource, object) = manifests::locate(session, document).await?;
    let name = manifests::name(&object)?;
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
    let doing = |verb: &str| format!("error when {verb} {:?}", document.source);
    if args.server_side {
        let path = resource.object(namespace, &name);
        let applied = server_side(session, args, &path, &object).await;
        let applied = applied.map_err(|error| error.when(doing("applying patch")))?;
        return Ok((resource, applied, "serverside-applied"));
    }
    let wanted = with_annotation(&object);
    let live = match session.get(&resource.object(namespace, &name)).await {
        Ok(live) => live,
        Err(error) if error.is_not_found() => {
            if args.dry_run == "client" {
                return Ok((resource, wanted, "created"));
            }
            let path = parameters(&resource.path(namespace), "kubectl-client-side-apply", &args.dry_run);
            let created = session.write(Method::POST, &path, &wanted).await;
            let created = created.map_err(|error| error.when(doing("creating")))?;
            return Ok((resource, created, "created"));
        }
        Err(error) => {
            return Err(
                error.when(format!("error when retrieving current configuration of {:?}", document.source))
            );
        }
    };
    if live["metadata"]["annotations"][LAST_APPLIED].is_null() {
        eprintln!(
            "Warning: resource {}/{name} is missing the {LAST_APPLIED} annotation which is required by kubectl apply. kubectl apply should only be used on resources created declaratively by either kubectl create --save-config or kubectl apply. The missing annotation will be patched automatically.",
            resource.plural
        );
    }
    let (after, verb) = change(session, args, (&resource, live), &wanted)
        .await
        .map_err(|error| error.when(doing("applying patch to")))?;
    Ok((resource, after, verb))
}

async fn server_side(session: &Session, args: &Apply, path: &str, object: &Value) -> Result<Value, Error> {
    let force = if args.force_conflicts { "true" } else { "false" };
    let path = with_query(&parameters(path, &args.field_manager, &args.dry_run), &[("force", force)]);
    let content_type = "application/apply-patch+yaml";
    session.send(Call { method: Method::PATCH, path: &path, content_type, accept: JSON }, Some(object)).await
}

/// Patches the live object; what it said last is in its annotation.
async fn change(
    session: &Session,
    args: &Apply,
    (resource, mut live): (&Resource, Value),
    wanted: &Value,
) -> Result<(Value, &'static str), Error> {
    let namespace = wanted["metadata"]["namespace"].as_str().unwrap_or_default();
    let name = wanted["metadata"]["name"].as_str().unwrap_or_default();
    let object = resource.object(namespace, name);
    let path = parameters(&object, "kubectl-client-side-apply", &args.dry_run);
    let mut tries = 0;
    loop {
        let (patch, content_type) = patch(resource, &live, wanted);
        if patch == json!({}) {
            return Ok((live, "unchanged"));
        }
        if args.dry_run == "client" {
            return Ok((live, "configured"));
        }
        tries += 1;
        match session.patch(&path, content_type, &patch).await {
            Ok(after) => return Ok((after, "configured")),
            Err(error) if error.is_conflict() && tries < TRIES => live = session.get(&object).await?,
            Err(error) => return Err(error),
        }
    }
}

fn patch(resource: &Resource, live: &Value, wanted: &Value) -> (Value, &'static str) {
    let said = live["metadata"]["annotations"][LAST_APPLIED].as_str().unwrap_or("{}");
    let original = serde_json::from_str(said).unwrap_or_else(|_| json!({}));
    match by_kind(&resource.api_version(), &resource.kind).and_then(|kind| schema().of(kind)) {
        Some(ty) => (api::patch::three_way::strategic(&original, wanted, live, ty), STRATEGIC_PATCH),
        None => (api::patch::three_way::merge(&original, wanted, live), MERGE_PATCH),
    }
}
