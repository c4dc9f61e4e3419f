//! Image archives in a folder, imported when knarr starts and whenever one is added. What cannot be imported is told
//! of by the node's events, and by the pods that want it.

use super::archive::{self, Index, digest_of, read_json};
use super::content::{Import, Source};
use super::{pause, unpack};
use crate::cri::Runtime;
use crate::images::full_reference;
use crate::protocols::containerd::types::Descriptor;
use crate::{Context, Error, enforcement, files, machine};
use base::watch_folder;
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

/// Imports what is in `folder`, then what is added. What cannot be imported is told of and left.
pub(crate) async fn run(folder: &Path, context: &Context, shutdown: Shutdown) -> Result<(), Error> {
    files::make_folder(folder, 0o755)?;
    let mut changes = watch_folder::Changes::of(folder)?;
    let mut done: HashMap<PathBuf, (u64, std::time::SystemTime)> = HashMap::new();
    loop {
        for path in archives(folder)? {
            let Some(stamp) = stamp(&path) else { continue };
            if done.insert(path.clone(), stamp) == Some(stamp) {
                continue;
            }
            match import(&path, context).await {
                Ok(imported) => tell(context, &path, imported),
                // Nothing is wrong with the archive: all is tried again when the runtime is back.
                Err(error) if error.is_away() => return Err(error),
                Err(error) => warn(context, &path, &error),
            }
        }
        tokio::select! {
            changed = changes.next() => drop(changed?),
            () = shutdown.requested() => return Ok(()),
        }
    }
}

/// Tells what became of an archive's images.
fn tell(context: &Context, path: &Path, imported: Imported) {
    for (name, error) in imported.failed {
        context.images.spoil(&name, format!("its archive {} cannot be imported: {error}", file_name(path)));
        warn(context, path, &error);
    }
    if !imported.names.is_empty() {
        context.images.arrive(&imported.names);
        context.garbage.keep(imported.names.clone());
        tracing::info!(archive = %path.display(), images = imported.names.join(", "), "imported");
    }
}

fn warn(context: &Context, path: &Path, error: &Error) {
    tracing::error!(archive = %path.display(), %error, "cannot import images");
    let node = enforcement::reference(&context.config.node_name);
    context.recorder.warning(&node, "InvalidImageArchive", format!("{}: {error}", file_name(path)));
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn stamp(path: &Path) -> Option<(u64, std::time::SystemTime)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.len(), metadata.modified().ok()?))
}

fn archives(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = std::fs::read_dir(folder).map_err(files::at(folder))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut found: Vec<PathBuf> = paths.filter(|path| is_archive(path)).collect();
    found.sort();
    Ok(found)
}

