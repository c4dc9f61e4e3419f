//! The whole control plane under simulated nodes: what it takes until all their pods run, and to keep them; and agents that
//! join in a burst.

use crate::api::Api;
use crate::knarr::{Knarr, text, with_last_words};
use crate::subject::Usage;
use crate::table::{Row, Table, mib};
use crate::{Failure, IDLE, SETTLE};
use base::clock::{self, Instant};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};

/// Numbers of nodes.
const SIZES: [usize; 2] = [100, 1_000];
/// Deployments, each in a namespace of its own with a pod for each node.
const DEPLOYMENTS: usize = 30;
/// A block with a part for each of so many nodes, beside that of the services.
const FLAGS: [&str; 3] = ["--disable-agent", "--cluster-cidr", "10.128.0.0/9"];
/// How often it is asked how many pods are ready.
const POLL: Duration = Duration::from_millis(500);
/// Agents that join at once.
const AGENTS: usize = 200;
/// How long their server is away.
const AWAY: Duration = Duration::from_secs(60);
/// Beyond this, nodes and pods have failed.
const LIMIT: Duration = Duration::from_secs(1_800);

/// A running `knarr bench hollow`.
struct Nodes {
    child: Child,
    /// Kept open: who has nobody to speak to any longer ends.
    said: Lines<BufReader<ChildStdout>>,
    log: PathBuf,
}

impl Nodes {
    /// Starts so many, and waits until they are Ready.
    async fn start(executable: &Path, folder: &Path, nodes: usize, flags: &[&str]) -> Result<Self, Failure> {
        let log = folder.join("hollow.log");
        let mut command = base::process::command(executable);
        command.args(["bench", "hollow", "--nodes", &nodes.to_string(), "--kubeconfig"]);
        command
            .arg(folder.join("kubeconfig"))
            .args(flags)
            .current_dir(folder)
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log)?);
        let mut child = command.spawn()?;
        let said = child.stdout.take().ok_or("its output is not read")?;
        let mut said = BufReader::new(said).lines();
        let ready = async {
            while let Some(line) = said.next_line().await? {
                if line.contains("are Ready") {
                    return Ok(());
                }
            }
            Err(Failure::from("the hollow nodes ended"))
        };
        match tokio::time::timeout(LIMIT, ready).await? {
            Ok(()) => Ok(Self { child, said, log }),
            Err(failure) => Err(with_last_words(failure, &log)),
        }
    }

    fn pid(&self) -> Result<u32, Failure> {
        let ended = || with_last_words("the hollow nodes ended".into(), &self.log);
        self.child.id().ok_or_else(ended)
    }

    fn usage(&self) -> Result<Usage, Failure> {
        Usage::of(self.pid()?)
    }

    async fn stop(&mut self) -> Result<(), Failure> {
        kill(Pid::from_raw(self.pid()?.cast_signed()), Signal::SIGTERM)?;
        while tokio::time::timeout(LIMIT, self.said.next_line()).await??.is_some() {}
        match self.child.wait().await?.success() {
            true => Ok(()),
            false => Err(with_last_words("the hollow nodes were not removed".into(), &self.log)),
        }
    }
}

/// All sizes, or that of `nodes=…` beside `hollow`.
pub(crate) async fn hollow(executable: &Path, folder: &Path, table: &mut Table) -> Result<(), Failure> {
    let named = std::env::args().find_map(|word| word.strip_prefix("nodes=").map(str::parse));
    let sizes = named.transpose()?.map_or_else(|| SIZES.to_vec(), |nodes| vec![nodes]);
    for nodes in sizes {
        let folder = folder.join(nodes.to_string());
        let (mut server, _) = Knarr::start(executable, &folder, &FLAGS)?.ready().await?;
        size(&server, executable, &folder, (nodes, table)).await?;
        server.stop().await?;
        std::fs::remove_dir_all(&folder)?;
    }
    Ok(())
}

/// Nodes that join as agents, all at once, and whose server is away for a while.
pub(crate) async fn agents(executable: &Path, folder: &Path, table: &mut Table) -> Result<(), Failure> {
    let (mut server, _) = Knarr::start(executable, folder, &FLAGS)?.ready().await?;
    clock::sleep(SETTLE).await;
    let alone = server.usage()?;
    let flags =
        ["--agents", "agents", "--join", "https://127.0.0.1:6443", "--token-file", "data/server/token"];
    let began = clock::instant();
    let mut agents = Nodes::start(executable, folder, AGENTS, &flags).await?;
    table.add(Row::new(&format!("{AGENTS} agents join at once: all Ready"), seconds(began)));
    table.add(Row::new("… CPU of the server for it", cpu(alone, server.usage()?)));
    settled(&server.api()?).await?;
    let before = (server.usage()?, agents.usage()?);
    clock::sleep(IDLE).await;
    let after = (server.usage()?, agents.usage()?);
    let both = format!("{}, without agents {}", mib(after.0.pss_bytes), mib(alone.pss_bytes));
    table.add(Row::new("… memory of the server (PSS)", both));
    table.add(Row::new("… idle CPU of the server", share(before.0, after.0)));
    table.add(Row::new("… idle CPU of the agents", share(before.1, after.1)));
    server.stop().await?;
    clock::sleep(AWAY).await;
    let since = clock::now();
    let began = clock::instant();
    let (mut server, _) = Knarr::start(executable, folder, &FLAGS)?.ready().await?;
    let what = format!("… a server that was away for {} s: Ready again", AWAY.as_secs());
    table.add(Row::new(&what, seconds(began)));
    let unready = back(&server.api()?, &since.to_string(), began).await?;
    table.add(Row::new("… all agents have renewed their leases", seconds(began)));
    table.add(Row::new("… nodes that were not Ready meanwhile", unready.to_string()));
    agents.stop().await?;
    server.stop().await
}

