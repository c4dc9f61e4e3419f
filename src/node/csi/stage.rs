//! Staging: a volume is made ready once for all pods of this node.

use super::call::{Failure, in_turn};
use super::data::{self, Data};
use super::driver::Driver;
use super::request::{Map, Usage};
use crate::protocols::csi::v1::{self as csi, node_service_capability::rpc::Type};
use crate::turns::Turn;
use crate::{Context, Error};
use api::core::{CSIPersistentVolumeSource, Secret, SecretReference};
use std::path::{Path, PathBuf};

/// The data of a Secret that a volume names.
pub(super) async fn secrets(context: &Context, reference: Option<&SecretReference>) -> Result<Map, Error> {
    let Some(reference) = reference else { return Ok(Map::new()) };
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (namespace, name) = (text(&reference.namespace), text(&reference.name));
    let found = context.client.get::<Secret>(&namespace, &name).await;
    let secret = found.map_err(|error| {
        Error::Volume(format!(
            "failed to find the secret {name} in the namespace {namespace} with error: {error}"
        ))
    })?;
    let data = secret.data.unwrap_or_default().into_iter();
    Ok(data.map(|(key, value)| (key, String::from_utf8_lossy(&value.0).into_owned())).collect())
}

/// A volume that is staged.
pub(super) struct Staging<'a> {
    pub(super) driver: &'a Driver,
    pub(super) source: &'a CSIPersistentVolumeSource,
    pub(super) usage: &'a Usage,
    /// What the attacher said.
    pub(super) attached: &'a Map,
    pub(super) turn: &'a Turn,
}

impl Staging<'_> {
    fn data(&self) -> Data {
        let (driver, handle) = (self.source.driver.clone(), self.source.volume_handle.clone());
        Data { driver, handle, ..Data::default() }
    }

    /// Stages the volume as files; gives where, or none where the driver does not stage.
    pub(super) async fn files(&self, context: &Context) -> Result<Option<PathBuf>, Error> {
        let kubelet_dir = &context.config.kubelet_dir;
        let folder = data::staged(kubelet_dir, &self.source.driver, &self.source.volume_handle);
        let path = data::mount_of(&folder);
        if !self.driver.capabilities().await?.has(Type::StageUnstageVolume) {
            return Ok(None);
        }
        if context.csi.is_done(&path) {
            return Ok(Some(path));
        }
        let (data, at, to) = (self.data(), folder.clone(), path.clone());
        context
            .change(&folder, move || {
                crate::files::make_folder(&to, 0o750)?;
                data.write(&at)
            })
            .await?;
        if let Err(failure) = self.ask(context, &path).await {
            if failure.is_final() {
                data::forget(context, &folder, &path).await;
            }
            return Err(failure.into());
        }
        context.csi.note_done(&path);
        Ok(Some(path))
    }

    /// Stages the volume as a device; gives where, or none where the driver does not stage.
    pub(super) async fn device(
        &self,
        context: &Context,
        device: &data::Device,
    ) -> Result<Option<PathBuf>, Error> {
        let (data, at, staging) = (self.data(), device.data.clone(), device.staging.clone());
        let stages = self.driver.capabilities().await?.has(Type::StageUnstageVolume);
        context
            .change(&device.data, move || {
                if stages {
                    crate::files::make_folder(&staging, 0o750)?;
                }
                data.write(&at)
            })
            .await?;
        if !stages || context.csi.is_done(&device.staging) {
            return Ok(stages.then(|| device.staging.clone()));
        }
        self.ask(context, &device.staging).await?;
        context.csi.note_done(&device.staging);
        Ok(Some(device.staging.clone()))
    }

    async fn ask(&self, context: &Context, path: &Path) -> Result<(), Failure> {
        let secrets = secrets(context, self.source.node_stage_secret_ref.as_ref()).await;
        let reference = self.source.node_stage_secret_ref.clone().unwrap_or_default();
        let secrets = secrets.map_err(|error| {
            let text = |text: Option<String>| text.unwrap_or_default();
            let (namespace, name) = (text(reference.namespace), text(reference.name));
            Failure::before(format!("fetching NodeStageSecretRef {namespace}/{name} failed: {error}"))
        })?;
        let attributes = self.source.volume_attributes.clone().unwrap_or_default();
        let request = csi::NodeStageVolumeRequest {
            volume_id: self.source.volume_handle.clone(),
            publish_context: self.attached.clone(),
            staging_target_path: path.display().to_string(),
            volume_capability: Some(self.usage.capability(self.driver.capabilities().await?)),
            secrets,
            volume_context: attributes.into_iter().collect(),
        };
        let mut client = self.driver.client();
        let answer = Box::pin(async move { client.node_stage_volume(request).await });
        in_turn(context, self.turn, answer).await.map(drop)
    }
}
