//! A small map that takes no more memory than its texts.

use crate::object::Texts;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Texts by key, in the order of the keys. A `BTreeMap` takes half a kilobyte for its first pair.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(from = "Option<BTreeMap<Box<str>, Box<str>>>")]
pub struct Map(Box<[(Box<str>, Box<str>)]>);

impl Map {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(own, _)| (**own).cmp(key)).ok()?;
        Some(&self.0[at].1)
    }

    /// Whether there is a value of the key.
    pub fn contains_key(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// All pairs.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }
}

impl From<BTreeMap<Box<str>, Box<str>>> for Map {
    fn from(pairs: BTreeMap<Box<str>, Box<str>>) -> Self {
        Self(pairs.into_iter().collect())
    }
}

impl From<Option<BTreeMap<Box<str>, Box<str>>>> for Map {
    fn from(pairs: Option<BTreeMap<Box<str>, Box<str>>>) -> Self {
        pairs.unwrap_or_default().into()
    }
}

impl Texts for Map {
    fn text(&self, key: &str) -> Option<&str> {
        self.get(key)
    }
}
