//! `knarr bench hollow`: nodes whose kubelets are real, and what they say they run is not: load for a control
//! plane.

use crate::life::{Failure, runtime, stopped};
use crate::machine::{labels, taint};
use crate::screen;
use api::core::{Node, Service, Taint};
use api::{Object, Quantity};
use base::log::Format;
use base::{Body, Ready, Supervisor, clock};
use bootstrap::Token;
use bootstrap::join::{Joined, Seeking};
use clap::value_parser;
use client::https::Https;
use client::{Caches, Client, ListSelector, Transport};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use http::{HeaderValue, Request, Response};
use net::Cidr;
use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Says of a Node that nothing is behind it.
const LABEL: &str = "knarr.io/hollow";
/// More nodes than Kubernetes is made for.
const NODES: i64 = 10_000;
/// Nodes on one connection: each has two watches on it all the time, and servers take 1,000 streams.
const ON_ONE_CONNECTION: u32 = 200;
/// Between two nodes' starts: their leases are renewed every ten seconds, and not all at once.
const BETWEEN: Duration = Duration::from_millis(10);
/// How many agents join at once: all of a rack that is switched on.
const JOINING: usize = 1_000;
/// Between attempts to join a server that does not answer.
const PAUSE: Duration = Duration::from_secs(1);
/// The addresses of the nodes: the block that RFC 2544 sets apart for benchmarks.
const ADDRESSES: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
/// The addresses of the pods of nodes that get no block of the cluster's: 32,768 blocks of 128 in the block
/// that RFC 6598 sets apart for carriers.
const SPARE: (Ipv4Addr, u32, u8) = (Ipv4Addr::new(100, 64, 0, 0), 128, 25);
/// The port of the kubelets, which do not listen: nobody else does there either.
const PORT: u16 = 1;

/// The words after `knarr bench hollow`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How many nodes to simulate
    #[arg(long, value_parser = value_parser!(u32).range(1..=NODES))]
    nodes: u32,
    /// The kubeconfig of an administrator [default: as kubectl finds it]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// What the names of the nodes begin with
    #[arg(long, value_name = "NAME", default_value = "hollow-node", value_parser = prefix)]
    name_prefix: String,
    /// Processors that each node has
    #[arg(long, default_value = "32", value_parser = quantity)]
    cpu: Quantity,
    /// Memory that each node has
    #[arg(long, default_value = "256Gi", value_parser = quantity)]
    memory: Quantity,
    /// How many pods each node takes
    #[arg(long, value_name = "NUMBER", default_value_t = 110, value_parser = value_parser!(u32).range(1..))]
    pods_per_node: u32,
    /// Labels the nodes register with, besides knarr.io/hollow=true
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',')]
    node_label: Vec<String>,
    /// Taints the nodes register with
    #[arg(long, value_name = "KEY=VALUE:EFFECT", value_delimiter = ',')]
    node_taint: Vec<String>,
    /// Join each node as an agent of its own, with connection, tunnel, certificates and watches of its own; their
    /// identities are kept in this folder
    #[arg(long, value_name = "DIR", requires_all = ["join", "token_file"])]
    agents: Option<PathBuf>,
    /// The server that agents join
    #[arg(long, value_name = "URL", requires = "agents")]
    join: Option<String>,
    /// A file with the token that they show
    #[arg(long, value_name = "FILE", requires = "agents")]
    token_file: Option<PathBuf>,
    /// Leave the Node objects when it is stopped
    #[arg(long)]
    keep_nodes: bool,
    /// Log what the nodes decide, not only what fails for good
    #[arg(long)]
    debug: bool,
}

fn quantity(text: &str) -> Result<Quantity, String> {
    let parsed = api::quantity::parse(text);
    parsed.map(|_| Quantity(text.to_owned())).map_err(|_| "it is no quantity such as 4 or 16Gi".to_owned())
}

fn prefix(text: &str) -> Result<String, String> {
    let wrong = api::validate::dns_subdomain(&format!("{text}-0000"));
    if wrong.is_empty() { Ok(text.to_owned()) } else { Err(wrong.join("; ")) }
}

/// The server, as the administrator. Says once that it is lost, and once that it is back.
struct Link {
    https: Https,
    is_lost: Arc<AtomicBool>,
}

