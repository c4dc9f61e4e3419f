//! `status.loadBalancer` of Ingresses, where the nodes are reached, and the statuses of Gateway API's objects.

use crate::gateway::Write;
use crate::gateway::types::{
    GRPCRoute, Gateway, GatewayClass, HTTPRoute, TLSRoute, TLSRouteAlpha2, TLSRouteAlpha3,
};
use crate::plan::Named;
use api::Object;
use api::core::Node;
use api::k8s::Resource;
use api::networking::Ingress;
use api::nodes::is_server;
use base::{Phase, Restart, Shutdown, Supervisor};
use client::{Cache, Caches, Client, Patch};
use serde_json::json;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Notify, watch};

/// What there is to write.
#[derive(Default)]
pub(crate) struct Served {
    /// The Ingresses that are served now.
    all: Mutex<Vec<Named>>,
    /// Statuses of Gateway API's objects that differ from those that are written.
    writes: Mutex<Vec<Write>>,
    wake: Notify,
}

impl Served {
    pub(crate) fn set(&self, all: Vec<Named>, writes: Vec<Write>) {
        *self.all.lock().unwrap_or_else(PoisonError::into_inner) = all;
        *self.writes.lock().unwrap_or_else(PoisonError::into_inner) = writes;
        self.wake.notify_one();
    }

    fn take_writes(&self) -> Vec<Write> {
        std::mem::take(&mut *self.writes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn get(&self) -> Vec<Named> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Writes what has to be.
#[derive(Clone)]
pub(crate) struct Status {
    client: Client,
    ingresses: Cache<Ingress>,
    nodes: Cache<Node>,
    served: Arc<Served>,
    /// How many ports are open: without any, nobody is told to come here.
    listening: watch::Receiver<usize>,
}

impl Status {
    pub(crate) fn start(
        (client, caches): (Client, &Caches),
        (served, listening): (Arc<Served>, watch::Receiver<usize>),
        supervisor: &Supervisor,
    ) {
        let status = Self { client, ingresses: caches.of(), nodes: caches.of(), served, listening };
        let served = status.served.clone();
        status.nodes.on_change(move |change| {
            let addresses =
                |node: &Option<Arc<Node>>| node.as_ref().map(|node| addresses([&**node].into_iter()));
            if addresses(&change.old) != addresses(&change.new) {
                served.wake.notify_one();
            }
        });
        supervisor.run("ingress status", Phase::Work, Restart::OnFailure, move |shutdown| {
            status.clone().run(shutdown)
        });
    }

    async fn run(mut self, shutdown: Shutdown) -> Result<(), client::Error> {
        tokio::select! {
            () = async { tokio::join!(self.ingresses.synced(), self.nodes.synced()); } => {}
            () = shutdown.requested() => return Ok(()),
        }
        loop {
            self.write().await?;
            for write in self.served.take_writes() {
                self.write_gateway(&write).await;
            }
            tokio::select! {
                () = self.served.wake.notified() => {}
                changed = self.listening.changed() => if changed.is_err() { return Ok(()) },
                () = shutdown.requested() => return Ok(()),
            }
        }
    }

    async fn write(&self) -> Result<(), client::Error> {
        let nodes = self.nodes.snapshot();
        let wanted = addresses(nodes.iter().map(Arc::as_ref));
        if wanted.is_empty() || *self.listening.borrow() == 0 {
            return Ok(());
        }
        for Named { namespace, name } in self.served.get() {
            let Some(ingress) = self.ingresses.get(&namespace, &name) else { continue };
            if written(&ingress) == wanted {
                continue;
            }
            let all: Vec<_> = wanted.iter().map(|address| json!({"ip": address})).collect();
            let patch = Patch::Merge(json!({"status": {"loadBalancer": {"ingress": all}}}));
            match self.client.patch_status::<Ingress>(&namespace, &name, &patch).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

impl Status {
    /// One that fails is tried again with the next plan.
    async fn write_gateway(&self, write: &Write) {
        let Write { plural, version, named: Named { namespace, name }, .. } = write;
        let written = match (*plural, *version) {
            (GatewayClass::URL_PATH_SEGMENT, _) => self.patch::<GatewayClass>(write).await,
            (Gateway::URL_PATH_SEGMENT, _) => self.patch::<Gateway>(write).await,
            (HTTPRoute::URL_PATH_SEGMENT, _) => self.patch::<HTTPRoute>(write).await,
            (GRPCRoute::URL_PATH_SEGMENT, _) => self.patch::<GRPCRoute>(write).await,
            (_, TLSRouteAlpha3::VERSION) => self.patch::<TLSRouteAlpha3>(write).await,
            (_, TLSRouteAlpha2::VERSION) => self.patch::<TLSRouteAlpha2>(write).await,
            _ => self.patch::<TLSRoute>(write).await,
        };
        match written {
            Err(error) if !error.is_not_found() => {
                tracing::warn!(plural, namespace, name, %error, "a status cannot be written");
            }
            _ => {}
        }
    }

    async fn patch<T: Object>(&self, write: &Write) -> Result<(), client::Error> {
        let patch = Patch::Merge(json!({"status": write.status}));
        let Named { namespace, name } = &write.named;
        self.client.patch_status::<T>(namespace, name, &patch).await.map(drop)
    }
}

fn written(ingress: &Ingress) -> BTreeSet<IpAddr> {
    let status = ingress.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let all = status.and_then(|status| status.ingress.as_ref()).into_iter().flatten();
    all.filter_map(|one| one.ip.as_ref()?.parse().ok()).collect()
}

/// Where servers' nodes that are Ready are reached: from outside if they say so, else within. Agents run no ingress,
/// which would need every certificate of the cluster.
pub(crate) fn addresses<'a>(nodes: impl Iterator<Item = &'a Node>) -> BTreeSet<IpAddr> {
    let listen = nodes.filter(|node| is_server(node) && is_ready(node));
    listen.flat_map(own_addresses).collect()
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|one| one.type_ == "Ready" && one.status == "True") && !node.is_deleting()
}

fn own_addresses(node: &Node) -> Vec<IpAddr> {
    let all = || node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let of = |kind: &str| -> Vec<IpAddr> {
        all()
            .filter(|address| address.type_ == kind)
            .filter_map(|address| address.address.parse().ok())
            .collect()
    };
    let outside = of("ExternalIP");
    if outside.is_empty() { of("InternalIP") } else { outside }
}
