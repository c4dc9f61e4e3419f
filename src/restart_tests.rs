//! Controllers that are stopped after each of their writes, before they hear that it was done, make nothing
//! twice.

use super::{Certificates, InProcess, Network, client_of, start_server};
use crate::options::{self, Role};
use api::apps::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use api::batch::{CronJob, Job};
use api::core::{Namespace, Node};
use api::slim::{ControllerRevision, Pod};
use api::{Object, Whole};
use base::{Body, Supervisor, clock};
use client::{Cache, Caches, Client, Error, Patch, Transport};
use futures_util::future::BoxFuture;
use http::{Method, Request, Response};
use serde_json::{Value, json};
use server::{Server, User};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// More lives than all writes together take.
const LIVES: usize = 400;
/// Within which a life has something to write, or all is done.
const LIFE: Duration = Duration::from_secs(30);

/// A way to the server that ends with the first write, which is done and not answered.
struct Mortal {
    inner: InProcess,
    has_died: Arc<AtomicBool>,
    died: Arc<Notify>,
}

impl Transport for Mortal {
    fn call(&self, request: Request<Body>) -> BoxFuture<'static, Result<Response<Body>, Error>> {
        let gone = || Err(Error::Transport("the process has ended".to_owned()));
        let (path, is_read) = (request.uri().path(), request.method() == Method::GET);
        let is_event = path.ends_with("/events") && !is_read;
        // What others write, such as that the nodes are not ready, is no step of a workload.
        let is_write = path.contains("/namespaces/default/") && !is_read && !is_event;
        let was_dead = match is_write {
            true => self.has_died.swap(true, Ordering::SeqCst),
            false => self.has_died.load(Ordering::SeqCst),
        };
        if was_dead || is_event {
            return Box::pin(async move { gone() });
        }
        let (answer, has_died, died) = (self.inner.call(request), self.has_died.clone(), self.died.clone());
        Box::pin(async move {
            let answer = answer.await;
            if !is_write {
                return answer;
            }
            if answer.as_ref().is_ok_and(|answer| answer.status().is_success()) {
                died.notify_one();
                return gone();
            }
            // What is refused was not written.
            has_died.store(false, Ordering::SeqCst);
            answer
        })
    }
}

/// An API server with the objects of every cluster, and nobody who acts on them.
async fn api_server(supervisor: &Supervisor) -> Server {
    let folder = std::env::temp_dir().join(format!("knarr-restarts-{}", std::process::id()));
    // What an earlier run left.
    drop(std::fs::remove_dir_all(&folder));
    let at = |name: &str| folder.join(name).display().to_string();
    let words = [
        "server",
        "--config",
        "/nonexistent",
        "--data-dir",
        &at("data"),
        "--write-kubeconfig",
        &at("kubeconfig"),
        "--bind-address",
        "127.0.0.1",
        "--https-listen-port",
        "0",
        "--node-ip",
        "127.0.0.1",
    ];
    let options = options::command(Role::Server).get_matches_from(words);
    let options = options::read(Role::Server, &options).unwrap().options().unwrap();
    let network = Network::of(&options).unwrap();
    let config = bootstrap::Config {
        data_dir: options.data_dir.clone(),
        node_name: "node".to_owned(),
        hostname: "node".to_owned(),
        node_ips: network.node_ips.clone(),
        tls_sans: Vec::new(),
        service_ip: network.service_ip(),
        dns_ips: network.dns.clone(),
        service_cidrs: options.service_cidr.clone(),
        corefile: String::new(),
        cluster_domain: options.cluster_domain.clone(),
        api_port: 6443,
    };
    let pki = bootstrap::Pki::prepare(&config).unwrap();
    let certificates = Certificates::new(&pki).unwrap();
    let sealing = Arc::new(server::Sealing::new(None).unwrap());
    let storage = (crate::datastore::storage_of(&options).unwrap(), sealing);
    let server = start_server(&options, &network, (&pki, &certificates, storage), supervisor).await.unwrap();
    let admin = client_of(&server, "system:admin", &["system:masters"]);
    bootstrap::objects::apply(&admin, &config, &pki).await.unwrap();
    server
}

