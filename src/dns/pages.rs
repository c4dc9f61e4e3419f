//! What is told over HTTP at ports of the DNS addresses, as the Corefile says: metrics, and whether
//! DNS is well. Only the cluster is told.

use crate::chain::lies_in;
use crate::corefile::Page;
use crate::resolve::Resolver;
use base::{Phase, Shutdown, Supervisor, clock};
use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

/// The longest head of a request that is read.
const HEAD_BYTES: usize = 8 * 1024;

/// How long one request may take.
const LIMIT: Duration = Duration::from_secs(5);

/// Requests at the same time.
const CONNECTIONS: usize = 32;

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
        let connections = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let permit = connections.clone().acquire_owned().await.map_err(io::Error::other)?;
            let (stream, client) = listener.accept().await.map_err(described)?;
            if !self.is_of_the_cluster(client.ip(), address.ip()) {
                continue;
            }
            let (own, pages) = (self.clone(), pages.clone());
            self.supervisor.detached("dns page", Phase::Front, async move {
                match tokio::time::timeout(LIMIT, own.answer(stream, &pages)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!(%error, %client, "a request for a page broke"),
                    Err(_) => tracing::debug!(%client, "a request for a page took too long"),
                }
                drop(permit);
            });
        }
    }

    /// Pods, and the node itself, which comes from the very address that it asks.
    fn is_of_the_cluster(&self, client: IpAddr, own: IpAddr) -> bool {
        let client = client.to_canonical();
        client == own || client.is_loopback() || lies_in(client, &self.resolver.blocks)
    }

    async fn answer(&self, mut stream: TcpStream, pages: &BTreeSet<Page>) -> io::Result<()> {
        let mut head = Vec::new();
        while !head.windows(4).any(|end| end == b"\r\n\r\n") {
            if head.len() > HEAD_BYTES || stream.read_buf(&mut head).await? == 0 {
                return Ok(());
            }
        }
        let line = String::from_utf8_lossy(head.split(|byte| *byte == b'\r').next().unwrap_or_default());
        let mut words = line.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let page = match path.split('?').next().unwrap_or_default() {
            "/metrics" => Some(Page::Metrics),
            "/health" => Some(Page::Health),
            "/ready" => Some(Page::Ready),
            _ => None,
        };
        let body = page.filter(|page| pages.contains(page) && matches!(method, "GET" | "HEAD"));
        let (status, kind, body) = match body {
            Some(Page::Metrics) => ("200 OK", "text/plain; version=0.0.4; charset=utf-8", self.metrics()),
            // It answers, so it is; names are known before anything listens.
            Some(Page::Health | Page::Ready) => ("200 OK", "text/plain; charset=utf-8", "OK".to_owned()),
            None => ("404 Not Found", "text/plain; charset=utf-8", "404 page not found\n".to_owned()),
        };
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        let body = if method == "HEAD" { "" } else { &body };
        stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).await?;
        stream.shutdown().await
    }

    fn metrics(&self) -> String {
        let chains = self.resolver.chains.load();
        let entries: Vec<_> = chains.0.iter().filter_map(|chain| chain.entries()).collect();
        self.resolver.surroundings.metrics.render(&entries)
    }
}
