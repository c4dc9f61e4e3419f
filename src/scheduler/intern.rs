//! What is compared and counted often, each once in memory: texts, and whole descriptions.

use slab::Slab;
use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

/// Below this many entries nothing is looked through for what nobody uses any more.
const SWEEP_FROM: usize = 256;

/// A text of which there is one; it is compared by its address.
#[derive(Clone)]
pub(crate) struct Text(Arc<str>);

impl Text {
    fn address(&self) -> usize {
        Arc::as_ptr(&self.0).cast::<u8>() as usize
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.address() == other.address()
    }
}

impl Eq for Text {}

impl PartialOrd for Text {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Text {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
    }
}

impl Hash for Text {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_usize(self.address());
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, out)
    }
}

/// The texts there are; those that nobody holds go when their number has doubled.
#[derive(Debug, Default)]
pub(crate) struct Texts {
    known: HashSet<Arc<str>>,
    sweep_at: usize,
}

impl Texts {
    /// The one text like this.
    pub(crate) fn of(&mut self, text: &str) -> Text {
        if let Some(known) = self.known.get(text) {
            return Text(known.clone());
        }
        if self.known.len() >= self.sweep_at.max(SWEEP_FROM) {
            self.known.retain(|text| Arc::strong_count(text) > 1);
            self.sweep_at = 2 * self.known.len();
        }
        let text: Arc<str> = text.into();
        self.known.insert(text.clone());
        Text(text)
    }
}

/// Mixes an address or a small number: what is counted by it comes from no stranger's hand.
#[derive(Default)]
pub(crate) struct Mixer(u64);

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_usize(usize::from(*byte));
        }
    }

    fn write_usize(&mut self, number: usize) {
        // Fibonacci hashing; the rotation brings the mixed upper bits where tables look.
        self.0 = (self.0 ^ number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }
}

/// Something per text.
pub(crate) type PerText<V> = HashMap<Text, V, BuildHasherDefault<Mixer>>;

/// A description of which there is one, and its place in the pool.
#[derive(Debug)]
pub(crate) struct Handle<T> {
    what: Arc<T>,
    pub(crate) ix: usize,
}

impl<T> Clone for Handle<T> {
    fn clone(&self) -> Self {
        Self { what: self.what.clone(), ix: self.ix }
    }
}

impl<T> PartialEq for Handle<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.what, &other.what)
    }
}

impl<T> Deref for Handle<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.what
    }
}

/// Descriptions of one sort, with what is kept about each. It goes when nobody holds a handle.
#[derive(Debug)]
pub(crate) struct Pool<T, S> {
    known: HashMap<Arc<T>, usize>,
    pub(crate) states: Slab<S>,
    sweep_at: usize,
}

impl<T, S> Default for Pool<T, S> {
    fn default() -> Self {
        Self { known: HashMap::new(), states: Slab::new(), sweep_at: 0 }
    }
}

impl<T: Eq + Hash, S> Pool<T, S> {
    /// The one description like this, were there one.
    pub(crate) fn find(&self, what: &T) -> Option<Handle<T>> {
        let (what, ix) = self.known.get_key_value(what)?;
        Some(Handle { what: what.clone(), ix: *ix })
    }

    /// Adds one that is not there.
    pub(crate) fn add(&mut self, what: T, state: S) -> Handle<T> {
        let (what, ix) = (Arc::new(what), self.states.insert(state));
        self.known.insert(what.clone(), ix);
        Handle { what, ix }
    }

    /// Takes out what nobody holds, when it is time; the places that are free now.
    pub(crate) fn sweep(&mut self) -> Vec<usize> {
        let mut freed = Vec::new();
        if self.known.len() < self.sweep_at.max(SWEEP_FROM) {
            return freed;
        }
        self.known.retain(|what, ix| {
            let held = Arc::strong_count(what) > 1;
            if !held {
                freed.push(*ix);
            }
            held
        });
        for ix in &freed {
            self.states.remove(*ix);
        }
        self.sweep_at = 2 * self.known.len();
        freed
    }

    /// Handles of all of them.
    pub(crate) fn handles(&self) -> impl Iterator<Item = Handle<T>> {
        self.known.iter().map(|(what, ix)| Handle { what: what.clone(), ix: *ix })
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&T, usize)> {
        self.known.iter().map(|(what, ix)| (&**what, *ix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_holds_goes_when_its_number_has_doubled() {
        let (mut texts, mut pool) = (Texts::default(), Pool::<usize, ()>::default());
        let (kept, held) = (texts.of("kept"), pool.add(7, ()));
        for number in 0..2 * SWEEP_FROM {
            texts.of(&number.to_string());
            pool.sweep();
            pool.add(1_000 + number, ());
        }
        assert!(texts.known.len() <= SWEEP_FROM + 1, "{}", texts.known.len());
        assert!(pool.known.len() <= SWEEP_FROM + 1, "{}", pool.known.len());
        assert_eq!(texts.of("kept"), kept);
        assert!(pool.find(&7) == Some(held));
    }
}
