//! AdmissionReview (admission.k8s.io/v1, and v1beta1 for who understands no other): what webhooks are asked,
//! and what their answers say.

use super::sight::Sight;
use crate::registry::form::{no_object, unregistered};
use api::status::Refusal;
use api::validate::go_kind;
use api::yaml;
use base64::engine::general_purpose::STANDARD;
use base64::{DecodeError, Engine};
use serde_json::{Value, json};

const GROUP: &str = "admission.k8s.io";
const KIND: &str = "AdmissionReview";
/// Where Kubernetes registers what webhooks answer with, as its refusals tell.
const SCHEME: &str = "k8s.io/apiserver/pkg/util/webhook/client.go:71";

/// The review that a webhook is asked for.
pub(super) fn question(sight: &Sight<'_>, uid: &str, version: &str) -> Value {
    let mut request = sight.described();
    request["uid"] = Value::from(uid);
    request["object"] = sight.object.clone();
    request["oldObject"] = sight.old.clone();
    json!({"kind": KIND, "apiVersion": format!("{GROUP}/{version}"), "request": request})
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
    let failed = |why: String| format!("failed to call webhook: {why}");
    let review = read(body, version).map_err(failed)?;
    let response = &review["response"];
    let allowed = typed(response, "allowed", "bool", Value::is_boolean).map_err(failed)?;
    let text = |field: &str, of: &str| {
        typed(response, field, of, Value::is_string).map(Value::as_str).map_err(failed)
    };
    let (said, kind) = (text("uid", "types.UID")?, text("patchType", "v1.PatchType")?);
    let patch = text("patch", "[]uint8")?.unwrap_or_default();
    let patch = STANDARD.decode(patch).map_err(|error| failed(illegal(patch, &error)))?;
    let warnings = typed(response, "warnings", "[]string", Value::is_array).map_err(failed)?;
    let warnings = warnings.as_array().into_iter().flatten().filter_map(Value::as_str);
    if response.is_null() {
        return Err(invalid("webhook response was absent"));
    }
    // The first version never compared these.
    if version == "v1" {
        check_answer(&review, uid, said.unwrap_or_default())?;
        check_patch(patch.is_empty(), kind, mutates)?;
        if let Some(kind) = kind.filter(|kind| *kind != "JSONPatch") {
            return Err(format!("unsupported patch type {kind:?}"));
        }
    }
    Ok(Verdict {
        allowed: allowed.as_bool().unwrap_or_default(),
        status: response["status"].clone(),
        patch: if mutates { patch } else { Vec::new() },
        warnings: warnings.map(str::to_owned).collect(),
    })
}

/// Reads a body as a review; what it does not say of its kind is what was asked for.
fn read(body: &[u8], version: &str) -> Result<Value, String> {
    let unread = |why: &str| format!("couldn't get version/kind; json parse error: {why}");
    let read = serde_json::from_slice(body);
    let read = read.or_else(|_| yaml::first(body).map(|document| document.value));
    let review: Value = read.map_err(|error| unread(&error.to_string()))?;
    if !review.is_object() {
        return Err(unread(&format!("json: cannot unmarshal {}", no_object(&review))));
    }
    let text = |field: &str| review[field].as_str().filter(|text| !text.is_empty());
    let asked = format!("{GROUP}/{version}");
    let (stated, kind) = (text("apiVersion").unwrap_or(&asked), text("kind").unwrap_or(KIND));
    match (stated, kind) {
        (stated, KIND) if stated == asked => Ok(review),
        ("admission.k8s.io/v1" | "admission.k8s.io/v1beta1", KIND) | ("v1", "Status") => {
            let other = stated.rsplit('/').next().unwrap_or_default();
            Err(format!("converting ({other}.{kind}) to ({version}.{KIND}): unknown conversion"))
        }
        _ => Err(unregistered(kind, stated, SCHEME)),
    }
}

/// A field of a response, null where there is none.
fn typed<'a>(
    response: &'a Value,
    field: &str,
    of: &str,
    fits: fn(&Value) -> bool,
) -> Result<&'a Value, String> {
    let value = &response[field];
    if value.is_null() || fits(value) {
        return Ok(value);
    }
    let found = go_kind(value);
    Err(format!(
        "json: cannot unmarshal {found} into Go struct field AdmissionResponse.response.{field} of type {of}"
    ))
}

/// What Go says of a text that is not in base64.
fn illegal(text: &str, error: &DecodeError) -> String {
    let place = match error {
        DecodeError::InvalidByte(place, _) | DecodeError::InvalidLastSymbol(place, _) => *place,
        DecodeError::InvalidLength(_) | DecodeError::InvalidPadding => text.len(),
    };
    format!("illegal base64 data at input byte {place}")
}

fn invalid(why: &str) -> String {
    format!("received invalid webhook response: {why}")
}

/// The answer is to this question, and says what it is.
fn check_answer(review: &Value, uid: &str, said: &str) -> Result<(), String> {
    if said != uid {
        return Err(invalid(&format!("expected response.uid={uid:?}, got {said:?}")));
    }
    let [stated, kind] = ["apiVersion", "kind"].map(|field| review[field].as_str().unwrap_or_default());
    if !stated.is_empty() && !kind.is_empty() {
        return Ok(());
    }
    let slash = if stated.contains('/') { "" } else { "/" };
    Err(invalid(&format!(
        "expected webhook response of {GROUP}/v1, Kind={KIND}, got {slash}{stated}, Kind={kind}"
    )))
}

fn check_patch(is_empty: bool, kind: Option<&str>, mutates: bool) -> Result<(), String> {
    let wrong = match (is_empty, kind, mutates) {
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
    use proptest::prelude::*;

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
        let unread = |body: &[u8]| verdict(body, "u", ("v1", true)).unwrap_err();
        assert_eq!(
            unread(b"garbage"),
            r#"failed to call webhook: couldn't get version/kind; json parse error: json: cannot unmarshal string into Go value of type struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#
        );
        assert_eq!(
            unread(br#"{"kind": "Foo", "apiVersion": "v1"}"#),
            "failed to call webhook: no kind \"Foo\" is registered for version \"v1\" in scheme \"k8s.io/apiserver/pkg/util/webhook/client.go:71\""
        );
        assert_eq!(
            unread(br#"{"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1beta1"}"#),
            "failed to call webhook: converting (v1beta1.AdmissionReview) to (v1.AdmissionReview): unknown conversion"
        );
        assert_eq!(
            unread(br#"{"response": {"allowed": "yes"}}"#),
            "failed to call webhook: json: cannot unmarshal string into Go struct field AdmissionResponse.response.allowed of type bool"
        );
        assert_eq!(
            unread(br#"{"response": {"patch": "!!"}}"#),
            "failed to call webhook: illegal base64 data at input byte 0"
        );
    }

    proptest! {
        #[test]
        fn nothing_is_allowed_that_is_not_said_to_be(body in "(\\PC|[\\[\\]{}:,\"a-z0-9]){0,64}") {
            prop_assert!(verdict(body.as_bytes(), "u", ("v1", true)).is_err());
        }
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
