//! Carries the plan out: follows the Nodes and the machine's links, applies differences, tells what cannot be.

use crate::plan::{self, Machine, Place, Plan};
use crate::{Backend, Config, Error, keys};
use api::Object;
use api::slim::{Node, WIREGUARD_KEY};
use base::{Phase, Ready, Restart, Shutdown, Supervisor, clock};
use client::{Cache, Caches, Client, Patch, Recorder};
use net::mesh::{self, Applied, Mesh, WIREGUARD, Watch};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// What nobody tells of, such as peers of WireGuard and the file of its key, is looked at this often.
const LOOK: Duration = Duration::from_secs(60);
/// What the kernel refused is tried again after this.
const RETRY: Duration = Duration::from_secs(5);
/// The shortest time between two rounds: Nodes that come together are taken together.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Clone)]
struct Overlay {
    config: Arc<Config>,
    nodes: Cache<Node>,
    client: Client,
    recorder: Recorder,
    ready: watch::Sender<bool>,
}

/// Keeps the ways to other nodes as their Nodes say; ready when the kernel has them for the first time. `client` is
/// the node's own.
pub fn start(config: Config, client: Client, caches: &Caches, supervisor: &Supervisor) -> Ready {
    let recorder = Recorder::new(client.clone(), supervisor, "overlay", &config.node_name);
    let overlay = Overlay {
        config: Arc::new(config),
        nodes: caches.of(),
        client,
        recorder,
        ready: watch::channel(false).0,
    };
    let ready = Ready::of(&overlay.ready);
    supervisor.run("overlay", Phase::Work, Restart::OnFailure, move |shutdown| overlay.clone().run(shutdown));
    ready
}

/// What is known of the kernel and was told.
#[derive(Default)]
struct Held {
    machine: Option<Machine>,
    asked: BTreeSet<IpAddr>,
    mesh: Option<Mesh>,
    applied: Applied,
    unreached: BTreeMap<String, String>,
    /// The key that the Node was told last, and the Node's revision then.
    published: Option<(String, u64)>,
}

impl Overlay {
    async fn run(self, shutdown: Shutdown) -> Result<(), Error> {
        tokio::select! {
            // Boxed, as it holds a round's state while it waits.
            result = Box::pin(self.follow()) => result,
            () = shutdown.requested() => Ok(()),
        }
    }

    async fn follow(&self) -> Result<(), Error> {
        if self.config.backend == Backend::None {
            // What another backend left is no way to anywhere.
            mesh::apply(&Mesh::default(), None).await?;
            self.ready.send_replace(true);
            return Ok(());
        }
        self.nodes.synced().await;
        let watch = Watch::open()?;
        let mut held = Held::default();
        let (mut look, mut due) = (true, clock::instant() + LOOK);
        loop {
            let (changed, begun) = (self.nodes.changed(), clock::instant());
            self.round(&mut held, look).await?;
            if look {
                due = begun + LOOK;
            }
            if !held.applied.refused.is_empty() {
                due = due.min(begun + RETRY);
            }
            // However often Nodes change, a look comes when it is due.
            look = tokio::select! {
                biased;
                () = clock::until(Some(due)) => true,
                heard = watch.changed(&held.applied.tunnels) => heard.map(|()| true)?,
                () = changed => false,
            };
            clock::until(Some(begun + PAUSE)).await;
        }
    }

    /// Plans and applies what is planned, where that changed or `look` says that the kernel may have.
    async fn round(&self, held: &mut Held, look: bool) -> Result<(), Error> {
        let places: Vec<Place> = self.nodes.snapshot().iter().map(|node| Place::of(node)).collect();
        let Some(own) = self.own(&places) else { return Ok(()) };
        let asked = plan::questions(&self.config, &own.name, &places);
        let known = held.machine.take().filter(|_| !look && asked == held.asked);
        let machine = match known {
            Some(machine) => machine,
            None => self.machine(&own, &asked).await?,
        };
        held.asked = asked;
        let Plan { mesh, unreached } = plan::plan(&self.config, &own, &places, &machine);
        held.machine = Some(machine);
        self.tell(&held.unreached, &unreached);
        held.unreached = unreached;
        if look || held.mesh.as_ref() != Some(&mesh) {
            let applied = mesh::apply(&mesh, held.mesh.as_ref()).await?;
            report(&mesh, &held.applied, &applied);
            (held.mesh, held.applied) = (Some(mesh), applied);
        }
        if self.config.backend == Backend::Wireguard {
            self.publish(held).await?;
        }
        self.ready.send_replace(true);
        Ok(())
    }

    /// This node, once it has its blocks.
    fn own(&self, places: &[Place]) -> Option<Place> {
        let mut own = places.iter().find(|place| place.name == self.config.node_name)?.clone();
        if own.internal.is_empty() {
            own.internal.clone_from(&self.config.node_ips);
        }
        (!own.blocks.is_empty()).then_some(own)
    }

    async fn machine(&self, own: &Place, asked: &BTreeSet<IpAddr>) -> Result<Machine, Error> {
        let wireguard = self.config.backend == Backend::Wireguard;
        let key = wireguard.then(|| keys::current(&self.config.key_file, clock::now())).transpose()?;
        Ok(Machine {
            mtu: net::link_mtu(&own.internal).await?,
            direct: mesh::direct_links(asked).await?,
            key,
        })
    }

    /// Events and a line in the log for nodes that cannot be reached, once each.
    fn tell(&self, before: &BTreeMap<String, String>, now: &BTreeMap<String, String>) {
        let Some(node) = self.nodes.get("", &self.config.node_name) else { return };
        for (name, why) in now.iter().filter(|(name, why)| before.get(*name) != Some(*why)) {
            tracing::warn!(node = name, why, "there is no way to the pods of a node");
            let message = format!("There is no way to the pods of node {name}: {why}");
            self.recorder.warning(&*node, "FailedToCreateRoute", message);
        }
    }

    /// Has the Node say the key by which others know this one.
    async fn publish(&self, held: &mut Held) -> Result<(), Error> {
        let Some(key) = net::wireguard::public_key(WIREGUARD).await? else { return Ok(()) };
        let key = keys::public_text(&key);
        let Some(node) = self.nodes.get("", &self.config.node_name) else { return Ok(()) };
        // What was written may not have come back yet.
        let is_on_its_way =
            held.published.as_ref().is_some_and(|(own, at)| *own == key && node.revision() < *at);
        if node.annotations().get(WIREGUARD_KEY) != Some(&*key) && !is_on_its_way {
            let patch = Patch::Merge(json!({"metadata": {"annotations": {WIREGUARD_KEY: key}}}));
            let written = self.client.patch::<Node>("", &self.config.node_name, &patch).await?;
            held.published = Some((key, written.revision()));
        }
        Ok(())
    }
}

/// What was done, and what could not be, once.
fn report(mesh: &Mesh, before: &Applied, now: &Applied) {
    if now.changes > 0 {
        tracing::info!(routes = mesh.routes.len(), changes = now.changes, "the ways to other nodes are set");
    }
    for why in now.refused.iter().filter(|why| !before.refused.contains(why)) {
        tracing::warn!(why, "a way to another node could not be set");
    }
}
