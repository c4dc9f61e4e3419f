//! What `knarr server` knows of the network once its settings are read, and what it refuses of them.

use crate::life::Failure;
use crate::options::Options;
use controllers::AddressRange;
use net::Cidr;
use overlay::Backend;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

/// Where in their block the addresses of the API and of DNS lie.
const API: u128 = 1;
const DNS: u128 = 10;

/// The cluster's blocks and addresses; of each list the first is of the family that is used where none is asked for.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) cluster: Vec<Cidr>,
    pub(crate) services: Vec<Cidr>,
    pub(crate) dns: Vec<IpAddr>,
    pub(crate) node_ports: RangeInclusive<u16>,
    pub(crate) node_ips: Vec<IpAddr>,
}

impl Network {
    pub(crate) fn of(options: &Options) -> Result<Self, Failure> {
        let cluster = blocks("cluster-cidr", &options.cluster_cidr)?;
        let services = blocks("service-cidr", &options.service_cidr)?;
        check(&cluster, &services)?;
        let network = Self {
            dns: dns(&options.cluster_dns, &services)?,
            node_ports: node_ports(&options.service_node_port_range)?,
            node_ips: node_ips(&options.node_ip, &cluster)?,
            cluster,
            services,
        };
        network.check_own(options.network_backend != Backend::None)?;
        options.lb_range.iter().try_for_each(|range| network.check_range(range))?;
        Ok(network)
    }

    /// The address of the Service `kubernetes`.
    pub(crate) fn service_ip(&self) -> IpAddr {
        self.services.iter().find_map(|block| block.nth(API)).unwrap_or(self.services[0].address())
    }

    /// All blocks of the cluster.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = &Cidr> {
        self.cluster.iter().chain(&self.services)
    }

    /// Whether anything on this machine stands in the way of pods and services. Pods' addresses may be somebody
    /// else's work.
    pub(crate) async fn check(&self, options: &Options, tunnel: Option<&str>) -> Result<(), Failure> {
        let pods = self.cluster.iter().filter(|_| options.network_backend != Backend::None);
        let pods = pods.map(|block| ("--cluster-cidr", block));
        let all = pods.chain(self.services.iter().map(|block| ("--service-cidr", block)));
        let claims: Vec<net::Claim> =
            all.map(|(flag, block)| net::Claim { name: flag.to_owned(), block: *block }).collect();
        net::check(&claims, tunnel).await.map_err(|error| match error {
            net::Error::Module { module: "vxlan" | "wireguard", .. } => {
                format!("{error}, or choose another --network-backend").into()
            }
            other => other.into(),
        })
    }

    /// How other nodes' pods are reached.
    pub(crate) fn overlay(&self, options: &Options, node_name: &str) -> overlay::Config {
        overlay::Config {
            node_name: node_name.to_owned(),
            node_ips: self.node_ips.clone(),
            cluster_cidrs: self.cluster.clone(),
            backend: options.network_backend,
            direct_routing: options.direct_routing,
            external_addresses: options.network_external_ip,
            vxlan_port: options.vxlan_port.get(),
            wireguard_port: options.wireguard_port.get(),
            key_file: options.data_dir.join("agent/wireguard.key"),
        }
    }

    /// Where to listen: all addresses are those of both families where the cluster has IPv6.
    pub(crate) fn listening(&self, asked: IpAddr) -> IpAddr {
        let v6 = self.blocks().any(|block| !block.is_ipv4());
        if v6 && asked == Ipv4Addr::UNSPECIFIED { Ipv6Addr::UNSPECIFIED.into() } else { asked }
    }

    /// The machine's own addresses are not services', nor pods' where those are knarr's to give.
    fn check_own(&self, gives_pods: bool) -> Result<(), Failure> {
        let all = self.cluster.iter().filter(|_| gives_pods).map(|block| ("cluster-cidr", block));
        let mut all = all.chain(self.services.iter().map(|block| ("service-cidr", block)));
        let found = all.find_map(|(flag, block)| {
            Some((flag, block, self.node_ips.iter().find(|ip| block.contains(**ip))?))
        });
        found.map_or(Ok(()), |(flag, block, ip)| {
            Err(format!("--{flag} {block} contains the node's own address {ip}: name another block").into())
        })
    }

    /// Load balancers' addresses are nobody else's. Those of nodes are never given.
    fn check_range(&self, range: &AddressRange) -> Result<(), Failure> {
        let overlaps = |block: &&Cidr| {
            range.ends().iter().any(|end| block.contains(*end)) || range.contains(block.address())
        };
        for (flag, blocks) in [("cluster-cidr", &self.cluster), ("service-cidr", &self.services)] {
            if let Some(block) = blocks.iter().find(overlaps) {
                return Err(format!(
                    "--lb-range {range} and --{flag} {block} overlap: load balancers need addresses of their own"
                )
                .into());
            }
        }
        Ok(())
    }
}

