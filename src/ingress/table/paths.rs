//! The rules of one host.

use super::Asked;
use crate::rules::{Conditions, Order, Path, Pattern, Rule, Text};
use std::cmp::Reverse;
use std::collections::HashMap;

/// How well a path fits: longer prefixes better than shorter ones, and the whole best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum PathFit {
    Prefix(usize),
    Pattern,
    Exact,
}

pub(super) struct Paths<R> {
    exact: HashMap<Box<str>, Vec<Entry<R>>>,
    /// With their entries, from the longest expression on.
    patterns: Vec<(Pattern, Vec<Entry<R>>)>,
    prefix: HashMap<Box<str>, Vec<Entry<R>>>,
    /// Bytes of the longest prefix: no longer ones are looked for, however long a path is.
    longest: usize,
}

impl<R> Default for Paths<R> {
    fn default() -> Self {
        Self { exact: HashMap::new(), patterns: Vec::new(), prefix: HashMap::new(), longest: 0 }
    }
}

struct Entry<R> {
    /// For hosts with one label more than the suffix alone.
    one_label: bool,
    conditions: Conditions,
    order: Order,
    to: R,
}

impl<R> Paths<R> {
    pub(super) fn add(&mut self, rule: &Rule, one_label: bool, to: R) {
        let entry = Entry { one_label, conditions: rule.conditions.clone(), order: rule.order.clone(), to };
        match &rule.path {
            Path::Exact(path) => self.exact.entry(path.as_str().into()).or_default().push(entry),
            Path::Pattern(pattern) => match self.patterns.iter_mut().find(|(known, _)| known == pattern) {
                Some((_, entries)) => entries.push(entry),
                None => self.patterns.push((pattern.clone(), vec![entry])),
            },
            Path::Prefix(path) => {
                self.longest = self.longest.max(path.len());
                self.prefix.entry(path.as_str().into()).or_default().push(entry);
            }
        }
    }

    pub(super) fn sort(&mut self) {
        let patterns = self.patterns.iter_mut().map(|(_, entries)| entries);
        for entries in self.exact.values_mut().chain(self.prefix.values_mut()).chain(patterns) {
            entries.sort_by(|a, b| a.key().cmp(&b.key()));
            entries.shrink_to_fit();
        }
        self.patterns.sort_by_key(|(pattern, entries)| {
            (Reverse(pattern.as_str().len()), entries.first().map(|entry| entry.order.clone()))
        });
    }

    /// `labels` is how many labels the host has before a suffix.
    pub(super) fn find(&self, asked: &Asked<'_>, labels: usize) -> Option<(PathFit, &R)> {
        let first = |entries: &'_ Vec<Entry<R>>| entries.iter().position(|entry| entry.fits(asked, labels));
        if let Some(entries) = self.exact.get(asked.path)
            && let Some(at) = first(entries)
        {
            return Some((PathFit::Exact, &entries[at].to));
        }
        let fitting = self.patterns.iter().filter(|(pattern, _)| pattern.is_match(asked.path));
        for (_, entries) in fitting {
            if let Some(at) = first(entries) {
                return Some((PathFit::Pattern, &entries[at].to));
            }
        }
        if self.prefix.is_empty() {
            return None;
        }
        let path = asked.path.trim_end_matches('/');
        let bytes = path.as_bytes();
        let ends = (0..=path.len().min(self.longest)).rev();
        let mut whole = ends.filter(|end| *end == path.len() || bytes[*end] == b'/');
        whole.find_map(|end| {
            let entries = self.prefix.get(path.get(..end)?)?;
            first(entries).map(|at| (PathFit::Prefix(end), &entries[at].to))
        })
    }
}

impl<R> Entry<R> {
    /// Smaller ones are asked first.
    fn key(&self) -> (bool, Reverse<usize>, Reverse<usize>, &Order) {
        let Conditions { method, headers, query } = &self.conditions;
        (method.is_none(), Reverse(headers.len()), Reverse(query.len()), &self.order)
    }

    fn fits(&self, asked: &Asked<'_>, labels: usize) -> bool {
        let Conditions { method, headers, query } = &self.conditions;
        (!self.one_label || labels == 1)
            && method.as_ref().is_none_or(|method| method == asked.method)
            && headers
                .iter()
                .all(|(name, value)| asked.headers.get_all(name).iter().any(|one| value.is(one.as_bytes())))
            && query.iter().all(|(name, value)| has_parameter(asked.query.unwrap_or_default(), name, value))
    }
}

/// Whether the first parameter of a name has a value; both may be percent-encoded in the query.
fn has_parameter(query: &str, name: &str, value: &Text) -> bool {
    let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let found = pairs.find(|(one, _)| decoded(one).eq(name.bytes()));
    found.is_some_and(|(_, one)| match value {
        Text::Exact(value) => decoded(one).eq(value.bytes()),
        Text::Pattern(_) => value.is(&decoded(one).collect::<Vec<u8>>()),
    })
}

/// The bytes that percent-encoded text stands for.
fn decoded(text: &str) -> impl Iterator<Item = u8> {
    let mut left = text.bytes();
    std::iter::from_fn(move || {
        let byte = left.next()?;
        if byte != b'%' {
            return Some(if byte == b'+' { b' ' } else { byte });
        }
        let mut ahead = left.clone();
        let mut digit = || ahead.next().and_then(|digit| char::from(digit).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else { return Some(b'%') };
        left = ahead;
        Some(u8::try_from(high * 16 + low).unwrap_or(b'%'))
    })
}
