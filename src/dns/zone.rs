//! The cluster's names as one immutable snapshot, and what it answers; pure.

use crate::Error;
use api::Object;
use api::core::{Namespace, Service};
use api::discovery::EndpointSlice;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};

/// Seconds that answers live: the specification's example, and what clients expect of a cluster.
pub(crate) const TTL_S: u32 = 5;

/// The version of the specification that `dns-version` names.
const SCHEMA: &str = "1.1.0";

/// `kubernetes.io/service-name`: the label that ties a slice to its service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What a name has for a type.
#[derive(Debug, PartialEq)]
pub(crate) enum Found {
    /// Records, and addresses of the names in them.
    Records(Vec<RData>, Vec<Record>),
    /// The name is there, without records of that type.
    NoData,
    /// There is no such name.
    NoName,
    /// Another name outside or inside the cluster, to be followed.
    Alias(Name),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Port {
    name: String,
    /// Lower case, as in `_tcp`.
    protocol: String,
    number: u16,
}

/// One endpoint of a headless service.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Host {
    label: String,
    address: IpAddr,
    ports: Vec<Port>,
}

#[derive(Debug)]
enum Entry {
    Cluster { addresses: Vec<IpAddr>, ports: Vec<Port> },
    Headless(BTreeSet<Host>),
    External(String),
}

/// All names of the cluster.
#[derive(Debug)]
pub(crate) struct Zone {
    domain: Name,
    listen: IpAddr,
    namespaces: HashMap<String, HashMap<String, Entry>>,
    /// Names by address, relative to the domain.
    pointers: HashMap<IpAddr, Vec<String>>,
    serial: u32,
}

impl Zone {
    /// A zone without services.
    pub(crate) fn empty(domain: &str, listen: IpAddr) -> Result<Self, Error> {
        let mut name = Name::from_ascii(domain).map_err(|_| Error::Domain(domain.to_owned()))?.to_lowercase();
        name.set_fqdn(true);
        if name.is_root() {
            return Err(Error::Domain(domain.to_owned()));
        }
        let (namespaces, pointers) = (HashMap::new(), HashMap::new());
        Ok(Self { domain: name, listen, namespaces, pointers, serial: 1 })
    }

