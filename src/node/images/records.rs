//! Which pods may use an image that is there: what it was pulled with is kept, and who comes with another credential
//! has to pull it again (KEP-2535).

use super::keyring::{AccountSource, Credential, SecretSource, Source};
use super::reference::Reference;
use crate::{Error, files};
use base::{clock, hex};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";
/// Secrets that are kept for one image, so that ever new namespaces do not write forever.
const SECRETS: usize = 100;

/// What an image was pulled with under one name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Credentials {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kubernetes_secrets: Vec<SecretSource>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kubernetes_service_accounts: Vec<AccountSource>,
    /// With the node's own, or with none.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    node_pods_accessible: bool,
}

impl Credentials {
    /// What one credential, or none, is kept as.
    fn of(used: Option<&Source>) -> Self {
        match used {
            None | Some(Source::Node) => Self { node_pods_accessible: true, ..Self::default() },
            Some(Source::Secret(secret)) => {
                Self { kubernetes_secrets: vec![secret.clone()], ..Self::default() }
            }
            Some(Source::Account(account)) => {
                Self { kubernetes_service_accounts: vec![account.clone()], ..Self::default() }
            }
        }
    }

    /// Adds what another pull was made with; whether anything changed.
    fn merge(&mut self, other: Self) -> bool {
        let before = self.clone();
        if self.node_pods_accessible || other.node_pods_accessible {
            *self = Self { node_pods_accessible: true, ..Self::default() };
            return *self != before;
        }
        for secret in other.kubernetes_secrets {
            let same = |own: &SecretSource| {
                (&own.uid, &own.namespace, &own.name) == (&secret.uid, &secret.namespace, &secret.name)
            };
            self.kubernetes_secrets.retain(|own| !same(own));
            self.kubernetes_secrets.push(secret);
        }
        for account in other.kubernetes_service_accounts {
            if !self.kubernetes_service_accounts.contains(&account) {
                self.kubernetes_service_accounts.push(account);
            }
        }
        self.kubernetes_secrets
            .sort_by(|a, b| (&a.namespace, &a.name, &a.uid).cmp(&(&b.namespace, &b.name, &b.uid)));
        *self != before
    }

    /// Whether a pod with these credentials may use the image, and what to add to the record then.
    fn lets(&self, pod: &[Credential]) -> Access {
        if self.node_pods_accessible {
            return Access::Granted(None);
        }
        for credential in pod {
            match &credential.source {
                Source::Secret(secret) => {
                    let known = |own: &&SecretSource| own.credential_hash == secret.credential_hash;
                    let named = |own: &&SecretSource| {
                        (&own.uid, &own.namespace, &own.name)
                            == (&secret.uid, &secret.namespace, &secret.name)
                    };
                    let all = &self.kubernetes_secrets;
                    if all.iter().any(|own| known(&own) && named(&own)) {
                        return Access::Granted(None);
                    }
                    // The same content elsewhere, or the same secret with new content: both become known.
                    if all.iter().any(|own| known(&own) || named(&own)) {
                        let room = all.len() < SECRETS;
                        return Access::Granted(room.then(|| credential.source.clone()));
                    }
                }
                Source::Account(account) if self.kubernetes_service_accounts.contains(account) => {
                    return Access::Granted(None);
                }
                _ => {}
            }
        }
        Access::Refused
    }
}

/// Whether an image that is there may be used without another pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Yes; with a credential that becomes known by that.
    Granted(Option<Source>),
    Refused,
}

/// `imagePullCredentialsVerificationPolicy`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    Never,
    Preloaded,
    Allowlisted(Vec<String>),
    Always,
}

impl Policy {
    /// From the configuration, which was checked.
    pub(crate) fn of(name: &str, allowed: &[String]) -> Self {
        match name {
            "NeverVerify" => Self::Never,
            "AlwaysVerify" => Self::Always,
            "NeverVerifyAllowlistedImages" => Self::Allowlisted(allowed.to_vec()),
            _ => Self::Preloaded,
        }
    }

    /// Whether credentials are looked at for an image of this name, which this node has pulled itself or not.
    fn verifies(&self, name: &str, was_pulled: bool) -> bool {
        match self {
            Self::Never => false,
            Self::Preloaded => was_pulled,
            Self::Always => true,
            Self::Allowlisted(patterns) => !patterns.iter().any(|pattern| {
                pattern.strip_suffix('*').map_or(name == pattern, |prefix| name.starts_with(prefix))
            }),
        }
    }
}

/// A record of pulls of one image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Record {
    credential_mapping: BTreeMap<String, Credentials>,
}

