//! A Corefile's server blocks as values.

use super::directives;
use super::{COREFILE, Hosts, Line, Problem, Rewrite, Sources};
use crate::name::Name;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Where CoreDNS listens, and so does knarr; another port is refused.
const PORT: &str = "53";

/// So many server blocks are served.
const BLOCKS: usize = 100;

/// What a Corefile says about the place it is served at.
pub(crate) struct Place<'a> {
    pub(crate) sources: &'a Sources,
    /// The cluster's domain.
    pub(crate) domain: &'a Name,
    /// Where DNS listens: never to be forwarded to.
    pub(crate) listen: &'a [SocketAddr],
}

/// All server blocks.
#[derive(Debug, PartialEq)]
pub(crate) struct Settings(pub(crate) Vec<Block>);

/// One server block: what happens to names of its zones, in CoreDNS' order of plugins.
#[derive(Debug, PartialEq)]
pub(crate) struct Block {
    pub(crate) zones: Vec<Name>,
    pub(crate) errors: bool,
    /// Zones whose queries are logged.
    pub(crate) log: Vec<Name>,
    pub(crate) rotate: bool,
    pub(crate) cache: Option<CacheRule>,
    pub(crate) rewrites: Vec<Rewrite>,
    pub(crate) denied: Vec<Denied>,
    pub(crate) hosts: Vec<Hosts>,
    pub(crate) kubernetes: Option<KubernetesRule>,
    pub(crate) forwards: Vec<ForwardRule>,
    pub(crate) pages: Vec<(u16, Page)>,
    /// For so long queries are answered after knarr was told to stop.
    pub(crate) lameduck: Duration,
}

/// What a port tells over HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Page {
    Metrics,
    Health,
    Ready,
}

/// `cache`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CacheRule {
    pub(crate) success: Kept,
    pub(crate) denial: Kept,
    pub(crate) servfail: Duration,
    pub(crate) prefetch: Option<Prefetch>,
    pub(crate) stale: Option<Stale>,
    /// Zones whose answers are not kept.
    pub(crate) no_success: Vec<Name>,
    pub(crate) no_denial: Vec<Name>,
}

/// How many answers are kept, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) answers: usize,
    pub(crate) least_s: u32,
    pub(crate) most_s: u32,
}

/// Answers asked for `hits` times, without a pause longer than `pause`, are fetched again when only so
/// many percent of their life are left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prefetch {
    pub(crate) hits: u32,
    pub(crate) pause: Duration,
    pub(crate) percent: u32,
}

/// Answers whose life is over are given for so long where nothing better is to be had (RFC 8767).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stale {
    pub(crate) limit: Duration,
    /// Whether upstreams are asked first.
    pub(crate) verify: bool,
}

/// `template` that denies: names of these zones, for a type or all, are answered with a code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Denied {
    pub(crate) kind: Option<u16>,
    pub(crate) zones: Vec<Name>,
    pub(crate) code: u16,
}

/// What the names of pods by their addresses are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pods {
    Disabled,
    Insecure,
}

/// `kubernetes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KubernetesRule {
    /// The domain, and zones of reverse names.
    pub(crate) zones: Vec<Name>,
    pub(crate) ttl_s: u32,
    pub(crate) pods: Pods,
    /// Zones whose missing names are asked of the next plugin.
    pub(crate) through: Vec<Name>,
}

/// Whom to forward to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum To {
    Address(SocketAddr),
    /// Over TLS, if it shows a certificate for this name.
    Secure(SocketAddr, ServerName<'static>),
    /// The resolvers of the machine.
    Machine,
}

/// In which order upstreams are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    Random,
    RoundRobin,
    Sequential,
}

/// `forward`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ForwardRule {
    pub(crate) from: Name,
    pub(crate) to: Vec<To>,
    pub(crate) except: Vec<Name>,
    pub(crate) force_tcp: bool,
    pub(crate) policy: Policy,
    /// After so many failures in a row an upstream is down; 0 for never.
    pub(crate) max_fails: u32,
    /// So long an upstream that is down is left alone before it is tried again.
    pub(crate) retry: Duration,
    pub(crate) max_concurrent: usize,
    /// How long a connection to an upstream is kept that nobody uses.
    pub(crate) expire: Duration,
    pub(crate) tls: Trust,
}

/// Whose certificates upstreams may show; set where one is asked over TLS. The same text is the same trust.
#[derive(Clone, Default)]
pub(crate) struct Trust(pub(crate) Option<Arc<ClientConfig>>, pub(crate) Arc<Vec<u8>>);

impl Trust {
    /// The authorities of a bundle in PEM.
    pub(crate) fn of(bundle: Vec<u8>) -> Result<Self, String> {
        let config = base::tls::client(Some(&bundle), None)?;
        Ok(Self(Some(Arc::new(config)), Arc::new(bundle)))
    }
}

impl PartialEq for Trust {
    fn eq(&self, other: &Self) -> bool {
        (self.0.is_some(), &self.1) == (other.0.is_some(), &other.1)
    }
}

