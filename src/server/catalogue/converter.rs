//! Objects of one version as those of another (`spec.conversion`): by their `apiVersion` alone, or by a webhook
//! (apiextensions.k8s.io/v1 ConversionReview).

use super::definitions::Defined;
use crate::caller::Caller;
use crate::registry::Records;
use api::custom::Conversion;
use api::kinds::Kind;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a webhook may take (Kubernetes' number).
const LIMIT: Duration = Duration::from_secs(30);
const GROUP: &str = "apiextensions.k8s.io";

/// Webhooks by what definitions say of them.
type Callers = HashMap<String, Result<Arc<Caller>, String>>;

/// Calls conversion webhooks, over connections that are kept while somebody needs them.
pub(crate) struct Converters {
    records: Records,
    callers: Mutex<Callers>,
}

/// How many webhooks are remembered; those of definitions that are gone are not told apart.
const CALLERS: usize = 256;

impl Converters {
    pub(crate) fn new(records: Records) -> Self {
        Self { records, callers: Mutex::default() }
    }

    fn caller(&self, client: &Value) -> Result<Arc<Caller>, String> {
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        if callers.len() > CALLERS {
            callers.clear();
        }
        let made = || Caller::of(client, &self.records).map(Arc::new);
        callers.entry(client.to_string()).or_insert_with(made).clone()
    }

    /// Objects of a definition as those of one version; what is wrong is told in Kubernetes' words.
    pub(super) async fn convert(
        &self,
        defined: &Defined,
        mut objects: Vec<Value>,
        to: &Kind,
    ) -> Result<Vec<Value>, String> {
        let wanted = to.api_version();
        let others: Vec<usize> =
            (0..objects.len()).filter(|at| objects[*at]["apiVersion"] != wanted.as_str()).collect();
        let (client, reviewed) = match &defined.definition.conversion {
            _ if others.is_empty() => return Ok(objects),
            Conversion::Webhook { client, review_versions } => (client, review_versions),
            Conversion::None => {
                others.iter().for_each(|at| objects[*at]["apiVersion"] = Value::from(wanted.as_str()));
                return Ok(objects);
            }
        };
        let of = format!("{}, Kind={}", stated(&objects[others[0]]), to.kind);
        let failed = |why: String| format!("conversion webhook for {of} failed: {why}");
        let version = reviewed.iter().find(|version| matches!(version.as_str(), "v1" | "v1beta1"));
        let version = version.ok_or("no supported conversion review versions")?;
        let uid = base::random::uuid();
        let sent: Vec<&Value> = others.iter().map(|at| &objects[*at]).collect();
        let question = json!({"kind": "ConversionReview", "apiVersion": format!("{GROUP}/{version}"),
            "request": {"uid": uid, "desiredAPIVersion": wanted, "objects": sent}});
        let answer = self.caller(client).map_err(failed)?.post(&question, LIMIT).await.map_err(failed)?;
        let answer: Value = serde_json::from_slice(&answer).map_err(|error| failed(error.to_string()))?;
        let converted = converted(answer, version, &uid).map_err(failed)?;
        if converted.len() != others.len() {
            let (count, wanted) = (converted.len(), others.len());
            return Err(format!("conversion webhook for {of} returned {count} objects, expected {wanted}"));
        }
        for (index, (at, mut new)) in others.into_iter().zip(converted).enumerate() {
            let wrong = |why: String| {
                format!(
                    "conversion webhook for {of} returned invalid converted object at index {index}: {why}"
                )
            };
            check(&objects[at], &new, to).map_err(wrong)?;
            restore(&objects[at], &mut new).map_err(|why| {
                format!(
                    "conversion webhook for {of} returned invalid metadata in object at index {index}: {why}"
                )
            })?;
            objects[at] = new;
        }
        Ok(objects)
    }
}

fn stated(object: &Value) -> &str {
    object["apiVersion"].as_str().unwrap_or_default()
}

/// The objects in an answer.
fn converted(mut answer: Value, version: &str, uid: &str) -> Result<Vec<Value>, String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (own, kind) = (text(&answer["apiVersion"]), text(&answer["kind"]));
    if version == "v1" && (own != format!("{GROUP}/v1") || kind != "ConversionReview") {
        return Err(format!(
            "expected webhook response of {GROUP}/v1, Kind=ConversionReview, got {own}, Kind={kind}"
        ));
    }
    let response = &mut answer["response"];
    if response.is_null() {
        return Err("no response provided".to_owned());
    }
    if version == "v1" && response["uid"] != uid {
        return Err(format!("expected response.uid={uid:?}, got {:?}", text(&response["uid"])));
    }
    let result = &response["result"];
    if result["status"] != "Success" {
        return Err(match text(&result["message"]) {
            message if !message.is_empty() => message,
            _ => format!("response.result.status was '{}', not 'Success'", text(&result["status"])),
        });
    }
    Ok(response["convertedObjects"].as_array_mut().map(std::mem::take).unwrap_or_default())
}

