//! All authorities of the cluster together with the keys of service accounts, and how others come in their place while
//! everything goes on.

use crate::authority::{Authority, Former};
use crate::certificates::{self, LEAF_LIFE};
use crate::identity::content;
use crate::pki::pem_of;
use crate::{Error, files, keys};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;

/// The authorities by their files.
pub(crate) const AUTHORITIES: [&str; 3] = ["server-ca", "client-ca", "request-header-ca"];
pub(crate) const SERVICE_KEY: &str = "service.key";
/// What is known of authorities before; there is none at first.
pub(crate) const PAST: &str = "rotations.json";
/// What is being written. It is finished at the next start.
const JOURNAL: &str = "rotation.new";
/// More authorities than that are not trusted at once.
const FORMERS: usize = 8;

/// Files by their names below `server/tls`.
pub type Files = BTreeMap<String, String>;

/// What is asked of a change of authorities.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Change {
    /// The files of new authorities and keys, by their names; those that are missing stay. Without any, new ones
    /// are made.
    pub files: Files,
    /// Take authorities that nobody trusts by those that there are.
    pub force: bool,
    /// Do not trust former ones any longer. Alone it is all that is done.
    pub forget: bool,
}

/// What is remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Past {
    /// What servers' own key is made of, where that is not the present authority's key.
    sealing: Option<String>,
    /// Fingerprints of all authorities of servers that were, the oldest first.
    earlier: Vec<String>,
    /// By the names of their files.
    former: BTreeMap<String, Vec<Former>>,
}

/// See the module's comment.
#[derive(Clone)]
pub(crate) struct Authorities {
    files: Files,
    past: Past,
    pub(crate) server: Authority,
    pub(crate) client: Authority,
    pub(crate) request_header: Authority,
    /// Keys of service accounts (PKCS#8 in DER): the first signs, all verify.
    pub(crate) service_keys: Vec<Vec<u8>>,
}

impl Authorities {
    /// Reads what the folder has, and makes what is missing.
    pub(crate) fn prepare(folder: &Path) -> Result<Self, Error> {
        finish(folder)?;
        let mut made = Files::new();
        for name in AUTHORITIES {
            if let Some((certificate, key)) = missing(folder, name)? {
                made.insert(format!("{name}.crt"), certificate);
                made.insert(format!("{name}.key"), key);
            }
        }
        let service_key = folder.join(SERVICE_KEY);
        if !service_key.exists() {
            made.insert(SERVICE_KEY.to_owned(), new_service_key().map_err(|why| content(&service_key, why))?);
        }
        if !made.is_empty() {
            lay(folder, &made)?;
        }
        let mut all = Files::new();
        for name in names() {
            if let Some(text) = files::read(&folder.join(&name))? {
                if name.ends_with(".key") {
                    files::check_private(&folder.join(&name))?;
                }
                all.insert(name, text);
            }
        }
        Self::of(all).map_err(|(name, why)| content(&folder.join(name), why))
    }

    /// Of all files; an error names the one that is wrong.
    pub(crate) fn of(files: Files) -> Result<Self, (String, String)> {
        let now = certificates::wall_clock();
        let past = match files.get(PAST) {
            None => Past::default(),
            Some(text) => serde_json::from_str(text).map_err(|error| (PAST.to_owned(), error.to_string()))?,
        };
        let read = |name: &str| {
            let text = |ending| files.get(&format!("{name}.{ending}")).map_or("", String::as_str);
            let former = past.former.get(name).map(Vec::as_slice).unwrap_or_default();
            Authority::read(text("crt"), text("key"), former, now).map_err(|why| (format!("{name}.crt"), why))
        };
        let [server, client, request_header] = AUTHORITIES.map(read);
        let service_keys = keys::all(files.get(SERVICE_KEY).map_or("", String::as_str));
        let service_keys = service_keys.map_err(|why| (SERVICE_KEY.to_owned(), why))?;
        Ok(Self {
            server: server?,
            client: client?,
            request_header: request_header?,
            service_keys,
            past,
            files,
        })
    }

