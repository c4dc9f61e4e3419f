//! What is asked for in the distribution specification's words: a manifest or a blob of a repository. Pure.

use crate::images::Reference;
use base::query::{pairs, unescape};

/// A part of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A manifest by its tag, which may be another one tomorrow.
    Tag(String),
    /// A manifest by its digest.
    Manifest(String),
    /// Anything by its digest.
    Blob(String),
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) registry: String,
    /// In full, with the registry.
    pub(super) repository: String,
    pub(super) what: What,
}

impl Asked {
    /// Reads `NAME/manifests/REFERENCE` or `NAME/blobs/DIGEST`, and the query, in which `ns` is the registry as
    /// containerd says it to those that stand in for one.
    pub(super) fn parse(path: &str, query: &str) -> Option<Self> {
        let registry = pairs(query).into_iter().find(|(name, _)| name == "ns")?.1;
        let path = unescape(path);
        let split = |kind: &str| path.rsplit_once(kind);
        let (name, reference, is_blob) = match (split("/manifests/"), split("/blobs/")) {
            (Some((name, reference)), _) if !reference.contains('/') => (name, reference, false),
            (_, Some((name, reference))) => (name, reference, true),
            _ => return None,
        };
        let repository = format!("{registry}/{name}");
        let is_digest = reference.contains(':');
        let whole = format!("{repository}{}{reference}", if is_digest { '@' } else { ':' });
        let known = Reference::parse(&whole).ok().filter(|known| known.repository() == repository)?;
        let what = match (known.tag, known.digest) {
            (Some(tag), None) if !is_blob => What::Tag(tag.to_owned()),
            (None, Some(digest)) if is_blob => What::Blob(digest.to_owned()),
            (None, Some(digest)) => What::Manifest(digest.to_owned()),
            _ => return None,
        };
        Some(Self { registry, repository, what })
    }

    /// The name by which the runtime knows an image of this tag.
    pub(super) fn image(&self, tag: &str) -> String {
        format!("{}:{tag}", self.repository)
    }

    /// The path and query by which another node is asked.
    pub(super) fn path(&self) -> String {
        let name = &self.repository[self.registry.len() + 1..];
        let (kind, reference) = match &self.what {
            What::Tag(reference) | What::Manifest(reference) => ("manifests", reference),
            What::Blob(digest) => ("blobs", digest),
        };
        format!("/v2/{name}/{kind}/{reference}?ns={}", client::escape(&self.registry))
    }
}

/// The bytes that are wanted of so many, as `Range` has them: where to begin, and how many. Nothing where all are, and
/// where it is said in a way that may be passed over; an error where there are none such.
pub(super) fn range(header: Option<&str>, size: u64) -> Result<Option<(u64, u64)>, ()> {
    let Some((first, last)) =
        header.and_then(|it| it.strip_prefix("bytes=")).and_then(|it| it.split_once('-'))
    else {
        return Ok(None);
    };
    let Ok(first) = first.parse::<u64>() else { return Ok(None) };
    let last = match last {
        "" => size.saturating_sub(1),
        last => match last.parse::<u64>() {
            Ok(last) if last >= first => last.min(size.saturating_sub(1)),
            _ => return Ok(None),
        },
    };
    if first < size { Ok(Some((first, last - first + 1))) } else { Err(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_read_and_written() {
        let digest = format!("sha256:{}", "0".repeat(64));
        for (path, query, repository, what) in [
            (
                "library/busybox/manifests/1.36",
                "ns=docker.io",
                "docker.io/library/busybox",
                What::Tag("1.36".into()),
            ),
            (
                &format!("a/manifests/b/manifests/{digest}"),
                "ns=localhost%3A5000",
                "localhost:5000/a/manifests/b",
                What::Manifest(digest.clone()),
            ),
            (&format!("a/blobs/{digest}"), "ns=a.io", "a.io/a", What::Blob(digest.clone())),
        ] {
            let asked = Asked::parse(path, query).unwrap();
            assert_eq!((asked.repository.as_str(), &asked.what), (repository, &what));
            assert_eq!(asked.path(), format!("/v2/{path}?{query}"));
        }
        for (path, query) in [
            ("a/manifests/1", ""),
            ("a/manifests/1", "ns="),
            ("a/manifests/1", "ns=hub"),
            ("busybox/manifests/1", "ns=docker.io"),
            ("a/blobs/1", "ns=a.io"),
            ("a/tags/list", "ns=a.io"),
            ("../../a/manifests/1", "ns=a.io"),
            ("a/manifests/..%2f..%2f1", "ns=a.io"),
            ("", "ns=a.io"),
        ] {
            assert_eq!(Asked::parse(path, query), None, "{path}?{query}");
        }
    }

    #[test]
    fn parts_are_read_by_where_they_begin() {
        assert_eq!(range(None, 10), Ok(None));
        assert_eq!(range(Some("bytes=4-"), 10), Ok(Some((4, 6))));
        assert_eq!(range(Some("bytes=0-0"), 10), Ok(Some((0, 1))));
        assert_eq!(range(Some("bytes=4-99"), 10), Ok(Some((4, 6))));
        assert_eq!(range(Some("bytes=10-"), 10), Err(()));
        assert_eq!(range(Some("bytes=0-"), 0), Err(()));
        for passed_over in ["bytes=-5", "bytes=5-4", "bytes=0-1,3-4", "lines=1-2"] {
            assert_eq!(range(Some(passed_over), 10), Ok(None));
        }
    }
}
