//! Whether the API server is within reach. Pods go on without it; what there is to tell waits until it is back.

use base::Body;
use client::{Client, Error, Transport};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use std::sync::Arc;
use tokio::sync::watch;

/// What the last request showed. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Reach(Arc<watch::Sender<bool>>);

impl Default for Reach {
    fn default() -> Self {
        Self(Arc::new(watch::channel(true).0))
    }
}

impl Reach {
    /// The last request did not reach the API server.
    pub(crate) fn is_away(&self) -> bool {
        !*self.0.borrow()
    }

    fn note(&self, there: bool) {
        let changed = self.0.send_if_modified(|before| std::mem::replace(before, there) != there);
        match (changed, there) {
            (true, true) => tracing::info!("the API server is back"),
            (true, false) => tracing::warn!("the API server is away; pods go on"),
            (false, _) => {}
        }
    }

    /// Completes when a request reaches the API server after one that did not.
    pub(crate) async fn back(&self) {
        let mut there = self.0.subscribe();
        for wanted in [false, true] {
            if there.wait_for(|there| *there == wanted).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Completes when a request did not reach the API server, at once where the last one did not.
    pub(crate) async fn gone(&self) {
        if self.0.subscribe().wait_for(|there| !there).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The client, every request of which shows whether the API server is there.
    pub(crate) fn noting(&self, client: Client) -> Client {
        Client::new(Arc::new(Noting { client, reach: self.clone() }))
    }
}

struct Noting {
    client: Client,
    reach: Reach,
}

impl Transport for Noting {
    fn call(&self, request: Request<Body>) -> BoxFuture<'static, Result<Response<Body>, Error>> {
        let (client, reach) = (self.client.clone(), self.reach.clone());
        async move {
            let answer = client.raw(request).await;
            reach.note(!matches!(answer, Err(Error::Transport(_))));
            answer
        }
        .boxed()
    }
}