    /// The next zone, from the objects as they are now.
    pub(crate) fn rebuilt<'a>(
        &self,
        services: impl Iterator<Item = &'a Service>,
        slices: impl Iterator<Item = &'a EndpointSlice>,
        namespaces: impl Iterator<Item = &'a Namespace>,
    ) -> Self {
        let mut by_service: HashMap<(&str, &str), Vec<&EndpointSlice>> = HashMap::new();
        for slice in slices {
            if let Some(service) = slice.labels().get(SERVICE_NAME) {
                by_service.entry((slice.namespace(), service)).or_default().push(slice);
            }
        }
        let names = namespaces.map(|namespace| (namespace.name().to_owned(), HashMap::new()));
        let mut zone = Self {
            domain: self.domain.clone(),
            listen: self.listen,
            namespaces: names.collect(),
            pointers: HashMap::new(),
            serial: self.serial.wrapping_add(1),
        };
        for service in services {
            let own = by_service.remove(&(service.namespace(), service.name())).unwrap_or_default();
            if let Some(entry) = entry(service, &own) {
                zone.insert(service, entry);
            }
        }
        zone
    }

    fn insert(&mut self, service: &Service, entry: Entry) {
        let own = format!("{}.{}.svc", service.name(), service.namespace());
        match &entry {
            Entry::Cluster { addresses, .. } => {
                for address in addresses {
                    self.pointers.entry(*address).or_default().push(own.clone());
                }
            }
            Entry::Headless(hosts) => {
                for host in hosts {
                    self.pointers.entry(host.address).or_default().push(format!("{}.{own}", host.label));
                }
            }
            Entry::External(_) => {}
        }
        let namespace = self.namespaces.entry(service.namespace().to_owned()).or_default();
        namespace.insert(service.name().to_owned(), entry);
    }

    /// Whether a name lies in the cluster's domain.
    pub(crate) fn covers(&self, name: &Name) -> bool {
        self.domain.zone_of(name)
    }

    /// The record that negative answers carry.
    pub(crate) fn authority(&self) -> Record {
        Record::from_rdata(self.domain.clone(), TTL_S, self.soa())
    }

    fn soa(&self) -> RData {
        let (server, person) = (self.under("ns.dns"), self.under("hostmaster"));
        RData::SOA(SOA::new(server, person, self.serial, 7_200, 1_800, 86_400, TTL_S))
    }

    /// A name relative to the domain. Labels of Kubernetes' names always fit.
    fn under(&self, relative: &str) -> Name {
        let name = Name::from_ascii(relative).and_then(|name| name.append_domain(&self.domain));
        name.unwrap_or_else(|_| self.domain.clone())
    }

    /// What the cluster has under a name that it [covers](Self::covers).
    pub(crate) fn lookup(&self, name: &Name, kind: RecordType) -> Found {
        let count = usize::from(name.num_labels().saturating_sub(self.domain.num_labels()));
        let labels: Vec<String> = name
            .iter()
            .take(count)
            .map(|label| String::from_utf8_lossy(label).to_ascii_lowercase())
            .collect();
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        match labels[..] {
            [] => self.apex(kind),
            ["dns-version"] => only(kind, RecordType::TXT, || RData::TXT(TXT::new(vec![SCHEMA.to_owned()]))),
            ["ns", "dns"] => addresses(&[self.listen], kind),
            ["svc" | "pod" | "dns"] => Found::NoData,
            [namespace, "svc" | "pod"] if self.namespaces.contains_key(namespace) => Found::NoData,
            [address, namespace, "pod"] if self.namespaces.contains_key(namespace) => pod(address, kind),
            [ref rest @ .., service, namespace, "svc"] => {
                let entry = self.namespaces.get(namespace).and_then(|services| services.get(service));
                let own = || self.under(&format!("{service}.{namespace}.svc"));
                entry.map_or(Found::NoName, |entry| entry.lookup(rest, kind, &own))
            }
            _ => Found::NoName,
        }
    }

    fn apex(&self, kind: RecordType) -> Found {
        match kind {
            RecordType::SOA => Found::Records(vec![self.soa()], Vec::new()),
            RecordType::NS => {
                let server = self.under("ns.dns");
                let address = Record::from_rdata(server.clone(), TTL_S, address_data(self.listen));
                Found::Records(vec![RData::NS(NS(server))], vec![address])
            }
            _ => Found::NoData,
        }
    }

    /// The names of an address.
    pub(crate) fn reverse(&self, address: IpAddr, kind: RecordType) -> Found {
        let Some(names) = self.pointers.get(&address) else { return Found::NoName };
        if kind != RecordType::PTR {
            return Found::NoData;
        }
        Found::Records(names.iter().map(|name| RData::PTR(PTR(self.under(name)))).collect(), Vec::new())
    }
}

impl Entry {
    /// Under the service's own name, `rest` being the labels in front of it.
    fn lookup(&self, rest: &[&str], kind: RecordType, own: &dyn Fn() -> Name) -> Found {
        match (self, rest) {
            (Self::External(target), []) => match Name::from_ascii(target) {
                Ok(mut name) => {
                    name.set_fqdn(true);
                    Found::Alias(name)
                }
                Err(_) => Found::NoData,
            },
            (Self::External(_), _) => Found::NoName,
            (_, []) if kind == RecordType::SRV => self.services(&|_| true, own),
            (Self::Cluster { addresses: all, .. }, []) => addresses(all, kind),
            (Self::Headless(hosts), []) => addresses(&addresses_of(hosts.iter()), kind),
            (_, [port, protocol]) if port.starts_with('_') && protocol.starts_with('_') => {
                let wanted =
                    |candidate: &Port| candidate.name == port[1..] && candidate.protocol == protocol[1..];
                match (self.has_port(&wanted), kind) {
                    (false, _) => Found::NoName,
                    (true, RecordType::SRV) => self.services(&wanted, own),
                    (true, _) => Found::NoData,
                }
            }
            (_, [protocol]) if self.has_port(&|port| protocol.strip_prefix('_') == Some(&port.protocol)) => {
                Found::NoData
            }
            (Self::Headless(hosts), [label]) => {
                let named = addresses_of(hosts.iter().filter(|host| host.label == *label));
                if named.is_empty() { Found::NoName } else { addresses(&named, kind) }
            }
            _ => Found::NoName,
        }
    }

    fn has_port(&self, wanted: &dyn Fn(&Port) -> bool) -> bool {
        match self {
            Self::Cluster { ports, .. } => ports.iter().any(wanted),
            Self::Headless(hosts) => hosts.iter().flat_map(|host| &host.ports).any(wanted),
            Self::External(_) => false,
        }
    }

