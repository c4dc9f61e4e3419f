//! What other API servers say that they serve, fetched before anybody asks for it: at once when an APIService
//! changes, and every minute.

use super::remote::Reach;
use super::{Aggregation, PREFIX, Remote, merge};
use crate::documents::{Others, Swagger};
use crate::registry::Followed;
use api::kinds::{CUSTOM, priority};
use base::https::host_port;
use base::{Backoff, Shutdown, clock, full_body};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::uri::InvalidUri;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often documents are fetched again, and how long failures may delay that.
const LOOK: Duration = Duration::from_secs(60);
const FIRST_DELAY: Duration = Duration::from_millis(500);
/// The largest document: a thousand resources with their subresources.
const DOCUMENT_BYTES: usize = 4 << 20;
/// Aggregated discovery, of which the older form is the same as far as it is read.
const ACCEPT: HeaderValue = HeaderValue::from_static(
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
);
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// Of the group that says who serves all others.
const FIRST: merge::Priority = (20_001, 0);

/// What is known of a group version that is served elsewhere.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    /// Its APIVersionDiscovery.
    entry: Value,
    /// By which the server knows its document again.
    tag: Option<HeaderValue>,
    /// The `serverRelativeURL` of its OpenAPI v3.
    openapi: Option<String>,
    /// Its OpenAPI v2, and by which the server knows that again.
    swagger: Option<(Arc<Swagger>, Option<HeaderValue>)>,
}

/// When a document is fetched next.
struct Due {
    /// For whom it was fetched: one that changed is due at once.
    of: Arc<Remote>,
    at: clock::Instant,
    backoff: Backoff,
    running: bool,
}

impl Due {
    fn new(of: Arc<Remote>) -> Self {
        Self { of, at: clock::instant(), backoff: Backoff::new(FIRST_DELAY, LOOK), running: false }
    }
}

impl Aggregation {
    /// Keeps documents of others until shutdown.
    pub(crate) async fn keep(self: Arc<Self>, shutdown: Shutdown) -> Result<(), store::WatchError> {
        let store = self.records.store();
        let mut changes = store.watch(PREFIX, store.revision())?;
        let mut schedule: HashMap<String, Due> = HashMap::new();
        let mut running = FuturesUnordered::new();
        loop {
            self.plan(&mut schedule);
            let now = clock::instant();
            for (name, due) in schedule.iter_mut().filter(|(_, due)| !due.running && due.at <= now) {
                due.running = true;
                let (this, name, of) = (self.clone(), name.clone(), due.of.clone());
                running.push(async move {
                    let well = this.fetch_all(&name, &of).await;
                    (name, of, well)
                });
            }
            let next = schedule.values().filter(|due| !due.running).map(|due| due.at).min();
            let wait = next.map_or(LOOK, |at| at.saturating_duration_since(now));
            tokio::select! {
                Some((name, of, well)) = running.next() => note(&mut schedule, &name, (&of, well)),
                changed = changes.next() => drop(changed?),
                () = clock::sleep(wait), if next.is_some() => {}
                () = shutdown.requested() => return Ok(()),
            }
        }
    }

    /// Who is to be asked, and who no longer.
    fn plan(&self, schedule: &mut HashMap<String, Due>) {
        let remotes = self.current();
        schedule.retain(|name, _| remotes.by_name.contains_key(name));
        for (name, remote) in &remotes.by_name {
            let due = schedule.entry(name.clone()).or_insert_with(|| Due::new(remote.clone()));
            if !Arc::ptr_eq(&due.of, remote) {
                // One that is being asked is asked again when that has ended.
                *due = Due { running: due.running, ..Due::new(remote.clone()) };
            }
        }
        let known = self.found.load();
        if known.keys().any(|name| !remotes.by_name.contains_key(name)) {
            let left = known.iter().filter(|(name, _)| remotes.by_name.contains_key(*name));
            self.found.store(Arc::new(left.map(|(name, found)| (name.clone(), found.clone())).collect()));
        }
    }

