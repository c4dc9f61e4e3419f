//! DNS over TLS (RFC 7858): connections to one upstream, kept for a while, each with one question at a time.

use crate::upstream::asked_over;
use crate::wire::{Query, Reply};
use base::clock::{self, Instant};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Connections that are kept for later; more are closed.
const IDLE: usize = 32;

/// How an upstream is spoken to that has to show who it is.
pub(crate) struct Secure {
    connector: TlsConnector,
    name: ServerName<'static>,
    /// How long a connection is kept that nobody uses.
    expire: Duration,
    idle: Mutex<Vec<(Instant, TlsStream<TcpStream>)>>,
}

impl std::fmt::Debug for Secure {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "TLS with {:?}", self.name)
    }
}

impl Secure {
    pub(crate) fn new(config: &Arc<ClientConfig>, name: ServerName<'static>, expire: Duration) -> Self {
        Self { connector: config.clone().into(), name, expire, idle: Mutex::default() }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<(Instant, TlsStream<TcpStream>)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection that was used last, if that is not too long ago.
    fn take(&self) -> Option<TlsStream<TcpStream>> {
        let mut idle = self.idle();
        idle.retain(|(used, _)| used.elapsed() < self.expire);
        idle.pop().map(|(_, stream)| stream)
    }

    fn put(&self, stream: TlsStream<TcpStream>) {
        let mut idle = self.idle();
        idle.retain(|(used, _)| used.elapsed() < self.expire);
        if idle.len() < IDLE {
            idle.push((clock::instant(), stream));
        }
    }

    /// Asks over a kept connection, and over a new one where that has been closed meanwhile.
    pub(crate) async fn exchange(&self, query: &Query, at: SocketAddr, plain: bool) -> io::Result<Reply> {
        if let Some(mut kept) = self.take() {
            match asked_over(&mut kept, query, plain).await {
                Ok(reply) => {
                    self.put(kept);
                    return Ok(reply);
                }
                Err(error) => tracing::trace!(upstream = %at, %error, "a kept connection is of no use"),
            }
        }
        let stream = TcpStream::connect(at).await?;
        stream.set_nodelay(true)?;
        let mut stream = self.connector.connect(self.name.clone(), stream).await?;
        let reply = asked_over(&mut stream, query, plain).await?;
        self.put(stream);
        Ok(reply)
    }
}
