//! The cluster's names as one immutable snapshot, and what it answers; pure.

use crate::Error;
use crate::entry::{Entry, Host, wanted};
use crate::name::Name;
use crate::wire::{Owner, Section, Writer, code, kind};
use imbl::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// The version of the specification that `dns-version` names.
const SCHEMA: &[u8] = b"1.1.0";

/// `_port._protocol.service.namespace.svc`: nothing is further below the domain.
const DEEPEST: usize = 5;

/// What a name has for a type.
#[derive(Debug, PartialEq)]
pub(crate) enum Found {
    /// Records, or that there are none of the type, were written.
    Answered,
    /// There is no such name; nothing was written.
    NoName,
    /// The name is another one's alias, which is to be followed; nothing was written.
    Alias(Box<Name>),
}

/// A question to the zone.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) name: &'a Name,
    pub(crate) kind: u16,
    /// Seconds that answers live.
    pub(crate) ttl_s: u32,
    /// Whether pods have names by their addresses.
    pub(crate) pods: bool,
}

/// All names of the cluster. A copy shares what is the same.
#[derive(Clone)]
pub(crate) struct Zone {
    domain: Name,
    listen: Arc<[IpAddr]>,
    /// Labels with their length in front.
    namespaces: HashSet<Box<[u8]>>,
    /// By the labels of service and namespace.
    services: HashMap<Box<[u8]>, Arc<Entry>>,
    /// Names by address, in front of the domain.
    pointers: HashMap<IpAddr, Vec<Box<[u8]>>>,
    serial: u32,
}

/// A label with its length in front; empty for what is none.
fn label(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).ok().filter(|length| *length < 64);
    let bytes = length.map(|length| [&[length], text.as_bytes()].concat());
    bytes.unwrap_or_default()
}

impl Zone {
    /// A zone without services.
    pub(crate) fn empty(domain: &str, listen: &[IpAddr]) -> Result<Self, Error> {
        let name = Name::parse(domain).filter(|name| !name.is_root());
        Ok(Self {
            domain: name.ok_or_else(|| Error::Domain(domain.to_owned()))?,
            listen: listen.into(),
            namespaces: HashSet::new(),
            services: HashMap::new(),
            pointers: HashMap::new(),
            serial: 1,
        })
    }

    /// Counts the changes, as resolvers expect of a zone that changed.
    pub(crate) fn advance(&mut self) {
        self.serial = self.serial.wrapping_add(1);
    }

    pub(crate) fn set_namespace(&mut self, name: &str, exists: bool) {
        let label = label(name);
        if exists {
            self.namespaces.insert(label.into());
        } else {
            self.namespaces.remove(label.as_slice());
        }
    }

    /// Puts a service, or its absence, in the place of what was known of it.
    pub(crate) fn set_service(&mut self, namespace: &str, name: &str, entry: Option<Entry>) {
        let key = [label(name), label(namespace)].concat();
        if let Some(old) = self.services.remove(key.as_slice()) {
            for (address, name) in pointers(&old, &key) {
                self.unpoint(address, &name);
            }
        }
        if let Some(entry) = entry {
            for (address, name) in pointers(&entry, &key) {
                self.pointers.entry(address).or_default().push(name);
            }
            self.services.insert(key.into(), Arc::new(entry));
        }
    }

    fn unpoint(&mut self, address: IpAddr, name: &[u8]) {
        let Some(names) = self.pointers.get_mut(&address) else { return };
        names.retain(|known| **known != *name);
        if names.is_empty() {
            self.pointers.remove(&address);
        }
    }

    /// The cluster's domain.
    pub(crate) fn domain(&self) -> &Name {
        &self.domain
    }

    /// A name below the domain. Labels of Kubernetes' names always fit.
    fn under(&self, labels: &[u8]) -> Name {
        Name::of_wire(labels, &self.domain).unwrap_or(self.domain)
    }

    fn name_server(&self) -> Name {
        self.under(b"\x02ns\x03dns")
    }

