//! Applying as the client does it: what was applied last is in an annotation, and a patch is made of that, of
//! what is wanted and of what is there.

use super::{Applied, Wanted, Work};
use crate::deleting::delete;
use crate::discovery::Resource;
use crate::error::Error;
use crate::output::escaped;
use crate::session::{MERGE_PATCH, STRATEGIC_PATCH};
use crate::wait_gone;
use crate::writing::{LAST_APPLIED, with_annotation};
use api::kinds::by_kind;
use api::patch::without_nulls;
use api::schema::schema;
use http::Method;
use serde_json::{Value, json};

/// Who applies, for the server's records.
pub(crate) const MANAGER: &str = "kubectl-client-side-apply";
/// How often a patch is made anew when somebody else writes at the same time.
const TRIES: u32 = 5;

pub(super) async fn apply(work: &Work<'_>, wanted: &Wanted<'_>) -> Result<Applied, Error> {
    let modified = with_annotation(&work.session.caused(&wanted.object));
    let live = match work.session.get(&wanted.path()).await {
        Ok(live) => live,
        Err(error) if error.is_not_found() => return create(work, wanted, modified).await,
        Err(error) => {
            let doing = format!("retrieving current configuration of:\n{}\nfrom server for:", wanted.shown());
            return Err(error.when(wanted.doing(&doing)));
        }
    };
    if live["metadata"]["annotations"][LAST_APPLIED].is_null() {
        eprintln!(
            "Warning: resource {}/{} is missing the {LAST_APPLIED} annotation which is required by kubectl apply. kubectl apply should only be used on resources created declaratively by either kubectl create --save-config or kubectl apply. The missing annotation will be patched automatically.",
            wanted.resource.plural, wanted.name
        );
    }
    change(work, wanted, live, &modified).await
}

async fn create(work: &Work<'_>, wanted: &Wanted<'_>, object: Value) -> Result<Applied, Error> {
    // A new object has nothing that a null could take away.
    let mut object = without_nulls(object);
    if !work.writer.is_client() {
        let path = work.path(&wanted.resource.path(&wanted.namespace))?;
        let created = work.session.write(Method::POST, &path, &object).await;
        object = created.map_err(|error| error.when(wanted.doing("creating")))?;
    }
    Ok(Applied { object, verb: "created" })
}

/// Patches the live object; what it said last is in its annotation.
async fn change(
    work: &Work<'_>,
    wanted: &Wanted<'_>,
    mut live: Value,
    modified: &Value,
) -> Result<Applied, Error> {
    let object = wanted.path();
    let path = work.path(&object)?;
    let mut tries = 0;
    loop {
        let Patch { patch, content_type } = patch(&wanted.resource, &live, modified, work.args.overwrite)?;
        if patch == json!({}) {
            return Ok(Applied { object: live, verb: "unchanged" });
        }
        if work.writer.is_client() {
            let object = locally(&wanted.resource, live, &patch)?;
            return Ok(Applied { object, verb: "configured" });
        }
        tries += 1;
        match work.session.patch(&path, content_type, &patch).await {
            Ok(object) => return Ok(Applied { object, verb: "configured" }),
            Err(error) if error.is_conflict() && tries <= TRIES => {
                base::clock::sleep(std::time::Duration::from_secs(u64::from(tries > 1))).await;
                live = work.session.get(&object).await?;
            }
            Err(error) if work.args.deleting.force && (error.is_conflict() || error.code() == Some(422)) => {
                let object = anew(work, wanted, &live, modified).await?;
                return Ok(Applied { object, verb: "configured" });
            }
            Err(error) => {
                let patch = escaped(&patch.to_string());
                let doing = format!("applying patch:\n{patch}\nto:\n{}\nfor:", wanted.shown());
                let doing = format!("{}: {}", wanted.doing(&doing), wanted.doing("patching"));
                return Err(error.when(doing));
            }
        }
    }
}

