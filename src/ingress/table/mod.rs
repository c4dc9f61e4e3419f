//! Rules, compiled once, so that a request finds its own by a few look-ups. Readers never lock: the table is
//! swapped whole. Pure.
//!
//! Hosts are asked from the most specific to all; within a host an exact path comes first, then prefixes from
//! the longest; within a path rules with a method, with more headers, with more parameters, then the older
//! object (Gateway API's `HTTPRouteRule.matches`, which holds what Ingress says as well).

mod paths;

#[cfg(test)]
mod tests;

use crate::rules::{Host, Rule};
use http::{HeaderMap, Method};
use paths::Paths;
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
    rules: Hosts<R>,
    fallbacks: Hosts<R>,
}

impl<R> Default for Port<R> {
    fn default() -> Self {
        Self { rules: Hosts::default(), fallbacks: Hosts::default() }
    }
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

impl<R: Clone> Table<R> {
    /// Compiles rules, each with what it leads to.
    pub(crate) fn new<'a>(rules: impl IntoIterator<Item = (&'a Rule, R)>) -> Self {
        let mut table = Self::default();
        for (rule, to) in rules {
            for port in &rule.ports {
                let port = table.ports.entry(*port).or_default();
                let hosts = if rule.fallback { &mut port.fallbacks } else { &mut port.rules };
                hosts.add(rule, to.clone());
            }
        }
        for port in table.ports.values_mut() {
            port.rules.sort();
            port.fallbacks.sort();
        }
        table
    }

    /// What a request on a port leads to.
    pub(crate) fn find(&self, port: u16, asked: &Asked<'_>) -> Option<&R> {
        let port = self.ports.get(&port)?;
        port.rules.find(asked).or_else(|| port.fallbacks.find(asked))
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

    fn find(&self, asked: &Asked<'_>) -> Option<&R> {
        let exact = self.exact.get(asked.host).and_then(|paths| paths.find(asked, 0));
        exact.or_else(|| self.find_below(asked)).or_else(|| self.any.find(asked, 0))
    }

    /// From the longest suffix; a host has few labels, since it is bounded in length.
    fn find_below(&self, asked: &Asked<'_>) -> Option<&R> {
        if self.below.is_empty() {
            return None;
        }
        let dots = asked.host.bytes().enumerate().filter(|(_, byte)| *byte == b'.');
        let mut suffixes = dots.zip(1..).filter(|((at, _), _)| *at > 0);
        suffixes.find_map(|((at, _), labels)| {
            self.below.get(&asked.host[at + 1..]).and_then(|paths| paths.find(asked, labels))
        })
    }
}
