//! Conditions of a status, which keep the time since which they are as they are.

use api::meta::ObjectMeta;
use serde_json::{Value, json};

pub(super) struct Conditions<'a> {
    old: &'a Value,
    generation: i64,
    now: &'a str,
    /// Ours, after those that are of other types.
    all: Vec<Value>,
    others: bool,
}

impl<'a> Conditions<'a> {
    /// To follow the conditions of an object; those of types that are not set stay.
    pub(super) fn new(old: &'a Value, metadata: &ObjectMeta, now: &'a str) -> Self {
        Self { old, generation: metadata.generation.unwrap_or_default(), now, all: Vec::new(), others: true }
    }

    /// The same for a place where all conditions are ours.
    pub(super) fn own(old: &'a Value, metadata: &ObjectMeta, now: &'a str) -> Self {
        Self { others: false, ..Self::new(old, metadata, now) }
    }

    pub(super) fn set(&mut self, kind: &str, is: bool, reason: &str, message: &str) {
        let status = if is { "True" } else { "False" };
        let mut before = self.old.as_array().into_iter().flatten();
        let before = before.find(|one| one["type"] == kind && one["status"] == status);
        let since = before.map_or(json!(self.now), |one| one["lastTransitionTime"].clone());
        self.all.push(json!({
            "type": kind, "status": status, "reason": reason, "message": message,
            "observedGeneration": self.generation, "lastTransitionTime": since,
        }));
    }

    pub(super) fn finish(self) -> Vec<Value> {
        let set = |one: &Value| self.all.iter().any(|own| own["type"] == one["type"]);
        let others = self.old.as_array().into_iter().flatten().filter(|one| self.others && !set(one));
        let mut all: Vec<Value> = others.cloned().collect();
        all.extend(self.all);
        all
    }
}
