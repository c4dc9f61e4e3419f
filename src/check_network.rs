//! What knarr needs of a machine's network: nftables, links, addresses, ports, and firewalls that let pods through.

use crate::check_config::Finding;
use crate::check_kernel::read;
use crate::life::Failure;
use crate::network::Network;
use crate::options::{Options, Part};
use crate::processes;
use nix::sched::{CloneFlags, unshare};
use overlay::Backend;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};

/// The kubelet's, where no --kubelet-arg says otherwise.
const KUBELET_PORT: u16 = 10_250;
/// Fewer are soon used up by the watches of a few programs.
const INSTANCES: u64 = 512;
const WATCHES: u64 = 65_536;
/// Connections; each takes some 320 bytes when it is there.
const CONNECTIONS: u64 = 65_536;

pub(crate) async fn all(options: &Options) -> Vec<Finding> {
    let mut findings = Vec::new();
    match Network::of(options) {
        Err(error) => findings.push(Finding::fail(error.to_string(), "")),
        Ok(_) if options.disable_agent => {}
        Ok(network) => findings.extend(of(&network, options).await),
    }
    findings.extend(ports(options));
    if !options.disable_agent {
        findings.extend(limits());
    }
    findings
}

async fn of(network: &Network, options: &Options) -> Vec<Finding> {
    let addresses: Vec<String> = network.node_ips.iter().map(ToString::to_string).collect();
    let mut findings = vec![Finding::pass(format!("the node's address {}", addresses.join(", ")))];
    let tunnel = network.overlay(options, "check").tunnel();
    findings.push(match apart(options, tunnel) {
        Ok(()) => Finding::pass(
            "nftables, and links of pods and of the tunnel to other nodes, tried in a namespace",
        ),
        Err(error) => Finding::fail(error.to_string(), ""),
    });
    if options.network_backend != Backend::Wireguard {
        let wireguard = Options { network_backend: Backend::Wireguard, ..options.clone() };
        let tunnel = network.overlay(&wireguard, "check").tunnel();
        if let Err(error) = apart(&wireguard, tunnel) {
            findings.push(Finding::warn(error.to_string(), "needed for --network-backend wireguard alone"));
        }
    }
    findings.push(match network.check(options, tunnel).await {
        Ok(()) => Finding::pass("nothing on this machine has addresses or routes of pods and services"),
        Err(error) => Finding::fail(error.to_string(), ""),
    });
    let blocks: Vec<net::Cidr> = network.blocks().copied().collect();
    match net::firewalls::obstacles(&blocks).await {
        Ok(obstacles) if obstacles.is_empty() => {
            findings.push(Finding::pass("no firewall drops what pods send"))
        }
        Ok(obstacles) => findings.extend(obstacles.into_iter().map(|obstacle| {
            Finding::warn(
                format!("the firewall's chain {} drops what pods send", obstacle.chain),
                obstacle.hint,
            )
        })),
        Err(error) => findings.push(Finding::warn(format!("firewalls cannot be looked at: {error}"), "")),
    }
    findings
}

/// Tries what is needed in a network of its own, where nothing is in the way.
fn apart(options: &Options, tunnel: Option<&str>) -> Result<(), Failure> {
    let work = || -> Result<(), Failure> {
        unshare(CloneFlags::CLONE_NEWNET)
            .map_err(|errno| format!("a network namespace cannot be made: {errno}"))?;
        // Its blocks and addresses are the same: only the machine's links and routes are others.
        let network = Network::of(&Options { node_ip: vec![Ipv4Addr::LOCALHOST.into()], ..options.clone() })?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(network.check(options, tunnel))
    };
    std::thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|_| Err("the attempt failed".into()))
}

