//! Notices that somebody removed what knarr has in nftables: firewalls that start begin with a flush of everything,
//! whose ever it is.

use crate::Error;
use crate::netfilter::{NFTABLES, attribute, messages};
use crate::nft::{TableName, own_tables};
use base::clock;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The group that hears of all changes (`NFNLGRP_NFTABLES`), as a bit.
const CHANGES: u32 = 1 << 6;
/// `NFT_MSG_DELTABLE`, and the attribute of its name.
const DELETE_TABLE: u16 = NFTABLES << 8 | 2;
const NAME: u16 = 1;
/// Behind it stands netfilter's own header.
const HEADER: usize = 4;

/// knarr itself puts a table in place of the old one by removing that, in one transaction: what is missing is looked
/// at when that is over.
const SETTLED: Duration = Duration::from_millis(200);

const BUFFER: usize = 64 << 10;

/// Completes when one of these tables has been removed and nobody has put another in its place.
pub async fn removed(tables: &[TableName]) -> Result<(), Error> {
    let changes = listen().map_err(|errno| Error::io("listening for changes of nftables")(errno.into()))?;
    let failed = Error::io("hearing of changes of nftables");
    let changes = AsyncFd::with_interest(changes, Interest::READABLE).map_err(failed)?;
    loop {
        hear(&changes, tables).await?;
        clock::sleep(SETTLED).await;
        let there = own_tables().await?;
        let is_there =
            |(family, name): &TableName| there.iter().any(|own| (&*own.0, &*own.1) == (*family, *name));
        if !tables.iter().all(is_there) {
            return Ok(());
        }
    }
}

fn listen() -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, CHANGES))?;
    Ok(socket)
}

/// Waits until one of the tables is said to be removed.
async fn hear(changes: &AsyncFd<OwnedFd>, tables: &[TableName]) -> Result<(), Error> {
    let mut buffer = vec![0; BUFFER];
    let failed = || Error::io("hearing of changes of nftables");
    loop {
        let mut ready = changes.readable().await.map_err(failed())?;
        let received = ready.try_io(|socket| Ok(recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?));
        match received {
            // Not yet.
            Err(_) => {}
            Ok(Ok(length)) if names(&buffer[..length]).any(|name| tables.iter().any(|own| own.1 == name)) => {
                return Ok(());
            }
            Ok(Ok(_)) => {}
            // More was said than there was room for.
            Ok(Err(error)) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => return Ok(()),
            Ok(Err(error)) => return Err(failed()(error)),
        }
    }
}

/// The names of tables that a message says are removed.
fn names(bytes: &[u8]) -> impl Iterator<Item = &str> {
    let removed = messages(bytes).filter(|(kind, ..)| *kind == DELETE_TABLE);
    removed.filter_map(|(_, _, body)| {
        std::str::from_utf8(attribute(body.get(HEADER..)?, NAME)?)
            .ok()
            .map(|name| name.trim_end_matches('\0'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netfilter::Message;

    #[test]
    fn removed_tables_are_named() {
        let mut message = Message::default();
        for (kind, name) in [(DELETE_TABLE, "knarr-net"), (NFTABLES << 8, "made"), (DELETE_TABLE, "filter")] {
            message.message((kind, 0), 1, [2, 0, 0, 0], |message| message.text(NAME, name));
        }
        assert_eq!(names(&message.0).collect::<Vec<_>>(), ["knarr-net", "filter"]);
    }
}