/// Deletes the object and makes it anew (`--force`); if that fails, as it was.
async fn anew(work: &Work<'_>, wanted: &Wanted<'_>, live: &Value, modified: &Value) -> Result<Value, Error> {
    let options = work.args.deleting.options(work.args.deleting.grace_period, false)?;
    let gone = delete(work.session, (&wanted.resource, &wanted.namespace, &wanted.name), &options).await?;
    wait_gone::all(work.session, &[gone], &work.args.deleting.timeout).await?;
    let path = work.path(&wanted.resource.path(&wanted.namespace))?;
    let refused = match work.session.write(Method::POST, &path, modified).await {
        Ok(created) => return Ok(created),
        Err(error) => error,
    };
    let mut former = live.clone();
    if let Some(metadata) = former["metadata"].as_object_mut() {
        metadata.retain(|field, _| !matches!(field.as_str(), "resourceVersion" | "uid" | "managedFields"));
    }
    match work.session.write(Method::POST, &path, &former).await {
        Ok(_) => {
            let sent = escaped(&modified.to_string());
            let doing = format!("applying patch:\n{sent}\n\nto:\n{}\nfor:", wanted.shown());
            Err(refused.when(wanted.doing(&doing)))
        }
        Err(error) => Err(Error::plain(format!(
            "An error occurred force-replacing the existing object with the newly provided one:\n\n{}.\n\nAdditionally, an error occurred attempting to restore the original object:\n\n{}",
            refused.message(),
            error.message()
        ))),
    }
}

/// A patch and its type.
pub(crate) struct Patch {
    pub(crate) patch: Value,
    pub(crate) content_type: &'static str,
}

/// What makes the live object as it is wanted: a strategic merge patch of built-in kinds, and a merge patch of others.
pub(crate) fn patch(
    resource: &Resource,
    live: &Value,
    modified: &Value,
    overwrite: bool,
) -> Result<Patch, Error> {
    let original = match live["metadata"]["annotations"][LAST_APPLIED].as_str() {
        Some(said) => serde_json::from_str(said).map_err(|error| {
            Error::plain(format!(
                "the annotation {LAST_APPLIED} of {} is no JSON: {error}",
                live["metadata"]["name"]
            ))
        })?,
        None => json!({}),
    };
    let Some(ty) = by_kind(&resource.api_version(), &resource.kind).and_then(|kind| schema().of(kind)) else {
        let patch = api::patch::three_way::merge(&original, modified, live);
        return Ok(Patch { patch, content_type: MERGE_PATCH });
    };
    let patch = api::patch::three_way::strategic(&original, modified, live, ty);
    if !overwrite && !original.as_object().is_none_or(serde_json::Map::is_empty) {
        let changed = api::patch::three_way::strategic(&original, live, &original, ty);
        if conflicts(&patch, &changed) {
            return Err(Error::plain(format!(
                "patch:\n{}\nconflicts with changes made from original to current:\n{}\n",
                api::yaml::render(&patch),
                api::yaml::render(&changed)
            )));
        }
    }
    Ok(Patch { patch, content_type: STRATEGIC_PATCH })
}

/// Whether two patches want different things of one field. Items of lists are the same if their names are.
fn conflicts(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => one
            .iter()
            .filter(|(key, _)| !key.starts_with('$') && *key != LAST_APPLIED)
            .any(|(key, value)| other.get(key).is_some_and(|other| conflicts(value, other))),
        (Value::Array(one), Value::Array(other))
            if one.iter().chain(other).all(|item| item["name"].is_string()) =>
        {
            one.iter()
                .any(|item| other.iter().any(|other| other["name"] == item["name"] && conflicts(item, other)))
        }
        _ => one != other,
    }
}

/// Applies a patch as the server would.
fn locally(resource: &Resource, mut object: Value, patch: &Value) -> Result<Value, Error> {
    let applied = match by_kind(&resource.api_version(), &resource.kind).and_then(|kind| schema().of(kind)) {
        Some(ty) => api::patch::strategic(&mut object, patch, ty),
        None => api::patch::merge(&mut object, patch),
    };
    applied.map_err(|error| Error::plain(format!("applying patch locally: {error}")))?;
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_both_changed_conflict() {
        let patch = |replicas: i64| json!({"spec": {"replicas": replicas, "template": {"spec": {"containers": [{"name": "a", "image": "x"}]}}}});
        assert!(!conflicts(&patch(1), &patch(1)));
        assert!(conflicts(&patch(1), &patch(2)));
        assert!(!conflicts(&patch(1), &json!({"metadata": {"labels": {"a": "b"}}})));
        assert!(conflicts(
            &json!({"l": [{"name": "a", "image": "x"}]}),
            &json!({"l": [{"name": "a", "image": "y"}]})
        ));
        assert!(!conflicts(
            &json!({"l": [{"name": "a", "image": "x"}]}),
            &json!({"l": [{"name": "b", "image": "y"}]})
        ));
    }
}
