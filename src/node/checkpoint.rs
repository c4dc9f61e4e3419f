//! What the node remembers of each pod that it took: with it, a restart knows what was given already, and pods
//! run also while there is no API server to ask. One file per pod, for root alone.
//!
//! It is not forced to the disk: what a crash tears is asked of the API server again.

use crate::pods::ledger::Given;
use crate::{Config, Context, Error, files};
use api::core::{Pod, ResourceRequirements};
use api::{Object, Whole};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Resources by the name of a container.
pub(crate) type Resources = BTreeMap<String, ResourceRequirements>;

/// What is remembered of a pod.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Checkpoint {
    /// As the API server told it, or its manifest, with the status that it has here.
    pub(crate) pod: Pod,
    /// What it was given.
    pub(crate) given: Given,
    /// What its running containers have by now.
    pub(crate) actuated: Resources,
}

fn folder(config: &Config) -> PathBuf {
    config.data_dir.join("agent/pods")
}

fn file(config: &Config, uid: &str) -> PathBuf {
    folder(config).join(format!("{uid}.json"))
}

impl Checkpoint {
    fn encode(&self) -> serde_json::Result<Vec<u8>> {
        let value = json!({"pod": self.pod.to_value()?, "given": self.given, "actuated": self.actuated});
        serde_json::to_vec(&value)
    }

    fn decode(bytes: &[u8]) -> serde_json::Result<Self> {
        let mut value: Value = serde_json::from_slice(bytes)?;
        Ok(Self {
            pod: Pod::from_json(value["pod"].to_string().as_bytes())?,
            given: serde_json::from_value(value["given"].take())?,
            actuated: serde_json::from_value(value["actuated"].take())?,
        })
    }

    /// Takes the place of what was remembered before.
    pub(crate) fn write(&self, config: &Config) -> Result<(), Error> {
        let path = file(config, self.pod.uid());
        let bytes = self.encode().map_err(|error| files::at(&path)(error.into()))?;
        files::make_folder(&folder(config), 0o700)?;
        files::write(&path, &bytes, 0o600)
    }

    /// Changes what is remembered of a pod, one change after the other; nothing where nothing is, or where nothing
    /// changes.
    pub(crate) fn change(
        context: &Context,
        uid: &str,
        change: impl FnOnce(Option<Self>) -> Option<Self>,
    ) -> Result<(), Error> {
        let _one_at_a_time = context.remembering();
        let before = Self::read(&context.config, uid);
        match change(before.clone()) {
            Some(kept) if before.as_ref() != Some(&kept) => {
                context.machine.change(|| kept.write(&context.config))
            }
            _ => Ok(()),
        }
    }

    /// What is remembered of a pod; a file that cannot be read is as good as none.
    pub(crate) fn read(config: &Config, uid: &str) -> Option<Self> {
        Self::decode(&std::fs::read(file(config, uid)).ok()?).ok()
    }

    /// The pods of which something is remembered, torn or not, or kept sealed.
    pub(crate) fn uids(config: &Config) -> BTreeSet<String> {
        let files = files::list(&folder(config)).into_iter();
        let uid = |file: PathBuf| {
            let name = file.file_name()?.to_str()?;
            name.strip_suffix(".json").or(name.strip_suffix(".sealed")).map(str::to_owned)
        };
        files.filter_map(uid).collect()
    }

    /// What is remembered of all pods.
    pub(crate) fn all(config: &Config) -> Vec<Self> {
        Self::uids(config).iter().filter_map(|uid| Self::read(config, uid)).collect()
    }

    /// Forgets a pod.
    pub(crate) fn remove(config: &Config, uid: &str) -> Result<(), Error> {
        files::remove(&file(config, uid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_remembered_until_it_is_forgotten_and_what_is_torn_is_not_there() {
        let data = std::env::temp_dir().join(format!("knarr-checkpoint-{}", std::process::id()));
        let config = Config::new("node", &data);
        let spec = json!({"containers": [{"name": "c", "resources": {"limits": {"cpu": "1"}}}]});
        let pod: Pod = serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": spec})).unwrap();
        let kept = Checkpoint { given: Given::of(&pod), actuated: BTreeMap::new(), pod };
        kept.write(&config).unwrap();
        assert_eq!(Checkpoint::read(&config, "u"), Some(kept.clone()));
        std::fs::write(file(&config, "torn"), b"{\"pod\"").unwrap();
        assert_eq!(Checkpoint::all(&config), [kept]);
        assert_eq!(Checkpoint::uids(&config).len(), 2);
        Checkpoint::remove(&config, "u").unwrap();
        assert_eq!(Checkpoint::read(&config, "u"), None);
        files::remove_folder(&data).unwrap();
    }
}
