//! `kubectl drain`: cordons nodes and moves their pods off by evictions, so that disruption budgets hold.

use super::cordon::{nodes, schedulable};
use crate::choice::Found;
use crate::error::Error;
use crate::globals::span;
use crate::output::say;
use crate::session::{Session, with_query};
use crate::wait_gone::{self, Gone, duration};
use crate::writing::Dry;
use clap::Args;
use http::Method;
use serde_json::{Value, json};
use std::time::Duration;

/// How long an eviction that a budget refused waits before it is tried again, as kubectl's does.
const AGAIN: Duration = Duration::from_secs(5);
/// The annotation of pods that a kubelet made of its own files.
const MIRROR: &str = "kubernetes.io/config.mirror";

#[derive(Args)]
pub(crate) struct Drain {
    /// NODE…
    pub(crate) nodes: Vec<String>,
    /// Only nodes with these labels
    #[arg(long, short = 'l', default_value = "", hide_default_value = true)]
    pub(crate) selector: String,
    /// Only pods with these labels
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) pod_selector: String,
    /// How many objects to ask for at once; 0 for all
    #[arg(long, default_value_t = 500)]
    pub(crate) chunk_size: u64,
    /// Also pods that nothing makes anew
    #[arg(long)]
    pub(crate) force: bool,
    /// Leave pods of DaemonSets where they are
    #[arg(long)]
    pub(crate) ignore_daemonsets: bool,
    /// Also pods whose emptyDir volumes are lost
    #[arg(long)]
    pub(crate) delete_emptydir_data: bool,
    /// Delete instead of evicting: budgets are not asked
    #[arg(long)]
    pub(crate) disable_eviction: bool,
    /// Seconds that pods get to end
    #[arg(long, default_value_t = -1, allow_negative_numbers = true)]
    pub(crate) grace_period: i64,
    /// Wait no longer than so many seconds for pods that are being deleted; 0 for as long as it takes
    #[arg(long, default_value_t = 0)]
    pub(crate) skip_wait_for_delete_timeout: i64,
    /// How long to go on, such as 30s; 0s for as long as it takes
    #[arg(long, default_value = "0s", value_parser = span)]
    pub(crate) timeout: String,
    /// Only print what would be done: none, client or server
    #[arg(long, default_value = "none", num_args = 0..=1, default_missing_value = "unchanged", require_equals = true)]
    pub(crate) dry_run: String,
}

pub(crate) async fn run(session: &Session, args: &Drain) -> Result<(), Error> {
    let run = Dry::parse(&args.dry_run)?;
    if api::selector::Labels::parse(&args.pod_selector).is_err() {
        return Err(Error::plain("--pod-selector=<pod_selector> must be a valid label selector"));
    }
    let mut pending: Vec<(String, Vec<String>)> = Vec::new();
    for finding in nodes(session, &args.nodes, &args.selector, "drain").await? {
        let node = finding?;
        schedulable(session, &node, (true, run)).await?;
        match one(session, args, &node, run).await {
            Ok(()) => say(&format!("node/{} drained{}\n", node.name, suffix(run)))?,
            Err(reasons) => {
                eprintln!(
                    "error: unable to drain node {:?} due to error: {}, continuing command...",
                    node.name,
                    aggregate(&reasons)
                );
                pending.push((node.name.clone(), reasons));
            }
        }
    }
    if pending.is_empty() {
        return Ok(());
    }
    eprintln!("There are pending nodes to be drained:");
    pending.iter().for_each(|(name, _)| eprintln!(" {name}"));
    pending.iter().flat_map(|(_, reasons)| reasons).for_each(|reason| eprintln!("{reason}"));
    Err(Error::Said(1))
}

fn suffix(run: Dry) -> &'static str {
    match run {
        Dry::No => "",
        Dry::Client => " (dry run)",
        Dry::Server => " (server dry run)",
    }
}

fn aggregate(reasons: &[String]) -> String {
    match reasons {
        [one] => one.clone(),
        several => format!("[{}]", several.join(", ")),
    }
}

