//! Subresources that are no part of the object's own form, in a file each.

mod binding;
mod eviction;
mod scale;
mod token;

use super::admission::{self, Operation, Request};
use super::{Context, Outcome, Place, Registry};
use api::status::Refusal;
use serde_json::{Value, json};

pub(crate) use scale::{scale_of, set_replicas};

/// The answer of a subresource: an object as stored, or one made up for the answer.
#[derive(Debug)]
pub(crate) enum Reply {
    Stored(Outcome),
    Made(u16, Value),
}

impl Registry {
    /// Admits what is posted and not kept, to a subresource ("" for none); returns what to warn of.
    pub(crate) async fn admit_posted(
        &self,
        place: Place<'_>,
        subresource: &str,
        object: &mut Value,
        context: &Context,
    ) -> Result<Vec<String>, Refusal> {
        self.admit_through(place, (subresource, Operation::Create), object, context).await
    }

    /// Whether anybody may have a say in what is opened.
    pub(crate) fn admits_connections(&self) -> bool {
        self.dynamic.is_configured()
    }

    /// Admits what is opened through a subresource, by the options that it was asked for with.
    pub(crate) async fn admit_connection(
        &self,
        place: Place<'_>,
        subresource: &str,
        options: &mut Value,
        context: &Context,
    ) -> Result<(), Refusal> {
        self.admit_through(place, (subresource, Operation::Connect), options, context).await.map(drop)
    }

    async fn admit_through(
        &self,
        place: Place<'_>,
        (subresource, operation): (&str, Operation),
        object: &mut Value,
        context: &Context,
    ) -> Result<Vec<String>, Refusal> {
        let view = self.view();
        let request = Request { subresource, ..Request::new(place, operation, context, &view) };
        admission::admit(&request, object).await?;
        admission::validate(&request, object).await?;
        Ok(request.into_warnings())
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