fn is_archive(path: &Path) -> bool {
    let name = file_name(path);
    !name.starts_with('.') && unpack::ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// The images of an archive that were imported, and those that cannot be.
#[derive(Default)]
struct Imported {
    names: Vec<String>,
    failed: Vec<(String, Error)>,
}

/// Imports every image of an archive.
async fn import(path: &Path, context: &Context) -> Result<Imported, Error> {
    let runtime = &context.runtime;
    let file = Arc::new(plain(path, &context.config.data_dir.join("agent")).await?);
    let archive = Archive { index: Index::read(&mut file.as_ref()).map_err(files::at(path))?, file };
    let import = Import::begin(runtime).await?;
    let result = match archive.json("index.json") {
        Some(index) => archive.import_layout(&index?, &import).await,
        None => archive.import_docker(&import).await,
    };
    import.finish().await?;
    let imported = result?;
    for name in &imported.names {
        seen(runtime, name).await?;
    }
    Ok(imported)
}

/// An archive, unpacked in `folder` if it is compressed, which may take minutes.
async fn plain(path: &Path, folder: &Path) -> Result<File, Error> {
    let (archive, folder) = (path.to_owned(), folder.to_owned());
    let unpacking = tokio::task::spawn_blocking(move || unpack::open(&archive, &folder));
    unpacking.await.map_err(|panic| broken(format!("{}: {panic}", path.display())))?
}

/// The platforms whose images this machine runs.
fn own_platforms() -> Vec<String> {
    let own = machine::architecture();
    let older = match own {
        "amd64" => Some("386"),
        "arm64" => Some("arm"),
        _ => None,
    };
    [own].into_iter().chain(older).map(|architecture| format!("linux/{architecture}")).collect()
}

/// Refuses an image that is for other machines alone; one that does not say is given a try.
fn check_platforms(name: &str, platforms: &[String]) -> Result<(), Error> {
    let own = own_platforms();
    if platforms.is_empty() || platforms.iter().any(|platform| own.contains(platform)) {
        return Ok(());
    }
    Err(broken(format!("image {name} is for {}, and this node is {}", platforms.join(", "), own[0])))
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

pub(super) fn descriptor(value: &Value) -> Descriptor {
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
    /// A member as JSON, where there is one.
    fn json(&self, name: &str) -> Option<Result<Value, Error>> {
        let read = read_json(&mut self.file.as_ref(), self.index.get(name)?);
        Some(read.map_err(|error| broken(format!("{name}: {error}"))))
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

    /// The platforms that the images below a descriptor are for.
    fn platforms(&self, at: &Descriptor, depth: usize) -> Vec<String> {
        let json = |digest: &str| read_json(&mut self.file.as_ref(), self.index.blob(digest)?).ok();
        let Some(value) = json(&at.digest).filter(|_| depth > 0) else { return Vec::new() };
        if let Some(list) = value["manifests"].as_array() {
            return list.iter().flat_map(|below| self.platforms(&descriptor(below), depth - 1)).collect();
        }
        let config = json(value["config"]["digest"].as_str().unwrap_or_default());
        config.iter().filter_map(platform).collect()
    }

    async fn import_layout(&self, index: &Value, import: &Import<'_>) -> Result<Imported, Error> {
        let mut imported = Imported::default();
        for entry in index["manifests"].as_array().into_iter().flatten() {
            let Some(name) = layout_name(entry) else { continue };
            match self.import_named(&name, descriptor(entry), import).await {
                Ok(()) => imported.names.push(name),
                Err(error) if error.is_away() => return Err(error),
                Err(error) => imported.failed.push((name, error)),
            }
        }
        if imported.names.is_empty() && imported.failed.is_empty() {
            return Err(broken(
                "no image in its index.json has a name (annotation io.containerd.image.name)",
            ));
        }
        Ok(imported)
    }

    async fn import_named(&self, name: &str, target: Descriptor, import: &Import<'_>) -> Result<(), Error> {
        check_platforms(name, &self.platforms(&target, DEPTH))?;
        let mut planned = Vec::new();
        if !self.collect(&target, DEPTH, &mut planned) {
            return Err(broken(format!("image {name} is not whole")));
        }
        let mut written = HashSet::new();
        for blob in planned.iter().filter(|blob| written.insert(blob.digest.clone())) {
            let source = self.source(&blob.digest).ok_or_else(|| broken("a blob is missing"))?;
            import.write(&blob.digest, source, &blob.children).await?;
        }
        import.name(name, target).await
    }

    /// The layout that `docker save` wrote before it wrote OCI layouts: layers by path, no digests.
    async fn import_docker(&self, import: &Import<'_>) -> Result<Imported, Error> {
        let list =
            self.json("manifest.json").ok_or_else(|| broken("neither index.json nor manifest.json"))??;
        let mut imported = Imported::default();
        for image in list.as_array().into_iter().flatten() {
            let path =
                |value: &Value| value.as_str().map(str::to_owned).ok_or_else(|| broken("manifest.json"));
            let tags = image["RepoTags"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let tags: Vec<String> = tags.map(full_reference).collect();
            let platforms: Vec<String> =
                self.json(&path(&image["Config"])?).transpose()?.iter().filter_map(platform).collect();
            if let Err(error) = check_platforms(&tags.join(", "), &platforms) {
                let why = error.to_string();
                imported.failed.extend(tags.into_iter().map(|tag| (tag, broken(why.clone()))));
                continue;
            }
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
            for tag in tags {
                import.name(&tag, target.clone()).await?;
                imported.names.push(tag);
            }
        }
        Ok(imported)
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

/// The platform that an image's configuration names.
fn platform(config: &Value) -> Option<String> {
    Some(format!("{}/{}", config["os"].as_str()?, config["architecture"].as_str()?))
}

fn with_type(mut descriptor: Value, media_type: &str) -> Value {
    descriptor["mediaType"] = media_type.into();
    descriptor
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_of_other_machines_are_refused() {
        let own = own_platforms();
        assert!(check_platforms("a", &[]).is_ok());
        assert!(check_platforms("a", &["linux/s390x".to_owned(), own[0].clone()]).is_ok());
        let refusal = check_platforms("a", &["linux/s390x".to_owned()]).unwrap_err().to_string();
        assert!(refusal.contains("image a is for linux/s390x, and this node is linux/"), "{refusal}");
        assert_eq!(platform(&json!({"os": "linux", "architecture": "arm"})).unwrap(), "linux/arm");
    }

    #[test]
    fn a_bare_tag_names_no_image() {
        let entry = |key: &str, value: &str| json!({"annotations": {key: value}});
        assert_eq!(layout_name(&entry("org.opencontainers.image.ref.name", "latest")), None);
        let named = layout_name(&entry("io.containerd.image.name", "test/app:1"));
        assert_eq!(named.as_deref(), Some("docker.io/test/app:1"));
    }
}