/// Waits until all agents are Ready and have renewed their leases since then; gives the most nodes that were seen not to
/// be Ready.
async fn back(api: &Api, since: &str, began: Instant) -> Result<usize, Failure> {
    let mut most = 0;
    loop {
        if began.elapsed() > LIMIT {
            return Err(format!("the agents are not back after {LIMIT:?}").into());
        }
        let leases = api.get("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases").await?;
        let leases = leases["items"].as_array().into_iter().flatten();
        let renewed = leases.filter(|lease| text(&lease["spec"]["renewTime"]) >= since).count();
        let nodes = api.get("/api/v1/nodes").await?;
        let conditions = |node: &Value| node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let is_ready = |node: &&Value| {
            conditions(node).iter().any(|one| one["type"] == "Ready" && one["status"] == "True")
        };
        let ready = nodes["items"].as_array().into_iter().flatten().filter(is_ready).count();
        most = most.max(AGENTS - ready.min(AGENTS));
        if renewed >= AGENTS && ready >= AGENTS {
            return Ok(most);
        }
        clock::sleep(POLL).await;
    }
}

async fn size(
    server: &Knarr,
    executable: &Path,
    folder: &Path,
    (nodes, table): (usize, &mut Table),
) -> Result<(), Failure> {
    let api = server.api()?;
    let began = clock::instant();
    let mut hollow = Nodes::start(executable, folder, nodes, &[]).await?;
    table.add(Row::new(&format!("{nodes} hollow nodes Ready"), seconds(began)));
    let before = (server.usage()?, hollow.usage()?);
    let began = clock::instant();
    for number in 0..DEPLOYMENTS {
        deploy(&api, number, nodes).await?;
    }
    ready(&api, DEPLOYMENTS * nodes, began).await?;
    let after = (server.usage()?, hollow.usage()?);
    let what = format!("… {} pods of {DEPLOYMENTS} Deployments Ready", DEPLOYMENTS * nodes);
    table.add(Row::new(&what, seconds(began)));
    table.add(Row::new("… CPU of the control plane for it", cpu(before.0, after.0)));
    table.add(Row::new("… CPU of the hollow nodes for it", cpu(before.1, after.1)));
    settled(&api).await?;
    let before = (server.usage()?, hollow.usage()?);
    clock::sleep(IDLE).await;
    let after = (server.usage()?, hollow.usage()?);
    table.add(Row::new("… memory of the control plane (PSS; RSS)", memory(after.0)));
    table.add(Row::new("… memory of the hollow nodes (PSS; RSS)", memory(after.1)));
    table.add(Row::new("… idle CPU of the control plane", share(before.0, after.0)));
    table.add(Row::new("… idle CPU of the hollow nodes", share(before.1, after.1)));
    hollow.stop().await
}

async fn deploy(api: &Api, number: usize, replicas: usize) -> Result<(), Failure> {
    let name = format!("load-{number}");
    api.create("/api/v1/namespaces", &json!({"metadata": {"name": name}})).await?;
    let labels = json!({"app": name});
    let container = json!({"name": "pause", "image": "registry.k8s.io/pause:3.10.1",
        "resources": {"requests": {"cpu": "100m", "memory": "100Mi"}}});
    let template = json!({"metadata": {"labels": labels}, "spec": {"containers": [container]}});
    let spec = json!({"replicas": replicas, "selector": {"matchLabels": labels}, "template": template});
    let path = format!("/apis/apps/v1/namespaces/{name}/deployments");
    api.create(&path, &json!({"metadata": {"name": name}, "spec": spec})).await
}

/// Waits until so many pods are ready.
async fn ready(api: &Api, pods: usize, began: Instant) -> Result<(), Failure> {
    let mut now = 0;
    while now < pods as u64 {
        if began.elapsed() > LIMIT {
            return Err(format!("{now} of {pods} pods are ready after {LIMIT:?}").into());
        }
        clock::sleep(POLL).await;
        let deployments = api.get("/apis/apps/v1/deployments").await?;
        let each = deployments["items"].as_array().into_iter().flatten();
        now = each.filter_map(|one| one["status"]["readyReplicas"].as_u64()).sum::<u64>();
    }
    Ok(())
}

/// Waits until nobody writes any more of what happened: events come after the pods that they are about.
async fn settled(api: &Api) -> Result<(), Failure> {
    let count = async || -> Result<u64, Failure> {
        let events = api.get("/api/v1/events?limit=1").await?;
        Ok(events["metadata"]["remainingItemCount"].as_u64().unwrap_or_default())
    };
    let began = clock::instant();
    let mut before = count().await?;
    loop {
        clock::sleep(SETTLE).await;
        let now = count().await?;
        if now == before || began.elapsed() > LIMIT {
            return Ok(());
        }
        before = now;
    }
}

fn seconds(since: Instant) -> String {
    format!("{:.1} s", since.elapsed().as_secs_f64())
}

fn cpu(before: Usage, after: Usage) -> String {
    format!("{:.1} s", (after.cpu_ns - before.cpu_ns) as f64 / 1e9)
}

fn share(before: Usage, after: Usage) -> String {
    let busy = (after.cpu_ns - before.cpu_ns) as f64 / IDLE.as_secs_f64() / 1e7;
    format!("{busy:.2} % of a core")
}

fn memory(usage: Usage) -> String {
    format!("{}; {}", mib(usage.pss_bytes), mib(usage.rss_bytes))
}