/// The records in their folder, `image_manager` below the kubelet's.
pub(crate) struct Records {
    folder: PathBuf,
    policy: Policy,
    /// Held for a change: two pulls of one image add to the same file. Counts the pulls under way by name.
    pulls: Mutex<BTreeMap<String, usize>>,
}

/// The file of a name, whatever signs it has.
fn file_name(of: &str) -> String {
    format!("sha256-{}", hex::sha256(of.as_bytes()))
}

/// The name that credentials are kept under.
fn untagged(image: &str) -> &str {
    Reference::parse(image).map_or(image, |reference| reference.name)
}

/// What a file says; one that is torn is as good as none.
fn read<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Option<T>, Error> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(files::at(path)(error)),
    }
}

impl Records {
    pub(crate) fn new(kubelet_dir: &Path, policy: Policy) -> Self {
        Self { folder: kubelet_dir.join("image_manager"), policy, pulls: Mutex::default() }
    }

    fn pulled(&self, image_id: &str) -> PathBuf {
        self.folder.join("pulled").join(file_name(image_id))
    }

    fn pulling(&self, image: &str) -> PathBuf {
        self.folder.join("pulling").join(file_name(image))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, usize>> {
        self.pulls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether who uses an image is looked at; credentials are only needed then.
    pub(crate) fn verifies(&self, image: &str, image_id: &str) -> bool {
        let was_pulled = self.pulled(image_id).exists() || self.pulling(image).exists();
        self.policy.verifies(untagged(image), was_pulled)
    }

    /// Whether a pod with these credentials may use an image that is there.
    pub(crate) fn access(&self, image: &str, image_id: &str, pod: &[Credential]) -> Result<Access, Error> {
        let record: Option<Record> = read(&self.pulled(image_id))?;
        let known = record.as_ref().and_then(|record| record.credential_mapping.get(untagged(image)));
        let access = known.map_or(Access::Refused, |known| known.lets(pod));
        if let Access::Granted(Some(source)) = &access {
            let _held = self.lock();
            self.add(image, image_id, Credentials::of(Some(source)))?;
        }
        Ok(access)
    }

    /// Keeps that a pull is about to be tried: an image that it leaves is this node's, whatever happens to knarr.
    pub(crate) fn begin(&self, image: &str) -> Result<(), Error> {
        let mut pulls = self.lock();
        let path = self.pulling(image);
        files::make_folder(&self.folder.join("pulling"), 0o700)?;
        files::make_folder(&self.folder.join("pulled"), 0o700)?;
        let intent = json!({"kind": "ImagePullIntent", "apiVersion": API_VERSION, "image": image});
        files::write(&path, intent.to_string().as_bytes(), 0o600)?;
        *pulls.entry(image.to_owned()).or_default() += 1;
        Ok(())
    }

    /// Keeps what an image was pulled with.
    pub(crate) fn succeeded(&self, image: &str, image_id: &str, used: Option<&Source>) -> Result<(), Error> {
        {
            let _held = self.lock();
            self.add(image, image_id, Credentials::of(used))?;
        }
        self.end(image)
    }

    /// A pull has ended; the last of its name takes the intent away.
    pub(crate) fn end(&self, image: &str) -> Result<(), Error> {
        let mut pulls = self.lock();
        if let Some(count) = pulls.get_mut(image).filter(|count| **count > 1) {
            *count -= 1;
            return Ok(());
        }
        pulls.remove(image);
        files::remove(&self.pulling(image))
    }

    fn add(&self, image: &str, image_id: &str, credentials: Credentials) -> Result<(), Error> {
        let path = self.pulled(image_id);
        let before: Option<Record> = read(&path)?;
        let is_new = before.is_none();
        let mut record = before.unwrap_or_default();
        let changed =
            record.credential_mapping.entry(untagged(image).to_owned()).or_default().merge(credentials);
        if !changed && !is_new {
            return Ok(());
        }
        let value = json!({
            "kind": "ImagePulledRecord", "apiVersion": API_VERSION,
            "lastUpdatedTime": clock::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            "imageRef": image_id, "credentialMapping": record.credential_mapping,
        });
        files::make_folder(&self.folder.join("pulled"), 0o700)?;
        files::write(&path, value.to_string().as_bytes(), 0o600)
    }

    /// Turns pulls that an earlier life began into records without credentials, where the image is there by now.
    pub(crate) fn recover(&self, images: &[(String, Vec<String>)]) -> Result<(), Error> {
        let entries = std::fs::read_dir(self.folder.join("pulling")).into_iter().flatten().flatten();
        for entry in entries {
            let Some(intent) = read::<Value>(&entry.path())? else { continue };
            let image = intent["image"].as_str().unwrap_or_default();
            let full = crate::images::full_reference(image);
            if let Some((id, _)) = images.iter().find(|(_, names)| names.contains(&full))
                && !self.pulled(id).exists()
            {
                let value = json!({
                    "kind": "ImagePulledRecord", "apiVersion": API_VERSION, "imageRef": id,
                    "lastUpdatedTime": clock::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
                });
                files::make_folder(&self.folder.join("pulled"), 0o700)?;
                files::write(&self.pulled(id), value.to_string().as_bytes(), 0o600)?;
            }
            files::remove(&entry.path())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::keyring::{Entry, Keyring};
    use super::*;

    fn secret(name: &str, password: &str) -> Vec<Credential> {
        let mut keyring = Keyring::default();
        let source = |credential_hash| {
            Source::Secret(SecretSource {
                uid: format!("uid of {name}"),
                namespace: "n".to_owned(),
                name: name.to_owned(),
                credential_hash,
            })
        };
        keyring.add(vec![Entry::new("r.io", "u", password)], source);
        keyring.find("r.io/app")
    }

    fn records(test: &str, policy: Policy) -> Records {
        let folder = std::env::temp_dir().join(format!("knarr-records-{test}-{}", std::process::id()));
        files::remove_folder(&folder).unwrap();
        Records::new(&folder, policy)
    }

    fn done(records: &Records) {
        files::remove_folder(records.folder.parent().unwrap()).unwrap();
    }

    #[test]
    fn who_has_what_it_was_pulled_with_may_use_it() {
        let records = records("may", Policy::Preloaded);
        assert!(!records.verifies("r.io/app:1", "sha256:1"), "it came with the node");
        records.begin("r.io/app:1").unwrap();
        assert!(records.verifies("r.io/app:1", "sha256:1"), "it is being pulled");
        let used = secret("a", "p");
        records.succeeded("r.io/app:1", "sha256:1", Some(&used[0].source)).unwrap();
        assert!(records.verifies("r.io/app:1", "sha256:1"));
        let access = |image: &str, pod: &[Credential]| records.access(image, "sha256:1", pod).unwrap();
        assert_eq!(access("r.io/app:1", &used), Access::Granted(None));
        assert_eq!(access("r.io/app:1", &[]), Access::Refused);
        assert_eq!(access("r.io/other:1", &used), Access::Refused);
        assert_eq!(access("r.io/app:1", &secret("b", "other")), Access::Refused);
        // Another secret with the same content, and then that one with new content.
        let twin = secret("b", "p");
        assert_eq!(access("r.io/app:2", &twin), Access::Granted(Some(twin[0].source.clone())));
        assert_eq!(access("r.io/app:2", &twin), Access::Granted(None));
        let renewed = secret("b", "new");
        assert_eq!(access("r.io/app:1", &renewed), Access::Granted(Some(renewed[0].source.clone())));
        records.begin("r.io/app:1").unwrap();
        records.succeeded("r.io/app:1", "sha256:1", None).unwrap();
        assert_eq!(access("r.io/app:1", &[]), Access::Granted(None));
        done(&records);
    }

    #[test]
    fn policies_say_when_to_look() {
        let names = ["NeverVerify", "NeverVerifyPreloadedImages", "AlwaysVerify"];
        let verified = names.map(|name| {
            let policy = Policy::of(name, &[]);
            (policy.verifies("r.io/app", false), policy.verifies("r.io/app", true))
        });
        assert_eq!(verified, [(false, false), (false, true), (true, true)]);
        let allowed = ["r.io/base/*".to_owned(), "q.io/one".to_owned()];
        let policy = Policy::of("NeverVerifyAllowlistedImages", &allowed);
        assert!(!policy.verifies("r.io/base/x", true) && !policy.verifies("q.io/one", true));
        assert!(policy.verifies("q.io/one/two", true) && policy.verifies("r.io/basement", false));
    }

    #[test]
    fn a_pull_that_was_cut_off_leaves_an_image_that_is_looked_at() {
        let records = records("cut", Policy::Preloaded);
        records.begin("r.io/app:1").unwrap();
        let again = Records::new(records.folder.parent().unwrap(), Policy::Preloaded);
        again.recover(&[("sha256:1".to_owned(), vec!["r.io/app:1".to_owned()])]).unwrap();
        assert!(again.verifies("r.io/app:1", "sha256:1"));
        assert_eq!(again.access("r.io/app:1", "sha256:1", &secret("a", "p")).unwrap(), Access::Refused);
        assert!(!again.pulling("r.io/app:1").exists());
        done(&records);
    }
}