    /// Fetches what one says; whether that went well.
    async fn fetch_all(&self, name: &str, remote: &Remote) -> bool {
        let before = self.found.load().get(name).map(|found| Found::clone(found)).unwrap_or_default();
        let fetched = self.entry(remote, &before).await;
        let well = fetched.is_ok();
        let version = remote.spec.version.as_deref().unwrap_or_default();
        let (mut entry, tag) = fetched.unwrap_or_else(|why| {
            tracing::debug!(name, why, "discovery of another API server failed");
            let nothing = json!({"version": version});
            (if before.entry.is_null() { nothing } else { before.entry.clone() }, before.tag.clone())
        });
        entry["freshness"] = json!(if well { "Current" } else { "Stale" });
        let openapi = if well { self.openapi(remote).await } else { before.openapi.clone() };
        let swagger = if well { self.swagger(remote, &before).await } else { before.swagger.clone() };
        let told = |found: &Option<(Arc<Swagger>, _)>| found.as_ref().map(|(swagger, _)| swagger.clone());
        if told(&swagger) != told(&before.swagger) {
            self.described.fetch_add(1, Ordering::AcqRel);
        }
        let mut all = HashMap::clone(&self.found.load());
        all.insert(name.to_owned(), Arc::new(Found { entry, tag, openapi, swagger }));
        self.found.store(Arc::new(all));
        well
    }

    async fn entry(&self, remote: &Remote, before: &Found) -> Result<(Value, Option<HeaderValue>), String> {
        let version = remote.spec.version.as_deref().unwrap_or_default();
        let group = remote.spec.group.as_deref().unwrap_or_default();
        let mut headers = HeaderMap::from_iter([(header::ACCEPT, ACCEPT)]);
        headers.extend(before.tag.clone().map(|tag| (header::IF_NONE_MATCH, tag)));
        let (code, told, document) = self.document(remote, "/apis", headers).await?;
        let media = told.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        match code {
            StatusCode::NOT_MODIFIED if before.tag.is_some() => {
                Ok((before.entry.clone(), before.tag.clone()))
            }
            StatusCode::SERVICE_UNAVAILABLE => Err("the server behind is unavailable".to_owned()),
            StatusCode::OK if media.contains("as=APIGroupDiscoveryList") => {
                let items = document["items"].as_array().into_iter().flatten();
                let mut own = items
                    .filter(|item| item["metadata"]["name"].as_str().unwrap_or_default() == group)
                    .flat_map(|item| item["versions"].as_array().into_iter().flatten());
                let entry = own.find(|own| own["version"] == version).cloned();
                Ok((entry.unwrap_or_else(|| json!({"version": version})), told.get(header::ETAG).cloned()))
            }
            _ => {
                let headers = HeaderMap::from_iter([(header::ACCEPT, JSON)]);
                let (code, _, list) = self.document(remote, &remote.root(), headers).await?;
                if code != StatusCode::OK {
                    return Err(format!("failed to download legacy discovery: {code}"));
                }
                let list = list["resources"].as_array().map(Vec::as_slice).unwrap_or_default();
                Ok((json!({"version": version, "resources": merge::resources(list)?}), None))
            }
        }
    }

    /// Where its OpenAPI v3 is, if it has one.
    async fn openapi(&self, remote: &Remote) -> Option<String> {
        let headers = HeaderMap::from_iter([(header::ACCEPT, JSON)]);
        let (code, _, index) = self.document(remote, "/openapi/v3", headers).await.ok()?;
        let place = &index["paths"][remote.root().trim_start_matches('/')]["serverRelativeURL"];
        place.as_str().filter(|_| code == StatusCode::OK).map(str::to_owned)
    }

    /// What it describes of its group version in OpenAPI v2; what was known stays where it cannot be told.
    async fn swagger(&self, remote: &Remote, before: &Found) -> Option<(Arc<Swagger>, Option<HeaderValue>)> {
        let known = before.swagger.clone();
        let mut headers = HeaderMap::from_iter([(header::ACCEPT, JSON)]);
        headers.extend(known.iter().filter_map(|(_, tag)| Some((header::IF_NONE_MATCH, tag.clone()?))));
        let fetched = self.bytes(remote, "/openapi/v2", headers).await;
        let (code, told, body) = match fetched {
            Ok(fetched) => fetched,
            Err(_) => return known,
        };
        match code {
            StatusCode::NOT_MODIFIED => known,
            StatusCode::OK => {
                let own = Swagger::of(&body, &remote.root()).ok()?;
                Some((Arc::new(own), told.get(header::ETAG).cloned()))
            }
            _ => None,
        }
    }

    async fn document(
        &self,
        remote: &Remote,
        path: &str,
        headers: HeaderMap,
    ) -> Result<(StatusCode, HeaderMap, Value), String> {
        let (code, told, body) = self.bytes(remote, path, headers).await?;
        Ok((code, told, serde_json::from_slice(&body).unwrap_or_default()))
    }

