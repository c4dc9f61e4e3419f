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
use tokio::net::{TcpListener, TcpStream};

const ENDPOINTS: u32 = 5;
const CHANGES: usize = 300;
/// What was needed to load is given back by then.
const SETTLE: Duration = Duration::from_secs(1);
const CONNECTIONS: usize = 3_000;
const TURNS: usize = 20_000;
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

/// Answers each byte with the server's own.
async fn serve(listener: TcpListener, own: u8, supervisor: Supervisor) {
    while let Ok((mut stream, _)) = listener.accept().await {
        supervisor.detached("connection", Phase::Front, async move {
            let mut buffer = [0; 1];
            while stream.read_exact(&mut buffer).await.is_ok() && stream.write_all(&[own]).await.is_ok() {}
        });
    }
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
/// turns a second an established one makes.
struct Costs {
    rate: f64,
    first_us: f64,
    turns: f64,
}

async fn costs(to: SocketAddr) -> Result<Costs, Failure> {
    let begin = clock::instant();
    let mut first = Vec::new();
    for _ in 0..CONNECTIONS {
        let begin = clock::instant();
        ask(to).await?;
        first.push(begin.elapsed().as_secs_f64() * 1e6);
    }
    let rate = CONNECTIONS as f64 / begin.elapsed().as_secs_f64();
    first.sort_by(f64::total_cmp);
    let mut stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let begin = clock::instant();
    for _ in 0..TURNS {
        turn(&mut stream).await?;
    }
    let turns = TURNS as f64 / begin.elapsed().as_secs_f64();
    Ok(Costs { rate, first_us: percentile(&first, 0.5), turns })
}

/// See the module's comment.
pub(crate) async fn services(table: &mut Table) -> Result<(), Failure> {
    crate::run("ip", &["addr", "add", "10.98.0.3/24", "dev", "knb0"]).await?;
    let supervisor = Supervisor::new();
    for (address, own) in HERE.into_iter().zip([b'a', b'b']) {
        let listener = TcpListener::bind((address, PORT)).await?;
        supervisor.detached("server", Phase::Front, serve(listener, own, supervisor.clone()));
    }
    let front = SocketAddr::from((ASKED, 80));
    let (few, _) = with(10, front, table).await?;
    let (many, feed) = with(10_000, front, table).await?;
    let direct = costs((HERE[0], PORT).into()).await?;
    table.add(
        Row::new("connections/s by a service of 10,000", format!("{:.0}", many.rate))
            .budget("95 % of 10")
            .peer(format!("{:.0} of 10, {:.0} without", few.rate, direct.rate)),
    );
    table.add(
        Row::new("first answer by a service of 10,000", format!("{:.0} µs", many.first_us))
            .budget("105 % of 10")
            .peer(format!("{:.0} of 10, {:.0} without", few.first_us, direct.first_us)),
    );
    table.add(
        Row::new("turns/s of a connection that is there", format!("{:.0}", many.turns))
            .budget("90 % of none")
            .peer(format!("{:.0} of 10, {:.0} without", few.turns, direct.turns)),
    );
    drop(feed);
    supervisor.drain().await;
    Ok(())
}

/// A proxy with so many services, until all is measured.
async fn with(services: u32, front: SocketAddr, table: &mut Table) -> Result<(Costs, Feed), Failure> {
    let (feed, supervisor) = (Feed::default(), Supervisor::new());
    fill(&feed, services);
    let block = |text: &str| text.parse::<net::Cidr>().map(|block| vec![block]);
    let node = net::Node {
        pod_cidrs: block("10.42.0.0/24")?,
        cluster_cidrs: block("10.42.0.0/16")?,
        service_cidrs: block("10.43.0.0/16")?,
        mtu: 1_500,
        outer: None,
    };
    net::setup(&node).await?;
    let before = resident()?;
    let begin = clock::instant();
    let handle = proxy::start(config()?, &Caches::new(feed.client(), supervisor.clone()), &supervisor);
    handle.ready().await;
    let took = begin.elapsed();
    table.add(
        Row::new(
            &format!("{services} services of {ENDPOINTS} endpoints, listed and loaded"),
            format!("{:.2} s", took.as_secs_f64()),
        )
        .budget("2 s"),
    );
    clock::sleep(SETTLE).await;
    let more = resident()?.saturating_sub(before);
    table.add(
        Row::new(&format!("memory of the proxy and its caches, {services} services"), mib(more))
            .budget("60 MiB"),
    );
    changes(services, &feed, front, table).await?;
    let more = resident()?.saturating_sub(before);
    table.add(
        Row::new(&format!("the same once some endpoints have changed, {services} services"), mib(more))
            .budget("60 MiB"),
    );
    let costs = costs(front).await?;
    supervisor.drain().await;
    Ok((costs, feed))
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
