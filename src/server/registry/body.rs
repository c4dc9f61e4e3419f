//! Request bodies to objects: JSON, YAML or protobuf, checked against the kind's schema.

use api::kinds::Kind;
use api::schema::strict::{Expected, read};
use api::schema::{self, TypeId, protobuf, schema};
use api::status::Refusal;
use api::validate::{Error, Path, go_map};
use api::yaml;
use serde_json::{Value, json};

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

/// How a request is read: how strictly, from what, and what was found in its text already.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    pub(crate) validation: FieldValidation,
    pub(crate) source: Source,
}

/// Where an object comes from, as refusals tell it apart, and what a strict reader finds in the text.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// It is the body.
    Body(Vec<String>),
    /// It is the body, in YAML; the notes are of repeated keys.
    Yaml(Vec<String>),
    /// A JSON patch or a merge patch makes it.
    Patched(Vec<String>),
    /// This strategic merge patch makes it.
    Strategic(Value, Vec<String>),
    /// It is applied.
    Applied(Vec<String>),
}

impl Default for Source {
    fn default() -> Self {
        Self::Body(Vec::new())
    }
}

impl Source {
    /// What a warning says of the text.
    fn notes(&self) -> &[String] {
        match self {
            Self::Body(notes)
            | Self::Yaml(notes)
            | Self::Patched(notes)
            | Self::Strategic(_, notes)
            | Self::Applied(notes) => notes,
        }
    }

    /// What the text and the object have that is refused.
    fn refused(&self, unknown: &[String]) -> Option<String> {
        let yaml = |notes: &[String]| (!notes.is_empty()).then(|| repeated(notes));
        let mut all: Vec<String> = match self {
            Self::Yaml(notes) | Self::Applied(notes) => yaml(notes).into_iter().collect(),
            other => other.notes().to_vec(),
        };
        all.extend_from_slice(unknown);
        (!all.is_empty()).then(|| all.join(", "))
    }

    /// The refusal of an object of a kind; `patched` is what a patch made of it.
    fn refusal(&self, kind: &Kind, why: &str, patched: impl FnOnce() -> String) -> Refusal {
        let shown = match self {
            Self::Body(_) | Self::Yaml(_) => {
                let Kind { kind, version, .. } = kind;
                return Refusal::bad_request(format!(
                    "{kind} in version {version:?} cannot be handled as a {kind}: {why}"
                ));
            }
            Self::Applied(_) => return Refusal::bad_request(format!("error strict decoding YAML: {why}")),
            Self::Patched(_) => patched(),
            Self::Strategic(patch, _) => go_map(patch),
        };
        let error = Error::invalid(&Path::new("patch"), shown, why);
        let mut refusal = Refusal::new(422, "Invalid", format!(" \"\" is invalid: {error}"));
        refusal.details =
            json!({"causes": [{"reason": error.cause(), "message": error.body(), "field": error.field()}]});
        refusal
    }
}

/// Go's YAML library on keys that a map has twice.
fn repeated(notes: &[String]) -> String {
    format!("yaml: unmarshal errors:\n  {}", notes.join("\n  "))
}

