//! Pods of this node whose addresses their kubelet has told, for as long as the API may not have them: a table that is
//! made anew is made with them.

use super::state::{Known, Name};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// More pods than any node runs. Beyond that those are forgotten first that were told of first.
const MOST: usize = 1_024;

#[derive(Default)]
struct Pods {
    /// Of two pods with one address the later has it.
    count: u64,
    all: BTreeMap<Name, Known>,
}

/// See the module's comment.
#[derive(Default)]
pub(super) struct Remembered {
    pods: Mutex<Pods>,
    /// All pods that were there at the start were told of.
    recalled: watch::Sender<bool>,
}

impl Remembered {
    fn lock(&self) -> MutexGuard<'_, Pods> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a pod; gives it with its number.
    pub(super) fn add(&self, name: &Name, pod: Known) -> Known {
        let mut pods = self.lock();
        pods.count += 1;
        let known = Known { told: pods.count, ..pod };
        pods.all.insert(name.clone(), known.clone());
        if pods.all.len() > MOST {
            let first = pods.all.iter().min_by_key(|(_, pod)| pod.told).map(|(name, _)| name.clone());
            first.and_then(|first| pods.all.remove(&first));
        }
        known
    }

    /// All of them.
    pub(super) fn all(&self) -> BTreeMap<Name, Known> {
        self.lock().all.clone()
    }

    /// A pod is gone for the API as well.
    pub(super) fn forget(&self, name: &Name, uid: &str) {
        let mut pods = self.lock();
        if pods.all.get(name).is_some_and(|pod| pod.uid == uid) {
            pods.all.remove(name);
        }
    }

    /// The API has a pod's addresses, or another pod of its name.
    pub(super) fn settle(&self, name: &Name, uid: &str, addresses: &BTreeSet<IpAddr>) {
        let mut pods = self.lock();
        let settled = |pod: &Known| pod.uid != uid || pod.addresses.is_subset(addresses);
        if pods.all.get(name).is_some_and(settled) {
            pods.all.remove(name);
        }
    }

    pub(super) fn end_recall(&self) {
        self.recalled.send_replace(true);
    }

    /// Completes when it is known which pods were there at the start.
    pub(super) async fn recalled(&self) {
        let mut recalled = self.recalled.subscribe();
        // The sender lives as long as what is remembered.
        if recalled.wait_for(|recalled| *recalled).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, address: &str) -> Known {
        Known { uid: uid.to_owned(), addresses: [address.parse().unwrap()].into(), ..Known::default() }
    }

    fn name(text: &str) -> Name {
        ("x".to_owned(), text.to_owned())
    }

    #[test]
    fn pods_are_remembered_until_the_api_has_their_addresses() {
        let remembered = Remembered::default();
        let one = remembered.add(&name("a"), pod("1", "10.42.0.7"));
        let two = remembered.add(&name("b"), pod("2", "10.42.0.8"));
        assert!(one.told > 0 && two.told > one.told);
        remembered.settle(&name("a"), "1", &BTreeSet::new());
        remembered.settle(&name("a"), "1", &["10.42.0.9".parse().unwrap()].into());
        remembered.forget(&name("b"), "other");
        assert_eq!(remembered.all().len(), 2);
        remembered.settle(&name("a"), "1", &["10.42.0.7".parse().unwrap()].into());
        remembered.forget(&name("b"), "2");
        assert!(remembered.all().is_empty());
    }

    #[test]
    fn no_more_are_remembered_than_a_node_runs() {
        let remembered = Remembered::default();
        for number in 0..=MOST {
            remembered.add(&name(&number.to_string()), pod("1", "10.42.0.7"));
        }
        let all = remembered.all();
        assert!(all.len() == MOST && !all.contains_key(&name("0")) && all.contains_key(&name("1")));
    }
}
