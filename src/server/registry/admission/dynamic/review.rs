//! AdmissionReview (admission.k8s.io/v1, and v1beta1 for who understands no other): what webhooks are asked,
//! and what their answers say.

use super::sight::Sight;
use api::status::Refusal;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

const GROUP: &str = "admission.k8s.io";
const KIND: &str = "AdmissionReview";

/// The review that a webhook is asked for.
pub(super) fn question(sight: &Sight<'_>, uid: &str, version: &str) -> Value {
    let mut request = sight.described();
    request["uid"] = Value::from(uid);
    request["object"] = sight.object.clone();
    request["oldObject"] = sight.old.clone();
    json!({"kind": KIND, "apiVersion": format!("{GROUP}/{version}"), "request": request})
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    kind: Option<String>,
    api_version: Option<String>,
    response: Option<Response>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    uid: Option<String>,
    allowed: Option<bool>,
    status: Option<Value>,
    patch: Option<String>,
    patch_type: Option<String>,
    warnings: Option<Vec<String>>,
}

/// What a webhook decided.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Verdict {
    pub(super) allowed: bool,
    /// Why it was not; null where nothing is said.
    pub(super) status: Value,
    /// Empty where nothing is changed.
    pub(super) patch: Vec<u8>,
    pub(super) warnings: Vec<String>,
}

/// Reads an answer to a review; an error is what is wrong with it.
pub(super) fn verdict(body: &[u8], uid: &str, (version, mutates): (&str, bool)) -> Result<Verdict, String> {
    let review: Review = serde_json::from_slice(body).map_err(|error| unread(body, &error))?;
    let response = review.response.ok_or_else(|| invalid("webhook response was absent"))?;
    let Response { uid: said, allowed, status, patch, patch_type, warnings } = response;
    // The first version never compared these.
    if version == "v1" {
        let said = said.unwrap_or_default();
        if said != uid {
            return Err(invalid(&format!("expected response.uid={uid:?}, got {said:?}")));
        }
        let (stated, kind) = (review.api_version.unwrap_or_default(), review.kind.unwrap_or_default());
        if (stated.as_str(), kind.as_str()) != ("admission.k8s.io/v1", KIND) {
            let slash = if stated.contains('/') { "" } else { "/" };
            return Err(invalid(&format!(
                "expected webhook response of {GROUP}/v1, Kind={KIND}, got {slash}{stated}, Kind={kind}"
            )));
        }
        check_patch(patch.as_deref().unwrap_or_default(), patch_type.as_deref(), mutates)?;
    }
    let patch = STANDARD.decode(patch.filter(|_| mutates).unwrap_or_default());
    let patch =
        patch.map_err(|_| "failed to call webhook: illegal base64 data in response.patch".to_owned())?;
    if !patch.is_empty() && patch_type.as_deref().is_some_and(|kind| kind != "JSONPatch") && version == "v1" {
        return Err(format!("unsupported patch type {:?}", patch_type.unwrap_or_default()));
    }
    Ok(Verdict {
        allowed: allowed.unwrap_or_default(),
        status: status.unwrap_or_default(),
        patch,
        warnings: warnings.unwrap_or_default(),
    })
}

fn invalid(why: &str) -> String {
    format!("received invalid webhook response: {why}")
}

/// What Kubernetes says of a body that is no JSON, or no review.
fn unread(body: &[u8], error: &serde_json::Error) -> String {
    let why = api::validate::go_syntax(body, error);
    format!("failed to call webhook: couldn't get version/kind; json parse error: {why}")
}

fn check_patch(patch: &str, kind: Option<&str>, mutates: bool) -> Result<(), String> {
    let wrong = match (patch.is_empty(), kind, mutates) {
        (false, _, false) => "validating webhook may not return response.patch",
        (true, Some(_), false) => "validating webhook may not return response.patchType",
        (false, None, true) => "webhook returned response.patch but not response.patchType",
        (true, Some(_), true) => "webhook returned response.patchType but not response.patch",
        (false, Some(""), true) => "webhook returned invalid response.patchType of \"\"",
        _ => return Ok(()),
    };
    Err(invalid(wrong))
}

