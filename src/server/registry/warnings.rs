//! What a writer is to be warned of, whatever becomes of the write.

use std::sync::{Arc, Mutex, PoisonError};

/// Texts in the order in which they came, each once. Cheap to clone; every clone is the same list.
#[derive(Clone, Debug, Default)]
pub(crate) struct Warnings(Arc<Mutex<Vec<String>>>);

impl Warnings {
    /// Adds what is not there yet.
    pub(crate) fn extend(&self, texts: impl IntoIterator<Item = String>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for text in texts {
            if !text.is_empty() && !all.contains(&text) {
                all.push(text);
            }
        }
    }

    /// All of them.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
