//! Which objects are on which node, so that a question about one node does not look at those of all.

use super::index::Record;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};
use store::Beside;

/// Keys of objects by node, as every write leaves them.
#[derive(Default)]
pub(crate) struct OnNodes(RwLock<HashMap<Box<str>, HashSet<Arc<str>>>>);

impl OnNodes {
    /// Follows a write.
    pub(super) fn wrote(&self, before: Option<&Record>, now: Option<&Record>) {
        let node = |record: Option<&Record>| record.map_or("", |record| record.index.topic()).to_owned();
        let (left, entered) = (node(before), node(now));
        if left == entered {
            return;
        }
        let mut nodes = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let (Some(record), Some(keys)) = (before, nodes.get_mut(&*left)) {
            keys.remove(&record.key);
            if keys.is_empty() {
                nodes.remove(&*left);
            }
        }
        if let Some(record) = now.filter(|_| !entered.is_empty()) {
            nodes.entry(entered.into()).or_default().insert(record.key.clone());
        }
    }

    /// The keys of what is on a node and begins with a prefix.
    pub(crate) fn of(&self, node: &str, prefix: &str) -> Vec<Arc<str>> {
        let nodes = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let keys = nodes.get(node).into_iter().flatten();
        keys.filter(|key| key.starts_with(prefix)).cloned().collect()
    }
}
