//! `metrics.k8s.io` in process: what nodes and pods use now, for `kubectl top` and autoscaling.
//!
//! Nodes are asked when somebody asks, and not otherwise: who asks now and then waits for two looks of which
//! the difference is the use, who asks often gets the time in between. It must never poll, and never answer
//! for a node from numbers that are older than [`FRESH`]. Start reading at [`Metrics::answer`]; `scrape.rs`
//! and `usage.rs` are pure.

mod answer;
mod scrape;
mod usage;

#[cfg(test)]
mod tests;

use answer::{Asked, Found, Scope};
use api::Object;
use api::core::Node;
use api::selector::Labels;
use api::slim::Pod;
use api::status::Refusal;
use base::{Body, clock};
use client::{Cache, Caches, Client, escape};
use futures_util::{StreamExt, stream};
use http::{Method, Request, Response, StatusCode};
use scrape::Scrape;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use usage::Rates;

/// The group version.
pub const GROUP: &str = "metrics.k8s.io";
/// See [`GROUP`].
pub const VERSION: &str = "v1beta1";

/// What was measured this long ago still counts as now.
const FRESH: Duration = Duration::from_secs(10);
/// A use over a longer time than this is no use of now.
const STALE: Duration = Duration::from_secs(120);
/// How long two looks are apart where there was none before.
const SHORTEST_WINDOW: Duration = Duration::from_secs(2);
/// How long a node may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many nodes are asked at a time.
const AT_ONCE: usize = 32;
/// The largest report: a node with thousands of containers.
const REPORT_BYTES: usize = 8 << 20;

/// The last looks at a node: the newest, and the one that it is compared with.
#[derive(Default)]
struct Looks {
    newest: Option<Arc<Scrape>>,
    before: Option<Arc<Scrape>>,
}

impl Looks {
    fn rates(&self) -> Option<Rates> {
        Rates::between(self.before.as_ref()?, self.newest.as_ref()?)
    }
}

/// Answers requests of the group.
pub struct Metrics {
    client: Client,
    nodes: Cache<Node>,
    pods: Cache<Pod>,
    /// Of each node; whoever asks for the same node waits for the one who asks already.
    looks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Looks>>>>,
}

impl Metrics {
    /// Reaches kubelets through `client`, who has to be allowed `get` of `nodes/proxy`.
    pub fn new(client: Client, caches: &Caches) -> Arc<Self> {
        Arc::new(Self { client, nodes: caches.of(), pods: caches.of(), looks: Mutex::default() })
    }

    /// Answers a request that was authorized.
    pub async fn answer(self: Arc<Self>, request: Request<Body>) -> Response<Body> {
        let Some(asked) = Asked::read(&request) else {
            return answer::refused(&Refusal::no_such_resource());
        };
        if request.method() != Method::GET {
            return answer::refused(&Refusal::method_not_allowed());
        }
        match asked {
            Asked::Discovery => answer::discovery(),
            Asked::OpenApiIndex => answer::openapi_index(),
            Asked::OpenApi => answer::openapi(),
            Asked::Metrics { scope, name, selectors, table } => {
                let (labels, fields) = match selectors {
                    Ok(selectors) => selectors,
                    Err(why) => return answer::refused(&Refusal::bad_request(why)),
                };
                let found = match &scope {
                    Scope::Nodes => self.of_nodes(name.as_deref(), (&labels, &fields)).await,
                    Scope::Pods(namespace) => {
                        self.of_pods(namespace.as_deref(), name.as_deref(), (&labels, &fields)).await
                    }
                };
                answer::found(&scope, name.as_deref(), found, table)
            }
        }
    }

    async fn of_nodes(&self, name: Option<&str>, wanted: (&Labels, &api::selector::Fields)) -> Vec<Found> {
        self.nodes.synced().await;
        let snapshot = self.nodes.snapshot();
        let is_wanted =
            |node: &&Arc<Node>| name.is_none_or(|name| node.name() == name) && selects(wanted, &***node);
        let nodes: Vec<_> = snapshot.iter().filter(is_wanted).cloned().collect();
        let rates = self.rates(nodes.iter().map(|node| node.name().to_owned()).collect()).await;
        let found = nodes.iter().filter_map(|node| Some(Found::node(node, rates.get(node.name())?)));
        found.collect()
    }

