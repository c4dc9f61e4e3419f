//! The service proxy alone, with real packets between pods: how long ten thousand services take to load, an endpoint
//! to change, a connection to be made, beside the same pods without the proxy and without any table at all.

use crate::Failure;
use crate::feed::Feed;
use crate::pod_links::Pod;
use crate::table::{Row, Table, mib, percentile};
use base::{Phase, Supervisor, clock};
use client::Caches;
use serde_json::json;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
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
const NODE: Ipv4Addr = Ipv4Addr::new(10, 98, 0, 2);
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

fn fill(feed: &Feed, services: u32, asked: Ipv4Addr) {
    for number in 1..=services {
        let name = format!("service-{number}");
        feed.put(service(&name, Ipv4Addr::from_bits(0x0a2b_0000 + number)));
        let endpoints: Vec<Ipv4Addr> = (0..ENDPOINTS)
            .map(|index| Ipv4Addr::from_bits(0x0a2a_0000 + number * ENDPOINTS + index))
            .collect();
        feed.put(slice(&name, &endpoints));
    }
    feed.put(service("asked", ASKED));
    feed.put(slice("asked", &[asked]));
}

fn config() -> Result<proxy::Config, Failure> {
    Ok(proxy::Config {
        node_name: "here".to_owned(),
        node_ips: vec![NODE.into()],
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

/// A pod that asks and two that answer, each with a byte of its own.
struct Pods {
    client: Pod,
    servers: [Pod; 2],
}

impl Pods {
    async fn attached(executable: &Path, folder: &Path) -> Result<Self, Failure> {
        net::setup(&node()?).await?;
        let pod = |name| Pod::attached(executable, folder, name);
        Ok(Self { client: pod("client").await?, servers: [pod("first").await?, pod("second").await?] })
    }

    fn addresses(&self) -> [Ipv4Addr; 2] {
        [self.servers[0].address, self.servers[1].address]
    }

    /// Has the servers listen, and this thread be the client's.
    fn listen(&self, supervisor: &Supervisor) -> Result<(), Failure> {
        for (pod, own) in self.servers.iter().zip(*b"ab") {
            pod.enter()?;
            let socket = socket()?;
            socket.bind((pod.address, PORT).into())?;
            supervisor.detached("server", Phase::Front, serve(socket.listen(1024)?, own, supervisor.clone()));
        }
        self.client.enter()
    }
}

fn node() -> Result<net::Node, Failure> {
    let block = |text: &str| text.parse::<net::Cidr>().map(|block| vec![block]);
    Ok(net::Node {
        pod_cidrs: block("10.42.0.0/24")?,
        cluster_cidrs: block("10.42.0.0/16")?,
        service_cidrs: block("10.43.0.0/16")?,
        mtu: 1_500,
        outer: None,
    })
}

/// What is compared, each measured so often.
#[derive(Default)]
struct Compared {
    few: Vec<Costs>,
    many: Vec<Costs>,
    /// The pods' network without a proxy.
    network: Vec<Costs>,
    /// One rule of nft's and nothing else.
    rule: Vec<Costs>,
    /// No table at all.
    none: Vec<Costs>,
}

/// See the module's comment.
pub(crate) async fn services(executable: &Path, folder: &Path, table: &mut Table) -> Result<(), Failure> {
    let supervisor = Supervisor::new();
    let pods = Arc::new(Pods::attached(executable, folder).await?);
    let addresses = pods.addresses();
    let thread = one_thread()?;
    let (of_thread, there) = (supervisor.clone(), pods.clone());
    thread.spawn(async move { there.listen(&of_thread) }).await??;
    let (front, direct) = (SocketAddr::from((ASKED, 80)), SocketAddr::from((addresses[0], PORT)));
    let feeds = [10, 10_000].map(|services| {
        let feed = Feed::default();
        fill(&feed, services, addresses[0]);
        (services, feed)
    });
    for (services, feed) in &feeds {
        let running = Running::start(feed).await?;
        running.tell(*services, feed, (front, addresses), table).await?;
        running.supervisor.drain().await;
    }
    let mut compared = Compared::default();
    for _ in 0..ROUNDS {
        for ((_, feed), costs_of) in feeds.iter().zip([&mut compared.few, &mut compared.many]) {
            let running = Running::start(feed).await?;
            clock::sleep(SETTLE).await;
            costs_of.push(thread.spawn(costs(front)).await??);
            running.supervisor.drain().await;
        }
        crate::run("nft", &["delete", "table", "ip", "knarr-proxy"]).await?;
        compared.network.push(thread.spawn(costs(direct)).await??);
        crate::run("nft", &["delete", "table", "ip", "knarr-net"]).await?;
        compared.none.push(thread.spawn(costs(direct)).await??);
        crate::run("nft", &[&rule(direct)]).await?;
        compared.rule.push(thread.spawn(costs(front)).await??);
        crate::run("nft", &["delete", "table", "ip", "knarr-bench"]).await?;
    }
    compared.tell(table);
    supervisor.drain().await;
    Ok(())
}

/// One rule that does what the proxy does for one service: what the kernel takes for it at the least.
fn rule(to: SocketAddr) -> String {
    format!(
        "table ip knarr-bench {{
            chain prerouting {{
                type nat hook prerouting priority dstnat
                ip daddr {ASKED} tcp dport 80 dnat to {to}
            }}
        }}"
    )
}

impl Compared {
    /// The best of all rounds are compared: what else runs on a machine makes nothing faster.
    fn tell(&self, table: &mut Table) {
        let mut row = |what: &str, (budget, of_few): (&str, bool), figure: fn(&Costs) -> f64| {
            let best = |rounds: &[Costs]| rounds.iter().map(figure).fold(f64::MIN, f64::max).abs();
            let many = best(&self.many);
            let places = if many < 100.0 { 2 } else { 0 };
            let beside = [
                ("by one of 10", best(&self.few), of_few),
                ("without the proxy", best(&self.network), !of_few),
                ("by a rule alone", best(&self.rule), false),
                ("without any table", best(&self.none), false),
            ];
            let told = beside.map(|(whose, other, is_judged)| {
                let share = many / other * 100.0;
                let mark = if is_judged { "*" } else { "" };
                format!("{whose} {other:.places$}: {share:.0} %{mark}")
            });
            table.add(Row::new(what, format!("{many:.places$}")).budget(budget).peer(told.join(", ")));
        };
        row("connections/s by a service of 10,000", ("95 % of 10", true), |costs| costs.rate);
        // Of times the least is the best.
        row("first answer by a service of 10,000, µs", ("105 % of 10", true), |costs| -costs.first_us);
        row("turns/s of a connection that is there", ("90 % of no proxy", false), |costs| costs.turns);
        row("GB/s of a connection that is there", ("90 % of no proxy", false), |costs| costs.gb);
    }
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
        net::setup(&node()?).await?;
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
        asked: (SocketAddr, [Ipv4Addr; 2]),
        table: &mut Table,
    ) -> Result<(), Failure> {
        let what = format!("{services} services of {ENDPOINTS} endpoints, listed and loaded");
        table.add(Row::new(&what, format!("{:.2} s", self.took.as_secs_f64())).budget("2 s"));
        clock::sleep(SETTLE).await;
        let what = format!("memory of the proxy and its caches, {services} services");
        table.add(Row::new(&what, self.memory()?).budget("60 MiB"));
        changes(services, feed, asked, table).await?;
        let what = format!("the same once some endpoints have changed, {services} services");
        table.add(Row::new(&what, self.memory()?).budget("60 MiB"));
        Ok(())
    }
}

/// From an event of the API's to the first connection that goes the new way, which is tried all the time.
async fn changes(
    services: u32,
    feed: &Feed,
    (front, addresses): (SocketAddr, [Ipv4Addr; 2]),
    table: &mut Table,
) -> Result<(), Failure> {
    let mut times = Vec::new();
    for change in 1..=CHANGES {
        clock::sleep(Duration::from_millis(20)).await;
        let to = change % 2;
        let begin = clock::instant();
        feed.put(slice("asked", &addresses[to..=to]));
        while ask(front).await? != b"ab"[to] {}
        times.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    feed.put(slice("asked", &addresses[..1]));
    times.sort_by(f64::total_cmp);
    let text = format!("{:.1} ms p50, {:.1} p99", percentile(&times, 0.5), percentile(&times, 0.99));
    table.add(Row::new(&format!("an endpoint's change, {services} services"), text).budget("10 ms"));
    Ok(())
}
