//! Addresses handed out on this machine: one small file, changed under a lock, replaced whole.

use crate::Cidr;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Why no address was given or returned.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// Every address is taken. Retry when pods have ended.
    #[error("all addresses of {0} are taken")]
    Exhausted(Cidr),
    /// The address that was asked for is somebody's. Report.
    #[error("the address {0} is taken")]
    Taken(IpAddr),
    /// The address that was asked for is none of the block's that pods can have. Report.
    #[error("the address {0} is not one of {1} for pods")]
    Outside(IpAddr, Cidr),
    /// The state directory cannot be used. Report.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was done.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct State {
    /// The owner of each address.
    taken: BTreeMap<IpAddr, String>,
    /// The last one handed out: the search goes on behind it, so that an address rests before reuse.
    last: Option<IpAddr>,
}

/// The addresses of one block.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    block: Cidr,
    folder: PathBuf,
}

impl Pool {
    /// The pool of `block` whose state is kept in `folder`.
    pub(crate) fn new(block: Cidr, folder: &Path) -> Self {
        Self { block, folder: folder.to_owned() }
    }

    /// The owner's address: the one it has, or a new one.
    pub(crate) fn take(&self, owner: &str) -> Result<IpAddr, PoolError> {
        self.change(|state| take(self.block, state, owner).ok_or(PoolError::Exhausted(self.block)))
    }

    /// The address that the owner asks for.
    pub(crate) fn take_this(&self, owner: &str, address: IpAddr) -> Result<IpAddr, PoolError> {
        let offset = self.block.offset_of(address);
        if !offset.is_some_and(|offset| offset >= FIRST && offset < end(self.block)) {
            return Err(PoolError::Outside(address, self.block));
        }
        self.change(|state| match state.taken.get(&address) {
            Some(other) if other != owner => Err(PoolError::Taken(address)),
            _ => {
                state.taken.insert(address, owner.to_owned());
                Ok(address)
            }
        })
    }

    /// Gives the owner's addresses back; fine if it has none.
    pub(crate) fn give_back(&self, owner: &str) -> Result<(), PoolError> {
        self.change(|state| {
            state.taken.retain(|_, other| other != owner);
            Ok(())
        })
    }

    /// Gives back what belongs to owners that are no longer; returns those owners.
    pub(crate) fn retain(&self, alive: impl Fn(&str) -> bool) -> Result<Vec<String>, PoolError> {
        self.change(|state| {
            let gone = state.taken.extract_if(.., |_, owner| !alive(owner)).map(|(_, owner)| owner);
            Ok(gone.collect())
        })
    }

    /// The owner's address, if it has one.
    pub(crate) fn held_by(&self, owner: &str) -> Result<Option<IpAddr>, PoolError> {
        let state = self.read()?;
        Ok(state.taken.iter().find(|(_, other)| *other == owner).map(|(address, _)| *address))
    }

    /// Whether an address is left.
    pub(crate) fn has_room(&self) -> Result<bool, PoolError> {
        Ok(free(self.block, &self.read()?).is_some())
    }

    fn change<T>(&self, edit: impl FnOnce(&mut State) -> Result<T, PoolError>) -> Result<T, PoolError> {
        let failed = |what, path: &Path| {
            let path = path.to_owned();
            move |source| PoolError::Io { what, path, source }
        };
        std::fs::create_dir_all(&self.folder).map_err(failed("creating", &self.folder))?;
        let lock_path = self.folder.join("lock");
        let lock = File::create(&lock_path).map_err(failed("creating", &lock_path))?;
        let _locked = Flock::lock(lock, FlockArg::LockExclusive)
            .map_err(|(_, errno)| failed("locking", &lock_path)(errno.into()))?;
        let mut state = self.read()?;
        let answer = edit(&mut state)?;
        write_whole(&self.path(), &serde_json::to_vec(&state).unwrap_or_default())
            .map_err(failed("writing", &self.path()))?;
        Ok(answer)
    }

    fn path(&self) -> PathBuf {
        self.folder.join("addresses.json")
    }

    /// The state; one that cannot be read as such was written by no version of knarr and is left alone.
    fn read(&self) -> Result<State, PoolError> {
        let failed = |source| PoolError::Io { what: "reading", path: self.path(), source };
        match std::fs::read(self.path()) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| failed(error.into())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(State::default()),
            Err(error) => Err(failed(error)),
        }
    }
}