    /// What the cluster has under a name of its domain.
    pub(crate) fn lookup(&self, asked: Asked<'_>, out: &mut Writer) -> Found {
        let Some(end) = asked.name.find(&self.domain) else { return Found::NoName };
        let bytes = &asked.name.as_bytes()[..end];
        let mut starts = [0; DEEPEST];
        let mut labels = [&[][..]; DEEPEST];
        let mut count = 0;
        for start in asked.name.starts().take_while(|start| *start < end) {
            if count == DEEPEST {
                return Found::NoName;
            }
            starts[count] = start;
            labels[count] = &bytes[start + 1..][..usize::from(bytes[start])];
            count += 1;
        }
        match labels[..count] {
            [] => self.apex(asked, out),
            [b"dns-version"] => self.version(asked, out),
            [b"ns", b"dns"] => self.addresses(self.listen.iter().copied(), asked, out),
            [b"svc" | b"dns"] => self.no_data(asked, out),
            [b"pod"] if asked.pods => self.no_data(asked, out),
            [_, b"svc"] if self.has_namespace(&bytes[..starts[1]]) => self.no_data(asked, out),
            [_, b"pod"] if asked.pods && self.has_namespace(&bytes[..starts[1]]) => self.no_data(asked, out),
            [address, _, b"pod"] if asked.pods && self.has_namespace(&bytes[starts[1]..starts[2]]) => {
                pod(address)
                    .map_or(Found::NoName, |address| self.addresses([address].into_iter(), asked, out))
            }
            [ref rest @ .., _, _, b"svc"] => {
                let key = &bytes[starts[count - 3]..starts[count - 1]];
                let entry = self.services.get(key);
                entry.map_or(Found::NoName, |entry| self.service((key, entry), rest, asked, out))
            }
            _ => Found::NoName,
        }
    }

    fn has_namespace(&self, label: &[u8]) -> bool {
        self.namespaces.contains(label)
    }

    fn apex(&self, asked: Asked<'_>, out: &mut Writer) -> Found {
        match asked.kind {
            kind::SOA => self.authority(Section::Answer, &self.domain, asked.ttl_s, out),
            kind::NS => {
                let server = self.name_server();
                out.record(Section::Answer, Owner::Question, (kind::NS, asked.ttl_s), |out| {
                    out.name(&server)
                });
                for address in self.listen.iter() {
                    out.address(Section::Additional, Owner::Name(&server), *address, asked.ttl_s);
                }
            }
            _ => return self.no_data(asked, out),
        }
        Found::Answered
    }

    fn version(&self, asked: Asked<'_>, out: &mut Writer) -> Found {
        if asked.kind != kind::TXT {
            return self.no_data(asked, out);
        }
        out.record(Section::Answer, Owner::Question, (kind::TXT, asked.ttl_s), |out| {
            out.bytes(&[u8::try_from(SCHEMA.len()).unwrap_or_default()]);
            out.bytes(SCHEMA);
        });
        Found::Answered
    }

    /// The record that negative answers carry, for the zone that denies.
    fn authority(&self, section: Section, zone: &Name, ttl_s: u32, out: &mut Writer) {
        let (server, person) = (self.name_server(), self.under(b"\x0ahostmaster"));
        out.record(section, Owner::Name(zone), (kind::SOA, ttl_s), |out| {
            out.name(&server);
            out.name(&person);
            for number in [self.serial, 7_200, 1_800, 86_400, ttl_s] {
                out.bytes(&number.to_be_bytes());
            }
        });
    }

    fn no_data(&self, asked: Asked<'_>, out: &mut Writer) -> Found {
        self.authority(Section::Authority, &self.zone_of(asked.name), asked.ttl_s, out);
        Found::Answered
    }

    /// Writes that there is no such name.
    pub(crate) fn deny(&self, asked: Asked<'_>, out: &mut Writer) {
        out.fail(code::NX_DOMAIN);
        self.authority(Section::Authority, &self.zone_of(asked.name), asked.ttl_s, out);
    }

    /// The domain, or where reverse names begin.
    fn zone_of(&self, name: &Name) -> Name {
        if name.is_in(&self.domain) {
            return self.domain;
        }
        let last_two = name.starts().collect::<Vec<_>>();
        let start = last_two.len().checked_sub(3).and_then(|place| last_two.get(place)).copied();
        Name::read(&name.as_bytes()[start.unwrap_or_default()..]).unwrap_or(Name::ROOT)
    }

    fn addresses(&self, all: impl Iterator<Item = IpAddr>, asked: Asked<'_>, out: &mut Writer) -> Found {
        let mut none = true;
        for address in all.filter(|address| fits(*address, asked.kind)) {
            out.address(Section::Answer, Owner::Question, address, asked.ttl_s);
            none = false;
        }
        if none { self.no_data(asked, out) } else { Found::Answered }
    }

