//! `kubectl cluster-info`: where the cluster's own services are, and all that helps to find what is wrong with one.

use crate::error::Error;
use crate::output::{self, say, word};
use crate::pods;
use crate::session::{Call, JSON, Session, with_query};
use crate::writing::Printing;
use clap::{Args, Subcommand};
use http::Method;
use serde_json::Value;
use std::path::PathBuf;

/// Alone it says where things are.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct ClusterInfo {
    #[command(subcommand)]
    command: Option<Command>,
    /// Nothing more is taken
    #[arg(hide = true)]
    words: Vec<String>,
}

#[derive(Subcommand)]
enum Command {
    /// Print objects, events and logs of the cluster's own parts
    Dump(Dump),
}

#[derive(Args)]
struct Dump {
    /// Of all namespaces
    #[arg(long, short = 'A')]
    all_namespaces: bool,
    /// Of these namespaces; kube-system and the one in use without it
    #[arg(long, value_delimiter = ',')]
    namespaces: Vec<String>,
    /// A folder for the files; standard output without it, or where it is -
    #[arg(long, default_value = "", hide_default_value = true)]
    output_directory: String,
    /// How long to wait for pods of which a log is asked for, such as 20s
    #[arg(long, value_name = "TIME", default_value = "20s", allow_hyphen_values = true)]
    pod_running_timeout: String,
    #[command(flatten)]
    printing: Printing,
}

/// What is dumped of each namespace, in this order: the file, the path.
const OF_NAMESPACES: [(&str, &str, &str); 7] = [
    ("events", "/api/v1", "events"),
    ("replication-controllers", "/api/v1", "replicationcontrollers"),
    ("services", "/api/v1", "services"),
    ("daemonsets", "/apis/apps/v1", "daemonsets"),
    ("deployments", "/apis/apps/v1", "deployments"),
    ("replicasets", "/apis/apps/v1", "replicasets"),
    ("pods", "/api/v1", "pods"),
];

pub(crate) async fn run(session: &Session, args: &ClusterInfo) -> Result<(), Error> {
    match &args.command {
        None => places(session).await,
        Some(Command::Dump(args)) => dump(session, args).await,
    }
}

async fn places(session: &Session) -> Result<(), Error> {
    let server = session.target().server.to_string().trim_end_matches('/').to_owned();
    say(&format!("Kubernetes control plane is running at {server}\n"))?;
    let label = [("labelSelector", "kubernetes.io/cluster-service=true")];
    let services = session.get(&with_query("/api/v1/namespaces/kube-system/services", &label)).await?;
    for service in services["items"].as_array().into_iter().flatten() {
        let name = word(&service["metadata"]["name"]);
        let shown = word(&service["metadata"]["labels"]["kubernetes.io/name"]);
        let shown = if shown.is_empty() { name } else { shown };
        say(&format!("{shown} is running at {}\n", place(&server, name, service)))?;
    }
    say("\nTo further debug and diagnose cluster problems, use 'kubectl cluster-info dump'.\n")
}

/// At its load balancer, or through the server.
fn place(server: &str, name: &str, service: &Value) -> String {
    let ports = service["spec"]["ports"].as_array().map_or(&[][..], Vec::as_slice);
    let ingress = &service["status"]["loadBalancer"]["ingress"][0];
    let outside = [&ingress["ip"], &ingress["hostname"]].into_iter().find_map(Value::as_str);
    if let Some(outside) = outside {
        let urls = ports.iter().map(|port| format!("http://{outside}:{}", port["port"]));
        return urls.collect::<Vec<_>>().join(" ");
    }
    let scheme =
        if ports.iter().any(|port| port["name"] == "https" || port["port"] == 443) { "https:" } else { "" };
    let port = ports.first().map(|port| word(&port["name"])).filter(|name| !name.is_empty());
    let port = port.map(|name| format!(":{name}")).unwrap_or_default();
    format!("{server}/api/v1/namespaces/kube-system/services/{scheme}{name}{port}/proxy")
}