fn ports(options: &Options) -> Vec<Finding> {
    if processes::is_running(options) {
        return vec![Finding::pass("knarr runs and has its ports")];
    }
    let any = IpAddr::from(Ipv4Addr::UNSPECIFIED);
    let mut tcp = vec![(options.bind_address, options.https_listen_port, "https-listen-port")];
    if !options.disable_agent {
        tcp.push((any, KUBELET_PORT, "kubelet-arg port="));
        if !options.is_disabled(Part::Ingress) {
            tcp.push((any, options.ingress_http_port.get(), "ingress-http-port"));
            tcp.push((any, options.ingress_https_port.get(), "ingress-https-port"));
        }
    }
    let mut findings: Vec<Finding> = tcp
        .into_iter()
        .filter_map(|(address, port, flag)| {
            let tried = TcpListener::bind((address, port)).map(drop);
            taken(tried, &format!("port {port}/tcp"), flag)
        })
        .collect();
    let udp = match options.network_backend {
        _ if options.disable_agent => None,
        Backend::Vxlan => Some((options.vxlan_port.get(), "vxlan-port")),
        Backend::Wireguard => Some((options.wireguard_port.get(), "wireguard-port")),
        Backend::HostGw | Backend::None => None,
    };
    if let Some((port, flag)) = udp {
        findings.extend(taken(UdpSocket::bind((any, port)).map(drop), &format!("port {port}/udp"), flag));
    }
    if findings.is_empty() {
        findings.push(Finding::pass("the ports that knarr listens on are free"));
    }
    findings
}

fn taken(tried: std::io::Result<()>, port: &str, flag: &str) -> Option<Finding> {
    let error = tried.err()?;
    let hint = format!("end what listens there (ss -lnp), or choose another with --{flag}");
    Some(match error.kind() {
        ErrorKind::AddrInUse => Finding::fail(format!("{port} is in use"), hint),
        _ => Finding::fail(format!("{port} cannot be listened on: {error}"), hint),
    })
}

fn limits() -> Vec<Finding> {
    let mut findings = Vec::new();
    let forward = "/proc/sys/net/ipv4/ip_forward";
    findings.push(if std::fs::File::options().write(true).open(forward).is_ok() {
        Finding::pass("forwarding of packets can be turned on")
    } else if read(forward) == "1" {
        Finding::pass("packets are forwarded")
    } else {
        Finding::fail(
            "packets are not forwarded, and knarr may not change that",
            "sysctl net.ipv4.ip_forward=1",
        )
    });
    for (name, least, what) in [
        ("fs.inotify.max_user_instances", INSTANCES, "programs that watch files"),
        ("fs.inotify.max_user_watches", WATCHES, "files that are watched"),
        ("net.netfilter.nf_conntrack_max", CONNECTIONS, "connections"),
    ] {
        findings.extend(limit(name, least, what, &read(&format!("/proc/sys/{}", name.replace('.', "/")))));
    }
    findings
}

/// A limit of the kernel's that is too low for many pods; none where the kernel has no such limit now.
fn limit(name: &str, least: u64, what: &str, value: &str) -> Option<Finding> {
    let actual: u64 = value.parse().ok()?;
    Some(if actual < least {
        Finding::warn(
            format!("{name} is {actual}: pods with many {what} run into it"),
            format!("echo {name}={least} > /etc/sysctl.d/90-knarr.conf && sysctl --system"),
        )
    } else {
        Finding::pass(format!("{name} is {actual}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check_config::Verdict;

    #[test]
    fn a_port_in_use_is_named_with_its_flag() {
        let taken_one = TcpListener::bind("127.0.0.1:0").unwrap();
        let tried = TcpListener::bind(taken_one.local_addr().unwrap()).map(drop);
        let found = taken(tried, "port 7/tcp", "https-listen-port").unwrap();
        assert_eq!((found.verdict, found.what.as_str()), (Verdict::Fail, "port 7/tcp is in use"));
        assert!(found.hint.contains("--https-listen-port"));
        assert_eq!(taken(Ok(()), "port 7/tcp", "x"), None);
    }

    #[test]
    fn low_limits_are_warned_of() {
        assert_eq!(limit("a.b", 10, "files", "9").unwrap().verdict, Verdict::Warn);
        assert_eq!(limit("a.b", 10, "files", "10").unwrap().verdict, Verdict::Pass);
        assert_eq!(limit("a.b", 10, "files", ""), None);
    }
}