/// Replaces a file so that a crash leaves the old or the new one.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = folder.join(name);
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    File::open(folder)?.sync_all()
}

fn take(block: Cidr, state: &mut State, owner: &str) -> Option<IpAddr> {
    if let Some((address, _)) = state.taken.iter().find(|(_, other)| *other == owner) {
        return Some(*address);
    }
    let address = free(block, state)?;
    state.taken.insert(address, owner.to_owned());
    state.last = Some(address);
    Some(address)
}

/// Neither the block's name nor its gateway are a pod's.
const FIRST: u128 = 2;

/// Nor is its broadcast address.
fn end(block: Cidr) -> u128 {
    block.size().saturating_sub(1)
}

/// The next free address behind the last one.
fn free(block: Cidr, state: &State) -> Option<IpAddr> {
    let end = end(block);
    let start = state.last.and_then(|last| block.offset_of(last)).map_or(FIRST, |last| last + 1).max(FIRST);
    let offsets = (start..end).chain(FIRST..start.min(end));
    offsets.filter_map(|offset| block.nth(offset)).find(|address| !state.taken.contains_key(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(name: &str) -> Pool {
        let folder = std::env::temp_dir().join(format!("knarr-pool-{}-{name}", std::process::id()));
        Pool::new("10.42.0.0/29".parse().unwrap(), &folder)
    }

    #[test]
    fn hands_out_each_address_once_and_rests_returned_ones() {
        let pool = pool("order");
        let taken: Vec<String> =
            ["a", "b", "c"].iter().map(|owner| pool.take(owner).unwrap().to_string()).collect();
        assert_eq!(taken, ["10.42.0.2", "10.42.0.3", "10.42.0.4"]);
        assert_eq!(pool.take("b").unwrap().to_string(), "10.42.0.3", "asking again gives the same");
        pool.give_back("a").unwrap();
        pool.give_back("a").unwrap();
        assert_eq!(pool.take("d").unwrap().to_string(), "10.42.0.5");
        assert_eq!(pool.take("e").unwrap().to_string(), "10.42.0.6");
        assert_eq!(pool.take("f").unwrap().to_string(), "10.42.0.2");
        assert!(!pool.has_room().unwrap());
        assert!(matches!(pool.take("g"), Err(PoolError::Exhausted(_))));
        assert_eq!(pool.retain(|owner| owner == "d").unwrap(), ["f", "b", "c", "e"]);
        assert_eq!(pool.held_by("d").unwrap().unwrap().to_string(), "10.42.0.5");
        std::fs::remove_dir_all(&pool.folder).unwrap();
    }

    #[test]
    fn an_address_that_is_asked_for_is_given_once() {
        let pool = pool("asked");
        let ask = |owner: &str, text: &str| {
            let address = text.parse().unwrap();
            pool.take_this(owner, address).map(|_| ()).map_err(|error| error.to_string())
        };
        assert_eq!(ask("a", "10.42.0.4"), Ok(()));
        assert_eq!(ask("a", "10.42.0.4"), Ok(()), "asking again gives the same");
        assert_eq!(ask("b", "10.42.0.4"), Err("the address 10.42.0.4 is taken".to_owned()));
        for outside in ["10.42.0.0", "10.42.0.1", "10.42.0.7", "10.42.1.4", "fd00::4"] {
            assert!(
                ask("b", outside).unwrap_err().ends_with("is not one of 10.42.0.0/29 for pods"),
                "{outside}"
            );
        }
        let others: Vec<String> =
            ["b", "c"].iter().map(|owner| pool.take(owner).unwrap().to_string()).collect();
        assert_eq!(others, ["10.42.0.2", "10.42.0.3"]);
        std::fs::remove_dir_all(&pool.folder).unwrap();
    }

    #[test]
    fn many_at_once_never_share_an_address() {
        let folder = std::env::temp_dir().join(format!("knarr-pool-{}-many", std::process::id()));
        let pool = Pool::new("10.42.0.0/24".parse().unwrap(), &folder);
        let taken = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..16)
                .map(|i| {
                    let pool = &pool;
                    scope.spawn(move || pool.take(&i.to_string()).unwrap())
                })
                .collect();
            let all = threads.into_iter().map(|thread| thread.join().unwrap());
            all.collect::<std::collections::BTreeSet<_>>()
        });
        assert_eq!(taken.len(), 16);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
