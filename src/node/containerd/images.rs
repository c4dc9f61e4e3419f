//! Image archives in a folder, imported when knarr starts and whenever one is added.

use super::archive::{self, Index, digest_of, full_reference, read_json};
use super::content::{Import, Source};
use super::pause;
use crate::cri::Runtime;
use crate::protocols::containerd::types::Descriptor;
use crate::{Error, files, watch_folder};
use base::{Shutdown, clock};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Docker's own types for its own archives: the runtime then finds out whether a layer is compressed.
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
/// Indexes within indexes.
const DEPTH: usize = 4;
/// How long the runtime may take to see an image that its store has.
const SEEN_LIMIT: Duration = Duration::from_secs(10);

/// Puts the sandbox image into the runtime's store and waits until the runtime has noticed.
pub(crate) async fn ensure_pause(runtime: &Runtime) -> Result<(), Error> {
    let import = Import::begin(runtime).await?;
    import.write_image(pause::IMAGE, pause::image()).await?;
    import.finish().await?;
    seen(runtime, pause::IMAGE).await
}

/// The runtime learns of names in its store by its own events.
async fn seen(runtime: &Runtime, name: &str) -> Result<(), Error> {
    let deadline = clock::instant() + SEEN_LIMIT;
    while runtime.image(name).await?.is_none() {
        if clock::instant() > deadline {
            return Err(Error::Setup(format!("the runtime does not see the imported image {name}")));
        }
        clock::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// Imports what is in `folder`, then what is added, and tells the names of the images. An archive that cannot be read
/// is logged and left.
pub(crate) async fn run(
    folder: &Path,
    runtime: &Runtime,
    tell: impl Fn(Vec<String>),
    shutdown: Shutdown,
) -> Result<(), Error> {
    files::make_folder(folder, 0o755)?;
    let mut changes = watch_folder::Changes::of(folder)?;
    let mut done: HashMap<PathBuf, (u64, std::time::SystemTime)> = HashMap::new();
    loop {
        for path in archives(folder)? {
            let Some(stamp) = stamp(&path) else { continue };
            if done.insert(path.clone(), stamp) == Some(stamp) {
                continue;
            }
            match import(&path, runtime).await {
                Ok(names) => {
                    tracing::info!(archive = %path.display(), images = names.join(", "), "imported");
                    tell(names);
                }
                Err(error) => tracing::error!(archive = %path.display(), %error, "cannot import images"),
            }
        }
        tokio::select! {
            changed = changes.next() => drop(changed?),
            () = shutdown.requested() => return Ok(()),
        }
    }
}

fn stamp(path: &Path) -> Option<(u64, std::time::SystemTime)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.len(), metadata.modified().ok()?))
}

fn archives(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = std::fs::read_dir(folder).map_err(files::at(folder))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut found: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|e| e == "tar")).collect();
    found.sort();
    Ok(found)
}

/// Imports every image of an archive; returns their names.
pub(crate) async fn import(path: &Path, runtime: &Runtime) -> Result<Vec<String>, Error> {
    let file = Arc::new(File::open(path).map_err(files::at(path))?);
    let archive = Archive { index: Index::read(&mut file.as_ref()).map_err(files::at(path))?, file };
    let import = Import::begin(runtime).await?;
    let result = match archive.json("index.json") {
        Some(index) => archive.import_layout(&index, &import).await,
        None => archive.import_docker(&import).await,
    };
    import.finish().await?;
    let names = result?;
    for name in &names {
        seen(runtime, name).await?;
    }
    Ok(names)
}

struct Archive {
    file: Arc<File>,
    index: Index,
}

/// A blob to write, with what it refers to.
struct Planned {
    digest: String,
    children: Vec<String>,
}

fn broken(what: impl Into<String>) -> Error {
    Error::Archive(what.into())
}

fn descriptor(value: &Value) -> Descriptor {
    let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
    Descriptor {
        media_type: text("mediaType"),
        digest: text("digest"),
        size: value["size"].as_i64().unwrap_or_default(),
    }
}

/// The image's name in an OCI layout's index: containerd's annotation, or a reference that is more
/// than a tag.
fn layout_name(entry: &Value) -> Option<String> {
    let annotations = &entry["annotations"];
    let named = annotations["io.containerd.image.name"].as_str();
    let reference = annotations["org.opencontainers.image.ref.name"].as_str();
    Some(full_reference(named.or(reference.filter(|text| text.contains(['/', ':'])))?))
}

impl Archive {
    fn json(&self, name: &str) -> Option<Value> {
        read_json(&mut self.file.as_ref(), self.index.get(name)?).ok()
    }

    fn source(&self, digest: &str) -> Option<Source> {
        Some(Source::File(self.file.clone(), self.index.blob(digest)?))
    }

