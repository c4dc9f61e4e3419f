//! A sorted map that takes no more memory than what is in it: there is one for every service, and a
//! `BTreeMap` takes room for eleven pairs where there is one.

use std::collections::BTreeMap;

/// Pairs in the order of their keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Few<K, V>(Box<[(K, V)]>);

impl<K, V> Default for Few<K, V> {
    fn default() -> Self {
        Self(Box::default())
    }
}

impl<K: Ord, V> Few<K, V> {
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        let at = self.0.binary_search_by(|(own, _)| own.cmp(key)).ok()?;
        Some(&self.0[at].1)
    }

    pub(crate) fn contains_key(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.0.iter().map(|(key, _)| key)
    }
}

impl<K: Ord, V> From<BTreeMap<K, V>> for Few<K, V> {
    fn from(pairs: BTreeMap<K, V>) -> Self {
        Self(pairs.into_iter().collect())
    }
}

#[cfg(test)]
impl<K: Ord, V> std::ops::Index<&K> for Few<K, V> {
    type Output = V;

    fn index(&self, key: &K) -> &V {
        self.get(key).expect("the key is there")
    }
}
