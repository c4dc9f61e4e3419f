//! Pods' links follow what fits into a packet when that changes under them.

use crate::mesh::TUNNELS;
use crate::netlink::{self, Netlink, refused, unless};
use crate::node::LINK_PREFIX;
use crate::{DEVICE, Error, namespace};
use futures_util::TryStreamExt;
use nix::errno::Errno;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::{LinkMessageBuilder, LinkUnspec};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Where runtimes keep the namespaces of pods.
const NAMESPACES: &str = "/run/netns";

/// More namespaces than pods are on any node.
const MOST: usize = 4_096;

/// Has pods' links of one size be of another, at both ends; those of a size of their own stay. Pods that go meanwhile
/// do so. Gives how many were changed.
pub async fn resize(from: u32, to: u32) -> Result<usize, Error> {
    let links: Vec<Found> = netlink::with(None, async |netlink| {
        let all = netlink.sizes().await?.into_iter();
        let links: Vec<Found> = all.filter(|link| link.is_pods() && link.mtu == from).collect();
        for link in &links {
            netlink.set_mtu(link, to).await?;
        }
        Ok(links)
    })
    .await?;
    for path in namespaces()? {
        if let Err(error) = resize_within(&path, &links, to).await {
            // It went, or is none.
            tracing::debug!(path = %path.display(), %error, "a namespace is passed over");
        }
    }
    Ok(links.len())
}

/// Changes what in a namespace is the other end of one of these links.
async fn resize_within(path: &Path, links: &[Found], to: u32) -> Result<(), Error> {
    let Some(pod) = namespace::open(path)? else { return Ok(()) };
    netlink::with(Some(&pod), async |netlink| {
        for end in netlink.sizes().await? {
            if links.iter().any(|link| link.leads_to(&end)) {
                netlink.set_mtu(&end, to).await?;
            }
        }
        Ok(())
    })
    .await
}

/// The files of pods' namespaces.
fn namespaces() -> Result<Vec<PathBuf>, Error> {
    let mut paths = Vec::new();
    let failed = || Error::io(format!("reading {NAMESPACES}"));
    match std::fs::read_dir(NAMESPACES) {
        Ok(found) => {
            for entry in found.take(MOST) {
                paths.push(entry.map_err(failed())?.path());
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(failed()(error)),
    }
    Ok(paths)
}

/// A link as far as its size goes.
#[derive(Debug, Default)]
struct Found {
    index: u32,
    name: String,
    mtu: u32,
    /// The other end's number there.
    peer: Option<u32>,
    /// The other end is in another namespace.
    is_elsewhere: bool,
}

impl Found {
    fn of(message: &LinkMessage) -> Self {
        let mut found = Self { index: message.header.index, ..Self::default() };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => found.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => found.mtu = *mtu,
                LinkAttribute::Link(peer) => found.peer = Some(*peer),
                LinkAttribute::LinkNetNsId(_) => found.is_elsewhere = true,
                _ => {}
            }
        }
        found
    }

    fn is_pods(&self) -> bool {
        self.name.starts_with(LINK_PREFIX) && self.name != DEVICE && !TUNNELS.contains(&self.name.as_str())
    }

    /// Whether another link is the other end of this one, of the same size so far.
    fn leads_to(&self, end: &Self) -> bool {
        self.is_elsewhere
            && end.is_elsewhere
            && self.peer == Some(end.index)
            && end.peer == Some(self.index)
            && self.mtu == end.mtu
    }
}

impl Netlink {
    async fn sizes(&self) -> Result<Vec<Found>, Error> {
        let all = self.0.link().get().execute().try_collect::<Vec<_>>().await;
        Ok(all.map_err(refused("listing links"))?.iter().map(Found::of).collect())
    }

    async fn set_mtu(&self, link: &Found, mtu: u32) -> Result<(), Error> {
        let message = LinkMessageBuilder::<LinkUnspec>::new().index(link.index).mtu(mtu).build();
        let set = self.0.link().set(message).execute().await;
        unless(set, &[Errno::ENODEV]).map_err(refused(format!("setting the mtu of {} to {mtu}", link.name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_known_by_both_numbers() {
        let link = |index, peer| Found {
            index,
            peer: Some(peer),
            mtu: 1_450,
            is_elsewhere: true,
            ..Found::default()
        };
        assert!(link(7, 2).leads_to(&link(2, 7)));
        assert!(!link(7, 2).leads_to(&link(2, 8)) && !link(7, 2).leads_to(&link(3, 7)));
        assert!(!link(7, 2).leads_to(&Found { mtu: 1_300, ..link(2, 7) }), "it has a size of its own");
        assert!(!link(7, 2).leads_to(&Found { is_elsewhere: false, ..link(2, 7) }));
    }
}
