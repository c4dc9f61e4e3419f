//! Lists: a consistent snapshot, in pages.

use super::{Record, Registry, Selection};
use crate::http::query::Query;
use api::kinds::Kind;
use api::selector::{Fields, Labels};
use api::status::Refusal;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use std::sync::Arc;
use store::{ReadError, Snapshot};

/// What a list asks for.
#[derive(Clone, Debug, Default)]
pub(crate) struct ListOptions {
    pub(crate) selection: Selection,
    limit: usize,
    continuation: Option<Continuation>,
    at: At,
}

/// Which state is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    /// The current one.
    #[default]
    Newest,
    /// One at least as new as this revision.
    NotOlder(u64),
    /// Exactly this one.
    Exact(u64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Continuation {
    /// `None` goes on in the newest state, after the consistent one was compacted.
    revision: Option<u64>,
    /// The key after which to go on, without the kind's prefix.
    after: String,
}

/// One page of a list.
pub(crate) struct Page {
    pub(crate) revision: u64,
    pub(crate) items: Vec<Arc<Record>>,
    pub(crate) continuation: String,
    pub(crate) remaining: Option<usize>,
}

impl Page {
    /// `metadata` of the list object.
    pub(crate) fn metadata(&self) -> Value {
        let mut metadata = json!({"resourceVersion": self.revision.to_string()});
        if !self.continuation.is_empty() {
            metadata["continue"] = Value::from(self.continuation.as_str());
        }
        if let Some(remaining) = self.remaining {
            metadata["remainingItemCount"] = Value::from(remaining);
        }
        metadata
    }
}

/// The selectors of a request, checked against the fields the kind lets select.
pub(crate) fn selection(kind: &Kind, query: &Query) -> Result<Selection, Refusal> {
    let labels =
        Labels::parse(query.get("labelSelector")).map_err(|error| Refusal::bad_request(error.to_string()))?;
    let fields =
        Fields::parse(query.get("fieldSelector")).map_err(|error| Refusal::bad_request(error.to_string()))?;
    let known = |field: &str| {
        field == "metadata.name"
            || (kind.namespaced && field == "metadata.namespace")
            || kind.selectable_fields.contains(&field)
    };
    if let Some(unknown) = fields.fields().find(|field| !known(field)) {
        return Err(Refusal::bad_request(format!(
            "Unable to find {:?} that match label selector {:?}, field selector {:?}: field label not supported: {unknown}",
            format!("{}, Resource={}", kind.api_version(), kind.plural),
            query.get("labelSelector"),
            query.get("fieldSelector")
        )));
    }
    Ok(Selection { labels, fields })
}

impl ListOptions {
    pub(crate) fn parse(kind: &Kind, query: &Query) -> Result<Self, Refusal> {
        let limit = usize::try_from(query.number("limit")?.unwrap_or(0)).unwrap_or(usize::MAX);
        let version = query.get("resourceVersion");
        let continuation = match query.get("continue") {
            "" => None,
            token => Some(Continuation::parse(token)?),
        };
        if continuation.is_some() && !matches!(version, "" | "0") {
            return Err(Refusal::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        let revision = parse_version(version)?;
        let at = match (query.get("resourceVersionMatch"), version) {
            ("", "" | "0") | ("NotOlderThan", "0") => At::Newest,
            ("", _) if limit > 0 => At::Exact(revision),
            ("" | "NotOlderThan", _) if !version.is_empty() => At::NotOlder(revision),
            ("Exact", "0") => {
                return Err(forbidden_match(
                    "resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"",
                ));
            }
            ("Exact", _) if !version.is_empty() => At::Exact(revision),
            ("Exact" | "NotOlderThan", _) => {
                return Err(forbidden_match(
                    "resourceVersionMatch is forbidden unless resourceVersion is provided",
                ));
            }
            (other, _) => {
                return Err(forbidden_match(&format!(
                    "Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\", \"\""
                )));
            }
        };
        Ok(Self { selection: selection(kind, query)?, limit, continuation, at })
    }
}

fn forbidden_match(why: &str) -> Refusal {
    Refusal::new(
        422,
        "Invalid",
        format!("ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: {why}"),
    )
}

/// A resourceVersion parameter as a revision; "" is 0.
pub(crate) fn parse_version(text: &str) -> Result<u64, Refusal> {
    if text.is_empty() {
        return Ok(0);
    }
    text.parse().map_err(|_| {
        Refusal::bad_request(format!(
            "invalid resource version {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
        ))
    })
}

/// The refusal of a revision that is still to come.
pub(crate) fn too_new(asked: u64, current: u64) -> Refusal {
    let mut refusal =
        Refusal::new(504, "Timeout", format!("Too large resource version: {asked}, current: {current}"));
    refusal.details = json!({"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}], "retryAfterSeconds": 1});
    refusal
}

impl Continuation {
    fn parse(token: &str) -> Result<Self, Refusal> {
        let invalid = || Refusal::bad_request("continue key is not valid");
        let bytes = URL_SAFE_NO_PAD.decode(token.trim_end_matches('=')).map_err(|_| invalid())?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|_| invalid())?;
        let after = value["start"].as_str().ok_or_else(invalid)?.to_owned();
        match (value["v"].as_str(), value["rv"].as_i64()) {
            (Some("meta.k8s.io/v1"), Some(revision)) => {
                Ok(Self { revision: u64::try_from(revision).ok(), after })
            }
            _ => Err(invalid()),
        }
    }

    fn token(&self) -> String {
        let revision = self.revision.and_then(|revision| i64::try_from(revision).ok()).unwrap_or(-1);
        URL_SAFE_NO_PAD
            .encode(json!({"v": "meta.k8s.io/v1", "rv": revision, "start": self.after}).to_string())
    }
}

impl Registry {
    /// One page of a kind's objects, in one namespace or (with "") in all.
    pub(crate) async fn list(
        &self,
        kind: &Kind,
        namespace: &str,
        options: &ListOptions,
    ) -> Result<Page, Refusal> {
        let snapshot = self.state(options).await?;
        let base = kind.storage_prefix();
        let prefix = if namespace.is_empty() { base.clone() } else { format!("{base}{namespace}/") };
        let after = options.continuation.as_ref().map(|continuation| format!("{base}{}", continuation.after));
        if let Some(name) = options.selection.fields.required("metadata.name") {
            // One object at the most: no need to walk over the others.
            if !namespace.is_empty() || !kind.namespaced {
                let record = snapshot.get(&format!("{prefix}{name}"));
                let items =
                    record.into_iter().filter(|record| options.selection.matches(record)).cloned().collect();
                return Ok(Page {
                    revision: snapshot.revision(),
                    items,
                    continuation: String::new(),
                    remaining: None,
                });
            }
        }
        let limit = if options.limit == 0 { usize::MAX } else { options.limit };
        let mut walk =
            snapshot.range(&prefix, after.as_deref()).filter(|record| options.selection.matches(record));
        let items: Vec<Arc<Record>> = walk.by_ref().take(limit).cloned().collect();
        let more = if items.len() == limit { walk.next().is_some() } else { false };
        let mut page =
            Page { revision: snapshot.revision(), items, continuation: String::new(), remaining: None };
        if let Some(last) = page.items.last().filter(|_| more) {
            let after = last.key[base.len()..].to_owned();
            page.remaining =
                options.selection.is_everything().then(|| snapshot.range(&prefix, Some(&last.key)).count());
            page.continuation = Continuation { revision: Some(snapshot.revision()), after }.token();
            self.records.store().pin(&snapshot);
        }
        Ok(page)
    }

    async fn state(&self, options: &ListOptions) -> Result<Snapshot<super::Index>, Refusal> {
        let store = self.records.store();
        let current = store.snapshot();
        let exact = match (&options.continuation, options.at) {
            (Some(Continuation { revision: Some(revision), .. }), _) => *revision,
            (Some(_), _) | (None, At::Newest) => return Ok(current),
            (None, At::NotOlder(revision)) if revision <= current.revision() => return Ok(current),
            (None, At::NotOlder(revision)) => return Err(too_new(revision, current.revision())),
            (None, At::Exact(revision)) => revision,
        };
        match (store.snapshot_at(exact).await, &options.continuation) {
            (Ok(snapshot), _) => Ok(snapshot),
            (Err(ReadError::Compacted { .. }), Some(continuation)) => Err(expired_page(continuation)),
            (Err(ReadError::Compacted { .. }), None) => Err(Refusal::expired(format!(
                "The resourceVersion for the provided list is too old: {exact}"
            ))),
            (Err(ReadError::Future { current }), _) => Err(too_new(exact, current)),
            (Err(ReadError::Io(why)), _) => Err(Refusal::internal(why)),
        }
    }
}

/// 410 with a token by which the client may go on in the newest state.
fn expired_page(continuation: &Continuation) -> Refusal {
    let mut refusal = Refusal::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    );
    let token = Continuation { revision: None, after: continuation.after.clone() }.token();
    refusal.continuation = Some(token);
    refusal
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::kinds::by_kind;

    fn parsed(query: &str) -> Result<ListOptions, Refusal> {
        ListOptions::parse(by_kind("v1", "Pod").unwrap(), &Query::parse(query))
    }

    #[test]
    fn resource_versions_choose_the_state() {
        assert_eq!(parsed("").unwrap().at, At::Newest);
        assert_eq!(parsed("resourceVersion=0").unwrap().at, At::Newest);
        assert_eq!(parsed("resourceVersion=5").unwrap().at, At::NotOlder(5));
        assert_eq!(parsed("resourceVersion=5&limit=10").unwrap().at, At::Exact(5));
        assert_eq!(parsed("resourceVersion=5&resourceVersionMatch=Exact").unwrap().at, At::Exact(5));
        assert_eq!(parsed("resourceVersionMatch=Exact").unwrap_err().code, 422);
        assert_eq!(parsed("resourceVersion=x").unwrap_err().code, 400);
    }

    #[test]
    fn tokens_are_read_back_and_forgeries_refused() {
        let own = Continuation { revision: Some(7), after: "web/a".into() };
        assert_eq!(Continuation::parse(&own.token()).unwrap(), own);
        assert_eq!(Continuation::parse("rubbish").unwrap_err().code, 400);
    }

    #[test]
    fn only_selectable_fields_select() {
        assert!(parsed("fieldSelector=spec.nodeName%3Da,metadata.namespace%3Db").is_ok());
        assert!(
            parsed("fieldSelector=spec.containers%3Da")
                .unwrap_err()
                .message
                .contains("field label not supported: spec.containers")
        );
    }
}
