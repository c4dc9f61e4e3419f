//! Netlink messages of netfilter's, and of others whose own header is as long: how they are written, sent and
//! answered.

use crate::Error;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

pub(crate) const REQUEST: u16 = 1;
pub(crate) const ACKNOWLEDGE: u16 = 4;
/// Everything there is.
pub(crate) const DUMP: u16 = 0x300;
pub(crate) const CREATE: u16 = 0x400;
pub(crate) const APPEND: u16 = 0x800;

/// The number of nftables among netfilter's subsystems.
pub(crate) const NFTABLES: u16 = 10;

/// The bytes of a netlink message; attributes are nested by closures.
#[derive(Default)]
pub(crate) struct Message(pub(crate) Vec<u8>);

pub(crate) const ALIGNMENT: usize = 4;
const NESTED: u16 = 1 << 15;

impl Message {
    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(ALIGNMENT), 0);
    }

    /// Patches a length, which counts from `start`, and aligns what follows.
    fn close(&mut self, start: usize, wide: bool) {
        let length = self.0.len() - start;
        if wide {
            self.0[start..start + 4]
                .copy_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
        } else {
            self.0[start..start + 2]
                .copy_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_ne_bytes());
        }
        self.pad();
    }

    pub(crate) fn attribute(&mut self, kind: u16, bytes: &[u8]) {
        let start = self.0.len();
        self.0.extend([0, 0]);
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(bytes);
        self.close(start, false);
    }

    pub(crate) fn text(&mut self, kind: u16, text: &str) {
        self.attribute(kind, &[text.as_bytes(), &[0]].concat());
    }

    pub(crate) fn nest(&mut self, kind: u16, within: impl FnOnce(&mut Self)) {
        let start = self.0.len();
        self.0.extend([0, 0]);
        self.0.extend((kind | NESTED).to_ne_bytes());
        within(self);
        self.close(start, false);
    }

    /// A message with netfilter's header, or another one of four bytes.
    pub(crate) fn message(
        &mut self,
        (kind, flags): (u16, u16),
        sequence: u32,
        header: [u8; 4],
        within: impl FnOnce(&mut Self),
    ) {
        let start = self.0.len();
        self.0.extend([0; 4]);
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(flags.to_ne_bytes());
        self.0.extend(sequence.to_ne_bytes());
        self.0.extend([0; 4]);
        self.0.extend(header);
        within(self);
        self.close(start, true);
    }
}

/// The room for one answer, which is a bunch of messages.
const ANSWER_BYTES: usize = 64 << 10;
/// The kernel answers at once; an answer that was lost must not hold a thread.
const ANSWER_LIMIT_S: i64 = 10;
/// Kinds of messages that answer: 0 within the first is an acknowledgement.
const ERROR: u16 = 2;
const DONE: u16 = 3;
const HEADER: usize = 16;

/// A message of the kernel's: its kind, the number of what it answers, and what follows the header.
pub(crate) type Answer<'a> = (u16, u32, &'a [u8]);

/// The messages in what was received.
pub(crate) fn messages(bytes: &[u8]) -> impl Iterator<Item = Answer<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::try_from(word(rest, 0)?).ok()?;
        let (kind, number) = (half(rest, 4)?, word(rest, 8)?);
        let body = rest.get(HEADER..length.min(rest.len()))?;
        rest = rest.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        Some((kind, number, body))
    })
}

pub(crate) fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(crate) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The attributes of a message, their kinds without the bits that say how they are written.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(half(rest, 0)?);
        let kind = half(rest, 2)? & 0x3fff;
        let body = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// The first attribute of a kind.
pub(crate) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(own, _)| *own == kind).map(|(_, body)| body)
}

/// What the kernel did not do, and why. Message 0 is all of them.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) message: u32,
    pub(crate) errno: Errno,
}

impl Refused {
    pub(crate) fn about(&self, what: &str) -> Error {
        Error::Netlink { what: what.to_owned(), reason: self.errno.desc().to_owned() }
    }
}

