//! What a body has to be: an object of a resource's kind, or of what one of its subresources takes.

use super::Source;
use crate::catalogue::Custom;
use api::kinds::{Kind, Subresource, by_kind};
use api::schema::{Findings, TypeId, check, schema};
use api::status::Refusal;
use api::validate::go_kind;
use serde_json::{Value, json};

/// So much of a body is shown in the refusal of one that cannot be read (Kubernetes' number).
const SHOWN_BYTES: usize = 30;

/// A kind that a body is read as.
#[derive(Clone, Copy)]
pub(crate) struct Form<'a> {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    /// What a definition says of it.
    custom: Option<&'a Custom>,
}

/// Why an object is none of a form, and what it says it is.
#[derive(Debug)]
pub(super) struct Misfit {
    pub(super) kind: String,
    pub(super) version: String,
    pub(super) why: String,
}

impl<'a> Form<'a> {
    /// The options of a deletion.
    pub(super) const OPTIONS: Self = Self { group: "", version: "v1", kind: "DeleteOptions", custom: None };

    pub(crate) fn of(kind: &Kind) -> Self {
        Self { group: kind.group, version: kind.version, kind: kind.kind, custom: None }
    }

    /// Objects of a kind that a definition may describe.
    pub(crate) fn with(self, custom: Option<&'a Custom>) -> Self {
        Self { custom, ..self }
    }

    /// What is written through a subresource of a kind.
    pub(crate) fn through(kind: &Kind, subresource: &Subresource) -> Self {
        let (group, version) = subresource.version_of(kind);
        let name = if subresource.kind.is_empty() { kind.kind } else { subresource.kind };
        Self { group, version, kind: name, custom: None }
    }

    pub(crate) fn ty(self) -> Option<TypeId> {
        schema().by_gvk(self.group, self.version, self.kind)
    }

    /// Brings an object into the form of its type; `None` if it has none.
    pub(super) fn shape(self, object: &mut Value, source: &Source) -> Option<Findings> {
        match self.custom {
            Some(custom) if matches!(source, Source::Applied(_)) => Some(custom.shape_applied(object)),
            Some(custom) => Some(custom.shape(object)),
            None => self.ty().map(|ty| check(object, ty)),
        }
    }

    /// Kinds of definitions have no messages.
    pub(super) fn has_messages(self) -> bool {
        self.custom.is_none()
    }

    fn api_version(self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Where Kubernetes registers kinds of a group, as its refusals tell.
    fn scheme(group: &str) -> &'static str {
        match group {
            "apiextensions.k8s.io" => "k8s.io/apiextensions-apiserver/pkg/apiserver/apiserver.go:55",
            "apiregistration.k8s.io" => "k8s.io/kube-aggregator/pkg/apiserver/scheme/scheme.go:28",
            _ => "pkg/api/legacyscheme/scheme.go:30",
        }
    }

    /// The type in which Kubernetes holds such objects, as Go names it.
    fn go_type(self) -> String {
        let package = match self.group {
            "" | "events.k8s.io" => "core",
            "internal.apiserver.k8s.io" => "apiserverinternal",
            group => group.split('.').next().unwrap_or_default(),
        };
        format!("{package}.{}", self.kind)
    }

    /// The refusal of an object that is of this form, or says so.
    pub(super) fn refusal(self, why: &str) -> Refusal {
        let (kind, version) = (self.kind.to_owned(), self.version.to_owned());
        self.misfit(&Misfit { kind, version, why: why.to_owned() })
    }

