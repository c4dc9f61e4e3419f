//! The machine's resolvers, as its files name them now.

use base::clock::{self, Instant};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// So many resolvers are used, as the C library does.
const RESOLVERS: usize = 3;

/// Files are looked at no more often than this.
const LOOK: Duration = Duration::from_secs(1);

/// The longest file that is read.
const FILE_BYTES: usize = 64 * 1024;

/// systemd-resolved's stub, and the file where it names the real resolvers.
const STUB: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53));
const BEHIND_STUB: &str = "/run/systemd/resolve/resolv.conf";

/// When the files that name resolvers were last changed.
type Stamp = [Option<SystemTime>; 2];

#[derive(Default)]
struct Read {
    looked: Option<Instant>,
    stamp: Stamp,
    resolvers: Vec<SocketAddr>,
}

pub(crate) struct Machine {
    resolv_conf: PathBuf,
    /// Where we listen: never to be asked.
    own: Vec<IpAddr>,
    read: Mutex<Read>,
}

impl Machine {
    pub(crate) fn new(resolv_conf: PathBuf, own: Vec<IpAddr>) -> Self {
        Self { resolv_conf, own, read: Mutex::default() }
    }

    /// The resolvers, read again when their file has changed.
    pub(crate) fn resolvers(&self) -> Vec<SocketAddr> {
        let now = clock::instant();
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if read.looked.is_none_or(|at| now - at >= LOOK) {
            let modified = |file: &Path| std::fs::metadata(file).and_then(|file| file.modified()).ok();
            let stamp = [modified(&self.resolv_conf), modified(Path::new(BEHIND_STUB))];
            if read.looked.is_none() || read.stamp != stamp {
                (read.stamp, read.resolvers) = (stamp, resolvers(&self.resolv_conf, &self.own));
                tracing::debug!(resolvers = ?read.resolvers, "read the machine's resolvers");
            }
            read.looked = Some(now);
        }
        read.resolvers.clone()
    }
}

/// The resolvers that a file names, without ourselves. systemd-resolved's stub is passed by, as it may
/// have been told to ask us.
fn resolvers(file: &Path, own: &[IpAddr]) -> Vec<SocketAddr> {
    let read = |file: &Path| {
        let mut text = std::fs::read_to_string(file).unwrap_or_default();
        text.truncate(text.floor_char_boundary(FILE_BYTES));
        nameservers(&text)
    };
    let mut named = read(file);
    if named.contains(&STUB) {
        named = read(Path::new(BEHIND_STUB));
    }
    named.retain(|address| !own.contains(address) && *address != STUB && !address.is_unspecified());
    named.into_iter().take(RESOLVERS).map(|address| SocketAddr::new(address, 53)).collect()
}

fn nameservers(text: &str) -> Vec<IpAddr> {
    let lines = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    lines.filter_map(|rest| rest.split_whitespace().next()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_read_as_the_c_library_reads_them() {
        let text = "# nameserver 9.9.9.9\nsearch x\nnameserver 192.0.2.1\n nameserver\tfd00::1 # two\nnameserver x\n";
        assert_eq!(nameservers(text), ["192.0.2.1".parse::<IpAddr>().unwrap(), "fd00::1".parse().unwrap()]);
    }

    #[test]
    fn ourselves_and_the_stub_are_never_asked() {
        let folder = std::env::temp_dir().join(format!("knarr-dns-machine-{}", std::process::id()));
        let text = "nameserver 10.43.0.10\nnameserver 0.0.0.0\nnameserver 192.0.2.1\n";
        std::fs::write(&folder, text).unwrap();
        let found = resolvers(&folder, &["10.43.0.10".parse().unwrap()]);
        std::fs::remove_file(&folder).unwrap();
        assert_eq!(found, ["192.0.2.1:53".parse().unwrap()]);
    }
}