/// A webhook changes neither what an object is nor which it is.
fn check(old: &Value, new: &Value, to: &Kind) -> Result<(), String> {
    let wanted = to.api_version();
    if new["apiVersion"] != wanted.as_str() {
        return Err(format!("invalid groupVersion (expected {wanted}, received {})", stated(new)));
    }
    if new["kind"] != old["kind"] {
        let kind = |object: &Value| object["kind"].as_str().unwrap_or_default().to_owned();
        return Err(format!("invalid kind (expected {}, received {})", kind(old), kind(new)));
    }
    for (field, name) in [("name", "name"), ("namespace", "namespace"), ("uid", "UID")] {
        let text = |object: &Value| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        if text(old) != text(new) {
            return Err(format!("must have the same {name}: {} != {}", text(old), text(new)));
        }
    }
    Ok(())
}

/// Of metadata, a webhook changes labels and annotations alone.
fn restore(old: &Value, new: &mut Value) -> Result<(), String> {
    let own = new["metadata"].take();
    if !own.is_object() {
        return Err("missing metadata in converted object".to_owned());
    }
    new["metadata"] = old["metadata"].clone();
    for field in ["labels", "annotations"] {
        let Some(meta) = new["metadata"].as_object_mut() else { continue };
        match &own[field] {
            Value::Null => drop(meta.remove(field)),
            Value::Object(entries) => {
                if let Some((key, _)) = entries.iter().find(|(_, value)| !value.is_string()) {
                    return Err(format!("metadata.{field}[{key}] must be a string in converted object"));
                }
                meta.insert(field.to_owned(), own[field].clone());
            }
            _ => return Err(format!("invalid metadata.{field} in converted object")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_strictly() {
        let answer = |version: &str, response: Value| {
            converted(
                json!({"apiVersion": format!("{GROUP}/{version}"), "kind": "ConversionReview", "response": response}),
                "v1",
                "u",
            )
        };
        let good = json!({"uid": "u", "result": {"status": "Success"}, "convertedObjects": [{}]});
        assert_eq!(answer("v1", good.clone()), Ok(vec![json!({})]));
        assert!(answer("v1beta1", good).unwrap_err().starts_with("expected webhook response of"));
        assert_eq!(answer("v1", Value::Null), Err("no response provided".to_owned()));
        assert_eq!(
            answer("v1", json!({"uid": "x"})),
            Err("expected response.uid=\"u\", got \"x\"".to_owned())
        );
        let failed = json!({"uid": "u", "result": {"status": "Failed", "message": "no"}});
        assert_eq!(answer("v1", failed), Err("no".to_owned()));
    }

    #[test]
    fn metadata_stays_but_for_labels_and_annotations() {
        let old = json!({"metadata": {"name": "a", "labels": {"a": "b"}, "generation": 3}});
        let mut new =
            json!({"metadata": {"name": "a", "annotations": {"c": "d"}, "generation": 9}, "spec": 1});
        restore(&old, &mut new).unwrap();
        assert_eq!(
            new,
            json!({"metadata": {"name": "a", "annotations": {"c": "d"}, "generation": 3}, "spec": 1})
        );
        assert!(restore(&old, &mut json!({})).is_err());
        assert!(restore(&old, &mut json!({"metadata": {"labels": {"a": 1}}})).is_err());
    }
}