/// The refusal of a webhook, with the status that it gave.
pub(super) fn denial(webhook: &str, status: &Value) -> Refusal {
    let text = |field: &str| status[field].as_str().unwrap_or_default();
    let denied = format!("admission webhook {webhook:?} denied the request");
    let message = match (text("message"), text("reason")) {
        ("", "") => format!("{denied} without explanation"),
        ("", why) | (why, _) => format!("{denied}: {why}"),
    };
    let code = status["code"].as_u64().and_then(|code| u16::try_from(code).ok());
    let code = code.filter(|code| *code >= 400).unwrap_or(400);
    let details = status["details"].clone();
    Refusal { details, ..Refusal::new(code, text("reason").to_owned(), message) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(response: &Value, mutates: bool) -> Result<Verdict, String> {
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": KIND, "response": response});
        verdict(review.to_string().as_bytes(), "u", ("v1", mutates))
    }

    #[test]
    fn answers_have_to_be_answers_to_the_question() {
        let wrong = |response: Value, mutates| read(&response, mutates).unwrap_err();
        assert_eq!(
            wrong(json!({"uid": "x"}), true),
            "received invalid webhook response: expected response.uid=\"u\", got \"x\""
        );
        assert_eq!(
            wrong(Value::Null, true),
            "received invalid webhook response: webhook response was absent"
        );
        for (mutates, response, wanted) in [
            (true, json!({"patch": "W10="}), "webhook returned response.patch but not response.patchType"),
            (
                true,
                json!({"patchType": "JSONPatch"}),
                "webhook returned response.patchType but not response.patch",
            ),
            (
                true,
                json!({"patch": "W10=", "patchType": ""}),
                "webhook returned invalid response.patchType of \"\"",
            ),
            (false, json!({"patch": "W10="}), "validating webhook may not return response.patch"),
            (
                false,
                json!({"patchType": "JSONPatch"}),
                "validating webhook may not return response.patchType",
            ),
        ] {
            let mut whole = json!({"uid": "u", "allowed": true});
            api::patch::merge(&mut whole, &response).unwrap();
            assert_eq!(wrong(whole, mutates), format!("received invalid webhook response: {wanted}"));
        }
        let other = json!({"uid": "u", "allowed": true, "patch": "W10=", "patchType": "Merge"});
        assert_eq!(wrong(other, true), "unsupported patch type \"Merge\"");
        let bare = json!({"response": {"uid": "u"}}).to_string();
        assert_eq!(
            verdict(bare.as_bytes(), "u", ("v1", true)).unwrap_err(),
            "received invalid webhook response: expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got /, Kind="
        );
        assert_eq!(
            verdict(b"garbage", "u", ("v1", true)).unwrap_err(),
            "failed to call webhook: couldn't get version/kind; json parse error: invalid character 'g' looking for beginning of value"
        );
    }

    #[test]
    fn the_beta_is_trusted_with_less() {
        let review = json!({"response": {"allowed": true, "patch": "W10=", "warnings": null}});
        let read = verdict(review.to_string().as_bytes(), "u", ("v1beta1", true)).unwrap();
        assert_eq!((read.allowed, read.patch), (true, b"[]".to_vec()));
    }

    #[test]
    fn denials_are_told_with_their_status() {
        let told = |status: Value| {
            let refusal = denial("a.b.c", &status);
            (refusal.code, refusal.reason.into_owned(), refusal.message)
        };
        let denied = |why: &str| format!("admission webhook \"a.b.c\" denied the request{why}");
        assert_eq!(told(Value::Null), (400, String::new(), denied(" without explanation")));
        let status = json!({"code": 200, "message": "no", "reason": "Because"});
        assert_eq!(told(status), (400, "Because".to_owned(), denied(": no")));
        assert_eq!(told(json!({"code": 403, "reason": "Why"})), (403, "Why".to_owned(), denied(": Why")));
    }
}
