//! Changes of files that may take long, or forever where a file server is away: they run beside the
//! runtime's workers, one after the other for each path, and who waits for them gives up.

use crate::Error;
use crate::turns::{Turn, Turns};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a change is waited for, as Kubernetes waits for drivers. What still hangs goes on alone.
const LIMIT: Duration = Duration::from_secs(120);

/// The paths at which something is under way.
#[derive(Default)]
pub(crate) struct Background(Turns<PathBuf>);

/// Has the path until the work is done, also when nobody waits for it any more.
async fn working<T: Send + 'static>(
    path: &Path,
    turn: Turn,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let working = tokio::task::spawn_blocking(move || {
        let done = work();
        drop(turn);
        done
    });
    working.await.unwrap_or_else(|panic| Err(Error::Volume(format!("{}: {panic}", path.display()))))
}

impl Background {
    async fn take(&self, path: &Path) -> Turn {
        self.0.take(&path.to_owned()).await
    }

    /// Does `work` at `path`, after what is under way there.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        path: &Path,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let hangs = || Error::Volume(format!("timed out waiting for {}", path.display()));
        let Ok(turn) = tokio::time::timeout(LIMIT, self.take(path)).await else { return Err(hangs()) };
        match tokio::time::timeout(LIMIT, working(path, turn, work)).await {
            Ok(done) => done,
            Err(_) => Err(hangs()),
        }
    }

    /// The same for what may rightly take longer, and would begin anew if somebody gave up on it.
    pub(crate) async fn finish<T: Send + 'static>(
        &self,
        path: &Path,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        working(path, self.take(path).await, work).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[tokio::test(flavor = "multi_thread")]
    async fn what_hangs_holds_its_path_alone() {
        let background = Background::default();
        let (go, wait) = mpsc::channel::<()>();
        let hanging = background
            .run(Path::new("/a"), move || wait.recv().map_err(|error| Error::Volume(error.to_string())));
        let mut hanging = std::pin::pin!(hanging);
        let blocked =
            std::future::poll_fn(|task| std::task::Poll::Ready(hanging.as_mut().poll(task).is_pending()));
        assert!(blocked.await);
        background.run(Path::new("/b"), || Ok(())).await.unwrap();
        let mut second = std::pin::pin!(background.run(Path::new("/a"), || Ok(2)));
        let blocked =
            std::future::poll_fn(|task| std::task::Poll::Ready(second.as_mut().poll(task).is_pending()));
        assert!(blocked.await);
        go.send(()).unwrap();
        hanging.await.unwrap();
        assert_eq!(second.await.unwrap(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_take_long_is_waited_for() {
        let background = Background::default();
        let (go, wait) = mpsc::channel::<()>();
        let work = move || wait.recv().map_err(|error| Error::Volume(error.to_string()));
        let mut finishing = std::pin::pin!(background.finish(Path::new("/a"), work));
        for _ in 0..2 {
            assert!(futures_util::poll!(finishing.as_mut()).is_pending());
            tokio::time::advance(LIMIT * 2).await;
        }
        go.send(()).unwrap();
        finishing.await.unwrap();
    }
}
