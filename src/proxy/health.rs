//! What load balancers ask: whether this node has endpoints of a service (`healthCheckNodePort`), and
//! whether the proxy itself keeps up (`/healthz`, `/livez`), with kube-proxy's answers.

use crate::family::{Family, kubernetes};
use crate::inbox::Inbox;
use crate::metrics::Metrics;
use crate::state::{Owner, State};
use crate::{Config, Error};
use api::Object;
use api::core::Node;
use base::pages::{self, Answer};
use base::{Body, Phase, Supervisor, clock, full_body};
use client::Cache;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

/// The taint of a node that the cluster autoscaler is about to remove: no new connections to it.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// For so long a change may wait to be in the kernel.
const LATE: Duration = Duration::from_secs(60);

/// What answers are made from.
pub(crate) struct Health {
    pub(crate) families: Vec<Family>,
    pub(crate) node_name: String,
    pub(crate) node: Cache<Node>,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) metrics: Arc<Metrics>,
    /// When all was in the kernel for the last time.
    updated: Mutex<Option<jiff::Timestamp>>,
}

impl Health {
    pub(crate) fn new(config: &Config, node: Cache<Node>, inbox: Arc<Inbox>, metrics: Arc<Metrics>) -> Self {
        let (families, node_name) = (config.families().collect(), config.node_name.clone());
        Self { families, node_name, node, inbox, metrics, updated: Mutex::default() }
    }

    pub(crate) fn updated(&self) {
        *self.updated.lock().unwrap_or_else(PoisonError::into_inner) = Some(clock::now());
    }

    /// Whether nothing waits for too long.
    pub(crate) fn keeps_up(&self) -> bool {
        self.inbox.since().is_none_or(|since| since.elapsed() < LATE)
    }

    /// Whether the node is there to stay.
    fn is_eligible(&self) -> bool {
        let node = self.node.get("", &self.node_name).filter(|node| !node.is_deleting());
        node.is_some_and(|node| {
            let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref()).into_iter().flatten();
            !taints.into_iter().any(|taint| taint.key == TO_BE_DELETED)
        })
    }

    /// `/healthz` and `/livez`.
    pub(crate) fn answer(&self, path: &str) -> Response<Body> {
        let (path, eligible) = match path {
            "/healthz" => ("/healthz", Some(self.is_eligible())),
            "/livez" => ("/livez", None),
            _ => return not_found(),
        };
        let healthy = self.keeps_up();
        let good = healthy && eligible != Some(false);
        let now = clock::now();
        let updated = *self.updated.lock().unwrap_or_else(PoisonError::into_inner);
        // Go's zero time, before there was anything.
        let updated = updated.map_or("0001-01-01T00:00:00Z".to_owned(), |time| time.to_string());
        let of_family = |family: &Family| {
            (kubernetes(*family).to_owned(), json!({"lastUpdated": updated, "healthy": healthy}))
        };
        let status: serde_json::Map<String, Value> = self.families.iter().map(of_family).collect();
        let last = if good { now.to_string() } else { updated.clone() };
        let mut body = json!({"lastUpdated": last, "currentTime": now.to_string(), "healthy": healthy, "status": status});
        if let Some(eligible) = eligible {
            body["nodeEligible"] = eligible.into();
        }
        let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        self.metrics.asked(path, status.as_u16());
        coded(status, body.to_string())
    }

    /// `/metrics` and what else kube-proxy has beside it.
    pub(crate) fn answer_metrics(&self, path: &str) -> Response<Body> {
        let (kind, text) = match path {
            "/metrics" => {
                let text = self.metrics.render(&self.families, self.inbox.pending());
                ("text/plain; version=0.0.4; charset=utf-8", text)
            }
            "/proxyMode" => ("text/plain; charset=utf-8", "nftables".to_owned()),
            "/healthz" => ("text/plain; charset=utf-8", "ok".to_owned()),
            _ => return not_found(),
        };
        let mut response = coded(StatusCode::OK, text);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        response
    }
}

fn coded(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(full_body(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn not_found() -> Response<Body> {
    coded(StatusCode::NOT_FOUND, "404 page not found\n".to_owned())
}

/// The answer of a service's `healthCheckNodePort`.
fn answer_service(owner: &Owner, count: u32, keeps_up: bool) -> Response<Body> {
    let (Owner::Service(key) | Owner::Pod(key)) = owner;
    let (namespace, name) = key.split_once('/').unwrap_or_default();
    let text = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": {},\n\t\t\"name\": {}\n\t}},\n\t\"localEndpoints\": {count},\n\t\"serviceProxyHealthy\": {keeps_up}\n}}",
        json!(namespace),
        json!(name)
    );
    let good = count > 0 && keeps_up;
    let mut response = coded(if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, text);
    response.headers_mut().insert("x-load-balancing-endpoint-weight", HeaderValue::from(count));
    response
}

type Counts = Arc<Mutex<HashMap<Owner, u32>>>;

/// Listens for questions.
pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })
}