    pub(super) fn misfit(self, Misfit { kind, version, why }: &Misfit) -> Refusal {
        Refusal::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a {}: {why}",
            self.kind
        ))
    }

    /// The refusal of a body that says of no kind that it is one.
    pub(super) fn unrecognized(self, why: &str, body: &[u8]) -> Refusal {
        let shown = &body[..body.len().min(SHOWN_BYTES)];
        let more = if body.len() > SHOWN_BYTES { " ..." } else { "" };
        let summary = match shown.first() {
            None => "<empty>".to_owned(),
            Some(b'{') => String::from_utf8_lossy(shown).into_owned(),
            Some(_) => base::hex::of(shown),
        };
        Refusal::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): {why} ({summary}{more})",
            self.kind
        ))
    }

    /// The object in a value that was read from a body; null is an empty one.
    pub(super) fn object(self, value: Value, body: &[u8]) -> Result<Value, Refusal> {
        let unread = |why: String| {
            self.unrecognized(
                &format!("couldn't get version/kind; json parse error: json: cannot unmarshal {why}"),
                body,
            )
        };
        let object = match value {
            Value::Null => json!({}),
            value @ Value::Object(_) => value,
            other => return Err(unread(no_object(&other))),
        };
        for field in ["apiVersion", "kind"] {
            if !matches!(object[field], Value::Null | Value::String(_)) {
                let found = go_kind(&object[field]);
                return Err(unread(format!("{found} into Go struct field .{field} of type string")));
            }
        }
        match object["apiVersion"].as_str().filter(|stated| stated.matches('/').count() > 1) {
            Some(odd) => Err(self.unrecognized(&format!("unexpected GroupVersion string: {odd}"), body)),
            None => Ok(object),
        }
    }

    /// Compares `apiVersion` and `kind` with this form's, and sets what is missing.
    pub(super) fn identify(self, object: &mut Value) -> Result<(), Misfit> {
        let own = self.api_version();
        let stated = |field: &str, own: &str| match object[field].as_str() {
            None | Some("") => own.to_owned(),
            Some(stated) => stated.to_owned(),
        };
        let (api_version, kind) = (stated("apiVersion", &own), stated("kind", self.kind));
        // Of a custom kind only the version is looked at here; its own rules look at the kind.
        if api_version == own && (kind == self.kind || self.custom.is_some()) {
            object["apiVersion"] = Value::from(own);
            object["kind"] = Value::from(kind);
            return Ok(());
        }
        let why = self.difference(&api_version, &kind);
        let version = api_version.split('/').next_back().unwrap_or_default().to_owned();
        Err(Misfit { kind, version, why })
    }

    /// Why objects of another kind are not of this form.
    fn difference(self, api_version: &str, kind: &str) -> String {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let scheme = Self::scheme(self.group);
        if scheme != Self::scheme(group) || schema().by_stated(api_version, kind).is_none() {
            return unregistered(kind, api_version, scheme);
        }
        format!("converting ({version}.{kind}) to ({}): unknown conversion", self.go_type())
    }

    /// Whether something else is another form of the same objects.
    pub(super) fn is_shared(self, object: &Value) -> bool {
        if self.custom.is_some() {
            return true;
        }
        let row = |api_version: &str, kind: &str| by_kind(api_version, kind).map(Kind::storage_prefix);
        let stated = |field: &str| object[field].as_str().unwrap_or_default();
        let other = row(stated("apiVersion"), stated("kind"));
        other.is_some() && other == row(&self.api_version(), self.kind)
    }

    /// The refusal of another form of the same objects.
    pub(super) fn other_version(self, object: &Value) -> Refusal {
        let stated = object["apiVersion"].as_str().unwrap_or_default();
        let own = self.api_version();
        Refusal::bad_request(format!(
            "the API version in the data ({stated}) does not match the expected API version ({own})"
        ))
    }

    /// Why a kind that a protobuf body names cannot be read.
    pub(super) fn unknown(self, api_version: &str, kind: &str) -> Misfit {
        let version = api_version.split('/').next_back().unwrap_or_default().to_owned();
        Misfit {
            kind: kind.to_owned(),
            version,
            why: unregistered(kind, api_version, Self::scheme(self.group)),
        }
    }
}

/// What Go says of a value that can have no kind.
pub(super) fn no_object(value: &Value) -> String {
    let ty = r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;
    format!("{} into Go value of type {ty}", go_kind(value))
}

pub(super) fn unregistered(kind: &str, api_version: &str, scheme: &str) -> String {
    format!("no kind {kind:?} is registered for version {api_version:?} in scheme {scheme:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_of_other_kinds_are_told_by_what_they_are() {
        let form = Form::of(by_kind("v1", "ConfigMap").unwrap());
        let why = |object: Value| form.identify(&mut object.clone()).unwrap_err().why;
        assert_eq!(
            why(json!({"kind": "Pod"})),
            "converting (v1.Pod) to (core.ConfigMap): unknown conversion"
        );
        assert_eq!(
            why(json!({"apiVersion": "v2"})),
            "no kind \"ConfigMap\" is registered for version \"v2\" in scheme \"pkg/api/legacyscheme/scheme.go:30\""
        );
        let object = |value: Value, body: &str| form.object(value, body.as_bytes()).unwrap_err().message;
        assert_eq!(
            object(json!([]), "[]"),
            "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: json: cannot unmarshal array into Go value of type struct { APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" } (5b5d)"
        );
        assert!(object(json!({"kind": 7}), "{\"kind\":7}").ends_with(
            "json: cannot unmarshal number into Go struct field .kind of type string ({\"kind\":7})"
        ));
    }
}
