//! Subresources that are no part of the object's own form, in a file each.

mod binding;
mod eviction;
mod scale;
mod token;

use super::admission::{self, Operation, Request};
use super::{Context, Outcome, Place, Registry};
use api::status::Refusal;
use serde_json::{Value, json};
use std::cell::RefCell;

/// The answer of a subresource: an object as stored, or one made up for the answer.
#[derive(Debug)]
pub(crate) enum Reply {
    Stored(Outcome),
    Made(u16, Value),
}

impl Registry {
    /// Admits what is posted to a subresource, as an object of its own; returns what to warn of.
    fn admit_posted(
        &self,
        Place { kind, namespace, name }: Place<'_>,
        subresource: &str,
        object: &mut Value,
        context: &Context,
    ) -> Result<Vec<String>, Refusal> {
        let (view, none) = (self.view(), Value::Null);
        let request = Request {
            kind,
            subresource,
            operation: Operation::Create,
            namespace,
            name,
            old: &none,
            user: &context.user,
            view: &view,
            warnings: RefCell::default(),
        };
        admission::admit(&request, object)?;
        admission::validate(&request, object)?;
        Ok(request.warnings.into_inner())
    }
}

/// 409 about something that is named otherwise than a kind's resource.
fn conflict(what: &str, group: &str, name: &str, why: &str) -> Refusal {
    let qualified = if group.is_empty() { what.to_owned() } else { format!("{what}.{group}") };
    let message = format!("Operation cannot be fulfilled on {qualified} {name:?}: {why}");
    let mut refusal = Refusal::new(409, "Conflict", message);
    refusal.details = json!({"name": name, "kind": what});
    if !group.is_empty() {
        refusal.details["group"] = Value::from(group);
    }
    refusal
}

fn success() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})
}
