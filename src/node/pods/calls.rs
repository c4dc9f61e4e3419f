//! Calls to the runtime that are not broken off when their pod goes: one that is may leave a process that the runtime
//! does not tell of, and that nobody would end.

use std::future::Future;
use std::time::Duration;
use tokio::sync::watch;

/// How long a pod that goes waits for a call that does not come back.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether a call is under way for a pod.
#[derive(Default)]
pub(crate) struct Calls(watch::Sender<bool>);

/// Says so until it is dropped.
struct Guard<'a>(&'a Calls);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.0.send_replace(false);
    }
}

impl Calls {
    /// Makes a call.
    pub(super) async fn make<T>(&self, call: impl Future<Output = T>) -> T {
        self.0.send_replace(true);
        let _guard = Guard(self);
        call.await
    }

    /// Completes when no call is under way, or it takes too long.
    pub(super) async fn quiet(&self) {
        let mut calls = self.0.subscribe();
        if tokio::time::timeout(PATIENCE, calls.wait_for(|is_made| !is_made)).await.is_err() {
            tracing::warn!("the runtime does not answer; a pod goes on without it");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::clock;

    /// What becomes of a call of so many seconds when its pod goes after one.
    async fn broken_off(seconds: u64) -> (bool, u64) {
        let (calls, began) = (Calls::default(), clock::instant());
        let going = async {
            clock::sleep(Duration::from_secs(1)).await;
            calls.quiet().await;
        };
        let call = async {
            calls.make(clock::sleep(Duration::from_secs(seconds))).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = going => {}
            () = call => {}
        }
        (*calls.0.borrow(), began.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_goes_waits_for_a_call_but_not_for_ever() {
        assert_eq!(broken_off(10).await, (false, 10));
        assert_eq!(broken_off(60).await, (false, 31));
    }
}
