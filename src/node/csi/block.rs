//! Volumes that pods get as devices.

use super::attach::{self, Key};
use super::data::{self, Data, Device};
use super::expand::{self, Grown};
use super::publish::{Publication, about, usage};
use super::request::{self, Map};
use super::stage::Staging;
use crate::volumes::{Claimed, Ready, Trouble, What, pod_folder};
use crate::{Context, Error, files};
use api::Object;
use api::core::{CSIPersistentVolumeSource, Pod};
use std::os::unix::fs::symlink;

const SET_UP: &str = "MapVolume.SetUpDevice";
const MAP: &str = "MapVolume.MapPodDevice";

/// Makes a claimed volume ready as a device.
pub(crate) async fn device(
    context: &Context,
    pod: &Pod,
    claimed: &Claimed,
    source: &CSIPersistentVolumeSource,
) -> Result<Ready, Trouble> {
    let name = claimed.volume.name();
    let failed = |step: &'static str| move |error: Error| Trouble::at(step, name, &error);
    let key: Key = (source.driver.clone(), source.volume_handle.clone());
    let about = about(context, &source.driver).await;
    let is_attached = request::is_attached(about.as_deref());
    attach::claim(context, &key, pod.uid(), is_attached).await.map_err(failed(SET_UP))?;
    let attached = if is_attached { attach::metadata(context, &key).await? } else { Map::new() };
    let turn = context.csi.turn(&source.driver, &source.volume_handle);
    let _turn = turn.lock().await;
    let missing = |error: Error| {
        Error::Volume(format!("kubernetes.io/csi: blockMapper.SetUpDevice failed to get CSI client: {error}"))
    };
    let driver = context.csi.driver(&source.driver).map_err(missing).map_err(failed(SET_UP))?;
    let usage = usage(pod, claimed, source, false);
    let paths = Device::of(&context.config.kubelet_dir, name, pod.uid());
    let staging = Staging { driver: &driver, source, usage: &usage, attached: &attached };
    let staged = staging.device(context, &paths).await.map_err(failed(SET_UP))?;
    let publication = Publication {
        pod,
        driver: &driver,
        about: about.as_deref(),
        data: Data { driver: key.0, handle: key.1, name: name.to_owned(), ..Data::default() },
        usage: &usage,
        read_only: claimed.read_only,
        attached,
        attributes: source.volume_attributes.clone().unwrap_or_default().into_iter().collect(),
        secret: source.node_publish_secret_ref.clone(),
        staging: staged,
    };
    let link = data::pod_devices(&pod_folder(context, pod.uid())).join(name);
    publish(context, &publication, (&paths, &link)).await.map_err(failed(MAP))?;
    let grown = Grown { pod, claimed, source, driver: &driver, usage: &usage };
    expand::grow(context, &grown, (&paths.publish, publication.staging.as_deref())).await?;
    let (name, read_only) = (name.to_owned(), claimed.read_only);
    Ok(Ready { what: What::Device(link), name, read_only, renew: None })
}

/// Publishes the device, and links it into the pod's folder, where it is found again when the pod ends.
async fn publish(
    context: &Context,
    publication: &Publication<'_>,
    (paths, link): (&Device, &std::path::Path),
) -> Result<(), Error> {
    if context.csi.is_done(&paths.publish) {
        return Ok(());
    }
    let (to, at) = (paths.publish.clone(), link.to_owned());
    context
        .change(link, move || {
            files::make_folder(to.parent().unwrap_or(&to), 0o750)?;
            files::make_folder(at.parent().unwrap_or(&at), 0o750)?;
            files::remove(&at)?;
            symlink(&to, &at).map_err(files::at(&at))
        })
        .await?;
    publication.ask(context, &paths.publish).await?;
    context.csi.note_done(&paths.publish);
    Ok(())
}
