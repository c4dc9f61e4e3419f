//! What every part of the room works with.

use crate::cgroups::Cgroups;
use crate::cri::Runtime;
use crate::eviction::Pressure;
use crate::garbage::Garbage;
use crate::machine::Machine;
use crate::pods::env::Facts;
use crate::pods::images::Images;
use crate::pods::spec::{Kind, field_path};
use crate::stats::Stats;
use crate::volumes::token_request;
use crate::{Config, Error};
use api::Object;
use api::core::{Pod, Service};
use base::{Supervisor, clock};
use client::{Cache, Caches, Client, Recorder};
use jiff::Timestamp;
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// A service account token that was asked for, and when to ask again.
struct Token {
    token: String,
    expires: Timestamp,
    renew: Timestamp,
}

type TokenKey = (String, String, Option<String>, i64);

/// Shared by all tasks of the room.
pub(crate) struct Context {
    pub(crate) config: Config,
    pub(crate) client: Client,
    pub(crate) caches: Caches,
    pub(crate) recorder: Recorder,
    pub(crate) supervisor: Supervisor,
    pub(crate) runtime: Runtime,
    pub(crate) cgroups: Cgroups,
    pub(crate) images: Images,
    pub(crate) services: Cache<Service>,
    pub(crate) machine: Machine,
    /// What the node is short of.
    pub(crate) pressures: watch::Sender<BTreeSet<Pressure>>,
    pub(crate) garbage: Garbage,
    /// The machine is being shut down.
    pub(crate) shutting_down: watch::Sender<bool>,
    pub(crate) stats: Stats,
    tokens: Mutex<HashMap<TokenKey, Token>>,
}

impl Context {
    pub(crate) fn new(
        config: Config,
        (client, caches): (Client, Caches),
        supervisor: Supervisor,
        runtime: Runtime,
        machine: Machine,
    ) -> Self {
        let recorder = Recorder::new(client.clone(), &supervisor, "kubelet", &config.node_name);
        let services = caches.of::<Service>();
        let cgroups = machine.cgroups(&config);
        let images = Images::new(config.kubelet());
        let stats = Stats::new(config.kubelet().volume_stats_agg_period.get());
        Self {
            config,
            client,
            caches,
            recorder,
            supervisor,
            runtime,
            cgroups,
            images,
            services,
            machine,
            pressures: watch::Sender::default(),
            garbage: Garbage::default(),
            shutting_down: watch::Sender::default(),
            stats,
            tokens: Mutex::default(),
        }
    }

    /// An event about a container.
    pub(crate) fn tell_container(
        &self,
        pod: &Pod,
        (kind, name): (Kind, &str),
        reason: &str,
        message: String,
    ) {
        self.recorder.container_normal(pod, &field_path(kind, name), reason, message);
    }

    /// A warning about a container.
    pub(crate) fn warn_container(
        &self,
        pod: &Pod,
        (kind, name): (Kind, &str),
        reason: &str,
        message: String,
    ) {
        self.recorder.container_warning(pod, &field_path(kind, name), reason, message);
    }

    /// What the downward API knows of a pod with these addresses.
    pub(crate) fn facts(&self, pod_ips: &[String]) -> Facts {
        Facts {
            pod_ips: pod_ips.to_vec(),
            host_ips: self.machine.addresses.iter().map(IpAddr::to_string).collect(),
            allocatable: self.machine.capacity.allocatable.clone(),
        }
    }

    fn tokens(&self) -> std::sync::MutexGuard<'_, HashMap<TokenKey, Token>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A token of a service account for a pod, and when it expires; asked for anew when it is due.
    pub(crate) async fn token(
        &self,
        pod: &Pod,
        account: &str,
        audience: Option<String>,
        life_s: i64,
    ) -> Result<(String, Timestamp), Error> {
        let key = (pod.uid().to_owned(), account.to_owned(), audience, life_s);
        if let Some(known) = self.tokens().get(&key).filter(|token| clock::now() < token.renew) {
            return Ok((known.token.clone(), known.expires));
        }
        let path = format!("/api/v1/namespaces/{}/serviceaccounts/{account}/token", pod.namespace());
        let body = token_request(pod, key.2.as_deref(), life_s);
        let answer = self.client.post_subresource(&path, &body).await?;
        let answer: Value =
            serde_json::from_slice(&answer).map_err(|error| Error::Volume(error.to_string()))?;
        let token = answer["status"]["token"].as_str().unwrap_or_default().to_owned();
        let expires = answer["status"]["expirationTimestamp"].as_str().and_then(|text| text.parse().ok());
        let expires = expires.ok_or_else(|| Error::Volume("the API server gave no token".to_owned()))?;
        let renew = crate::volumes::renewal(expires, life_s);
        self.tokens().insert(key, Token { token: token.clone(), expires, renew });
        Ok((token, expires))
    }

    /// Forgets what was kept for a pod that is gone.
    pub(crate) fn forget(&self, pod: &Pod) {
        let uid = pod.uid();
        self.tokens().retain(|(of, ..), _| of != uid);
        self.images.forget(uid);
        self.stats.forget(uid);
        crate::stats::counters::forget_pod(uid, (pod.namespace(), pod.name()));
    }

    /// The services whose addresses a pod's containers are told: those of its namespace, where it wants
    /// links, and the API server's.
    pub(crate) fn services_for(&self, pod: &Pod) -> Vec<Arc<Service>> {
        let links = crate::pods::spec::spec(pod).enable_service_links.unwrap_or(true);
        let snapshot = self.services.snapshot();
        let mut services: Vec<Arc<Service>> = Vec::new();
        services.extend(snapshot.get("default", "kubernetes").cloned());
        if links {
            let others = snapshot.in_namespace(pod.namespace());
            services.extend(
                others
                    .filter(|service| service.name() != "kubernetes" || service.namespace() != "default")
                    .cloned(),
            );
        }
        services
    }
}