fn start_controllers(client: Client, supervisor: &Supervisor) {
    let config = controllers::Config {
        cluster_cidrs: vec!["10.42.0.0/16".to_owned()],
        service_lb: None,
        node_ports: 30000..=32767,
        root_ca_pem: tokio::sync::watch::channel("authority".to_owned()).1,
    };
    let caches = Caches::new(client.clone(), supervisor.clone());
    controllers::start(config, client, caches, supervisor);
}

/// Controllers that live until their first write; false if there was nothing to write until `done`.
async fn live(server: &Server, world: &World) -> bool {
    let (supervisor, died) = (Supervisor::new(), Arc::new(Notify::new()));
    let inner = InProcess { server: server.clone(), user: User::new("system:kube-controller-manager", &[]) };
    let mortal = Mortal { inner, has_died: Arc::default(), died: died.clone() };
    start_controllers(Client::new(Arc::new(mortal)), &supervisor);
    let goes_on = tokio::select! {
        () = died.notified() => true,
        done = tokio::time::timeout(LIFE, world.until_done()) => {
            assert!(done.is_ok(), "nobody writes, and this is not done: {}", world.shown());
            false
        }
    };
    supervisor.drain().await;
    goes_on
}

/// What the test sees, and does in place of nodes.
struct World {
    admin: Client,
    pods: Cache<Pod>,
    stateful: Cache<StatefulSet>,
    daemons: Cache<DaemonSet>,
    deployments: Cache<Deployment>,
    crons: Cache<CronJob>,
}

impl World {
    fn new(admin: &Client, supervisor: &Supervisor) -> Self {
        let caches = Caches::new(admin.clone(), supervisor.clone());
        Self {
            admin: admin.clone(),
            pods: caches.of(),
            stateful: caches.of(),
            daemons: caches.of(),
            deployments: caches.of(),
            crons: caches.of(),
        }
    }

    /// Plays the node until all is as it was asked for.
    async fn until_done(&self) {
        loop {
            let pods = self.pods.changed();
            let others = (self.stateful.changed(), self.daemons.changed(), self.deployments.changed());
            let crons = self.crons.changed();
            self.run_pods().await;
            if self.is_done() {
                return;
            }
            tokio::select! {
                () = pods => {}
                () = others.0 => {}
                () = others.1 => {}
                () = others.2 => {}
                () = crons => {}
            }
        }
    }

    /// Pods run and are ready, those of Jobs end at once.
    async fn run_pods(&self) {
        let waiting = |pod: &&Arc<Pod>| {
            pod.status.as_ref().is_none_or(|status| status.phase.as_deref() == Some("Pending"))
        };
        for pod in self.pods.snapshot().iter().filter(waiting) {
            let of_job = pod.controller().is_some_and(|owner| owner.kind == "Job");
            let phase = if of_job { "Succeeded" } else { "Running" };
            let ready = json!({"type": "Ready", "status": if of_job { "False" } else { "True" }, "lastTransitionTime": clock::now().to_string()});
            let patch = Patch::Strategic(json!({"status": {"phase": phase, "conditions": [ready]}}));
            let patched = self.admin.patch_status::<Pod>(pod.namespace(), pod.name(), &patch).await.unwrap();
            self.pods.reached(patched.revision()).await;
        }
    }

    fn shown(&self) -> Value {
        let of = |status: Option<Value>| status.unwrap_or_default()["status"].clone();
        json!({
            "stateful": of(self.stateful.get("default", "db").and_then(|it| it.to_value().ok())),
            "daemon": of(self.daemons.get("default", "agent").and_then(|it| it.to_value().ok())),
            "deployment": of(self.deployments.get("default", "web").and_then(|it| it.to_value().ok())),
            "cron": of(self.crons.get("default", "report").and_then(|it| it.to_value().ok())),
        })
    }

