//! Rules, compiled once, so that a request finds its own by a few look-ups. Readers never lock: the table is
//! swapped whole. Pure.
//!
//! A Gateway's listener with the most specific host is the only one that is asked, beside Ingresses. Hosts are asked from the most specific to all; within a host an exact path comes first, then prefixes from
//! the longest; within a path rules with a method, with more headers, with more parameters, then the older
//! object (Gateway API's `HTTPRouteRule.matches`, which holds what Ingress says as well).

mod hosts;
mod paths;

#[cfg(test)]
mod tests;

pub(crate) use hosts::HostMap;

use crate::rules::{Host, Listening, Rule, StreamRule};
use hosts::suffixes;
use http::{HeaderMap, Method};
use paths::{PathFit, Paths};
use std::collections::HashMap;

/// What of a request decides where it goes.
pub(crate) struct Asked<'a> {
    /// In lower case, without a port.
    pub(crate) host: &'a str,
    pub(crate) path: &'a str,
    pub(crate) query: Option<&'a str>,
    pub(crate) method: &'a Method,
    pub(crate) headers: &'a HeaderMap,
}

/// What is spoken with a client of TLS, by the name it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spoken<R> {
    /// HTTP, after the handshake.
    Http,
    /// Whatever the endpoint speaks: bytes are passed on as they come.
    Passed(R),
    /// Whatever the endpoint speaks without TLS, which ends here.
    Ended(R),
    /// Nothing: nobody has this name.
    Nothing,
}

/// Everything that is served; `R` is what a rule leads to.
pub(crate) struct Table<R> {
    ports: HashMap<u16, Port<R>>,
}

impl<R> Default for Table<R> {
    fn default() -> Self {
        Self { ports: HashMap::new() }
    }
}

struct Port<R> {
    /// Of Ingresses, which share all hosts.
    rules: Hosts<R>,
    fallbacks: Hosts<R>,
    /// Of Gateways: a request is for the listener with the most specific host alone.
    listeners: HostMap<Hosts<R>>,
    /// Of listeners and of Ingresses' hosts, where not only HTTP is spoken.
    names: HostMap<Names<R>>,
    /// Whether names that nobody has are for HTTP.
    speaks_http: bool,
    /// Whether there is a listener for something else.
    speaks_more: bool,
}

/// What is spoken for the hosts of a listener.
enum Names<R> {
    Http,
    /// As routes say; other names have nothing, unless the listener is for all that no other has.
    Streams {
        is_for_all: bool,
        streams: HostMap<Spoken<R>>,
    },
}

impl<R> Names<R> {
    fn of(host: &Host, speaks_http: bool) -> Self {
        match speaks_http {
            true => Self::Http,
            false => Self::Streams { is_for_all: *host == Host::Any, streams: HostMap::default() },
        }
    }
}

impl<R> Default for Port<R> {
    fn default() -> Self {
        Self {
            rules: Hosts::default(),
            fallbacks: Hosts::default(),
            listeners: HostMap::default(),
            names: HostMap::default(),
            speaks_http: false,
            speaks_more: false,
        }
    }
}

