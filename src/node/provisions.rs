//! What pods were last provided with from the API, for a voyage without it: an agent's pods start while the API server
//! is away, also after the machine's restart. One file per pod beside what else is remembered of it (`checkpoint`);
//! Secrets and tokens must not lie on a disk in the clear, so that it is sealed.
//!
//! A server's own node keeps none: its API server is never away.

use crate::volumes::{Claims, Payload};
use crate::{Config, Context, Error, files};
use api::Object;
use api::core::{ConfigMap, Pod, Secret, Service};
use api::k8s::api::node::v1::RuntimeClass;
use base::seal::{KEY_BYTES, Key};
use client::Cache;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::OnceLock;

/// What one pod was provided with, each by its name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Provisions {
    pub(crate) config_maps: BTreeMap<String, ConfigMap>,
    pub(crate) secrets: BTreeMap<String, Secret>,
    pub(crate) runtime_classes: BTreeMap<String, RuntimeClass>,
    /// By the name of the claim.
    pub(crate) claims: BTreeMap<String, Claims>,
    /// Volumes that the API server fills.
    pub(crate) volumes: BTreeMap<String, Payload>,
    /// The services that containers are told of.
    pub(crate) services: BTreeMap<String, Vec<Service>>,
}

/// Where provisions of a type lie.
pub(crate) type Slot<T> = fn(&mut Provisions) -> &mut BTreeMap<String, T>;

/// What can be kept.
pub(crate) trait Provision: Clone + PartialEq {
    /// Whether what is kept may stay where this was fetched. A disk wears by what is written to it.
    fn may_stay(&self, fetched: &Self) -> bool {
        self == fetched
    }
}

impl Provision for ConfigMap {}
impl Provision for Secret {}
impl Provision for RuntimeClass {}
impl Provision for Vec<Service> {}

/// The provisions of all pods of a node.
pub(crate) struct Stores {
    folder: PathBuf,
    key_file: PathBuf,
    key: OnceLock<Key>,
}

impl Stores {
    pub(crate) fn new(config: &Config) -> Self {
        let agent = config.data_dir.join("agent");
        Self { folder: agent.join("pods"), key_file: agent.join("provisions.key"), key: OnceLock::new() }
    }

    fn file(&self, uid: &str) -> PathBuf {
        self.folder.join(format!("{uid}.sealed"))
    }

    /// The node's own key, made when it is wanted first.
    fn key(&self) -> Result<&Key, Error> {
        if let Some(key) = self.key.get() {
            return Ok(key);
        }
        let there = std::fs::read(&self.key_file).ok().and_then(|bytes| bytes.try_into().ok());
        let bytes: [u8; KEY_BYTES] = match there {
            Some(bytes) => bytes,
            None => {
                let fresh = base::random::bytes();
                files::make_folder(&self.folder, 0o700)?;
                files::write_durably(&self.key_file, &fresh, 0o600)?;
                fresh
            }
        };
        Ok(self.key.get_or_init(|| Key::new(&bytes)))
    }

    /// What is kept for a pod; nothing where that cannot be read.
    pub(crate) fn read(&self, uid: &str) -> Provisions {
        let sealed = std::fs::read(self.file(uid)).ok();
        let plain = sealed.and_then(|sealed| self.key().ok()?.open(uid, &sealed));
        plain.and_then(|plain| serde_json::from_slice(&plain).ok()).unwrap_or_default()
    }

    pub(crate) fn write(&self, uid: &str, provisions: &Provisions) -> Result<(), Error> {
        let path = self.file(uid);
        let plain = serde_json::to_vec(provisions).map_err(|error| files::at(&path)(error.into()))?;
        files::make_folder(&self.folder, 0o700)?;
        files::write(&path, &self.key()?.seal(uid, &plain), 0o600)
    }

    /// Forgets a pod's.
    pub(crate) fn remove(&self, uid: &str) -> Result<(), Error> {
        files::remove(&self.file(uid))
    }
}