    async fn bytes(
        &self,
        remote: &Remote,
        path: &str,
        headers: HeaderMap,
    ) -> Result<(StatusCode, HeaderMap, Bytes), String> {
        let answer = match &remote.reach {
            Reach::Here(here) => {
                let mut request = Request::new(full_body(""));
                *request.uri_mut() = path.parse().map_err(|error: InvalidUri| error.to_string())?;
                here(request).await
            }
            Reach::There(there) => {
                let (address, port) = there.service.resolve(&self.records)?;
                self.fetch(there, &host_port(&address, port), path, headers).await?
            }
        };
        let (head, body) = answer.into_parts();
        let read = tokio::time::timeout(super::proxy::DISCOVERY_LIMIT, base::collect(body, DOCUMENT_BYTES));
        let body = read.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        Ok((head.status, head.headers, body))
    }

    /// Where a group version stands among others.
    fn priority(&self, group: &str, version: &str) -> merge::Priority {
        if group == super::OWN_GROUP {
            return FIRST;
        }
        let stated = self.current().priorities.get(&format!("{version}.{group}")).copied();
        stated.or_else(|| priority(group, version)).unwrap_or(CUSTOM)
    }
}

impl Others for Aggregation {
    fn groups(&self, own: Value) -> Value {
        let remotes = self.current();
        if remotes.by_name.is_empty() {
            return own;
        }
        let others = remotes.by_name.keys().filter_map(|name| {
            let (version, group) = name.split_once('.').filter(|(_, group)| !group.is_empty())?;
            Some((group.to_owned(), version.to_owned()))
        });
        merge::groups(own, others, |group, version| self.priority(group, version))
    }

    fn group(&self, name: &str, own: Option<Value>) -> Option<Value> {
        let suffix = format!(".{name}");
        if !self.current().by_name.keys().any(|remote| remote.ends_with(&suffix)) {
            return own;
        }
        let mut all = self.groups(json!({"groups": own.as_slice()}));
        let groups = all["groups"].as_array_mut()?;
        let mut group = groups.iter_mut().find(|group| group["name"] == name).map(Value::take)?;
        (group["kind"], group["apiVersion"]) = (json!("APIGroup"), json!("v1"));
        Some(group)
    }

    fn aggregated(&self, own: Value) -> Value {
        let remotes = self.current();
        if remotes.by_name.is_empty() {
            return own;
        }
        let found = self.found.load();
        let others = remotes.by_name.keys().filter_map(|name| {
            let (version, group) = name.split_once('.').filter(|(_, group)| !group.is_empty())?;
            let unknown = || json!({"version": version, "freshness": "Stale"});
            let entry = found.get(name).map_or_else(unknown, |found| found.entry.clone());
            Some((group.to_owned(), version.to_owned(), entry))
        });
        merge::aggregated(own, others, |group, version| self.priority(group, version))
    }

    fn openapi_v2(&self) -> (u64, Vec<Arc<Swagger>>) {
        let state = self.described.load(Ordering::Acquire) + self.records.changed(Followed::Registration);
        let (remotes, found) = (self.current(), self.found.load());
        let mut own: Vec<_> = remotes
            .by_name
            .keys()
            .filter_map(|name| Some((name, found.get(name)?.swagger.as_ref()?.0.clone())))
            .collect();
        own.sort_by_key(|(name, _)| *name);
        (if own.is_empty() { 0 } else { state }, own.into_iter().map(|(_, swagger)| swagger).collect())
    }

    fn openapi_v3(&self) -> Vec<(String, String)> {
        let (remotes, found) = (self.current(), self.found.load());
        let all = remotes.by_name.iter().filter_map(|(name, remote)| {
            let place = found.get(name)?.openapi.clone()?;
            Some((remote.root().trim_start_matches('/').to_owned(), place))
        });
        all.collect()
    }

    fn paths(&self) -> Vec<String> {
        let remotes = self.current();
        let of = |remote: &Arc<Remote>| {
            let group = remote.spec.group.as_deref().unwrap_or_default();
            [format!("/apis/{group}"), remote.root()]
        };
        remotes.by_name.values().flat_map(of).collect()
    }
}

/// Writes down when to ask next.
fn note(schedule: &mut HashMap<String, Due>, name: &str, (of, well): (&Arc<Remote>, bool)) {
    let Some(due) = schedule.get_mut(name) else { return };
    due.running = false;
    if !Arc::ptr_eq(&due.of, of) {
        return;
    }
    let delay = if well { LOOK } else { due.backoff.next_delay() };
    if well {
        due.backoff.reset();
    }
    due.at = clock::instant() + delay;
}
