//! The protocol over TCP (RFC 7766): a client may ask on before it is answered, and answers come as
//! they are found.

use crate::server::{Handled, Scratch, Server, Via};
use base::Phase;
use base::clock::{self, Instant};
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Connections at the same time, of all clients and of one.
const CONNECTIONS: usize = 512;
const OF_ONE_CLIENT: usize = 64;

/// A connection on which nothing is asked or awaited is closed after this time.
const IDLE: Duration = Duration::from_secs(10);

/// A client that does not take its answer is given up after this time.
const WRITING: Duration = Duration::from_secs(5);

/// Queries of one connection that wait for upstreams; the next one is read when one of them is answered.
const PIPELINED: usize = 32;

/// So many queries a connection carries; then the client has to make another one.
const QUERIES: usize = 10_000;

/// How many connections each client has.
type Clients = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// One connection, counted for as long as it lives.
struct Counted {
    clients: Clients,
    client: IpAddr,
}

impl Counted {
    fn new(clients: &Clients, client: IpAddr) -> Option<Self> {
        let mut counts = clients.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(client).or_default();
        if *count >= OF_ONE_CLIENT {
            return None;
        }
        *count += 1;
        Some(Self { clients: clients.clone(), client })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.client);
            }
        }
    }
}

/// Takes connections until that fails.
pub(crate) async fn serve(server: &Server, listener: &TcpListener) -> io::Result<()> {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    let clients = Clients::default();
    loop {
        let permit = connections.clone().acquire_owned().await.map_err(io::Error::other)?;
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            // The client is gone already, or there are no descriptors left for a moment.
            Err(error) => {
                tracing::debug!(%error, "a DNS connection was not accepted");
                clock::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let Some(counted) = Counted::new(&clients, client.ip()) else { continue };
        let own = server.clone();
        server.supervisor().detached("dns connection", Phase::Front, async move {
            if let Err(error) = converse(&own, stream, client).await {
                tracing::debug!(%error, %client, "a DNS connection broke");
            }
            drop((permit, counted));
        });
    }
}

async fn converse(server: &Server, stream: TcpStream, client: SocketAddr) -> io::Result<()> {
    let (mut reading, mut writing) = stream.into_split();
    let mut scratch = Scratch::new();
    let mut waiting = FuturesUnordered::new();
    let mut received = Vec::new();
    let mut asked = 0;
    let mut open = true;
    let mut quiet_since = clock::instant();
    loop {
        while waiting.len() < PIPELINED && asked < QUERIES {
            let Some(packet) = framed(&mut received) else { break };
            asked += 1;
            let via = Via { client, tcp: true, at: clock::instant(), bytes: packet.len() };
            match server.handle(&packet, via, &mut scratch) {
                Handled::Answered => write(&mut writing, &scratch.out).await?,
                Handled::Waits(query) => waiting.push(async move { server.finish(&query, via).await }),
                Handled::Nothing => return Ok(()),
            }
            quiet_since = clock::instant();
        }
        let reads = open && waiting.len() < PIPELINED && asked < QUERIES;
        if !reads && waiting.is_empty() {
            return Ok(());
        }
        let idle: Option<Instant> = waiting.is_empty().then_some(quiet_since + IDLE);
        tokio::select! {
            read = reading.read_buf(&mut received), if reads => open = read? > 0,
            Some(answer) = waiting.next() => {
                write(&mut writing, &answer).await?;
                quiet_since = clock::instant();
            }
            () = clock::until(idle) => return Ok(()),
        }
    }
}

/// The next whole message of those that were received.
fn framed(received: &mut Vec<u8>) -> Option<Vec<u8>> {
    let length = usize::from(u16::from_be_bytes(*received.first_chunk()?));
    if received.len() < 2 + length {
        return None;
    }
    let rest = received.split_off(2 + length);
    let mut packet = std::mem::replace(received, rest);
    packet.drain(..2);
    Some(packet)
}

/// Length and message in one piece, so that both are in one segment.
async fn write(stream: &mut tokio::net::tcp::OwnedWriteHalf, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let bytes = [&length.to_be_bytes(), message].concat();
    tokio::time::timeout(WRITING, stream.write_all(&bytes)).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_from_what_was_received() {
        let mut received = b"\0\x02ab\0\x01c\0\x05d".to_vec();
        assert_eq!(framed(&mut received).as_deref(), Some(&b"ab"[..]));
        assert_eq!(framed(&mut received).as_deref(), Some(&b"c"[..]));
        assert_eq!((framed(&mut received), received.len()), (None, 3));
    }

    #[test]
    fn one_client_has_so_many_connections() {
        let clients = Clients::default();
        let client = "10.42.0.2".parse().unwrap();
        let all: Vec<Counted> = std::iter::from_fn(|| Counted::new(&clients, client)).collect();
        assert_eq!(all.len(), OF_ONE_CLIENT);
        assert!(Counted::new(&clients, "10.42.0.3".parse().unwrap()).is_some());
        drop(all);
        assert!(clients.lock().unwrap().is_empty());
    }
}
