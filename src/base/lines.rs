//! Connections that are open, so that they can be ended from outside when it is known that nothing comes by them any
//! more: TCP itself would find that out after minutes.

use futures_util::task::AtomicWaker;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

/// Where a connection begins and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// This machine's.
    pub local: SocketAddr,
    /// The other's.
    pub remote: SocketAddr,
}

#[derive(Default)]
struct State {
    last: u64,
    open: HashMap<u64, (Ends, Arc<Cut>)>,
}

/// Connections that are open. Cheap to clone; every clone is the same.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<State>>);

#[derive(Default)]
struct Cut {
    is_cut: AtomicBool,
    reader: AtomicWaker,
}

/// One of them; it is none of them any more when this is dropped.
pub(crate) struct Line {
    number: u64,
    cut: Arc<Cut>,
    lines: Lines,
}

impl Lines {
    pub(crate) fn add(&self, ends: Ends) -> Line {
        let cut = Arc::<Cut>::default();
        let mut state = self.state();
        state.last += 1;
        let number = state.last;
        state.open.insert(number, (ends, cut.clone()));
        Line { number, cut, lines: self.clone() }
    }

    /// Ends those that `which` says; tells how many.
    pub fn cut(&self, which: impl Fn(&Ends) -> bool) -> usize {
        let state = self.state();
        let all = state.open.values().filter(|(ends, _)| which(ends));
        all.map(|(_, cut)| {
            cut.is_cut.store(true, Ordering::Release);
            cut.reader.wake();
        })
        .count()
    }

    /// Ends those that begin where this machine would not begin them any more.
    pub fn cut_stale(&self) -> usize {
        self.cut(is_stale)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the way to the other end begins at another address by now. While there is no way at all it may be the same
/// again, unless the address itself is gone.
fn is_stale(ends: &Ends) -> bool {
    match source(ends.remote) {
        Some(now) => now != ends.local.ip().to_canonical(),
        None => is_gone(ends.local.ip()),
    }
}

/// The address from which this machine reaches another. No packet is sent for it.
fn source(remote: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = if remote.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(remote).ok()?;
    Some(socket.local_addr().ok()?.ip().to_canonical())
}

fn is_gone(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_err_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable)
}

impl Line {
    /// An error once the connection was ended from outside; otherwise the reader is woken when it is.
    pub(crate) fn poll(&self, cx: &Context<'_>) -> Poll<io::Error> {
        self.cut.reader.register(cx.waker());
        if self.cut.is_cut.load(Ordering::Acquire) {
            let why = "the connection was given up: its way is another one now";
            return Poll::Ready(io::Error::new(io::ErrorKind::ConnectionAborted, why));
        }
        Poll::Pending
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.lines.state().open.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_that_begins_elsewhere_is_stale() {
        let remote = SocketAddr::from(([127, 0, 0, 1], 6443));
        let from = |ip: [u8; 4]| Ends { local: (ip, 40_000).into(), remote };
        assert!(!is_stale(&from([127, 0, 0, 1])) && is_stale(&from([127, 0, 0, 2])));
        let v6 = Ends { local: "[::1]:4".parse().unwrap(), remote: "[::1]:6443".parse().unwrap() };
        assert!(!is_stale(&v6));
        assert!(is_gone([192, 0, 2, 1].into()) && !is_gone([127, 0, 0, 1].into()));
    }
}