/// The listeners of services that have a `healthCheckNodePort`.
pub(crate) struct Ports {
    open: HashMap<Owner, (u16, Vec<AbortHandle>)>,
    counts: Counts,
    health: Arc<Health>,
    supervisor: Supervisor,
}

impl Ports {
    pub(crate) fn new(health: Arc<Health>, supervisor: Supervisor) -> Self {
        Self { open: HashMap::new(), counts: Counts::default(), health, supervisor }
    }

    /// Opens, closes and counts as the plans say.
    pub(crate) async fn sync(&mut self, config: &Config, state: &State) {
        let wanted = state.health();
        let stays = |owner: &Owner, port: u16| wanted.get(owner).is_some_and(|(wanted, _)| *wanted == port);
        for (_, (_, listeners)) in self.open.extract_if(|owner, (port, _)| !stays(owner, *port)) {
            listeners.iter().for_each(AbortHandle::abort);
        }
        let counts = wanted.iter().map(|(owner, (_, count))| (owner.clone(), *count)).collect();
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner) = counts;
        for (owner, (port, _)) in wanted {
            if self.open.contains_key(owner) {
                continue;
            }
            match self.open(config, owner, *port).await {
                Ok(listeners) => drop(self.open.insert(owner.clone(), (*port, listeners))),
                Err(error) => tracing::warn!(?owner, port, %error, "a service's health cannot be asked for"),
            }
        }
    }

    async fn open(&self, config: &Config, owner: &Owner, port: u16) -> Result<Vec<AbortHandle>, Error> {
        let mut listeners = Vec::new();
        for address in addresses(config).await? {
            listeners.push(bind(SocketAddr::new(address, port)).await?);
        }
        let (owner, counts, health) = (owner.clone(), self.counts.clone(), self.health.clone());
        let answer: Answer = Arc::new(move |_, _| {
            let count = counts.lock().unwrap_or_else(PoisonError::into_inner).get(&owner).copied();
            answer_service(&owner, count.unwrap_or(0), health.keeps_up())
        });
        let serve = |listener| {
            let supervisor = self.supervisor.clone();
            let work = pages::serve(listener, "service health", |_| true, answer.clone(), supervisor);
            self.supervisor.detached("service health", Phase::Front, work)
        };
        Ok(listeners.into_iter().map(serve).collect())
    }
}

impl Drop for Ports {
    fn drop(&mut self) {
        self.open.values().flat_map(|(_, listeners)| listeners).for_each(AbortHandle::abort);
    }
}

/// Where node ports are: everywhere, or at those of the node's addresses that were chosen.
async fn addresses(config: &Config) -> Result<Vec<IpAddr>, Error> {
    let mut all = Vec::new();
    for family in config.families() {
        let chosen: Vec<_> = config.node_port_blocks(family).collect();
        if chosen.is_empty() {
            all.push(match family {
                Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
                Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
            });
        } else {
            let own = net::local_addresses().await?;
            all.extend(own.into_iter().filter(|own| chosen.iter().any(|block| block.contains(*own))));
        }
    }
    // A socket for all addresses of IPv6 takes those of IPv4 too.
    if all.contains(&Ipv6Addr::UNSPECIFIED.into()) {
        all.retain(|address| !address.is_ipv4());
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, Collected};

    #[tokio::test]
    async fn a_service_says_how_many_endpoints_this_node_has() {
        let owner = Owner::service("default", "web");
        let response = answer_service(&owner, 2, true);
        assert_eq!(
            (response.status(), &response.headers()["x-load-balancing-endpoint-weight"]),
            (StatusCode::OK, &HeaderValue::from(2))
        );
        let body = response.into_body().collect().await.map(Collected::to_bytes).unwrap();
        let text = "{\n\t\"service\": {\n\t\t\"namespace\": \"default\",\n\t\t\"name\": \"web\"\n\t},\n\t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}";
        assert_eq!(body, text);
        assert_eq!(answer_service(&owner, 0, true).status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer_service(&owner, 1, false).status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
