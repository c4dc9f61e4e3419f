//! Request bodies to objects: JSON, YAML or protobuf, checked against the kind's schema.

use super::form::{Form, Misfit};
use api::schema::protobuf;
use api::schema::strict::{Expected, read};
use api::status::Refusal;
use api::validate::{Error, Path, go_map, go_syntax};
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

    /// The refusal of an object of a form; `patched` is what a patch made of it.
    fn refusal(&self, form: Form<'_>, why: &str, patched: impl FnOnce() -> String) -> Refusal {
        let shown = match self {
            Self::Body(_) | Self::Yaml(_) => return form.refusal(why),
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

/// Reads a body that is an object of a form.
pub(crate) fn decode_object(
    body: &[u8],
    content_type: &str,
    form: Form<'_>,
) -> Result<(Value, Source), Refusal> {
    let (mut object, source) = decode(body, content_type, form)?;
    match form.identify(&mut object) {
        Ok(()) => Ok((object, source)),
        Err(_) if form.is_shared(&object) => Err(form.other_version(&object)),
        Err(misfit) => Err(form.misfit(&misfit)),
    }
}

/// Reads a body that is the options of a deletion, which belong to every group and version.
pub(crate) fn decode_options(body: &[u8], content_type: &str) -> Result<Value, Refusal> {
    decode(body, content_type, Form::OPTIONS).map(|(object, _)| object)
}

fn decode(body: &[u8], content_type: &str, form: Form<'_>) -> Result<(Value, Source), Refusal> {
    let (value, source) = match media_type(content_type) {
        "" | "application/json" => {
            let (value, notes) =
                read(body, form.ty().map_or(Expected::Any, Expected::Object)).map_err(|error| {
                    let why = go_syntax(body, &error);
                    form.unrecognized(&format!("couldn't get version/kind; json parse error: {why}"), body)
                })?;
            (value, Source::Body(notes))
        }
        "application/yaml" => {
            let document = yaml::first(body).map_err(|error| form.unrecognized(&error.to_string(), body))?;
            (document.value, Source::Yaml(document.repeated))
        }
        "application/vnd.kubernetes.protobuf" if form.has_messages() => {
            (decode_message(body, form)?, Source::default())
        }
        _ if !form.has_messages() => {
            return Err(Refusal::unsupported_media_type(
                "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml",
            ));
        }
        _ => {
            return Err(Refusal::unsupported_media_type(
                "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf",
            ));
        }
    };
    Ok((form.object(value, body)?, source))
}

fn decode_message(body: &[u8], form: Form<'_>) -> Result<Value, Refusal> {
    protobuf::decode(body).map_err(|error| match error {
        protobuf::Error::UnknownKind { api_version, kind } => form.misfit(&form.unknown(&api_version, &kind)),
        protobuf::Error::Malformed if body.is_empty() => form.unrecognized("empty data", body),
        protobuf::Error::Malformed if !body.starts_with(protobuf::MAGIC) => {
            let why =
                "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]";
            form.unrecognized(why, body)
        }
        protobuf::Error::Malformed => form.unrecognized("unexpected EOF", body),
    })
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
    read(body, expected)
        .map_err(|error| Refusal::bad_request(format!("error decoding patch: {}", go_syntax(body, &error))))
}

/// Reads an object of a form: its type is checked, unknown fields are pruned, and reported as asked.
/// Returns the object and warnings.
pub(crate) fn decode_checked(
    value: Value,
    form: Form<'_>,
    Reading { validation, source }: &Reading,
) -> Result<(Value, Vec<String>), Refusal> {
    let mut object = value;
    if let Err(Misfit { why, .. }) = form.identify(&mut object) {
        return Err(source.refusal(form, &why, || object.to_string()));
    }
    let strict = *validation == FieldValidation::Strict;
    let patched = (strict && matches!(source, Source::Patched(_))).then(|| object.to_string());
    let Some(findings) = form.shape(&mut object, source) else {
        return Ok((object, source.notes().to_vec()));
    };
    let refusal = |why: &str, object: &Value| {
        source.refusal(form, why, || patched.unwrap_or_else(|| object.to_string()))
    };
    if let Some(reason) = findings.ill_typed {
        return Err(refusal(&reason, &object));
    }
    // What a configuration must not have was refused when it was applied.
    let applied = matches!(source, Source::Applied(_));
    let unknown = findings.unknown.iter().filter(|_| !applied);
    let unknown: Vec<String> = unknown.map(|path| format!("unknown field {path:?}")).collect();
    match validation {
        FieldValidation::Ignore => Ok((object, Vec::new())),
        FieldValidation::Warn => Ok((object, [source.notes(), &unknown].concat())),
        FieldValidation::Strict => match source.refused(&unknown) {
            None => Ok((object, Vec::new())),
            Some(all) if applied => Err(refusal(&format!("error converting YAML to JSON: {all}"), &object)),
            Some(all) => Err(refusal(&format!("strict decoding error: {all}"), &object)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::kinds::{Kind, by_kind};

    const JSON: &[u8] =
        br#"{"metadata": {"name": "a"}, "spec": {"new": 1, "paused": true, "paused": false}}"#;
    const YAML: &[u8] = b"metadata:\n  name: a\nspec:\n  paused: yes\n  paused: no\n  new: 1\n";

    fn deployments() -> &'static Kind {
        by_kind("apps/v1", "Deployment").unwrap()
    }

    fn checked((value, source): (Value, Source), validation: FieldValidation) -> Result<Vec<String>, String> {
        let reading = Reading { validation, source };
        let checked = decode_checked(value, Form::of(deployments()), &reading);
        checked.map(|(_, warnings)| warnings).map_err(|refusal| refusal.message)
    }

    fn posted(body: &[u8], media: &str, validation: FieldValidation) -> Result<Vec<String>, String> {
        checked(decode_object(body, media, Form::of(deployments())).unwrap(), validation)
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