impl<R: Clone> Table<R> {
    /// Compiles rules, each with what it leads to.
    pub(crate) fn new<'a>(rules: impl IntoIterator<Item = (&'a Rule, R)>) -> Self {
        let mut table = Self::default();
        for (rule, to) in rules {
            for port in &rule.ports {
                let port = table.ports.entry(*port).or_default();
                let hosts = match &rule.listener {
                    Some(host) => port.listeners.entry(host, Hosts::default),
                    None if rule.fallback => &mut port.fallbacks,
                    None => &mut port.rules,
                };
                port.speaks_http |= rule.listener.is_none();
                hosts.add(rule, to.clone());
            }
        }
        for port in table.ports.values_mut() {
            port.rules.sort();
            port.fallbacks.sort();
            port.listeners.values_mut().for_each(Hosts::sort);
        }
        table
    }

    /// Adds listeners, also those without any rule, and the streams of those that speak no HTTP. Of two streams for a
    /// host the first counts.
    pub(crate) fn listen<'a>(
        &mut self,
        listeners: &[Listening],
        streams: impl IntoIterator<Item = (&'a StreamRule, R)>,
    ) {
        for Listening { port, host, speaks_http } in listeners {
            let port = self.ports.entry(*port).or_default();
            port.speaks_http |= speaks_http;
            port.speaks_more |= !speaks_http;
            port.names.entry(host, || Names::of(host, *speaks_http));
            if *speaks_http {
                port.listeners.entry(host, Hosts::default);
            }
        }
        for (rule, to) in streams {
            let port = self.ports.entry(rule.port).or_default();
            let listener = port.names.entry(&rule.listener, || Names::of(&rule.listener, false));
            if let Names::Streams { streams, .. } = listener {
                streams.entry(
                    &rule.host,
                    || {
                        if rule.ends_tls { Spoken::Ended(to) } else { Spoken::Passed(to) }
                    },
                );
            }
        }
    }

    /// Leaves hosts of Ingresses to HTTP where other listeners have a wider one.
    pub(crate) fn keep_http<'a>(&mut self, rules: impl IntoIterator<Item = &'a Rule>) {
        for rule in rules.into_iter().filter(|rule| rule.listener.is_none() && rule.host != Host::Any) {
            for port in &rule.ports {
                if let Some(port) = self.ports.get_mut(port) {
                    port.names.entry(&rule.host, || Names::Http);
                }
            }
        }
    }

    /// What a request on a port leads to.
    pub(crate) fn find(&self, port: u16, asked: &Asked<'_>) -> Option<&R> {
        let port = self.ports.get(&port)?;
        let own = port.listeners.find(Some(asked.host)).and_then(|listener| listener.find(asked));
        let shared = port.rules.find(asked);
        let found = match (own, shared) {
            (Some(own), Some(shared)) if shared.fit > own.fit => Some(shared),
            (own, shared) => own.or(shared),
        };
        found.or_else(|| port.fallbacks.find(asked)).map(|found| found.to)
    }

    /// Whether more than HTTP is spoken on a port of TLS.
    pub(crate) fn speaks_more(&self, port: u16) -> bool {
        self.ports.get(&port).is_some_and(|port| port.speaks_more)
    }

    /// What is spoken with a client that asks for a name (SNI), or for none.
    pub(crate) fn spoken(&self, port: u16, name: Option<&str>) -> Spoken<R> {
        let Some(port) = self.ports.get(&port) else { return Spoken::Http };
        let otherwise = if port.speaks_http || !port.speaks_more { Spoken::Http } else { Spoken::Nothing };
        match port.names.find(name) {
            None => otherwise,
            Some(Names::Http) => Spoken::Http,
            Some(Names::Streams { is_for_all, streams }) => {
                let none = if *is_for_all { otherwise } else { Spoken::Nothing };
                streams.find(name).cloned().unwrap_or(none)
            }
        }
    }

    /// Whether a connection that was made for a name may ask for a host: both have to be one listener's.
    pub(crate) fn is_misdirected(&self, port: u16, name: &str, host: &str) -> bool {
        self.ports.get(&port).is_some_and(|port| {
            let of = |host| port.listeners.find(Some(host)).map(std::ptr::from_ref);
            of(name) != of(host)
        })
    }
}

/// How well a rule fits: the bytes of the host that it names, and what of the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Fit {
    host: usize,
    path: PathFit,
}

/// Something that fits.
struct Found<'a, R> {
    fit: Fit,
    to: &'a R,
}

struct Hosts<R> {
    exact: HashMap<Box<str>, Paths<R>>,
    below: HashMap<Box<str>, Paths<R>>,
    any: Paths<R>,
}

impl<R> Default for Hosts<R> {
    fn default() -> Self {
        Self { exact: HashMap::new(), below: HashMap::new(), any: Paths::default() }
    }
}

impl<R> Hosts<R> {
    fn add(&mut self, rule: &Rule, to: R) {
        let (paths, one_label) = match &rule.host {
            Host::Exact(host) => (self.exact.entry(host.as_str().into()).or_default(), false),
            Host::Below { suffix, one_label } => {
                (self.below.entry(suffix.as_str().into()).or_default(), *one_label)
            }
            Host::Any => (&mut self.any, false),
        };
        paths.add(rule, one_label, to);
    }

    fn sort(&mut self) {
        self.exact.values_mut().chain(self.below.values_mut()).for_each(Paths::sort);
        self.any.sort();
    }

    fn find(&self, asked: &Asked<'_>) -> Option<Found<'_, R>> {
        let exact = self.exact.get(asked.host).and_then(|paths| paths.find(asked, 0));
        if let Some((path, to)) = exact {
            return Some(Found { fit: Fit { host: usize::MAX, path }, to });
        }
        self.find_below(asked).or_else(|| {
            let (path, to) = self.any.find(asked, 0)?;
            Some(Found { fit: Fit { host: 0, path }, to })
        })
    }

    /// From the longest suffix.
    fn find_below(&self, asked: &Asked<'_>) -> Option<Found<'_, R>> {
        if self.below.is_empty() {
            return None;
        }
        suffixes(asked.host).find_map(|(suffix, labels)| {
            let (path, to) = self.below.get(suffix)?.find(asked, labels)?;
            Some(Found { fit: Fit { host: suffix.len() + 1, path }, to })
        })
    }
}
