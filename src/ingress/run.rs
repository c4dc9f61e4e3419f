//! Carries plans out: waits for changes, swaps tables and certificates, tells endpoints to backends.

use crate::certificates::{self, Certificates, Keys};
use crate::forward::Proxy;
use crate::gateways::Gateways;
use crate::listen::{Listeners, Told};
use crate::live::Making;
use crate::plan::backends::endpoints;
use crate::plan::{self, Issue, Named, Plan, Ports, Services, Shown, Snapshot};
use crate::status::{Served, Status};
use crate::table::Table;
use crate::trust::Trust;
use crate::upstream::Backend;
use crate::{Config, Error};
use api::Object;
use api::core::{Secret, Service};
use api::networking::{Ingress, IngressClass};
use api::slim::EndpointSlice;
use arc_swap::ArcSwap;
use base::{Phase, Restart, Shutdown, Supervisor, clock};
use client::{Cache, Caches, Client, Recorder};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// `kubernetes.io/service-name`: the label that ties a slice to its service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Certificates come from Secrets of this type alone: no other is held.
const TLS_SECRETS: &str = "type=kubernetes.io/tls";
/// The longest pause between two plans; otherwise as long as the last one took.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How often kept connections are looked at.
const IDLE_LOOK: Duration = Duration::from_secs(15);
/// For so many backends slices are looked through one by one; for more they are sorted by service first.
const FEW: usize = 4;

/// What has changed since the last look.
#[derive(Default)]
struct Changed {
    /// Anything that rules are made from.
    rules: bool,
    /// Services whose endpoints changed.
    services: HashSet<Named>,
}

/// Gathers changes and wakes the runner.
#[derive(Clone, Default)]
pub(crate) struct Changes(Arc<(Mutex<Changed>, Notify)>);

impl Changes {
    /// Rules have to be made anew.
    pub(crate) fn rules(&self) {
        self.note(|changed| changed.rules = true);
    }

    fn note(&self, what: impl FnOnce(&mut Changed)) {
        what(&mut self.0.0.lock().unwrap_or_else(PoisonError::into_inner));
        self.0.1.notify_one();
    }

