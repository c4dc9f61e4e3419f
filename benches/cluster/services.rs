//! The service proxy alone, with real packets and the kernel's own loopback for comparison: how long ten
//! thousand services take to load, an endpoint to change, a connection to be made.

use crate::Failure;
use crate::feed::Feed;
use crate::table::{Row, Table, mib, percentile};
use base::{Phase, Supervisor, clock};
use client::Caches;
use serde_json::json;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::{Builder, Handle};

const ENDPOINTS: u32 = 5;
const CHANGES: usize = 300;
/// What was needed to load is given back by then.
const SETTLE: Duration = Duration::from_secs(1);
const CONNECTIONS: usize = 3_000;
const TURNS: usize = 20_000;
/// What is compared is measured in turn, so often.
const ROUNDS: usize = 7;
/// What is done a second is told of the fastest of so many parts of each round.
const PARTS: usize = 50;
/// Asks a server for so many bytes, in pieces.
const FLOOD: u8 = b'!';
const FLOOD_BYTES: usize = 256 << 20;
const PIECE_BYTES: usize = 64 << 10;
/// Of each socket's two: such as the kernel grows by itself outgrow the processor's own memory, sooner or later.
const BUFFER_BYTES: u32 = 256 << 10;
const PORT: u16 = 8080;
/// Two addresses of this machine's that answer, each with a byte of its own.
const HERE: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 98, 0, 2), Ipv4Addr::new(10, 98, 0, 3)];
/// The service that is changed and asked.
const ASKED: Ipv4Addr = Ipv4Addr::new(10, 43, 255, 1);

fn service(name: &str, address: Ipv4Addr) -> serde_json::Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "default", "name": name},
        "spec": {"clusterIP": address, "clusterIPs": [address], "ports": [{"port": 80}]}})
}

fn slice(name: &str, endpoints: &[Ipv4Addr]) -> serde_json::Value {
    let endpoint = |address: &Ipv4Addr| json!({"addresses": [address], "nodeName": "here", "conditions": {"ready": true}});
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"namespace": "default", "name": name, "labels": {"kubernetes.io/service-name": name}},
        "ports": [{"port": PORT}], "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>()})
}

fn fill(feed: &Feed, services: u32) {
    for number in 1..=services {
        let name = format!("service-{number}");
        feed.put(service(&name, Ipv4Addr::from_bits(0x0a2b_0000 + number)));
        let endpoints: Vec<Ipv4Addr> = (0..ENDPOINTS)
            .map(|index| Ipv4Addr::from_bits(0x0a2a_0000 + number * ENDPOINTS + index))
            .collect();
        feed.put(slice(&name, &endpoints));
    }
    feed.put(service("asked", ASKED));
    feed.put(slice("asked", &HERE[..1]));
}

fn config() -> Result<proxy::Config, Failure> {
    Ok(proxy::Config {
        node_name: "here".to_owned(),
        node_ips: vec![HERE[0].into()],
        cluster_cidrs: vec!["10.42.0.0/16".parse()?],
        service_cidrs: vec!["10.43.0.0/16".parse()?],
        answered_here: Vec::new(),
        settings: proxy::Settings::default(),
    })
}

/// Answers each byte with the server's own, and [`FLOOD`] with as much as can be sent.
async fn serve(listener: TcpListener, own: u8, supervisor: Supervisor) {
    while let Ok((mut stream, _)) = listener.accept().await {
        supervisor.detached("connection", Phase::Front, async move {
            let (mut buffer, piece) = ([0; 1], vec![own; PIECE_BYTES]);
            while stream.read_exact(&mut buffer).await.is_ok() {
                let pieces = if buffer[0] == FLOOD { FLOOD_BYTES / PIECE_BYTES } else { 0 };
                for _ in 0..pieces {
                    if stream.write_all(&piece).await.is_err() {
                        return;
                    }
                }
                if pieces == 0 && stream.write_all(&[own]).await.is_err() {
                    return;
                }
            }
        });
    }
}

fn socket() -> Result<TcpSocket, Failure> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.set_send_buffer_size(BUFFER_BYTES)?;
    socket.set_recv_buffer_size(BUFFER_BYTES)?;
    Ok(socket)
}

async fn ask(to: SocketAddr) -> Result<u8, Failure> {
    let mut stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    // Connections that wait for their end would soon have all ports towards this one place.
    stream.set_zero_linger()?;
    turn(&mut stream).await
}

async fn turn(stream: &mut TcpStream) -> Result<u8, Failure> {
    let mut answer = [0; 1];
    stream.write_all(b"?").await?;
    stream.read_exact(&mut answer).await?;
    Ok(answer[0])
}

