//! Lists: a consistent snapshot, in pages.

use super::reading::{all_shown, selected};
use super::{Record, Registry, Selection};
use crate::http::query::Query;
use api::kinds::Kind;
use api::selector::{Fields, Labels};
use api::status::Refusal;
use api::validate::{Error, Path, go_number_error, go_quoted, go_syntax};
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::{DecodeError, Engine};
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

/// So many records at least are converted at once to find those of a page: a webhook is asked once for them.
const CONVERTED: usize = 64;

/// An answer up to this size is sent whether or not its client reads it.
const LARGE_BYTES: usize = 64 << 10;

impl Page {
    /// Whether the client will read it by and by.
    pub(crate) fn is_large(&self) -> bool {
        self.items.iter().map(|record| record.value.len()).sum::<usize>() > LARGE_BYTES
    }

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
        return Err(Refusal::bad_request(match kind.selectable_fields {
            [] => format!(
                "{} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
                go_quoted(unknown)
            ),
            _ => format!("field label not supported: {unknown}"),
        }));
    }
    let stored_as = |field: &str| crate::conversion::stored_field(kind, field);
    Ok(Selection { labels, fields: fields.renamed(stored_as) })
}

impl ListOptions {
    pub(crate) fn parse(kind: &Kind, query: &Query) -> Result<Self, Refusal> {
        check(query)?;
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
        let revision = asked_revision(version).map_err(|refusal| {
            Refusal::bad_request(format!("invalid resource version: {}", refusal.message))
        })?;
        let at = match query.get("resourceVersionMatch") {
            _ if revision == 0 => At::Newest,
            "Exact" => At::Exact(revision),
            "" if limit > 0 => At::Exact(revision),
            _ => At::NotOlder(revision),
        };
        Ok(Self { selection: selection(kind, query)?, limit, continuation, at })
    }
}

const EXACT: &str = "Exact";
const NOT_OLDER: &str = "NotOlderThan";
const MATCH: &str = "resourceVersionMatch";

/// Checks what a list says together (`ValidateListOptions`).
fn check(query: &Query) -> Result<(), Refusal> {
    let (wanted, path) = (query.get(MATCH), Path::new(MATCH));
    let mut errors = Vec::new();
    let mut forbid = |why: &str| errors.push(Error::forbidden(&path, why));
    if !wanted.is_empty() && query.get("resourceVersion").is_empty() {
        forbid("resourceVersionMatch is forbidden unless resourceVersion is provided");
    }
    if !wanted.is_empty() && !query.get("continue").is_empty() {
        forbid("resourceVersionMatch is forbidden when continue is provided");
    }
    if !matches!(wanted, "" | EXACT | NOT_OLDER) {
        errors.push(Error::not_supported(&path, wanted, &[EXACT, NOT_OLDER, ""]));
    }
    if wanted == EXACT && query.get("resourceVersion") == "0" {
        let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
        errors.push(Error::forbidden(&path, why));
    }
    if query.has("sendInitialEvents") {
        let why = "sendInitialEvents is forbidden for list";
        errors.push(Error::forbidden(&Path::new("sendInitialEvents"), why));
    }
    refuse(&errors)
}

/// `sendInitialEvents` of a watch, checked with what goes along with it.
pub(super) fn initial_events(query: &Query) -> Result<Option<bool>, Refusal> {
    let (wanted, path) = (query.get(MATCH), Path::new(MATCH));
    let initial = query.has("sendInitialEvents").then(|| query.flag("sendInitialEvents"));
    let mut errors = Vec::new();
    if initial.is_some() && wanted != NOT_OLDER {
        let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        errors.push(Error::forbidden(&path, why));
    }
    if !wanted.is_empty() && initial.is_none() {
        let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
        errors.push(Error::forbidden(&path, why));
    }
    if !matches!(wanted, "" | NOT_OLDER) {
        errors.push(Error::not_supported(&path, wanted, &[NOT_OLDER]));
    }
    if !wanted.is_empty() && !query.get("continue").is_empty() {
        errors.push(Error::forbidden(&path, "resourceVersionMatch is forbidden when continue is provided"));
    }
    refuse(&errors).map(|()| initial)
}