    async fn of_pods(
        &self,
        namespace: Option<&str>,
        name: Option<&str>,
        wanted: (&Labels, &api::selector::Fields),
    ) -> Vec<Found> {
        self.pods.synced().await;
        let snapshot = self.pods.snapshot();
        let is_wanted = |pod: &&Arc<Pod>| {
            namespace.is_none_or(|namespace| pod.namespace() == namespace)
                && name.is_none_or(|name| pod.name() == name)
                && selects(wanted, &***pod)
        };
        let pods: Vec<_> = snapshot.iter().filter(is_wanted).filter(|pod| runs(pod)).cloned().collect();
        let nodes: HashSet<&str> = pods.iter().filter_map(|pod| node_of(pod)).collect();
        let rates = self.rates(nodes.into_iter().map(str::to_owned).collect()).await;
        let found = pods.iter().filter_map(|pod| Found::pod(pod, rates.get(node_of(pod)?)?));
        found.collect()
    }

    /// What nodes use, of those that answer.
    async fn rates(&self, nodes: Vec<String>) -> BTreeMap<String, Rates> {
        self.forget();
        let asking = nodes.into_iter().map(|node| async move {
            let rates = self.rates_of(&node).await?;
            Some((node, rates))
        });
        stream::iter(asking).buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await
    }

    /// Drops what is known of nodes that are gone.
    fn forget(&self) {
        let snapshot = self.nodes.snapshot();
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        looks.retain(|name, _| snapshot.get("", name).is_some());
    }

    async fn rates_of(&self, node: &str) -> Option<Rates> {
        let looks = {
            let mut all = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
            all.entry(node.to_owned()).or_default().clone()
        };
        let mut looks = looks.lock().await;
        let age = |look: &Option<Arc<Scrape>>| look.as_ref().map(|look| look.taken.elapsed());
        if looks.before.is_some() && age(&looks.newest).is_some_and(|age| age < FRESH) {
            return looks.rates();
        }
        let mut before = looks.newest.take().filter(|look| look.taken.elapsed() < STALE);
        if before.is_none() {
            before = Some(self.scrape(node).await?);
        }
        let passed = age(&before)?;
        if passed < SHORTEST_WINDOW {
            clock::sleep(SHORTEST_WINDOW - passed).await;
        }
        *looks = Looks { newest: Some(self.scrape(node).await?), before };
        looks.rates()
    }

    async fn scrape(&self, node: &str) -> Option<Arc<Scrape>> {
        let scraped = tokio::time::timeout(PATIENCE, self.report(node)).await;
        match scraped.unwrap_or_else(|_| Err(format!("no answer for {} s", PATIENCE.as_secs()))) {
            Ok(scrape) => Some(Arc::new(scrape)),
            Err(why) => {
                tracing::warn!(node, why, "a node does not say what it uses");
                None
            }
        }
    }

    async fn report(&self, node: &str) -> Result<Scrape, String> {
        let path = format!("/api/v1/nodes/{}/proxy/metrics/resource", escape(node));
        let request = Request::get(path).body(base::full_body("")).map_err(|error| error.to_string())?;
        let answer = self.client.raw(request).await.map_err(|error| error.to_string())?;
        let (head, body) = answer.into_parts();
        let body = base::collect(body, REPORT_BYTES).await.map_err(|error| error.to_string())?;
        if head.status != StatusCode::OK {
            return Err(format!("{}: {}", head.status, String::from_utf8_lossy(&body)));
        }
        Ok(Scrape::read(&String::from_utf8_lossy(&body), clock::instant()))
    }
}

fn selects((labels, fields): (&Labels, &api::selector::Fields), object: &impl Object) -> bool {
    let field = |name: &str| match name {
        "metadata.name" => object.name(),
        "metadata.namespace" => object.namespace(),
        _ => "",
    };
    labels.selects(object) && fields.matches_with(field)
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

fn runs(pod: &Pod) -> bool {
    pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running"))
}
