//! What servers of a cluster have in common beside its state: authorities, the key of service accounts' tokens and
//! the server token. It lies in the datastore, sealed with a key that is made of the token.

use crate::identity::content;
use crate::rotation::{self, Authorities, Files, PAST};
use crate::{Error, files};
use base::seal::{KEY_BYTES, Key};
use ring::{digest, pbkdf2};
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::Path;

/// Under which the token's credentials are among them.
const CREDENTIALS: &str = "token";
/// What it is sealed as.
const ABOUT: &str = "knarr bootstrap 1";
/// OWASP's number for PBKDF2 with HMAC-SHA-256: a token may be a person's invention. Without optimization they take
/// many seconds.
const ROUNDS: NonZeroU32 =
    NonZeroU32::new(if cfg!(test) { 1_000 } else { 600_000 }).expect("it is more than nothing");
pub(crate) const SALT_BYTES: usize = 16;

/// What servers have in common.
#[derive(Clone, PartialEq, Eq)]
pub struct Common(BTreeMap<String, String>);

/// There are keys in it.
impl std::fmt::Debug for Common {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}

/// The key that a secret makes.
pub(crate) fn key_of(secret: &str, salt: &[u8]) -> Key {
    let mut bytes = [0; KEY_BYTES];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ROUNDS, salt, secret.as_bytes(), &mut bytes);
    Key::new(&bytes)
}

/// The secret of what is given as a token: itself, or that of a whole token.
pub(crate) fn secret_of(token: &str) -> &str {
    let credentials = token.split_once("::").map_or(token, |(_, credentials)| credentials);
    credentials.strip_prefix("server:").unwrap_or(credentials)
}

/// Seals bytes with a key that is made of the server token.
fn seal(token: &str, about: &str, plain: &[u8]) -> Vec<u8> {
    let salt: [u8; SALT_BYTES] = base::random::bytes();
    [&salt[..], &key_of(secret_of(token), &salt).seal(about, plain)].concat()
}

/// What was sealed so about this; none with another token.
fn unseal(token: &str, about: &str, sealed: &[u8]) -> Option<Vec<u8>> {
    let (salt, sealed) = sealed.split_first_chunk::<SALT_BYTES>()?;
    key_of(secret_of(token), salt).open(about, sealed)
}

impl Common {
    pub(crate) fn from_files(files: BTreeMap<String, String>) -> Self {
        Self(files)
    }

    pub(crate) fn files(&self) -> &BTreeMap<String, String> {
        &self.0
    }

    /// Of this server's files; none where it has not been started before.
    pub fn of(data_dir: &Path) -> Result<Option<Self>, Error> {
        let folder = data_dir.join("server/tls");
        let mut all = BTreeMap::new();
        for name in rotation::names() {
            match files::read(&folder.join(&name))? {
                Some(text) => drop(all.insert(name, text)),
                None if name == PAST => {}
                None => return Ok(None),
            }
        }
        let Some(credentials) = crate::server_credentials(data_dir) else { return Ok(None) };
        all.insert(CREDENTIALS.to_owned(), credentials);
        Ok(Some(Self(all)))
    }

    /// A key that all servers have, whatever their token is.
    fn own_key(&self) -> Key {
        let secret = rotation::sealing(&self.0);
        let bytes = digest::digest(&digest::SHA256, format!("knarr servers 1\n{secret}").as_bytes());
        Key::new(bytes.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    /// Seals bytes for all servers.
    pub fn seal_own(&self, about: &str, plain: &[u8]) -> Vec<u8> {
        self.own_key().seal(about, plain)
    }

    /// What was sealed so about this; none where it is another cluster's.
    pub fn open_own(&self, about: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        self.own_key().open(about, sealed)
    }

    /// The secret that it is sealed with: that of the server token.
    pub(crate) fn secret(&self) -> &str {
        self.0.get(CREDENTIALS).map_or("", |credentials| secret_of(credentials))
    }

    /// Sealed for the datastore.
    pub fn seal(&self) -> Vec<u8> {
        let plain = serde_json::to_vec(&self.0).expect("texts can always be written as JSON");
        seal(self.secret(), ABOUT, &plain)
    }

    /// What a server with this token, a secret or a whole token, finds in the datastore; none where the token is not
    /// the cluster's.
    pub fn open(sealed: &[u8], token: &str) -> Option<Self> {
        let plain = unseal(token, ABOUT, sealed)?;
        serde_json::from_slice(&plain).ok().map(Self)
    }

    /// The same with other authorities.
    pub fn with(&self, files: &Files) -> Self {
        let credentials = self.0.get_key_value(CREDENTIALS);
        let credentials = credentials.map(|(name, text)| (name.clone(), text.clone()));
        Self(files.clone().into_iter().chain(credentials).collect())
    }

    /// The authorities' files.
    pub fn authorities(&self) -> Files {
        let all = self.0.iter().filter(|(name, _)| *name != CREDENTIALS);
        all.map(|(name, text)| (name.clone(), text.clone())).collect()
    }

    /// Lays the files where a server looks for them. Those of another cluster are left alone, and are an error; those
    /// of this one that are later stay.
    pub fn lay(&self, data_dir: &Path) -> Result<(), Error> {
        let folder = data_dir.join("server/tls");
        files::private_folder(&data_dir.join("server"))?;
        files::private_folder(&folder)?;
        let mut there = Files::new();
        for name in rotation::names() {
            there.extend(files::read(&folder.join(&name))?.map(|text| (name, text)));
        }
        let own = self.authorities();
        if there.iter().any(|(name, text)| own.get(name) != Some(text)) {
            let read =
                |files: Files| Authorities::of(files).map_err(|(name, why)| content(&folder.join(name), why));
            let (local, given) = (read(there)?, read(own.clone())?);
            if local.comes_after(&given) {
                return Ok(());
            }
            if !given.comes_after(&local) {
                return Err(Error::Setting(format!(
                    "{} is of another cluster than the datastore: move {} away, or name that cluster's datastore",
                    folder.join("server-ca.crt").display(),
                    folder.display()
                )));
            }
        }
        rotation::lay(&folder, &own)?;
        let authority = own.get("server-ca.crt").map_or("", String::as_str);
        crate::server_token(data_dir, authority, Some(self.secret())).map(drop)
    }

    /// Takes back what a server made for itself before it heard that another one was first.
    pub fn remove(data_dir: &Path) -> Result<(), Error> {
        for name in rotation::names() {
            files::remove(&data_dir.join("server/tls").join(name))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_the_token_opens_it_and_nobody_else() {
        let common = Common(
            [("server-ca.key", "KEY"), (CREDENTIALS, "server:a-secret-of-some-length")]
                .map(|(name, text)| (name.to_owned(), text.to_owned()))
                .into(),
        );
        let sealed = common.seal();
        assert!(!sealed.windows(3).any(|part| part == b"KEY"));
        for token in ["a-secret-of-some-length", "K10abc::server:a-secret-of-some-length"] {
            assert_eq!(Common::open(&sealed, token), Some(common.clone()));
        }
        assert_eq!(Common::open(&sealed, "another-secret-of-some-length"), None);
        assert_eq!(Common::open(&sealed[..20], "a-secret-of-some-length"), None);
        assert_eq!(format!("{common:?}"), "[\"server-ca.key\", \"token\"]");
    }
}