/// This process' own memory, which holds also the objects that it makes up.
fn resident() -> Result<u64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

/// What connections cost: how many a second one after the other, how long the first answer takes, how many
/// turns and bytes a second an established one makes.
#[derive(Clone, Copy)]
struct Costs {
    rate: f64,
    first_us: f64,
    turns: f64,
    gb: f64,
}

async fn costs(to: SocketAddr) -> Result<Costs, Failure> {
    let (mut first, mut parts) = (Vec::new(), Vec::new());
    for _ in 0..PARTS {
        let begin = clock::instant();
        for _ in 0..CONNECTIONS / PARTS {
            let begin = clock::instant();
            ask(to).await?;
            first.push(begin.elapsed().as_secs_f64() * 1e6);
        }
        parts.push(begin.elapsed());
    }
    let rate = fastest(CONNECTIONS / PARTS, &parts);
    first.sort_by(f64::total_cmp);
    let mut stream = socket()?.connect(to).await?;
    stream.set_nodelay(true)?;
    parts.clear();
    for _ in 0..PARTS {
        let begin = clock::instant();
        for _ in 0..TURNS / PARTS {
            turn(&mut stream).await?;
        }
        parts.push(begin.elapsed());
    }
    let turns = fastest(TURNS / PARTS, &parts);
    Ok(Costs { rate, first_us: percentile(&first, 0.5), turns, gb: flood(&mut stream).await? })
}

/// So many things in each part: how many a second in the fastest.
fn fastest(things: usize, parts: &[Duration]) -> f64 {
    parts.iter().map(|took| things as f64 / took.as_secs_f64()).fold(0.0, f64::max)
}

/// Gigabytes a second of an established connection.
async fn flood(stream: &mut TcpStream) -> Result<f64, Failure> {
    let (mut piece, mut parts) = (vec![0; PIECE_BYTES], Vec::new());
    stream.write_all(&[FLOOD]).await?;
    let part = FLOOD_BYTES / PARTS;
    let (mut left, mut begin, mut of_part) = (FLOOD_BYTES, clock::instant(), 0);
    while left > 0 {
        let length = stream.read(&mut piece).await?;
        left = left.checked_sub(length).filter(|_| length > 0).ok_or("a connection ended")?;
        of_part += length;
        if of_part >= part {
            parts.push(begin.elapsed().mul_f64(part as f64 / of_part as f64));
            (begin, of_part) = (clock::instant(), 0);
        }
    }
    Ok(fastest(part, &parts) / 1e9)
}

/// One thread on which client and servers take turns: on two, it is luck whether their tasks meet on one, which takes half
/// the time.
fn one_thread() -> Result<Handle, Failure> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new().spawn(move || runtime.block_on(std::future::pending::<()>()))?;
    Ok(handle)
}

/// See the module's comment.
pub(crate) async fn services(table: &mut Table) -> Result<(), Failure> {
    crate::run("ip", &["addr", "add", "10.98.0.3/24", "dev", "knb0"]).await?;
    let supervisor = Supervisor::new();
    let thread = one_thread()?;
    for (address, own) in HERE.into_iter().zip([b'a', b'b']) {
        let supervisor = supervisor.clone();
        let listens = thread.spawn(async move {
            let socket = socket()?;
            socket.bind((address, PORT).into())?;
            let listener = socket.listen(1024)?;
            supervisor.detached("server", Phase::Front, serve(listener, own, supervisor.clone()));
            Ok::<_, Failure>(())
        });
        listens.await??;
    }
    let (front, direct) = (SocketAddr::from((ASKED, 80)), SocketAddr::from((HERE[0], PORT)));
    let feeds = [10, 10_000].map(|services| {
        let feed = Feed::default();
        fill(&feed, services);
        (services, feed)
    });
    for (services, feed) in &feeds {
        let running = Running::start(feed).await?;
        running.tell(*services, feed, front, table).await?;
        running.supervisor.drain().await;
    }
    let (mut with, mut without, mut bare) = ([Vec::new(), Vec::new()], Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for ((_, feed), costs_of) in feeds.iter().zip(&mut with) {
            let running = Running::start(feed).await?;
            clock::sleep(SETTLE).await;
            costs_of.push(thread.spawn(costs(front)).await??);
            running.supervisor.drain().await;
        }
        for name in ["knarr-proxy", "knarr-net"] {
            crate::run("nft", &["delete", "table", "ip", name]).await?;
        }
        without.push(thread.spawn(costs(direct)).await??);
        crate::run("nft", &[BARE]).await?;
        bare.push(thread.spawn(costs(front)).await??);
        crate::run("nft", &["delete", "table", "ip", "knarr-bench"]).await?;
    }
    compare((&with[0], &with[1]), &without, &bare, table);
    supervisor.drain().await;
    Ok(())
}