impl Transport for Link {
    fn call(&self, request: Request<Body>) -> BoxFuture<'static, Result<Response<Body>, client::Error>> {
        let (asked, is_lost) = (self.https.call(request), self.is_lost.clone());
        async move {
            let answer = asked.await;
            match &answer {
                Err(error) if !is_lost.swap(true, Ordering::Relaxed) => {
                    screen::say(&format!("{error}. The nodes go on when it is back."));
                }
                Ok(_) if is_lost.swap(false, Ordering::Relaxed) => screen::say(&"The API server is back."),
                _ => {}
            }
            answer
        }
        .boxed()
    }
}

/// The same, as one of the nodes: what a node may not do, a hollow one may not either.
struct AsNode {
    link: Arc<Link>,
    user: HeaderValue,
}

impl Transport for AsNode {
    fn call(&self, mut request: Request<Body>) -> BoxFuture<'static, Result<Response<Body>, client::Error>> {
        let headers = request.headers_mut();
        headers.insert("impersonate-user", self.user.clone());
        headers.insert("impersonate-group", HeaderValue::from_static("system:nodes"));
        self.link.call(request)
    }
}

/// Simulates nodes until it is stopped.
pub(crate) fn main(arguments: Arguments) -> ExitCode {
    use tracing::level_filters::LevelFilter;
    let level = if arguments.debug { LevelFilter::DEBUG } else { LevelFilter::ERROR };
    base::log::start(Format::Text, level);
    let ended = match runtime() {
        Ok(runtime) => runtime.block_on(run(&arguments)),
        Err(error) => Err(format!("cannot start threads: {error}").into()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => screen::failed(&error),
    }
}

async fn run(arguments: &Arguments) -> Result<(), Failure> {
    let supervisor = Supervisor::new();
    let fleet = Fleet::new(arguments, &supervisor)?;
    fleet.check_names().await?;
    let began = clock::instant();
    let running = async {
        let handles = fleet.start(&supervisor).await?;
        for node in &handles {
            node.ready().await;
        }
        let took = began.elapsed().as_secs_f64();
        screen::say(&format!("{} hollow nodes are Ready after {took:.1} s.", handles.len()));
        std::future::pending::<Result<(), Failure>>().await
    };
    tokio::select! {
        failed = running => failed,
        signal = stopped() => signal,
    }?;
    supervisor.drain().await;
    if !arguments.keep_nodes {
        screen::say(&"Stopping; the nodes are removed.");
        fleet.remove().await?;
    }
    Ok(())
}

/// All nodes of this process.
struct Fleet<'a> {
    arguments: &'a Arguments,
    labels: BTreeMap<String, String>,
    taints: Vec<Taint>,
    links: Vec<Arc<Link>>,
    admin: Client,
    /// What many nodes look at is held once.
    caches: Caches,
}

impl<'a> Fleet<'a> {
    fn new(arguments: &'a Arguments, supervisor: &Supervisor) -> Result<Self, Failure> {
        let target = kubectl::target(arguments.kubeconfig.clone())?;
        let is_lost = Arc::new(AtomicBool::new(false));
        let link = || Arc::new(Link { https: Https::new(target.clone()), is_lost: is_lost.clone() });
        let links = (0..arguments.nodes.div_ceil(ON_ONE_CONNECTION)).map(|_| link()).collect();
        let admin = Client::new(link());
        let mut labels = labels(&arguments.node_label)?;
        labels.insert(LABEL.to_owned(), "true".to_owned());
        let taints = arguments.node_taint.iter().map(|text| taint(text)).collect::<Result<_, _>>()?;
        let caches = Caches::new(admin.clone(), supervisor.clone());
        Ok(Self { arguments, labels, taints, links, admin, caches })
    }

    fn name(&self, number: u32) -> String {
        format!("{}-{number:04}", self.arguments.name_prefix)
    }

    fn names(&self) -> impl Iterator<Item = String> {
        (0..self.arguments.nodes).map(|number| self.name(number))
    }

    /// A client that is one of the nodes.
    fn client(&self, number: u32) -> Result<Client, Failure> {
        let link = self.links[(number / ON_ONE_CONNECTION) as usize].clone();
        let user = HeaderValue::try_from(format!("system:node:{}", self.name(number)))?;
        Ok(Client::new(Arc::new(AsNode { link, user })))
    }

    /// Refuses to take over nodes that are real. Those of an earlier run are gone on with. Asked as a node: who
    /// may not do that learns it now.
    async fn check_names(&self) -> Result<(), Failure> {
        let own: HashSet<String> = self.names().collect();
        let nodes: Vec<Node> = self.client(0)?.list("", &ListSelector::default()).await?;
        let is_hollow = |node: &Node| node.labels().contains_key(LABEL);
        match nodes.iter().find(|node| own.contains(node.name()) && !is_hollow(node)) {
            Some(node) => Err(format!(
                "node {} is there and is not hollow: name others with --name-prefix",
                node.name()
            )
            .into()),
            None => Ok(()),
        }
    }

