//! API aggregation: group versions that other API servers answer, each behind a Service that an APIService
//! names. Whoever asks for one is authenticated and authorized here, then the request goes on with this server's
//! own certificate and the user's name in headers.

mod discovery;
mod merge;
mod proxy;
mod remote;

use crate::auth::User;
use crate::registry::{Followed, Records};
use crate::streams::Exchange;
use api::registration::APIService;
use arc_swap::ArcSwap;
use base::Body;
use discovery::Found;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use http::{Request, Response};
pub(crate) use remote::Remote;
use remote::{Reach, Way};
use rustls::client::ResolvesClientCert;
use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Where APIServices are stored.
const PREFIX: &str = "apiservices.apiregistration.k8s.io/";
/// This group says who serves all others, and is never somebody else's.
const OWN_GROUP: &str = "apiregistration.k8s.io";
/// How many endpoints are asked at once whether a service answers: one that does is enough.
const ATTEMPTS: usize = 5;

#[derive(Default)]
struct Remotes {
    /// The last change of an APIService that is in here; `None` before the first look.
    revision: Option<u64>,
    /// By the names of their APIServices, `VERSION.GROUP`.
    by_name: HashMap<String, Arc<Remote>>,
    /// Of all, also of this server's own.
    priorities: HashMap<String, merge::Priority>,
}

/// Knows which group versions are served elsewhere, and reaches those servers.
pub(crate) struct Aggregation {
    records: Records,
    shown: Arc<dyn ResolvesClientCert>,
    exchange: Arc<Exchange>,
    remotes: ArcSwap<Remotes>,
    /// What they say that they serve, by the same names.
    found: ArcSwap<HashMap<String, Arc<Found>>>,
    /// Counts the changes of what they describe.
    described: AtomicU64,
    /// What is answered in this process where an APIService of the name has no service.
    extensions: Mutex<HashMap<String, Extension>>,
}

/// Answers the requests of a group version that another room of this process serves.
pub type Extension = Arc<dyn Fn(Request<Body>) -> BoxFuture<'static, Response<Body>> + Send + Sync>;

impl Aggregation {
    pub(crate) fn new(records: Records, shown: Arc<dyn ResolvesClientCert>, exchange: Arc<Exchange>) -> Self {
        Self {
            records,
            shown,
            exchange,
            remotes: ArcSwap::default(),
            found: ArcSwap::default(),
            described: AtomicU64::new(0),
            extensions: Mutex::default(),
        }
    }

    /// Serves a group version from within this process, as long as its APIService names no service.
    pub(crate) fn extend(&self, name: &str, extension: Extension) {
        self.extensions().insert(name.to_owned(), extension);
        self.remotes.store(Arc::default());
    }

    fn extensions(&self) -> MutexGuard<'_, HashMap<String, Extension>> {
        self.extensions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who serves a path, if it is not this server.
    pub(crate) fn find(&self, path: &str) -> Option<Arc<Remote>> {
        let remotes = self.current();
        if remotes.by_name.is_empty() {
            return None;
        }
        remotes.by_name.get(&name_of(path)?).cloned()
    }

    /// Whether the service behind an APIService answers what it has to, as the check of its condition
    /// `Available` asks. The error is in Kubernetes' words.
    pub(crate) async fn check(&self, name: &str) -> Result<(), String> {
        let Some(remote) = self.current().by_name.get(name).cloned() else { return Ok(()) };
        let Reach::There(there) = &remote.reach else { return Ok(()) };
        let path = remote.root();
        let mut attempts: FuturesUnordered<_> = (0..ATTEMPTS).map(|_| self.probe(there, &path)).collect();
        let mut outcome = Ok(());
        while let Some(attempt) = attempts.next().await {
            outcome = attempt;
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    fn current(&self) -> Arc<Remotes> {
        let remotes = self.remotes.load();
        let revision = self.records.changed(Followed::Registration);
        if remotes.revision == Some(revision) {
            return remotes.clone();
        }
        let fresh = Arc::new(self.read(revision, &remotes));
        self.remotes.store(fresh.clone());
        fresh
    }

    /// All that are served elsewhere; connections are kept to those that are as before.
    fn read(&self, revision: u64, before: &Remotes) -> Remotes {
        let snapshot = self.records.snapshot();
        let mut fresh = Remotes { revision: Some(revision), ..Remotes::default() };
        for record in snapshot.range(PREFIX, None) {
            let Ok(service) = serde_json::from_slice::<APIService>(&record.value) else { continue };
            let (Some(name), Some(spec)) = (service.metadata.name.clone(), &service.spec) else { continue };
            fresh.priorities.insert(name.clone(), (spec.group_priority_minimum, spec.version_priority));
            let known = before.by_name.get(&name);
            let here = self.extensions().get(&name).cloned();
            fresh.by_name.extend(
                Remote::of(service, known, here, (&self.shown, &self.records)).map(|remote| (name, remote)),
            );
        }
        fresh
    }
}

/// The name of the APIService that a path belongs to.
fn name_of(path: &str) -> Option<String> {
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    match (parts.next()?, parts.next(), parts.next()) {
        ("api", ..) => Some("v1.".to_owned()),
        ("apis", Some(group), Some(version)) if group != OWN_GROUP => Some(format!("{version}.{group}")),
        // Its description in OpenAPI belongs to it as well.
        ("openapi", Some("v3"), Some("apis")) => match (parts.next()?, parts.next()?, parts.next()) {
            (group, version, None) => Some(format!("{version}.{group}")),
            _ => None,
        },
        _ => None,
    }
}

/// Whom this server says it is when it asks for itself.
fn aggregator() -> User {
    User {
        name: "system:kube-aggregator".to_owned(),
        groups: vec!["system:masters".to_owned()],
        ..User::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_belong_to_apiservices() {
        let of = |path| name_of(path).unwrap_or_default();
        assert_eq!(of("/apis/metrics.k8s.io/v1beta1/nodes"), "v1beta1.metrics.k8s.io");
        assert_eq!(of("/apis/metrics.k8s.io/v1beta1/"), "v1beta1.metrics.k8s.io");
        assert_eq!(of("/api/v1/pods"), "v1.");
        assert_eq!(of("/apis/metrics.k8s.io"), "");
        assert_eq!(of("/apis/apiregistration.k8s.io/v1/apiservices"), "");
        assert_eq!(of("/metrics"), "");
        assert_eq!(of("/openapi/v3/apis/metrics.k8s.io/v1beta1"), "v1beta1.metrics.k8s.io");
        assert_eq!(of("/openapi/v3/api/v1"), "");
    }
}