/// One rule of nft's that does what the proxy does for one service: what the kernel takes for it at the least.
const BARE: &str = "table ip knarr-bench {
    chain output {
        type nat hook output priority -100
        ip daddr 10.43.255.1 tcp dport 80 dnat to 10.98.0.2:8080
    }
}";

/// The best of all rounds are compared: what else runs on a machine makes nothing faster.
fn compare((few, many): (&[Costs], &[Costs]), without: &[Costs], bare: &[Costs], table: &mut Table) {
    let mut row = |what: &str, (budget, of_few): (&str, bool), figure: fn(&Costs) -> f64| {
        let best = |rounds: &[Costs]| rounds.iter().map(figure).fold(f64::MIN, f64::max).abs();
        let [few, many, without, bare] = [few, many, without, bare].map(best);
        let places = if many < 100.0 { 2 } else { 0 };
        let share = many / if of_few { few } else { without } * 100.0;
        let peer = format!(
            "{few:.places$} by one of 10, {bare:.places$} by a rule alone, {without:.places$} without: {share:.0} %"
        );
        table.add(Row::new(what, format!("{many:.places$}")).budget(budget).peer(peer));
    };
    row("connections/s by a service of 10,000", ("95 % of 10", true), |costs| costs.rate);
    // Of times the least is the best.
    row("first answer by a service of 10,000, µs", ("105 % of 10", true), |costs| -costs.first_us);
    row("turns/s of a connection that is there", ("90 % of none", false), |costs| costs.turns);
    row("GB/s of a connection that is there", ("90 % of none", false), |costs| costs.gb);
}

/// A proxy with what a feed has.
struct Running {
    supervisor: Supervisor,
    /// Memory before it.
    before: u64,
    took: Duration,
}

impl Running {
    async fn start(feed: &Feed) -> Result<Self, Failure> {
        let supervisor = Supervisor::new();
        let block = |text: &str| text.parse::<net::Cidr>().map(|block| vec![block]);
        let node = net::Node {
            pod_cidrs: block("10.42.0.0/24")?,
            cluster_cidrs: block("10.42.0.0/16")?,
            service_cidrs: block("10.43.0.0/16")?,
            mtu: 1_500,
            outer: None,
        };
        net::setup(&node).await?;
        let (before, begin) = (resident()?, clock::instant());
        let handle = proxy::start(config()?, &Caches::new(feed.client(), supervisor.clone()), &supervisor);
        handle.ready().await;
        Ok(Self { took: begin.elapsed(), supervisor, before })
    }

    fn memory(&self) -> Result<String, Failure> {
        Ok(mib(resident()?.saturating_sub(self.before)))
    }

    async fn tell(
        &self,
        services: u32,
        feed: &Feed,
        front: SocketAddr,
        table: &mut Table,
    ) -> Result<(), Failure> {
        let what = format!("{services} services of {ENDPOINTS} endpoints, listed and loaded");
        table.add(Row::new(&what, format!("{:.2} s", self.took.as_secs_f64())).budget("2 s"));
        clock::sleep(SETTLE).await;
        let what = format!("memory of the proxy and its caches, {services} services");
        table.add(Row::new(&what, self.memory()?).budget("60 MiB"));
        changes(services, feed, front, table).await?;
        let what = format!("the same once some endpoints have changed, {services} services");
        table.add(Row::new(&what, self.memory()?).budget("60 MiB"));
        Ok(())
    }
}

/// From an event of the API's to the first connection that goes the new way, which is tried all the time.
async fn changes(services: u32, feed: &Feed, front: SocketAddr, table: &mut Table) -> Result<(), Failure> {
    let mut times = Vec::new();
    for change in 1..=CHANGES {
        clock::sleep(Duration::from_millis(20)).await;
        let to = change % 2;
        let begin = clock::instant();
        feed.put(slice("asked", &HERE[to..=to]));
        while ask(front).await? != b"ab"[to] {}
        times.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    feed.put(slice("asked", &HERE[..1]));
    times.sort_by(f64::total_cmp);
    let text = format!("{:.1} ms p50, {:.1} p99", percentile(&times, 0.5), percentile(&times, 0.99));
    table.add(Row::new(&format!("an endpoint's change, {services} services"), text).budget("10 ms"));
    Ok(())
}
