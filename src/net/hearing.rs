//! Hears of what changes in the kernel.

use crate::Error;
use nix::errno::Errno;
use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use std::sync::LazyLock;
use std::time::Duration;
use tokio::sync::watch;

/// The group that hears of all changes of nftables (`NFNLGRP_NFTABLES`), as a bit.
const CHANGES: u32 = 1 << 6;

/// How long a large change waits until nobody listens; who is busy meanwhile makes it slow, and nothing else.
const DEAF_LIMIT: Duration = Duration::from_millis(250);

fn failed() -> impl FnOnce(std::io::Error) -> Error {
    Error::io("hearing of changes in the kernel")
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

/// Who listens to nftables in this process, and how many large changes are under way.
///
/// The kernel tells whoever listens of every element. Of the sixty thousand of ten thousand services that takes twice
/// as long as all the rest, and there is not room for it anyway: nobody listens meanwhile.
struct Turns {
    changes: watch::Sender<usize>,
    ears: watch::Sender<usize>,
}

static TURNS: LazyLock<Turns> =
    LazyLock::new(|| Turns { changes: watch::channel(0).0, ears: watch::channel(0).0 });

/// Counts for as long as it lives.
struct Counted(&'static watch::Sender<usize>);

impl Counted {
    fn new(count: &'static watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// A large change of nftables, under way for as long as this lives.
pub(crate) struct Silence {
    _change: Counted,
}

/// Begins a large change of nftables.
pub(crate) async fn silence() -> Silence {
    let silence = Silence { _change: Counted::new(&TURNS.changes) };
    let mut ears = TURNS.ears.subscribe();
    if tokio::time::timeout(DEAF_LIMIT, ears.wait_for(|count| *count == 0)).await.is_err() {
        tracing::debug!("somebody listens to a large change of nftables, which makes it slow");
    }
    silence
}

/// Hears of all changes of nftables but large ones.
pub(crate) struct Ears(Option<(TokioSocket, Counted)>);

impl Ears {
    /// From now on.
    pub(crate) fn open() -> Result<Self, Error> {
        Ok(Self(Some((hearing(NETLINK_NETFILTER, CHANGES)?, Counted::new(&TURNS.ears)))))
    }

    /// The next messages; nothing if more was said than was heard.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let mut changes = TURNS.changes.subscribe();
        if let Some((socket, _)) = &self.0 {
            tokio::select! {
                heard = next(socket) => return heard,
                _ = changes.wait_for(|count| *count > 0) => self.0 = None,
            }
        }
        if changes.wait_for(|count| *count == 0).await.is_err() {
            tracing::trace!("what counts changes lives as long as the process");
        }
        *self = Self::open()?;
        Ok(None)
    }

    /// Completes when nothing has been said for so long.
    pub(crate) async fn quiet(&mut self, long: Duration) -> Result<(), Error> {
        while let Ok(said) = tokio::time::timeout(long, self.next()).await {
            said?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_listens_while_much_changes() {
        let mut ears = Ears::open().unwrap();
        let (change, heard) = tokio::join!(silence(), tokio::time::timeout(DEAF_LIMIT / 2, ears.next()));
        assert!(heard.is_err() && ears.0.is_none() && *TURNS.ears.borrow() == 0);
        drop(change);
        assert!(ears.next().await.unwrap().is_none());
        assert!(ears.0.is_some());
    }
}
