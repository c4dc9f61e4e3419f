//! Turns: one operation at a time on a volume of a driver, on a disk, or at a path.

use crate::{Context, Error};
use futures_util::future::BoxFuture;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::OwnedMutexGuard;

/// A driver and its handle of a volume, or a kind of disks and the disk.
pub(crate) type Key = (String, String);

/// Who has it works on a volume. The next one has to wait for what was begun in it too: a driver that was asked for
/// something may still do it when nobody waits for that any more, since the pod is to go.
#[derive(Clone)]
pub(crate) struct Turn(#[expect(dead_code, reason = "it is held")] Arc<OwnedMutexGuard<()>>);

/// What somebody works on, or waits for.
#[derive(Default)]
pub(crate) struct Turns<K = Key>(Mutex<HashMap<K, Arc<tokio::sync::Mutex<()>>>>);

impl<K: Clone + Eq + Hash> Turns<K> {
    /// Waits for its turn.
    pub(crate) async fn take(&self, key: &K) -> Turn {
        let mutex = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|_, mutex| Arc::strong_count(mutex) > 1);
            all.entry(key.clone()).or_default().clone()
        };
        Turn(Arc::new(mutex.lock_owned().await))
    }
}

impl Turn {
    /// Does something to its end, also when nobody waits for it any more; the turn lasts until then.
    pub(crate) async fn to_the_end<T: Send + 'static>(
        &self,
        context: &Context,
        work: BoxFuture<'static, T>,
    ) -> Result<T, Error> {
        let turn = self.clone();
        let working = context.to_the_end(Box::pin(async move {
            let done = work.await;
            drop(turn);
            done
        }));
        working.await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_next_one_waits_for_calls_too() {
        let (turns, key) = (Turns::default(), ("d".to_owned(), "h".to_owned()));
        let first = turns.take(&key).await;
        let call = first.clone();
        drop(first);
        let mut second = std::pin::pin!(turns.take(&key));
        assert!(futures_util::poll!(second.as_mut()).is_pending());
        turns.take(&("d".to_owned(), "other".to_owned())).await;
        drop(call);
        assert!(futures_util::poll!(second.as_mut()).is_ready());
    }
}
