//! Volumes that pods get as devices.

use super::claimed::{Begun, Steps};
use super::data::{self, Device};
use super::publish::Publication;
use crate::volumes::{Claimed, Ready, Trouble, What, pod_folder};
use crate::{Context, Error, files};
use api::Object;
use api::core::{CSIPersistentVolumeSource, Pod};
use std::os::unix::fs::symlink;

const SET_UP: &str = "MapVolume.SetUpDevice";
const MAP: &str = "MapVolume.MapPodDevice";
const STEPS: Steps =
    Steps { claim: SET_UP, stage: SET_UP, missing: "blockMapper.SetUpDevice failed to get CSI client" };

/// Makes a claimed volume ready as a device.
pub(crate) async fn device(
    context: &Context,
    pod: &Pod,
    claimed: &Claimed,
    source: &CSIPersistentVolumeSource,
) -> Result<Ready, Trouble> {
    let name = claimed.volume.name();
    let failed = |step: &'static str| move |error: Error| Trouble::at(step, name, &error);
    let begun = Begun::new(context, pod, (claimed, source), &STEPS).await?;
    let paths = Device::of(&context.config.kubelet_dir, name, pod.uid());
    let staged = begun.staging().device(context, &paths).await.map_err(failed(SET_UP))?;
    let publication = begun.publication(context, staged);
    let link = data::pod_devices(&pod_folder(context, pod.uid())).join(name);
    publish(context, &publication, (&paths, &link)).await.map_err(failed(MAP))?;
    begun.grow(context, (&paths.publish, publication.staging.as_deref())).await?;
    let published = Some(publication.published(&paths.publish));
    Ok(Ready { read_only: claimed.read_only, published, ..Ready::new(name, What::Device(link)) })
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