/// A socket that stays open from one use to the next. When one is closed, the kernel waits until no packet can be
/// at what was removed of nftables before, which takes tens of milliseconds on a busy machine, and holds up all
/// changes meanwhile.
///
/// It belongs to the network namespace in which it is used first.
#[derive(Clone, Debug, Default)]
pub struct Channel(Arc<Mutex<Option<OwnedFd>>>);

impl Channel {
    /// See [`talk`]. After a failure nobody knows what is still to be heard: the next use begins anew.
    pub(crate) fn talk(&self, bytes: &[u8], last: u32) -> Result<(), Refused> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let socket = match held.take() {
            Some(socket) => socket,
            None => open(SockProtocol::NetlinkNetFilter)?,
        };
        say(&socket, bytes, last, |_| {})?;
        *held = Some(socket);
        Ok(())
    }
}

fn whole(errno: Errno) -> Refused {
    Refused { message: 0, errno }
}

fn open(protocol: SockProtocol) -> Result<OwnedFd, Refused> {
    let (domain, flags) = (AddressFamily::Netlink, SockFlag::SOCK_CLOEXEC);
    let socket = socket(domain, SockType::Raw, flags, protocol).map_err(whole)?;
    setsockopt(&socket, sockopt::RcvBufForce, &(ANSWER_BYTES * 16)).map_err(whole)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(ANSWER_LIMIT_S)).map_err(whole)?;
    Ok(socket)
}

/// Sends messages and hands on what comes back until message `last` is acknowledged or its dump done.
pub(crate) fn talk(bytes: &[u8], last: u32, hear: impl FnMut(Answer<'_>)) -> Result<(), Refused> {
    talk_to(SockProtocol::NetlinkNetFilter, bytes, last, hear)
}

/// The same with another part of the kernel.
pub(crate) fn talk_to(
    protocol: SockProtocol,
    bytes: &[u8],
    last: u32,
    hear: impl FnMut(Answer<'_>),
) -> Result<(), Refused> {
    say(&open(protocol)?, bytes, last, hear)
}

fn say(socket: &OwnedFd, bytes: &[u8], last: u32, mut hear: impl FnMut(Answer<'_>)) -> Result<(), Refused> {
    setsockopt(socket, sockopt::SndBufForce, &(bytes.len() * 2)).map_err(whole)?;
    sendto(socket.as_raw_fd(), bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty()).map_err(whole)?;
    let mut buffer = vec![0; ANSWER_BYTES];
    loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()).map_err(whole)?;
        for (kind, number, body) in messages(&buffer[..length]) {
            let code = word(body, 0).map_or(0, |code| -code.cast_signed());
            match kind {
                ERROR if code != 0 => return Err(Refused { message: number, errno: Errno::from_raw(code) }),
                ERROR | DONE if number == last => return Ok(()),
                ERROR | DONE => {}
                _ => hear((kind, number, body)),
            }
        }
    }
}

/// Runs what talks to the kernel beside the runtime's workers: a batch may take milliseconds.
pub(crate) async fn run<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined.map_err(|error| Error::io(what)(std::io::Error::other(error)))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let mut bytes = Vec::new();
        for (number, code) in [(1_u32, -2_i32), (2, 0)] {
            bytes.extend(20_u32.to_ne_bytes());
            bytes.extend(ERROR.to_ne_bytes());
            bytes.extend([0, 0]);
            bytes.extend(number.to_ne_bytes());
            bytes.extend([0; 4]);
            bytes.extend(code.to_ne_bytes());
        }
        let read = |bytes| {
            messages(bytes).map(|(kind, number, body)| (kind, number, word(body, 0))).collect::<Vec<_>>()
        };
        let refused = (-2_i32).cast_unsigned();
        assert_eq!(read(&bytes), [(ERROR, 1, Some(refused)), (ERROR, 2, Some(0))]);
        assert_eq!(read(&bytes[..25]), [(ERROR, 1, Some(refused))]);
    }
}
