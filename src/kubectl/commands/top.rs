//! `kubectl top`: what nodes and pods use, by the metrics API.

use crate::error::Error;
use crate::events::age;
use crate::output::{none_found, say, tabs, word};
use crate::session::{Session, with_query};
use api::quantity::{self, Amount};
use clap::{Args, Subcommand};
use serde_json::Value;

/// What is measured.
#[derive(Subcommand)]
pub(crate) enum Top {
    /// What nodes use
    #[command(aliases = ["nodes", "no"])]
    Node(TopNode),
    /// What pods use
    #[command(aliases = ["pods", "po"])]
    Pod(TopPod),
}

/// What nodes and pods have in common.
#[derive(Args)]
struct Common {
    /// Its name
    name: Option<String>,
    /// Only with these labels
    #[arg(long, short = 'l', default_value = "", hide_default_value = true)]
    selector: String,
    /// The largest first: cpu or memory
    #[arg(long, default_value = "", hide_default_value = true)]
    sort_by: String,
    /// Leave out the header
    #[arg(long)]
    no_headers: bool,
    /// Show swap, too
    #[arg(long)]
    show_swap: bool,
    /// Ask for answers in protobuf: the server says the same in JSON, which is read here
    #[arg(long = "use-protocol-buffers", default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    _use_protocol_buffers: bool,
}

#[derive(Args)]
pub(crate) struct TopNode {
    #[command(flatten)]
    common: Common,
    /// Compare with all that nodes have, not with what pods may have
    #[arg(long)]
    show_capacity: bool,
}

#[derive(Args)]
pub(crate) struct TopPod {
    #[command(flatten)]
    common: Common,
    /// In all namespaces
    #[arg(long, short = 'A')]
    all_namespaces: bool,
    /// Each container
    #[arg(long)]
    containers: bool,
    /// Only pods with these fields
    #[arg(long, default_value = "", hide_default_value = true)]
    field_selector: String,
    /// The sum of all
    #[arg(long)]
    sum: bool,
}

const METRICS: &str = "/apis/metrics.k8s.io/v1beta1";
/// Pods that are older have been measured.
const NEW: jiff::SignedDuration = jiff::SignedDuration::from_mins(2);

pub(crate) async fn run(session: &Session, command: &Top) -> Result<(), Error> {
    let common = match command {
        Top::Node(args) => &args.common,
        Top::Pod(args) => &args.common,
    };
    if !["", "cpu", "memory"].contains(&common.sort_by.as_str()) {
        return Err(Error::plain("--sort-by accepts only cpu or memory"));
    }
    if common.name.is_some() && !common.selector.is_empty() {
        return Err(Error::plain("only one of NAME or selector can be provided"));
    }
    if !session.discovery().await?.0.iter().any(|resource| resource.group == "metrics.k8s.io") {
        return Err(Error::plain("Metrics API not available"));
    }
    match command {
        Top::Node(args) => nodes(session, args).await,
        Top::Pod(args) => pods(session, args).await,
    }
}

/// An object, or those of a list.
async fn read(
    session: &Session,
    place: &str,
    name: Option<&str>,
    chosen: &[(&str, &str)],
) -> Result<Vec<Value>, Error> {
    match name {
        Some(name) => Ok(vec![session.get(&format!("{place}/{name}")).await?]),
        None => {
            let mut list = session.get(&with_query(place, chosen)).await?;
            Ok(match list["items"].take() {
                Value::Array(items) => items,
                _ => Vec::new(),
            })
        }
    }
}

/// CPU in thousandths, memory and swap in bytes.
#[derive(Clone, Copy, Default)]
struct Used {
    cpu: i64,
    memory: i64,
    swap: i64,
}

impl Used {
    fn of(usage: &Value) -> Self {
        let amount = |name: &str| quantity::parse(word(&usage[name])).unwrap_or(Amount::units(0));
        Self {
            cpu: amount("cpu").to_milli(),
            memory: amount("memory").to_units(),
            swap: amount("swap").to_units(),
        }
    }

