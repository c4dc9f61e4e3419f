//! An operator as its users write one with kube-rs: a definition derived from a type, a leader, a controller
//! with a reflector, finalizers, status, and children by server-side apply.

use crate::support::cluster::{Cluster, SOON};
use crate::support::https::Https;
use futures_util::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::finalizer::{Event, finalizer};
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::watcher;
use kube::{Client, Config, CustomResource, CustomResourceExt, Resource, ResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

const OPERATOR: &str = "berths";
const FINALIZER: &str = "berths.operators.example.com/cleanup";

/// What is to be written into a config map.
#[derive(CustomResource, Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[kube(group = "operators.example.com", version = "v1", kind = "Berth", namespaced, status = "BerthStatus")]
#[kube(shortname = "be", printcolumn = r#"{"name": "Text", "type": "string", "jsonPath": ".spec.text"}"#)]
#[kube(validation = "self.metadata.name.size() < 20")]
struct BerthSpec {
    #[schemars(length(min = 1, max = 100))]
    text: String,
    #[serde(default)]
    copies: u32,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct BerthStatus {
    written: bool,
    observed_generation: i64,
    by: String,
}

/// One of several that run.
struct Operator {
    client: Client,
    name: &'static str,
    cleaned: AtomicUsize,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error(transparent)]
    Finalizer(#[from] Box<kube::runtime::finalizer::Error<kube::Error>>),
}

impl Operator {
    async fn reconcile(berth: Arc<Berth>, operator: Arc<Self>) -> Result<Action, Error> {
        let namespace = berth.namespace().unwrap();
        let berths: Api<Berth> = Api::namespaced(operator.client.clone(), &namespace);
        let done = finalizer(&berths, FINALIZER, berth, |event| async {
            match event {
                Event::Apply(berth) => operator.apply(&berth, &namespace).await,
                Event::Cleanup(_) => {
                    operator.cleaned.fetch_add(1, Ordering::Relaxed);
                    Ok(Action::await_change())
                }
            }
        });
        done.await.map_err(|error| Error::Finalizer(Box::new(error)))
    }

    async fn apply(&self, berth: &Berth, namespace: &str) -> Result<Action, kube::Error> {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let params = PatchParams::apply(OPERATOR).force();
        let child = ConfigMap {
            metadata: ObjectMeta {
                name: Some(berth.name_any()),
                owner_references: berth.controller_owner_ref(&()).map(|owner| vec![owner]),
                ..ObjectMeta::default()
            },
            data: Some([("text".to_owned(), berth.spec.text.clone())].into()),
            ..ConfigMap::default()
        };
        maps.patch(&berth.name_any(), &params, &Patch::Apply(&child)).await?;
        let berths: Api<Berth> = Api::namespaced(self.client.clone(), namespace);
        let status = json!({"apiVersion": Berth::api_version(&()), "kind": Berth::kind(&()), "status": BerthStatus {
            written: true, observed_generation: berth.meta().generation.unwrap_or(0), by: self.name.to_owned()}});
        berths.patch_status(&berth.name_any(), &params, &Patch::Apply(&status)).await?;
        Ok(Action::requeue(Duration::from_secs(300)))
    }

    /// Waits to be the leader, and then works until it is told to stop.
    async fn run(self: Arc<Self>, stop: oneshot::Receiver<()>) {
        self.lead().await;
        let berths: Api<Berth> = Api::all(self.client.clone());
        let maps: Api<ConfigMap> = Api::all(self.client.clone());
        let stopped = async move { drop(stop.await) };
        Controller::new(berths, watcher::Config::default())
            .owns(maps, watcher::Config::default())
            .graceful_shutdown_on(stopped)
            .run(Self::reconcile, |_, _, _| Action::requeue(Duration::from_millis(200)), self.clone())
            .for_each(|_| async {})
            .await;
        self.leases().delete(OPERATOR, &DeleteParams::default()).await.unwrap();
    }

    fn leases(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), "default")
    }

    async fn lead(&self) {
        let mut lease = Lease::default();
        lease.metadata.name = Some(OPERATOR.to_owned());
        lease.spec.get_or_insert_default().holder_identity = Some(self.name.to_owned());
        while let Err(taken) = self.leases().create(&PostParams::default(), &lease).await {
            let kube::Error::Api(status) = taken else { panic!("{taken}") };
            assert_eq!(status.reason, "AlreadyExists", "{status:?}");
            let free = |lease: Option<&Lease>| lease.is_none();
            await_condition(self.leases(), OPERATOR, free).await.unwrap();
        }
    }
}

