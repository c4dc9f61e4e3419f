//! Request bodies to objects: JSON or YAML, checked against the kind's schema.

use api::kinds::Kind;
use api::schema::{self, protobuf, schema};
use api::status::Refusal;
use serde_json::Value;

/// `fieldValidation`: what happens with fields nobody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

impl FieldValidation {
    pub(crate) fn parse(text: &str) -> Result<Self, Refusal> {
        match text {
            "" | "Warn" => Ok(Self::Warn),
            "Ignore" => Ok(Self::Ignore),
            "Strict" => Ok(Self::Strict),
            other => Err(Refusal::bad_request(format!(
                "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
            ))),
        }
    }
}

/// Reads a body that is any JSON or YAML value.
pub(crate) fn decode_plain(body: &[u8], content_type: &str) -> Result<Value, Refusal> {
    let media = content_type.split(';').next().unwrap_or_default().trim();
    match media {
        "" | "application/json" => serde_json::from_slice(body).map_err(|error| {
            Refusal::bad_request(format!(
                "the object provided is unrecognized (must be of type JSON): {error}"
            ))
        }),
        "application/yaml" => serde_yaml::from_slice(body)
            .map_err(|error| Refusal::bad_request(format!("error converting YAML to JSON: {error}"))),
        "application/vnd.kubernetes.protobuf" => {
            protobuf::decode(body).map_err(|error| Refusal::bad_request(error.to_string()))
        }
        other => Err(Refusal::unsupported_media_type(format!(
            "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf; got {other:?}"
        ))),
    }
}

/// Reads an object of a kind: its type is checked, unknown fields are pruned, and reported as asked.
/// Returns the object and warnings.
pub(crate) fn decode_checked(
    value: Value,
    kind: &Kind,
    validation: FieldValidation,
) -> Result<(Value, Vec<String>), Refusal> {
    let mut object = value;
    if !object.is_object() {
        return Err(Refusal::bad_request("the object provided is unrecognized: it has to be a JSON object"));
    }
    identify(&mut object, kind)?;
    let Some(ty) = schema().of(kind) else { return Ok((object, Vec::new())) };
    let findings = schema::check(&mut object, ty);
    if let Some(reason) = findings.ill_typed {
        let message = format!(
            "{} in version {:?} cannot be handled as a {}: {reason}",
            kind.kind, kind.version, kind.kind
        );
        return Err(Refusal::bad_request(message));
    }
    let unknown: Vec<String> =
        findings.unknown.iter().map(|path| format!("unknown field {path:?}")).collect();
    match validation {
        FieldValidation::Ignore => Ok((object, Vec::new())),
        FieldValidation::Warn => Ok((object, unknown)),
        FieldValidation::Strict if unknown.is_empty() => Ok((object, unknown)),
        FieldValidation::Strict => {
            let message = format!(
                "{} in version {:?} cannot be handled as a {}: strict decoding error: {}",
                kind.kind,
                kind.version,
                kind.kind,
                unknown.join(", ")
            );
            Err(Refusal::bad_request(message))
        }
    }
}

/// Compares `apiVersion` and `kind` with the path's, and sets what is missing.
fn identify(object: &mut Value, kind: &Kind) -> Result<(), Refusal> {
    let expected = kind.api_version();
    let stated = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
    let (api_version, stated_kind) = (stated("apiVersion"), stated("kind"));
    if !api_version.is_empty() && api_version != expected {
        return Err(Refusal::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({expected})"
        )));
    }
    if !stated_kind.is_empty() && stated_kind != kind.kind {
        return Err(Refusal::bad_request(format!(
            "{stated_kind} in version {:?} cannot be handled as a {}: no kind {stated_kind:?} is registered for version {expected:?}",
            kind.version, kind.kind
        )));
    }
    object["apiVersion"] = Value::from(expected);
    object["kind"] = Value::from(kind.kind);
    Ok(())
}
