//! The pods' network of this node: knarr's own plugin, and those of others.

use crate::containerd::config::Generation;
use crate::protocols::runtime::v1 as cri;
use crate::{Context, Error, FindAddresses, files};
use api::core::Node;
use base::watch_folder::Changes;
use base::{Shutdown, clock};
use client::Cache;
use net::cni::{Adopted, Others, Sources};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What puts plugins and configurations there does so piece by piece.
const SETTLED: Duration = Duration::from_millis(100);

/// The blocks of a node once they are others than `known`.
pub(crate) async fn next_blocks(
    name: &str,
    nodes: &Cache<Node>,
    known: &[net::Cidr],
) -> Result<Vec<net::Cidr>, Error> {
    let unusable = |block: &str| Error::Setup(format!("the node's podCIDRs {block} cannot be used"));
    loop {
        let changed = nodes.changed();
        let blocks = nodes.get("", name).and_then(|node| node.spec.as_ref()?.pod_cidrs.clone());
        let blocks = blocks.unwrap_or_default();
        let blocks = blocks.iter().map(|block| block.parse().map_err(|_| unusable(block)));
        let blocks: Vec<net::Cidr> = blocks.collect::<Result<_, _>>()?;
        if !blocks.is_empty() && blocks != known {
            return Ok(blocks);
        }
        changed.await;
    }
}

/// Follows the machine's addresses: it may get others from a router, or go on by another link.
pub(crate) async fn run_addresses(
    context: Arc<Context>,
    find: FindAddresses,
    shutdown: Shutdown,
) -> Result<(), Error> {
    let links = net::mesh::Watch::open().map_err(fault("following the machine's addresses"))?;
    loop {
        context.set_addresses(find());
        tokio::select! {
            changed = links.changed(&[]) => changed.map_err(fault("following the machine's addresses"))?,
            () = shutdown.requested() => return Ok(()),
        }
    }
}

fn fault(what: &str) -> impl FnOnce(net::Error) -> Error {
    move |error| Error::Setup(format!("{what}: {error}"))
}

/// What is set up.
#[derive(Default)]
struct Held {
    /// The node's blocks, where its own plugin attaches pods.
    blocks: Vec<net::Cidr>,
    node: Option<net::Node>,
    adopted: Option<Adopted>,
}

/// Sets up the pods' network once the node has its blocks, and again when these, the machine's links or the plugins of
/// others change.
pub(crate) async fn run(context: Arc<Context>, nodes: Cache<Node>, shutdown: Shutdown) -> Result<(), Error> {
    let own = context.config.attaches_pods;
    let others = others(&context, own);
    let links = net::mesh::Watch::open().map_err(fault("following the machine's links"))?;
    let mut addresses = context.changes_of_addresses();
    let mut held = Held::default();
    others.link_own_plugins(&executable()?).map_err(fault("linking plugins"))?;
    let mut folders = held.adopt(&others)?;
    loop {
        held.install(&context).await?;
        let tables = held.node.as_ref().map(net::Node::tables).unwrap_or_default();
        tokio::select! {
            blocks = next_blocks(&context.config.node_name, &nodes, &held.blocks), if own => held.blocks = blocks?,
            removed = removed(&tables) => {
                removed?;
                held.node = None;
            }
            heard = links.changed(&[]) => heard.map_err(fault("following the machine's links"))?,
            Ok(()) = addresses.changed() => {}
            changed = folders.next() => {
                changed?;
                clock::sleep(SETTLED).await;
                folders = held.adopt(&others)?;
            }
            () = shutdown.requested() => return Ok(()),
        }
    }
}

fn executable() -> Result<PathBuf, Error> {
    std::env::current_exe().map_err(files::at("/proc/self/exe".as_ref()))
}

fn others(context: &Context, own: bool) -> Others {
    let agent = context.config.data_dir.join("agent");
    Others { sources: Sources::default(), bin: agent.join("bin"), conf: agent.join("etc/cni/net.d"), own }
}

/// Hears of what changes in these folders, or in what they are to be made in.
fn watch(sources: &Sources) -> Result<Changes, Error> {
    let folders = sources.plugins.iter().chain([&sources.configurations]);
    let there = folders.filter_map(|folder| folder.ancestors().find(|above| above.is_dir()));
    Ok(Changes::of_all(there.collect::<Vec<&Path>>().as_slice())?)
}

