//! Fibre Channel: disks that the machine's adapters find by the names of their targets, or by their own.

use super::scsi;
use crate::Error;
use api::core::FCVolumeSource;
use base::clock;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;

const BY_PATH: &str = "/dev/disk/by-path";
const BY_ID: &str = "/dev/disk/by-id";
const ADAPTERS: &str = "/sys/class/fc_host";
/// How often is looked for a disk after the adapters were asked, and how long is waited in between.
const LOOKS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(500);

/// The names of a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) enum Ids {
    /// Of its targets, with its number there.
    Targets(Vec<String>, i32),
    /// Its own.
    Own(Vec<String>),
}

impl Ids {
    pub(super) fn of(source: &FCVolumeSource) -> Result<Self, Error> {
        let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
        match (list(&source.target_wwns), source.lun, list(&source.wwids)) {
            (targets, Some(lun), _) if !targets.is_empty() => Ok(Self::Targets(targets, lun)),
            (_, _, own) if !own.is_empty() => Ok(Self::Own(own)),
            _ => Err(Error::Volume(
                "fc: no fc disk information found. failed to make a new mounter".to_owned(),
            )),
        }
    }

    pub(super) fn name(&self) -> String {
        match self {
            Self::Targets(targets, lun) => format!("{}-lun-{lun}", targets.join("-")),
            Self::Own(own) => own.join("-").replace(' ', "_"),
        }
    }

    /// Whether a link of the folder of links is to the disk.
    fn is_link(&self, link: &str) -> bool {
        match self {
            Self::Targets(targets, lun) => targets.iter().any(|target| {
                let own = format!("fc-0x{target}-lun-{lun}");
                let before = link.strip_suffix(&own);
                before.is_some_and(|before| {
                    before.is_empty() || before.starts_with("pci-") && before.ends_with('-')
                })
            }),
            Self::Own(own) => own.iter().any(|id| link == format!("scsi-{}", id.replace(' ', "_"))),
        }
    }

    fn links(&self) -> Vec<PathBuf> {
        let folder = if matches!(self, Self::Own(_)) { BY_ID } else { BY_PATH };
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let own = entries.filter(|entry| self.is_link(&entry.file_name().to_string_lossy()));
        own.map(|entry| entry.path()).collect()
    }

    fn find(&self) -> Option<PathBuf> {
        let links = self.links();
        links.iter().find_map(|link| scsi::joined(link)).or_else(|| links.first().cloned())
    }

    pub(super) async fn attach(&self) -> Result<PathBuf, Error> {
        if let Some(device) = self.find() {
            return Ok(device);
        }
        if !Path::new(ADAPTERS).exists() {
            return Err(Error::Volume("no fc disk found: this node has no Fibre Channel adapter".to_owned()));
        }
        for host in scsi::hosts() {
            if let Err(error) = scsi::scan(&host, "- - -").await {
                tracing::debug!(host, %error, "cannot look for disks");
            }
        }
        for _ in 0..LOOKS {
            if let Some(device) = self.find() {
                return Ok(device);
            }
            clock::sleep(PAUSE).await;
        }
        Err(Error::Volume("no fc disk found".to_owned()))
    }

    pub(super) async fn detach(&self) -> Result<(), Error> {
        for link in self.links() {
            scsi::remove(&link).await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_told_by_their_names() {
        let source = |targets: &[&str], lun, own: &[&str]| {
            let list = |list: &[&str]| Some(list.iter().map(|id| (*id).to_owned()).collect());
            FCVolumeSource { target_wwns: list(targets), lun, wwids: list(own), ..Default::default() }
        };
        let ids = Ids::of(&source(&["500a0981891b8dc5"], Some(0), &[])).unwrap();
        assert!(ids.is_link("pci-0000:41:00.0-fc-0x500a0981891b8dc5-lun-0"));
        assert!(ids.is_link("fc-0x500a0981891b8dc5-lun-0"));
        assert!(
            !ids.is_link("pci-0000:41:00.0-fc-0x500a0981891b8dc5-lun-01")
                && !ids.is_link("xfc-0x500a0981891b8dc5-lun-0")
        );
        assert_eq!(ids.name(), "500a0981891b8dc5-lun-0");
        let ids = Ids::of(&source(&[], None, &["VENDOR 12"])).unwrap();
        assert!(ids.is_link("scsi-VENDOR_12") && !ids.is_link("scsi-VENDOR_12-part1"));
        Ids::of(&source(&["a"], None, &[])).unwrap_err();
    }

    #[tokio::test]
    async fn a_machine_without_an_adapter_says_so() {
        if !Path::new(ADAPTERS).exists() {
            let error = Ids::Targets(vec!["0".to_owned()], 0).attach().await.unwrap_err();
            assert!(error.to_string().ends_with("this node has no Fibre Channel adapter"), "{error}");
        }
    }
}
