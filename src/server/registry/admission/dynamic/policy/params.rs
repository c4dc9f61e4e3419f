//! Parameters of policies: objects that `paramKind` and `paramRef` name.

use super::text;
use crate::conversion;
use crate::registry::admission::Request;
use crate::registry::{Records, decoded};
use api::kinds::{Kind, by_kind};
use api::selector::Labels;
use serde_json::Value;

/// `paramKind`.
pub(super) struct Kinds {
    api_version: String,
    kind: String,
}

impl Kinds {
    pub(super) fn of(param_kind: &Value) -> Option<Self> {
        let own = |field: &str| text(param_kind, field).to_owned();
        param_kind.is_object().then(|| Self { api_version: own("apiVersion"), kind: own("kind") })
    }

    /// The kind as it is served now, which may be a custom one.
    pub(super) fn find(&self, records: &Records) -> Result<&'static Kind, String> {
        let Self { api_version, kind } = self;
        let custom = || {
            let added = records.catalogue().added();
            let mut all = added.customs().iter().map(|custom| custom.kind);
            all.find(|own| own.kind == kind && own.api_version() == *api_version)
        };
        by_kind(api_version, kind).or_else(custom).ok_or_else(|| {
            let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
            format!("failed to find resource referenced by paramKind: '{group}/{version}, Kind={kind}'")
        })
    }
}

/// `paramRef`.
pub(super) struct Reference {
    name: String,
    /// "" for that of the object.
    namespace: String,
    selector: Option<Labels>,
    /// What is bound by nothing is denied.
    needed: bool,
}

impl Reference {
    pub(super) fn of(reference: &Value) -> Option<Self> {
        let own = |field: &str| text(reference, field).to_owned();
        let selector = serde_json::from_value(reference["selector"].clone()).ok().flatten();
        reference.is_object().then(|| Self {
            name: own("name"),
            namespace: own("namespace"),
            selector: selector.map(|selector| Labels::of(Some(&selector))),
            needed: text(reference, "parameterNotFoundAction") == "Deny",
        })
    }

    /// The objects that are meant, as they are stored.
    pub(super) fn collect(&self, kind: &'static Kind, request: &Request<'_>) -> Result<Vec<Value>, String> {
        let namespace = self.place(kind, request)?;
        let found = match &self.selector {
            _ if !self.name.is_empty() => {
                request.view.get(kind, namespace, &self.name).into_iter().collect::<Vec<_>>()
            }
            Some(selector) => {
                let records = request.view.records_of(kind, namespace).into_iter();
                let meant = records.filter(|record| selector.matches_with(|key| record.index.label(key)));
                meant.filter_map(|record| decoded(&record).ok()).collect()
            }
            None => return Err("one of name or selector must be provided".to_owned()),
        };
        if found.is_empty() && self.needed {
            let why = "no params found for policy binding with `Deny` parameterNotFoundAction";
            return Err(why.to_owned());
        }
        Ok(found)
    }

    fn place<'a>(&'a self, kind: &Kind, request: &'a Request<'_>) -> Result<&'a str, String> {
        match (kind.namespaced, self.namespace.as_str()) {
            (false, "") => Ok(""),
            (false, _) => {
                Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".to_owned())
            }
            (true, "") if request.home().is_empty() => {
                Err("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources"
                    .to_owned())
            }
            (true, "") => Ok(request.home()),
            (true, namespace) => Ok(namespace),
        }
    }
}

/// A parameter in the version of its kind that is wanted.
pub(super) async fn shown(kind: &'static Kind, stored: Value, records: &Records) -> Result<Value, String> {
    let custom = records.catalogue().custom(kind).map_err(|refusal| refusal.message)?;
    match custom {
        Some(custom) => custom.in_form(stored, kind).await.map_err(|refusal| refusal.message),
        None => Ok(conversion::shown(kind, stored)),
    }
}
