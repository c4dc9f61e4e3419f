//! `hosts`: names and addresses that a table has.

use super::directives::{names_or, ttl_s};
use super::{Line, Problem, Sources};
use crate::name::Name;
use std::collections::HashMap;
use std::net::IpAddr;

/// CoreDNS' default.
const TTL_S: u32 = 3_600;

/// So many names fit into one table.
const NAMES: usize = 20_000;

/// A table of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hosts {
    pub(crate) zones: Vec<Name>,
    pub(crate) ttl_s: u32,
    /// Zones whose missing names are asked of the next plugin.
    pub(crate) through: Vec<Name>,
    pub(crate) addresses: HashMap<Box<[u8]>, Vec<IpAddr>>,
    pub(crate) names: HashMap<IpAddr, Vec<Name>>,
}

impl Hosts {
    /// `hosts [FILE [ZONE...]] { ADDRESS NAME...; ttl S; no_reverse; fallthrough [ZONE...] }`. A file is a
    /// key of the ConfigMaps; one that is not there is empty.
    pub(super) fn read(line: &Line, zones: &[Name], sources: &Sources) -> Result<Self, Problem> {
        let words = line.arguments();
        let (file, named) = match words.as_slice() {
            [] => (None, &[][..]),
            [file, named @ ..] if file.starts_with(super::FOLDER) => (Some(*file), named),
            _ => {
                return Err(
                    line.problem("the file of hosts has to be one of the ConfigMap, /etc/coredns/KEY")
                );
            }
        };
        let mut hosts = Self {
            zones: names_or(line, named, zones)?,
            ttl_s: TTL_S,
            through: Vec::new(),
            addresses: HashMap::new(),
            names: HashMap::new(),
        };
        let mut reverse = true;
        for option in line.options() {
            option.plain()?;
            match (option.name(), option.arguments().as_slice()) {
                ("ttl", [text]) => hosts.ttl_s = ttl_s(option, text)?,
                ("no_reverse", []) => reverse = false,
                // A change is followed at once.
                ("reload", [_]) => {}
                ("fallthrough", zones) => hosts.through = names_or(option, zones, &[Name::ROOT])?,
                (address, names) => {
                    let entry = hosts.add(address, names);
                    entry.ok_or_else(|| option.unsupported())?;
                }
            }
        }
        // As in the C library, what a line of a file has wrong concerns that line alone.
        for line in file.and_then(|path| sources.file(path)).unwrap_or_default().lines() {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            if let Some(address) = words.next() {
                hosts.add(address, &words.collect::<Vec<_>>());
            }
        }
        if hosts.addresses.len() > NAMES {
            return Err(line.problem(format!("there are more than {NAMES} names")));
        }
        if !reverse {
            hosts.names.clear();
        }
        Ok(hosts)
    }

    fn add(&mut self, address: &str, names: &[&str]) -> Option<()> {
        let address: IpAddr = address.parse().ok()?;
        let names: Option<Vec<Name>> = names.iter().map(|name| Name::parse(name)).collect();
        for name in names.filter(|names| !names.is_empty())? {
            let known = self.addresses.entry(name.as_bytes().into()).or_default();
            if !known.contains(&address) {
                known.push(address);
                self.names.entry(address).or_default().push(name);
            }
        }
        Some(())
    }
}