    fn take(&self) -> Changed {
        std::mem::take(&mut self.0.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn wait(&self) {
        self.0.1.notified().await;
    }
}

#[derive(Clone)]
struct Inputs {
    ingresses: Cache<Ingress>,
    classes: Cache<IngressClass>,
    services: Cache<Service>,
    slices: Cache<EndpointSlice>,
    secrets: Cache<Secret>,
    changes: Changes,
}

impl Inputs {
    fn new(caches: &Caches) -> Self {
        let inputs = Self {
            ingresses: caches.of(),
            classes: caches.of(),
            services: caches.of(),
            slices: caches.of(),
            secrets: caches.selected("", TLS_SECRETS),
            changes: Changes::default(),
        };
        inputs.follow(&inputs.ingresses);
        inputs.follow(&inputs.classes);
        inputs.follow(&inputs.services);
        inputs.follow(&inputs.secrets);
        let changes = inputs.changes.clone();
        inputs.slices.on_change(move |change| {
            let slice = change.object();
            if let Some(service) = slice.labels().get(SERVICE_NAME) {
                let named = Named { namespace: slice.namespace().to_owned(), name: service.to_owned() };
                changes.note(|changed| changed.services.extend([named]));
            }
        });
        inputs
    }

    fn follow<T: Object>(&self, cache: &Cache<T>) {
        let changes = self.changes.clone();
        cache.on_change(move |_| changes.rules());
    }

    async fn synced(&self) {
        tokio::join!(
            self.ingresses.synced(),
            self.classes.synced(),
            self.services.synced(),
            self.slices.synced(),
            self.secrets.synced()
        );
    }
}

/// Starts the proxy's tasks.
pub(crate) fn start(
    config: Config,
    client: Client,
    caches: &Caches,
    supervisor: &Supervisor,
) -> Result<(), Error> {
    let inputs = Inputs::new(caches);
    let gateways = Gateways::new(caches, inputs.changes.clone());
    let default = Arc::new(certificates::self_signed().map_err(Error::Certificate)?);
    let certificates = Arc::new(ArcSwap::from_pointee(Certificates::new(default)));
    let proxy = Arc::new(Proxy {
        table: ArcSwap::from_pointee(Table::default()),
        supervisor: supervisor.clone(),
        access_log: config.access_log,
        trust: Trust::new(&config.trusted_proxies, config.proxy_protocol).map_err(Error::Trust)?,
        ports: Ports { http: config.http_port, https: config.https_port },
    });
    let (open, listening) = watch::channel(0);
    let recorder = Recorder::new(client.clone(), supervisor, "knarr-ingress", &config.node_name);
    let served = Arc::new(Served::default());
    Status::start((client, caches), (served.clone(), listening), supervisor);
    let told = Told::new(open, inputs.changes.clone());
    let listeners = Listeners::new(proxy.clone(), certificates.clone(), supervisor.clone(), told.clone());
    let runner = Arc::new(tokio::sync::Mutex::new(Runner {
        ports: Ports { http: config.http_port, https: config.https_port },
        inputs,
        proxy,
        certificates,
        listeners,
        ports_told: told,
        recorder,
        gateways,
        served,
        making: Making::default(),
        keys: Keys::default(),
        told: HashMap::new(),
    }));
    supervisor.run("ingress", Phase::Work, Restart::OnFailure, move |shutdown| {
        let runner = runner.clone();
        async move { runner.lock().await.run(shutdown).await }
    });
    Ok(())
}

struct Runner {
    ports: Ports,
    inputs: Inputs,
    proxy: Arc<Proxy>,
    certificates: Arc<ArcSwap<Certificates>>,
    listeners: Listeners,
    ports_told: Arc<Told>,
    recorder: Recorder,
    gateways: Gateways,
    served: Arc<Served>,
    making: Making,
    keys: Keys,
    /// What the authors of Ingresses were told last.
    told: HashMap<Named, Vec<Issue>>,
}

impl Runner {
    async fn run(&mut self, shutdown: Shutdown) -> Result<(), Error> {
        tokio::select! {
            () = async { tokio::join!(self.inputs.synced(), self.gateways.synced()); } => {}
            () = shutdown.requested() => return Ok(()),
        }
        // The first table has everything that there is; before it, routes would be denied that exist.
        self.inputs.changes.take();
        self.replan()?;
        self.refresh(&self.making.upstreams.of_service(None));
        loop {
            tokio::select! {
                () = self.inputs.changes.wait() => {}
                () = clock::sleep(IDLE_LOOK) => self.making.upstreams.close_idle(),
                () = shutdown.requested() => return Ok(()),
            }
            let began = clock::instant();
            let changed = self.inputs.changes.take();
            if changed.rules {
                self.replan()?;
            }
            let backends = |one: &Named| self.making.upstreams.of_service(Some((&one.namespace, &one.name)));
            let stale: Vec<Arc<Backend>> = changed.services.iter().flat_map(backends).collect();
            self.refresh(&stale);
            clock::sleep(began.elapsed().min(LONGEST_PAUSE)).await;
        }
    }

    fn replan(&mut self) -> Result<(), Error> {
        self.gateways.appear();
        let services = self.inputs.services.snapshot();
        let services = Services::new(services.iter().map(Arc::as_ref));
        let secrets = self.inputs.secrets.snapshot();
        let mut outcome =
            self.gateways.plan((self.ports, &self.ports_told.taken()), &services, (&secrets, &mut self.keys));
        let mut plan = self.plan(services);
        plan.rules.append(&mut outcome.rules);
        plan.streams = std::mem::take(&mut outcome.streams);
        plan.listeners = std::mem::take(&mut outcome.listeners);
        plan.certificates.append(&mut outcome.certificates);
        self.show(&mut plan);
        let (table, fresh) = self.making.table(&plan);
        self.refresh(&fresh);
        self.proxy.table.store(Arc::new(table));
        self.making.upstreams.retain_used();
        self.listeners.set(&outcome.ports)?;
        self.tell(&plan);
        self.served.set(plan.served, outcome.writes);
        Ok(())
    }

    fn plan(&self, services: Services<'_>) -> Plan {
        let (ingresses, classes) = (self.inputs.ingresses.snapshot(), self.inputs.classes.snapshot());
        plan::plan(&Snapshot {
            ports: self.ports,
            ingresses: ingresses.iter().map(Arc::as_ref).collect(),
            classes: classes.iter().map(Arc::as_ref).collect(),
            services,
        })
    }

    /// Swaps the certificates; one that cannot be read is told of, and the next one for its name counts.
    fn show(&mut self, plan: &mut Plan) {
        let secrets = self.inputs.secrets.snapshot();
        let mut all = Certificates::new(self.certificates.load().default_key());
        let mut issues = HashSet::new();
        for shown in &plan.certificates {
            let Shown { secret: Named { namespace, name }, .. } = shown;
            let found = secrets.get(namespace, name).ok_or_else(|| {
                format!(
                    "secret {name:?} of type kubernetes.io/tls not found; the default certificate is shown"
                )
            });
            let key = found.and_then(|secret| {
                let key = self.keys.of(&shown.secret, secret.revision(), secret);
                key.map_err(|why| format!("secret {name:?} holds no certificate that can be shown: {why}"))
            });
            match (key, &shown.ingress) {
                (Ok(key), _) => all.add(shown, &key),
                (Err(message), Some(ingress)) => {
                    issues.insert(Issue { ingress: ingress.clone(), reason: "CertificateNotShown", message });
                }
                (Err(_), None) => {}
            }
        }
        let wanted: HashSet<&Named> = plan.certificates.iter().map(|shown| &shown.secret).collect();
        self.keys.retain(|named| wanted.contains(named));
        self.certificates.store(Arc::new(all));
        plan.issues.extend(issues);
        plan.issues.sort();
    }

    /// Tells backends where they are answered.
    fn refresh(&mut self, backends: &[Arc<Backend>]) {
        if backends.is_empty() {
            return;
        }
        let slices = self.inputs.slices.snapshot();
        let mut sorted: HashMap<(&str, &str), Vec<&EndpointSlice>> = HashMap::new();
        if backends.len() > FEW {
            for slice in slices.iter() {
                if let Some(service) = slice.labels().get(SERVICE_NAME) {
                    sorted.entry((slice.namespace(), service)).or_default().push(slice);
                }
            }
        }
        for backend in backends {
            let key = &backend.key;
            let addresses = if backends.len() > FEW {
                let own = sorted.get(&(key.namespace.as_str(), key.service.as_str()));
                endpoints(own.into_iter().flatten().copied(), &key.port)
            } else {
                let own = |slice: &&Arc<EndpointSlice>| {
                    slice.labels().get(SERVICE_NAME) == Some(key.service.as_str())
                };
                let all: Vec<&EndpointSlice> =
                    slices.in_namespace(&key.namespace).filter(own).map(Arc::as_ref).collect();
                endpoints(all.into_iter(), &key.port)
            };
            self.making.upstreams.set_endpoints(backend, &addresses);
        }
    }

    /// Each mistake is told of once, until it changes.
    fn tell(&mut self, plan: &Plan) {
        let mut now: HashMap<Named, Vec<Issue>> = HashMap::new();
        for issue in &plan.issues {
            now.entry(issue.ingress.clone()).or_default().push(issue.clone());
        }
        for (named, issues) in &now {
            let Some(ingress) = self.inputs.ingresses.get(&named.namespace, &named.name) else { continue };
            let before = self.told.get(named);
            let fresh = issues.iter().filter(|issue| before.is_none_or(|before| !before.contains(issue)));
            for issue in fresh {
                self.recorder.warning(&*ingress, issue.reason, issue.message.clone());
            }
        }
        self.told = now;
    }
}
