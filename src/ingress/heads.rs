//! How long a client may take over the head of a request: a timer of the connection's own, since hyper makes one for
//! each head, which costs a lock and an allocation.

use base::clock;
use hyper::rt::{Sleep, Timer};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// When the head that is waited for has to be there.
pub(crate) struct Heads {
    began: clock::Instant,
    /// Milliseconds after that; 0 while none is waited for.
    due_ms: AtomicU64,
    /// How long one may take.
    limit: Duration,
}

impl Heads {
    pub(crate) fn new(limit: Duration) -> Arc<Self> {
        Arc::new(Self { began: clock::instant(), due_ms: AtomicU64::new(0), limit })
    }

    /// Whether a head is waited for.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.due_ms.load(Ordering::Relaxed) != 0
    }

    /// Completes when a head did not come in time. hyper notices when the connection is polled next, which has to be in
    /// the task that waits for this.
    pub(crate) async fn overdue(&self) {
        loop {
            let due = self.due_ms.load(Ordering::Relaxed);
            let left = Duration::from_millis(due).saturating_sub(self.began.elapsed());
            match (due, left) {
                // Whatever is waited for from now on is not due before this is over.
                (0, _) => clock::sleep(self.limit).await,
                (_, Duration::ZERO) => break,
                (_, left) => clock::sleep(left).await,
            }
        }
        self.due_ms.store(0, Ordering::Relaxed);
    }
}

/// What hyper is given as its timer.
pub(crate) struct HeadTimer(pub(crate) Arc<Heads>);

impl Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        let due = deadline.saturating_duration_since(self.0.began.into_std());
        let ms = u64::try_from(due.as_millis()).unwrap_or(u64::MAX);
        self.0.due_ms.store(ms.max(1), Ordering::Relaxed);
        Box::pin(HeadWait(self.0.clone()))
    }

    fn now(&self) -> Instant {
        clock::instant().into_std()
    }
}

/// Lasts until the head is overdue.
struct HeadWait(Arc<Heads>);

impl Future for HeadWait {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        match self.0.due_ms.load(Ordering::Relaxed) {
            0 => Poll::Ready(()),
            _ => Poll::Pending,
        }
    }
}

impl Drop for HeadWait {
    fn drop(&mut self) {
        self.0.due_ms.store(0, Ordering::Relaxed);
    }
}

impl Sleep for HeadWait {}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_head_is_overdue_and_a_request_is_not() {
        let heads = Heads::new(Duration::from_secs(60));
        let timer = HeadTimer(heads.clone());
        let began = clock::instant();
        let first = timer.sleep(Duration::from_secs(60));
        tokio::time::advance(Duration::from_secs(30)).await;
        drop(first);
        // A request is under way, for longer than a head may take.
        let silent = tokio::time::timeout(Duration::from_secs(100), heads.overdue()).await;
        assert!(silent.is_err());
        let second = timer.sleep(Duration::from_secs(60));
        heads.overdue().await;
        second.await;
        assert_eq!(began.elapsed().as_secs(), 190);
    }
}