    /// The files that there are to be after a change; an error says what is wrong with it.
    pub(crate) fn changed(&self, change: &Change) -> Result<Files, String> {
        let now = certificates::wall_clock();
        let known = |name: &String| names().contains(name) && name != PAST;
        if let Some(unknown) = change.files.keys().find(|name| !known(name)) {
            return Err(format!("{unknown} is no file of authorities"));
        }
        let makes = change.files.is_empty() && !change.forget;
        let mut next = self.files.clone();
        let mut past = self.past.clone();
        past.sealing.get_or_insert_with(|| self.files.get("server-ca.key").cloned().unwrap_or_default());
        for (name, current) in AUTHORITIES.into_iter().zip([&self.server, &self.client, &self.request_header])
        {
            let former = past.former.entry(name.to_owned()).or_default();
            former.retain(|one| !change.forget && one.until_s > base::clock::now().as_second());
            let Some((certificate, key)) = wanted(name, change, makes)? else { continue };
            let said = |why: String| format!("{name}.crt: {why}");
            let new = Authority::read(&certificate, &key, &[], now).map_err(said)?;
            new.check_now(now).map_err(said)?;
            next.insert(format!("{name}.crt"), certificate);
            next.insert(format!("{name}.key"), key);
            if new.is_same(current) {
                continue;
            }
            if !makes && !change.force && !current.leads_to(&new) {
                return Err(format!(
                    "{name}.crt: neither the present authority nor its root vouches for it, so that who trusts them would not trust it: have it signed by one of them and add that certificate to the file, or say --force"
                ));
            }
            if name == "server-ca" {
                past.earlier.push(current.fingerprint());
            }
            if !change.forget {
                let until_s =
                    base::clock::now().as_second() + i64::try_from(LEAF_LIFE.as_secs()).unwrap_or(0);
                former.push(current.become_former(&new, now, until_s));
            }
            if former.len() > FORMERS {
                return Err(format!(
                    "{FORMERS} former authorities are trusted still: end that with --forget-former first"
                ));
            }
        }
        next.insert(SERVICE_KEY.to_owned(), self.service_keys(change, makes)?);
        next.insert(PAST.to_owned(), serde_json::to_string(&past).map_err(|error| error.to_string())?);
        Self::of(next.clone()).map_err(|(name, why)| format!("{name}: {why}"))?;
        Ok(next)
    }

    fn service_keys(&self, change: &Change, makes: bool) -> Result<String, String> {
        let current = self.files.get(SERVICE_KEY).cloned().unwrap_or_default();
        if makes {
            return Ok(format!("{}{current}", new_service_key()?));
        }
        let said = |why: String| format!("{SERVICE_KEY}: {why}");
        let Some(new) = change.files.get(SERVICE_KEY) else {
            let first = || keys::first(&current).map_err(said);
            return if change.forget { first() } else { Ok(current) };
        };
        let public = |all: &[Vec<u8>]| all.iter().map(|key| keys::public(key)).collect::<Result<Vec<_>, _>>();
        let given = public(&keys::all(new).map_err(said)?).map_err(said)?;
        let lost = public(&self.service_keys).map_err(said)?.iter().any(|key| !given.contains(key));
        if lost && !change.force && !change.forget {
            return Err(format!(
                "{SERVICE_KEY}: it has not the present key, so that tokens of service accounts would not be believed any longer: add that one behind the new one, or say --force"
            ));
        }
        Ok(new.clone())
    }

    /// The same, believing what keys of service accounts that are about to come sign.
    pub(crate) fn trusting(&self, next: &Self) -> Self {
        let mut both = self.clone();
        both.service_keys
            .extend(next.service_keys.iter().filter(|key| !self.service_keys.contains(key)).cloned());
        both
    }

