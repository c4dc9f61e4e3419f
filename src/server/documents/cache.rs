//! Documents that were made once, kept compressed: most clients ask for them compressed anyway.

use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use ring::digest::{Context, SHA512};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, BufReader, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

/// How much is kept: several times what kubectl asks for. What is dropped is made again.
const KEPT_BYTES: usize = 2 << 20;

/// What a document is kept under: where it is, in which encoding, and what tells the definitions in it
/// from others. All else comes from the tables of the executable, which nothing can change.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) path: String,
    pub(super) encoding: Encoding,
    pub(super) state: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Encoding {
    Json,
    Protobuf,
}

/// A document as it is kept.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Published {
    pub(super) gzip: Bytes,
    /// For `ETag`: the digest of its JSON, or the state of its definitions.
    pub(super) tag: String,
}

impl Published {
    /// Reads the document itself.
    pub(super) fn reader(&self) -> impl Read {
        BufReader::new(GzDecoder::new(&self.gzip[..]))
    }
}

/// Takes the digest of what passes through.
struct Tagging<W> {
    inner: W,
    digest: Context,
}

impl<W: Write> Tagging<W> {
    fn new(inner: W) -> Self {
        Self { inner, digest: Context::new(&SHA512) }
    }

    fn finish(self) -> (W, String) {
        let digest = self.digest.finish();
        let tag = digest.as_ref().iter().fold(String::with_capacity(128), |mut tag, byte| {
            write!(tag, "{byte:02X}").expect("texts can be written to");
            tag
        });
        (self.inner, tag)
    }
}

impl<W: Write> Write for Tagging<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.digest.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes a document; `false` if there is none.
type Writer<'a> = &'a dyn Fn(&mut dyn Write) -> io::Result<bool>;

/// The `ETag` of a JSON document, without keeping the document.
pub(super) fn tag(write: Writer<'_>) -> io::Result<Option<String>> {
    let mut out = Tagging::new(io::sink());
    Ok(write(&mut out)?.then(|| out.finish().1))
}

/// Bytes without the room that they were written into.
fn exactly(bytes: Vec<u8>) -> Bytes {
    bytes.into_boxed_slice().into()
}

/// A JSON document as it is kept.
pub(super) fn publish(write: Writer<'_>) -> io::Result<Option<Published>> {
    let mut out = Tagging::new(io::BufWriter::new(GzEncoder::new(Vec::new(), Compression::default())));
    if !write(&mut out)? {
        return Ok(None);
    }
    let (out, tag) = out.finish();
    let gzip = out.into_inner().map_err(io::IntoInnerError::into_error)?.finish()?;
    Ok(Some(Published { gzip: exactly(gzip), tag }))
}

/// Another encoding of a document as it is kept, under the tag that is known.
pub(super) fn encoded(
    tag: &str,
    write: impl FnOnce(&mut dyn Write) -> serde_json::Result<()>,
) -> io::Result<Published> {
    let mut out = GzEncoder::new(Vec::new(), Compression::default());
    write(&mut out)?;
    Ok(Published { gzip: exactly(out.finish()?), tag: tag.to_owned() })
}

/// The documents that are kept.
#[derive(Default)]
pub(super) struct Cache(Mutex<HashMap<Key, Arc<Published>>>);

impl Cache {
    pub(super) fn get(&self, key: &Key) -> Option<Arc<Published>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    pub(super) fn keep(&self, key: Key, published: Published) -> Arc<Published> {
        let published = Arc::new(published);
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let size: usize = kept.values().map(|own| own.gzip.len()).sum();
        if size + published.gzip.len() > KEPT_BYTES {
            kept.clear();
        }
        kept.insert(key, published.clone());
        published
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_what_was_written_and_is_bounded() {
        let published = publish(&|out| out.write_all(b"{}").map(|()| true)).unwrap().unwrap();
        let mut text = String::new();
        published.reader().read_to_string(&mut text).unwrap();
        assert_eq!(text, "{}");
        assert!(published.tag.starts_with("27C74670ADB75075FAD058"), "{}", published.tag);
        assert_eq!(tag(&|out| out.write_all(b"{}").map(|()| true)).unwrap(), Some(published.tag));
        assert_eq!(publish(&|_| Ok(false)).unwrap(), None);

        let cache = Cache::default();
        let key = |path: &str| Key { path: path.to_owned(), encoding: Encoding::Json, state: String::new() };
        let large = || Published { gzip: vec![0; KEPT_BYTES - 10].into(), tag: String::new() };
        cache.keep(key("a"), Published { gzip: Bytes::from_static(b"x"), tag: String::new() });
        cache.keep(key("b"), large());
        assert!(cache.get(&key("a")).is_some() && cache.get(&key("b")).is_some());
        cache.keep(key("c"), large());
        assert!(cache.get(&key("a")).is_none() && cache.get(&key("c")).is_some());
    }
}
