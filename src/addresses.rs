//! The machine's own addresses, and as they change: it may get others from a router, or go on by another link.

use crate::network::{Network, own_addresses};
use crate::options::Options;
use base::{Phase, Restart, Supervisor};
use std::net::IpAddr;
use tokio::sync::watch;

/// Those by which others reach this machine, unless they were given, which makes them stay.
pub(crate) fn follow(
    options: &Options,
    network: &Network,
    supervisor: &Supervisor,
) -> watch::Receiver<Vec<IpAddr>> {
    let (sender, receiver) = watch::channel(network.node_ips.clone());
    if !options.node_ip.is_empty() {
        return receiver;
    }
    let cluster = network.cluster.clone();
    supervisor.run("addresses of this server", Phase::Work, Restart::OnFailure, move |shutdown| {
        let (sender, cluster) = (sender.clone(), cluster.clone());
        async move {
            let links = net::mesh::Watch::open()?;
            loop {
                let now = own_addresses(&cluster);
                // Without a way to anywhere nobody reaches it by any.
                let is_news = !now.is_empty() && *sender.borrow() != now;
                if is_news {
                    tracing::info!(addresses = ?now, "this machine's addresses changed");
                    sender.send_replace(now);
                }
                tokio::select! {
                    changed = links.changed(&[]) => changed?,
                    () = shutdown.requested() => return Ok::<(), net::Error>(()),
                }
            }
        }
    });
    receiver
}
