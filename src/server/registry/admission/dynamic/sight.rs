//! A request as webhooks and policies see it: its objects in the version that they want, and what an
//! AdmissionRequest says beside them.

use super::super::{Operation, Request};
use super::webhook::Failure;
use crate::catalogue::Custom;
use crate::conversion;
use crate::registry::form::no_object;
use crate::registry::subresources::{scale_of, set_replicas};
use crate::registry::{Form, Source, apply};
use api::kinds::Kind;
use api::patch;
use api::status::Refusal;
use serde_json::{Value, json};
use std::borrow::Cow;

/// See the module's comment.
pub(super) struct Sight<'a> {
    pub(super) request: &'a Request<'a>,
    /// The version that is wanted, of the kind that was asked for.
    pub(super) form: &'static Kind,
    pub(super) object: Value,
    pub(super) old: Value,
}

/// What a request is about: the object, or its scale.
pub(super) fn subject<'a>(request: &Request, object: &'a Value) -> Cow<'a, Value> {
    let scale = request.subresource == "scale" && !object.is_null();
    if scale {
        Cow::Owned(scale_of(object, custom(request).as_ref().and_then(Custom::scale)))
    } else {
        Cow::Borrowed(object)
    }
}

/// What a definition says of the kind that was asked for.
fn custom(request: &Request) -> Option<Custom> {
    request.view.records.catalogue().custom(request.kind).ok().flatten()
}

/// Whether what is admitted is an object of the resource's own kind.
fn is_own(request: &Request) -> bool {
    request.kind.subresource(request.subresource).is_none_or(|door| door.kind.is_empty())
}

/// An object as it is admitted, in a form of its kind.
async fn shown(
    request: &Request<'_>,
    form: &'static Kind,
    object: &Value,
    managed: &Value,
) -> Result<Value, Refusal> {
    let mut object = subject(request, object).into_owned();
    if object.is_null() || !is_own(request) {
        return Ok(object);
    }
    apply::put(&mut object, managed.clone());
    match custom(request) {
        Some(custom) => custom.in_form(object, form).await,
        None => Ok(conversion::shown(form, object)),
    }
}

impl<'a> Sight<'a> {
    pub(super) async fn of(
        request: &'a Request<'a>,
        form: &'static Kind,
        object: &Value,
    ) -> Result<Self, Refusal> {
        let [managed, before] = request.managed;
        let object = shown(request, form, object, managed).await?;
        let old = shown(request, form, request.old, before).await?;
        Ok(Self { request, form, object, old })
    }

    /// What a definition says of the objects.
    pub(super) fn custom(&self) -> Option<Custom> {
        custom(self.request)
    }

    /// An AdmissionRequest without its uid and its objects.
    pub(super) fn described(&self) -> Value {
        let Request { kind, subresource, name, operation, user, context, .. } = self.request;
        let made_up = self.object["metadata"]["name"].as_str().unwrap_or_default();
        let mut described = json!({
            "kind": gvk(self.form, subresource), "resource": gvr(self.form),
            "requestKind": gvk(kind, subresource), "requestResource": gvr(kind),
            "operation": operation.name(), "userInfo": user.to_value(),
            "dryRun": context.dry_run, "options": self.request.options(),
        });
        let texts = [
            ("subResource", *subresource),
            ("requestSubResource", *subresource),
            ("name", if name.is_empty() { made_up } else { name }),
            ("namespace", self.request.home()),
        ];
        for (field, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
            described[field] = Value::from(text);
        }
        described
    }

    /// Lets a JSON patch change the object, which is read and completed as one that was sent. Says
    /// whether it is another one now.
    pub(super) async fn patch(
        &self,
        object: &mut Value,
        webhook: &str,
        patch: &[u8],
    ) -> Result<bool, Failure> {
        if object.is_null() {
            return Err(Failure::Denied(Refusal::internal(format!(
                "admission webhook {webhook:?} attempted to modify the object, which is not supported for this operation"
            ))));
        }
        let mut patched = self.object.clone();
        patch::json(&mut patched, patch).map_err(|error| unpatched(webhook, error))?;
        Ok(self.adopt(object, patched).await?)
    }

