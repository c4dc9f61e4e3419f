//! Pods' links follow what fits into a packet when that changes under them.

use crate::mesh::TUNNELS;
use crate::netlink::{self, Netlink, refused, unless};
use crate::node::LINK_PREFIX;
use crate::{DEVICE, Error};
use futures_util::TryStreamExt;
use nix::errno::Errno;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::{LinkMessageBuilder, LinkUnspec};

/// Has pods' links of one size be of another, at both ends; those of a size of their own stay. Pods that go meanwhile
/// do so. Gives how many were changed.
pub async fn resize(from: u32, to: u32) -> Result<usize, Error> {
    netlink::with(None, async |netlink| {
        let mut changed = 0;
        let all = netlink.0.link().get().execute().try_collect::<Vec<_>>().await;
        for message in all.map_err(refused("listing links"))? {
            let found = Found::of(&message);
            if found.is_pods() && found.mtu == from {
                netlink.set_mtu(&found, to).await?;
                changed += 1;
            }
        }
        Ok(changed)
    })
    .await
}

/// A link as far as its size goes.
#[derive(Debug, Default)]
struct Found {
    index: u32,
    name: String,
    mtu: u32,
    /// The other end's number, and that of the namespace in which it is.
    peer: Option<u32>,
    namespace: Option<i32>,
}

impl Found {
    fn of(message: &LinkMessage) -> Self {
        let mut found = Self { index: message.header.index, ..Self::default() };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => found.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => found.mtu = *mtu,
                LinkAttribute::Link(peer) => found.peer = Some(*peer),
                LinkAttribute::LinkNetNsId(namespace) => found.namespace = Some(*namespace),
                _ => {}
            }
        }
        found
    }

    fn is_pods(&self) -> bool {
        self.name.starts_with(LINK_PREFIX) && self.name != DEVICE && !TUNNELS.contains(&self.name.as_str())
    }
}

impl Netlink {
    /// Sets the size of a pod's link: at the pod's end, which the kernel finds by the number that it gave the pod's
    /// namespace, and at the node's.
    async fn set_mtu(&self, link: &Found, mtu: u32) -> Result<(), Error> {
        let inside = link.peer.zip(link.namespace).map(|(index, namespace)| (index, Some(namespace)));
        for (index, namespace) in inside.into_iter().chain([(link.index, None)]) {
            let mut message = LinkMessageBuilder::<LinkUnspec>::new().index(index).mtu(mtu).build();
            message.attributes.extend(namespace.map(LinkAttribute::IfNetnsId));
            let set = self.0.link().set(message).execute().await;
            let what = format!("setting the mtu of {} to {mtu}", link.name);
            unless(set, &[Errno::ENODEV, Errno::EINVAL]).map_err(refused(what))?;
        }
        Ok(())
    }
}
