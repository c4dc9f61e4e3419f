//! What every part of the room works with.

use crate::affinity::Affinity;
use crate::cgroups::{Cgroups, Rules};
use crate::cri::Runtime;
use crate::csi::Csi;
use crate::devices::Devices;
use crate::dra::Dra;
use crate::eviction::Pressure;
use crate::garbage::Garbage;
use crate::images::Images;
use crate::machine::Machine;
use crate::pods::env::Facts;
use crate::pods::spec::{Kind, field_path};
use crate::protocols::runtime::v1 as cri;
use crate::provisions::{Slot, Stores};
use crate::reach::Reach;
use crate::settings::KubeletConfiguration;
use crate::stats::Stats;
use crate::turnstile::Turnstile;
use crate::volumes::{self, token_request};
use crate::{Config, Error};
use api::Object;
use api::core::{Container, Node, Pod, Service, ServiceSpec};
use api::k8s::api::node::v1::RuntimeClass;
use api::meta::ObjectMeta;
use base::{Phase, Supervisor, Together, clock};
use client::{Cache, Caches, Client, Pace, Recorder};
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use serde_json::Value;
use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OnceCell, oneshot, watch};

/// A service account token that was asked for, and when to ask again.
struct Token {
    token: String,
    expires: Timestamp,
    renew: Timestamp,
}

type TokenKey = (String, String, Option<String>, i64);

/// What the runtime can do.
#[derive(Clone, Debug, Default)]
pub(crate) struct Abilities {
    pub(crate) supplemental_groups_policy: bool,
    handlers: HashMap<String, cri::RuntimeHandlerFeatures>,
}

impl Abilities {
    /// Those of a RuntimeClass' handler; "" for the default one.
    pub(crate) fn of(&self, handler: &str) -> cri::RuntimeHandlerFeatures {
        self.handlers.get(handler).copied().unwrap_or_default()
    }
}

/// Shared by all tasks of the room.
pub(crate) struct Context {
    pub(crate) config: Config,
    pub(crate) client: Client,
    pub(crate) reach: Reach,
    pub(crate) caches: Caches,
    pub(crate) recorder: Recorder,
    pub(crate) supervisor: Supervisor,
    pub(crate) runtime: Runtime,
    pub(crate) cgroups: Cgroups,
    /// Through which pods go to their sandboxes, by far the most of what a start costs.
    pub(crate) starts: Turnstile,
    pub(crate) images: Images,
    /// All that looks whether containers are well.
    pub(crate) probes: Together,
    pub(crate) devices: Devices,
    pub(crate) affinity: Affinity,
    pub(crate) services: Cache<Service>,
    pub(crate) machine: Machine,
    /// The machine's addresses, which may change while it runs.
    addresses: watch::Sender<Arc<[IpAddr]>>,
    /// What the node is short of.
    pub(crate) pressures: watch::Sender<BTreeSet<Pressure>>,
    pub(crate) garbage: Garbage,
    /// The machine is being shut down.
    pub(crate) shutting_down: watch::Sender<bool>,
    pub(crate) stats: Stats,
    /// This node.
    pub(crate) node: Cache<Node>,
    pub(crate) volumes: volumes::Shared,
    pub(crate) csi: Csi,
    /// What the runtime told of itself when it was asked first.
    abilities: OnceCell<Abilities>,
    /// Held while a pod is given ids of its own.
    assigning: Mutex<()>,
    /// Held while what is remembered of a pod changes.
    remembering: Mutex<()>,
    pub(crate) dra: Dra,
    tokens: Mutex<HashMap<TokenKey, Token>>,
    pub(crate) provisions: Stores,
}

/// The node's own object: in the cache of all where the process has one, or watched by itself.
fn own_node(config: &Config, (client, caches): (&Client, &Caches), supervisor: &Supervisor) -> Cache<Node> {
    if config.shared_caches {
        return caches.of::<Node>();
    }
    let own = Caches::new(client.clone(), supervisor.clone());
    own.selected::<Node>("", &format!("metadata.name={}", config.node_name))
}

/// What of a service a container is told; none of one without an address.
fn addressed(service: &Service) -> Option<Service> {
    let spec = service.spec.as_ref()?;
    spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None")?;
    let (cluster_ip, ports) = (spec.cluster_ip.clone(), spec.ports.clone());
    let metadata = ObjectMeta { name: service.metadata.name.clone(), ..ObjectMeta::default() };
    let spec = Some(ServiceSpec { cluster_ip, ports, ..ServiceSpec::default() });
    Some(Service { metadata, spec, ..Service::default() })
}

/// `eventRecordQPS` and `eventBurst`.
fn pace(kubelet: &KubeletConfiguration) -> Pace {
    let bounded = |number: i64| u32::try_from(number).unwrap_or(u32::MAX);
    Pace { per_s: bounded(kubelet.event_record_qps), burst: bounded(kubelet.event_burst) }
}

impl Context {
    pub(crate) fn new(
        config: Config,
        (client, caches): (Client, Caches),
        supervisor: Supervisor,
        runtime: Runtime,
        machine: Machine,
    ) -> Self {
        let reach = Reach::default();
        let client = reach.noting(client);
        let recorder = Recorder::paced(
            client.clone(),
            &supervisor,
            ("kubelet", &config.node_name),
            pace(config.kubelet()),
        );
        let services = caches.of::<Service>();
        let node = own_node(&config, (&client, &caches), &supervisor);
        let cgroups = machine.cgroups(&config);
        let probes = Together::start(&supervisor, "probes", Phase::Work);
        let (devices, provisions) = (Devices::new(&config), Stores::new(&config));
        let images = Images::new(&config, config.kubelet());
        let stats = Stats::new(config.kubelet().volume_stats_agg_period.get());
        let addresses = watch::Sender::new(machine.addresses.clone().into());
        Self {
            addresses,
            config,
            client,
            reach,
            caches,
            recorder,
            supervisor,
            runtime,
            cgroups,
            starts: Turnstile::for_processors(),
            images,
            probes,
            devices,
            affinity: Affinity::default(),
            services,
            machine,
            pressures: watch::Sender::default(),
            garbage: Garbage::default(),
            shutting_down: watch::Sender::default(),
            stats,
            node,
            volumes: volumes::Shared::default(),
            csi: Csi::default(),
            abilities: OnceCell::new(),
            assigning: Mutex::default(),
            remembering: Mutex::default(),
            dra: Dra::default(),
            tokens: Mutex::default(),
            provisions,
        }
    }

