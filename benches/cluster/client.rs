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

/// A command whose price is compared.
struct Asked {
    what: String,
    words: &'static [&'static str],
    runs: u32,
    budget: &'static str,
}

/// What a run costs.
struct Cost {
    cpu_ms: f64,
    /// As text: the kernel tells the most memory of all processes so far, of which these were not always the largest.
    memory: String,
}

pub(crate) async fn client(executable: &Path, folder: &Path, table: &mut Table) -> Result<(), Failure> {
    let (mut server, _) = Knarr::start(executable, folder, &["--disable-agent"])?.ready().await?;
    let api = server.api()?;
    let one = Asked {
        what: "one namespace".to_owned(),
        words: &["get", "namespace", "default"],
        runs: RUNS,
        budget: "15 ms, 20 MiB",
    };
    let many = Asked {
        what: format!("{PODS} pods"),
        words: &["get", "pods", "--all-namespaces"],
        runs: RUNS_OF_MANY,
        budget: "100 ms",
    };
    // The smaller ones first: another order would tell the memory of those before.
    let own =
        |asked: &Asked| std::iter::once("kubectl").chain(asked.words.iter().copied()).collect::<Vec<_>>();
    let of_one = measure(executable, folder, &own(&one), one.runs).await?;
    create(&api).await?;
    let of_many = measure(executable, folder, &own(&many), many.runs).await?;
    for (asked, cost) in [(one, of_one), (many, of_many)] {
        let peer = match measure(Path::new("kubectl"), folder, asked.words, asked.runs).await {
            Ok(cost) => format!("the machine's kubectl {:.1} ms, {}", cost.cpu_ms, cost.memory),
            Err(failure) => format!("no kubectl beside it: {failure}"),
        };
        let row = Row::new(
            &format!("kubectl get, {}: CPU and most memory", asked.what),
            format!("{:.1} ms, {}", cost.cpu_ms, cost.memory),
        );
        table.add(row.budget(asked.budget).peer(peer));
    }
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

/// What a command costs, its cache being warm.
async fn measure(program: &Path, folder: &Path, words: &[&str], runs: u32) -> Result<Cost, Failure> {
    let most = getrusage(UsageWho::RUSAGE_CHILDREN)?.max_rss();
    run(program, folder, words).await?;
    let before = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    for _ in 0..runs {
        run(program, folder, words).await?;
    }
    let after = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let used = (after.user_time() + after.system_time()) - (before.user_time() + before.system_time());
    let cpu_ms = used.num_microseconds() as f64 / 1000.0 / f64::from(runs);
    let at_most = if after.max_rss() > most { "" } else { "at most " };
    Ok(Cost { cpu_ms, memory: format!("{at_most}{:.0} MiB", after.max_rss() as f64 / 1024.0) })
}

async fn run(program: &Path, folder: &Path, words: &[&str]) -> Result<(), Failure> {
    let mut command = command(program);
    command.args(words).arg("--kubeconfig").arg(folder.join("kubeconfig"));
    command.env("KUBECACHEDIR", folder.join("cache")).stdout(Stdio::null());
    let status = command.status().await?;
    if status.success() { Ok(()) } else { Err(format!("{} {words:?}: {status}", program.display()).into()) }
}
