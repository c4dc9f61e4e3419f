//! Writing images into containerd's own store: content by digest under a lease, then the name.

use super::archive::{Blob, Member};
use crate::Error;
use crate::cri::Runtime;
use crate::protocols::containerd::services::content::v1 as content;
use crate::protocols::containerd::services::images::v1 as images;
use crate::protocols::containerd::services::leases::v1 as leases;
use crate::protocols::containerd::types::Descriptor;
use content::content_client::ContentClient;
use futures_util::stream;
use images::images_client::ImagesClient;
use leases::leases_client::LeasesClient;
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;
use tonic::{Code, Request, Streaming};

/// containerd's namespace of what CRI sees.
const NAMESPACE: &str = "k8s.io";
/// One message of a write.
const CHUNK_BYTES: usize = 1 << 20;
/// The largest blob that is read into memory.
const BLOB_BYTES: usize = 16 << 20;
/// A lease left behind by a crash in the middle of an import ends by itself.
const LEASE_HOURS: i64 = 1;

/// A request in CRI's namespace, under a lease if one is given.
pub(crate) fn in_namespace<T>(message: T, lease: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert("containerd-namespace", tonic::metadata::MetadataValue::from_static(NAMESPACE));
    if let Some(lease) = lease.and_then(|lease| lease.parse().ok()) {
        metadata.insert("containerd-lease", lease);
    }
    request
}

/// Where a blob's bytes come from.
pub(crate) enum Source {
    Memory(Vec<u8>),
    /// A part of a file, read in chunks as they are sent.
    File(Arc<File>, Member),
}

impl Source {
    fn size(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File(_, member) => member.size,
        }
    }

    /// Up to one chunk from `offset`.
    fn chunk(&self, offset: u64) -> std::io::Result<Vec<u8>> {
        let length = (self.size() - offset).min(CHUNK_BYTES as u64);
        match self {
            Self::Memory(bytes) => {
                let at = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                Ok(bytes[at..].iter().copied().take(CHUNK_BYTES).collect())
            }
            Self::File(file, member) => {
                let mut file = file.as_ref();
                file.seek(SeekFrom::Start(member.at + offset))?;
                let mut bytes = Vec::new();
                file.take(length).read_to_end(&mut bytes)?;
                Ok(bytes)
            }
        }
    }
}

/// One import: everything written through it is safe from garbage collection until it is finished.
pub(crate) struct Import<'a> {
    runtime: &'a Runtime,
    lease: String,
}

impl<'a> Import<'a> {
    /// Begins an import.
    pub(crate) async fn begin(runtime: &'a Runtime) -> Result<Self, Error> {
        let until = base::clock::now() + jiff::SignedDuration::from_hours(LEASE_HOURS);
        let id = format!("knarr-import-{}", base::clock::now().as_nanosecond());
        let labels = HashMap::from([("containerd.io/gc.expire".to_owned(), until.to_string())]);
        let request = in_namespace(leases::CreateRequest { id: id.clone(), labels }, None);
        let created = LeasesClient::new(runtime.wire()).create(request).await;
        created.map_err(|status| Error::runtime("create lease", &status))?;
        Ok(Self { runtime, lease: id })
    }

    /// What keeps from garbage collection what is made meanwhile.
    pub(crate) fn lease(&self) -> &str {
        &self.lease
    }

    /// Writes one blob; one that is there already is left alone.
    pub(crate) async fn write(&self, digest: &str, source: Source, children: &[String]) -> Result<(), Error> {
        let size = source.size();
        let labels = children
            .iter()
            .enumerate()
            .map(|(i, child)| (format!("containerd.io/gc.ref.content.{i}"), child.clone()))
            .collect();
        let total = i64::try_from(size).unwrap_or(i64::MAX);
        let commit = content::WriteContentRequest {
            action: content::WriteAction::Commit.into(),
            r#ref: format!("{}-{digest}", self.lease),
            total,
            expected: digest.to_owned(),
            offset: total,
            data: Vec::new(),
            labels,
        };
        let mut client = ContentClient::new(self.runtime.wire());
        let request = in_namespace(chunks(source, commit), Some(&self.lease));
        let finished = async {
            let mut answers = client.write(request).await?.into_inner();
            while answers.message().await?.is_some() {}
            Ok::<(), tonic::Status>(())
        };
        match finished.await {
            Err(status) if status.code() != Code::AlreadyExists => {
                Err(Error::runtime("write content", &status))
            }
            _ => Ok(()),
        }
    }

    /// Writes an image that is in memory and names it.
    pub(crate) async fn write_image(&self, name: &str, blobs: Vec<Blob>) -> Result<(), Error> {
        let target = blobs.last().map(|manifest| Descriptor {
            media_type: manifest.media_type.to_owned(),
            digest: manifest.digest.clone(),
            size: manifest.bytes.len() as i64,
        });
        for blob in blobs {
            self.write(&blob.digest, Source::Memory(blob.bytes), &blob.children).await?;
        }
        self.name(name, target.unwrap_or_default()).await
    }

