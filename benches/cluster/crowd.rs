//! A node full of pods that are really started: how fast that goes, and what they cost the node.

use crate::Failure;
use crate::bare::Bare;
use crate::knarr::{Knarr, text};
use crate::pods::{self, PAUSE, PODS};
use crate::subject::Usage;
use crate::table::{Row, Table, mib, percentile};
use base::clock::{self, Instant};
use bytes::Bytes;
use http::{Method, Response};
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;
use tokio::net::TcpListener;

/// Pods one after the other.
const SINGLY: usize = 20;
/// Pods at once, as a Deployment that grows makes them.
const AT_ONCE: usize = 20;
/// What a node takes by default.
const FULL: usize = 110;
/// Far more than that.
const CROWD: usize = 250;
/// How long a crowd is left alone before it is measured, and how long that takes.
const SETTLE: Duration = Duration::from_secs(20);
const MEASURED: Duration = Duration::from_secs(60);
const LIMIT: Duration = Duration::from_secs(600);
/// Where what is probed listens: the address of the benchmark's own link.
const PROBED: ([u8; 4], u16) = ([10, 98, 0, 2], 8086);

/// All of it, on one server.
pub(crate) async fn crowd(executable: &Path, folder: &Path, table: &mut Table) -> Result<(), Failure> {
    let flags = ["--kubelet-arg", "max-pods=300"];
    let (mut server, _) = Knarr::start(executable, folder, &flags)?.ready().await?;
    pods::wait_for_service_account(&server.api()?).await?;
    let bare = Bare::connect(&server.runtime_socket(), &folder.join("bare")).await?;
    singly(&server, &bare, table).await?;
    at_once(&server, &bare, AT_ONCE, table).await?;
    full(&server, &bare, table).await?;
    clock::sleep(SETTLE).await;
    let empty = server.usage()?;
    idle(&server, empty, table).await?;
    pods::remove(&server).await?;
    probed(&server, table).await?;
    pods::remove(&server).await?;
    server.stop().await
}

fn pod(name: &str, probe: &Value) -> Value {
    let container = json!({
        "name": "main", "image": PAUSE, "imagePullPolicy": "IfNotPresent", "readinessProbe": probe,
    });
    json!({"metadata": {"name": name}, "spec": {"containers": [container], "terminationGracePeriodSeconds": 0}})
}

/// Creates so many pods as fast as they are taken; from the create of each until a watch shows it Running:
/// milliseconds, sorted.
async fn start(server: &Knarr, count: usize, probe: &Value) -> Result<Vec<f64>, Failure> {
    let api = server.api()?;
    let mut body = api.send(Method::GET, &format!("{PODS}?watch=1"), Bytes::new()).await?.into_body();
    let mut created = HashMap::new();
    for number in 0..count {
        let (name, sent) = (format!("crowd-{number}"), clock::instant());
        api.create(PODS, &pod(&name, probe)).await?;
        created.insert(name, sent);
    }
    let (mut took, mut pending) = (Vec::new(), Vec::new());
    while !created.is_empty() {
        let frame = tokio::time::timeout(LIMIT, body.frame()).await?.ok_or("the watch ended")??;
        pending.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            let pod = &serde_json::from_slice::<Value>(&line)?["object"];
            if pod["status"]["phase"] == "Failed" {
                return Err(format!("{}: {}", pod["metadata"]["name"], pod["status"]).into());
            }
            if pod["status"]["phase"] == "Running"
                && let Some(sent) = created.remove(text(&pod["metadata"]["name"]))
            {
                took.push(sent.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
    took.sort_by(f64::total_cmp);
    Ok(took)
}

/// What starts took, beside the runtime's own, and what lies between.
fn compare(what: &str, own: &[f64], bare: &[f64], table: &mut Table) {
    let of = |sorted: &[f64]| [0.5, 0.99].map(|share| percentile(sorted, share));
    let say = |[p50, p99]: [f64; 2]| format!("p50 {p50:.0} ms, p99 {p99:.0} ms");
    let (own, bare) = (of(own), of(bare));
    let peer = format!("containerd alone: {}", say(bare));
    table.add(Row::new(&format!("{what}: create to Running"), say(own)).peer(peer));
    let beyond = say([own[0] - bare[0], own[1] - bare[1]]);
    table.add(Row::new("… beyond the runtime's own", beyond).budget("p50 50 ms, p99 100 ms"));
}

async fn singly(server: &Knarr, bare: &Bare, table: &mut Table) -> Result<(), Failure> {
    let (mut own, mut alone) = (Vec::new(), Vec::new());
    for _ in 0..SINGLY {
        own.extend(start(server, 1, &Value::Null).await?);
        pods::remove(server).await?;
        alone.extend(bare.starts(1).await?);
    }
    own.sort_by(f64::total_cmp);
    alone.sort_by(f64::total_cmp);
    compare("one pod at a time", &own, &alone, table);
    Ok(())
}

async fn at_once(server: &Knarr, bare: &Bare, count: usize, table: &mut Table) -> Result<(), Failure> {
    let alone = bare.starts(count).await?;
    let own = start(server, count, &Value::Null).await?;
    pods::remove(server).await?;
    compare(&format!("{count} pods at once"), &own, &alone, table);
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
    let own = start(server, FULL, &Value::Null).await?;
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
    start(server, CROWD, &Value::Null).await?;
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
        start(server, CROWD, &probe).await?;
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
