//! The way in beside nginx: the same requests by the same connections to the same server behind, one proxy after
//! the other. Clients and server are of this process and do as little as they can, so that the proxy is what is
//! measured: it has the machine's processors to share with them, as nginx has.

use crate::Failure;
use crate::knarr::Knarr;
use crate::subject::Usage;
use crate::table::{Row, Table, mib, percentile};
use base::clock;
use http::Method;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Child;
use tokio::task::JoinSet;

/// This machine's address within the benchmark.
const ADDRESS: &str = "10.98.0.2";
const BEHIND: u16 = 9_100;
const NGINX: u16 = 9_200;
/// Connections of clients, each with one request at a time.
const CLIENTS: usize = 64;
const WARM: Duration = Duration::from_secs(2);
const MEASURED: Duration = Duration::from_secs(10);
const START_LIMIT: Duration = Duration::from_secs(30);
/// So many connections are kept without a word from their clients, when memory is looked at.
const KEPT: [usize; 3] = [64, 1_000, 10_000];
const SETTLE: Duration = Duration::from_secs(2);
/// The length of an answer's body.
const BODY_BYTES: usize = 1_024;
const REQUEST: &[u8] =
    b"GET /bench/path?a=b HTTP/1.1\r\nhost: bench.example\r\nuser-agent: bench/1.0\r\naccept: */*\r\n\
    accept-encoding: gzip\r\n\r\n";

/// What one proxy did.
struct Measured {
    per_s: f64,
    p99_ms: f64,
    cpu_us: f64,
    /// After that, and with so many kept connections.
    pss_bytes: u64,
    kept_bytes: Vec<u64>,
}

/// Requests in a second, and memory, of both.
pub(crate) async fn ingress(executable: &Path, folder: &Path, table: &mut Table) -> Result<(), Failure> {
    let behind = TcpListener::bind((ADDRESS, BEHIND)).await?;
    let mut serving = JoinSet::new();
    serving.spawn(serve(behind));
    let (mut server, _) = Knarr::start(executable, folder, &[])?.ready().await?;
    route(&server).await?;
    reachable(80).await?;
    let process = server.subject()?.processes;
    let before = Usage::of(process[0])?.pss_bytes;
    let own = measure(80, &process).await?;
    server.stop().await?;
    let nginx = nginx(folder).await?;
    let peer = match &nginx {
        Some(nginx) => {
            let processes = workers(nginx)?;
            Some(measure(NGINX, &processes).await?)
        }
        None => None,
    };
    let of_peer = |say: &dyn Fn(&Measured) -> String| {
        peer.as_ref().map_or("nginx: not installed".to_owned(), |peer| format!("nginx: {}", say(peer)))
    };
    let rate = Row::new("ingress, requests/s, 64 connections kept alive", format!("{:.0}/s", own.per_s));
    let share = peer.as_ref().map_or(String::new(), |peer| format!(", {:.2} of it", own.per_s / peer.per_s));
    table.add(rate.budget("0.8 of nginx").peer(of_peer(&|peer| format!("{:.0}/s{share}", peer.per_s))));
    let p99 = Row::new("… 99 % within", format!("{:.2} ms", own.p99_ms));
    table.add(p99.peer(of_peer(&|peer| format!("{:.2} ms", peer.p99_ms))));
    let cpu = Row::new("… processor time a request", format!("{:.1} µs", own.cpu_us));
    table.add(cpu.peer(of_peer(&|peer| format!("{:.1} µs", peer.cpu_us))));
    let more = |bytes: u64| mib(bytes.saturating_sub(before));
    let memory = Row::new("… memory more than before (PSS)", more(own.pss_bytes));
    table.add(memory.budget("less than nginx").peer(of_peer(&|peer| mib(peer.pss_bytes))));
    for (at, (count, bytes)) in KEPT.iter().zip(&own.kept_bytes).enumerate() {
        let memory = Row::new(&format!("… the same with {count} kept connections"), more(*bytes));
        table.add(memory.budget("less than nginx").peer(of_peer(&|peer| mib(peer.kept_bytes[at]))));
    }
    Ok(())
}