impl Eq for Trust {}

impl std::fmt::Debug for Trust {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(if self.0.is_some() { "some authorities" } else { "nobody" })
    }
}

impl ForwardRule {
    pub(crate) fn covers(&self, name: &Name) -> bool {
        name.is_in(&self.from) && !self.except.iter().any(|zone| name.is_in(zone))
    }
}

/// The longest of the zones that a name lies in.
pub(crate) fn zone_of<'a>(zones: &'a [Name], name: &Name) -> Option<&'a Name> {
    zones.iter().filter(|zone| name.is_in(zone)).max_by_key(|zone| zone.len())
}

impl Settings {
    /// What the ConfigMaps say; without a Corefile of theirs, [`default_corefile`]'s.
    pub(crate) fn read(place: &Place<'_>) -> Result<Self, Problem> {
        let problem = |what: &str| Problem { file: COREFILE.to_owned(), line: 0, what: what.to_owned() };
        if place.sources.is_too_long() {
            return Err(problem("the ConfigMaps are too long"));
        }
        let text = place.sources.main.get(COREFILE).cloned();
        let text = text.unwrap_or_else(|| default_corefile(&place.domain.to_string()));
        let mut blocks: Vec<Block> = Vec::new();
        for line in top(super::parse(COREFILE, &text)?, place.sources)? {
            let block = Block::read(&line, place)?;
            let twice = block.zones.iter().find(|zone| blocks.iter().any(|known| known.zones.contains(zone)));
            if let Some(zone) = twice {
                return Err(line.problem(format!("the zone {zone} has a server block already")));
            }
            blocks.push(block);
        }
        if blocks.is_empty() || blocks.len() > BLOCKS {
            return Err(problem(&format!("there have to be 1 to {BLOCKS} server blocks")));
        }
        Ok(Self(blocks))
    }
}

/// Server blocks, those of imported files in the place of the import.
fn top(lines: Vec<Line>, sources: &Sources) -> Result<Vec<Line>, Problem> {
    let mut blocks = Vec::new();
    for line in lines {
        match (line.name(), line.arguments().as_slice()) {
            ("import", ["/etc/coredns/custom/*.server" | "custom/*.server"]) => {
                line.plain()?;
                for own in sources.custom_lines(".server")? {
                    if own.name() == "import" {
                        return Err(own.unsupported());
                    }
                    blocks.push(own);
                }
            }
            ("import", _) => return Err(line.unsupported()),
            _ => blocks.push(line),
        }
    }
    Ok(blocks)
}

impl Block {
    fn read(line: &Line, place: &Place<'_>) -> Result<Self, Problem> {
        let Some(lines) = &line.block else {
            return Err(line.problem("a server block has its directives in braces"));
        };
        let mut block = Self {
            zones: zones(line)?,
            errors: false,
            log: Vec::new(),
            rotate: false,
            cache: None,
            rewrites: Vec::new(),
            denied: Vec::new(),
            hosts: Vec::new(),
            kubernetes: None,
            forwards: Vec::new(),
            pages: Vec::new(),
            lameduck: Duration::ZERO,
        };
        for directive in lines {
            match (directive.name(), directive.arguments().as_slice()) {
                ("import", ["/etc/coredns/custom/*.override" | "custom/*.override"]) => {
                    directive.plain()?;
                    for own in place.sources.custom_lines(".override")? {
                        directives::take(&mut block, &own, place)?;
                    }
                }
                _ => directives::take(&mut block, directive, place)?,
            }
        }
        Ok(block)
    }
}

/// The zones in front of a server block: names with commas or blanks between them, with or without
/// `dns://` and the port.
fn zones(line: &Line) -> Result<Vec<Name>, Problem> {
    let texts = line.words.iter().flat_map(|word| word.split(',')).filter(|text| !text.is_empty());
    let zones = texts.map(|text| {
        let address = text.strip_prefix("dns://").unwrap_or(text);
        let (zone, port) = address.rsplit_once(':').unwrap_or((address, PORT));
        if port != PORT || zone.contains([':', '/', '(']) {
            return Err(line.problem(format!("{text:?} is no zone that can be served at port {PORT}")));
        }
        let zone = if zone.is_empty() { "." } else { zone };
        Name::parse(zone).ok_or_else(|| line.problem(format!("{zone:?} is no name")))
    });
    zones.collect()
}

/// The Corefile that is in force while nobody says otherwise.
pub fn default_corefile(domain: &str) -> String {
    let domain = domain.trim_end_matches('.');
    format!(
        ".:53 {{
    errors
    hosts /etc/coredns/NodeHosts {{
        ttl 60
        fallthrough
    }}
    kubernetes {domain} in-addr.arpa ip6.arpa {{
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
    }}
    prometheus :9153
    cache 30 {{
        serve_stale 1h verify
    }}
    loop
    loadbalance
    import /etc/coredns/custom/*.override
    forward . /etc/resolv.conf {{
        policy sequential
    }}
}}
import /etc/coredns/custom/*.server
"
    )
}
