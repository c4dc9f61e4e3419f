//! A node full of pods that are really started: how fast that goes, and what they cost the node.

use crate::Failure;
use crate::knarr::{Knarr, text};
use crate::pods;
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
use std::path::Path;
use std::time::Duration;
use tokio::net::TcpListener;

const PODS: &str = "/api/v1/namespaces/default/pods";
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
    let flags = ["--debug", "--log-format", "json", "--kubelet-arg", "max-pods=300"];
    let (mut server, _) = Knarr::start(executable, folder, &flags)?.ready().await?;
    pods::wait_for_service_account(&server.api()?).await?;
    at_once(&server, table).await?;
    pods::remove(&server).await?;
    full(&server, table).await?;
    pods::remove(&server).await?;
    server.stop().await?;
    let (mut server, _) = Knarr::start(executable, folder, &flags[3..])?.ready().await?;
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
        "name": "main", "image": "knarr.local/pause:1", "imagePullPolicy": "IfNotPresent", "readinessProbe": probe,
    });
    json!({"metadata": {"name": name}, "spec": {"containers": [container], "terminationGracePeriodSeconds": 0}})
}

/// When each of so many pods, created at once, was shown to be Running: milliseconds by uid.
async fn start(server: &Knarr, count: usize, probe: &Value) -> Result<HashMap<String, f64>, Failure> {
    let api = server.api()?;
    let mut body = api.send(Method::GET, &format!("{PODS}?watch=1"), Bytes::new()).await?.into_body();
    let began = clock::instant();
    for number in 0..count {
        api.create(PODS, &pod(&format!("crowd-{number}"), probe)).await?;
    }
    let (mut running, mut pending) = (HashMap::new(), Vec::new());
    while running.len() < count {
        let frame = tokio::time::timeout(LIMIT, body.frame()).await?.ok_or("the watch ended")??;
        pending.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            let pod = &serde_json::from_slice::<Value>(&line)?["object"];
            if pod["status"]["phase"] == "Running" && pod["metadata"]["deletionTimestamp"].is_null() {
                let uid = text(&pod["metadata"]["uid"]).to_owned();
                running.entry(uid).or_insert(began.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
    Ok(running)
}

/// Milliseconds that the runtime's calls took for each pod, by its uid, from knarr's log.
fn runtime_times(log: &str) -> HashMap<String, f64> {
    let (mut sums, mut pods_of): (HashMap<String, f64>, HashMap<String, String>) = Default::default();
    for line in log.lines() {
        let Ok(event) = serde_json::from_str::<Value>(line) else { continue };
        let fields = &event["fields"];
        let of = text(&fields["of"]).to_owned();
        if let Some(container) = fields["container"].as_str() {
            pods_of.insert(container.to_owned(), of);
        } else if let Some(took_ms) = fields["took_ms"].as_f64().filter(|_| !of.is_empty()) {
            *sums.entry(pods_of.get(&of).cloned().unwrap_or(of)).or_default() += took_ms;
        }
    }
    sums
}

async fn at_once(server: &Knarr, table: &mut Table) -> Result<(), Failure> {
    let whole = start(server, AT_ONCE, &Value::Null).await?;
    let runtime = runtime_times(&std::fs::read_to_string(server.log())?);
    let beyond = whole.iter().map(|(uid, whole)| whole - runtime.get(uid).copied().unwrap_or_default());
    let mut beyond: Vec<f64> = beyond.collect();
    beyond.sort_by(f64::total_cmp);
    let [p50, p99] = [0.5, 0.99].map(|share| percentile(&beyond, share));
    let last = whole.values().fold(0.0, |most: f64, at| most.max(*at)) / 1e3;
    table.add(Row::new("20 pods at once, all Running", format!("{last:.1} s")));
    let measured = format!("p50 {p50:.0} ms, p99 {p99:.0} ms");
    table.add(Row::new("… beyond the runtime's own", measured).budget("p50 50 ms, p99 100 ms"));
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

async fn full(server: &Knarr, table: &mut Table) -> Result<(), Failure> {
    let (before, machine, began) = (server.usage()?, machine_ns()?, clock::instant());
    start(server, FULL, &Value::Null).await?;
    let (took, after) = (began.elapsed(), server.usage()?);
    let own = (after.cpu_ns - before.cpu_ns) as f64;
    let all = (machine_ns()? - machine) as f64;
    table.add(Row::new("110 pods at once, all Running", format!("{:.1} s", took.as_secs_f64())));
    let cores = all / took.as_nanos() as f64;
    let share = own * 100.0 / all;
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
    let listener = TcpListener::bind(PROBED).await?;
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