/// What leads to the server behind.
async fn route(server: &Knarr) -> Result<(), Failure> {
    let api = server.api()?;
    let slice = json!({"addressType": "IPv4", "metadata": {"name": "behind", "labels": {"kubernetes.io/service-name": "behind"}},
        "endpoints": [{"addresses": [ADDRESS]}], "ports": [{"name": "http", "port": BEHIND}]});
    let path = json!({"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "behind", "port": {"number": 80}}}});
    let ingress = json!({"metadata": {"name": "behind"},
        "spec": {"rules": [{"host": "bench.example", "http": {"paths": [path]}}]}});
    let service = json!({"metadata": {"name": "behind"}, "spec": {"ports": [{"name": "http", "port": 80}]}});
    let objects: [(&str, Value); 3] = [
        ("/api/v1/namespaces/default/services", service),
        ("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", slice),
        ("/apis/networking.k8s.io/v1/namespaces/default/ingresses", ingress),
    ];
    for (path, object) in objects {
        api.call(Method::POST, path, serde_json::to_vec(&object)?.into()).await?;
    }
    Ok(())
}

/// Waits until a request is answered well.
async fn reachable(port: u16) -> Result<(), Failure> {
    let began = clock::instant();
    while began.elapsed() < START_LIMIT {
        if let Ok(mut stream) = TcpStream::connect((ADDRESS, port)).await {
            stream.write_all(REQUEST).await?;
            let mut bytes = [0; 4096];
            let length = stream.read(&mut bytes).await?;
            if bytes[..length].starts_with(b"HTTP/1.1 200") {
                return Ok(());
            }
        }
        clock::sleep(Duration::from_millis(50)).await;
    }
    Err(format!("nothing is served on port {port}").into())
}

/// Processor time and memory of processes.
fn used(processes: &[u32]) -> Result<(u64, u64), Failure> {
    let mut sum = (0, 0);
    for process in processes {
        let usage = Usage::of(*process)?;
        sum = (sum.0 + usage.cpu_ns, sum.1 + usage.pss_bytes);
    }
    Ok(sum)
}

/// Memory with so many connections whose clients say nothing after their first request.
async fn kept(port: u16, processes: &[u32]) -> Result<Vec<u64>, Failure> {
    let (mut clients, mut sizes, mut bytes) = (Vec::new(), Vec::new(), vec![0; 16 << 10]);
    for count in KEPT {
        while clients.len() < count {
            let mut client = TcpStream::connect((ADDRESS, port)).await?;
            ask(&mut client, &mut bytes).await?;
            clients.push(client);
        }
        clock::sleep(SETTLE).await;
        sizes.push(used(processes)?.1);
    }
    Ok(sizes)
}

async fn measure(port: u16, processes: &[u32]) -> Result<Measured, Failure> {
    let (counts, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(client(port, counts.clone(), stop.clone()));
    }
    clock::sleep(WARM).await;
    let (cpu, _) = used(processes)?;
    counts.store(true, Ordering::Release);
    clock::sleep(MEASURED).await;
    stop.store(true, Ordering::Release);
    let (cpu_after, pss_bytes) = used(processes)?;
    let mut times = Vec::new();
    while let Some(one) = clients.join_next().await {
        times.extend(one??);
    }
    times.sort_by(f64::total_cmp);
    Ok(Measured {
        per_s: times.len() as f64 / MEASURED.as_secs_f64(),
        p99_ms: percentile(&times, 0.99),
        cpu_us: (cpu_after - cpu) as f64 / 1e3 / times.len() as f64,
        pss_bytes,
        kept_bytes: kept(port, processes).await?,
    })
}

/// One request and its answer.
async fn ask(stream: &mut TcpStream, bytes: &mut [u8]) -> std::io::Result<()> {
    stream.write_all(REQUEST).await?;
    let mut have = 0;
    loop {
        let length = stream.read(&mut bytes[have..]).await?;
        if length == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        have += length;
        let head = bytes[..have].windows(4).position(|four| four == b"\r\n\r\n");
        if head.is_some_and(|head| have >= head + 4 + BODY_BYTES) {
            break;
        }
    }
    match bytes.starts_with(b"HTTP/1.1 200") {
        true => Ok(()),
        false => Err(std::io::Error::other(String::from_utf8_lossy(&bytes[..have]).into_owned())),
    }
}

/// One request after the other; gives how long each took, in milliseconds.
async fn client(
    port: u16,
    counts: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
) -> Result<Vec<f64>, std::io::Error> {
    let mut stream = TcpStream::connect((ADDRESS, port)).await?;
    stream.set_nodelay(true)?;
    let (mut times, mut bytes) = (Vec::new(), vec![0; 16 << 10]);
    while !stop.load(Ordering::Acquire) {
        let began = clock::instant();
        ask(&mut stream, &mut bytes).await?;
        if counts.load(Ordering::Acquire) {
            times.push(began.elapsed().as_secs_f64() * 1e3);
        }
    }
    Ok(times)
}

/// The server behind: an answer to every head.
async fn serve(listener: TcpListener) -> Result<(), std::io::Error> {
    let answer = [
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {BODY_BYTES}\r\n\r\n")
            .into_bytes(),
        vec![b'x'; BODY_BYTES],
    ];
    let answer: Arc<[u8]> = answer.concat().into();
    let mut connections = JoinSet::new();
    loop {
        let (mut stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let answer = answer.clone();
        connections.spawn(async move {
            let mut bytes = vec![0; 16 << 10];
            while let Ok(1..) = stream.read(&mut bytes).await {
                if stream.write_all(&answer).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// nginx as people set it up for this, if it is installed.
async fn nginx(folder: &Path) -> Result<Option<Child>, Failure> {
    let at = folder.display();
    let config = format!(
        "daemon off; pid {at}/nginx.pid; error_log {at}/nginx.log; worker_processes auto; worker_rlimit_nofile 20000;\n\
         events {{ worker_connections 12000; }}\n\
         http {{ access_log off; client_body_temp_path {at}/nb; proxy_temp_path {at}/np; fastcgi_temp_path {at}/nf;\n\
         uwsgi_temp_path {at}/nu; scgi_temp_path {at}/ns; keepalive_requests 1000000;\n\
         upstream behind {{ server {ADDRESS}:{BEHIND}; keepalive 128; keepalive_requests 1000000; }}\n\
         server {{ listen {NGINX}; server_name bench.example;\n\
         location / {{ proxy_pass http://behind; proxy_http_version 1.1; proxy_set_header Connection \"\";\n\
         proxy_set_header Host $http_host; proxy_set_header X-Real-IP $remote_addr;\n\
         proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Host $http_host;\n\
         proxy_set_header X-Forwarded-Port $server_port; proxy_set_header X-Forwarded-Proto $scheme; }} }} }}\n"
    );
    let file = folder.join("nginx.conf");
    std::fs::write(&file, config)?;
    let mut command = base::process::command("nginx");
    command.arg("-c").arg(&file).kill_on_drop(true);
    let Ok(child) = command.spawn() else { return Ok(None) };
    reachable(NGINX).await?;
    Ok(Some(child))
}

/// nginx and its workers.
fn workers(nginx: &Child) -> Result<Vec<u32>, Failure> {
    let pid = nginx.id().ok_or("nginx ended by itself")?;
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    let children = children.split_whitespace().map(str::parse).collect::<Result<Vec<u32>, _>>()?;
    Ok(std::iter::once(pid).chain(children).collect())
}