    /// The machine's addresses now.
    pub(crate) fn addresses(&self) -> Arc<[IpAddr]> {
        self.addresses.borrow().clone()
    }

    /// Hears of other addresses.
    pub(crate) fn changes_of_addresses(&self) -> watch::Receiver<Arc<[IpAddr]>> {
        self.addresses.subscribe()
    }

    /// The machine has other addresses now; none are a link that is down, and the last ones stay.
    pub(crate) fn set_addresses(&self, found: Vec<IpAddr>) {
        let changed = self.addresses.send_if_modified(|addresses| {
            let differs = !found.is_empty() && **addresses != *found;
            if differs {
                *addresses = found.into();
            }
            differs
        });
        if changed {
            tracing::info!(addresses = ?self.addresses(), "this machine has other addresses");
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
            host_ips: self.addresses().iter().map(IpAddr::to_string).collect(),
            allocatable: self.machine.capacity.allocatable.clone(),
        }
    }

    /// What the runtime can do; nothing more than the least while it does not answer.
    pub(crate) async fn abilities(&self) -> Abilities {
        let ask = || async {
            let told = self.runtime.status(cri::StatusRequest { verbose: false }).await?;
            let handlers = told.runtime_handlers.into_iter();
            Ok::<_, Error>(Abilities {
                supplemental_groups_policy: told.features.is_some_and(|it| it.supplemental_groups_policy),
                handlers: handlers.map(|it| (it.name, it.features.unwrap_or_default())).collect(),
            })
        };
        self.abilities.get_or_try_init(ask).await.cloned().unwrap_or_default()
    }

    /// What holds for the cgroup of a container, or of its pod.
    pub(crate) fn rules(&self, pod: &Pod, container: Option<&Container>) -> Cow<'_, Rules> {
        let name = container.map(|container| container.name.as_str());
        self.affinity.rules(self.cgroups.rules(), pod.uid(), name)
    }

    /// Holds others off from giving pods ids.
    pub(crate) fn assigning(&self) -> MutexGuard<'_, ()> {
        self.assigning.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds others off from changing what is remembered of pods.
    pub(crate) fn remembering(&self) -> MutexGuard<'_, ()> {
        self.remembering.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The runtime's name of the pod's RuntimeClass; "" for its default.
    pub(crate) async fn handler(&self, pod: &Pod) -> Result<String, client::Error> {
        match &crate::pods::spec::spec(pod).runtime_class_name {
            None => Ok(String::new()),
            Some(name) => {
                let slot: Slot<RuntimeClass> = |kept| &mut kept.runtime_classes;
                Ok(self.referred::<RuntimeClass>(pod, slot, ("", name)).await?.handler)
            }
        }
    }

    /// Changes files of this machine beside the runtime's workers, one change after the other at a path; a
    /// hollow node has nothing to change.
    pub(crate) async fn change(
        &self,
        path: &Path,
        work: impl FnOnce() -> Result<(), Error> + Send + 'static,
    ) -> Result<(), Error> {
        if self.machine.is_there() { self.volumes.background.run(path, work).await } else { Ok(()) }
    }

    /// Does something to its end, also when nobody waits for it any more.
    pub(crate) async fn to_the_end<T: Send + 'static>(
        &self,
        work: BoxFuture<'static, T>,
    ) -> Result<T, Error> {
        let (sender, receiver) = oneshot::channel();
        self.supervisor.detached("work on a volume", Phase::Work, async move {
            if sender.send(work.await).is_err() {
                tracing::debug!("nobody waits any more for what was done to a volume");
            }
        });
        receiver.await.map_err(|_| Error::Setup("this node is being stopped".to_owned()))
    }

    fn tokens(&self) -> MutexGuard<'_, HashMap<TokenKey, Token>> {
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
        let answer = match self.client.post_subresource(&path, &body).await {
            // One that has not expired is better than none.
            Err(client::Error::Transport(why)) => {
                let tokens = self.tokens();
                let valid = tokens.get(&key).filter(|token| clock::now() < token.expires);
                let valid = valid.map(|token| (token.token.clone(), token.expires));
                return valid.ok_or(Error::Api(client::Error::Transport(why)));
            }
            other => other?,
        };
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
        self.csi.usages.forget(uid);
        crate::stats::counters::forget_pod(uid, (pod.namespace(), pod.name()));
        self.volumes.forget(uid);
    }

    /// The services whose addresses a pod's containers are told: those of its namespace, where it wants
    /// links, and the API server's.
    pub(crate) fn services_for(&self, pod: &Pod) -> Vec<Service> {
        let links = crate::pods::spec::spec(pod).enable_service_links.unwrap_or(true);
        let snapshot = self.services.snapshot();
        let own = snapshot.get("default", "kubernetes");
        let others = snapshot.in_namespace(pod.namespace());
        let others = others.filter(|service| links && own.is_none_or(|own| !Arc::ptr_eq(own, service)));
        own.into_iter().chain(others).filter_map(|service| addressed(service)).collect()
    }
}
