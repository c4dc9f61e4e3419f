//! An image's files without a container: a read-only view of its layers, which are unpacked first where
//! nobody has run the image yet.

use super::content::{Import, in_namespace, read};
use super::images::descriptor;
use crate::Error;
use crate::cri::Runtime;
use crate::protocols::containerd::services::diff::v1 as diff;
use crate::protocols::containerd::services::images::v1 as images;
use crate::protocols::containerd::services::snapshots::v1 as snapshots;
use crate::protocols::containerd::types::{Descriptor, Mount};
use base::clock;
use diff::diff_client::DiffClient;
use images::images_client::ImagesClient;
use serde_json::Value;
use snapshots::snapshots_client::SnapshotsClient;
use std::collections::HashMap;
use tonic::{Code, Status};

/// What CRI uses too.
const SNAPSHOTTER: &str = "overlayfs";
/// Keeps a view, and the layers below it, from garbage collection until it is removed.
const ROOT: &str = "containerd.io/gc.root";

/// The names of an image's layers, each with all below it: hashes of hashes.
fn chain(diff_ids: &[String]) -> Vec<String> {
    let mut chain: Vec<String> = Vec::new();
    for id in diff_ids {
        let name = match chain.last() {
            None => id.clone(),
            Some(below) => format!("sha256:{}", base::hex::sha256(format!("{below} {id}").as_bytes())),
        };
        chain.push(name);
    }
    chain
}

async fn json(runtime: &Runtime, digest: &str) -> Result<Value, Error> {
    let bytes = read(runtime, digest).await?;
    serde_json::from_slice(&bytes).map_err(|error| Error::Volume(format!("{digest}: {error}")))
}

fn failed(verb: &'static str) -> impl FnOnce(Status) -> Error {
    move |status| Error::runtime(verb, &status)
}

/// What an image's files are mounted from, read-only, under a key. `id` is the digest of its configuration.
pub(crate) async fn view(
    runtime: &Runtime,
    (name, id): (&str, &str),
    key: &str,
) -> Result<Vec<Mount>, Error> {
    let config = json(runtime, id).await?;
    let ids = config["rootfs"]["diff_ids"].as_array().into_iter().flatten();
    let chain = chain(&ids.filter_map(|id| id.as_str().map(str::to_owned)).collect::<Vec<_>>());
    // Held until the view holds the layers.
    let hold = Import::begin(runtime).await?;
    let made = match unpack(runtime, (name, id), &chain, hold.lease()).await {
        Ok(()) => make(runtime, key, chain.last(), hold.lease()).await,
        Err(error) => Err(error),
    };
    hold.finish().await?;
    made
}

async fn make(runtime: &Runtime, key: &str, top: Option<&String>, lease: &str) -> Result<Vec<Mount>, Error> {
    let mut client = SnapshotsClient::new(runtime.wire());
    let request = snapshots::ViewSnapshotRequest {
        snapshotter: SNAPSHOTTER.to_owned(),
        key: key.to_owned(),
        parent: top.cloned().unwrap_or_default(),
        labels: HashMap::from([(ROOT.to_owned(), clock::now().to_string())]),
    };
    match client.view(in_namespace(request, Some(lease))).await {
        Err(status) if status.code() == Code::AlreadyExists => {}
        other => return Ok(other.map_err(failed("view snapshot"))?.into_inner().mounts),
    }
    let request = snapshots::MountsRequest { snapshotter: SNAPSHOTTER.to_owned(), key: key.to_owned() };
    let mounts = client.mounts(in_namespace(request, None)).await;
    Ok(mounts.map_err(failed("mounts of snapshot"))?.into_inner().mounts)
}

/// Removes a view, or nothing.
pub(crate) async fn remove(runtime: &Runtime, key: &str) -> Result<(), Error> {
    let request =
        snapshots::RemoveSnapshotRequest { snapshotter: SNAPSHOTTER.to_owned(), key: key.to_owned() };
    match SnapshotsClient::new(runtime.wire()).remove(in_namespace(request, None)).await {
        Err(status) if status.code() != Code::NotFound => Err(failed("remove snapshot")(status)),
        _ => Ok(()),
    }
}

