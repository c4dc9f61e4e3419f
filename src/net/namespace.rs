//! Work in another network namespace, on a thread of its own that ends with it.

use crate::Error;
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::path::Path;

/// Opens a namespace; none if it is gone.
pub(crate) fn open(path: &Path) -> Result<Option<File>, Error> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(format!("opening network namespace {}", path.display()))(error)),
    }
}

/// The caller's namespace.
pub(crate) fn current() -> Result<File, Error> {
    let path = Path::new("/proc/thread-self/ns/net");
    File::open(path).map_err(Error::io("opening the node's network namespace"))
}

/// Runs `work` on a thread that joined `namespace`. Sockets that it makes stay there.
pub(crate) fn within<T: Send>(
    namespace: &File,
    work: impl FnOnce() -> Result<T, Error> + Send,
) -> Result<T, Error> {
    let joined = || {
        setns(namespace, CloneFlags::CLONE_NEWNET)
            .map_err(|errno| Error::io("joining a network namespace")(errno.into()))?;
        work()
    };
    let died = || Error::io("working in a network namespace")(std::io::Error::other("the thread panicked"));
    std::thread::scope(|scope| scope.spawn(joined).join()).unwrap_or_else(|_| Err(died()))
}