impl Context {
    /// What was fetched, which is kept from now on; what was kept, while the API server is away.
    pub(crate) fn or_kept<T: Provision, E>(
        &self,
        pod: &Pod,
        (slot, name): (Slot<T>, &str),
        fetched: Result<T, E>,
    ) -> Result<T, E> {
        match fetched {
            Ok(fetched) => {
                self.keep(pod, (slot, name), Some(&fetched));
                Ok(fetched)
            }
            Err(error) if self.reach.is_away() => self.kept(pod, (slot, name)).ok_or(error),
            Err(error) => Err(error),
        }
    }

    /// What is kept.
    fn kept<T>(&self, pod: &Pod, (slot, name): (Slot<T>, &str)) -> Option<T> {
        slot(&mut self.provisions.read(pod.uid())).remove(name)
    }

    /// Keeps what was fetched, or forgets what is there no more.
    fn keep<T: Provision>(&self, pod: &Pod, place: (Slot<T>, &str), fetched: Option<&T>) {
        if self.config.shared_caches {
            return;
        }
        if let Err(error) = self.machine.change(|| self.try_to_keep(pod, place, fetched)) {
            tracing::warn!(uid = pod.uid(), %error, "cannot keep what a pod was provided with");
        }
    }

    fn try_to_keep<T: Provision>(
        &self,
        pod: &Pod,
        (slot, name): (Slot<T>, &str),
        fetched: Option<&T>,
    ) -> Result<(), Error> {
        let _one_at_a_time = self.remembering();
        let mut provisions = self.provisions.read(pod.uid());
        let kept = slot(&mut provisions);
        let may_stay = match (kept.get(name), fetched) {
            (Some(kept), Some(fetched)) => kept.may_stay(fetched),
            (kept, fetched) => kept.is_none() && fetched.is_none(),
        };
        if may_stay {
            return Ok(());
        }
        match fetched {
            Some(fetched) => kept.insert(name.to_owned(), fetched.clone()),
            None => kept.remove(name),
        };
        self.provisions.write(pod.uid(), &provisions)
    }

    /// An object that a pod refers to.
    pub(crate) async fn referred<T: Object + Provision>(
        &self,
        pod: &Pod,
        slot: Slot<T>,
        (namespace, name): (&str, &str),
    ) -> Result<T, client::Error> {
        let fetched = self.client.get::<T>(namespace, name).await;
        if fetched.as_ref().is_err_and(client::Error::is_not_found) {
            self.keep(pod, (slot, name), None);
        }
        self.or_kept(pod, (slot, name), fetched)
    }

    /// Completes once the first list of a kind is in; an error where the API server is away before it was.
    pub(crate) async fn synced<T: Object>(&self, cache: &Cache<T>) -> Result<(), client::Error> {
        tokio::select! {
            biased;
            () = cache.synced() => Ok(()),
            () = self.reach.gone() => Err(client::Error::Transport("the API server is away".to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_kept_is_sealed_and_found_again() {
        let data = std::env::temp_dir().join(format!("knarr-provisions-{}", std::process::id()));
        let config = Config::new("node", &data);
        let secret: Secret = serde_json::from_value(json!({"stringData": {"word": "swordfish"}})).unwrap();
        let mut kept = Provisions::default();
        kept.secrets.insert("s".to_owned(), secret);
        Stores::new(&config).write("u", &kept).unwrap();
        let stores = Stores::new(&config);
        assert_eq!(stores.read("u"), kept);
        let file = std::fs::read(stores.file("u")).unwrap();
        assert!(!file.windows(9).any(|part| part == b"swordfish"));
        // Another pod's file is none of its own.
        std::fs::rename(stores.file("u"), stores.file("other")).unwrap();
        assert_eq!((stores.read("other"), stores.read("u")), Default::default());
        stores.remove("other").unwrap();
        files::remove_folder(&data).unwrap();
    }
}
