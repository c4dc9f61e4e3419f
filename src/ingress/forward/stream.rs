//! Connections that are passed on as they are, by the name that their clients ask for.

use super::{Connection, tunnel};
use crate::gate::Pass;
use crate::live::Live;
use crate::upstream::{Lease, Stream, dial};
use base::clock;
use std::io;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

/// A connection to an endpoint of a route, for as long as it is used.
pub(crate) struct Reached {
    stream: Stream,
    _lease: Lease,
    _pass: Option<Pass>,
}

impl Connection {
    /// Connects to an endpoint of a route: one after the other, until one takes it.
    pub(crate) async fn reach(&self, live: &Live) -> io::Result<Reached> {
        let pass = match &live.gate {
            Some(gate) => {
                Some(gate.enter(self.peer).ok_or_else(|| io::Error::other("too many connections"))?)
            }
            None => None,
        };
        let nowhere = || io::Error::other("the route leads nowhere");
        let (_, share) = live.choose().ok_or_else(nowhere)?;
        let backend = share.as_ref().map_err(|_| nowhere())?;
        let limits = &live.route.limits;
        let mut tries = 0;
        loop {
            let endpoint = backend.pick(tries).ok_or_else(|| io::Error::other("no endpoint is available"))?;
            let lease = Lease::new(endpoint);
            match dial(&lease.0, limits.connect).await {
                Ok(stream) => return Ok(Reached { stream, _lease: lease, _pass: pass }),
                Err(error) => {
                    lease.0.shun();
                    if tries >= limits.retries as usize {
                        return Err(error);
                    }
                }
            }
            tries += 1;
        }
    }

    /// Joins a client and an endpoint that is given what was read from the client first.
    pub(crate) async fn join<S>(
        &self,
        live: &Live,
        (client, first): (S, &[u8]),
        mut reached: Reached,
    ) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let began = clock::instant();
        reached.stream.write_all(first).await?;
        tunnel::copy(client, reached.stream).await;
        if self.proxy.access_log {
            tracing::info!(
                target: "access",
                client = %self.peer,
                port = self.port,
                name = self.name.as_deref().unwrap_or_default(),
                ms = began.elapsed().as_secs_f64() * 1e3,
                route = live.route.name,
                "stream"
            );
        }
        Ok(())
    }
}
