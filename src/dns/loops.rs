//! Finds upstreams that ask us what we ask them: each is asked for a name that nobody else knows.

use crate::name::Name;
use crate::upstream::Upstream;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// So many upstreams are looked at at a time.
const EXPECTED: usize = 256;

/// The names that were asked for, and of whom.
#[derive(Default)]
pub(crate) struct Loops(Mutex<HashMap<Name, Arc<Upstream>>>);

impl Loops {
    fn names(&self) -> std::sync::MutexGuard<'_, HashMap<Name, Arc<Upstream>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A name to ask an upstream for, within the zone that is forwarded to it. None if there are too
    /// many already.
    pub(crate) fn expect(&self, upstream: &Arc<Upstream>, zone: &Name) -> Option<Name> {
        let labels: [String; 2] =
            std::array::from_fn(|_| u64::from_be_bytes(base::random::bytes()).to_string());
        let name = Name::of_labels(labels.iter().map(String::as_bytes), zone)?;
        let mut names = self.names();
        (names.len() < EXPECTED).then(|| {
            names.insert(name, upstream.clone());
            name
        })
    }

    pub(crate) fn forget(&self, name: &Name) {
        self.names().remove(name);
    }

    /// We were asked for a name: its upstream, if it is one of ours, is never asked again.
    pub(crate) fn caught(&self, name: &Name) -> bool {
        let Some(upstream) = self.names().remove(name) else { return false };
        upstream.mark_looped();
        tracing::error!(
            upstream = %upstream.address,
            "this name server asks cluster DNS what it is asked by it: it is not used; \
             name another one in the Corefile or in the file of --resolv-conf"
        );
        true
    }
}