/// What happens to one pod.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Goes,
    /// It goes, which is warned of.
    GoesWarned(&'static str),
    /// It stays, which is warned of where there is a warning.
    Stays(Option<&'static str>),
    /// It keeps the node from being drained.
    Forbids(String),
}

async fn one(session: &Session, args: &Drain, node: &Found, run: Dry) -> Result<(), Vec<String>> {
    let said = |error: Error| vec![error.to_string().trim_start_matches("error: ").to_owned()];
    let field = format!("spec.nodeName={}", node.name);
    let path =
        with_query("/api/v1/pods", &[("labelSelector", &args.pod_selector), ("fieldSelector", &field)]);
    let list = session.list(&path, args.chunk_size).await.map_err(said)?;
    let mut going = Vec::new();
    let mut warned: Vec<(&'static str, Vec<String>)> = Vec::new();
    let mut forbidden: Vec<(String, Vec<String>)> = Vec::new();
    for pod in list["items"].as_array().into_iter().flatten() {
        let fate = fate(session, args, pod).await.map_err(said)?;
        if let Fate::GoesWarned(why) | Fate::Stays(Some(why)) = &fate {
            note(&mut warned, why, pod);
        }
        match fate {
            Fate::Goes | Fate::GoesWarned(_) => going.push(pod.clone()),
            Fate::Stays(_) => {}
            Fate::Forbids(why) => note(&mut forbidden, &why, pod),
        }
    }
    if !forbidden.is_empty() {
        let line = |(why, pods): &(String, Vec<String>)| format!("cannot delete {why}: {}", pods.join(", "));
        return Err(forbidden.iter().map(line).collect());
    }
    if !warned.is_empty() {
        let parts: Vec<String> =
            warned.iter().map(|(why, pods)| format!("{why}: {}", pods.join(", "))).collect();
        eprintln!("Warning: {}", parts.join("; "));
    }
    remove(session, args, &going, run).await
}

fn note<T: PartialEq + ToOwned<Owned = U> + ?Sized, U: std::borrow::Borrow<T>>(
    notes: &mut Vec<(U, Vec<String>)>,
    why: &T,
    pod: &Value,
) {
    let shown = format!("{}/{}", text(pod, "namespace"), text(pod, "name"));
    match notes.iter_mut().find(|(known, _)| known.borrow() == why) {
        Some((_, pods)) => pods.push(shown),
        None => notes.push((why.to_owned(), vec![shown])),
    }
}

fn text<'a>(pod: &'a Value, field: &str) -> &'a str {
    pod["metadata"][field].as_str().unwrap_or_default()
}

fn controller(pod: &Value) -> Option<&Value> {
    pod["metadata"]["ownerReferences"].as_array()?.iter().find(|owner| owner["controller"] == true)
}

async fn fate(session: &Session, args: &Drain, pod: &Value) -> Result<Fate, Error> {
    if args.skip_wait_for_delete_timeout > 0
        && let Some(since) = pod["metadata"]["deletionTimestamp"].as_str()
        && let Ok(since) = since.parse::<jiff::Timestamp>()
        && base::clock::now().as_second() - since.as_second() > args.skip_wait_for_delete_timeout
    {
        return Ok(Fate::Stays(None));
    }
    let Some(owner) = controller(pod).filter(|owner| owner["kind"] == "DaemonSet") else {
        return Ok(of_others(args, pod));
    };
    if ended(pod) {
        return Ok(of_others(args, pod));
    }
    let name = owner["name"].as_str().unwrap_or_default();
    let path = format!("/apis/apps/v1/namespaces/{}/daemonsets/{name}", text(pod, "namespace"));
    match session.get(&path).await {
        Ok(_) if args.ignore_daemonsets => Ok(Fate::Stays(Some("ignoring DaemonSet-managed Pods"))),
        Ok(_) => Ok(Fate::Forbids("DaemonSet-managed Pods (use --ignore-daemonsets to ignore)".to_owned())),
        // Nothing would bring it back or needs it.
        Err(error) if error.is_not_found() && args.force => Ok(of_others(args, pod)),
        Err(error) if error.is_not_found() => {
            Ok(Fate::Forbids(format!("daemonsets.apps {name:?} not found")))
        }
        Err(error) => Err(error),
    }
}

