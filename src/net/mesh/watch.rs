//! Notices that links, addresses, routes or neighbours changed in a way that may concern the mesh.

use super::TUNNELS;
use crate::netfilter::{attribute, messages, word};
use crate::node::LINK_PREFIX;
use crate::{Error, ROUTE_PROTOCOL, hearing};
use base::clock;
use rtnetlink::sys::TokioSocket;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The groups that hear of links, neighbours, addresses and routes (`RTMGRP_*`).
const GROUPS: u32 = 1 | 4 | 0x10 | 0x40 | 0x100 | 0x400;

/// Changes come in flocks: a link that goes down takes its addresses and routes along.
const SETTLED: Duration = Duration::from_millis(200);

const NEW_LINK: u16 = 16;
const DELETED_LINK: u16 = 17;
const NEW_ADDRESS: u16 = 20;
const DELETED_ADDRESS: u16 = 21;
const NEW_ROUTE: u16 = 24;
const DELETED_ROUTE: u16 = 25;
const DELETED_NEIGHBOUR: u16 = 29;

/// The attribute of a link's name, and of an address' label, which is its link's name.
const NAME: u16 = 3;
/// The table of the kernel's own routes to the machine itself.
const LOCAL_TABLE: u8 = 255;

/// Hears of changes from when it was opened on.
pub struct Watch {
    socket: TokioSocket,
    /// When something was heard that nobody was told of yet.
    heard: Mutex<Option<clock::Instant>>,
}

impl Watch {
    /// Opened before the mesh is applied, it misses nothing.
    pub fn open() -> Result<Self, Error> {
        Ok(Self { socket: hearing::hearing(NETLINK_ROUTE, GROUPS)?, heard: Mutex::default() })
    }

    /// Completes a moment after something changed; the tunnels are known by their numbers. What pods' links and
    /// routes do is nothing. Who stops waiting is told the next time.
    pub async fn changed(&self, tunnels: &[u32]) -> Result<(), Error> {
        let at = match self.heard() {
            Some(at) => at,
            None => {
                self.hear(tunnels).await?;
                *self.lock().insert(clock::instant())
            }
        };
        clock::until(Some(at + SETTLED)).await;
        self.lock().take();
        Ok(())
    }

    fn heard(&self) -> Option<clock::Instant> {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Option<clock::Instant>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something is said that may concern the mesh.
    async fn hear(&self, tunnels: &[u32]) -> Result<(), Error> {
        let is_noise = |bytes: &[u8]| !messages(bytes).any(|(kind, _, body)| concerns(kind, body, tunnels));
        while hearing::next(&self.socket).await?.is_some_and(|bytes| is_noise(&bytes)) {}
        Ok(())
    }
}

/// The text of an attribute behind a header of so many bytes.
fn name(body: &[u8], header: usize) -> Option<&str> {
    let name = std::str::from_utf8(attribute(body.get(header..)?, NAME)?).ok()?;
    Some(name.trim_end_matches('\0'))
}

/// Whether a link is one of the many that come and go with pods.
fn is_pods(name: &str) -> bool {
    name.starts_with(LINK_PREFIX) && !TUNNELS.contains(&name)
}

fn concerns(kind: u16, body: &[u8], tunnels: &[u32]) -> bool {
    let byte = |at: usize| body.get(at).copied().unwrap_or(0);
    match kind {
        NEW_LINK | DELETED_LINK => name(body, 16).is_none_or(|name| !is_pods(name)),
        // Addresses of IPv6 carry no name; pods' links have but one that is of the link alone.
        NEW_ADDRESS | DELETED_ADDRESS => {
            let link_alone = body.get(3) == Some(&253);
            !link_alone && name(body, 8).is_none_or(|name| !is_pods(name))
        }
        NEW_ROUTE | DELETED_ROUTE => {
            let (family, prefix, table, protocol) = (byte(0), byte(1), byte(4), byte(5));
            let single = prefix == if family == 2 { 32 } else { 128 };
            let own = protocol == ROUTE_PROTOCOL;
            table != LOCAL_TABLE && if own { kind == DELETED_ROUTE && !single } else { true }
        }
        DELETED_NEIGHBOUR => word(body, 4).is_some_and(|link| tunnels.contains(&link)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netfilter::Message;

    fn route(family: u8, prefix: u8, table: u8, protocol: u8) -> Vec<u8> {
        vec![family, prefix, 0, 0, table, protocol, 0, 1, 0, 0, 0, 0]
    }

    #[test]
    fn pods_come_and_go_unheard() {
        let concerns = |kind, body: &[u8]| concerns(kind, body, &[7]);
        let link = |name: &str| {
            let mut message = Message(vec![0; 16]);
            message.text(NAME, name);
            message.0
        };
        assert!(!concerns(NEW_LINK, &link("knarr9e27a0abdb")) && !concerns(DELETED_LINK, &link("knarr0")));
        assert!(concerns(DELETED_LINK, &link("knarr-vxlan")) && concerns(NEW_LINK, &link("eth0")));
        assert!(!concerns(DELETED_ROUTE, &route(2, 32, 254, ROUTE_PROTOCOL)));
        assert!(!concerns(NEW_ROUTE, &route(2, 24, 254, ROUTE_PROTOCOL)), "it is of our own making");
        assert!(concerns(DELETED_ROUTE, &route(2, 24, 254, ROUTE_PROTOCOL)));
        assert!(concerns(DELETED_NEIGHBOUR, &[2, 0, 0, 0, 7, 0, 0, 0, 0x20, 0, 0, 0]));
        assert!(!concerns(DELETED_NEIGHBOUR, &[2, 0, 0, 0, 8, 0, 0, 0, 0x20, 0, 0, 0]));
        assert!(concerns(NEW_ROUTE, &route(10, 64, 254, 4)) && !concerns(NEW_ROUTE, &route(2, 32, 255, 2)));
    }
}