/// Waits until somebody removes the tables of the pods' network.
async fn removed(tables: &[net::nft::TableName]) -> Result<(), Error> {
    if tables.is_empty() {
        std::future::pending::<()>().await;
    }
    net::removed(tables).await.map_err(fault("watching the pods' network"))?;
    tracing::warn!("somebody removed the tables of the pods' network; they are made anew");
    Ok(())
}

impl Held {
    /// Links what others have brought, and says whose configuration it is that pods are attached by. Gives what hears of
    /// changes from then on.
    fn adopt(&mut self, others: &Others) -> Result<Changes, Error> {
        let folders = watch(&others.sources)?;
        let adopted = others.adopt().map_err(fault("looking for network plugins of others"))?;
        if self.adopted.as_ref() != Some(&adopted) {
            tell(self.adopted.as_ref(), &adopted, others);
            self.adopted = Some(adopted);
        }
        Ok(folders)
    }

    /// Whether pods' links may have any names.
    fn is_others(&self) -> bool {
        self.adopted.as_ref().is_some_and(|adopted| adopted.first.is_some())
    }

    async fn install(&mut self, context: &Context) -> Result<(), Error> {
        let config = &context.config;
        if config.attaches_pods && self.blocks.is_empty() {
            return Ok(());
        }
        let what = || fault("setting up the pods' network");
        let addresses = context.addresses();
        let mtu = net::link_mtu(&addresses).await.map_err(what())?;
        let outer = if self.is_others() || !config.attaches_pods {
            Some(net::outer_links(&addresses).await.map_err(what())?)
        } else {
            None
        };
        let node = net::Node {
            pod_cidrs: self.blocks.clone(),
            cluster_cidrs: config.cluster_cidrs.clone(),
            service_cidrs: config.service_cidrs.clone(),
            mtu: mtu.saturating_sub(config.encapsulation_bytes),
            outer,
        };
        if self.node.as_ref() != Some(&node) {
            net::setup(&node).await.map_err(what())?;
            if config.attaches_pods {
                install_plugin(context, &node).await?;
            }
            self.node = Some(node);
        }
        Ok(())
    }
}

/// One sentence about whose configuration it is, when that changes.
fn tell(before: Option<&Adopted>, now: &Adopted, others: &Others) {
    for (path, why) in &now.unusable {
        tracing::warn!(path = %path.display(), why, "what would be a configuration of a network plugin cannot be used");
    }
    let had_one = before.is_some_and(|before| before.first.is_some());
    match (&now.first, others.own) {
        (Some(path), true) => tracing::warn!(
            path = %path.display(),
            "pods are attached by this configuration, whose name comes before knarr's own {}: remove it if it should not be",
            net::cni::FILE,
        ),
        (Some(path), false) => {
            tracing::info!(path = %path.display(), "pods are attached by this configuration")
        }
        (None, true) if had_one => tracing::info!("pods are attached by knarr's own plugin again"),
        (None, true) => {}
        (None, false) => tracing::info!(
            folder = %others.sources.configurations.display(),
            "the node is not ready before there is a configuration of a network plugin, as the network's backend is none"
        ),
    }
}

/// Has the runtime find knarr's plugin, and pods that are there have links of the size that new ones get.
async fn install_plugin(context: &Context, node: &net::Node) -> Result<(), Error> {
    let what = || fault("setting up the pods' network");
    let agent = context.config.data_dir.join("agent");
    let (bin, conf) = (agent.join("bin"), agent.join("etc/cni/net.d"));
    let runtime = context.runtime.version(cri::VersionRequest::default()).await?;
    let newest = Generation::of(&runtime.runtime_version) == Generation::V3;
    let state_dir = context.config.run_dir.join("cni");
    let network = net::cni::Network { pod_cidrs: node.pod_cidrs.clone(), mtu: node.mtu, state_dir };
    if let Some(before) = net::cni::installed(&bin).filter(|before| before.mtu != node.mtu) {
        let changed = net::resize(before.mtu, node.mtu).await.map_err(what())?;
        tracing::info!(
            from = before.mtu,
            to = node.mtu,
            links = changed,
            "packets of pods have another size"
        );
    }
    let params = net::cni::Params { network, newest };
    net::cni::install(&bin, &conf, &params, &executable()?).map_err(what())
}
