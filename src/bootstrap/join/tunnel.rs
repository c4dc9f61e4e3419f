//! The tunnel of a node to its server: its kubelet is reached through it, so that nothing has to reach the node.

use super::machine::Joined;
use base::https::Connector;
use base::tunnel::{self, Allowed};
use base::{Phase, Restart, Supervisor};
use rustls::ClientConfig;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// Keeps a tunnel to the server, through which this machine's kubelet alone is reached.
pub fn keep_tunnel(joined: &Arc<Joined>, kubelet_port: u16, supervisor: &Supervisor) {
    // Upgrades are of HTTP/1.1.
    let mut tls = ClientConfig::clone(&joined.tls);
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let connector = Arc::new(Connector { tls: Some(Arc::new(tls)), ..Connector::default() });
    let kubelet = SocketAddr::from((Ipv4Addr::LOCALHOST, kubelet_port));
    let name = format!("kubelet:{kubelet_port}");
    let allowed: Allowed = Arc::new(move |asked| (asked == name).then_some(kubelet));
    let (joined, own) = (joined.clone(), supervisor.clone());
    supervisor.run("tunnel to the server", Phase::Front, Restart::OnFailure, move |shutdown| {
        let (connector, allowed) = (connector.clone(), allowed.clone());
        let (joined, supervisor) = (joined.clone(), own.clone());
        async move {
            let host = joined.server.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
            let port = joined.server.port_u16().unwrap_or(443);
            tokio::select! {
                ended = tunnel::serve(&connector, (&host, port), allowed, &supervisor) => {
                    ended.and_then(|()| Err("the server has ended the tunnel".into()))
                }
                () = shutdown.requested() => Ok(()),
            }
        }
    });
}
