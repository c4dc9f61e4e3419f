//! Cluster DNS: answers a second and core, and how long one takes.

use crate::Failure;
use crate::knarr::Knarr;
use crate::table::{Row, Table, percentile};
use base::clock::{self, Instant};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

const DNS: ([u8; 4], u16) = ([10, 43, 0, 10], 53);
/// Where this program plays the name server of the outside.
const OUTSIDE: ([u8; 4], u16) = ([10, 98, 0, 2], 53);
/// Other names of the outside that are asked for; all of them are kept.
const NAMES: usize = 500;
/// How long each load is put on.
const LOAD: Duration = Duration::from_secs(6);
/// Clients that ask without a pause, and how many queries each has on its way.
const CLIENTS: usize = 2;
const WINDOW: usize = 16;
/// A client that waits this long has lost a query.
const LOST: Duration = Duration::from_secs(1);
const TTL_S: u32 = 600;

/// What others tell of CoreDNS: `Scaling_CoreDNS.md` in coredns/deployment, names of the cluster on two
/// processors.
const COREDNS: &str = "CoreDNS' published: 33,669/s on 2 vCPU, 2.6 ms";

pub(crate) async fn dns(executable: &Path, folder: &Path, table: &mut Table) -> Result<(), Failure> {
    std::fs::create_dir_all(folder)?;
    let resolv_conf = folder.join("resolv.conf");
    std::fs::write(&resolv_conf, "nameserver 10.98.0.2\n")?;
    let socket = UdpSocket::bind(SocketAddr::from(OUTSIDE))?;
    socket.set_read_timeout(Some(LOST))?;
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let outside = tokio::task::spawn_blocking(move || serve(&socket, &stopped));
    let flags = ["--resolv-conf", &resolv_conf.to_string_lossy()];
    let (mut server, _) = Knarr::start(executable, folder, &flags)?.ready().await?;
    let kept: Vec<Vec<u8>> =
        (0..NAMES).map(|number| query(&["name", &number.to_string(), "example"])).collect();
    let zone = vec![query(&["kubernetes", "default", "svc", "cluster", "local"])];
    let missing = vec![query(&["example", "default", "svc", "cluster", "local"])];
    for (what, queries) in [("kept", kept), ("of the zone", zone), ("missing in the zone", missing)] {
        measure(&server, what, queries, table).await?;
    }
    server.stop().await?;
    drop(stop);
    outside.await??;
    Ok(())
}

async fn measure(
    server: &Knarr,
    what: &str,
    queries: Vec<Vec<u8>>,
    table: &mut Table,
) -> Result<(), Failure> {
    let asked = queries.clone();
    let mut alone = tokio::task::spawn_blocking(move || one_by_one(&asked)).await??;
    alone.sort_by(f64::total_cmp);
    let before = server.usage()?;
    let began = clock::instant();
    let clients = (0..CLIENTS).map(|_| {
        let queries = queries.clone();
        tokio::task::spawn_blocking(move || flood(&queries))
    });
    let clients: Vec<_> = clients.collect();
    let mut answers = 0;
    for client in clients {
        answers += client.await??;
    }
    let took = began.elapsed().as_secs_f64();
    let cpu = (server.usage()?.cpu_ns - before.cpu_ns) as f64 / 1e9;
    let rate = format!("{:.0}/s", answers as f64 / cpu);
    let row = Row::new(&format!("DNS, names {what}: answers per second of a core"), rate);
    let row = row.peer(format!("{:.0}/s with {CLIENTS} clients beside it; {COREDNS}", answers as f64 / took));
    table.add(row.budget("50,000/s"));
    let times = format!("p50 {:.3} ms, p99 {:.3} ms", percentile(&alone, 0.5), percentile(&alone, 0.99));
    table.add(Row::new(&format!("DNS, names {what}: one query"), times).budget("p99 1 ms"));
    Ok(())
}

/// A query of type A with EDNS, as resolvers of today send it.
fn query(labels: &[&str]) -> Vec<u8> {
    let mut query = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    for label in labels {
        query.push(u8::try_from(label.len()).unwrap_or_default());
        query.extend(label.bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    query.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    query
}

fn client() -> Result<UdpSocket, Failure> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(SocketAddr::from(DNS))?;
    socket.set_read_timeout(Some(LOST))?;
    Ok(socket)
}

/// One query after the other, first all once so that they are kept; milliseconds of each.
fn one_by_one(queries: &[Vec<u8>]) -> Result<Vec<f64>, Failure> {
    let socket = client()?;
    let mut answer = [0; 2_048];
    let mut times = Vec::new();
    let mut until: Option<Instant> = None;
    for (asked, query) in queries.iter().cycle().enumerate() {
        let begin = clock::instant();
        socket.send(query)?;
        let length = socket.recv(&mut answer)?;
        if length < 12 || !matches!(answer[3] & 15, 0 | 3) {
            return Err("a query was not answered".into());
        }
        if asked >= queries.len() {
            times.push(begin.elapsed().as_secs_f64() * 1e3);
            if *until.get_or_insert(begin + LOAD / 2) < begin {
                break;
            }
        }
    }
    Ok(times)
}

/// As many queries as are answered, always some on their way; how many were.
fn flood(queries: &[Vec<u8>]) -> Result<usize, Failure> {
    let socket = client()?;
    let mut answer = [0; 2_048];
    let end = clock::instant() + LOAD;
    let mut next = queries.iter().cycle();
    for query in next.by_ref().take(WINDOW) {
        socket.send(query)?;
    }
    let mut answers = 0;
    while answers % 256 != 0 || clock::instant() < end {
        match socket.recv(&mut answer) {
            Ok(_) => answers += 1,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                tracing::debug!("a query is lost")
            }
            Err(error) => return Err(error.into()),
        }
        if let Some(query) = next.next() {
            socket.send(query)?;
        }
    }
    Ok(answers)
}

/// Answers every query with one address, until told to stop.
fn serve(socket: &UdpSocket, stopped: &std::sync::mpsc::Receiver<()>) -> std::io::Result<()> {
    let mut packet = [0; 2_048];
    while stopped.try_recv() != Err(std::sync::mpsc::TryRecvError::Disconnected) {
        let (length, client) = match socket.recv_from(&mut packet) {
            Ok(received) => received,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        let Some(end) = packet[12..length].iter().position(|byte| *byte == 0) else { continue };
        let mut answer = packet[..12 + end + 5].to_vec();
        answer[2] |= 0x80;
        answer[6..12].copy_from_slice(&[0, 1, 0, 0, 0, 0]);
        answer.extend([0xc0, 12, 0, 1, 0, 1]);
        answer.extend(TTL_S.to_be_bytes());
        answer.extend([0, 4, 192, 0, 2, 1]);
        socket.send_to(&answer, client)?;
    }
    Ok(())
}