    fn plus(self, other: Self) -> Self {
        Self { cpu: self.cpu + other.cpu, memory: self.memory + other.memory, swap: self.swap + other.swap }
    }

    /// By which the largest comes first.
    fn key(self, by: &str) -> std::cmp::Reverse<i64> {
        std::cmp::Reverse(match by {
            "cpu" => self.cpu,
            "memory" => self.memory,
            _ => 0,
        })
    }

    fn shown(self, swap: bool) -> Vec<String> {
        let mut cells = vec![format!("{}m", self.cpu), format!("{}Mi", self.memory >> 20)];
        cells.extend(swap.then(|| format!("{}Mi", self.swap >> 20)));
        cells
    }
}

/// Each cell ends with a tab, the last one too.
fn print(rows: &[Vec<String>]) -> Result<(), Error> {
    let line = |row: &Vec<String>| row.iter().map(|cell| format!("{cell}\t")).collect::<String>() + "\n";
    say(&tabs::align(&rows.iter().map(line).collect::<String>(), 6, 3))
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).into()
}

async fn nodes(session: &Session, args: &TopNode) -> Result<(), Error> {
    let swap = args.common.show_swap;
    let (name, labels) = (args.common.name.as_deref(), [("labelSelector", args.common.selector.as_str())]);
    let measured = read(session, &format!("{METRICS}/nodes"), name, &labels).await?;
    if measured.is_empty() {
        return Err(Error::plain("metrics not available yet"));
    }
    let nodes = read(session, "/api/v1/nodes", name, &labels).await?;
    let mut measured: Vec<(&str, Used)> =
        measured.iter().map(|node| (word(&node["metadata"]["name"]), Used::of(&node["usage"]))).collect();
    measured.sort_by_key(|(name, used)| (used.key(&args.common.sort_by), *name));
    let mut rows = Vec::new();
    if !args.common.no_headers {
        rows.push(row(["NAME", "CPU(cores)", "CPU(%)", "MEMORY(bytes)", "MEMORY(%)"]));
        if swap {
            rows[0].extend(row(["SWAP(bytes)", "SWAP(%)"]));
        }
    }
    for (name, used) in &measured {
        let node = nodes.iter().find(|node| node["metadata"]["name"] == *name).unwrap_or(&Value::Null);
        let of = if args.show_capacity { "capacity" } else { "allocatable" };
        let has = Used::of(&node["status"][of]);
        let has_swap = node["status"]["nodeInfo"]["swap"]["capacity"].as_i64();
        let mut cells = vec![(*name).to_owned()];
        let shares = [share(used.cpu, has.cpu), share(used.memory, has.memory)];
        cells.extend(used.shown(false).into_iter().zip(shares).flat_map(|(used, share)| [used, share]));
        if swap {
            cells.extend(match has_swap {
                Some(has) => [format!("{}Mi", used.swap >> 20), part(used.swap, has)],
                None => ["<unknown>", "<unknown>"].map(str::to_owned),
            });
        }
        rows.push(cells);
    }
    let unknown = nodes.iter().map(|node| word(&node["metadata"]["name"]));
    let unknown = unknown.filter(|name| measured.iter().all(|(known, _)| known != name));
    let columns = if swap { 6 } else { 4 };
    rows.extend(unknown.map(|name| [row([name]), vec!["<unknown>".to_owned(); columns]].concat()));
    print(&rows)
}

fn share(used: i64, has: i64) -> String {
    if has == 0 { "<unknown>".to_owned() } else { part(used, has) }
}

/// Of nothing, nothing is used.
fn part(used: i64, has: i64) -> String {
    format!("{}%", i128::from(used) * 100 / i128::from(has.max(1)))
}

/// What a pod uses, and each of its containers.
struct Pod<'a> {
    namespace: &'a str,
    name: &'a str,
    used: Used,
    containers: Vec<(&'a str, Used)>,
}

