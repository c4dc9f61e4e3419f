//! A node full of pods that are really started: how fast that goes, and what they cost the node.

use crate::Failure;
use crate::bare::Bare;
use crate::knarr::Knarr;
use crate::pods;
use crate::subject::Usage;
use crate::table::{Row, Table, mib};
use base::clock::{self, Instant};
use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;
use tokio::net::TcpListener;

/// Pods at once, as a Deployment that grows makes them.
const AT_ONCE: usize = 20;
/// What a node takes by default.
const FULL: usize = 110;
/// Far more than that.
const CROWD: usize = 250;
/// How long a crowd is left alone before it is measured, and how long that takes.
const SETTLE: Duration = Duration::from_secs(20);
const MEASURED: Duration = Duration::from_secs(60);
/// Where what is probed listens: the address of the benchmark's own link.
const PROBED: ([u8; 4], u16) = ([10, 98, 0, 2], 8086);

/// All of it, on one server.
pub(crate) async fn crowd(executable: &Path, folder: &Path, table: &mut Table) -> Result<(), Failure> {
    let flags = ["--kubelet-arg", "max-pods=300"];
    let (mut server, _) = Knarr::start(executable, folder, &flags)?.ready().await?;
    pods::wait_for_service_account(&server.api()?).await?;
    let bare = Bare::connect(&server).await?;
    at_once(&server, &bare, table).await?;
    full(&server, &bare, table).await?;
    clock::sleep(SETTLE).await;
    let empty = server.usage()?;
    idle(&server, empty, table).await?;
    pods::remove(&server).await?;
    probed(&server, table).await?;
    pods::remove(&server).await?;
    server.stop().await
}

/// Names for a crowd.
fn names(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|number| format!("crowd-{number}"))
}

async fn at_once(server: &Knarr, bare: &Bare, table: &mut Table) -> Result<(), Failure> {
    let alone = bare.starts(AT_ONCE).await?;
    let own = pods::start(server, names(AT_ONCE), &Value::Null).await?;
    pods::remove(server).await?;
    pods::compare("20 pods at once", &own, &alone, table);
    Ok(())
}

/// Nanoseconds that all processors of the machine have worked.
fn machine_ns() -> Result<u64, Failure> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let times: Vec<u64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    // user, nice, system, idle, iowait, irq, softirq, steal
    let busy = times.iter().enumerate().filter(|(at, _)| ![3, 4, 7].contains(at) && *at < 8);
    Ok(busy.map(|(_, ticks)| ticks).sum::<u64>() * 10_000_000)
}

async fn full(server: &Knarr, bare: &Bare, table: &mut Table) -> Result<(), Failure> {
    let alone = bare.starts(FULL).await?;
    let (before, machine, began) = (server.usage()?, machine_ns()?, clock::instant());
    let own = pods::start(server, names(FULL), &Value::Null).await?;
    let (took, after) = (began.elapsed(), server.usage()?);
    let (knarr, all) = ((after.cpu_ns - before.cpu_ns) as f64, (machine_ns()? - machine) as f64);
    pods::remove(server).await?;
    let last = |sorted: &[f64]| sorted.last().copied().unwrap_or_default() / 1e3;
    let whole = Row::new("110 pods at once, until the last is Running", format!("{:.1} s", last(&own)));
    table.add(whole.peer(format!("containerd alone: {:.1} s", last(&alone))));
    let (cores, share) = (all / took.as_nanos() as f64, knarr * 100.0 / all);
    let measured = format!("{cores:.2} cores busy, {share:.0} % of that knarr's");
    table.add(Row::new("… processors meanwhile", measured));
    Ok(())
}

/// What a share of a core so much work was, in percent.
fn percent(before: Usage, after: Usage, since: Instant) -> f64 {
    (after.cpu_ns - before.cpu_ns) as f64 * 100.0 / since.elapsed().as_nanos() as f64
}

async fn measured(server: &Knarr) -> Result<(f64, Usage), Failure> {
    clock::sleep(SETTLE).await;
    let (before, since) = (server.usage()?, clock::instant());
    clock::sleep(MEASURED).await;
    let after = server.usage()?;
    Ok((percent(before, after, since), after))
}

async fn idle(server: &Knarr, empty: Usage, table: &mut Table) -> Result<(), Failure> {
    pods::start(server, names(CROWD), &Value::Null).await?;
    let (cpu, usage) = measured(server).await?;
    let more = mib(usage.pss_bytes.saturating_sub(empty.pss_bytes));
    let what = "250 idle pods: memory more than without (PSS), of node and control plane";
    table.add(Row::new(what, more).budget("40 MiB"));
    table.add(Row::new("… CPU", format!("{cpu:.2} % of a core")).budget("1 %"));
    Ok(())
}

async fn probed(server: &Knarr, table: &mut Table) -> Result<(), Failure> {
    let listener = TcpListener::bind((Ipv4Addr::from(PROBED.0), PROBED.1)).await?;
    let answering = tokio::task::LocalSet::new();
    let host = PROBED.0.map(|part| part.to_string()).join(".");
    let probe = json!({"httpGet": {"host": host, "port": PROBED.1, "path": "/"}, "periodSeconds": 1});
    let measuring = async {
        pods::start(server, names(CROWD), &probe).await?;
        measured(server).await
    };
    let (cpu, _) = answering
        .run_until(async {
            tokio::select! {
                measured = measuring => measured,
                failed = answer(listener) => Err(failed),
            }
        })
        .await?;
    table.add(Row::new("250 pods probed each second: CPU", format!("{cpu:.1} % of a core")).budget("5 %"));
    Ok(())
}

/// Says that it is well to whoever asks, until it fails.
async fn answer(listener: TcpListener) -> Failure {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => return error.into(),
        };
        let well = service_fn(|_| async { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("ok")))) });
        let connection =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), well);
        tokio::task::spawn_local(async move { connection.await.is_ok() });
    }
}