/// One block, or one of each family.
fn blocks(flag: &str, texts: &[String]) -> Result<Vec<Cidr>, Failure> {
    let read = |text: &String| {
        let read = text.trim().parse::<Cidr>();
        read.map_err(|_| {
            Failure::from(format!("--{flag} {text:?} is no block of addresses such as 10.42.0.0/16"))
        })
    };
    let blocks = texts.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    match blocks.as_slice() {
        [_] => Ok(blocks),
        [one, other] if one.is_ipv4() != other.is_ipv4() => Ok(blocks),
        _ => {
            Err(format!("--{flag} takes one block, or one of IPv4 and one of IPv6 with a comma between")
                .into())
        }
    }
}

/// Whether the blocks go together.
fn check(cluster: &[Cidr], services: &[Cidr]) -> Result<(), Failure> {
    for block in services {
        if let Some(other) = cluster.iter().find(|other| other.overlaps(block)) {
            return Err(format!(
                "--cluster-cidr {other} and --service-cidr {block} overlap: pods and services need blocks of their own"
            )
            .into());
        }
        if !cluster.iter().any(|other| other.is_ipv4() == block.is_ipv4()) {
            return Err(
                format!("--service-cidr {block} is of a family that --cluster-cidr has no block of").into()
            );
        }
        if block.nth(DNS).is_none() {
            return Err(format!(
                "--service-cidr {block} is too small: services need sixteen addresses or more"
            )
            .into());
        }
    }
    Ok(())
}

/// The name server's addresses: those given, or one in each block.
fn dns(given: &[IpAddr], services: &[Cidr]) -> Result<Vec<IpAddr>, Failure> {
    if let Some(outside) = given.iter().find(|ip| !services.iter().any(|block| block.contains(**ip))) {
        return Err(format!("--cluster-dns {outside} is not in --service-cidr").into());
    }
    if given.is_empty() {
        Ok(services.iter().filter_map(|block| block.nth(DNS)).collect())
    } else {
        Ok(given.to_vec())
    }
}

fn node_ports(text: &str) -> Result<RangeInclusive<u16>, Failure> {
    let range = || {
        let (first, last) = text.split_once('-')?;
        let (first, last): (u16, u16) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        (first > 0 && first <= last).then_some(first..=last)
    };
    range().ok_or_else(|| "--service-node-port-range has to be such as 30000-32767".into())
}

/// The node's addresses: those given, or by which it reaches others, of each family that pods have.
fn node_ips(given: &[IpAddr], cluster: &[Cidr]) -> Result<Vec<IpAddr>, Failure> {
    if !given.is_empty() {
        return Ok(given.to_vec());
    }
    let own = own_addresses(cluster);
    if own.is_empty() {
        return Err(
            "this machine has no default route to take its address from: name one with --node-ip".into()
        );
    }
    Ok(own)
}

