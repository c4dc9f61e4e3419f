//! `knarr server`: builds the rooms, starts them in order, waits, drains.

use crate::addresses;
use crate::leading::Leading;
use crate::life::{self, Failure, runtime};
use crate::machine::{self, Place, hostname};
use crate::network::Network;
use crate::options::{Options, Part, Role, SHARED};
use crate::secrets::Keeper;
use crate::snapshots::Taker;
use crate::{certificates, datastore, ready, screen};
use base::{Body, Phase, Restart, Supervisor, clock};
use bootstrap::endpoint::{self, Api};
use client::election::NAMESPACE;
use client::{Caches, Client, Transport};
use http::{Request, Response};
use net::Cidr;
use serde_json::json;
use server::{Access, Extension, Server, ServingCertificate, User};
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Where the kubelet listens.
const KUBELET_PORT: u16 = 10_250;

/// Calls the server within the process, as one user.
struct InProcess {
    server: Server,
    user: User,
}

impl Transport for InProcess {
    fn call(
        &self,
        request: Request<Body>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Body>, client::Error>> + Send>> {
        let (server, user) = (self.server.clone(), self.user.clone());
        Box::pin(async move { Ok(server.call(&user, request).await) })
    }
}

fn client_of(server: &Server, name: &str, groups: &[&str]) -> Client {
    Client::new(Arc::new(InProcess { server: server.clone(), user: User::new(name, groups) }))
}

/// Runs a server until it is stopped.
pub(crate) fn main(options: Options) -> ExitCode {
    life::live(options.log_format, options.debug, async move |supervisor| start(&options, supervisor).await)
}

/// Removes knarr's tables, links and routes.
pub(crate) fn teardown() -> ExitCode {
    let removed = runtime().map_err(|error| error.to_string()).and_then(|runtime| {
        runtime
            .block_on(net::teardown())
            .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    });
    match removed {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => screen::failed(&error),
    }
}

/// Starts everything; returns when the cluster is ready.
async fn start(options: &Options, supervisor: &Supervisor) -> Result<(), Failure> {
    let began = clock::instant();
    let network = Network::of(options)?;
    let scheduling = scheduler_config(&options.kube_scheduler_arg)?;
    let kubelet_settings = node::Settings::read(&options.kubelet_arg)?;
    let hostname = hostname();
    let node_name = options.node_name.clone().unwrap_or_else(|| hostname.clone());
    let config = names(options, &network, (&node_name, &hostname));
    let storage = datastore::storage_of(options)?;
    let pki = Arc::new(match &storage {
        server::Storage::Etcd(remote) => datastore::prepare(options, &config, remote).await?,
        server::Storage::File(_) => prepare(options, &config)?,
    });
    let certificates = Certificates::new(&pki)?;
    let keeper = Keeper::open(options, &storage).await?;
    let storage = (storage, keeper.sealing());
    let server = start_server(options, &network, (&pki, &certificates, storage), supervisor).await?;
    let kubeconfig_mode = bootstrap::parse_mode(&options.write_kubeconfig_mode)?;
    write_kubeconfig(options, &pki, &pki.admin()?, kubeconfig_mode)?;
    greet(options, &network, &node_name);
    let admin = client_of(&server, "system:admin", &["system:masters"]);
    let addresses = addresses::follow(options, &network, supervisor);
    make_objects(options, &network, (&admin, config, &pki), supervisor).await?;
    let controllers = client_of(&server, "system:kube-controller-manager", &[]);
    let caches = Caches::new(controllers, supervisor.clone());
    let leading = leading(options, &hostname, (&server, &caches), supervisor);
    start_control(options, &network, (&server, &pki, scheduling), (&caches, &leading));
    bootstrap::flow::keep(&admin, &caches, &leading.controllers);
    bootstrap::join::forget_deleted(&admin, &caches, &leading.controllers);
    let own = vec![node_name.clone(), hostname.clone()];
    admit_machines(options, &network, (&server, &pki, own), &admin);
    serve_metrics(&server, &caches);
    apply_manifests(options, &node_name, &admin, supervisor);
    keeper.serve(&server, supervisor);
    certificates::serve((&server, &pki), (options, &admin), supervisor)?;
    Taker::start(&server, &node_name, options, &admin)?.schedule(options, &leading.controllers)?;
    if !options.disable_controller_manager {
        register(&server, (admin.clone(), caches.clone()), &leading.controllers);
        controllers::start_upgrades(admin.clone(), caches.clone(), &leading.controllers);
    }
    // Machines may be called the same, nodes of one cluster are not.
    let known_as = if options.is_shared() { &node_name } else { &hostname };
    be_known(options, (known_as, addresses.clone()), (&admin, &caches, &leading), supervisor);
    if !options.disable_agent {
        let kubelet = client_of(&server, &format!("system:node:{node_name}"), &["system:nodes"]);
        let tls = node::Tls {
            certificate: Arc::new(certificates.kubelet.clone()),
            clients: pki.client_authorities(),
            api_server: "system:kube-apiserver".to_owned(),
        };
        let (node_name, settings, peers) = (node_name.clone(), kubelet_settings, pki.peer_client()?);
        let place = Place { node_name: node_name.clone(), tls, peers, settings, role: Role::Server };
        machine::start(options, &network, place, (kubelet, caches.clone()), supervisor).await?;
        start_ingress(options, &node_name, (&server, &caches), supervisor)?;
        let marking = (admin.clone(), node_name);
        insist("labels of the server's node", supervisor, move || {
            let (admin, node_name) = marking.clone();
            async move { bootstrap::objects::mark_server(&admin, &node_name).await }
        })
        .await?;
    }
    keep_certificates(options, &pki, (certificates, addresses, server), kubeconfig_mode, supervisor);
    screen::say(&format!("Ready in {:.1} s. Try: knarr kubectl get nodes", began.elapsed().as_secs_f64()));
    ready::notify("READY=1");
    Ok(())
}

/// What the cluster and this machine are called.
fn names(options: &Options, network: &Network, (node_name, hostname): (&str, &str)) -> bootstrap::Config {
    bootstrap::Config {
        data_dir: options.data_dir.clone(),
        node_name: node_name.to_owned(),
        hostname: hostname.to_owned(),
        node_ips: network.node_ips.clone(),
        tls_sans: options.tls_san.clone(),
        service_ip: network.service_ip(),
        dns_ips: network.dns.clone(),
        service_cidrs: network.services.iter().map(Cidr::to_string).collect(),
        corefile: dns::default_corefile(&options.cluster_domain),
        cluster_domain: options.cluster_domain.clone(),
        api_port: options.https_listen_port,
    }
}

/// The authorities, certificates and the token, made where they are missing.
pub(crate) fn prepare(options: &Options, config: &bootstrap::Config) -> Result<bootstrap::Pki, Failure> {
    let pki = bootstrap::Pki::prepare(config)?;
    bootstrap::server_token(&options.data_dir, &pki.server_ca_pem(), options.given_token()?.as_deref())?;
    Ok(pki)
}

/// Lets machines join.
fn admit_machines(
    options: &Options,
    network: &Network,
    (server, pki, own): (&Server, &Arc<bootstrap::Pki>, Vec<String>),
    admin: &Client,
) {
    let texts = |blocks: &[Cidr]| json!(blocks.iter().map(Cidr::to_string).collect::<Vec<_>>());
    let values = [
        texts(&network.cluster),
        texts(&network.services),
        json!(network.dns),
        json!(options.cluster_domain),
        json!(options.network_backend),
        json!(options.direct_routing),
        json!(options.network_external_ip),
        json!(options.vxlan_port),
        json!(options.wireguard_port),
        json!(options.egress_selector_mode),
        json!(options.embedded_registry),
    ];
    let settings: serde_json::Map<_, _> = SHARED.map(str::to_owned).into_iter().zip(values).collect();
    let told = pki.clone();
    let cluster: bootstrap::join::Tell = Arc::new(move || bootstrap::join::Cluster {
        settings: settings.clone(),
        client_authority: told.client_ca_pem(),
        server_authority: told.server_ca_pem(),
        version: screen::VERSION.to_owned(),
    });
    let tickets = server.clone();
    let ticket: bootstrap::join::Ticket = Arc::new(move |node| tickets.node_ticket(node));
    let desk = Arc::new(bootstrap::join::Desk { client: admin.clone(), cluster, ticket, own });
    let (admitting, knowing, authority) = (desk.clone(), desk.clone(), pki.clone());
    let admit: Extension = Arc::new(move |request| Box::pin(admitting.clone().admit(request)));
    server.answer_at(bootstrap::join::PATH, Access::Authorized, admit);
    let know: Extension = Arc::new(move |request| Box::pin(knowing.clone().admit_again(request)));
    server.answer_at(bootstrap::join::AGAIN_PATH, Access::Anybody, know);
    let settings: Extension = Arc::new(move |_| Box::pin(std::future::ready(desk.settings())));
    server.answer_at(bootstrap::join::SETTINGS_PATH, Access::Authorized, settings);
    let authorities: Extension = Arc::new(move |_| {
        Box::pin(std::future::ready(Response::new(base::full_body(authority.server_ca_pem()))))
    });
    server.answer_at(bootstrap::join::AUTHORITIES_PATH, Access::Anybody, authorities);
}

/// Makes the objects that every cluster has.
async fn make_objects(
    options: &Options,
    network: &Network,
    (admin, config, pki): (&Client, bootstrap::Config, &Arc<bootstrap::Pki>),
    supervisor: &Supervisor,
) -> Result<(), bootstrap::Error> {
    let addresses =
        options.advertise_address.map_or_else(|| network.node_ips.clone(), |address| vec![address]);
    let own = (!options.is_shared()).then_some(Api { addresses, port: options.https_listen_port });
    let ingress = !options.is_disabled(Part::Ingress);
    let making = Arc::new((admin.clone(), config, pki.clone(), own));
    insist("the cluster's own objects", supervisor, move || {
        let making = making.clone();
        async move {
            let (admin, config, pki, own) = &*making;
            bootstrap::objects::apply(admin, config, pki).await?;
            if ingress {
                bootstrap::objects::ingress_class(admin, ingress::CLASS, ingress::CONTROLLER).await?;
            }
            endpoint::publish(admin, own.as_slice()).await
        }
    })
    .await
}

/// Does what a cluster needs of its API. What is refused is tried again while the rest comes up: it may be a
/// webhook that refuses, and a pod of this very cluster that would answer for it.
async fn insist<Fut>(
    name: &'static str,
    supervisor: &Supervisor,
    work: impl Fn() -> Fut + Send + 'static,
) -> Result<(), bootstrap::Error>
where
    Fut: Future<Output = Result<(), bootstrap::Error>> + Send + 'static,
{
    match work().await {
        Err(error @ bootstrap::Error::Object { source: client::Error::Api(_), .. }) => {
            tracing::warn!(%error, "{name} are tried again");
            supervisor.run(name, Phase::Work, Restart::OnFailure, move |_| work());
            Ok(())
        }
        other => other,
    }
}

/// Keeps what others find this server by.
fn be_known(
    options: &Options,
    (name, addresses): (&str, watch::Receiver<Vec<IpAddr>>),
    (admin, caches, leading): (&Client, &Caches, &Leading),
    supervisor: &Supervisor,
) {
    let (addresses, port) = match options.advertise_address {
        Some(address) => (watch::channel(vec![address]).1, options.https_listen_port),
        None => (addresses, options.https_listen_port),
    };
    let (known, slices) = ((admin.clone(), caches.clone()), caches.of());
    if options.is_shared() {
        let known_here = (caches.selected(NAMESPACE, ""), &slices);
        endpoint::keep_all(admin, known_here, &leading.controllers);
        let serving = controllers::Serving { addresses, port };
        return controllers::start_identity(name, Some(serving), known, supervisor);
    }
    endpoint::keep_own(admin, (addresses, port), &slices, supervisor);
    if !options.disable_controller_manager {
        controllers::start_identity(name, None, known, supervisor);
    }
}

/// What `--kube-scheduler-arg` says.
fn scheduler_config(arguments: &[String]) -> Result<scheduler::Config, Failure> {
    let mut config = scheduler::Config::default();
    for argument in arguments {
        match argument.split_once('=') {
            Some(("config", file)) => config = scheduler::Config::read(file.as_ref())?,
            _ => return Err(format!("--kube-scheduler-arg {argument:?} has to be config=FILE").into()),
        }
    }
    Ok(config)
}

/// Where knarr itself listens on all addresses of a node.
fn own_ports(options: &Options) -> Vec<u16> {
    let ingress = [options.ingress_http_port.get(), options.ingress_https_port.get()];
    let ingress = ingress.into_iter().filter(|_| !options.is_disabled(Part::Ingress));
    [options.https_listen_port, KUBELET_PORT].into_iter().chain(ingress).collect()
}

/// Decides who runs controllers and scheduler.
fn leading(
    options: &Options,
    hostname: &str,
    (server, caches): (&Server, &Caches),
    supervisor: &Supervisor,
) -> Leading {
    if !options.is_shared() {
        return Leading::alone(supervisor);
    }
    let of = |name, disabled: bool| (!disabled).then(|| client_of(server, name, &[]));
    let controllers = of("system:kube-controller-manager", options.disable_controller_manager);
    let scheduler = of("system:kube-scheduler", options.disable_scheduler);
    Leading::elected(hostname, (controllers, scheduler), caches, supervisor)
}

/// Starts controllers and scheduler, with the caches that they share with the node.
fn start_control(
    options: &Options,
    network: &Network,
    (server, pki, scheduling): (&Server, &Arc<bootstrap::Pki>, scheduler::Config),
    (caches, leading): (&Caches, &Leading),
) {
    let controllers = client_of(server, "system:kube-controller-manager", &[]);
    let supervisor = &leading.controllers;
    if !options.disable_controller_manager {
        let control = controllers::Config {
            cluster_cidrs: network.cluster.iter().map(Cidr::to_string).collect(),
            node_ports: network.node_ports.clone(),
            service_lb: (!options.is_disabled(Part::ServiceLb)).then(|| controllers::LoadBalancers {
                reserved: own_ports(options),
                ranges: options.lb_range.clone(),
            }),
            root_ca_pem: pki.follow_server_ca(),
        };
        let own = server.clone();
        let check: controllers::CheckPolicy = Arc::new(move |policy| {
            let server = own.clone();
            Box::pin(async move { server.check_policy(policy).await })
        });
        let own = pki.clone();
        let sign: controllers::Sign =
            Arc::new(move |signer, request, usages, life_s| own.sign(signer, request, usages, life_s));
        start_account_tokens(server, pki, (controllers.clone(), caches.clone()), supervisor);
        controllers::start_certificates(sign, controllers.clone(), caches.clone(), supervisor);
        controllers::start_policy_status(check, controllers.clone(), caches.clone(), supervisor);
        controllers::start(control, controllers, caches.clone(), supervisor);
        start_charts(options, server, caches, supervisor);
    }
    if !options.disable_scheduler {
        let scheduler = client_of(server, "system:kube-scheduler", &[]);
        scheduler::start(scheduling, scheduler, caches, &leading.scheduler);
    }
}

/// Applies what lies in this server's folder of manifests.
fn apply_manifests(options: &Options, node_name: &str, admin: &Client, supervisor: &Supervisor) {
    let manifests = controllers::Manifests {
        folder: options.data_dir.join("server/manifests"),
        server: node_name.to_owned(),
        prune: options.prune_manifests,
    };
    controllers::start_manifests(manifests, admin.clone(), supervisor);
}

/// Starts to install HelmCharts, unless that is left out.
fn start_charts(options: &Options, server: &Server, caches: &Caches, supervisor: &Supervisor) {
    if options.is_disabled(Part::HelmController) {
        return;
    }
    let config = helm::Config { files: options.data_dir.join("server/static") };
    let client = client_of(server, "system:knarr:helm-controller", &["system:masters"]);
    helm::start(config, client, caches.clone(), supervisor);
}

/// Serves `metrics.k8s.io` from what the nodes tell.
fn serve_metrics(server: &Server, caches: &Caches) {
    let metrics = metrics::Metrics::new(client_of(server, "system:metrics-server", &[]), caches);
    let name = format!("{}.{}", metrics::VERSION, metrics::GROUP);
    server.extend(&name, Arc::new(move |request| Box::pin(metrics.clone().answer(request))));
}

/// Starts to keep the Secrets that hold service accounts' tokens, which only the server can sign.
fn start_account_tokens(
    server: &Server,
    pki: &bootstrap::Pki,
    (client, caches): (Client, Caches),
    supervisor: &Supervisor,
) {
    let (issuing, used) = (server.clone(), server.clone());
    let issue: controllers::IssueToken =
        Arc::new(move |namespace, account, secret| issuing.service_account_token(namespace, account, secret));
    let used: controllers::UsedTokens = Arc::new(move || {
        let server = used.clone();
        Box::pin(async move { server.used_tokens().await })
    });
    controllers::start_account_tokens(pki.follow_server_ca(), (issue, used), client, caches, supervisor);
}

/// Starts to keep the APIServices of the groups that are served.
fn register(server: &Server, (admin, caches): (Client, Caches), supervisor: &Supervisor) {
    let own = server.clone();
    let reach: controllers::Reach = Arc::new(move |name| {
        let server = own.clone();
        Box::pin(async move { server.check_extension(&name).await })
    });
    controllers::start_registration(reach, admin, caches, supervisor);
}

fn greet(options: &Options, network: &Network, node_name: &str) {
    let address = network.node_ips.first().map_or_else(String::new, ToString::to_string);
    screen::say(&format!("knarr {} on node {node_name}", screen::VERSION));
    let api = base::https::host_port(&address, options.https_listen_port);
    screen::say(&format!("  API         https://{api}"));
    screen::say(&format!("  kubeconfig  {}", options.write_kubeconfig.display()));
    screen::say(&format!("  data        {}", options.data_dir.display()));
    let parts = [
        (false, "store, API server"),
        (options.disable_controller_manager, "controllers"),
        (options.disable_scheduler, "scheduler"),
        (options.disable_agent, "node, network, services, DNS"),
        (options.disable_agent || options.is_disabled(Part::Ingress), "ingress"),
    ];
    let starting: Vec<&str> = parts.iter().filter(|(disabled, _)| !disabled).map(|(_, part)| *part).collect();
    screen::say(&format!("  starting    {}", starting.join(", ")));
}

/// Certificates that are shown, and can be renewed while they are.
struct Certificates {
    api: ServingCertificate,
    kubelet: ServingCertificate,
}

impl Certificates {
    fn new(pki: &bootstrap::Pki) -> Result<Self, Failure> {
        let (api, kubelet) = (pki.serving()?, pki.kubelet_serving()?);
        Ok(Self {
            api: ServingCertificate::new(api.chain(), api.key())?,
            kubelet: ServingCertificate::new(kubelet.chain(), kubelet.key())?,
        })
    }
}

fn pool(block: &Cidr) -> server::AddressPool {
    server::AddressPool { network: block.address(), bits: block.prefix() }
}

async fn start_server(
    options: &Options,
    network: &Network,
    (pki, certificates, (storage, sealing)): (
        &bootstrap::Pki,
        &Certificates,
        (server::Storage, Arc<server::Sealing>),
    ),
    supervisor: &Supervisor,
) -> Result<Server, Failure> {
    let issuer = format!("https://kubernetes.default.svc.{}", options.cluster_domain);
    let config = server::Config {
        listen: vec![SocketAddr::new(network.listening(options.bind_address), options.https_listen_port)],
        storage,
        sealing,
        compaction_interval: Duration::from_secs(options.compaction_interval.get()),
        watch_history_bytes: options.watch_history_bytes,
        certificate: certificates.api.clone(),
        client_authorities: pki.client_authorities(),
        service_account_keys: server::ServiceAccountKeys::new(&pki.service_account_keys(), &issuer)?,
        server_token: {
            let data_dir = options.data_dir.clone();
            Arc::new(move || bootstrap::server_credentials(&data_dir))
        },
        egress: options.egress_selector_mode,
        kubelet_client: pki.kubelet_client()?,
        front_proxy: pki.front_proxy(),
        service_addresses: network.services.iter().map(pool).collect(),
        node_ports: network.node_ports.clone(),
        version: screen::VERSION.to_owned(),
    };
    Ok(Server::start(config, supervisor).await?)
}

fn write_kubeconfig(
    options: &Options,
    pki: &bootstrap::Pki,
    user: &bootstrap::Identity,
    mode: u32,
) -> Result<(), bootstrap::Error> {
    let server = format!("https://127.0.0.1:{}", options.https_listen_port);
    let kubeconfig = bootstrap::Kubeconfig { server, authority_pem: &pki.server_ca_pem(), user };
    kubeconfig.write(&options.write_kubeconfig, mode)
}

fn keep_certificates(
    options: &Options,
    pki: &Arc<bootstrap::Pki>,
    (certificates, addresses, server): (Certificates, watch::Receiver<Vec<IpAddr>>, Server),
    mode: u32,
    supervisor: &Supervisor,
) {
    let (options, own) = (options.clone(), pki.clone());
    pki.clone().keep_renewed(addresses, supervisor, move |renewed| {
        server.renew_service_account_keys(&renewed.service_account_keys)?;
        certificates.api.renew(renewed.serving.chain(), renewed.serving.key())?;
        certificates.kubelet.renew(renewed.kubelet_serving.chain(), renewed.kubelet_serving.key())?;
        write_kubeconfig(&options, &own, &renewed.admin, mode).map_err(|error| error.to_string())
    });
}

/// Starts the way in, unless it is left out.
fn start_ingress(
    options: &Options,
    node_name: &str,
    (server, caches): (&Server, &Caches),
    supervisor: &Supervisor,
) -> Result<(), Failure> {
    if options.is_disabled(Part::Ingress) {
        return Ok(());
    }
    let config = ingress::Config {
        node_name: node_name.to_owned(),
        http_port: options.ingress_http_port.get(),
        https_port: options.ingress_https_port.get(),
        access_log: options.ingress_access_log,
        trusted_proxies: options.ingress_trusted_proxies.clone(),
        proxy_protocol: options.ingress_proxy_protocol,
    };
    let client = client_of(server, "system:knarr:ingress", &[]);
    Ok(ingress::start(config, client, caches, supervisor)?)
}

#[cfg(test)]
#[path = "restart_tests.rs"]
mod restart_tests;