    /// Lets the object become what it is to be, in this form of it.
    pub(super) async fn adopt(&self, object: &mut Value, mut patched: Value) -> Result<bool, Refusal> {
        self.read(&mut patched).map_err(Refusal::internal)?;
        if patched == self.object {
            return Ok(false);
        }
        // Who owns what is told by this server.
        apply::take(&mut patched);
        if self.request.subresource == "scale" {
            let custom = custom(self.request);
            let paths = custom.as_ref().and_then(Custom::scale);
            set_replicas(object, paths, patched["spec"]["replicas"].clone());
        } else {
            *object = match custom(self.request) {
                _ if !is_own(self.request) => patched,
                Some(custom) => custom.in_form(patched, self.request.kind).await?,
                None => conversion::stored(self.form, patched),
            };
        }
        (self.request.complete)(object)?;
        Ok(true)
    }

    /// Reads what became of an object as one of its kind.
    fn read(&self, patched: &mut Value) -> Result<(), String> {
        if !patched.is_object() {
            let why = no_object(patched);
            return Err(format!("couldn't get version/kind; json parse error: json: cannot unmarshal {why}"));
        }
        let door = self.form.subresource(self.request.subresource).filter(|door| !door.kind.is_empty());
        let custom = self.request.view.records.catalogue().custom(self.form).ok().flatten();
        let form = match door {
            Some(door) => Form::through(self.form, door),
            None => Form::of(self.form).with(custom.as_ref()),
        };
        form.identify(patched).map_err(|misfit| misfit.why)?;
        form.shape(patched, &Source::default()).and_then(|findings| findings.ill_typed).map_or(Ok(()), Err)
    }
}

/// Why a patch cannot be made: it is none, for the failure policy to decide, or it does not fit.
fn unpatched(webhook: &str, error: patch::Error) -> Failure {
    match error {
        patch::Error::Malformed(why) => {
            let why = why
                .trim_start_matches("error decoding patch: ")
                .replace("[]handlers.jsonPatchOp", "jsonpatch.Patch");
            let why = format!("received undecodable patch in webhook response: {why}");
            Failure::Call(format!("failed calling webhook {webhook:?}: {why}"))
        }
        other => Failure::Denied(Refusal::internal(other)),
    }
}

fn gvk(form: &Kind, subresource: &str) -> Value {
    let (group, version, kind) = match form.subresource(subresource) {
        Some(door) => {
            let (group, version) = door.version_of(form);
            (group, version, door.kind_of(form))
        }
        None => (form.group, form.version, form.kind.to_owned()),
    };
    json!({"group": group, "version": version, "kind": kind})
}

fn gvr(form: &Kind) -> Value {
    json!({"group": form.group, "version": form.version, "resource": form.plural})
}

impl Request<'_> {
    /// The namespace; of a namespace its own name.
    pub(super) fn home(&self) -> &str {
        let own = (self.kind.group, self.kind.plural) == ("", "namespaces");
        if own { self.name } else { self.namespace }
    }

    /// `CreateOptions`, `UpdateOptions` (also of a patch) or `DeleteOptions`; null for what connects.
    fn options(&self) -> Value {
        let kind = match self.operation {
            Operation::Create => "CreateOptions",
            Operation::Update => "UpdateOptions",
            Operation::Delete => "DeleteOptions",
            Operation::Connect => return Value::Null,
        };
        let mut options = self.deletion.map_or_else(|| self.context.options.to_value(), |own| own.to_value());
        options["apiVersion"] = Value::from("meta.k8s.io/v1");
        options["kind"] = Value::from(kind);
        if self.context.dry_run {
            options["dryRun"] = json!(["All"]);
        }
        options
    }
}