pub(super) async fn client(kubeconfig: String) -> Client {
    let config = Kubeconfig::from_yaml(&kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

#[test]
fn an_operator_works_as_on_any_cluster() {
    let cluster = Cluster::control_plane();
    let https = Https::new(&cluster);
    let kubeconfig = cluster.kubeconfig();
    https.run(async move {
        let client = client(kubeconfig).await;
        define(&client).await;
        let operator =
            |name| Arc::new(Operator { client: client.clone(), name, cleaned: AtomicUsize::new(0) });
        let (first, second) = (operator("first"), operator("second"));
        let (stop_first, stopped) = oneshot::channel();
        let mut operators = JoinSet::new();
        operators.spawn(first.clone().run(stopped));
        let berths: Api<Berth> = Api::namespaced(client.clone(), "default");
        berths.create(&PostParams::default(), &berth("one", "hello")).await.unwrap();
        written(&berths, "one", "first", 1).await;
        let (stop_second, stopped) = oneshot::channel();
        operators.spawn(second.clone().run(stopped));
        refused(&berths).await;
        children(&client, &berths).await;
        stop_first.send(()).unwrap();
        operators.join_next().await.unwrap().unwrap();
        berths.create(&PostParams::default(), &berth("two", "again")).await.unwrap();
        written(&berths, "two", "second", 1).await;
        removed(&client, &berths, &second).await;
        stop_second.send(()).unwrap();
        operators.join_next().await.unwrap().unwrap();
        assert_eq!(first.cleaned.load(Ordering::Relaxed), 0);
    });
}

fn berth(name: &str, text: &str) -> Berth {
    Berth::new(name, BerthSpec { text: text.to_owned(), copies: 1 })
}

async fn define(client: &Client) {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let params = PatchParams::apply(OPERATOR).force();
    definitions.patch(Berth::crd_name(), &params, &Patch::Apply(Berth::crd())).await.unwrap();
    let established = await_condition(definitions, Berth::crd_name(), conditions::is_crd_established());
    tokio::time::timeout(SOON, established).await.unwrap().unwrap();
}

/// Waits until an operator has written down what a generation wants.
async fn written(berths: &Api<Berth>, name: &str, by: &str, generation: i64) {
    let done = |berth: Option<&Berth>| {
        let status = berth.and_then(|berth| berth.status.as_ref());
        status.is_some_and(|own| own.written && own.by == by && own.observed_generation == generation)
    };
    tokio::time::timeout(SOON, await_condition(berths.clone(), name, done)).await.unwrap().unwrap();
}

async fn refused(berths: &Api<Berth>) {
    for (name, text, why) in [
        ("empty", "", "spec.text in body should be at least 1 chars long"),
        ("a-name-that-is-longer-than-the-rule-allows", "x", "failed rule: self.metadata.name.size() < 20"),
    ] {
        let error = berths.create(&PostParams::default(), &berth(name, text)).await.unwrap_err();
        let kube::Error::Api(status) = error else { panic!("{error}") };
        assert!(status.code == 422 && status.message.contains(why), "{status:?}");
    }
}

/// What somebody else does to a child is undone; what its owner wants is done.
async fn children(client: &Client, berths: &Api<Berth>) {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let text = |wanted: &'static str| {
        move |map: Option<&ConfigMap>| {
            map.and_then(|map| map.data.as_ref()?.get("text")).is_some_and(|text| text == wanted)
        }
    };
    maps.delete("one", &DeleteParams::default()).await.unwrap();
    tokio::time::timeout(SOON, await_condition(maps.clone(), "one", text("hello"))).await.unwrap().unwrap();
    let change = json!({"spec": {"text": "changed"}});
    berths.patch("one", &PatchParams::default(), &Patch::Merge(change)).await.unwrap();
    written(berths, "one", "first", 2).await;
    tokio::time::timeout(SOON, await_condition(maps, "one", text("changed"))).await.unwrap().unwrap();
}

/// Objects go after their operator has cleaned up, and their children with them.
async fn removed(client: &Client, berths: &Api<Berth>, operator: &Operator) {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let gone = |map: Option<&ConfigMap>| map.is_none();
    berths.delete_collection(&DeleteParams::default(), &ListParams::default()).await.unwrap();
    tokio::time::timeout(SOON, await_condition(maps, "one", gone)).await.unwrap().unwrap();
    for name in ["one", "two"] {
        let gone = |berth: Option<&Berth>| berth.is_none();
        tokio::time::timeout(SOON, await_condition(berths.clone(), name, gone)).await.unwrap().unwrap();
    }
    assert!(berths.list(&ListParams::default()).await.unwrap().items.is_empty());
    assert_eq!(operator.cleaned.load(Ordering::Relaxed), 2);
}
