//! `knarr agent`: makes this machine a node of a cluster that runs elsewhere.

use crate::life::{self, Failure};
use crate::machine::{self, Place, hostname};
use crate::network::Network;
use crate::options::{Given, Options, Role};
use crate::{ready, screen};
use base::{Phase, Restart, Supervisor, clock};
use bootstrap::join::{Joined, Seeking};
use client::Caches;
use server::ServingCertificate;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// Between two attempts to reach a server.
const PAUSE: Duration = Duration::from_secs(3);

/// Runs an agent until it is stopped.
pub(crate) fn main(given: Given) -> ExitCode {
    let own = match given.options() {
        Ok(own) => own,
        Err(error) => return screen::failed(&error),
    };
    life::live(own.log_format, own.debug, async move |supervisor| start(given, &own, supervisor).await)
}

async fn start(given: Given, own: &Options, supervisor: &Supervisor) -> Result<(), Failure> {
    let began = clock::instant();
    let settings = node::Settings::read(&own.kubelet_arg)?;
    let node_name = own.node_name.clone().unwrap_or_else(hostname);
    let joined = Arc::new(join(own, &node_name).await?);
    let options = given.shared(&joined.cluster.settings)?;
    let network = Network::of(&options)?;
    greet(own, &network, &joined);
    let serving = joined.serving()?;
    let shown = ServingCertificate::new(serving.chain(), serving.key())?;
    let tls = node::Tls {
        certificate: Arc::new(shown.clone()),
        clients: joined.client_authorities(),
        api_server: "system:kube-apiserver".to_owned(),
    };
    let caches = Caches::new(joined.client.clone(), supervisor.clone());
    bootstrap::join::keep(joined.clone(), caches.of(), supervisor, move |serving| {
        shown.renew(serving.chain(), serving.key())
    });
    let (egress, own) = (options.egress_selector_mode, (&*node_name, &*network.node_ips));
    let allowed = bootstrap::join::reachable(egress, settings.port(), own, &caches);
    bootstrap::join::keep_tunnels(&joined, allowed, supervisor);
    bootstrap::join::follow_servers(&joined, caches.of(), supervisor);
    let bundles = caches.selected("", bootstrap::join::TRUST_BUNDLES);
    bootstrap::join::follow_authorities(&joined, bundles, supervisor);
    follow_addresses(&joined, supervisor);
    let place = Place { node_name, tls, peers: joined.peer_client(), settings, role: Role::Agent };
    machine::start(&options, &network, place, (joined.client.clone(), caches), supervisor).await?;
    screen::say(&format!("Ready in {:.1} s.", began.elapsed().as_secs_f64()));
    ready::notify("READY=1");
    Ok(())
}

/// Joins; waits for a server that does not answer yet.
async fn join(own: &Options, node_name: &str) -> Result<Joined, Failure> {
    let server =
        own.join.as_deref().ok_or("name a server of the cluster with --join https://ADDRESS:6443")?;
    let token = own.given_token()?.map(|text| bootstrap::Token::parse(&text)).transpose()?;
    let seeking = Seeking {
        server,
        token: token.as_ref(),
        data_dir: &own.data_dir,
        node_name,
        version: screen::VERSION,
    };
    let mut said = String::new();
    loop {
        match bootstrap::join::join(&seeking).await {
            Err(error @ bootstrap::Error::Unreached { .. }) => {
                let text = format!("{error}. It is tried again.");
                if said != text {
                    screen::say(&text);
                    said = text;
                }
                clock::sleep(PAUSE).await;
            }
            joined => return Ok(joined?),
        }
    }
}

/// Makes connections anew that begin at addresses which this machine has no longer.
fn follow_addresses(joined: &Arc<Joined>, supervisor: &Supervisor) {
    let servers = joined.servers.clone();
    supervisor.run("ways to the servers", Phase::Work, Restart::OnFailure, move |shutdown| {
        let servers = servers.clone();
        async move {
            let links = net::mesh::Watch::open()?;
            loop {
                let cut = servers.moved();
                if cut > 0 {
                    tracing::info!(connections = cut, "this machine's addresses changed: connects anew");
                }
                tokio::select! {
                    changed = links.changed(&[]) => changed?,
                    () = shutdown.requested() => return Ok::<(), net::Error>(()),
                }
            }
        }
    });
}

fn greet(own: &Options, network: &Network, joined: &Joined) {
    let addresses: Vec<String> = network.node_ips.iter().map(ToString::to_string).collect();
    screen::say(&format!("knarr {} on node {}", screen::VERSION, joined.node_name));
    screen::say(&format!("  server      {}", own.join.as_deref().unwrap_or_default()));
    screen::say(&format!("  addresses   {}", addresses.join(", ")));
    screen::say(&format!("  data        {}", own.data_dir.display()));
    if joined.is_remembered {
        screen::say(&"  The server does not answer: going on with what it told the last time.");
    }
}
