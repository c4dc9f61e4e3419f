//! Server-side apply: the server merges, and knows whose field each is. Objects that a client applied before come
//! over with their fields.

use super::managers::{self, Upgrade};
use super::{Applied, Wanted, Work};
use crate::error::Error;
use crate::session::{Call, JSON, Session, with_query};
use crate::writing::LAST_APPLIED;
use http::Method;
use serde_json::{Value, json};

/// Who applies, for the server's records.
pub(crate) const MANAGER: &str = "kubectl";
/// Who has the annotation of what was applied, for clients that will need it again.
const ANNOTATION_MANAGER: &str = "kubectl-last-applied";
/// How often fields are handed over anew when somebody else writes at the same time.
const TRIES: u32 = 5;

const CONFLICT: &str = "Please review the fields above--they currently have other managers. Here\nare the ways you can resolve this warning:\n* If you intend to manage all of these fields, please re-run the apply\n  command with the `--force-conflicts` flag.\n* If you do not intend to manage all of the fields, please edit your\n  manifest to remove references to the fields that should keep their\n  current managers.\n* You may co-own fields by updating your manifest to match the existing\n  value; in this case, you'll become the manager if the other manager(s)\n  stop managing the field (remove it from their configuration).\nSee https://kubernetes.io/docs/reference/using-api/server-side-apply/#conflicts";

/// Sends an object to be merged.
pub(crate) async fn send(session: &Session, path: &str, object: &Value, force: bool) -> Result<Value, Error> {
    let path = with_query(path, &[("force", if force { "true" } else { "false" })]);
    let content_type = "application/apply-patch+yaml";
    session.send(Call { method: Method::PATCH, path: &path, content_type, accept: JSON }, Some(object)).await
}

pub(super) async fn apply(work: &Work<'_>, wanted: &Wanted<'_>) -> Result<Applied, Error> {
    let mut path = wanted.path();
    if !work.args.subresource.is_empty() {
        path = format!("{path}/{}", work.args.subresource);
    }
    let path = work.path(&path)?;
    let force = work.args.force_conflicts;
    let mut object = send(work.session, &path, &wanted.object, force).await.map_err(explained)?;
    match kept_annotation(work, wanted, &object).await {
        Ok(Some(after)) => object = after,
        Ok(None) => {}
        Err(error) => {
            let error = error.message();
            eprintln!(
                "Warning: failed to migrate kubectl.kubernetes.io/last-applied-configuration for Server-Side Apply. This is non-fatal and will be retried next time you apply. Error: {error}"
            );
            return Ok(Applied { object, verb: "serverside-applied" });
        }
    }
    match migrate(work, wanted, &object).await {
        Ok(None) => {}
        Ok(Some(after)) => {
            object = after;
            match send(work.session, &path, &wanted.object, force).await {
                Ok(after) => object = after,
                Err(error) => eprintln!(
                    "Warning: failed to re-apply configuration after performing Server-Side Apply migration. This is non-fatal and will be retried next time you apply. Error: {}",
                    error.message()
                ),
            }
        }
        Err(error) => eprintln!(
            "Warning: server rejected managed fields migration to Server-Side Apply. This is non-fatal and will be retried next time you apply. Error: {}",
            error.message()
        ),
    }
    Ok(Applied { object, verb: "serverside-applied" })
}

/// A conflict with what can be done about it.
fn explained(error: Error) -> Error {
    if error.is_conflict() { Error::plain(format!("{}\n{CONFLICT}", error.message())) } else { error }
}

/// Gives the annotation of a client's apply an owner of its own, so that it stays when the client's fields go over.
async fn kept_annotation(
    work: &Work<'_>,
    wanted: &Wanted<'_>,
    object: &Value,
) -> Result<Option<Value>, Error> {
    let said = &object["metadata"]["annotations"][LAST_APPLIED];
    if work.writer.manager != MANAGER || said.is_null() || !managers::owners(object, "Apply").is_empty() {
        return Ok(None);
    }
    let mut bare = json!({"apiVersion": wanted.resource.api_version(), "kind": wanted.resource.kind,
        "metadata": {"name": wanted.name, "annotations": {LAST_APPLIED: said}}});
    if !wanted.namespace.is_empty() {
        bare["metadata"]["namespace"] = json!(wanted.namespace);
    }
    let path = work.writer.path_as(&wanted.path(), ANNOTATION_MANAGER);
    send(work.session, &path, &bare, false).await.map(Some)
}

/// Hands what client-side applies had over to the server-side one; none if there was nothing.
async fn migrate(work: &Work<'_>, wanted: &Wanted<'_>, object: &Value) -> Result<Option<Value>, Error> {
    let names = managers::owners(object, "Update");
    let path = work.writer.path(&wanted.path());
    let mut object = object.clone();
    let mut tries = 0;
    loop {
        let Some(Upgrade(patch)) = managers::upgrade(&object, &names, &work.writer.manager) else {
            return Ok(None);
        };
        tries += 1;
        match work.session.patch(&path, "application/json-patch+json", &patch).await {
            Ok(after) => return Ok(Some(after)),
            Err(error) if error.is_conflict() && tries < TRIES => {
                object = work.session.get(&wanted.path()).await?;
            }
            Err(error) => return Err(error),
        }
    }
}