impl<'a> Pod<'a> {
    fn of(pod: &'a Value) -> Self {
        let containers = pod["containers"].as_array().into_iter().flatten();
        let containers: Vec<(&str, Used)> =
            containers.map(|one| (word(&one["name"]), Used::of(&one["usage"]))).collect();
        let used = containers.iter().fold(Used::default(), |sum, (_, used)| sum.plus(*used));
        let metadata = &pod["metadata"];
        Self { namespace: word(&metadata["namespace"]), name: word(&metadata["name"]), used, containers }
    }
}

async fn pods(session: &Session, args: &TopPod) -> Result<(), Error> {
    let name = args.common.name.as_deref();
    let namespace =
        if args.all_namespaces { String::new() } else { format!("/namespaces/{}", session.namespace) };
    let chosen =
        [("labelSelector", args.common.selector.as_str()), ("fieldSelector", args.field_selector.as_str())];
    let measured = read(session, &format!("{METRICS}{namespace}/pods"), name, &chosen).await?;
    if measured.is_empty() {
        let pods = read(session, &format!("/api/v1{namespace}/pods"), None, &chosen).await?;
        return unmeasured(session, args, &pods);
    }
    let mut pods: Vec<Pod> = measured.iter().map(Pod::of).collect();
    pods.sort_by_key(|pod| (pod.used.key(&args.common.sort_by), pod.namespace, pod.name));
    let (all, containers) = (args.all_namespaces, args.containers);
    let swap = args.common.show_swap;
    let cells = |namespace: &str, pod: &str, name: &str, used: Vec<String>| {
        let shown = [(all, namespace), (containers, pod), (true, name)];
        let mut cells: Vec<String> =
            shown.into_iter().filter(|(is, _)| *is).map(|(_, cell)| cell.to_owned()).collect();
        cells.extend(used);
        cells
    };
    let mut rows = Vec::new();
    if !args.common.no_headers {
        let names = ["CPU(cores)", "MEMORY(bytes)", "SWAP(bytes)"].map(str::to_owned);
        rows.push(cells("NAMESPACE", "POD", "NAME", names.into_iter().take(2 + usize::from(swap)).collect()));
    }
    for pod in &mut pods {
        if containers {
            pod.containers.sort_by_key(|(name, used)| (used.key(&args.common.sort_by), *name));
            let each = pod.containers.iter();
            rows.extend(each.map(|(name, used)| cells(pod.namespace, pod.name, name, used.shown(swap))));
        } else {
            rows.push(cells(pod.namespace, "", pod.name, pod.used.shown(swap)));
        }
    }
    if args.sum {
        let sum = pods.iter().fold(Used::default(), |sum, pod| sum.plus(pod.used));
        let line = vec!["________".to_owned(); 2];
        // With swap the line stands below the last two columns, the sums a column further right.
        let before = if swap { vec![String::new()] } else { Vec::new() };
        rows.push(cells("", "", "", [before.clone(), line].concat()));
        rows.push(cells("", "", "", [before, sum.shown(swap)].concat()));
    }
    print(&rows)
}

/// Says why nothing was measured.
fn unmeasured(session: &Session, args: &TopPod, pods: &[Value]) -> Result<(), Error> {
    let Some(pod) = pods.first() else {
        none_found((!args.all_namespaces).then_some(session.namespace.as_str()));
        return Ok(());
    };
    let created = pod["metadata"]["creationTimestamp"].as_str();
    let created = created.and_then(|time| time.parse::<jiff::Timestamp>().ok());
    let is_old = created.is_some_and(|time| base::clock::now().duration_since(time) > NEW);
    Err(Error::plain(if is_old {
        format!(
            "Metrics not available for pod {}/{}, age: {}",
            word(&pod["metadata"]["namespace"]),
            word(&pod["metadata"]["name"]),
            age(&pod["metadata"]["creationTimestamp"])
        )
    } else {
        "metrics not available yet".to_owned()
    }))
}
