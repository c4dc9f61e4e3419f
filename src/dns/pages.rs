//! What is told over HTTP at ports of the DNS addresses, as the Corefile says: metrics, and whether
//! DNS is well. Only the cluster is told.

use crate::chain::lies_in;
use crate::corefile::Page;
use crate::resolve::Resolver;
use base::pages::{self, Answer};
use base::{Body, Shutdown, Supervisor, clock, full_body};
use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use http::{HeaderValue, Method, Response, StatusCode, header};
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;

const PLAIN: &str = "text/plain; charset=utf-8";

/// A port that cannot be listened on is tried again after this time.
const AGAIN: Duration = Duration::from_secs(10);

/// Serves the pages; starts anew when `changed` tells of a change of the Corefile.
#[derive(Clone)]
pub(crate) struct Pages {
    pub(crate) listen: Vec<IpAddr>,
    pub(crate) resolver: Arc<Resolver>,
    pub(crate) changed: watch::Receiver<u64>,
    pub(crate) supervisor: Supervisor,
}

type Wanted = BTreeSet<(u16, Page)>;

impl Pages {
    pub(crate) async fn run(mut self, shutdown: Shutdown) -> io::Result<()> {
        let mut wanted = self.wanted();
        loop {
            let serving = self.clone();
            tokio::select! {
                () = serving.serve(&wanted) => {}
                () = self.other_than(&wanted) => {}
                () = shutdown.requested() => return Ok(()),
            }
            wanted = self.wanted();
        }
    }

    fn wanted(&self) -> Wanted {
        let chains = self.resolver.chains.load();
        chains.0.iter().flat_map(|chain| chain.block.pages.iter().copied()).collect()
    }

    /// Completes when other pages are wanted than these.
    async fn other_than(&mut self, wanted: &Wanted) {
        while self.wanted() == *wanted {
            if self.changed.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Completes after a while if a port cannot be listened on.
    async fn serve(&self, wanted: &Wanted) {
        let ports: BTreeSet<u16> = wanted.iter().map(|(port, _)| *port).collect();
        let mut serving = FuturesUnordered::new();
        for (address, port) in self.listen.iter().flat_map(|ip| ports.iter().map(move |port| (*ip, *port))) {
            let pages: BTreeSet<Page> =
                wanted.iter().filter(|(own, _)| *own == port).map(|(_, page)| *page).collect();
            serving.push(self.serve_port(SocketAddr::new(address, port), pages).boxed());
        }
        if serving.is_empty() {
            std::future::pending::<()>().await;
        }
        while let Some(result) = serving.next().await {
            if let Err(error) = result {
                tracing::warn!(%error, "DNS cannot tell its metrics or health");
                clock::sleep(AGAIN).await;
                return;
            }
        }
    }

    async fn serve_port(&self, address: SocketAddr, pages: BTreeSet<Page>) -> io::Result<()> {
        let described = |error: io::Error| io::Error::new(error.kind(), format!("{address}: {error}"));
        let listener = TcpListener::bind(address).await.map_err(described)?;
        let own = self.clone();
        let answer: Answer = Arc::new(move |method, path| own.answer(method, path, &pages));
        let admits = |client| self.is_of_the_cluster(client, address.ip());
        pages::serve(listener, "dns page", admits, answer, self.supervisor.clone()).await;
        Ok(())
    }

    /// Pods, and the node itself, which comes from the very address that it asks.
    fn is_of_the_cluster(&self, client: IpAddr, own: IpAddr) -> bool {
        let client = client.to_canonical();
        client == own || client.is_loopback() || lies_in(client, &self.resolver.blocks)
    }

    fn answer(&self, method: &Method, path: &str, pages: &BTreeSet<Page>) -> Response<Body> {
        let page = match path {
            "/metrics" => Some(Page::Metrics),
            "/health" => Some(Page::Health),
            "/ready" => Some(Page::Ready),
            _ => None,
        };
        let page = page.filter(|page| pages.contains(page) && matches!(*method, Method::GET | Method::HEAD));
        let (status, kind, body) = match page {
            Some(Page::Metrics) => {
                (StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", self.metrics())
            }
            // It answers, so it is; names are known before anything listens.
            Some(Page::Health | Page::Ready) => (StatusCode::OK, PLAIN, "OK".to_owned()),
            None => (StatusCode::NOT_FOUND, PLAIN, "404 page not found\n".to_owned()),
        };
        let mut response = Response::new(full_body(body));
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        response
    }

    fn metrics(&self) -> String {
        let chains = self.resolver.chains.load();
        let entries: Vec<_> = chains.0.iter().filter_map(|chain| chain.entries()).collect();
        self.resolver.surroundings.metrics.render(&entries)
    }
}