fn media_type(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

/// Reads a body that is any JSON or YAML value, or a protobuf message of a known kind.
pub(crate) fn decode_plain(body: &[u8], content_type: &str) -> Result<Value, Refusal> {
    decode(body, content_type, Expected::Any).map(|(value, _)| value)
}

/// Reads a body that is an object of a type.
pub(crate) fn decode_object(
    body: &[u8],
    content_type: &str,
    ty: Option<TypeId>,
) -> Result<(Value, Source), Refusal> {
    decode(body, content_type, ty.map_or(Expected::Any, Expected::Object))
}

fn decode(body: &[u8], content_type: &str, expected: Expected) -> Result<(Value, Source), Refusal> {
    match media_type(content_type) {
        "" | "application/json" => {
            let (value, notes) = read(body, expected).map_err(|error| {
                Refusal::bad_request(format!(
                    "the object provided is unrecognized (must be of type JSON): {error}"
                ))
            })?;
            Ok((value, Source::Body(notes)))
        }
        "application/yaml" => {
            let document = yaml::first(body)
                .map_err(|error| Refusal::bad_request(format!("error converting YAML to JSON: {error}")))?;
            Ok((document.value, Source::Yaml(document.repeated)))
        }
        "application/vnd.kubernetes.protobuf" => {
            let value = protobuf::decode(body).map_err(|error| Refusal::bad_request(error.to_string()))?;
            Ok((value, Source::default()))
        }
        other => Err(Refusal::unsupported_media_type(format!(
            "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf; got {other:?}"
        ))),
    }
}

/// Reads a configuration that is to be applied: YAML, of which JSON is a part.
pub(crate) fn decode_configuration(body: &[u8]) -> Result<(Value, Source), Refusal> {
    let malformed = |why: &str| Refusal::bad_request(format!("error decoding YAML: {why}"));
    if let Ok((value @ Value::Object(_), notes)) = read(body, Expected::Any)
        && notes.is_empty()
    {
        return Ok((value, Source::Applied(notes)));
    }
    let document =
        yaml::first(body).map_err(|error| malformed(&format!("error converting YAML to JSON: {error}")))?;
    if !document.value.is_object() {
        return Err(malformed("a configuration has to be an object"));
    }
    Ok((document.value, Source::Applied(document.repeated)))
}

/// Reads a patch that is a JSON document.
pub(crate) fn decode_patch(body: &[u8], expected: Expected) -> Result<(Value, Vec<String>), Refusal> {
    read(body, expected).map_err(|error| Refusal::bad_request(format!("error decoding patch: {error}")))
}

/// Reads an object of a kind: its type is checked, unknown fields are pruned, and reported as asked.
/// Returns the object and warnings.
pub(crate) fn decode_checked(
    value: Value,
    kind: &Kind,
    Reading { validation, source }: &Reading,
) -> Result<(Value, Vec<String>), Refusal> {
    let mut object = value;
    if !object.is_object() {
        return Err(Refusal::bad_request("the object provided is unrecognized: it has to be a JSON object"));
    }
    identify(&mut object, kind)?;
    let Some(ty) = schema().of(kind) else { return Ok((object, source.notes().to_vec())) };
    let strict = *validation == FieldValidation::Strict;
    let patched = (strict && matches!(source, Source::Patched(_))).then(|| object.to_string());
    let findings = schema::check(&mut object, ty);
    let refusal = |why: &str, object: &Value| {
        source.refusal(kind, why, || patched.unwrap_or_else(|| object.to_string()))
    };
    if let Some(reason) = findings.ill_typed {
        return Err(refusal(&reason, &object));
    }
    let unknown: Vec<String> =
        findings.unknown.iter().map(|path| format!("unknown field {path:?}")).collect();
    match validation {
        FieldValidation::Ignore => Ok((object, Vec::new())),
        FieldValidation::Warn => Ok((object, [source.notes(), &unknown].concat())),
        FieldValidation::Strict => match source.refused(&unknown) {
            None => Ok((object, Vec::new())),
            Some(all) if matches!(source, Source::Applied(_)) => {
                Err(refusal(&format!("error converting YAML to JSON: {all}"), &object))
            }
            Some(all) => Err(refusal(&format!("strict decoding error: {all}"), &object)),
        },
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

#[cfg(test)]
mod tests {
    use super::*;
    use api::kinds::by_kind;

    const JSON: &[u8] =
        br#"{"metadata": {"name": "a"}, "spec": {"new": 1, "paused": true, "paused": false}}"#;
    const YAML: &[u8] = b"metadata:\n  name: a\nspec:\n  paused: yes\n  paused: no\n  new: 1\n";

    fn deployments() -> &'static Kind {
        by_kind("apps/v1", "Deployment").unwrap()
    }

    fn checked((value, source): (Value, Source), validation: FieldValidation) -> Result<Vec<String>, String> {
        let reading = Reading { validation, source };
        let checked = decode_checked(value, deployments(), &reading);
        checked.map(|(_, warnings)| warnings).map_err(|refusal| refusal.message)
    }

    fn posted(body: &[u8], media: &str, validation: FieldValidation) -> Result<Vec<String>, String> {
        checked(decode_object(body, media, schema().of(deployments())).unwrap(), validation)
    }

    #[test]
    fn what_a_strict_reader_refuses_is_warned_of_or_refused() {
        let notes = ["unknown field \"spec.new\"", "duplicate field \"spec.paused\""];
        assert_eq!(posted(JSON, "application/json", FieldValidation::Warn).unwrap(), notes);
        assert_eq!(
            posted(JSON, "application/json", FieldValidation::Strict).unwrap_err(),
            format!(
                "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: {}",
                notes.join(", ")
            )
        );
        assert!(posted(JSON, "application/json", FieldValidation::Ignore).unwrap().is_empty());
        assert_eq!(
            posted(YAML, "application/yaml", FieldValidation::Warn).unwrap(),
            ["line 5: key \"paused\" already set in map", "unknown field \"spec.new\""]
        );
        assert_eq!(
            posted(YAML, "application/yaml", FieldValidation::Strict).unwrap_err(),
            "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: yaml: unmarshal errors:\n  line 5: key \"paused\" already set in map, unknown field \"spec.new\""
        );
    }

    #[test]
    fn patches_are_refused_by_what_they_make() {
        let patch = br#"{"spec": {"new": 1, "new": 2}}"#;
        let (patch, notes) = decode_patch(patch, Expected::Any).unwrap();
        let source = Source::Strategic(patch.clone(), notes);
        assert_eq!(
            checked((patch, source), FieldValidation::Strict).unwrap_err(),
            " \"\" is invalid: patch: Invalid value: \"map[spec:map[new:2]]\": strict decoding error: duplicate field \"spec.new\", unknown field \"spec.new\""
        );
    }

    #[test]
    fn configurations_are_json_or_yaml() {
        let read = |text: &[u8]| decode_configuration(text).map(|(value, _)| value);
        assert_eq!(read(b"a: [1, x]\n").unwrap(), json!({"a": [1, "x"]}));
        assert_eq!(read(b"{\"a\": null}").unwrap(), json!({"a": null}));
        assert_eq!(read(b"- a").unwrap_err().code, 400);
        assert_eq!(read(b"{\"a\": ").unwrap_err().code, 400);
        let twice = decode_configuration(b"metadata: {}\nspec: {}\nspec: {}\n").unwrap();
        assert_eq!(
            checked(twice, FieldValidation::Strict).unwrap_err(),
            "error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  line 3: key \"spec\" already set in map"
        );
    }
}
