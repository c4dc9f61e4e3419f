//! Many small pieces of work in one task: what wakes several of them wakes one task on one processor, where as many
//! tasks would wake the other processors to share them, at more than the work itself costs.

use crate::supervise::panic_text;
use crate::{Phase, Restart, Shutdown, Supervisor};
use futures_util::FutureExt;
use futures_util::future::{AbortHandle, Abortable, BoxFuture};
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::convert::Infallible;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use tokio::sync::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

type Work = BoxFuture<'static, ()>;

/// Where work is added that is to run together. None of it may block.
pub struct Together(UnboundedSender<Work>);

impl Together {
    /// A task that runs until its phase is drained; a panic in a piece of work is logged under this name and ends
    /// that piece.
    pub fn start(supervisor: &Supervisor, name: &'static str, phase: Phase) -> Self {
        let (sender, receiver) = unbounded_channel();
        let receiver = Arc::new(Mutex::new(receiver));
        supervisor.run(name, phase, Restart::OnFailure, move |shutdown| {
            let receiver = receiver.clone();
            async move {
                run(name, &mut *receiver.lock().await, shutdown).await;
                Ok::<(), Infallible>(())
            }
        });
        Self(sender)
    }

    /// Runs `work` until it ends or is aborted.
    pub fn add(&self, work: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let (handle, registration) = AbortHandle::new_pair();
        let work = Abortable::new(work, registration).map(drop).boxed();
        if self.0.send(work).is_err() {
            tracing::debug!("nothing runs any more: the process is being stopped");
        }
        handle
    }
}

async fn run(name: &'static str, added: &mut UnboundedReceiver<Work>, shutdown: Shutdown) {
    let mut running = FuturesUnordered::new();
    let mut stopped = pin!(shutdown.requested());
    loop {
        tokio::select! {
            Some(work) = added.recv() => running.push(AssertUnwindSafe(work).catch_unwind()),
            Some(ended) = running.next() => {
                if let Err(panic) = ended {
                    tracing::error!(task = name, panic = panic_text(&*panic), "panicked");
                }
            }
            () = &mut stopped => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use std::time::Duration;
    use tokio::sync::oneshot;

    #[tokio::test(start_paused = true)]
    async fn each_goes_its_own_way() {
        let supervisor = Supervisor::new();
        let together = Together::start(&supervisor, "several", Phase::Work);
        let after = |seconds: u64| {
            let (sender, receiver) = oneshot::channel();
            let work = async move {
                clock::sleep(Duration::from_secs(seconds)).await;
                sender.send(()).ok();
            };
            (work, receiver)
        };
        let ((long, long_done), (short, short_done), (aborted, never)) = (after(9), after(1), after(5));
        drop(together.add(async { panic!("at once") }));
        drop((together.add(long), together.add(short)));
        together.add(aborted).abort();
        short_done.await.unwrap();
        assert!(never.await.is_err());
        long_done.await.unwrap();
        let (work, done) = after(1);
        drop(together.add(work));
        done.await.unwrap();
    }
}