async fn is_there(runtime: &Runtime, name: &str) -> Result<bool, Error> {
    let request =
        snapshots::StatSnapshotRequest { snapshotter: SNAPSHOTTER.to_owned(), key: name.to_owned() };
    match SnapshotsClient::new(runtime.wire()).stat(in_namespace(request, None)).await {
        Ok(_) => Ok(true),
        Err(status) if status.code() == Code::NotFound => Ok(false),
        Err(status) => Err(failed("stat snapshot")(status)),
    }
}

/// Unpacks the layers that are not yet.
async fn unpack(runtime: &Runtime, image: (&str, &str), chain: &[String], lease: &str) -> Result<(), Error> {
    let Some(top) = chain.last() else { return Ok(()) };
    if is_there(runtime, top).await? {
        return Ok(());
    }
    let layers = layers(runtime, image).await?;
    for (i, (name, layer)) in chain.iter().zip(layers).enumerate() {
        if is_there(runtime, name).await? {
            continue;
        }
        let below = i.checked_sub(1).map(|below| chain[below].clone()).unwrap_or_default();
        apply(runtime, (name, below), layer, lease).await?;
    }
    Ok(())
}

async fn apply(
    runtime: &Runtime,
    (name, parent): (&str, String),
    layer: Descriptor,
    lease: &str,
) -> Result<(), Error> {
    let mut client = SnapshotsClient::new(runtime.wire());
    let key = format!("knarr-unpack-{}-{name}", clock::now().as_nanosecond());
    let prepare = snapshots::PrepareSnapshotRequest {
        snapshotter: SNAPSHOTTER.to_owned(),
        key: key.clone(),
        parent,
        labels: HashMap::new(),
    };
    let mounts = client.prepare(in_namespace(prepare, Some(lease))).await;
    let mounts = mounts.map_err(failed("prepare snapshot"))?.into_inner().mounts;
    let request = diff::ApplyRequest { diff: Some(layer), mounts };
    let applied = DiffClient::new(runtime.wire()).apply(in_namespace(request, Some(lease))).await;
    applied.map_err(failed("apply layer"))?;
    let commit = snapshots::CommitSnapshotRequest {
        snapshotter: SNAPSHOTTER.to_owned(),
        name: name.to_owned(),
        key,
        labels: HashMap::new(),
    };
    match client.commit(in_namespace(commit, Some(lease))).await {
        // Somebody else was faster.
        Err(status) if status.code() != Code::AlreadyExists => Err(failed("commit snapshot")(status)),
        _ => Ok(()),
    }
}

/// The layers of the manifest that has this configuration.
async fn layers(runtime: &Runtime, (name, id): (&str, &str)) -> Result<Vec<Descriptor>, Error> {
    let request = in_namespace(images::GetImageRequest { name: name.to_owned() }, None);
    let image = ImagesClient::new(runtime.wire()).get(request).await.map_err(failed("get image"))?;
    let target = image.into_inner().image.and_then(|image| image.target).unwrap_or_default();
    let top = json(runtime, &target.digest).await?;
    let listed = top["manifests"].as_array().cloned().unwrap_or_default();
    let mut manifests = vec![top];
    for manifest in &listed {
        // Those of other platforms were not fetched.
        manifests.extend(json(runtime, manifest["digest"].as_str().unwrap_or_default()).await.ok());
    }
    let own = manifests.iter().find(|manifest| manifest["config"]["digest"] == id);
    let own =
        own.ok_or_else(|| Error::Volume(format!("no manifest of image {name} has the configuration {id}")))?;
    Ok(own["layers"].as_array().into_iter().flatten().map(descriptor).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_named_with_those_below() {
        assert_eq!(chain(&[]), [""; 0]);
        let ids = ["sha256:a".to_owned(), "sha256:b".to_owned()];
        let chain = chain(&ids);
        // sha256 of "sha256:a sha256:b"
        let both = "sha256:970a948bffa8de94d6e22d747ba8c95030e6e546909f98f54e99a13005e173a8";
        assert_eq!(chain, ["sha256:a", both]);
    }
}