    /// Whether other files are those of the same cluster, and of an earlier time.
    pub(crate) fn comes_after(&self, other: &Self) -> bool {
        self.past.earlier.contains(&other.server.fingerprint())
            || (self.server.is_same(&other.server) && self.past.earlier.len() > other.past.earlier.len())
    }
}

/// What servers' own key is made of.
pub(crate) fn sealing(files: &Files) -> String {
    let past: Past = files.get(PAST).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    past.sealing.or_else(|| files.get("server-ca.key").cloned()).unwrap_or_default()
}

/// The names of all files, also those that there need not be.
pub(crate) fn names() -> Vec<String> {
    let pairs = AUTHORITIES.into_iter().flat_map(|name| [format!("{name}.crt"), format!("{name}.key")]);
    pairs.chain([SERVICE_KEY, PAST].map(str::to_owned)).collect()
}

/// The certificate and the key that are to be, if they are to be others.
fn wanted(name: &str, change: &Change, makes: bool) -> Result<Option<(String, String)>, String> {
    if makes {
        let label = format!("knarr-{name}@{}", base::clock::now().as_second());
        let made = certificates::issue_authority(&label).map_err(|error| error.to_string())?;
        return Ok(Some((made.certificate, made.key)));
    }
    let of = |ending: &str| change.files.get(&format!("{name}.{ending}")).cloned();
    match (of("crt"), of("key")) {
        (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
        (None, None) => Ok(None),
        (Some(_), None) => Err(format!("{name}.crt is there without {name}.key")),
        (None, Some(_)) => Err(format!("{name}.key is there without {name}.crt")),
    }
}

fn new_service_key() -> Result<String, String> {
    let pair = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
    pair.map(|pair| pem_of("PRIVATE KEY", pair.as_ref())).map_err(|_| "no entropy".to_owned())
}

/// The two files of an authority if both are missing. Half of one is never replaced: everything it signed would be
/// worthless.
fn missing(folder: &Path, name: &str) -> Result<Option<(String, String)>, Error> {
    let [certificate, key] = ["crt", "key"].map(|ending| folder.join(format!("{name}.{ending}")));
    match (certificate.exists(), key.exists()) {
        (true, true) => Ok(None),
        (true, false) => Err(content(&certificate, "its key is missing".to_owned())),
        (false, true) => Err(content(&key, "its certificate is missing".to_owned())),
        (false, false) => {
            let made = certificates::issue_authority(&format!("knarr-{name}"));
            let made = made.map_err(|error| content(&certificate, error.to_string()))?;
            Ok(Some((made.certificate, made.key)))
        }
    }
}

/// Lays all files, whole or not at all.
pub(crate) fn lay(folder: &Path, all: &Files) -> Result<(), Error> {
    let text = serde_json::to_string(all).map_err(|error| content(folder, error.to_string()))?;
    files::write(&folder.join(JOURNAL), &text, files::PRIVATE)?;
    finish(folder)
}

/// Finishes what was begun.
fn finish(folder: &Path) -> Result<(), Error> {
    let journal = folder.join(JOURNAL);
    let Some(text) = files::read(&journal)? else { return Ok(()) };
    let all: Files = serde_json::from_str(&text).map_err(|error| content(&journal, error.to_string()))?;
    let known = names();
    for (name, text) in all.iter().filter(|(name, _)| known.contains(name)) {
        files::write(&folder.join(name), text, files::PRIVATE)?;
    }
    files::remove(&journal)
}

/// Warns of authorities that are not valid now, or will not be soon.
pub(crate) fn warn(all: &Authorities, now: SystemTime) {
    for (name, authority) in AUTHORITIES.into_iter().zip([&all.server, &all.client, &all.request_header]) {
        if let Err(why) = authority.check_now(now) {
            tracing::warn!(
                name,
                why,
                "this authority does not hold (knarr certificate rotate-ca makes others)"
            );
        } else if let Err(why) = authority.check_now(now + certificates::RENEWAL) {
            tracing::warn!(name, why, "this authority ends soon (knarr certificate rotate-ca makes others)");
        }
    }
}
