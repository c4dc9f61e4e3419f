//! Records, and the persistent map of them that a revision is.

use bytes::Bytes;
use imbl::OrdMap;
use std::ops::Bound;
use std::sync::Arc;

/// A value whose own revision stands in it: the decimal revision is spliced in when it is assigned,
/// so that the bytes at rest are the bytes on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// The value without its revision.
    pub bytes: Vec<u8>,
    /// Where the revision goes.
    pub at: usize,
}

impl Template {
    /// Into memory of exactly its size: what a serializer reserved in advance would be kept as long.
    pub(crate) fn fill(self, revision: u64) -> Bytes {
        let digits = revision.to_string();
        let (before, after) = self.bytes.split_at(self.at.min(self.bytes.len()));
        [before, digits.as_bytes(), after].concat().into()
    }

    /// Of bytes in which a revision stands already.
    pub(crate) fn of_filled(value: &[u8], at: usize, revision: u64) -> Self {
        let end = at + revision.to_string().len();
        let (before, after) = (value.get(..at).unwrap_or_default(), value.get(end..).unwrap_or_default());
        Self { bytes: [before, after].concat(), at }
    }
}

/// One key's state at one revision.
#[derive(Debug)]
pub struct Record<I> {
    /// The key.
    pub key: Arc<str>,
    /// The value, its revision in place.
    pub value: Bytes,
    /// When it was written.
    pub revision: u64,
    /// When the key came into being.
    pub create_revision: u64,
    /// Where its revision stands in the value; 0 where that is not known.
    pub at: u32,
    /// What the caller keeps beside the value.
    pub index: I,
}

pub(crate) type Map<I> = OrdMap<Arc<str>, Arc<Record<I>>>;

/// The whole state at one revision.
pub(crate) struct State<I> {
    pub(crate) revision: u64,
    pub(crate) map: Map<I>,
}

/// The whole state at one revision, for as long as it is held.
pub struct Snapshot<I>(pub(crate) Arc<State<I>>);

impl<I> Clone for Snapshot<I> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<I> Snapshot<I> {
    /// The revision of this state.
    pub fn revision(&self) -> u64 {
        self.0.revision
    }

    /// A key's record.
    pub fn get(&self, key: &str) -> Option<&Arc<Record<I>>> {
        self.0.map.get(key)
    }

    /// The records whose keys start with `prefix`, in key order; with `after`, only those behind it.
    pub fn range<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&str>,
    ) -> impl Iterator<Item = &'a Arc<Record<I>>> + use<'a, I> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let entries = self.0.map.range::<_, str>((from, Bound::Unbounded));
        entries.take_while(move |(key, _)| key.starts_with(prefix)).map(|(_, record)| record)
    }

    /// How many keys start with `prefix`.
    pub fn count(&self, prefix: &str) -> usize {
        self.range(prefix, None).count()
    }
}
