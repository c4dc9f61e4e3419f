//! The answers of refusal: `meta/v1 Status` with Kubernetes' reasons, codes and messages.

use crate::kinds::Kind;
use crate::validate::{Error as FieldError, aggregate};
use serde_json::{Value, json};
use std::borrow::Cow;

/// A refusal on its way to the client.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// The HTTP status code.
    pub code: u16,
    /// Such as `NotFound`; "" where Kubernetes gives none.
    pub reason: Cow<'static, str>,
    /// For people.
    pub message: String,
    /// `details`, or null.
    pub details: Value,
    /// `metadata.continue`: how a list may go on in spite of the refusal.
    pub continuation: Option<String>,
}

impl Refusal {
    /// A refusal without details.
    pub fn new(code: u16, reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self {
            code,
            reason: reason.into(),
            message: message.into(),
            details: Value::Null,
            continuation: None,
        }
    }

    fn about(mut self, kind: &Kind, name: &str) -> Self {
        self.details = details((kind.group, kind.plural), name);
        self
    }

    /// With the kind as which objects are stored, where others are told with their resource.
    fn of_kind(mut self, kind: &Kind, name: &str) -> Self {
        self = self.about(kind, name);
        self.details["kind"] = Value::from(kind.kind);
        self.details.as_object_mut().and_then(|details| details.remove("group"));
        if !kind.storage_group.is_empty() {
            self.details["group"] = Value::from(kind.storage_group);
        }
        self
    }

    /// 409: a precondition of a deletion does not hold.
    pub fn precondition(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", qualified(kind));
        Self::new(409, "Conflict", message).of_kind(kind, name)
    }

    /// 404: no object of this name.
    pub fn not_found(kind: &Kind, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} {name:?} not found", kind.resource())).about(kind, name)
    }

    /// 404: no such path.
    pub fn no_such_resource() -> Self {
        let mut refusal = Self::new(404, "NotFound", "the server could not find the requested resource");
        refusal.details = json!({});
        refusal
    }

    /// 409: the name is taken.
    pub fn already_exists(kind: &Kind, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{} {name:?} already exists", kind.resource()))
            .about(kind, name)
    }

    /// 409: somebody else wrote first, or a precondition does not hold.
    pub fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", kind.resource());
        Self::new(409, "Conflict", message).about(kind, name)
    }

    /// 409 with the words for a stale resourceVersion.
    pub fn stale(kind: &Kind, name: &str) -> Self {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(kind, name, why)
    }

    /// 422: fields are wrong.
    pub fn invalid(kind: &Kind, name: &str, errors: &[FieldError]) -> Self {
        let message = format!("{} {name:?} is invalid: {}", qualified(kind), aggregate(errors));
        let mut refusal = Self::new(422, "Invalid", message).of_kind(kind, name);
        let causes = errors
            .iter()
            .map(|error| json!({"reason": error.cause(), "message": error.body(), "field": error.field()}));
        refusal.details["causes"] = causes.collect();
        refusal
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 403 about an object or (with "") a collection.
    pub fn forbidden(kind: &Kind, name: &str, why: &str) -> Self {
        Self::forbidden_in((kind.group, kind.plural), name, why)
    }

    /// The same of a group and resource, which may be another server's.
    pub fn forbidden_in((group, plural): (&str, &str), name: &str, why: &str) -> Self {
        let dot = if group.is_empty() { "" } else { "." };
        let object = if name.is_empty() { String::new() } else { format!(" {name:?}") };
        let message = format!("{plural}{dot}{group}{object} is forbidden: {why}");
        Self { details: details((group, plural), name), ..Self::new(403, "Forbidden", message) }
    }

    /// 405.
    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        let mut refusal = Self::new(405, "MethodNotAllowed", message);
        refusal.details = json!({});
        refusal
    }

    /// 410: the revision asked for is compacted.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 413.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(413, "RequestEntityTooLarge", message)
    }

    /// 415.
    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// 500.
    pub fn internal(message: impl std::fmt::Display) -> Self {
        let mut refusal = Self::new(500, "InternalError", format!("Internal error occurred: {message}"));
        refusal.details = json!({"causes": [{"message": message.to_string()}]});
        refusal
    }

    /// 503.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    /// The body of the answer.
    pub fn to_value(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.code,
        });
        if let Some(token) = &self.continuation {
            status["metadata"]["continue"] = Value::from(token.as_str());
        }
        if !self.reason.is_empty() {
            status["reason"] = Value::from(&*self.reason);
        }
        if !self.details.is_null() {
            status["details"] = self.details.clone();
        }
        status
    }
}

/// A kind with the group as which its objects are stored.
fn qualified(kind: &Kind) -> String {
    let dot = if kind.storage_group.is_empty() { "" } else { "." };
    format!("{}{dot}{}", kind.kind, kind.storage_group)
}

fn details((group, plural): (&str, &str), name: &str) -> Value {
    let mut details = json!({"kind": plural});
    if !group.is_empty() {
        details["group"] = Value::from(group);
    }
    if !name.is_empty() {
        details["name"] = Value::from(name);
    }
    details
}

/// The answer to a deletion that is done.
pub fn deleted(kind: &Kind, name: &str, uid: &str) -> Value {
    let mut status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"});
    status["details"] = details((kind.group, kind.plural), name);
    status["details"]["uid"] = Value::from(uid);
    status
}
