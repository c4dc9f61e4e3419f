//! Deleting objects: at once, after a grace period, or when the last finalizer is gone.

use super::admission::{self, Operation, Request};
use super::commit::{Commit, Held};
use super::{Context, Place, Registry, store_refusal};
use crate::catalogue::Subject;
use crate::conversion::{shown, shown_bytes};
use crate::strategies::{Strategies, Strategy};
use api::kinds::Kind;
use api::status::{Refusal, deleted};
use api::validate::{Error, Path};
use base::clock;
use bytes::Bytes;
use jiff::SignedDuration;
use serde_json::{Value, json};
use store::{Change, Expect, Write, WriteError};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
const ATTEMPTS: usize = 64;

/// `DeleteOptions`, from the body or the query.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeleteOptions {
    grace_s: Option<i64>,
    uid: Option<String>,
    version: Option<String>,
    propagation: Option<String>,
    /// Nothing is changed; asked for in the options as well as in the query.
    pub(crate) dry_run: bool,
}

impl DeleteOptions {
    /// Reads the options of a body (null for none); what the query says fills in what it lacks.
    pub(crate) fn parse(body: &Value, query: &crate::http::query::Query) -> Result<Self, Refusal> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let queried = query.number("gracePeriodSeconds")?.and_then(|seconds| i64::try_from(seconds).ok());
        let orphan = match (&body["orphanDependents"], query.get("orphanDependents")) {
            (Value::Bool(orphan), _) => Some(*orphan),
            (_, "") => None,
            (_, text) => Some(text == "true"),
        };
        let legacy = orphan.map(|orphan| if orphan { "Orphan" } else { "Background" }.to_owned());
        let queried_policy =
            Some(query.get("propagationPolicy").to_owned()).filter(|policy| !policy.is_empty());
        let policy = text(&body["propagationPolicy"]).or(queried_policy);
        let stated = policy.is_some();
        let propagation = policy.or(legacy);
        let path = Path::new("propagationPolicy");
        let known = ["Foreground", "Background", "Orphan"];
        let error = match propagation.as_deref() {
            Some(policy) if orphan.is_some() && stated => {
                let why = "orphanDependents and deletionPropagation cannot be both set";
                Some(Error::invalid(&path, policy, why))
            }
            Some(policy) if !known.contains(&policy) => {
                Some(Error::not_supported(&path, policy, &["Foreground", "Background", "Orphan", "nil"]))
            }
            _ => None,
        };
        if let Some(error) = error {
            return Err(crate::http::options::invalid("DeleteOptions", &[error]));
        }
        let grace_s = body["gracePeriodSeconds"].as_i64().or(queried);
        if grace_s.is_some_and(|seconds| seconds < 0) {
            return Err(Refusal::new(
                422,
                "Invalid",
                "DeleteOptions.meta.k8s.io \"\" is invalid: gracePeriodSeconds: Invalid value: must be greater than or equal to 0",
            ));
        }
        Ok(Self {
            grace_s,
            uid: text(&body["preconditions"]["uid"]),
            version: text(&body["preconditions"]["resourceVersion"]),
            propagation,
            dry_run: body["dryRun"].as_array().is_some_and(|modes| modes.iter().any(|mode| mode == "All")),
        })
    }
}

impl DeleteOptions {
    /// The options as an object, of no kind yet.
    pub(super) fn to_value(&self) -> Value {
        let mut options = json!({});
        if let Some(seconds) = self.grace_s {
            options["gracePeriodSeconds"] = json!(seconds);
        }
        let texts = [
            ("/propagationPolicy", &self.propagation),
            ("/preconditions/uid", &self.uid),
            ("/preconditions/resourceVersion", &self.version),
        ];
        for (path, text) in texts {
            if let Some(text) = text {
                let place = path[1..].split('/').fold(&mut options, |place, field| &mut place[field]);
                *place = json!(text);
            }
        }
        options
    }

    /// Only this very form of an object is to be deleted.
    pub(super) fn pin(&mut self, object: &Value) {
        self.version = object["metadata"]["resourceVersion"].as_str().map(str::to_owned);
    }

    /// Whether only one form of the object is to be deleted.
    pub(super) fn is_pinned(&self) -> bool {
        self.version.is_some()
    }
}

