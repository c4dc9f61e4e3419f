//! Hears of what changes in the kernel.

use crate::Error;
use nix::errno::Errno;
use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use std::time::Duration;

/// The group that hears of all changes of nftables (`NFNLGRP_NFTABLES`), as a bit.
const CHANGES: u32 = 1 << 6;

fn failed() -> impl FnOnce(std::io::Error) -> Error {
    Error::io("hearing of changes in the kernel")
}

/// A socket that hears of all changes of nftables.
pub(crate) fn of_nftables() -> Result<TokioSocket, Error> {
    hearing(NETLINK_NETFILTER, CHANGES)
}

/// A socket that hears of groups of a protocol's changes, each a bit.
pub(crate) fn hearing(protocol: isize, groups: u32) -> Result<TokioSocket, Error> {
    let mut changes = TokioSocket::new(protocol).map_err(failed())?;
    changes.socket_mut().bind(&SocketAddr::new(0, groups)).map_err(failed())?;
    Ok(changes)
}

/// The next messages; nothing if more was said than there was room for.
pub(crate) async fn next(changes: &TokioSocket) -> Result<Option<Vec<u8>>, Error> {
    match changes.recv_from_full().await {
        Ok((bytes, _)) => Ok(Some(bytes)),
        Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => Ok(None),
        Err(error) => Err(failed()(error)),
    }
}

/// Completes when nothing has been said for so long.
pub(crate) async fn quiet(changes: &TokioSocket, long: Duration) -> Result<(), Error> {
    while let Ok(said) = tokio::time::timeout(long, next(changes)).await {
        said?;
    }
    Ok(())
}
