//! What both kinds of claimed volumes begin with, files and devices: the cluster is told, the volume is attached, its
//! driver is there, and nobody else works on it.

use super::allocatable;
use super::attach;
use super::data::Data;
use super::driver::Driver;
use super::expand::{self, Grown};
use super::publish::{Publication, about};
use super::request::{self, Map, Usage};
use super::stage::Staging;
use crate::protocols::csi::v1::node_service_capability::rpc::Type;
use crate::turns::{Key, Turn};
use crate::volumes::{Claimed, Trouble, ownership};
use crate::{Context, Error};
use api::Object;
use api::core::{CSIPersistentVolumeSource, Pod};
use api::storage::CSIDriver;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What Kubernetes calls the steps of a volume.
pub(super) struct Steps {
    pub(super) claim: &'static str,
    pub(super) stage: &'static str,
    /// Before the words that the driver is not there.
    pub(super) missing: &'static str,
}

/// A claimed volume, in its pod's turn.
pub(super) struct Begun<'a> {
    pod: &'a Pod,
    claimed: &'a Claimed,
    source: &'a CSIPersistentVolumeSource,
    about: Option<Arc<CSIDriver>>,
    driver: Arc<Driver>,
    turn: Turn,
    attached: Map,
    usage: Usage,
}

fn usage(pod: &Pod, claimed: &Claimed, source: &CSIPersistentVolumeSource, groups: bool) -> Usage {
    let spec = claimed.spec();
    Usage {
        modes: spec.access_modes.clone().unwrap_or_default(),
        kind: source.fs_type.clone().unwrap_or_default(),
        options: spec.mount_options.clone().unwrap_or_default(),
        is_block: claimed.is_block(),
        group: ownership::of(pod).map(|owner| owner.group).filter(|_| groups),
    }
}

/// With several modes nobody knows which of them a pod counts on.
fn is_for_one_pod(claimed: &Claimed) -> bool {
    claimed.spec().access_modes.as_deref().is_some_and(|modes| modes == ["ReadWriteOncePod"])
}

fn is_published_beside(context: &Context, key: &Key, (claimed, pod): (&Claimed, &Pod)) -> bool {
    let others = context.csi.in_use.others(key, pod.uid());
    others.iter().any(|other| context.csi.is_published(claimed.volume.name(), other))
}

/// What the attacher says of a volume once it is attached.
async fn attached(context: &Context, key: &Key, about: request::About<'_>) -> Result<Map, Trouble> {
    let said = attach::metadata(context, key).await;
    if said != Err(Trouble::Unattached) {
        return said;
    }
    let attachment = attach::attachment_name(key, &context.config.node_name);
    let is_exhausted = allocatable::is_exhausted(context, about, &attachment).await;
    Err(if is_exhausted { Trouble::Exhausted } else { Trouble::Unattached })
}

impl<'a> Begun<'a> {
    pub(super) async fn new(
        context: &Context,
        pod: &'a Pod,
        (claimed, source): (&'a Claimed, &'a CSIPersistentVolumeSource),
        steps: &Steps,
    ) -> Result<Self, Trouble> {
        let failed =
            |step: &'static str| move |error: Error| Trouble::at(step, claimed.volume.name(), &error);
        let key: Key = (source.driver.clone(), source.volume_handle.clone());
        let about = about(context, &source.driver).await;
        let is_attached = request::is_attached(about.as_deref());
        attach::claim(context, &key, pod.uid(), is_attached).await.map_err(failed(steps.claim))?;
        let attached =
            if is_attached { attached(context, &key, about.as_deref()).await? } else { Map::new() };
        let turn = context.csi.turns.take(&key).await;
        if is_for_one_pod(claimed) && is_published_beside(context, &key, (claimed, pod)) {
            let why = "volume uses the ReadWriteOncePod access mode and is already in use by another pod";
            return Err(failed(steps.claim)(Error::Volume(why.to_owned())));
        }
        let missing = |error: Error| Error::Volume(format!("kubernetes.io/csi: {}: {error}", steps.missing));
        let driver = context.csi.driver(&source.driver).map_err(missing).map_err(failed(steps.stage))?;
        let capabilities = driver.capabilities().await;
        let capabilities = capabilities.map_err(|failure| failed(steps.stage)(failure.into()))?;
        let groups = capabilities.has(Type::VolumeMountGroup) && !claimed.is_block();
        let usage = usage(pod, claimed, source, groups);
        Ok(Self { pod, claimed, source, about, driver, turn, attached, usage })
    }

    pub(super) fn staging(&self) -> Staging<'_> {
        let Self { driver, source, usage, attached, turn, .. } = self;
        Staging { driver, source, usage, attached, turn }
    }

    /// How it is published, from where it is staged.
    pub(super) fn publication(&self, context: &Context, staging: Option<PathBuf>) -> Publication<'_> {
        let source = self.source;
        let (driver, handle) = (source.driver.clone(), source.volume_handle.clone());
        let node = context.config.node_name.clone();
        let attachment = attach::attachment_name(&(driver.clone(), handle.clone()), &node);
        let name = self.claimed.volume.name().to_owned();
        Publication {
            pod: self.pod,
            driver: &self.driver,
            turn: &self.turn,
            about: self.about.as_deref(),
            data: Data { driver, handle, name, node, attachment, ephemeral: false },
            usage: &self.usage,
            read_only: self.claimed.read_only,
            attached: self.attached.clone(),
            attributes: source.volume_attributes.clone().unwrap_or_default().into_iter().collect(),
            secret: source.node_publish_secret_ref.clone(),
            staging,
        }
    }

    /// Makes it larger if it is to be, by where it is published and staged.
    pub(super) async fn grow(
        &self,
        context: &Context,
        places: (&Path, Option<&Path>),
    ) -> Result<(), Trouble> {
        let Self { pod, claimed, source, driver, usage, turn, .. } = self;
        expand::grow(context, &Grown { pod, claimed, source, driver, usage, turn }, places).await
    }
}
