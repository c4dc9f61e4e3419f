//! Futures that hardly ever complete, beside work that is polled all the time.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

/// A future that is polled when it asks for it, however often the task around it is: signals to stop take a lock
/// whenever they are polled, which a busy task would pay for with each of its turns.
pub struct Seldom<F> {
    future: Pin<Box<F>>,
    call: Arc<Call>,
    /// What the future is given, so that it is known who woke the task.
    waker: Waker,
}

struct Call {
    is_due: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Call {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_due.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl<F: Future> Seldom<F> {
    /// Wraps a future, which must not be polled any more once it completed.
    pub fn new(future: F) -> Self {
        let call = Arc::new(Call { is_due: AtomicBool::new(true), task: AtomicWaker::new() });
        Self { future: Box::pin(future), waker: Waker::from(call.clone()), call }
    }
}

impl<F: Future> Future for Seldom<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.call.task.register(cx.waker());
        if !self.call.is_due.swap(false, Ordering::Acquire) {
            return Poll::Pending;
        }
        let waker = self.waker.clone();
        self.future.as_mut().poll(&mut Context::from_waker(&waker))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::sync::atomic::AtomicUsize;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn is_polled_when_it_asks_for_it_alone() {
        let (sender, mut receiver) = oneshot::channel();
        let polls = Arc::new(AtomicUsize::new(0));
        let counted = polls.clone();
        let mut seldom = Seldom::new(poll_fn(move |cx| {
            counted.fetch_add(1, Ordering::Relaxed);
            Pin::new(&mut receiver).poll(cx)
        }));
        for _ in 0..5 {
            let polled = poll_fn(|cx| Poll::Ready(Pin::new(&mut seldom).poll(cx).is_ready())).await;
            assert!(!polled);
        }
        assert_eq!(polls.load(Ordering::Relaxed), 1);
        sender.send(7).unwrap();
        assert_eq!(seldom.await, Ok(7));
        assert_eq!(polls.load(Ordering::Relaxed), 2);
    }
}