    /// Everything below a descriptor, children first. Platforms whose blobs the archive does not hold
    /// are left out.
    fn collect(&self, at: &Descriptor, depth: usize, into: &mut Vec<Planned>) -> bool {
        let Some(member) = self.index.blob(&at.digest) else { return false };
        let mut children = Vec::new();
        if depth > 0 && (at.media_type.contains("index") || at.media_type.contains("manifest")) {
            let Ok(value) = read_json(&mut self.file.as_ref(), member) else { return false };
            let listed = value["manifests"].as_array().or_else(|| value["layers"].as_array());
            let below = listed.into_iter().flatten().chain(value.get("config")).map(descriptor);
            for child in below {
                let whole = self.collect(&child, depth - 1, into);
                if !whole && value.get("layers").is_some() {
                    return false;
                }
                children.extend(whole.then_some(child.digest));
            }
        }
        into.push(Planned { digest: at.digest.clone(), children });
        true
    }

    async fn import_layout(&self, index: &Value, import: &Import<'_>) -> Result<Vec<String>, Error> {
        let mut names = Vec::new();
        for entry in index["manifests"].as_array().into_iter().flatten() {
            let Some(name) = layout_name(entry) else { continue };
            let (target, mut planned) = (descriptor(entry), Vec::new());
            if !self.collect(&target, DEPTH, &mut planned) {
                return Err(broken(format!("image {name} is not whole")));
            }
            let mut written = HashSet::new();
            for blob in planned.iter().filter(|blob| written.insert(blob.digest.clone())) {
                let source = self.source(&blob.digest).ok_or_else(|| broken("a blob is missing"))?;
                import.write(&blob.digest, source, &blob.children).await?;
            }
            import.name(&name, target).await?;
            names.push(name);
        }
        if names.is_empty() {
            return Err(broken(
                "no image in its index.json has a name (annotation io.containerd.image.name)",
            ));
        }
        Ok(names)
    }

    /// The layout that `docker save` wrote before it wrote OCI layouts: layers by path, no digests.
    async fn import_docker(&self, import: &Import<'_>) -> Result<Vec<String>, Error> {
        let list =
            self.json("manifest.json").ok_or_else(|| broken("neither index.json nor manifest.json"))?;
        let mut names = Vec::new();
        for image in list.as_array().into_iter().flatten() {
            let path =
                |value: &Value| value.as_str().map(str::to_owned).ok_or_else(|| broken("manifest.json"));
            let config = self.write_path(&path(&image["Config"])?, import).await?;
            let mut layers = Vec::new();
            for layer in image["Layers"].as_array().into_iter().flatten() {
                layers.push(self.write_path(&path(layer)?, import).await?);
            }
            let children: Vec<String> =
                layers.iter().chain([&config]).map(|blob| descriptor(blob).digest).collect();
            let manifest = with_type(config, DOCKER_CONFIG);
            let manifest = json!({"schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": manifest, "layers": layers});
            let mut blob = archive::Blob::new(DOCKER_MANIFEST, manifest.to_string().into_bytes());
            blob.children = children;
            let target = descriptor(&blob.descriptor());
            import.write(&blob.digest, Source::Memory(blob.bytes), &blob.children).await?;
            for tag in image["RepoTags"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                import.name(&full_reference(tag), target.clone()).await?;
                names.push(full_reference(tag));
            }
        }
        Ok(names)
    }

    /// Writes a member under the digest of its bytes; returns a layer's descriptor of it.
    async fn write_path(&self, path: &str, import: &Import<'_>) -> Result<Value, Error> {
        let member = self.index.get(path).ok_or_else(|| broken(format!("{path} is missing")))?;
        let start = std::io::Seek::seek(&mut self.file.as_ref(), std::io::SeekFrom::Start(member.at));
        let digest = start.and_then(|_| digest_of(&mut self.file.as_ref().take(member.size)));
        let digest = digest.map_err(|error| broken(format!("{path}: {error}")))?;
        import.write(&digest, Source::File(self.file.clone(), member), &[]).await?;
        Ok(json!({"mediaType": DOCKER_LAYER, "digest": digest, "size": member.size}))
    }
}

fn with_type(mut descriptor: Value, media_type: &str) -> Value {
    descriptor["mediaType"] = media_type.into();
    descriptor
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_tag_names_no_image() {
        let entry = |key: &str, value: &str| json!({"annotations": {key: value}});
        assert_eq!(layout_name(&entry("org.opencontainers.image.ref.name", "latest")), None);
        let named = layout_name(&entry("io.containerd.image.name", "test/app:1"));
        assert_eq!(named.as_deref(), Some("docker.io/test/app:1"));
    }
}
