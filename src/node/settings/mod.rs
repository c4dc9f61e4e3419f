//! What the kubelet is told: its flags (`--kubelet-arg name=value`), its configuration file and the files of a
//! folder that change it, read strictly, as one [`KubeletConfiguration`]. What is known and cannot be honoured
//! is refused with a sentence.

mod configuration;
mod document;
mod duration;
pub(crate) mod fits;
mod flags;
mod gates;
mod rules;
mod unsupported;

pub(crate) use configuration::{GraceOfPriority, KubeletConfiguration, Texts};
pub(crate) use duration::GoDuration;

use crate::Error;
use document::{decode, merge, overrule, parse};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The largest file that is read.
const FILE_BYTES: u64 = 1 << 20;

/// Where kubelets listen.
pub(crate) const PORT: u16 = 10_250;

/// Everything the kubelet is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its configuration, with defaults.
    pub(crate) kubelet: Arc<KubeletConfiguration>,
    /// Labels that the node registers with (`--node-labels`).
    pub(crate) node_labels: BTreeMap<String, String>,
    /// The configuration of programs that give credentials for images, and their folder.
    pub(crate) credential_providers: Option<(PathBuf, PathBuf)>,
    /// A cloud's controllers complete the node (`--cloud-provider=external`).
    pub(crate) external_cloud: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            kubelet: document::by_default(),
            node_labels: BTreeMap::new(),
            credential_providers: None,
            external_cloud: false,
        }
    }
}

impl Settings {
    /// The port of the kubelet's HTTPS.
    pub fn port(&self) -> u16 {
        u16::try_from(self.kubelet.port).unwrap_or(PORT)
    }

    /// Reads what `--kubelet-arg` says, with the files that it names. Every mistake is told.
    pub fn read(arguments: &[String]) -> Result<Self, Error> {
        let said = flags::parse(arguments).map_err(Error::Setup)?;
        let last = |name: &str| said.own.iter().rev().find(|(flag, _)| *flag == name).map(|(_, value)| value);
        let mut fields = Map::new();
        if let Some(file) = last("config") {
            merge(&mut fields, read_file(file.as_ref())?);
        }
        if let Some(folder) = last("config-dir") {
            for file in drop_ins(folder.as_ref())? {
                merge(&mut fields, read_file(&file)?);
            }
        }
        overrule(&mut fields, said.fields.clone());
        let kubelet = decode(fields).map_err(Error::Setup)?;
        let mistakes = [rules::check(&kubelet), unsupported::check(&kubelet)].concat();
        if !mistakes.is_empty() {
            return Err(Error::Setup(format!("--kubelet-arg: {}", mistakes.join("; "))));
        }
        let folder = last("image-credential-provider-bin-dir").map(PathBuf::from);
        let file = last("image-credential-provider-config").map(PathBuf::from);
        let credential_providers = match (file, folder) {
            (None, None) => None,
            (Some(file), Some(folder)) => Some((file, folder)),
            _ => {
                let both =
                    "image-credential-provider-config and image-credential-provider-bin-dir go together";
                return Err(Error::Setup(format!("--kubelet-arg: {both}")));
            }
        };
        Ok(Self {
            kubelet: Arc::new(kubelet),
            node_labels: labels(
                said.own.iter().filter(|(flag, _)| *flag == "node-labels").map(|(_, all)| all),
            )?,
            credential_providers,
            external_cloud: external_cloud(last("cloud-provider"))?,
        })
    }
}

fn external_cloud(provider: Option<&String>) -> Result<bool, Error> {
    match provider.map(String::as_str) {
        None | Some("") => Ok(false),
        Some("external") => Ok(true),
        Some(other) => {
            let why =
                format!("--kubelet-arg: cloud-provider {other:?} is not external, the only one there is");
            Err(Error::Setup(why))
        }
    }
}

fn labels<'a>(lists: impl Iterator<Item = &'a String>) -> Result<BTreeMap<String, String>, Error> {
    let pair = |part: &str| {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        if api::validate::qualified_name(name).is_empty() {
            Ok((name.to_owned(), value.to_owned()))
        } else {
            Err(Error::Setup(format!("--kubelet-arg: node-labels: {name:?} is no name of a label")))
        }
    };
    lists.flat_map(|list| list.split(',').filter(|part| !part.is_empty())).map(pair).collect()
}

/// The files of a folder that change the configuration, in their names' order.
fn drop_ins(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = std::fs::read_dir(folder).map_err(crate::files::at(folder))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(crate::files::at(folder))?.path();
        if path.extension().is_some_and(|ending| ending == "conf") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn read_file(path: &Path) -> Result<Map<String, Value>, Error> {
    if std::fs::metadata(path).map_err(crate::files::at(path))?.len() > FILE_BYTES {
        return Err(Error::Setup(format!("{}: it is larger than {FILE_BYTES} bytes", path.display())));
    }
    let bytes = std::fs::read(path).map_err(crate::files::at(path))?;
    parse(&bytes).map_err(|why| Error::Setup(format!("{}: {why}", path.display())))
}

#[cfg(test)]
mod tests;