    /// Joins the cluster as each node, many at once, and starts what an agent has.
    async fn join(&self, folder: &Path, supervisor: &Supervisor) -> Result<Vec<Ready>, Failure> {
        let file = self.arguments.token_file.as_deref().unwrap_or(Path::new(""));
        let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        let token = Token::parse(&text)?;
        let began = clock::instant();
        let joining = (0..self.arguments.nodes).map(|number| self.join_one(number, folder, &token));
        let joined: Vec<Joined> = stream::iter(joining).buffered(JOINING).try_collect().await?;
        screen::say(&format!(
            "{} agents have joined after {:.1} s.",
            joined.len(),
            began.elapsed().as_secs_f64()
        ));
        let mut handles = Vec::new();
        for (number, joined) in (0..).zip(joined) {
            let joined = Arc::new(joined);
            let caches = Caches::new(joined.client.clone(), supervisor.clone());
            bootstrap::join::keep(joined.clone(), caches.of(), supervisor, |_| Ok(()));
            bootstrap::join::keep_tunnels(&joined, bootstrap::join::kubelet_alone(PORT), supervisor);
            bootstrap::join::follow_servers(&joined, caches.of(), supervisor);
            let bundles = caches.selected("", bootstrap::join::TRUST_BUNDLES);
            bootstrap::join::follow_authorities(&joined, bundles, supervisor);
            // What the proxy of an agent looks at.
            drop(caches.of::<Service>());
            let (config, size) = self.config(number)?;
            handles.push(node::start_hollow(config, &size, joined.client.clone(), caches, supervisor));
        }
        Ok(handles)
    }

    async fn join_one(&self, number: u32, folder: &Path, token: &Token) -> Result<Joined, Failure> {
        let name = self.name(number);
        let seeking = Seeking {
            server: self.arguments.join.as_deref().unwrap_or_default(),
            token: Some(token),
            data_dir: &folder.join(&name),
            node_name: &name,
            version: screen::VERSION,
        };
        loop {
            match bootstrap::join::join(&seeking).await {
                Err(bootstrap::Error::Unreached { .. }) => clock::sleep(PAUSE).await,
                joined => return Ok(joined?),
            }
        }
    }

    async fn start(&self, supervisor: &Supervisor) -> Result<Vec<Ready>, Failure> {
        if let Some(folder) = &self.arguments.agents {
            return self.join(folder, supervisor).await;
        }
        let mut handles = Vec::new();
        for number in 0..self.arguments.nodes {
            handles.push(self.start_one(number, supervisor)?);
            clock::sleep(BETWEEN).await;
        }
        Ok(handles)
    }

    fn start_one(&self, number: u32, supervisor: &Supervisor) -> Result<Ready, Failure> {
        let (config, size) = self.config(number)?;
        Ok(node::start_hollow(config, &size, self.client(number)?, self.caches.clone(), supervisor))
    }

    fn config(&self, number: u32) -> Result<(node::Config, node::Size), Failure> {
        let mut config = node::Config::new(self.name(number), "/nonexistent");
        config.kubelet_dir = "/nonexistent/kubelet".into();
        config.node_ips = vec![Ipv4Addr::from(u32::from(ADDRESSES) + 1 + number).into()];
        config.labels.clone_from(&self.labels);
        config.taints.clone_from(&self.taints);
        config.max_pods = self.arguments.pods_per_node;
        config.bind.set_port(PORT);
        screen::VERSION.clone_into(&mut config.version);
        let (first, step, prefix) = SPARE;
        let spare = IpAddr::V4(Ipv4Addr::from(u32::from(first) + number * step));
        let spare = Cidr::new(spare, prefix).ok_or("no addresses are left for pods")?;
        let (cpu, memory) = (self.arguments.cpu.clone(), self.arguments.memory.clone());
        Ok((config, node::Size { cpu, memory, spare }))
    }

    /// Removes the nodes, also those that did not get as far as to be made.
    async fn remove(&self) -> Result<(), Failure> {
        for name in self.names() {
            match self.admin.delete::<Node>("", &name, &Default::default()).await {
                Err(error) if !error.is_not_found() => return Err(format!("node {name}: {error}").into()),
                _ => {}
            }
        }
        Ok(())
    }
}
