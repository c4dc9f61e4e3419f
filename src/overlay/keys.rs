//! The node's own key for WireGuard: made here, kept in a file that only root reads, and made anew when it is old or
//! the file is gone.

use crate::Error;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jiff::{SignedDuration, Timestamp};
use net::wireguard::{KEY_BYTES, PrivateKey, PublicKey};
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// After so long a key is made anew.
const LIFE: SignedDuration = SignedDuration::from_hours(7 * 24);

/// A file that is longer was written by somebody else.
const MOST_BYTES: usize = 1_024;

/// The key that is to be used now: the one in the file, or a new one in its place.
pub(crate) fn current(path: &Path, now: Timestamp) -> Result<PrivateKey, Error> {
    let failed = |source| Error::Key { path: path.to_owned(), source };
    match fs::read_to_string(path) {
        Ok(text) => {
            let (key, made) = read(&text).ok_or_else(|| failed(ErrorKind::InvalidData.into()))?;
            // A clock that was set back does not make keys live for ever.
            if now.duration_since(made).abs() < LIFE {
                return Ok(key);
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let key = PrivateKey::new(base::random::bytes());
    write(path, &key, now).map_err(failed)?;
    tracing::info!("this node has a new key for WireGuard");
    Ok(key)
}

fn read(text: &str) -> Option<(PrivateKey, Timestamp)> {
    let (key, made) = text.get(..text.len().min(MOST_BYTES))?.trim().split_once(' ')?;
    Some((PrivateKey::new(decode(key)?), made.parse().ok()?))
}

fn write(path: &Path, key: &PrivateKey, now: Timestamp) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder)?;
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(&new)?;
    writeln!(file, "{} {now}", BASE64_STANDARD.encode(key.secret()))?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    fs::File::open(folder)?.sync_all()
}

fn decode(text: &str) -> Option<[u8; KEY_BYTES]> {
    BASE64_STANDARD.decode(text).ok()?.try_into().ok()
}

/// A key as a Node's annotation has it.
pub(crate) fn public_text(key: &PublicKey) -> String {
    BASE64_STANDARD.encode(key.0)
}

/// The key of an annotation.
pub(crate) fn read_public(text: &str) -> Option<PublicKey> {
    decode(text).map(PublicKey)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_lives_for_a_week_and_no_longer_than_its_file() {
        let folder = std::env::temp_dir().join(format!("knarr-keys-{}", std::process::id()));
        let path = folder.join("agent/wireguard.key");
        let now = Timestamp::UNIX_EPOCH;
        let first = current(&path, now).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(current(&path, now + SignedDuration::from_hours(167)).unwrap(), first);
        let second = current(&path, now + SignedDuration::from_hours(169)).unwrap();
        assert_ne!(second, first);
        fs::remove_file(&path).unwrap();
        assert_ne!(current(&path, now).unwrap(), second);
        fs::write(&path, "somebody's diary").unwrap();
        assert!(current(&path, now).is_err(), "what is no key of ours is left alone");
        fs::remove_dir_all(folder).unwrap();
    }
}
