//! Turns: one operation at a time on a volume of a driver.

use super::attach::Key;
use super::call::{Failure, call};
use super::lock;
use crate::Context;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio::sync::OwnedMutexGuard;
use tonic::{Response, Status};

/// Who has it works on a volume. The next one has to wait for the calls that were made in it too: a driver that was
/// asked for something may still do it when nobody waits for that any more, since the pod is to go.
#[derive(Clone)]
pub(super) struct Turn(#[expect(dead_code, reason = "it is held")] Arc<OwnedMutexGuard<()>>);

/// The volumes that somebody works on, or waits for.
#[derive(Default)]
pub(super) struct Turns(Mutex<HashMap<Key, Arc<tokio::sync::Mutex<()>>>>);

impl Turns {
    /// Waits for its turn on a driver's volume.
    pub(super) async fn take(&self, key: &Key) -> Turn {
        let mutex = {
            let mut all = lock(&self.0);
            all.retain(|_, mutex| Arc::strong_count(mutex) > 1);
            all.entry(key.clone()).or_default().clone()
        };
        Turn(Arc::new(mutex.lock_owned().await))
    }
}

impl Turn {
    /// Asks a driver, and has it answer.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        context: &Context,
        answer: impl Future<Output = Result<Response<T>, Status>> + Send + 'static,
    ) -> Result<T, Failure> {
        let turn = self.clone();
        let answered = context.to_the_end(async move {
            let answered = call(answer).await;
            drop(turn);
            answered
        });
        answered.await.unwrap_or_else(|error| Err(Failure::before(error.to_string())))
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
