//! `knarr kubectl` beside the machine's kubectl: what a command costs whose cache of discovery is warm.

use crate::Failure;
use crate::api::Api;
use crate::knarr::Knarr;
use crate::table::{Row, Table};
use base::process::command;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde_json::json;
use std::path::Path;
use std::process::Stdio;

/// Pods that are listed, and how many are created at a time.
const PODS: usize = 10_000;
const AT_ONCE: usize = 64;
/// How often each command is run.
const RUNS: u32 = 20;
const RUNS_OF_MANY: u32 = 5;

pub(crate) async fn client(executable: &Path, folder: &Path, table: &mut Table) -> Result<(), Failure> {
    let (mut server, _) = Knarr::start(executable, folder, &["--disable-agent"])?.ready().await?;
    let api = server.api()?;
    compare(executable, folder, ("one namespace", &["get", "namespace", "default"], RUNS), table).await?;
    create(&api).await?;
    let what = format!("{PODS} pods");
    compare(executable, folder, (&what, &["get", "pods", "--all-namespaces"], RUNS_OF_MANY), table).await?;
    server.stop().await
}

async fn create(api: &Api) -> Result<(), Failure> {
    for first in (0..PODS).step_by(AT_ONCE) {
        let made = (first..PODS.min(first + AT_ONCE)).map(|number| async move {
            let pod = json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": format!("pod-{number:05}"), "labels": {"app": "many", "number": number.to_string()}},
                "spec": {"schedulerName": "nobody", "containers": [{"name": "c", "image": "registry.example.org/some/image:1.2.3"}]},
            });
            api.create("/api/v1/namespaces/default/pods", &pod).await
        });
        futures_util::future::try_join_all(made).await?;
    }
    Ok(())
}

/// A command by both clients, knarr's first: the kernel tells the most memory of all processes so far.
async fn compare(
    executable: &Path,
    folder: &Path,
    (what, words, runs): (&str, &[&str], u32),
    table: &mut Table,
) -> Result<(), Failure> {
    let own: Vec<&str> = std::iter::once("kubectl").chain(words.iter().copied()).collect();
    let (cpu_ms, memory_mib) = measure(executable, folder, &own, runs).await?;
    let peer = match measure(Path::new("kubectl"), folder, words, runs).await {
        Ok((cpu_ms, memory_mib)) => format!("the machine's kubectl {cpu_ms:.1} ms, {memory_mib:.0} MiB"),
        Err(failure) => format!("no kubectl beside it: {failure}"),
    };
    let budget = if runs == RUNS { "15 ms, 20 MiB" } else { "100 ms" };
    let row = Row::new(
        &format!("kubectl get, {what}: CPU and most memory"),
        format!("{cpu_ms:.1} ms, {memory_mib:.0} MiB"),
    );
    table.add(row.budget(budget).peer(peer));
    Ok(())
}

/// CPU of one run in milliseconds, and the most memory that any had, in MiB.
async fn measure(program: &Path, folder: &Path, words: &[&str], runs: u32) -> Result<(f64, f64), Failure> {
    run(program, folder, words).await?;
    let before = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    for _ in 0..runs {
        run(program, folder, words).await?;
    }
    let after = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let used = (after.user_time() + after.system_time()) - (before.user_time() + before.system_time());
    Ok((used.num_microseconds() as f64 / 1000.0 / f64::from(runs), after.max_rss() as f64 / 1024.0))
}

async fn run(program: &Path, folder: &Path, words: &[&str]) -> Result<(), Failure> {
    let mut command = command(program);
    command.args(words).arg("--kubeconfig").arg(folder.join("kubeconfig"));
    command.env("KUBECACHEDIR", folder.join("cache")).stdout(Stdio::null());
    let status = command.status().await?;
    if status.success() { Ok(()) } else { Err(format!("{} {words:?}: {status}", program.display()).into()) }
}
