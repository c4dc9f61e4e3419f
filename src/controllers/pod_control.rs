//! Creates and deletes pods in the name of those that own them, and says so in their events.

use crate::common::{self, Key, Room, slow_start};
use api::slim::Pod;
use api::{Object, core};
use client::{Cache, Client, Error, Recorder};
use futures_util::future::join_all;
use std::sync::Arc;

#[derive(Clone)]
pub(crate) struct PodControl {
    pub(crate) client: Client,
    pub(crate) pods: Cache<Pod>,
    pub(crate) recorder: Recorder,
}

impl PodControl {
    /// Signs its events as `component`.
    pub(crate) fn new(room: &Room, component: &str) -> Self {
        Self { client: room.client.clone(), pods: room.caches.of(), recorder: room.recorder(component) }
    }

    /// Creates pods, few at first, and waits until the cache has them. A namespace that is going is no failure.
    pub(crate) async fn create<O: Object>(
        &self,
        owner: &O,
        pods: impl Iterator<Item = core::Pod>,
    ) -> Result<(), Error> {
        self.make(owner, pods).await.1.map_or(Ok(()), Err)
    }

    /// Like [`Self::create`]; gives the pods that were made, and why not all were.
    pub(crate) async fn make<O: Object>(
        &self,
        owner: &O,
        pods: impl Iterator<Item = core::Pod>,
    ) -> (Vec<core::Pod>, Option<Error>) {
        let (created, refused) = slow_start(pods, |pod| self.create_one(owner, pod)).await;
        self.pods.reached(created.iter().map(Object::revision).max().unwrap_or(0)).await;
        (created, refused.filter(|error| !common::is_namespace_going(error)))
    }

    async fn create_one<O: Object>(&self, owner: &O, pod: core::Pod) -> Result<core::Pod, Error> {
        let created = self.client.create(&pod).await;
        match &created {
            Ok(pod) => {
                self.recorder.normal(owner, "SuccessfulCreate", format!("Created pod: {}", pod.name()));
            }
            Err(error) if common::is_namespace_going(error) => {}
            Err(error) => self.recorder.warning(owner, "FailedCreate", format!("Error creating: {error}")),
        }
        created
    }

    /// Deletes pods and waits until the cache shows it.
    pub(crate) async fn delete<O: Object>(&self, owner: &O, pods: &[Arc<Pod>]) -> Result<(), Error> {
        let results = join_all(pods.iter().map(|pod| self.delete_one(owner, pod))).await;
        results.into_iter().collect()
    }

    async fn delete_one<O: Object>(&self, owner: &O, pod: &Pod) -> Result<(), Error> {
        let deleted = self.client.delete::<Pod>(pod.namespace(), pod.name(), &Default::default()).await;
        match common::unless_gone(deleted) {
            Ok(()) => {
                self.recorder.normal(owner, "SuccessfulDelete", format!("Deleted pod: {}", pod.name()));
                common::deletion_seen(&self.pods, &Key::of(pod), pod.uid()).await;
                Ok(())
            }
            Err(error) => {
                self.recorder.warning(owner, "FailedDelete", format!("Error deleting: {error}"));
                Err(error)
            }
        }
    }
}