/// The addresses by which the machine reaches others now, of each family that pods have; none without a default route.
pub(crate) fn own_addresses(cluster: &[Cidr]) -> Vec<IpAddr> {
    let own: Vec<IpAddr> =
        cluster.iter().filter_map(|block| bootstrap::default_address(block.is_ipv4())).collect();
    // Pods of IPv6 alone on a machine that has an address of IPv4 alone, or the other way round.
    let any = || [true, false].into_iter().find_map(bootstrap::default_address);
    if own.is_empty() { any().into_iter().collect() } else { own }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(cluster: &[&str], services: &[&str], dns: &[&str]) -> Result<Network, String> {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let options = Options {
            cluster_cidr: texts(cluster),
            service_cidr: texts(services),
            cluster_dns: dns.iter().map(|ip| ip.parse().unwrap()).collect(),
            node_ip: vec!["192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap()],
            ..Options::default()
        };
        Network::of(&options).map_err(|failure| failure.to_string())
    }

    #[test]
    fn two_families_have_two_of_everything() {
        let both =
            network(&["fd00:42::/56", "10.42.0.0/16"], &["fd00:43::/112", "10.43.0.0/16"], &[]).unwrap();
        assert_eq!(both.service_ip().to_string(), "fd00:43::1");
        assert_eq!(both.dns, ["fd00:43::a", "10.43.0.10"].map(|ip| ip.parse::<IpAddr>().unwrap()));
        let one = network(&["10.42.0.0/16"], &["10.43.0.0/16"], &["10.43.7.7"]).unwrap();
        assert_eq!(
            (one.service_ip().to_string(), one.dns[0].to_string()),
            ("10.43.0.1".into(), "10.43.7.7".into())
        );
    }

    #[test]
    fn what_cannot_work_is_refused_with_the_flag() {
        let refused =
            |cluster: &[&str], services: &[&str], dns: &[&str]| network(cluster, services, dns).unwrap_err();
        let usual = ["10.42.0.0/16"];
        assert_eq!(
            refused(&usual, &["10.42.128.0/17"], &[]),
            "--cluster-cidr 10.42.0.0/16 and --service-cidr 10.42.128.0/17 overlap: pods and services need blocks of their own"
        );
        assert!(refused(&["here"], &usual, &[]).starts_with("--cluster-cidr \"here\" is no block"));
        assert!(
            refused(&usual, &["10.43.0.0/16", "10.44.0.0/16"], &[]).contains("one of IPv4 and one of IPv6")
        );
        assert!(refused(&usual, &["fd00::/112"], &[]).contains("is of a family"));
        assert!(refused(&usual, &["10.43.0.0/29"], &[]).contains("too small"));
        assert_eq!(
            refused(&usual, &["10.43.0.0/16"], &["1.1.1.1"]),
            "--cluster-dns 1.1.1.1 is not in --service-cidr"
        );
        assert_eq!(
            refused(&["192.0.0.0/16"], &["10.43.0.0/16"], &[]),
            "--cluster-cidr 192.0.0.0/16 contains the node's own address 192.0.2.7: name another block"
        );
    }

    #[test]
    fn load_balancers_have_addresses_of_their_own() {
        let with = |range: &str| {
            let options = Options {
                cluster_cidr: vec!["10.42.0.0/16".to_owned(), "fd00:42::/56".to_owned()],
                service_cidr: vec!["10.43.0.0/16".to_owned()],
                node_ip: vec!["192.0.2.7".parse().unwrap()],
                lb_range: vec![range.parse().unwrap()],
                ..Options::default()
            };
            Network::of(&options).map(drop).map_err(|failure| failure.to_string())
        };
        for (range, why) in [
            ("10.42.7.0/28", "--lb-range 10.42.7.1-10.42.7.14 and --cluster-cidr 10.42.0.0/16 overlap"),
            ("10.0.0.0/8", "and --cluster-cidr 10.42.0.0/16 overlap"),
            ("fd00:42::7", "and --cluster-cidr fd00:42::/56 overlap"),
            ("10.43.255.250-10.44.0.7", "and --service-cidr 10.43.0.0/16 overlap"),
        ] {
            assert!(with(range).unwrap_err().contains(why), "{range}: {:?}", with(range));
        }
        assert_eq!(with("192.0.2.0/24"), Ok(()), "addresses of nodes are not given");
        assert_eq!(with("fd00:44::/64"), Ok(()));
    }

    #[test]
    fn ranges_of_ports_are_read() {
        assert_eq!(node_ports("30000 - 30010").unwrap(), 30000..=30010);
        assert!(node_ports("30010-30000").is_err() && node_ports("0-7").is_err() && node_ports("x").is_err());
    }
}
