//! Measures knarr against its budgets and, where there is one on this machine, against a peer:
//! `cargo bench --bench cluster`. Needs root, containerd and, for the comparison, etcd.
//!
//! Everything runs in namespaces of its own (network, mounts, processes), so that nothing is left
//! behind whatever happens. Start reading at [`measure`].

#![expect(clippy::print_stdout, reason = "the table is what this program is for")]

mod api;
mod bare;
mod client;
mod crowd;
mod custom;
mod dns;
mod etcd;
#[expect(clippy::unwrap_used, dead_code, reason = "written for tests, which do more with it")]
#[path = "../../tests/it/support/feed.rs"]
mod feed;
mod hollow;
mod ingress;
mod knarr;
mod load;
mod peers;
mod pod_links;
mod pods;
mod scheduling;
mod services;
mod subject;
mod table;
mod upstream;

use knarr::Knarr;
use std::error::Error as StdError;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use table::{Row, Table, mib};

/// The executable's, so that what a part of it takes is what it takes there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Failure = Box<dyn StdError + Send + Sync>;

/// Says that this process is the one inside the namespaces.
const INSIDE: &str = "KNARR_BENCH_INSIDE";
/// How long the cluster is left alone before its idling is measured, and how long that takes.
const SETTLE: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let done = runtime.map_err(Failure::from).and_then(|runtime| {
        runtime.block_on(async {
            match std::env::var_os(INSIDE) {
                Some(folder) => inside(Path::new(&folder)).await,
                None => outside().await,
            }
        })
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            println!("the benchmark failed: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// The executable to measure.
fn executable() -> Result<PathBuf, Failure> {
    let given = std::env::var_os("KNARR_BENCH_BINARY").map(PathBuf::from);
    let own = std::env::current_exe()?;
    // target/release/deps/cluster-…: the executable is built two folders further up.
    let beside = own.ancestors().nth(2).unwrap_or(&own).join("knarr");
    let path = given.unwrap_or(beside);
    if path.is_file() {
        return Ok(path.canonicalize()?);
    }
    Err(format!(
        "no executable at {}: build it with `cargo build --release` or name one in KNARR_BENCH_BINARY",
        path.display()
    )
    .into())
}

/// Runs this program again in namespaces that end with it, and removes its folder.
async fn outside() -> Result<(), Failure> {
    let executable = executable()?;
    let folder = std::env::temp_dir().join(format!("knarr-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let mut command = base::process::command("unshare");
    command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    command.arg(std::env::current_exe()?).env(INSIDE, &folder).env("KNARR_BENCH_BINARY", executable);
    let status = command.args(std::env::args_os().skip(1)).status().await;
    std::fs::remove_dir_all(&folder)?;
    if status?.success() { Ok(()) } else { Err("see above".into()) }
}

async fn inside(folder: &Path) -> Result<(), Failure> {
    let ip = [
        "link set lo up",
        "link add knb0 type veth peer name knb1",
        "addr add 10.98.0.2/24 dev knb0",
        "link set knb0 up",
        "link set knb1 up",
        "route add default via 10.98.0.1",
    ];
    for line in ip {
        run("ip", &line.split(' ').collect::<Vec<_>>()).await?;
    }
    // What runtimes leave below /run (names of network namespaces) goes with the namespace.
    run("mount", &["-t", "tmpfs", "tmpfs", "/run"]).await?;
    let mut table = Table::default();
    let measured = measure(&executable()?, folder, &mut table).await;
    println!("{table}");
    measured
}

async fn run(program: &str, arguments: &[&str]) -> Result<(), Failure> {
    let mut command = base::process::command(program);
    command.args(arguments);
    base::process::check(command, b"", Duration::from_secs(30)).await?;
    Ok(())
}

/// The parts that were asked for by name, as in `cargo bench --bench cluster -- load`; all without a name.
/// What was measured before a failure is kept in the table.
async fn measure(executable: &Path, folder: &Path, table: &mut Table) -> Result<(), Failure> {
    let named: Vec<String> =
        std::env::args().skip(1).filter(|word| !word.starts_with('-') && !word.contains('=')).collect();
    let asked = |part: &str| named.is_empty() || named.iter().any(|name| name == part);
    if asked("node") {
        table.add(size(executable, folder).await?);
        node(executable, &folder.join("node"), table).await?;
    }
    if asked("crowd") {
        crowd::crowd(executable, &folder.join("crowd"), table).await?;
    }
    if asked("dns") {
        dns::dns(executable, &folder.join("dns"), table).await?;
    }
    if asked("load") {
        peers::load(executable, &folder.join("load"), table).await?;
    }
    if asked("custom") {
        custom::custom(executable, &folder.join("custom"), table).await?;
    }
    if asked("many") {
        peers::many(executable, &folder.join("many"), table).await?;
    }
    if asked("client") {
        client::client(executable, &folder.join("client"), table).await?;
    }
    if asked("scheduling") {
        scheduling::scheduling(executable, &folder.join("scheduling"), table).await?;
    }
    if asked("ingress") {
        ingress::ingress(executable, &folder.join("ingress"), table).await?;
    }
    if asked("services") {
        services::services(executable, &folder.join("services"), table).await?;
    }
    if asked("hollow") {
        hollow::hollow(executable, &folder.join("hollow"), table).await?;
    }
    if asked("agents") {
        hollow::agents(executable, &folder.join("agents"), table).await?;
    }
    Ok(())
}

/// A whole node: its start, its idling, its pods.
async fn node(executable: &Path, folder: &Path, table: &mut Table) -> Result<(), Failure> {
    let (mut server, took) = Knarr::start(executable, folder, &[])?.ready().await?;
    let took = format!("{:.2} s", took.as_secs_f64());
    table.add(Row::new("first start to Ready and DNS, nothing on disk", took));
    idle(&server, table).await?;
    server.stop().await?;
    started_pods(executable, folder, table).await
}

async fn size(executable: &Path, folder: &Path) -> Result<Row, Failure> {
    let stripped = folder.join("stripped");
    let from = executable.to_string_lossy();
    run("strip", &["-o", &stripped.to_string_lossy(), &from]).await?;
    let bytes = std::fs::metadata(&stripped)?.len();
    Ok(Row::new("executable, stripped", mib(bytes)).budget("40 MiB"))
}

/// What a cluster costs that nobody uses.
async fn idle(server: &Knarr, table: &mut Table) -> Result<(), Failure> {
    base::clock::sleep(SETTLE).await;
    let before = server.usage()?;
    base::clock::sleep(IDLE).await;
    let after = server.usage()?;
    let seconds = IDLE.as_secs_f64();
    let rate = |from: u64, to: u64| (to - from) as f64 / seconds;
    let cpu = rate(before.cpu_ns, after.cpu_ns) / 1e7;
    table.add(Row::new("idle memory (PSS)", mib(after.pss_bytes)).budget("64 MiB"));
    table.add(Row::new("idle CPU", format!("{cpu:.3} % of a core")).budget("0.5 %"));
    let written = rate(before.write_bytes, after.write_bytes);
    let handed = rate(before.wchar, after.wchar);
    table.add(Row::new("idle writes to disk", format!("{written:.0} B/s")).budget("1024 B/s"));
    table.add(Row::new("idle write calls, files and sockets", format!("{handed:.0} B/s")));
    Ok(())
}

async fn started_pods(executable: &Path, cluster: &Path, table: &mut Table) -> Result<(), Failure> {
    let (mut server, _) = Knarr::start(executable, cluster, &[])?.ready().await?;
    pods::starts(&server, table).await?;
    server.stop().await?;
    let (mut server, took) = Knarr::start(executable, cluster, &[])?.ready().await?;
    let adopted = pods::restarts(&server).await?;
    let measured = format!("{:.2} s", took.as_secs_f64());
    let what = format!("start again, {} pods adopted, {} restarted", adopted.pods, adopted.restarts);
    table.add(Row::new(&what, measured).budget("2 s"));
    pods::remove(&server).await?;
    server.stop().await
}