fn ended(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

/// What becomes of a pod that no DaemonSet looks after.
fn of_others(args: &Drain, pod: &Value) -> Fate {
    if !pod["metadata"]["annotations"][MIRROR].is_null() {
        return Fate::Stays(None);
    }
    let mut warned = None;
    let local =
        pod["spec"]["volumes"].as_array().into_iter().flatten().any(|volume| !volume["emptyDir"].is_null());
    if local && !ended(pod) {
        if !args.delete_emptydir_data {
            return Fate::Forbids(
                "Pods with local storage (use --delete-emptydir-data to override)".to_owned(),
            );
        }
        warned = Some("deleting Pods with local storage");
    }
    if controller(pod).is_none() && !ended(pod) {
        if !args.force {
            return Fate::Forbids("Pods that declare no controller (use --force to override)".to_owned());
        }
        warned = Some("deleting Pods that declare no controller");
    }
    // As kubectl does it, only what is said last is warned of; local storage alone says nothing.
    match warned {
        Some(why) if controller(pod).is_none() => Fate::GoesWarned(why),
        _ => Fate::Goes,
    }
}

async fn remove(session: &Session, args: &Drain, pods: &[Value], run: Dry) -> Result<(), Vec<String>> {
    let limit = duration(&args.timeout).map_err(|error| vec![error.to_string()])?;
    let limit = if limit.is_zero() { Duration::from_secs(7 * 24 * 3600) } else { limit };
    let deadline = base::clock::instant() + limit;
    let work = pods.iter().map(|pod| async move {
        match tokio::time::timeout_at(deadline, evict(session, args, pod, run)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err((pod, error.to_string().trim_start_matches("error: ").to_owned())),
            Err(_) => Err((
                pod,
                format!(
                    "error when waiting for pod {:?} in namespace {:?} to terminate: context deadline exceeded",
                    text(pod, "name"),
                    text(pod, "namespace")
                ),
            )),
        }
    });
    let failed: Vec<(&Value, String)> =
        futures_util::future::join_all(work).await.into_iter().filter_map(Result::err).collect();
    if failed.is_empty() {
        return Ok(());
    }
    let reasons: Vec<String> = failed.iter().map(|(_, why)| why.clone()).collect();
    let node = pods[0]["spec"]["nodeName"].as_str().unwrap_or_default();
    eprintln!("There are pending pods in node {node:?} when an error occurred: {}", aggregate(&reasons));
    failed.iter().for_each(|(pod, _)| eprintln!("pod/{}", text(pod, "name")));
    Err(reasons)
}

async fn evict(session: &Session, args: &Drain, pod: &Value, run: Dry) -> Result<(), Error> {
    let (namespace, name) = (text(pod, "namespace"), text(pod, "name"));
    let verb = if args.disable_eviction { "deleting" } else { "evicting" };
    say(&format!("{verb} pod {namespace}/{name}{}\n", suffix(run)))?;
    if run == Dry::Client {
        return Ok(());
    }
    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
    let mut options = json!({});
    if args.grace_period >= 0 {
        options["gracePeriodSeconds"] = json!(args.grace_period);
    }
    if run == Dry::Server {
        options["dryRun"] = json!(["All"]);
    }
    loop {
        let asked = if args.disable_eviction {
            options["apiVersion"] = json!("v1");
            options["kind"] = json!("DeleteOptions");
            session.write(Method::DELETE, &path, &options).await
        } else {
            let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction",
                "metadata": {"name": name, "namespace": namespace}, "deleteOptions": options});
            session.write(Method::POST, &format!("{path}/eviction"), &eviction).await
        };
        match asked {
            Ok(_) if run == Dry::Server => return Ok(()),
            Ok(_) => break,
            Err(error) if error.is_not_found() => break,
            Err(error) if error.code() == Some(429) => {
                eprintln!(
                    "error when evicting pods/{name:?} -n {namespace:?} (will retry after 5s): {}",
                    error.message()
                );
                base::clock::sleep(AGAIN).await;
            }
            Err(error) => {
                return Err(Error::plain(format!(
                    "error when evicting pods/{name:?} -n {namespace:?}: {}",
                    error.message()
                )));
            }
        }
    }
    let gone = Gone {
        resource: session.discovery().await?.find("pods")?.clone(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: text(pod, "uid").to_owned(),
    };
    wait_gone::all(session, &[gone], "0s").await?;
    let done = if args.disable_eviction { "deleted" } else { "evicted" };
    say(&format!("pod/{name} {done}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        drain: Drain,
    }

    fn args(line: &str) -> Drain {
        Line::parse_from(["drain"].into_iter().chain(line.split_whitespace())).drain
    }

    #[test]
    fn pods_that_nothing_brings_back_need_a_word() {
        let bare = json!({"metadata": {"name": "a"}});
        assert!(matches!(of_others(&args("n"), &bare), Fate::Forbids(why) if why.contains("--force")));
        assert_eq!(
            of_others(&args("n --force"), &bare),
            Fate::GoesWarned("deleting Pods that declare no controller")
        );
        let owned = json!({"metadata": {"ownerReferences": [{"kind": "ReplicaSet", "controller": true}]}});
        assert_eq!(of_others(&args("n"), &owned), Fate::Goes);
        let done =
            json!({"metadata": {}, "status": {"phase": "Failed"}, "spec": {"volumes": [{"emptyDir": {}}]}});
        assert_eq!(of_others(&args("n"), &done), Fate::Goes);
        let mirror = json!({"metadata": {"annotations": {MIRROR: "x"}}});
        assert_eq!(of_others(&args("n"), &mirror), Fate::Stays(None));
    }

    #[test]
    fn what_is_in_a_pods_own_folder_is_not_lost_unasked() {
        let pod = json!({"metadata": {"ownerReferences": [{"kind": "ReplicaSet", "controller": true}]},
            "spec": {"volumes": [{"name": "v", "emptyDir": {}}]}});
        assert!(
            matches!(of_others(&args("n"), &pod), Fate::Forbids(why) if why.contains("--delete-emptydir-data"))
        );
        assert_eq!(of_others(&args("n --delete-emptydir-data"), &pod), Fate::Goes);
    }
}