    /// Under a service's own name, `rest` being the labels in front of it.
    fn service(
        &self,
        (key, entry): (&[u8], &Entry),
        rest: &[&[u8]],
        asked: Asked<'_>,
        out: &mut Writer,
    ) -> Found {
        match (entry, rest) {
            (Entry::External(target), []) => Found::Alias(target.clone()),
            (Entry::Nowhere, []) => self.no_data(asked, out),
            (Entry::External(_) | Entry::Nowhere, _) => Found::NoName,
            (_, []) if asked.kind == kind::SRV => self.ports((key, entry), None, asked, out),
            (Entry::Cluster { addresses, .. }, []) => self.addresses(addresses.iter().copied(), asked, out),
            (Entry::Headless(hosts), []) => self.hosts(hosts, asked, out),
            (_, [[b'_', port @ ..], [b'_', protocol @ ..]]) => {
                let has = entry.has_port(wanted(Some(port), protocol));
                match (has, asked.kind) {
                    (false, _) => Found::NoName,
                    (true, kind::SRV) => self.ports((key, entry), Some((port, protocol)), asked, out),
                    (true, _) => self.no_data(asked, out),
                }
            }
            (_, [[b'_', protocol @ ..]]) if entry.has_port(wanted(None, protocol)) => {
                self.no_data(asked, out)
            }
            (Entry::Headless(hosts), [label]) => {
                let first = hosts.partition_point(|host| *host.label < **label);
                let named = hosts[first..].iter().take_while(|host| *host.label == **label).count();
                if named == 0 { Found::NoName } else { self.hosts(&hosts[first..first + named], asked, out) }
            }
            _ => Found::NoName,
        }
    }

    /// The addresses of endpoints, each once.
    fn hosts(&self, hosts: &[Host], asked: Asked<'_>, out: &mut Writer) -> Found {
        let of_kind = hosts.iter().map(|host| host.address).filter(|address| fits(*address, asked.kind));
        let mut all: Vec<IpAddr> = of_kind.collect();
        all.sort_unstable();
        all.dedup();
        self.addresses(all.into_iter(), asked, out)
    }

    /// SRV records of the ports that are wanted, all without a wish, and the addresses of their targets.
    fn ports(
        &self,
        (key, entry): (&[u8], &Entry),
        wish: Option<(&[u8], &[u8])>,
        asked: Asked<'_>,
        out: &mut Writer,
    ) -> Found {
        let own = [key, b"\x03svc"].concat();
        let mut targets = Vec::new();
        for (label, addresses, ports) in entry.targets() {
            let target = self.under(&[label.as_slice(), &own].concat());
            let mut written = None;
            for port in ports.iter().filter(|port| port.is_wished(wish)) {
                out.record(Section::Answer, Owner::Question, (kind::SRV, asked.ttl_s), |out| {
                    [0, 100, port.number].into_iter().for_each(|number| out.number(number));
                    written = Some(out.whole_name(&target));
                });
            }
            targets.extend(written.map(|at| (target, at, addresses)));
        }
        if targets.is_empty() {
            return self.no_data(asked, out);
        }
        for (target, at, addresses) in targets {
            for address in addresses {
                out.address(Section::Additional, Owner::At(&target, at), address, asked.ttl_s);
            }
        }
        Found::Answered
    }

    /// The names of an address.
    pub(crate) fn reverse(&self, address: IpAddr, asked: Asked<'_>, out: &mut Writer) -> Found {
        let Some(names) = self.pointers.get(&address) else { return Found::NoName };
        if !matches!(asked.kind, kind::PTR | kind::ANY) {
            return self.no_data(asked, out);
        }
        for name in names {
            let name = self.under(name);
            out.record(Section::Answer, Owner::Question, (kind::PTR, asked.ttl_s), |out| out.name(&name));
        }
        Found::Answered
    }
}

/// The addresses of an entry that have names, and those.
fn pointers(entry: &Entry, key: &[u8]) -> Vec<(IpAddr, Box<[u8]>)> {
    match entry {
        Entry::Cluster { addresses, .. } => {
            let own: Box<[u8]> = [key, b"\x03svc"].concat().into();
            addresses.iter().map(|address| (*address, own.clone())).collect()
        }
        Entry::Headless(hosts) => {
            let named = hosts.iter().map(|host| {
                let length = u8::try_from(host.label.len()).unwrap_or_default();
                (host.address, [&[length], &*host.label, key, b"\x03svc"].concat().into())
            });
            named.collect()
        }
        Entry::External(_) | Entry::Nowhere => Vec::new(),
    }
}

fn fits(address: IpAddr, kind: u16) -> bool {
    match kind {
        kind::A => address.is_ipv4(),
        kind::AAAA => address.is_ipv6(),
        kind::ANY => true,
        _ => false,
    }
}

/// `10-42-0-7.namespace.pod`: the address is in the name, whether such a pod exists or not.
fn pod(label: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(label).ok()?;
    let v4 = text.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4);
    v4.or_else(|_| text.replace('-', ":").parse().map(IpAddr::V6)).ok()
}