/// Where a dump goes.
struct Sink<'a> {
    folder: Option<PathBuf>,
    printing: &'a Printing,
}

impl Sink<'_> {
    /// Writes to a file, or all after one another to standard output.
    fn write(&self, file: &str, text: &[u8]) -> Result<(), Error> {
        let Some(folder) = &self.folder else { return output::write(text) };
        let path = folder.join(file);
        let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        made.and_then(|()| std::fs::write(&path, text))
            .map_err(|error| Error::plain(format!("{}: {error}", path.display())))
    }

    fn object(&self, file: &str, object: &mut Value) -> Result<(), Error> {
        if !self.printing.show_managed_fields {
            output::drop_managed_fields(object);
        }
        let format = self.printing.output.as_deref().unwrap_or("json");
        let (ending, text) = match format {
            "json" => (".json", output::json(object) + "\n"),
            "yaml" => (".yaml", api::yaml::render(object)),
            "kyaml" => (".yaml", output::kyaml(object)),
            _ => return self.printing.open()?.print(object, String::new),
        };
        self.write(&format!("{file}{ending}"), text.as_bytes())
    }
}

async fn dump(session: &Session, args: &Dump) -> Result<(), Error> {
    let name = "pod-running-timeout";
    if pods::duration(name, &args.pod_running_timeout, "cluster-info dump")?.is_zero() {
        return Err(Error::plain("--pod-running-timeout must be higher than zero"));
    }
    let folder = Some(&args.output_directory).filter(|name| !["", "-"].contains(&name.as_str()));
    let sink = Sink { folder: folder.map(PathBuf::from), printing: &args.printing };
    sink.object("nodes", &mut session.get("/api/v1/nodes").await?)?;
    for namespace in namespaces(session, args).await? {
        let mut pods = Value::Null;
        for (file, root, plural) in OF_NAMESPACES {
            let mut list = session.get(&format!("{root}/namespaces/{namespace}/{plural}")).await?;
            sink.object(&format!("{namespace}/{file}"), &mut list)?;
            pods = list;
        }
        for pod in pods["items"].as_array().into_iter().flatten() {
            logs(session, &sink, &namespace, pod).await?;
        }
    }
    match folder {
        Some(folder) => say(&format!("Cluster info dumped to {folder}\n")),
        None => Ok(()),
    }
}

async fn namespaces(session: &Session, args: &Dump) -> Result<Vec<String>, Error> {
    if args.all_namespaces {
        let list = session.get("/api/v1/namespaces").await?;
        let items = list["items"].as_array().into_iter().flatten();
        return Ok(items.map(|namespace| word(&namespace["metadata"]["name"]).to_owned()).collect());
    }
    let usual = || {
        let mut both = vec!["kube-system".to_owned(), session.namespace.clone()];
        both.dedup();
        both
    };
    Ok(if args.namespaces.is_empty() { usual() } else { args.namespaces.clone() })
}

async fn logs(session: &Session, sink: &Sink<'_>, namespace: &str, pod: &Value) -> Result<(), Error> {
    let name = word(&pod["metadata"]["name"]);
    let mut text = Vec::new();
    for container in pods::containers(pod, &["containers"]) {
        let container = word(&container["name"]);
        let title = format!("logs for container {container} of pod {namespace}/{name}");
        text.extend(format!("==== START {title} ====\n").bytes());
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/log");
        let path = with_query(&path, &[("container", container)]);
        let call = Call { method: Method::GET, path: &path, content_type: JSON, accept: "*/*" };
        match session.bytes(call, None).await {
            Ok(log) => text.extend(log),
            Err(error) => text.extend(format!("Request log error: {}\n", error.message()).bytes()),
        }
        text.extend(format!("==== END {title} ====\n").bytes());
    }
    sink.write(&format!("{namespace}/{name}/logs.txt"), &text)
}
