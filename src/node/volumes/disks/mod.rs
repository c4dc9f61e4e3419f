//! Disks that come to this machine over a network, and devices of its own: made ready once for all pods of this node, and
//! let go of with the last. What is known of a disk lies in its folder below `plugins/kubernetes.io`, which is all that
//! a restart goes by: where it is mounted, how it came here, and the pods that have it. Start reading at [`open`].

mod fc;
mod iscsi;
mod scsi;

use super::Trouble;
use super::by_program::{self, Mounting};
use super::claims::Claimed;
use super::mount_table::{Busy, unmount};
use crate::turns::{Key, Turn};
use crate::{Context, Error, files};
use api::Object;
use api::core::{Pod, Volume};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The file system of disks whose volume names none.
const DEFAULT_KIND: &str = "ext4";
const FILE: &str = "disk.json";
const USERS: &str = "users";

/// How a disk comes to this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Way {
    /// It is here.
    Local(PathBuf),
    Iscsi(iscsi::Target),
    Fc(fc::Ids),
}

/// A disk as a volume asks for it.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    way: Way,
    /// The namespace and the name of its Secret; what is in that is never written beside the disk.
    secret: Option<(String, String)>,
    kind: String,
    options: Vec<String>,
    pub(super) read_only: bool,
}

impl Disk {
    /// The name of Kubernetes' plugin.
    pub(super) fn plugin(&self) -> &'static str {
        self.way.plugin()
    }
}

impl Way {
    fn plugin(&self) -> &'static str {
        match self {
            Self::Local(_) => "local-volume",
            Self::Iscsi(_) => "iscsi",
            Self::Fc(_) => "fc",
        }
    }

    /// What tells it from others; a name of a folder.
    fn name(&self) -> Result<String, Error> {
        let name = match self {
            Self::Local(device) => base::hex::sha256(device.as_os_str().as_encoded_bytes()),
            Self::Iscsi(target) => target.name(),
            Self::Fc(ids) => ids.name(),
        };
        if name.contains(['/', '\0']) || name.starts_with('.') || name.is_empty() {
            return Err(Error::Volume(format!("{name:?} cannot name a disk")));
        }
        Ok(name)
    }

    async fn attach(&self, context: &Context, secret: Option<&(String, String)>) -> Result<PathBuf, Error> {
        match self {
            Self::Local(device) => Ok(device.clone()),
            Self::Iscsi(target) => target.attach(context, &iscsi::secrets(context, secret).await?).await,
            Self::Fc(ids) => ids.attach().await,
        }
    }

    async fn detach(&self, context: &Context, folder: &Path) -> Result<(), Error> {
        match self {
            Self::Local(_) => Ok(()),
            Self::Iscsi(target) => target.detach(context, folder).await,
            Self::Fc(ids) => ids.detach().await,
        }
    }
}

fn plugins(context: &Context) -> PathBuf {
    context.config.kubelet_dir.join("plugins/kubernetes.io")
}

fn kind(asked: Option<&String>) -> Result<String, Error> {
    let kind = asked.filter(|kind| !kind.is_empty()).cloned().unwrap_or_else(|| DEFAULT_KIND.to_owned());
    // It becomes part of a program's name.
    let is_name = kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if is_name { Ok(kind) } else { Err(Error::Volume(format!("{kind:?} is not a file system"))) }
}

/// The disk of a volume that a pod itself describes; none if its type has none.
pub(super) fn of_pod(pod: &Pod, volume: &Volume) -> Result<Option<Disk>, Error> {
    let (way, secret, fs_type, read_only) = if let Some(source) = &volume.iscsi {
        let secret = source.secret_ref.as_ref();
        let secret = secret.map(|secret| (pod.namespace().to_owned(), secret.name.clone()));
        let target = iscsi::Target::of(source, &format!("{}-{}", pod.uid(), volume.name))?;
        (Way::Iscsi(target), secret, &source.fs_type, source.read_only)
    } else if let Some(source) = &volume.fc {
        (Way::Fc(fc::Ids::of(source)?), None, &source.fs_type, source.read_only)
    } else {
        return Ok(None);
    };
    let (kind, read_only) = (kind(fs_type.as_ref())?, read_only == Some(true));
    Ok(Some(Disk { way, secret, kind, options: Vec::new(), read_only }))
}

/// The disk of a volume that is claimed; none if its type has none.
pub(super) fn of_claim(claimed: &Claimed) -> Result<Option<Disk>, Error> {
    let spec = claimed.spec();
    let (way, secret, fs_type) = if let Some(source) = &spec.iscsi {
        let secret = source.secret_ref.as_ref().map(|secret| {
            let namespace = secret.namespace.clone().unwrap_or_else(|| claimed.claim.namespace().to_owned());
            (namespace, secret.name.clone().unwrap_or_default())
        });
        let target = iscsi::Target::of(&iscsi::as_of_pod(source), claimed.volume.name())?;
        (Way::Iscsi(target), secret, &source.fs_type)
    } else if let Some(source) = &spec.fc {
        (Way::Fc(fc::Ids::of(source)?), None, &source.fs_type)
    } else {
        return Ok(None);
    };
    let (options, read_only) = (spec.mount_options.clone().unwrap_or_default(), claimed.read_only);
    Ok(Some(Disk { way, secret, kind: kind(fs_type.as_ref())?, options, read_only }))
}

/// A device of this machine with a file system.
pub(super) fn of_device(claimed: &Claimed, device: &Path) -> Result<Disk, Error> {
    let spec = claimed.spec();
    Ok(Disk {
        way: Way::Local(device.to_owned()),
        secret: None,
        kind: kind(spec.local.as_ref().and_then(|local| local.fs_type.as_ref()))?,
        options: spec.mount_options.clone().unwrap_or_default(),
        read_only: claimed.read_only,
    })
}