    /// Gives an image its name, or moves the name to it.
    pub(crate) async fn name(&self, name: &str, target: Descriptor) -> Result<(), Error> {
        // Images that come with the node may have nowhere to come from again: nobody is to remove them.
        let labels = [("io.cri-containerd.image", "managed"), ("io.cri-containerd.pinned", "pinned")];
        let labels: HashMap<String, String> =
            labels.map(|(label, value)| (label.to_owned(), value.to_owned())).into();
        let image = Some(images::Image { name: name.to_owned(), labels, target: Some(target) });
        let mut client = ImagesClient::new(self.runtime.wire());
        let create = in_namespace(images::CreateImageRequest { image: image.clone() }, Some(&self.lease));
        let result = match client.create(create).await {
            Err(status) if status.code() == Code::AlreadyExists => {
                client.update(in_namespace(images::UpdateImageRequest { image }, Some(&self.lease))).await
            }
            other => other,
        };
        result.map(drop).map_err(|status| Error::runtime("name image", &status))
    }

    /// Ends the import: from now on names keep alive what was written.
    pub(crate) async fn finish(self) -> Result<(), Error> {
        let request = in_namespace(leases::DeleteRequest { id: self.lease, sync: false }, None);
        let deleted = LeasesClient::new(self.runtime.wire()).delete(request).await;
        deleted.map(drop).map_err(|status| Error::runtime("delete lease", &status))
    }
}

/// Reads a blob whole; it has to be small, as manifests and configurations are.
pub(crate) async fn read(runtime: &Runtime, digest: &str) -> Result<Vec<u8>, Error> {
    let request = content::ReadContentRequest { digest: digest.to_owned(), offset: 0, size: 0 };
    let failed = |status: tonic::Status| Error::runtime("read content", &status);
    let mut client = ContentClient::new(runtime.wire());
    let mut answers = client.read(in_namespace(request, None)).await.map_err(failed)?.into_inner();
    let mut bytes = Vec::new();
    while let Some(answer) = answers.message().await.map_err(failed)? {
        bytes.extend(answer.data);
        if bytes.len() > BLOB_BYTES {
            return Err(Error::Volume(format!("{digest} is larger than {BLOB_BYTES} bytes")));
        }
    }
    Ok(bytes)
}

/// What the store says of something that it has whole.
pub(crate) async fn info(runtime: &Runtime, digest: &str) -> Result<content::Info, Error> {
    let request = in_namespace(content::InfoRequest { digest: digest.to_owned() }, None);
    let answer = ContentClient::new(runtime.wire()).info(request).await;
    let info = answer.map_err(|status| Error::runtime("content info", &status))?.into_inner().info;
    Ok(info.unwrap_or_default())
}

/// So many bytes of something from an offset, at least one.
pub(crate) async fn stream(
    runtime: &Runtime,
    digest: &str,
    (from, length): (u64, u64),
) -> Result<Streaming<content::ReadContentResponse>, Error> {
    let request = content::ReadContentRequest {
        digest: digest.to_owned(),
        offset: from.cast_signed(),
        size: length.cast_signed(),
    };
    let answers = ContentClient::new(runtime.wire()).read(in_namespace(request, None)).await;
    answers.map(tonic::Response::into_inner).map_err(|status| Error::runtime("read content", &status))
}

/// What an image's name stands for.
pub(crate) async fn named(runtime: &Runtime, name: &str) -> Result<Descriptor, Error> {
    let request = in_namespace(images::GetImageRequest { name: name.to_owned() }, None);
    let answer = ImagesClient::new(runtime.wire()).get(request).await;
    let image = answer.map_err(|status| Error::runtime("get image", &status))?.into_inner().image;
    Ok(image.and_then(|image| image.target).unwrap_or_default())
}

/// The messages of a write: chunks, then the commit. A file that cannot be read ends the stream
/// early, and the runtime refuses what is not whole.
fn chunks(
    source: Source,
    commit: content::WriteContentRequest,
) -> impl futures_util::Stream<Item = content::WriteContentRequest> + Send {
    stream::unfold(Some((source, 0u64)), move |state| {
        let commit = commit.clone();
        async move {
            let (source, offset) = state?;
            if offset >= source.size() {
                return Some((commit, None));
            }
            let data =
                source.chunk(offset).inspect_err(|error| tracing::warn!(%error, "image archive")).ok()?;
            let next = offset + data.len() as u64;
            let message = content::WriteContentRequest {
                action: content::WriteAction::Write.into(),
                offset: offset.cast_signed(),
                labels: HashMap::new(),
                data,
                ..commit
            };
            Some((message, Some((source, next))))
        }
    })
}