/// Whether nothing keeps an object any longer whose deletion was asked for.
pub(super) fn is_finished(kind: &Kind, object: &Value) -> bool {
    let meta = &object["metadata"];
    let held = |list: &Value| list.as_array().is_some_and(|items| !items.is_empty());
    let waits = kind.kind == "Namespace" && held(&object["spec"]["finalizers"]);
    let grace = meta["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
    !meta["deletionTimestamp"].is_null() && !held(&meta["finalizers"]) && grace == 0 && !waits
}

impl Registry {
    /// Deletes an object, or asks for its deletion; returns the answer's body.
    pub(crate) async fn delete(
        &self,
        place: Place<'_>,
        options: &DeleteOptions,
        context: &Context,
    ) -> Result<Bytes, Refusal> {
        let Place { kind, namespace, name } = place;
        let custom = self.custom(kind)?;
        let subject = Subject { kind, custom: custom.as_ref() };
        let strategy = Strategies::of(kind);
        let key = place.key();
        for _ in 0..ATTEMPTS {
            let record = self.find(kind, namespace, name)?;
            let old = self.form_of(subject, &record).await?;
            check_preconditions(kind, name, &old, options)?;
            self.admit_delete(place, &old, options, context).await?;
            let new = marked(strategy, &old, options);
            let gone = is_finished(kind, &new);
            if context.dry_run || (!gone && new == old) {
                return Ok(answer(kind, gone, &old, &new));
            }
            let body = answer(kind, gone, &old, &new);
            let (template, index) = self.stored(subject, &key, if gone { &old } else { &new }).await?;
            let change = if gone { Change::Delete(template, index) } else { Change::Put(template, index) };
            let write = Write {
                key: key.clone(),
                expect: Expect::Revision(record.revision),
                change,
                durability: super::durability(&key),
            };
            drop((old, new));
            let commit = Commit { kind, namespace: namespace.to_owned(), write, held: Held::default() };
            match self.committer().commit(commit).await {
                Ok(_) if gone => return Ok(body),
                Ok(written) => return Ok(shown_bytes(kind, &self.shown(kind, written).await?)),
                Err(WriteError::Conflict(_)) if options.version.is_some() => {
                    return Err(Refusal::stale(kind, name));
                }
                Err(WriteError::Conflict(_)) => {}
                Err(error) => return Err(store_refusal(&error)),
            }
        }
        Err(Refusal::stale(kind, name))
    }

    async fn admit_delete(
        &self,
        place: Place<'_>,
        old: &Value,
        options: &DeleteOptions,
        context: &Context,
    ) -> Result<(), Refusal> {
        let view = self.view();
        let request = Request {
            old,
            deletion: Some(options),
            ..Request::new(place, Operation::Delete, context, &view)
        };
        admission::admit(&request, &mut Value::Null).await?;
        admission::validate(&request, &Value::Null).await
    }
}

/// What a deletion answers with: the object that goes on or, of some kinds, that is gone, or a status.
fn answer(kind: &Kind, gone: bool, old: &Value, new: &Value) -> Bytes {
    let text = |field: &str| old["metadata"][field].as_str().unwrap_or_default();
    let answer = match gone {
        true if kind.returns_deleted => shown(kind, old.clone()),
        true => deleted(kind, text("name"), text("uid")),
        false => shown(kind, new.clone()),
    };
    answer.to_string().into()
}

pub(super) fn check_preconditions(
    kind: &Kind,
    name: &str,
    old: &Value,
    options: &DeleteOptions,
) -> Result<(), Refusal> {
    let meta = &old["metadata"];
    let fails = |(what, happened): (&str, &str), wanted: &Option<String>, own: &Value| match wanted {
        Some(wanted) if own != wanted.as_str() => {
            let own = own.as_str().unwrap_or_default();
            let why = format!(
                "the {what} in the precondition ({wanted}) does not match the {what} in record ({own}). The object might have been {happened}"
            );
            Some(Refusal::precondition(kind, name, &why))
        }
        _ => None,
    };
    let failed = fails(("UID", "deleted and then recreated"), &options.uid, &meta["uid"])
        .or_else(|| fails(("ResourceVersion", "modified"), &options.version, &meta["resourceVersion"]));
    failed.map_or(Ok(()), Err)
}

/// The object with its deletion asked for.
fn marked(strategy: &Strategy, old: &Value, options: &DeleteOptions) -> Value {
    let mut new = old.clone();
    let grace_s = (strategy.grace_s)(old, options.grace_s);
    let deleting = !old["metadata"]["deletionTimestamp"].is_null();
    if deleting {
        // A later request may shorten the time that is left, not lengthen it.
        let before = old["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
        if grace_s < before {
            let ends: Option<jiff::Timestamp> =
                old["metadata"]["deletionTimestamp"].as_str().and_then(|text| text.parse().ok());
            let started = ends.map(|ends| ends - SignedDuration::from_secs(before));
            set_deletion(&mut new, started.unwrap_or_else(clock::now), grace_s);
        }
    } else {
        set_deletion(&mut new, clock::now(), grace_s);
        if let Some(generation) = old["metadata"]["generation"].as_i64().filter(|counted| *counted > 0) {
            new["metadata"]["generation"] = json!(generation + 1);
        }
    }
    set_propagation(&mut new, options.propagation.as_deref().unwrap_or(strategy.propagation));
    if !deleting {
        (strategy.mark_deleted)(&mut new);
    }
    new
}

fn set_deletion(object: &mut Value, from: jiff::Timestamp, grace_s: i64) {
    let ends = clock::whole_seconds(from + SignedDuration::from_secs(grace_s));
    object["metadata"]["deletionTimestamp"] = Value::from(ends.to_string());
    object["metadata"]["deletionGracePeriodSeconds"] = Value::from(grace_s);
}

fn set_propagation(object: &mut Value, policy: &str) {
    let meta = &mut object["metadata"];
    let mut finalizers = meta["finalizers"].as_array().cloned().unwrap_or_default();
    let wanted = match policy {
        "Orphan" => ORPHAN,
        "Foreground" => FOREGROUND,
        _ => "",
    };
    finalizers.retain(|finalizer| finalizer == wanted || (finalizer != ORPHAN && finalizer != FOREGROUND));
    if !wanted.is_empty() && !finalizers.iter().any(|finalizer| finalizer == wanted) {
        finalizers.push(Value::from(wanted));
    }
    match finalizers.as_slice() {
        [] => drop(meta.as_object_mut().and_then(|meta| meta.remove("finalizers"))),
        _ => meta["finalizers"] = Value::Array(finalizers),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategies::Strategies;
    use api::kinds::by_kind;

    fn pod() -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "generation": 1},
            "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30}, "status": {"phase": "Running"}})
    }

    fn mark(object: &Value, options: &DeleteOptions) -> (Value, bool) {
        let kind = by_kind(object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap()).unwrap();
        let new = marked(Strategies::of(kind), object, options);
        let finished = is_finished(kind, &new);
        (new, finished)
    }

    #[test]
    fn pods_on_a_node_get_their_grace_and_it_can_only_be_shortened() {
        let (new, finished) = mark(&pod(), &DeleteOptions::default());
        assert_eq!((new["metadata"]["deletionGracePeriodSeconds"].as_i64(), finished), (Some(30), false));
        let longer = DeleteOptions { grace_s: Some(60), ..DeleteOptions::default() };
        assert_eq!(mark(&new, &longer).0, new);
        let now = DeleteOptions { grace_s: Some(0), ..DeleteOptions::default() };
        assert!(mark(&new, &now).1);
    }

    #[test]
    fn a_dry_run_may_be_asked_for_in_the_body() {
        let parsed =
            |body: &Value| DeleteOptions::parse(body, &crate::http::query::Query::default()).unwrap();
        assert!(parsed(&json!({"dryRun": ["All"]})).dry_run);
        assert!(!parsed(&json!({})).dry_run);
    }

    #[test]
    fn finalizers_hold_an_object_back() {
        let held = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "finalizers": ["x/y"]}});
        assert!(!mark(&held, &DeleteOptions::default()).1);
        let plain = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
        assert!(mark(&plain, &DeleteOptions::default()).1);
        let foreground = DeleteOptions { propagation: Some("Foreground".into()), ..DeleteOptions::default() };
        let (new, finished) = mark(&plain, &foreground);
        assert_eq!((new["metadata"]["finalizers"].clone(), finished), (json!(["foregroundDeletion"]), false));
    }
}