/// A disk that is ready for a pod, and nobody else's turn.
pub(super) struct Opened {
    /// Where it is mounted, or its device.
    pub(super) path: PathBuf,
    /// Until it is bound into the pod's folder.
    pub(super) turn: Turn,
}

/// Makes a disk ready for a pod: here, and unless it is wanted as a device formatted and mounted. Goes on also when the
/// pod is to go meanwhile: a file system is made whole or not at all.
pub(super) async fn open(
    context: &std::sync::Arc<Context>,
    pod: &Pod,
    disk: Disk,
    (volume, as_files): (&str, bool),
) -> Result<Opened, Trouble> {
    let attach = if as_files { "MountVolume.WaitForAttach" } else { "MapVolume.WaitForAttach" };
    let failed = |step: &'static str| move |error: Error| Trouble::at(step, volume, &error);
    let (plugin, name) = (disk.way.plugin(), disk.way.name().map_err(failed(attach))?);
    let folder = plugins(context).join(plugin).join(&name);
    let key: Key = (plugin.to_owned(), name);
    let turn = context.volumes.disks.take(&key).await;
    let (of, user) = (context.clone(), folder.join(USERS).join(pod.uid()));
    let opened = turn.to_the_end(
        context,
        Box::pin(async move {
            let words = serde_json::to_vec(&disk.way).map_err(|error| Error::Volume(error.to_string()))?;
            let at = folder.clone();
            let note = move || {
                files::make_folder(&at.join(USERS), 0o750)?;
                files::write(&at.join(FILE), &words, 0o600)?;
                files::write(&user, b"", 0o600)
            };
            of.volumes.background.run(&folder, note).await?;
            let device = disk.way.attach(&of, disk.secret.as_ref()).await?;
            // What fails from here on is another step.
            Ok(if as_files { mount(&disk, &device, &folder.join("mount")).await } else { Ok(device) })
        }),
    );
    let opened = opened.await.and_then(|opened| opened).map_err(failed(attach))?;
    Ok(Opened { path: opened.map_err(failed("MountVolume.MountDevice"))?, turn })
}

async fn mount(disk: &Disk, device: &Path, target: &Path) -> Result<PathBuf, Error> {
    let mut options = disk.options.clone();
    if disk.read_only {
        options.push("ro".to_owned());
    }
    let (kind, source) = (disk.kind.clone(), device.display().to_string());
    let mounting = Mounting { kind, source, target: target.to_owned(), options };
    by_program::mount_device(&mounting).await.map_err(|error| {
        let (plugin, from, to) =
            (disk.way.plugin().trim_end_matches("-volume"), &mounting.source, target.display());
        let kind = &mounting.kind;
        Error::Volume(format!(
            "{plugin}: failed to mount device {from} at {to} (fstype: {kind}), error {error}"
        ))
    })?;
    Ok(target.to_owned())
}

/// The folders of disks of these plugins.
fn folders(plugins: &Path, names: &[&str]) -> Vec<PathBuf> {
    let all = names.iter().flat_map(|name| files::list(&plugins.join(name)));
    all.filter(|folder| folder.join(FILE).exists()).collect()
}

fn read(folder: &Path) -> Result<Way, Error> {
    let path = folder.join(FILE);
    let text = std::fs::read(&path).map_err(files::at(&path))?;
    serde_json::from_slice(&text).map_err(|error| Error::Volume(format!("{}: {error}", path.display())))
}

/// The disks of a plugin beside the one of a folder.
fn others(context: &Context, plugin: &str, folder: &Path) -> Vec<Way> {
    let all = folders(&plugins(context), &[plugin]);
    all.iter().filter(|other| *other != folder).filter_map(|other| read(other).ok()).collect()
}

/// Lets a pod go of its disks, after they were unmounted from its folder; the last one takes a disk off this machine.
pub(super) async fn release(context: &Context, uid: &str) -> Result<(), Error> {
    let mut wrong = Ok(());
    // One that cannot be let go of holds none of the others.
    for folder in folders(&plugins(context), &["local-volume", "iscsi", "fc"]) {
        if folder.join(USERS).join(uid).exists() {
            let released = release_one(context, uid, &folder).await;
            wrong = wrong.and(released);
        }
    }
    wrong
}

async fn release_one(context: &Context, uid: &str, folder: &Path) -> Result<(), Error> {
    let way = read(folder)?;
    let key: Key = (way.plugin().to_owned(), way.name()?);
    let _turn = context.volumes.disks.take(&key).await;
    let user = folder.join(USERS).join(uid);
    if files::list(&folder.join(USERS)).len() > 1 {
        return context.change(folder, move || files::remove(&user)).await;
    }
    let mounted = folder.join("mount");
    context.change(folder, move || unmount(&mounted, Busy::Stays)).await?;
    way.detach(context, folder).await?;
    let at = folder.to_owned();
    context.change(folder, move || files::remove_folder(&at)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_file_systems_lead_nowhere_else() {
        assert_eq!(kind(None).unwrap(), "ext4");
        assert_eq!(kind(Some(&"xfs".to_owned())).unwrap(), "xfs");
        kind(Some(&"../x".to_owned())).unwrap_err();
        let local = Way::Local("/dev/sdb".into());
        assert_eq!(local.name().unwrap().len(), 64);
        let text = serde_json::to_string(&local).unwrap();
        assert_eq!(serde_json::from_str::<Way>(&text).unwrap(), local);
    }
}