fn refuse(errors: &[Error]) -> Result<(), Refusal> {
    if errors.is_empty() { Ok(()) } else { Err(crate::http::options::invalid("ListOptions", errors)) }
}

/// The selection of one object that a path names.
pub(super) fn name_selected(selection: Selection, name: &str) -> Result<Selection, Refusal> {
    match selection.fields.required("metadata.name") {
        _ if name.is_empty() => Ok(selection),
        Some(selected) if selected == name => Ok(selection),
        None if selection.fields.is_everything() => {
            Ok(Selection { fields: Fields::of("metadata.name", name), ..selection })
        }
        _ => Err(Refusal::bad_request("fieldSelector metadata.name doesn't match requested name")),
    }
}

/// A resourceVersion parameter as a revision; "" is 0. What is none Kubernetes takes for an error of the
/// server, except in lists.
pub(crate) fn asked_revision(text: &str) -> Result<u64, Refusal> {
    if text.is_empty() {
        return Ok(0);
    }
    text.parse().map_err(|error| {
        let why = go_number_error("ParseUint", text, &error);
        Refusal::new(500, "", format!("resourceVersion: Invalid value: {}: {why}", go_quoted(text)))
    })
}

/// The refusal of a revision that is still to come.
pub(crate) fn too_new(asked: u64, current: u64) -> Refusal {
    let mut refusal = Refusal::new(
        504,
        "Timeout",
        format!("Timeout: Too large resource version: {asked}, current: {current}"),
    );
    refusal.details = json!({"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}], "retryAfterSeconds": 1});
    refusal
}

impl Continuation {
    fn parse(token: &str) -> Result<Self, Refusal> {
        let invalid = |why: &str| {
            Refusal::bad_request(format!("invalid continue token: continue key is not valid{why}"))
        };
        let bytes = URL_SAFE_NO_PAD.decode(token.trim_end_matches('=')).map_err(|error| match error {
            DecodeError::InvalidByte(at, _) | DecodeError::InvalidLastSymbol(at, _) => {
                invalid(&format!(": illegal base64 data at input byte {at}"))
            }
            _ => invalid(&format!(": illegal base64 data at input byte {}", token.len())),
        })?;
        let value: Value = serde_json::from_slice(&bytes)
            .map_err(|error| invalid(&format!(": {}", go_syntax(&bytes, &error))))?;
        if value["v"] != "meta.k8s.io/v1" {
            let version = value["v"].as_str().unwrap_or_default();
            return Err(invalid(&format!(": server does not recognize this encoded version {version}")));
        }
        let revision = value["rv"].as_i64().unwrap_or(0);
        if revision == 0 {
            return Err(invalid(": incorrect encoded start resourceVersion (version meta.k8s.io/v1)"));
        }
        let after = value["start"].as_str().unwrap_or_default();
        if after.is_empty() {
            return Err(invalid(": encoded start key empty (version meta.k8s.io/v1)"));
        }
        Ok(Self { revision: u64::try_from(revision).ok(), after: after.to_owned() })
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
                let custom = self.custom(kind)?;
                let found = match snapshot.get(&format!("{prefix}{name}")) {
                    Some(record) => selected(custom.as_ref(), &options.selection, record).await?,
                    None => None,
                };
                return Ok(Page {
                    revision: snapshot.revision(),
                    items: found.into_iter().collect(),
                    continuation: String::new(),
                    remaining: None,
                });
            }
        }
        let (items, more) = self.some(kind, snapshot.range(&prefix, after.as_deref()), options).await?;
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

    /// The records of a page, as the kind shows them, and whether there are more.
    async fn some(
        &self,
        kind: &Kind,
        rest: impl Iterator<Item = &Arc<Record>>,
        options: &ListOptions,
    ) -> Result<(Vec<Arc<Record>>, bool), Refusal> {
        let (selection, limit) = (&options.selection, options.limit);
        let limit = if limit == 0 { usize::MAX } else { limit };
        let custom = self.custom(kind)?;
        if !custom.is_some_and(|custom| selection.needs_form(&custom)) {
            let mut walk = rest.filter(|record| selection.matches(record));
            let items: Vec<Arc<Record>> = walk.by_ref().take(limit).cloned().collect();
            let more = items.len() == limit && walk.next().is_some();
            return Ok((all_shown(self.catalogue(), kind, items).await?, more));
        }
        let rest: Vec<Arc<Record>> = rest.cloned().collect();
        let mut items = Vec::new();
        for some in rest.chunks(limit.max(CONVERTED)) {
            let shown = all_shown(self.catalogue(), kind, some.to_vec()).await?;
            items.extend(shown.into_iter().filter(|record| selection.matches(record)));
            if items.len() > limit {
                items.truncate(limit);
                return Ok((items, true));
            }
        }
        Ok((items, false))
    }

    /// A state at least as new as a revision, for which it waits some seconds.
    pub(crate) async fn fresh(&self, revision: u64) -> Result<Snapshot<super::Index>, Refusal> {
        let snapshot = self.records.reach(revision).await;
        if snapshot.revision() < revision {
            return Err(too_new(revision, snapshot.revision()));
        }
        Ok(snapshot)
    }

    async fn state(&self, options: &ListOptions) -> Result<Snapshot<super::Index>, Refusal> {
        let store = self.records.store();
        let current = store.snapshot();
        let exact = match (&options.continuation, options.at) {
            (Some(Continuation { revision: Some(revision), .. }), _) => {
                // Another server may have begun the list.
                self.records.reach(*revision).await;
                *revision
            }
            (Some(_), _) | (None, At::Newest) => return Ok(current),
            (None, At::NotOlder(revision)) => return self.fresh(revision).await,
            (None, At::Exact(revision)) => {
                self.fresh(revision).await?;
                revision
            }
        };
        match (store.snapshot_at(exact).await, &options.continuation) {
            (Ok(snapshot), _) => Ok(snapshot),
            (Err(ReadError::Compacted { .. }), Some(continuation)) => Err(expired_page(continuation)),
            (Err(ReadError::Compacted { .. }), None) => {
                Err(Refusal::expired("The resourceVersion for the provided list is too old."))
            }
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

    fn refused(query: &str) -> String {
        let refusal = ListOptions::parse(by_kind("v1", "Pod").unwrap(), &Query::parse(query)).unwrap_err();
        assert_eq!(refusal.code, 422);
        refusal.message
    }

    #[test]
    fn options_are_checked_in_kubernetes_words() {
        let head = "ListOptions.meta.k8s.io \"\" is invalid:";
        assert_eq!(
            refused("resourceVersionMatch=Exact&resourceVersion=0"),
            format!(
                "{head} resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\""
            )
        );
        assert_eq!(
            refused("resourceVersionMatch=Any&resourceVersion=1"),
            format!(
                "{head} resourceVersionMatch: Unsupported value: \"Any\": supported values: \"Exact\", \"NotOlderThan\", \"\""
            )
        );
        assert_eq!(
            refused("sendInitialEvents=true"),
            format!("{head} sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list")
        );
        let watch = |query: &str| initial_events(&Query::parse(query)).map_err(|refusal| refusal.message);
        assert_eq!(watch("watch=1"), Ok(None));
        assert_eq!(watch("sendInitialEvents=false&resourceVersionMatch=NotOlderThan"), Ok(Some(false)));
        assert_eq!(
            watch("sendInitialEvents=true"),
            Err(format!(
                "{head} resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
            ))
        );
        assert_eq!(
            watch("resourceVersionMatch=NotOlderThan"),
            Err(format!(
                "{head} resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
            ))
        );
    }

    #[test]
    fn events_are_selected_by_the_names_of_their_own_group() {
        let kind = by_kind("events.k8s.io/v1", "Event").unwrap();
        let query = Query::parse("fieldSelector=regarding.name%3Da,reportingController%3Db,type%3DNormal");
        let selection = selection(kind, &query).unwrap();
        assert_eq!(
            selection.fields.fields().collect::<Vec<_>>(),
            ["involvedObject.name", "reportingComponent", "type"]
        );
        let wrong = Query::parse("fieldSelector=involvedObject.name%3Da");
        assert!(super::selection(kind, &wrong).is_err());
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
