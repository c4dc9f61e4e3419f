//! Tells authors of ValidatingAdmissionPolicies which of their expressions do not fit the kinds that they are
//! for (`status.typeChecking`).

use crate::CheckPolicy;
use crate::common::{Key, Room, watch_self};
use api::Whole;
use api::admission::ValidatingAdmissionPolicy;
use client::{Cache, Client, Error, Next, Queue};
use serde_json::{Value, json};

const MANAGER: &str = "validatingadmissionpolicy-status";

#[derive(Clone)]
struct Status {
    client: Client,
    policies: Cache<ValidatingAdmissionPolicy>,
    check: CheckPolicy,
}

pub(crate) fn start(room: &Room, check: CheckPolicy) {
    let controller = Status { client: room.client.clone(), policies: room.caches.of(), check };
    let queue = Queue::new("policy status");
    watch_self(&controller.policies, &queue);
    room.work("policy status", &queue, 1, move |key| controller.clone().sync(key));
}

impl Status {
    async fn sync(self, key: Key) -> Result<Next, Error> {
        let Some(policy) = self.policies.get("", &key.name) else { return Ok(Next::Done) };
        let generation = policy.metadata.generation;
        let observed = policy.status.as_ref().and_then(|status| status.observed_generation);
        if generation <= observed {
            return Ok(Next::Done);
        }
        let object = policy.to_value().map_err(|error| Error::Decode(error.to_string()))?;
        let status = status(&key.name, generation, (self.check)(object).await);
        self.client.apply_status::<ValidatingAdmissionPolicy>("", &key.name, MANAGER, &status).await?;
        Ok(Next::Done)
    }
}

/// What is applied: which generation was checked, and what was found by field.
fn status(name: &str, generation: Option<i64>, found: Vec<(String, String)>) -> Value {
    let warnings = found.into_iter().map(|(field, warning)| json!({"fieldRef": field, "warning": warning}));
    let mut checking = json!({});
    let warnings: Vec<Value> = warnings.collect();
    if !warnings.is_empty() {
        checking["expressionWarnings"] = warnings.into();
    }
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "status": {"observedGeneration": generation, "typeChecking": checking},
    })
}
