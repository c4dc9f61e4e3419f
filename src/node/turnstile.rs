//! What takes the machine's processors goes through a few at a time: twenty pods that are all started at once are
//! all slow, and the last is no sooner than if they came one after the other.

use base::clock;
use std::future::Future;
use std::time::Duration;
use tokio::sync::Semaphore;

/// What takes longer waits for something else than a processor, say for a network plugin's server, and keeps
/// nobody back any more.
const HOLD: Duration = Duration::from_secs(1);

/// Lets so many through at a time, in the order in which they came.
pub(crate) struct Turnstile(Semaphore);

impl Turnstile {
    fn new(at_once: usize) -> Self {
        Self(Semaphore::new(at_once))
    }

    /// As many as there are processors, and one more for what waits for the disk.
    pub(crate) fn for_processors() -> Self {
        Self::new(std::thread::available_parallelism().map_or(2, std::num::NonZero::get) + 1)
    }

    /// Does something when it is its turn.
    pub(crate) async fn pass<T>(&self, work: impl Future<Output = T>) -> T {
        // A turn, since it is never closed.
        let turn = self.0.acquire().await;
        tokio::pin!(work);
        tokio::select! {
            done = &mut work => return done,
            () = clock::sleep(HOLD) => {}
        }
        drop(turn);
        work.await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::join_all;
    use std::cell::RefCell;

    #[tokio::test(start_paused = true)]
    async fn a_few_pass_at_a_time_and_who_is_stuck_keeps_nobody_back() {
        let (turnstile, began) = (Turnstile::new(2), clock::instant());
        let done = RefCell::new(Vec::new());
        let pass = |name: &'static str, ms: u64| {
            let (turnstile, done) = (&turnstile, &done);
            async move {
                turnstile.pass(clock::sleep(Duration::from_millis(ms))).await;
                done.borrow_mut().push((name, began.elapsed().as_millis()));
            }
        };
        join_all([pass("first", 100), pass("second", 100), pass("third", 100)]).await;
        assert_eq!(*done.borrow(), [("first", 100), ("second", 100), ("third", 200)]);
        done.borrow_mut().clear();
        join_all([pass("stuck", 60_000), pass("stuck too", 60_000), pass("next", 100)]).await;
        assert_eq!(*done.borrow(), [("next", 1300), ("stuck", 60_200), ("stuck too", 60_200)]);
    }
}