    /// SRV records of the wanted ports, with the addresses of their targets.
    fn services(&self, wanted: &dyn Fn(&Port) -> bool, own: &dyn Fn() -> Name) -> Found {
        let own = own();
        let mut targets: Vec<(Name, Vec<IpAddr>, &[Port])> = Vec::new();
        match self {
            Self::Cluster { addresses, ports } => targets.push((own, addresses.clone(), ports)),
            Self::Headless(hosts) => {
                for host in hosts {
                    if let Ok(name) = own.prepend_label(host.label.as_str()) {
                        targets.push((name, vec![host.address], &host.ports));
                    }
                }
            }
            Self::External(_) => {}
        }
        let mut answers = Vec::new();
        let mut more = Vec::new();
        for (name, addresses, ports) in targets {
            let before = answers.len();
            let ports = ports.iter().filter(|port| wanted(port));
            answers.extend(ports.map(|port| RData::SRV(SRV::new(0, 100, port.number, name.clone()))));
            if answers.len() > before {
                let data = addresses.into_iter().map(address_data);
                more.extend(data.map(|data| Record::from_rdata(name.clone(), TTL_S, data)));
            }
        }
        if answers.is_empty() { Found::NoData } else { Found::Records(answers, more) }
    }
}

fn addresses_of<'a>(hosts: impl Iterator<Item = &'a Host>) -> Vec<IpAddr> {
    hosts.map(|host| host.address).collect::<BTreeSet<_>>().into_iter().collect()
}

fn address_data(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    }
}

fn addresses(all: &[IpAddr], kind: RecordType) -> Found {
    let of_kind = all.iter().filter(|address| match kind {
        RecordType::A => address.is_ipv4(),
        RecordType::AAAA => address.is_ipv6(),
        RecordType::ANY => true,
        _ => false,
    });
    let records: Vec<RData> = of_kind.map(|address| address_data(*address)).collect();
    if records.is_empty() { Found::NoData } else { Found::Records(records, Vec::new()) }
}

fn only(asked: RecordType, has: RecordType, data: impl Fn() -> RData) -> Found {
    if asked == has { Found::Records(vec![data()], Vec::new()) } else { Found::NoData }
}

/// `10-42-0-7.namespace.pod`: the address is in the name, whether such a pod exists or not.
fn pod(label: &str, kind: RecordType) -> Found {
    let v4 = label.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4);
    let address = v4.or_else(|_| label.replace('-', ":").parse().map(IpAddr::V6));
    address.map_or(Found::NoName, |address| addresses(&[address], kind))
}

fn entry(service: &Service, slices: &[&EndpointSlice]) -> Option<Entry> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return spec.external_name.clone().map(Entry::External);
    }
    let texts = || spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    if texts().any(|text| text == "None") {
        return Some(Entry::Headless(slices.iter().flat_map(|slice| hosts(slice)).collect()));
    }
    let addresses: BTreeSet<IpAddr> = texts().filter_map(|text| text.parse().ok()).collect();
    let ports = spec
        .ports
        .iter()
        .flatten()
        .filter_map(|port| named_port(port.name.as_deref(), port.protocol.as_deref(), Some(port.port)));
    Some(Entry::Cluster { addresses: addresses.into_iter().collect(), ports: ports.collect() })
}

fn named_port(name: Option<&str>, protocol: Option<&str>, number: Option<i32>) -> Option<Port> {
    let protocol = protocol.unwrap_or("TCP").to_ascii_lowercase();
    Some(Port { name: name.unwrap_or_default().to_owned(), protocol, number: u16::try_from(number?).ok()? })
}

/// The endpoints of a slice that are ready; a slice says so of all of them where its service has
/// `publishNotReadyAddresses`.
fn hosts(slice: &EndpointSlice) -> Vec<Host> {
    let ports = slice.ports.iter().flatten();
    let ports: Vec<Port> = ports
        .filter_map(|port| named_port(port.name.as_deref(), port.protocol.as_deref(), port.port))
        .collect();
    let ready = slice.endpoints.iter().flatten().filter(|endpoint| {
        endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
    });
    let hosts = ready.flat_map(|endpoint| {
        endpoint.addresses.iter().filter_map(|text| {
            let address: IpAddr = text.parse().ok()?;
            let dashed = || address.to_string().replace(['.', ':'], "-");
            let named = endpoint.hostname.clone().filter(|name| !name.is_empty());
            Some(Host { label: named.unwrap_or_else(dashed), address, ports: ports.clone() })
        })
    });
    hosts.collect()
}

/// An alias' record.
pub(crate) fn alias(target: Name) -> RData {
    RData::CNAME(CNAME(target))
}