    fn is_done(&self) -> bool {
        let shown = self.shown();
        let stateful = &shown["stateful"];
        stateful["availableReplicas"] == 3
            && stateful["currentRevision"] == stateful["updateRevision"]
            && shown["daemon"]["numberAvailable"] == 2
            && shown["deployment"]["availableReplicas"] == 2
            && shown["cron"]["lastSuccessfulTime"].is_string()
            && shown["cron"]["active"].is_null()
    }
}

fn read<T: Object>(object: Value) -> T {
    T::from_json(object.to_string().as_bytes()).unwrap()
}

fn template(app: &str) -> Value {
    let spec = json!({"containers": [{"name": "c", "image": "i"}], "tolerations": [{"operator": "Exists"}]});
    json!({"metadata": {"labels": {"app": app}}, "spec": spec})
}

fn workload(kind: &str, name: &str, mut spec: Value) -> Value {
    spec["selector"] = json!({"matchLabels": {"app": name}});
    spec["template"] = template(name);
    json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name, "namespace": "default"}, "spec": spec})
}

async fn ask_for_everything(admin: &Client) {
    for name in ["a", "b"] {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
        admin.create(&read::<Node>(node)).await.unwrap();
    }
    let burst = json!({"replicas": 3, "podManagementPolicy": "Parallel"});
    admin.create(&read::<StatefulSet>(workload("StatefulSet", "db", burst))).await.unwrap();
    admin.create(&read::<DaemonSet>(workload("DaemonSet", "agent", json!({})))).await.unwrap();
    admin.create(&read::<Deployment>(workload("Deployment", "web", json!({"replicas": 2})))).await.unwrap();
    let mut pod = template("report");
    pod["spec"]["restartPolicy"] = json!("Never");
    let spec =
        json!({"schedule": "0 0 1 1 *", "timeZone": "Etc/UTC", "jobTemplate": {"spec": {"template": pod}}});
    let meta = json!({"name": "report", "namespace": "default"});
    let cron = json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": meta, "spec": spec});
    admin.create(&read::<CronJob>(cron)).await.unwrap();
    let overdue = Patch::Merge(json!({"status": {"lastScheduleTime": "2020-01-01T00:00:00Z"}}));
    admin.patch_status::<CronJob>("default", "report", &overdue).await.unwrap();
}

async fn names<T: Object>(admin: &Client) -> Vec<String> {
    let all = admin.list::<T>("default", &Default::default()).await.unwrap();
    all.iter().map(|object| object.name().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_made_twice() {
    drop(rustls::crypto::ring::default_provider().install_default());
    let supervisor = Supervisor::new();
    let server = api_server(&supervisor).await;
    let admin = client_of(&server, "system:admin", &["system:masters"]);
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": "default"}});
    assert!(admin.get::<Namespace>("", "default").await.is_ok());
    // Pods need it, and its controller may be slow.
    drop(admin.create(&read::<api::core::ServiceAccount>(account)).await);
    ask_for_everything(&admin).await;
    let world = World::new(&admin, &supervisor);
    let mut lives = 1;
    while live(&server, &world).await {
        lives += 1;
        assert!(lives < LIVES, "still not done: {}", world.shown());
    }
    let pods = admin.list::<Pod>("default", &Default::default()).await.unwrap();
    let count = |app: &str| pods.iter().filter(|pod| pod.labels().get("app") == Some(app)).count();
    assert_eq!(["db", "agent", "web", "report"].map(count), [3, 2, 2, 1], "after {lives} lives");
    assert!(pods.iter().all(|pod| !pod.is_deleting()));
    assert_eq!(names::<ControllerRevision>(&admin).await.len(), 2);
    assert_eq!((names::<ReplicaSet>(&admin).await.len(), names::<Job>(&admin).await.len()), (1, 1));
    assert!(lives > 20, "each write is a life of its own: {lives}");
    supervisor.drain().await;
}
